// What the kernels and the engine (src/engine/lane.rs, src/engine/bridge.rs) share. Both sides must agree.
#pragma once

namespace emulator {

using Word = unsigned long long;

struct Lane;

enum Access : unsigned { READ = 1, WRITE = 2, ATOMIC = 4, UNALIGNED = 8 };

// The elements of matrices.
enum Elements : unsigned { BF16, F16, TF32 };

enum Mistake : unsigned { UNDEFINED = 0, OUT_OF_BOUNDS = 1, MISALIGNED = 2 };

enum Operation : unsigned {
    SYNC,
    SHUFFLE,
    BALLOT,
    MATCH,
    ADD,
    MIN_UNSIGNED,
    MAX_UNSIGNED,
    MIN_SIGNED,
    MAX_SIGNED,
    AND,
    OR,
    XOR,
};

// The functions of the engine.
struct Bridge {
    // Checks a load or store of the checked build.
    void (*access)(Lane*, const void* address, unsigned long size, unsigned access, const void* pc);
    // Waits for all threads of the block; returns how many of them passed a true predicate.
    Word (*barrier)(Lane*, unsigned predicate, const char* file, unsigned line);
    // Waits for the lanes of `mask`; returns this lane's result.
    Word (*warp)(Lane*, unsigned mask, unsigned operation, Word value, unsigned source, const char* file,
                 unsigned line);
    // A mistake of the kernel's own; does not return.
    void (*mistake)(Lane*, unsigned mistake, const char* text, const char* file, unsigned line,
                    const void* pc);
    // The budget is used up; does not return.
    void (*timeout)(Lane*, const void* pc);
    // Begins an asynchronous copy, of which the first `read` bytes are copied and the others become 0.
    void (*begin_copy)(Lane*, void* to, const void* from, unsigned long bytes, unsigned long read,
                       const void* pc);
    // Makes a group of the copies that this thread has begun since the last one.
    void (*commit_copies)(Lane*);
    // Waits for all groups of this thread but the last `left`.
    void (*land_copies)(Lane*, unsigned left);
    // The operations on matrices, of all lanes of a warp: see src/engine/matrices.rs.
    void (*multiply)(Lane*, unsigned elements, float* c, const unsigned* a, const unsigned* b,
                     const char* file, unsigned line);
    void (*load_matrices)(Lane*, unsigned* to, const void* row, unsigned transposed, const char* file,
                          unsigned line, const void* pc);
    unsigned (*transpose_matrix)(Lane*, unsigned elements, const char* file, unsigned line);
};

// A fiber's control block. It lies at the top of its stack, so that the stack pointer leads to it.
struct Lane {
    unsigned thread[3];
    unsigned block[3];
    unsigned block_dim[3];
    unsigned grid_dim[3];
    // Which thread of its block this is.
    unsigned index;
    // How many steps the thread may still take.
    long budget;
    const Bridge* bridge;
};

constexpr unsigned long STACK_BYTES = 1 << 17;
constexpr unsigned long LANE_BYTES = 256;
static_assert(sizeof(Lane) <= LANE_BYTES);

// One parameter of a kernel.
struct Parameter {
    unsigned size;
    unsigned is_pointer;
    // The alignment of what a pointer points to.
    unsigned pointee_align;
};

struct Kernel {
    const char* name;
    void (*invoke)(const void* const* params);
    const Parameter* params;
    unsigned param_count;
};

// Anywhere in the stack of the running fiber. Not volatile: a function stays on its stack.
inline __attribute__((always_inline)) unsigned long stack_pointer() {
    unsigned long pointer;
    asm("mov %%rsp, %0" : "=r"(pointer));
    return pointer;
}

inline __attribute__((always_inline)) Lane* lane() {
    return reinterpret_cast<Lane*>((stack_pointer() | (STACK_BYTES - 1)) + 1 - LANE_BYTES);
}

}  // namespace emulator
