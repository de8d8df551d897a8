// The convolution of hypergraphs of up to 8 vertices by their dense operators, see dense_conv.cuh.
//
// Launched by src/cuda/conv/dense/forward.rs; src/cpu/dense has the same bits.
//
// Modules: features.

#include "dense_conv.cuh"
#include "modules.cuh"

DENSE_CONV_BYTES(8)
#define KERNELS(T, NAME, CHECKS) DENSE_CONV(8, 6, 5, T, NAME, CHECKS)
MODULES_OF_FEATURES(KERNELS)
