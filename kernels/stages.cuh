// Rows that are copied to shared memory, asynchronously and one step before they are needed: while the rows
// of one stage are computed with, those of the next step are on their way to the other stage. Needs sm_80.

#pragma once

#include "features.cuh"

// Begins a copy of 4, 8 or 16 bytes to shared memory; what is not there becomes zeros.
template <u32 BYTES>
__device__ __forceinline__ void copy_bytes(void* to, bool exists, const void* from) {
#if defined(__CUDA_ARCH__)
    u32 address = static_cast<u32>(__cvta_generic_to_shared(to));
    u32 bytes = exists ? BYTES : 0u;
    if constexpr (BYTES == 16) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(bytes)
                     : "memory");
    } else if constexpr (BYTES == 8) {
        asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(address), "l"(from), "r"(bytes)
                     : "memory");
    } else {
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(address), "l"(from), "r"(bytes)
                     : "memory");
    }
#else
    __pipeline_memcpy_async(to, from, BYTES, exists ? 0 : BYTES);
#endif
}

// The same of a thread's features.
template <typename T>
__device__ __forceinline__ void copy_features(Features<T>* to, bool exists, const T* from) {
    copy_bytes<sizeof(Features<T>)>(to, exists, from);
}

// Makes a group of the copies that the thread has begun since the last one.
__device__ __forceinline__ void commit_copies() {
#if defined(__CUDA_ARCH__)
    asm volatile("cp.async.commit_group;" ::: "memory");
#else
    __pipeline_commit();
#endif
}

// Waits until all groups of the thread but the last `N` have landed. Others see them after they have met.
template <u32 N>
__device__ __forceinline__ void wait_for_all_but() {
#if defined(__CUDA_ARCH__)
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#else
    __pipeline_wait_prior(N);
#endif
}

// The features of a thread, widened, from shared memory.
template <typename T, typename A, u32 LEN>
__device__ __forceinline__ void read_stage(A (&to)[LEN], const Features<T>* from) {
    Features<T> loaded = *from;
#pragma unroll
    for (u32 i = 0; i < LEN; i++) {
        to[i] = Element<T>::widen(loaded.at[i]);
#if defined(__CUDA_ARCH__)
        // The compiler would rather widen elements of 16 bits again for each use than keep them.
        asm volatile("" : "+f"(to[i]));
#endif
    }
}
