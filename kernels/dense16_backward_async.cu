// The backward of the convolution of hypergraphs of up to 16 vertices by their dense operators, see
// dense_backward.cuh, for devices that copy to shared memory asynchronously: sm_80 and newer.
//
// Launched by src/cuda/conv/dense/backward.rs; src/cpu/dense has the same bits.
//
// Modules: bf16, f16, f32; for compute_80; unchecked alone.

#include "dense_backward.cuh"
#include "modules.cuh"

// For earlier architectures there is nothing to compile: their devices have dense16_backward.cu.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
MODULES_OF_F32(UNCHECKED(DENSE_BACKWARD_ASYNC(16, 3, 32, float, f32)))
MODULES_OF_F16(UNCHECKED(DENSE_BACKWARD_ASYNC(16, 3, 16, F16, f16)))
MODULES_OF_BF16(UNCHECKED(DENSE_BACKWARD_ASYNC(16, 3, 16, Bf16, bf16)))
#endif
