// The qualifiers of functions and variables.
//
// Shared memory is thread-local: the thread-local segment of a kernel library is the shared memory of the
// block that its OS thread runs. The build script defines __global__ itself when it looks for the names of
// the kernels.
#pragma once

#ifndef __global__
#define __global__
#endif
#define __device__
#define __host__
#define __constant__
#define __shared__ thread_local
#define __grid_constant__
#define __managed__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(bytes) __attribute__((aligned(bytes)))

// For the functions of this folder: what they do belongs to the line that calls them.
#define EMULATOR_INLINE inline __attribute__((always_inline))
