// The convolution of hypergraphs of up to 32 vertices by their dense operators, see dense_conv.cuh.
//
// Launched by src/cuda/conv/dense/forward.rs; src/cpu/dense has the same bits.
//
// Modules: features; unchecked alone.

#define UNCHECKED_ALONE
#include "dense_conv.cuh"
#include "modules.cuh"

DENSE_CONV_BYTES(32)
#define KERNELS(T, NAME, CHECKS) DENSE_CONV(32, 3, 2, T, NAME)
MODULES_OF_FEATURES(KERNELS)
