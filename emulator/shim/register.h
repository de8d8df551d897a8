// The table of a library's kernels; included behind a kernel file by the source that the build script writes.
#pragma once

namespace emulator {

template <class T>
struct Pointee {
    static constexpr Parameter parameter{sizeof(T), 0, 1};
};
template <class T>
struct Pointee<T*> {
    static constexpr Parameter parameter{sizeof(T*), 1, alignof(T)};
};
template <>
struct Pointee<void*> {
    static constexpr Parameter parameter{sizeof(void*), 1, 1};
};
template <>
struct Pointee<const void*> {
    static constexpr Parameter parameter{sizeof(void*), 1, 1};
};

template <unsigned... I>
struct Indices {};

template <auto KERNEL>
struct Registered;

template <class... A, void (*KERNEL)(A...)>
struct Registered<KERNEL> {
    static_assert(((alignof(A) <= 16) && ...), "parameters are passed 16-byte aligned");
    // One more, because an array of none is not C++.
    static constexpr Parameter params[sizeof...(A) + 1] = {Pointee<A>::parameter..., {}};

    // Runs one thread. Not instrumented: the parameters' bytes are no memory of the device.
    __attribute__((no_sanitize("thread", "undefined"), no_sanitize_coverage)) static void invoke(
        const void* const* bytes) {
        call(bytes, Indices<__integer_pack(sizeof...(A))...>{});
    }

    static constexpr Kernel kernel(const char* name) { return {name, &invoke, params, sizeof...(A)}; }

private:
    template <unsigned... I>
    __attribute__((no_sanitize("thread", "undefined"), no_sanitize_coverage)) static void call(
        const void* const* bytes, Indices<I...>) {
        KERNEL(*static_cast<const A*>(bytes[I])...);
    }
};

}  // namespace emulator
