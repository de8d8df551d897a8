// The backward of layers of up to 256 outputs, in f32 by three products of bf16, see layer.cuh.
//
// Launched by src/cuda/conv/dense/layer.rs; src/cpu/layer.rs computes the same, with other bits.
//
// Modules: features with f32 sums; for compute_80; unchecked alone.

#define UNCHECKED_ALONE
#include "layer.cuh"
#include "modules.cuh"

// For earlier architectures there is nothing to compile.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
#define KERNELS(T, NAME, CHECKS) LAYER_KERNEL(OfLayer<T>, 256, true, layer256_backward_##NAME)
MODULES_OF_FEATURES_WITH_F32_SUMS(KERNELS)
#endif
