// The backward of layers of up to 256 outputs in TF32, see layer.cuh.
//
// Launched by src/cuda/conv/dense/layer.rs; src/cpu/layer.rs computes the same, with other bits.
//
// Modules: f32 features; for compute_80; unchecked alone.

#define UNCHECKED_ALONE
#include "layer.cuh"
#include "modules.cuh"

// For earlier architectures there is nothing to compile.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
#define KERNELS(T, NAME, CHECKS) LAYER_KERNEL(RoundedProducts<T>, 256, true, layer_tf32_backward_##NAME)
MODULES_OF_F32_FEATURES(KERNELS)
#endif
