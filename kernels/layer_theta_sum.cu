// Adds the parts of the gradient of a layer's matrix, see layer_theta.cuh: in order, in double. The gradient
// is overwritten or added to, each element by one thread.
//
// Launched by src/cuda/conv/dense/layer.rs.
//
// Modules: one for all types; unchecked alone.

#include "common.cuh"

extern "C" __global__ void __launch_bounds__(THREADS) layer_theta_sum(const ThetaSumArgs args) {
    for (u64 i = u64(blockIdx.x) * THREADS + threadIdx.x; i < args.n_elements;
         i += u64(gridDim.x) * THREADS) {
        double sum = 0;
        for (u64 part = 0; part < args.n_parts; part++) {
            sum += args.parts[part * args.n_elements + i];
        }
        float total = static_cast<float>(sum);
        args.gradient[i] = args.add != 0 ? args.gradient[i] + total : total;
    }
}
