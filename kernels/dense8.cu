// The convolution of hypergraphs of up to 8 vertices by their dense operators, see dense_conv.cuh.
//
// Launched by src/cuda/conv/dense/forward.rs; src/cpu/dense has the same bits.
//
// Modules: bf16, f16, f32, f64.

#include "dense_conv.cuh"
#include "modules.cuh"

DENSE_CONV_MODULES(8, 6, 6)
