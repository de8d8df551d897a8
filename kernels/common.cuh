// What every kernel file shares: integer names, element types, the violation record of the checked builds.
//
// Kernel sources include no header of any toolkit, so that the same text compiles under nvcc, NVRTC and, for the
// emulated driver of the tests, a host compiler.

#pragma once

using u8 = unsigned char;
using u32 = unsigned int;
using u64 = unsigned long long;

static_assert(sizeof(u32) == 4 && sizeof(u64) == 8, "integer sizes");

enum : u32 {
    WARP = 32,
    ALL_LANES = 0xffffffffu,
    VECTOR_BYTES = 16,  // of one vector access
};

// ---------------------------------------------------------------------------------------------------------------------
// Elements: how features are loaded and stored, and in what type they are summed.

template <typename T>
struct Element;

template <>
struct Element<float> {
    using Acc = float;
    static __device__ __forceinline__ Acc widen(float value) { return value; }
    static __device__ __forceinline__ float narrow(Acc value) { return value; }
};

// What becomes of a row that a wrong value was for.
template <typename A>
__device__ __forceinline__ A not_a_number() {
    return static_cast<A>(__uint_as_float(0x7fc00000u));
}

// The features of one lane: as many as one vector access holds.
template <typename T>
struct alignas(VECTOR_BYTES) Vector {
    static constexpr u32 LEN = VECTOR_BYTES / sizeof(T);
    T at[LEN];
};

// One vector access; the address must be aligned.
template <typename T>
__device__ __forceinline__ Vector<T> load_vector(const T* from) {
    return *reinterpret_cast<const Vector<T>*>(from);
}

template <typename T>
__device__ __forceinline__ void store_vector(T* to, const Vector<T>& values) {
    *reinterpret_cast<Vector<T>*>(to) = values;
}

// The first `len` elements of a vector, one by one; those beyond are zero.
template <typename T>
__device__ __forceinline__ Vector<T> load_elements(const T* from, u32 len) {
    Vector<T> values = {};
#pragma unroll
    for (u32 i = 0; i < Vector<T>::LEN; i++) {
        if (i < len) {
            values.at[i] = from[i];
        }
    }
    return values;
}

template <typename T>
__device__ __forceinline__ void store_elements(T* to, u32 len, const Vector<T>& values) {
#pragma unroll
    for (u32 i = 0; i < Vector<T>::LEN; i++) {
        if (i < len) {
            to[i] = values.at[i];
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Violations. In a checked build every value of a table is tested where it is loaded. The access that a wrong value was
// for is left out, the rows that it was for become NaN, and the kernel goes on to its end. The first thread that has
// something to say claims the record and publishes it to host memory.

// In mapped host memory. `src/cuda/record.rs` holds the same structure.
struct Violation {
    u32 ready;
    u32 kernel;
    u32 table;
    u32 orientation;
    u64 instance;
    u64 position;
    u64 value;
    u64 bound;
};

struct Record {
    u32* claim;            // in device memory: 0 until one thread has something to say
    Violation* published;  // in mapped host memory
};

// The first violation that this thread found; in an unchecked build nothing, and every test is passed.
template <bool Checked>
struct Check {
    bool failed = false;
    u32 table = 0;
    u64 position = 0;
    u64 value = 0;
    u64 bound = 0;

    // Whether `value`, found at `position` of `table`, is below `bound`.
    __device__ __forceinline__ bool below(u32 in_table, u64 at_position, u64 found, u64 its_bound) {
        if (found < its_bound) {
            return true;
        }
        if (!failed) {
            failed = true;
            table = in_table;
            position = at_position;
            value = found;
            bound = its_bound;
        }
        return false;
    }

    // Whether the prefix sums `start` and `end`, at `position` and the next of `table`, lie `size` apart.
    __device__ __forceinline__ bool apart(u32 in_table, u64 at_position, u64 start, u64 end, u64 size) {
        if (start <= end && end - start > size) {
            return below(in_table, at_position + 1, end, start + size + 1);
        }
        return below(in_table, at_position, start, end >= size ? end - size + 1 : 0);
    }

    __device__ __forceinline__ void publish(const Record& record, u32 kernel, u32 orientation, u64 instance) const {
        if (!failed || atomicCAS(record.claim, 0u, 1u) != 0u) {
            return;
        }
        Violation* violation = record.published;
        violation->kernel = kernel;
        violation->table = table;
        violation->orientation = orientation;
        violation->instance = instance;
        violation->position = position;
        violation->value = value;
        violation->bound = bound;
        __threadfence_system();
        *reinterpret_cast<volatile u32*>(&violation->ready) = 1;
    }
};

template <>
struct Check<false> {
    static constexpr bool failed = false;
    __device__ __forceinline__ bool below(u32, u64, u64, u64) { return true; }
    __device__ __forceinline__ bool apart(u32, u64, u64, u64, u64) { return true; }
    __device__ __forceinline__ void publish(const Record&, u32, u32, u64) const {}
};

// ---------------------------------------------------------------------------------------------------------------------

// a / b in 32 bits where both fit, which is several times faster.
__device__ __forceinline__ u64 divide(u64 a, u64 b) {
    if (((a | b) >> 32) == 0) {
        return static_cast<u32>(a) / static_cast<u32>(b);
    }
    return a / b;
}

__device__ __forceinline__ u64 shuffle(u64 value, u32 lane) {
    u32 low = __shfl_sync(ALL_LANES, static_cast<u32>(value), static_cast<int>(lane));
    u32 high = __shfl_sync(ALL_LANES, static_cast<u32>(value >> 32), static_cast<int>(lane));
    return static_cast<u64>(high) << 32 | low;
}

// The largest value of the warp.
__device__ __forceinline__ u32 warp_max(u32 value) {
#pragma unroll
    for (int offset = WARP / 2; offset > 0; offset /= 2) {
        u32 other = __shfl_xor_sync(ALL_LANES, value, offset);
        value = other > value ? other : value;
    }
    return value;
}
