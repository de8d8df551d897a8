// The backward of the convolution of hypergraphs of up to 32 vertices by their dense operators, see
// dense_backward.cuh.
//
// Launched by src/cuda/conv/dense/backward.rs; src/cpu/dense has the same bits.
//
// Modules: bf16, f16, f32, f64.

#include "dense_backward.cuh"
#include "modules.cuh"

DENSE_BACKWARD_MODULES(32, 3, 2)
