// The convolution of hypergraphs of up to 8 vertices by their dense operators, see dense_conv.cuh.
//
// Launched by src/cuda/conv/dense/forward.rs; src/cpu/dense has the same bits.
//
// Modules: features; unchecked alone.

#define UNCHECKED_ALONE
#include "dense_conv.cuh"
#include "modules.cuh"

DENSE_CONV_BYTES(8)
// With six blocks nvcc 13, which compiles native code, spills in bf16.
#if defined(__CUDACC_RTC__)
#define BLOCKS 6
#else
#define BLOCKS 5
#endif
#define KERNELS(T, NAME, CHECKS) DENSE_CONV(8, BLOCKS, 5, T, NAME)
MODULES_OF_FEATURES(KERNELS)
