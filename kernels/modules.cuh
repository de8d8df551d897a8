// Which kernels a compilation has.
//
// A module is one kernel file for one type, with checks or without, and a file of its own in kernels/ptx/: a
// workspace loads those that it needs. Kernels for long rows are modules of their own where a file says so.
// generate.py reads that from the line `Modules:` in the head of each kernel file, and whether a file needs a
// later architecture than the others, or has no kernels with checks. It and build.rs say which
// module they compile, for example by
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
