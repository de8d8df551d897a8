// What the instrumented kernels call: the functions that the sanitizers' own runtimes would define. Compiled
// without instrumentation and linked into the checked kernel libraries.

#include "bridge.h"

#include <cstddef>
#include <cstdint>
#include <cstdio>

namespace emulator {

namespace {

// A thread's own stack is its local memory and its parameters; the engine sees everything else.
inline void access(const volatile void* address, size_t size, unsigned kind, const void* pc) {
    auto distance = reinterpret_cast<uintptr_t>(address) ^ stack_pointer();
    if (distance >= STACK_BYTES) {
        lane()->bridge->access(lane(), const_cast<const void*>(address), size, kind, pc);
    }
}

void copy(void* to, const void* from, size_t bytes) {
    asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes) : : "memory");
}

}  // namespace
}  // namespace emulator

using emulator::access;
using emulator::ATOMIC;
using emulator::READ;
using emulator::UNALIGNED;
using emulator::WRITE;

#define PC __builtin_return_address(0)

extern "C" {

// Every basic block costs one step of the budget, so that no loop is endless.
void __sanitizer_cov_trace_pc() {
    if (--emulator::lane()->budget < 0) {
        emulator::lane()->bridge->timeout(emulator::lane(), PC);
    }
}

void __tsan_init() {}

#define PLAIN(SIZE) \
    void __tsan_read##SIZE(void* p) { access(p, SIZE, READ, PC); } \
    void __tsan_write##SIZE(void* p) { access(p, SIZE, WRITE, PC); } \
    void __tsan_unaligned_read##SIZE(void* p) { access(p, SIZE, READ | UNALIGNED, PC); } \
    void __tsan_unaligned_write##SIZE(void* p) { access(p, SIZE, WRITE | UNALIGNED, PC); } \
    /* A volatile access is one that other threads may see: no race with another one. */ \
    void __tsan_volatile_read##SIZE(void* p) { access(p, SIZE, READ | ATOMIC, PC); } \
    void __tsan_volatile_write##SIZE(void* p) { access(p, SIZE, WRITE | ATOMIC, PC); } \
    void __tsan_unaligned_volatile_read##SIZE(void* p) { access(p, SIZE, READ | ATOMIC | UNALIGNED, PC); } \
    void __tsan_unaligned_volatile_write##SIZE(void* p) { access(p, SIZE, WRITE | ATOMIC | UNALIGNED, PC); }
PLAIN(1)
PLAIN(2)
PLAIN(4)
PLAIN(8)
PLAIN(16)

void __tsan_read_range(void* p, size_t size) { access(p, size, READ | UNALIGNED, PC); }
void __tsan_write_range(void* p, size_t size) { access(p, size, WRITE | UNALIGNED, PC); }
void __tsan_vptr_update(void** p, void*) { access(p, sizeof(void*), WRITE, PC); }
void __tsan_vptr_read(void** p) { access(p, sizeof(void*), READ, PC); }

void* memcpy(void* to, const void* from, size_t bytes) {
    if (bytes != 0) {
        access(from, bytes, READ | UNALIGNED, PC);
        access(to, bytes, WRITE | UNALIGNED, PC);
        emulator::copy(to, from, bytes);
    }
    return to;
}
void* memset(void* to, int byte, size_t bytes) {
    if (bytes != 0) {
        access(to, bytes, WRITE | UNALIGNED, PC);
        void* at = to;
        asm volatile("rep stosb" : "+D"(at), "+c"(bytes) : "a"(byte) : "memory");
    }
    return to;
}
void* __tsan_memcpy(void* to, const void* from, size_t bytes) { return memcpy(to, from, bytes); }
void* __tsan_memset(void* to, int byte, size_t bytes) { return memset(to, byte, bytes); }

#define FETCH(BITS, T, NAME, BUILTIN) \
    T __tsan_atomic##BITS##_##NAME(volatile T* p, T value, int) { \
        access(p, sizeof(T), READ | WRITE | ATOMIC, PC); \
        return BUILTIN(p, value, __ATOMIC_SEQ_CST); \
    }
#define ATOMICS(BITS, T) \
    T __tsan_atomic##BITS##_load(const volatile T* p, int) { \
        access(p, sizeof(T), READ | ATOMIC, PC); \
        return __atomic_load_n(p, __ATOMIC_SEQ_CST); \
    } \
    void __tsan_atomic##BITS##_store(volatile T* p, T value, int) { \
        access(p, sizeof(T), WRITE | ATOMIC, PC); \
        __atomic_store_n(p, value, __ATOMIC_SEQ_CST); \
    } \
    FETCH(BITS, T, exchange, __atomic_exchange_n) \
    FETCH(BITS, T, fetch_add, __atomic_fetch_add) \
    FETCH(BITS, T, fetch_sub, __atomic_fetch_sub) \
    FETCH(BITS, T, fetch_and, __atomic_fetch_and) \
    FETCH(BITS, T, fetch_or, __atomic_fetch_or) \
    FETCH(BITS, T, fetch_xor, __atomic_fetch_xor) \
    int __tsan_atomic##BITS##_compare_exchange_strong(volatile T* p, T* expected, T value, int, int) { \
        access(p, sizeof(T), READ | WRITE | ATOMIC, PC); \
        return __atomic_compare_exchange_n(p, expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
    } \
    int __tsan_atomic##BITS##_compare_exchange_weak(volatile T* p, T* expected, T value, int, int) { \
        access(p, sizeof(T), READ | WRITE | ATOMIC, PC); \
        return __atomic_compare_exchange_n(p, expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
    }
ATOMICS(8, unsigned char)
ATOMICS(16, unsigned short)
ATOMICS(32, unsigned)
ATOMICS(64, unsigned long long)

void __tsan_atomic_thread_fence(int) {}
void __tsan_atomic_signal_fence(int) {}

}  // extern "C"

// The undefined-behaviour sanitizer passes a description that begins with the place in the source.
namespace {

struct Place {
    const char* file;
    unsigned line, column;
};

struct Type {
    unsigned short kind, info;
    char name[1];
};

struct Data {
    Place place;
    const Type* type;
};

struct TypeMismatch {
    Place place;
    const Type* type;
    unsigned char log_align, check;
};

// A number of up to 64 bits is passed by value, one of more by address.
void format(char* to, size_t bytes, const Type* type, const void* value) {
    bool is_signed = (type->info & 1) != 0;
    unsigned bits = 1u << (type->info >> 1);
    auto raw = reinterpret_cast<uintptr_t>(value);
    if (type->kind != 0 || bits > 64) {
        std::snprintf(to, bytes, "(a %s)", type->name);
    } else if (is_signed) {
        auto shift = 64 - bits;
        std::snprintf(to, bytes, "%lld", static_cast<long long>(raw << shift) >> shift);
    } else {
        std::snprintf(to, bytes, "%llu", static_cast<unsigned long long>(raw));
    }
}

void report(unsigned mistake, const Place& place, const void* pc, const char* text) {
    emulator::lane()->bridge->mistake(emulator::lane(), mistake, text, place.file, place.line, pc);
}

void overflow(const Data* data, const char* sign, const void* left, const void* right, const void* pc) {
    char a[32], b[32], text[160];
    format(a, sizeof a, data->type, left);
    format(b, sizeof b, data->type, right);
    std::snprintf(text, sizeof text, "%s %s %s does not fit into %s", a, sign, b, data->type->name);
    report(emulator::UNDEFINED, data->place, pc, text);
}

}  // namespace

extern "C" {

void __ubsan_handle_add_overflow(Data* data, void* a, void* b) { overflow(data, "+", a, b, PC); }
void __ubsan_handle_sub_overflow(Data* data, void* a, void* b) { overflow(data, "-", a, b, PC); }
void __ubsan_handle_mul_overflow(Data* data, void* a, void* b) { overflow(data, "*", a, b, PC); }
void __ubsan_handle_negate_overflow(Data* data, void* a) {
    char value[32], text[160];
    format(value, sizeof value, data->type, a);
    std::snprintf(text, sizeof text, "-(%s) does not fit into %s", value, data->type->name);
    report(emulator::UNDEFINED, data->place, PC, text);
}
void __ubsan_handle_divrem_overflow(Data* data, void* a, void* b) {
    char left[32], right[32], text[160];
    format(left, sizeof left, data->type, a);
    format(right, sizeof right, data->type, b);
    std::snprintf(text, sizeof text, "division of %s by %s", left, right);
    report(emulator::UNDEFINED, data->place, PC, text);
}
void __ubsan_handle_shift_out_of_bounds(void* data, void* a, void* b) {
    struct Shift {
        Place place;
        const Type *left, *right;
    };
    auto shift = static_cast<const Shift*>(data);
    char left[32], right[32], text[160];
    format(left, sizeof left, shift->left, a);
    format(right, sizeof right, shift->right, b);
    std::snprintf(text, sizeof text, "shift of %s, a %s, by %s", left, shift->left->name, right);
    report(emulator::UNDEFINED, shift->place, PC, text);
}
void __ubsan_handle_out_of_bounds(void* data, void* index) {
    struct Bounds {
        Place place;
        const Type *array, *index;
    };
    auto bounds = static_cast<const Bounds*>(data);
    char value[32], text[160];
    format(value, sizeof value, bounds->index, index);
    std::snprintf(text, sizeof text, "index %s is outside of %s", value, bounds->array->name);
    report(emulator::OUT_OF_BOUNDS, bounds->place, PC, text);
}
void __ubsan_handle_type_mismatch_v1(TypeMismatch* data, void* pointer) {
    auto address = reinterpret_cast<uintptr_t>(pointer);
    auto align = uintptr_t{1} << data->log_align;
    char text[200];
    if (address == 0) {
        std::snprintf(text, sizeof text, "null pointer to %s", data->type->name);
        report(emulator::OUT_OF_BOUNDS, data->place, PC, text);
    } else if (address % align != 0) {
        std::snprintf(text, sizeof text, "address %#lx of %s is not a multiple of %lu", address,
                      data->type->name, align);
        report(emulator::MISALIGNED, data->place, PC, text);
    } else {
        std::snprintf(text, sizeof text, "%s at %#lx does not fit into the variable that it lies in",
                      data->type->name, address);
        report(emulator::OUT_OF_BOUNDS, data->place, PC, text);
    }
}
void __ubsan_handle_pointer_overflow(Data* data, void* base, void*) {
    char text[96];
    std::snprintf(text, sizeof text, "pointer arithmetic from %p wraps around", base);
    report(emulator::UNDEFINED, data->place, PC, text);
}
void __ubsan_handle_load_invalid_value(Data* data, void* value) {
    char number[32], text[160];
    format(number, sizeof number, data->type, value);
    std::snprintf(text, sizeof text, "%s is no value of %s", number, data->type->name);
    report(emulator::UNDEFINED, data->place, PC, text);
}
void __ubsan_handle_builtin_unreachable(Data* data) {
    report(emulator::UNDEFINED, data->place, PC, "__builtin_unreachable() was reached");
}
void __ubsan_handle_missing_return(Data* data) {
    report(emulator::UNDEFINED, data->place, PC, "a function ended without a return");
}
void __ubsan_handle_invalid_builtin(Data* data) {
    report(emulator::UNDEFINED, data->place, PC, "zero passed to a builtin that is undefined there");
}
void __ubsan_handle_nonnull_arg(Data* data) {
    report(emulator::UNDEFINED, data->place, PC, "null pointer passed where there must be none");
}
void __ubsan_handle_vla_bound_not_positive(Data* data, void*) {
    report(emulator::UNDEFINED, data->place, PC, "array of no or a negative length");
}

}  // extern "C"
