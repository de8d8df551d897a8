// The gradient of the matrix of layers, see layer_theta.cuh.
//
// Launched by src/cuda/conv/dense/layer.rs; src/cpu/layer.rs computes the same, with other bits.
//
// Modules: features with f32 sums; for compute_80; unchecked alone.

#define UNCHECKED_ALONE
#include "layer_theta.cuh"
#include "modules.cuh"

// For earlier architectures there is nothing to compile.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
#define KERNELS(T, NAME, CHECKS) \
    extern "C" __global__ void __launch_bounds__(LAYER_THREADS, 1) \
        layer_theta_##NAME(const LayerArgs args) { \
        layer_theta<T>(args); \
    }
MODULES_OF_FEATURES_WITH_F32_SUMS(KERNELS)
#endif
