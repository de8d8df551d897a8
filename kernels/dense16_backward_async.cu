// The backward of the convolution of hypergraphs of up to 16 vertices by their dense operators, see
// dense_backward.cuh, for devices that copy to shared memory asynchronously: sm_80 and newer.
//
// Launched by src/cuda/conv/dense/backward.rs; src/cpu/dense has the same bits.
//
// Modules: features with f32 sums; for compute_80; unchecked alone.

#define UNCHECKED_ALONE
#include "dense_backward.cuh"
#include "modules.cuh"

// For earlier architectures there is nothing to compile: their devices have dense16_backward.cu.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
#define KERNELS(T, NAME, CHECKS) DENSE_BACKWARD_ASYNC(16, 3, T, NAME)
MODULES_OF_FEATURES_WITH_F32_SUMS(KERNELS)
#endif
