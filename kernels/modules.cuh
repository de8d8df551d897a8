// Which types kernels are for, and which kernels a compilation has.
//
// A module is one kernel file for one type, with checks or without, and a file of its own in kernels/ptx/: a
// workspace loads those that it needs. The head of each kernel file has a line `Modules:`. It names one of
// the lists of types below, or says that one module is for all types. It also says whether kernels for long
// rows are modules of their own, whether the file needs a later architecture than the others, and whether it
// has kernels without checks alone, or with checks alone. generate.py reads that line. generate.py and
// build.rs say which module they compile by macros, for example
//
//     -DHYPERSCATTER_F32 -DHYPERSCATTER_OTHER_ROWS -DHYPERSCATTER_UNCHECKED
//
// What is not narrowed down is all there: without any of these macros a file has the kernels of all its
// modules.

#pragma once

#if defined(HYPERSCATTER_F16) || defined(HYPERSCATTER_BF16) || defined(HYPERSCATTER_F32) || \
    defined(HYPERSCATTER_F64)
#define HYPERSCATTER_ONE_TYPE
#endif

#if !defined(HYPERSCATTER_ONE_TYPE) || defined(HYPERSCATTER_F16)
#define MODULES_OF_F16(...) __VA_ARGS__
#else
#define MODULES_OF_F16(...)
#endif

#if !defined(HYPERSCATTER_ONE_TYPE) || defined(HYPERSCATTER_BF16)
#define MODULES_OF_BF16(...) __VA_ARGS__
#else
#define MODULES_OF_BF16(...)
#endif

#if !defined(HYPERSCATTER_ONE_TYPE) || defined(HYPERSCATTER_F32)
#define MODULES_OF_F32(...) __VA_ARGS__
#else
#define MODULES_OF_F32(...)
#endif

#if !defined(HYPERSCATTER_ONE_TYPE) || defined(HYPERSCATTER_F64)
#define MODULES_OF_F64(...) __VA_ARGS__
#else
#define MODULES_OF_F64(...)
#endif

// Kernels that add the sums of the segments of long rows, and the others: few batches have such rows.
#if !defined(HYPERSCATTER_OTHER_ROWS)
#define LONG_ROWS(...) __VA_ARGS__
#else
#define LONG_ROWS(...)
#endif

#if !defined(HYPERSCATTER_LONG_ROWS)
#define OTHER_ROWS(...) __VA_ARGS__
#else
#define OTHER_ROWS(...)
#endif

// Of a file that says so there are no kernels with checks, whatever is asked for.
#if defined(UNCHECKED_ALONE)
#undef HYPERSCATTER_CHECKED
#undef HYPERSCATTER_UNCHECKED
#define HYPERSCATTER_UNCHECKED
#endif

#if !defined(HYPERSCATTER_CHECKED)
#define UNCHECKED(...) __VA_ARGS__
#else
#define UNCHECKED(...)
#endif

#if !defined(HYPERSCATTER_UNCHECKED)
#define CHECKED(...) __VA_ARGS__
#else
#define CHECKED(...)
#endif

// KERNELS(T, NAME, CHECKS) makes the kernels of a file for the type T; their names end in NAME.
#define FOR_CHECKS(KERNELS, T, NAME) \
    UNCHECKED(KERNELS(T, NAME, false)) CHECKED(KERNELS(T, NAME##_checked, true))

// The lists of types. A new type has a macro MODULES_OF_ and a name above, and is added to these.

// Features that are narrower than their sums.
#define MODULES_OF_NARROW_FEATURES(KERNELS) \
    MODULES_OF_F16(FOR_CHECKS(KERNELS, F16, f16)) \
    MODULES_OF_BF16(FOR_CHECKS(KERNELS, Bf16, bf16))

// Features whose sums are f32.
#define MODULES_OF_FEATURES_WITH_F32_SUMS(KERNELS) \
    MODULES_OF_F32(FOR_CHECKS(KERNELS, float, f32)) \
    MODULES_OF_NARROW_FEATURES(KERNELS)

// f32 alone.
#define MODULES_OF_F32_FEATURES(KERNELS) MODULES_OF_F32(FOR_CHECKS(KERNELS, float, f32))

// All types of features.
#define MODULES_OF_FEATURES(KERNELS) \
    MODULES_OF_FEATURES_WITH_F32_SUMS(KERNELS) \
    MODULES_OF_F64(FOR_CHECKS(KERNELS, double, f64))

// The types of sums, and so of weights.
#define MODULES_OF_SUMS(KERNELS) \
    MODULES_OF_F32(FOR_CHECKS(KERNELS, float, f32)) \
    MODULES_OF_F64(FOR_CHECKS(KERNELS, double, f64))
