// Matrices in the registers of a warp: what `mma.sync`, `ldmatrix` and `movmatrix` of PTX do, for the helpers
// of kernels/tensor_cores.cuh, which has the layouts. src/engine/matrices.rs has the order of sums.
#pragma once

namespace emulator {

// Out of line and not instrumented (entry.cpp): registers are no memory of the device.
void multiply(Elements elements, float* c, const unsigned* a, const unsigned* b, EMULATOR_SITE);
void load_matrices(unsigned* to, const void* row, bool transposed, EMULATOR_SITE);
unsigned transpose_matrix(unsigned elements, EMULATOR_SITE);

}  // namespace emulator
