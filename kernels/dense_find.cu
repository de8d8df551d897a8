// With checks: the instances of a launch of rows on the dense-operator path, found and tested before it. What
// is stored leads the kernels of rows to nothing out of bounds, so they test nothing: an instance that is not
// found has no vertices there.
//
// Launched by src/cuda/conv/dense.rs.
//
// Modules: one for all types; checked alone.

#include "dense.cuh"

extern "C" __global__ void __launch_bounds__(THREADS) dense_find_checked(const DenseItemsArgs args) {
    for (u64 place = u64(blockIdx.x) * THREADS + threadIdx.x; place < args.n_items;
         place += u64(gridDim.x) * THREADS) {
        Check<true> check;
        DenseItem item;
        find_rows(args, check, place, item);
        static_cast<DenseItem*>(args.found)[place] = item;
        check.publish(args.record, DENSE_FIND, args.by_vertex.orientation, item.number);
    }
}
