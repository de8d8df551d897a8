// The backward of the convolution of hypergraphs of up to 32 vertices by their dense operators, see
// dense_backward.cuh.
//
// Launched by src/cuda/conv/dense/backward.rs; src/cpu/dense has the same bits.
//
// Modules: features; unchecked alone.

#define UNCHECKED_ALONE
#include "dense_backward.cuh"
#include "modules.cuh"

DENSE_BACKWARD_BYTES(32)
#define KERNELS(T, NAME, CHECKS) DENSE_BACKWARD(32, 3, 2, T, NAME)
MODULES_OF_FEATURES(KERNELS)
