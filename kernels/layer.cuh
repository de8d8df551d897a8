// A layer of small hypergraphs in one pass: the convolution of the rows of x times a matrix, by the dense
// operators of the hypergraphs, and the gradients of its rows and operators.
//
//     forward      y  = act(M (x Theta^T) + b) + r            Theta: F_out x F_in
//     backward     gx = M^T (t Theta)                         t = dloss/d(M (x Theta^T) + b)
//                  Gamma_uv = <(t Theta)_u, x_v>              summed over the instances of a chunk
//
// Tensor cores multiply. Warps keep their rows of Theta (or columns, in the backward) in registers, and
// blocks stay for as many tiles of rows as there are: Theta is read once for each block, x once, and y is
// written once. y is overwritten or added to, each row once, by one lane for each of its vectors. So is gx.
//
// Rows come in groups of 16. Each instance has 1, 2, 4, 8 or 16 rows of a group, as many as a copy needs, or
// the class of a table batch, and rows that no vertex has are zeros. So what is added to what does not depend
// on which place of a group an instance has, nor on its neighbours: its rows have the same bits in any batch.
//
//     S^T = Theta x^T            16 or 32 outputs and 16 rows a warp, sums in f32
//     y   = M S + b              M: a block for each instance of the group, 0 elsewhere
//
// The accumulators of the first product are a fragment of the second as they are, and the outputs of a warp
// are in such an order that each lane has some consecutive ones of a row: nothing is exchanged. S is rounded
// to TF32, for f32 features in two terms. Where a sum of the second product is not finite, it is computed
// again, see apply_operator_to_finite: an infinity or NaN of a row of S reaches rows u with M_uv != 0 alone.
//
// Needs sm_80. Bits are not those of src/cpu/layer.rs.

#pragma once

#include "dense.cuh"
#include "epilogue.cuh"
#include "stages.cuh"
#include "tensor_cores.cuh"

enum : u32 {
    GROUP_ROWS = 16,
    CHUNK_BYTES = 16,
    // What the lanes of a quad have of a row together, a chunk each, in one step.
    STEP_BYTES = 64,
    // Rows in shared memory are this long, or a multiple.
    PITCH_BYTES = 128,
};

// A chunk of a row: words of two elements, or of one.
struct alignas(CHUNK_BYTES) Words {
    u32 at[4];
};

// What a lane has of a row of outputs.
template <typename T, u32 LEN>
struct alignas(sizeof(T) * LEN) Outputs {
    T at[LEN];
};

// -----------------------------------------------------------------------------------------------------------
// How elements are multiplied. `prepared` makes of a chunk what takes part in products; it has words 0 and 1
// in the first product, and 2 and 3 in the second. A fragment of Theta is what a lane has of 16 outputs for a
// step: chunks t of rows g and g + 8. Which inputs of a step meet in which place of a product is of no
// importance, as long as chunks of x have the same order.

// Elements of 16 bits, or those of 32 rounded to TF32.
template <typename T>
struct RoundedProducts {
    using Feature = T;
    // Whether a chunk is not prepared as it is.
    static constexpr bool PREPARES = sizeof(T) == 4;
    // Of M, whose entries are rounded likewise.
    static constexpr u32 TERMS = 1;

    static __device__ __forceinline__ Words prepared(const Words& chunk) {
        Words words = chunk;
        if constexpr (PREPARES) {
#pragma unroll
            for (u32 i = 0; i < 4; i++) {
                words.at[i] = round_to_tf32(__uint_as_float(words.at[i]));
            }
        }
        return words;
    }

    static __device__ __forceinline__ void add(float (&sums)[4], const u32 (&theta)[2][4], const Words& x) {
#pragma unroll
        for (u32 i = 0; i < 2; i++) {
            u32 of_x[2] = {x.at[2 * i], x.at[2 * i + 1]};
            multiply<T>(sums, theta[i], of_x);
        }
    }
};

// Two elements in words: what bf16 has of them, and what it has of the rest.
__device__ __forceinline__ void split(float first, float second, u32& high, u32& low) {
    high = pack(Bf16{}, first, second);
    low = pack(Bf16{}, first - __uint_as_float(high << 16), second - __uint_as_float(high & 0xffff0000u));
}

// Elements of 32 bits, each the sum of what bf16 has of it and of what bf16 has of the rest: three products
// of four. The fourth is as small as what is left out.
struct ThreeProducts {
    using Feature = float;
    static constexpr bool PREPARES = true;
    static constexpr u32 TERMS = 2;

    static __device__ __forceinline__ Words prepared(const Words& chunk) {
        Words words;
#pragma unroll
        for (u32 i = 0; i < 2; i++) {
            split(__uint_as_float(chunk.at[2 * i]), __uint_as_float(chunk.at[2 * i + 1]), words.at[i],
                  words.at[2 + i]);
        }
        return words;
    }

    static __device__ __forceinline__ void add(float (&sums)[4], const u32 (&theta)[2][4], const Words& x) {
        u32 high[2] = {x.at[0], x.at[1]};
        u32 low[2] = {x.at[2], x.at[3]};
        multiply<Bf16>(sums, theta[0], low);
        multiply<Bf16>(sums, theta[1], high);
        multiply<Bf16>(sums, theta[0], high);
    }
};

// How elements are multiplied unless another way is asked for.
template <typename T>
struct OfLayer : RoundedProducts<T> {};
template <>
struct OfLayer<float> : ThreeProducts {};

// What a warp has, of layers of up to `K` inputs.
template <typename Products, u32 K>
struct Layer {
    using T = typename Products::Feature;
    static constexpr u32 STEPS = K * sizeof(T) / STEP_BYTES;
    // Fragments of 16 outputs: as many as there are registers for.
    static constexpr u32 TALL = sizeof(T) == 2 && K <= 256 ? 2 : 1;
    static constexpr u32 OUTPUTS = 16 * TALL;
    // Of a lane, for a row: consecutive ones.
    static constexpr u32 LEN = 4 * TALL;
    // Tiles that are on their way or in use.
    static constexpr u32 STAGES = K * sizeof(T) <= 512 ? 4 : 3;

    // The output that row g of half `half` of fragment k has, of those of a warp. With it output
    // LEN t + 2 j + e of a row is in column 2 t + e of part j of 8 outputs.
    static __device__ __forceinline__ u32 output(u32 k, u32 half, u32 g) {
        return LEN * (g >> 1) + 2 * (2 * k + half) + (g & 1);
    }
};

// What a lane keeps of Theta.
template <typename Products, u32 K>
struct Theta {
    u32 at[Layer<Products, K>::TALL][Layer<Products, K>::STEPS][2][4];
};

// A lane in its quad, and its quad in the warp.
__device__ __forceinline__ u32 lane_of_quad() { return threadIdx.x % 4; }
__device__ __forceinline__ u32 quad_of_warp() { return threadIdx.x % WARP / 4; }

// -----------------------------------------------------------------------------------------------------------
// Rows in shared memory. Chunks change places within 128 bytes, so that what is read at once is in all banks:
// four chunks each of two rows, or the same chunk of eight.
struct FourOfTwoRows {
    static __device__ __forceinline__ u32 change(u32 row) { return (row & 1) << 2; }
};
struct OneOfEightRows {
    static __device__ __forceinline__ u32 change(u32 row) { return row & 7; }
};

template <typename Places = FourOfTwoRows>
__device__ __forceinline__ u32 place_of_chunk(u32 row, u32 chunk, u32 pitch) {
    return row * pitch + (chunk ^ Places::change(row)) * CHUNK_BYTES;
}

// Where a lane finds chunk t of each step of a row: those of even steps and of odd ones, as if all lay in
// order.
struct ChunksOfRow {
    const u8* even;
    const u8* odd;

    __device__ __forceinline__ ChunksOfRow(const u8* rows, u32 row, u32 pitch) {
        u32 change = FourOfTwoRows::change(row) * CHUNK_BYTES;
        even = rows + row * pitch + lane_of_quad() * CHUNK_BYTES + change;
        odd = even - 2 * change;
    }

    __device__ __forceinline__ const u8* place(u32 step) const {
        return (step % 2 == 0 ? even : odd) + step * STEP_BYTES;
    }
    __device__ __forceinline__ Words at(u32 step) const {
        return *reinterpret_cast<const Words*>(place(step));
    }
};

// The words of a chunk in shared memory, each alone. Those of a vector would be in neighbouring registers,
// and a fragment needs those of two vectors there: it would be put together again for each product.
__device__ __forceinline__ Words load_words(const u8* from) {
#if defined(__CUDA_ARCH__)
    Words to;
    u32 address = static_cast<u32>(__cvta_generic_to_shared(from));
    asm volatile(
        "ld.shared.u32 %0, [%4];\nld.shared.u32 %1, [%4+4];\nld.shared.u32 %2, [%4+8];\n"
        "ld.shared.u32 %3, [%4+12];"
        : "=r"(to.at[0]), "=r"(to.at[1]), "=r"(to.at[2]), "=r"(to.at[3])
        : "r"(address)
        : "memory");
    return to;
#else
    return *reinterpret_cast<const Words*>(from);
#endif
}

// Copies rows of `n` elements to shared memory, where a row has `pitch` bytes and what is not there is zeros.
// `row_of` gives where a row is; null: nowhere. 2^lane_bits lanes share a row.
template <typename T, typename Places = FourOfTwoRows, typename RowOf>
__device__ __forceinline__ void copy_rows(u8* to, u32 pitch, u32 n_rows, u32 n, bool aligned, u32 lane_bits,
                                          RowOf row_of) {
    constexpr u32 LEN = CHUNK_BYTES / sizeof(T);
    u32 lane = threadIdx.x & ((1u << lane_bits) - 1);
#pragma unroll 1
    for (u32 row = threadIdx.x >> lane_bits; row < n_rows; row += LAYER_THREADS >> lane_bits) {
        const T* from = row_of(row);
#pragma unroll 1
        for (u32 chunk = lane; chunk * CHUNK_BYTES < pitch; chunk += 1u << lane_bits) {
            u8* place = to + place_of_chunk<Places>(row, chunk, pitch);
            u32 first = chunk * LEN;
            bool exists = from != nullptr && first < n;
            if (aligned) {
                copy_bytes<CHUNK_BYTES>(place, exists, exists ? from + first : from);
                continue;
            }
#pragma unroll 1
            for (u32 i = 0; i < LEN; i++) {
                reinterpret_cast<T*>(place)[i] = exists && first + i < n ? from[first + i] : T{};
            }
        }
    }
}

// -----------------------------------------------------------------------------------------------------------
// The rows of a tile.

// Where the rows of an instance start in each operand that has rows, and its operator.
struct LayerItem {
    u64 x;
    u64 y;
    // Of the epilogue.
    u64 rows;
    u64 first_entry;
    u64 first_word;
    u64 n_vertices;
};
static_assert(sizeof(LayerItem) == LAYER_ITEM_BYTES, "item");

// The item of a tile that has a row.
__device__ __forceinline__ const LayerItem& item_of_row(const LayerArgs& args, const LayerItem* items,
                                                        u32 row) {
    return items[row >> args.slot_bits];
}

// Which vertex of it the row is.
__device__ __forceinline__ u32 vertex_of_row(const LayerArgs& args, u32 row) {
    return row & ((1u << args.slot_bits) - 1);
}

// Finds the items of a tile, and leaves them in shared memory. Of copies there is nothing to look up.
__device__ __forceinline__ void find_items(const LayerArgs& args, u64 tile, LayerItem* items) {
    const DenseItemsArgs& of = args.items;
    u32 n_items = args.groups * GROUP_ROWS >> args.slot_bits;
#pragma unroll 1
    for (u32 i = threadIdx.x; i < n_items; i += LAYER_THREADS) {
        u64 place = tile * n_items + i;
        DenseItem found = {};
        if (of.n_vertices == 0) {
            take_rows(of, place, found);
        } else if (place < of.n_items) {
            found.number = place;
            found.first_vertex = place * of.n_vertices;
            u64 number = of.operators.of_items != 0 ? place : 0;
            found.entries = number * operator_entries(of.operators.row);
            found.words = number * operator_words(of.operators.row);
            found.n_vertices = of.n_vertices;
        }
        items[i] = {element(args.x, found.number, found.first_vertex, 0),
                    element(args.y, found.number, found.first_vertex, 0),
                    element(args.epilogue.rows, found.number, found.first_vertex, 0),
                    found.entries,
                    found.words,
                    found.n_vertices};
    }
}

// -----------------------------------------------------------------------------------------------------------
// Operators in shared memory: for each row of a tile its row of M, and behind those what sums of each row are
// multiplied by. What no vertex has is zeros.

__device__ __forceinline__ u32 operator_numbers(u32 rows, u32 slot_bits) {
    return (rows << slot_bits) + rows;
}

// Copies the operators of `rows` rows of a tile.
__device__ __forceinline__ void copy_operators(const LayerArgs& args, const LayerItem* items, u32 rows,
                                               float* to) {
    const DenseOperatorsArgs& operators = args.items.operators;
    const float* entries = static_cast<const float*>(operators.entries);
    u32 bits = args.slot_bits;
    u32 mask = (1u << bits) - 1;
#pragma unroll 1
    for (u32 i = threadIdx.x; i < operator_numbers(rows, bits); i += LAYER_THREADS) {
        u32 at = i - (rows << bits);
        bool is_scale = i >= rows << bits;
        u32 row = is_scale ? at : i >> bits;
        const LayerItem& item = item_of_row(args, items, row);
        u32 u = row & mask;
        u32 v = is_scale ? 0 : i & mask;
        // Entries that are no terms of a row are not written, or are divided by a degree of 0.
        bool exists = u < item.n_vertices && v < item.n_vertices &&
                      (is_scale || is_term(operators.words + item.first_word, operators.row, u, v));
        u32 entry = is_scale ? operators.row * operators.row + u : u * operators.row + v;
        copy_bytes<sizeof(float)>(to + i, exists, exists ? entries + item.first_entry + entry : entries);
    }
}

// A lane's part of M, as a fragment for each half of a group's rows. M is the transpose where `Transposed`.
template <u32 TERMS>
struct OperatorFragment {
    u32 at[2][TERMS][4];

    // Entry i of the fragment for rows 8 half on: all terms.
    __device__ __forceinline__ float entry(u32 half, u32 i) const {
        float sum = 0;
#pragma unroll
        for (u32 term = 0; term < TERMS; term++) {
            sum += value_of_tf32(at[half][term][i]);
        }
        return sum;
    }
};

// What row `row` of a group is multiplied by.
__device__ __forceinline__ float scale_of_row(const float* numbers, u32 rows, u32 first_row, u32 row,
                                              u32 bits, bool own) {
    return numbers[(rows << bits) + (own ? first_row + row : row & ((1u << bits) - 1))];
}

// Reads the fragments of 16 rows, whose operators are at `numbers`, `rows` in all. `own`: each instance has
// an operator; else all have the first one.
template <u32 TERMS, bool Transposed>
__device__ __forceinline__ void read_operator(OperatorFragment<TERMS>& to, const float* numbers, u32 rows,
                                              u32 first_row, u32 bits, bool own) {
    u32 mask = (1u << bits) - 1;
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            u32 row = quad_of_warp() + 8 * (i % 2);
            u32 column = 8 * half + 2 * lane_of_quad() + i / 2;
            u32 u = Transposed ? column : row;
            u32 v = Transposed ? row : column;
            float entry = 0;
            if (row >> bits == column >> bits) {
                u32 at = own ? first_row + u : u & mask;
                entry =
                    numbers[(at << bits) + (v & mask)] * scale_of_row(numbers, rows, first_row, u, bits, own);
            }
            u32 rounded = round_to_tf32(entry);
            to.at[half][0][i] = rounded;
            if constexpr (TERMS == 2) {
                to.at[half][1][i] = round_to_tf32(entry - value_of_tf32(rounded));
            }
        }
    }
}

// -----------------------------------------------------------------------------------------------------------
// Theta.

// Reads what a warp keeps of Theta where its rows are outputs: those of the block from `first_of_block` on,
// and of the warp from `of_warp` on behind that. They pass through shared memory, `args.theta_rows` at a
// time.
template <typename Products, u32 K>
__device__ __forceinline__ void read_rows(const LayerArgs& args, u8* shared, u32 first_of_block, u32 of_warp,
                                          Theta<Products, K>& theta) {
    using L = Layer<Products, K>;
    using T = typename L::T;
    constexpr u32 TOGETHER = PITCH_BYTES / STEP_BYTES;
    const T* from = static_cast<const T*>(args.theta);
    u32 n_rows = args.columns * L::OUTPUTS;
#pragma unroll 1
    for (u32 begin = 0; begin < n_rows; begin += args.theta_rows) {
        copy_rows<T>(shared, args.pitch, args.theta_rows, args.inputs, args.theta_aligned != 0,
                     args.copy_bits, [&](u32 row) -> const T* {
                         u64 output = u64(first_of_block) + begin + row;
                         return output < args.outputs ? from + output * args.inputs : nullptr;
                     });
        commit_copies();
        wait_for_all_but<0>();
        __syncthreads();
        if constexpr (Products::PREPARES) {
            Words* chunks = reinterpret_cast<Words*>(shared);
#pragma unroll 1
            for (u32 i = threadIdx.x; i < args.theta_rows * args.pitch / CHUNK_BYTES; i += LAYER_THREADS) {
                chunks[i] = Products::prepared(chunks[i]);
            }
            __syncthreads();
        }
        if (of_warp - begin < args.theta_rows) {
#pragma unroll
            for (u32 k = 0; k < L::TALL; k++) {
#pragma unroll
                for (u32 half = 0; half < 2; half++) {
                    u32 row = of_warp - begin + L::output(k, half, quad_of_warp());
                    ChunksOfRow chunks(shared, row, args.pitch);
#pragma unroll
                    for (u32 step = 0; step < L::STEPS; step++) {
                        if (step / TOGETHER * PITCH_BYTES >= args.pitch) {
                            break;
                        }
                        Words words = load_words(chunks.place(step));
#pragma unroll
                        for (u32 i = 0; i < 4; i++) {
                            theta.at[k][step][i / 2][i % 2 * 2 + half] = words.at[i];
                        }
                    }
                }
            }
        }
        __syncthreads();
    }
}

// The same where its columns are outputs, and its rows are what is summed over.
template <typename Products, u32 K>
__device__ __forceinline__ void read_columns(const LayerArgs& args, u8* shared, u32 first_of_block,
                                             u32 of_warp, Theta<Products, K>& theta) {
    using L = Layer<Products, K>;
    using T = typename L::T;
    constexpr u32 ROWS_OF_STEP = STEP_BYTES / sizeof(T);
    constexpr u32 TOGETHER = PITCH_BYTES / STEP_BYTES;
    const T* from = static_cast<const T*>(args.theta);
    u32 g = quad_of_warp();
    u32 t = lane_of_quad();
    u32 n = args.outputs - first_of_block;
    u32 columns = args.columns * L::OUTPUTS;
    u32 pitch = args.theta_pitch;
    // Where a lane finds output `output` of rows that have `row` in common but for an even number.
    auto find = [&](u32 row, u32 output) -> const u8* {
        u32 byte = (of_warp + output) * u32(sizeof(T));
        return shared + place_of_chunk(row, byte / CHUNK_BYTES, pitch) + byte % CHUNK_BYTES;
    };
    const u8* of_lane = find(8 * (g >> 1) + (g & 1), L::LEN * t);
    const u8* of_rows[2][2];
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        // Row i % 2 is counted where it is read.
        of_rows[i / 2][i % 2] = find(4 * t + i % 2, L::output(0, i / 2, g)) - i % 2 * pitch;
    }
#pragma unroll 1
    for (u32 begin = 0; begin < args.inputs; begin += args.theta_rows) {
        copy_rows<T>(shared, args.theta_pitch, args.theta_rows, n < columns ? n : columns,
                     args.theta_aligned != 0, args.copy_bits, [&](u32 row) -> const T* {
                         u64 input = u64(begin) + row;
                         return input < args.inputs ? from + input * args.outputs + first_of_block : nullptr;
                     });
        commit_copies();
        wait_for_all_but<0>();
        __syncthreads();
#pragma unroll
        for (u32 step = 0; step < L::STEPS; step++) {
            u32 first = step * ROWS_OF_STEP - begin;
            // Whole steps pass together, and with them those that a row of a tile has together.
            if (first >= args.theta_rows || step / TOGETHER * PITCH_BYTES >= args.pitch) {
                continue;
            }
            if constexpr (sizeof(T) == 2) {
                // Words of two outputs of a row, of which a transposition makes words of two rows.
#pragma unroll
                for (u32 i = 0; i < 4; i++) {
                    const u32* words = reinterpret_cast<const u32*>(of_lane + (first + 2 * i) * pitch);
#pragma unroll
                    for (u32 j = 0; j < 2 * L::TALL; j++) {
                        theta.at[j / 2][step][i / 2][i % 2 * 2 + j % 2] = transpose_matrix(words[j]);
                    }
                }
            } else {
                // Elements of a column, one by one.
#pragma unroll
                for (u32 half = 0; half < 2; half++) {
                    Words chunk;
#pragma unroll
                    for (u32 i = 0; i < 4; i++) {
                        chunk.at[i] =
                            *reinterpret_cast<const u32*>(of_rows[half][i % 2] + (first + i) * pitch);
                    }
                    chunk = Products::prepared(chunk);
#pragma unroll
                    for (u32 i = 0; i < 4; i++) {
                        theta.at[0][step][i / 2][i % 2 * 2 + half] = chunk.at[i];
                    }
                }
            }
        }
        __syncthreads();
    }
}

// -----------------------------------------------------------------------------------------------------------
// Products.

// S^T of a warp's outputs and 16 rows, in shared memory from `rows` on.
template <typename Products, u32 K>
__device__ __forceinline__ void multiply_rows(const u8* rows, u32 pitch, const Theta<Products, K>& theta,
                                              float (&sums)[2][Layer<Products, K>::TALL][4]) {
    using L = Layer<Products, K>;
    constexpr u32 TOGETHER = PITCH_BYTES / STEP_BYTES;
#pragma unroll
    for (u32 i = 0; i < 2 * L::TALL * 4; i++) {
        sums[i / (L::TALL * 4)][i / 4 % L::TALL][i % 4] = 0;
    }
    ChunksOfRow chunks[2] = {ChunksOfRow(rows, quad_of_warp(), pitch),
                             ChunksOfRow(rows, 8 + quad_of_warp(), pitch)};
#pragma unroll
    for (u32 first = 0; first < L::STEPS; first += TOGETHER) {
        if (first * STEP_BYTES >= pitch) {
            break;
        }
#pragma unroll
        for (u32 step = first; step < first + TOGETHER; step++) {
#pragma unroll
            for (u32 half = 0; half < 2; half++) {
                Words x = Products::prepared(chunks[half].at(step));
#pragma unroll
                for (u32 k = 0; k < L::TALL; k++) {
                    Products::add(sums[half][k], theta.at[k][step], x);
                }
            }
        }
    }
}

// Adds M S to the sums of a group for 8 outputs: `s` are a lane's elements of rows 2 t and 2 t + 1 of each
// half.
template <u32 TERMS>
__device__ __forceinline__ void apply_operator_to(const OperatorFragment<TERMS>& m, const float (&s)[4],
                                                  float (&sums)[4]) {
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        float first = s[2 * half];
        float second = s[2 * half + 1];
        u32 high[2] = {round_to_tf32(first), round_to_tf32(second)};
        if constexpr (TERMS == 2) {
            u32 low[2] = {__float_as_uint(first - value_of_tf32(high[0])),
                          __float_as_uint(second - value_of_tf32(high[1]))};
            multiply<float>(sums, m.at[half][0], low);
            multiply<float>(sums, m.at[half][1], high);
        }
        multiply<float>(sums, m.at[half][0], high);
    }
}

// The same for all outputs of a warp.
template <u32 TALL, u32 TERMS>
__device__ __forceinline__ void apply_operator(const OperatorFragment<TERMS>& m, const float (&s)[2][TALL][4],
                                               float (&sums)[2 * TALL][4]) {
#pragma unroll
    for (u32 j = 0; j < 2 * TALL; j++) {
        u32 k = j / 2;
        u32 i = j % 2 * 2;
        float part[4] = {s[0][k][i], s[0][k][i + 1], s[1][k][i], s[1][k][i + 1]};
        apply_operator_to(m, part, sums[j]);
    }
}

// Sums of a lane start at the bias of their outputs.
template <u32 PARTS, u32 LEN>
__device__ __forceinline__ void begin_sums(float (&sums)[PARTS][4], const float (&bias)[LEN]) {
#pragma unroll
    for (u32 k = 0; k < PARTS * 4; k++) {
        sums[k / 4][k % 4] = bias[k / 4 * 2 + k % 2];
    }
}

// What is no finite number of TF32: as infinity times 0 it would be NaN in rows that it must not reach.
__device__ __forceinline__ bool is_special(float value) {
    return (round_to_tf32(value) & 0x7f800000u) == 0x7f800000u;
}

// The same as apply_operator where an element of S or a sum is not finite: adds the products of such elements
// with entries of M that are not 0, one by one, and then those of the others. Rows that no such element
// reaches have the bits that they have without it. Rolled, since it is rare: parts of outputs take turns in
// one place.
template <u32 TALL, u32 TERMS>
__device__ __forceinline__ void apply_operator_to_finite(const OperatorFragment<TERMS>& m,
                                                         float (&s)[2][TALL][4], float (&sums)[2 * TALL][4]) {
    u32 quad = quad_of_warp();
#pragma unroll 1
    for (u32 j = 0; j < 2 * TALL; j++) {
        float part[4] = {s[0][0][0], s[0][0][1], s[1][0][0], s[1][0][1]};
        float sum[4] = {sums[0][0], sums[0][1], sums[0][2], sums[0][3]};
#pragma unroll 1
        for (u32 v = 0; v < GROUP_ROWS; v++) {
            // The lanes of quads that have row v of S, or column v of M, and in which of their elements.
            u32 owner = v / 2 % 4;
            bool is_second = v % 2 != 0;
            bool is_upper = v >= 8;
            float lower = is_second ? part[1] : part[0];
            float upper = is_second ? part[3] : part[2];
            float element = is_upper ? upper : lower;
#pragma unroll
            for (u32 i = 0; i < 2; i++) {
                float of_lower = is_second ? m.entry(0, 2 + i) : m.entry(0, i);
                float of_upper = is_second ? m.entry(1, 2 + i) : m.entry(1, i);
                float entry = shuffle(is_upper ? of_upper : of_lower, 4 * quad + owner);
#pragma unroll
                for (u32 e = 0; e < 2; e++) {
                    float special = shuffle(element, 4 * (2 * lane_of_quad() + e) + owner);
                    if (is_special(special) && entry != 0) {
                        sum[2 * i + e] += entry * special;
                    }
                }
            }
        }
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            part[i] = is_special(part[i]) ? 0.0f : part[i];
        }
        apply_operator_to(m, part, sum);
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
#pragma unroll
            for (u32 i = 0; i + 2 < 4 * TALL; i++) {
                s[half][i / 4][i % 4] = s[half][(i + 2) / 4][(i + 2) % 4];
            }
        }
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
#pragma unroll
            for (u32 k = 0; k + 1 < 2 * TALL; k++) {
                sums[k][i] = sums[k + 1][i];
            }
            sums[2 * TALL - 1][i] = sum[i];
        }
    }
}

// -----------------------------------------------------------------------------------------------------------
// Gamma: products of rows of S and of x, whose elements are split for bf16 as those of ThreeProducts.

// Elements 2 i and 2 i + 1 of a lane, as words. `low` is what bf16 does not have of them.
template <u32 LEN>
__device__ __forceinline__ void words_of(const Outputs<float, LEN>& x, u32 i, u32& high, u32& low) {
    split(x.at[2 * i], x.at[2 * i + 1], high, low);
}
template <u32 LEN>
__device__ __forceinline__ void words_of(const Outputs<F16, LEN>& x, u32 i, u32& high, u32& low) {
    split(Element<F16>::widen(x.at[2 * i]), Element<F16>::widen(x.at[2 * i + 1]), high, low);
}
template <u32 LEN>
__device__ __forceinline__ void words_of(const Outputs<Bf16, LEN>& x, u32 i, u32& high, u32& low) {
    high = u32(x.at[2 * i + 1].bits) << 16 | x.at[2 * i].bits;
    low = 0;
}

template <typename T>
constexpr bool IS_BF16 = false;
template <>
constexpr bool IS_BF16<Bf16> = true;

// Adds the products of 16 rows u of S and 16 rows v of x, over the outputs of a warp: `x` are those of a lane
// of rows g and g + 8.
template <typename T, u32 TALL>
__device__ __forceinline__ void add_products(const float (&s)[2][TALL][4], const Outputs<T, 4 * TALL> (&x)[2],
                                             float (&products)[2][4]) {
#pragma unroll
    for (u32 k = 0; k < TALL; k++) {
        u32 high[4];
        u32 low[4];
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            split(s[i % 2][k][i / 2 * 2], s[i % 2][k][i / 2 * 2 + 1], high[i], low[i]);
            high[i] = transpose_matrix(high[i]);
            low[i] = transpose_matrix(low[i]);
        }
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            u32 of_x[2];
            u32 of_rest[2];
#pragma unroll
            for (u32 i = 0; i < 2; i++) {
                words_of(x[half], 2 * k + i, of_x[i], of_rest[i]);
            }
            multiply<Bf16>(products[half], low, of_x);
            if constexpr (!IS_BF16<T>) {
                multiply<Bf16>(products[half], high, of_rest);
            }
            multiply<Bf16>(products[half], high, of_x);
        }
    }
}

// Leaves the products of a group in shared memory: for each row its products with the rows of its instance.
// Those of u are multiplied by what its sums are multiplied by.
__device__ __forceinline__ void leave_products(const float (&products)[2][4], const float (&scales)[2],
                                               u32 bits, float* to) {
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            u32 u = quad_of_warp() + i / 2 * 8;
            u32 v = 8 * half + 2 * lane_of_quad() + i % 2;
            if (u >> bits == v >> bits) {
                to[(u << bits) + (v & ((1u << bits) - 1))] = products[half][i] * scales[i / 2];
            }
        }
    }
}

// Adds what warps have left, and stores it: of each instance if they have operators of their own, and else of
// all together, from sum `first_sum` on. Blocks that share out the outputs store theirs side by side. `left`
// has `n_rows` rows of a part for each warp of a row of warps: a row for each group, or for several.
__device__ __forceinline__ void store_products(const LayerArgs& args, const float* left, u32 n_rows,
                                               u64 first_sum, bool own) {
    u32 bits = args.slot_bits;
    u32 side = args.items.operators.row;
    u32 of_part = GROUP_ROWS << bits;
    u32 of_group = GROUP_ROWS >> bits;
    u32 n_sums = own ? n_rows * of_group : 1;
#pragma unroll 1
    for (u32 i = threadIdx.x; i < n_sums * side * side; i += LAYER_THREADS) {
        u32 entry = i % (side * side);
        u32 sum = i / (side * side);
        u32 u = entry / side;
        u32 v = entry % side;
        double product = 0;
        if (((u | v) >> bits) == 0) {
            u32 end = own ? sum + 1 : n_rows * of_group;
#pragma unroll 1
            for (u32 item = sum; item < end; item++) {
                const float* part = left + item / of_group * args.columns * of_part;
                part += (((item % of_group << bits) + u) << bits) + v;
#pragma unroll 1
                for (u32 column = 0; column < args.columns; column++) {
                    product += part[column * of_part];
                }
            }
        }
        if (!own || first_sum + sum < args.items.n_items) {
            u64 place = (first_sum + sum) * args.parts + blockIdx.x % args.parts;
            static_cast<float*>(args.products)[place * side * side + entry] = static_cast<float>(product);
        }
    }
}

// -----------------------------------------------------------------------------------------------------------
// What is stored.

// Each value moves to the place before it; the last place keeps its value.
template <typename A, u32 LEN>
__device__ __forceinline__ void take_turns(A (&values)[LEN]) {
#pragma unroll
    for (u32 i = 0; i + 1 < LEN; i++) {
        values[i] = values[i + 1];
    }
}

// Some outputs of a row, widened: all, or those before `n` one by one. Here and below, what is done one by
// one is rolled: numbers take turns in one place.
template <typename T, u32 LEN>
__device__ __forceinline__ void load_outputs(float (&to)[LEN], const T* from, bool aligned, u32 n) {
    if (aligned) {
        Outputs<T, LEN> loaded = *reinterpret_cast<const Outputs<T, LEN>*>(from);
#pragma unroll
        for (u32 i = 0; i < LEN; i++) {
            to[i] = Element<T>::widen(loaded.at[i]);
        }
        return;
    }
#pragma unroll 1
    for (u32 k = 0; k < LEN; k++) {
        float value = k < n ? Element<T>::widen(from[k]) : 0.0f;
        take_turns(to);
        to[LEN - 1] = value;
    }
}

template <typename T, u32 LEN>
__device__ __forceinline__ void store_outputs(T* to, bool aligned, u32 n, float (&values)[LEN]) {
    if (aligned) {
        Outputs<T, LEN> stored;
        if constexpr (sizeof(T) == 2) {
#pragma unroll
            for (u32 i = 0; i < LEN; i += 2) {
                u32 both = pack(T{}, values[i], values[i + 1]);
                stored.at[i].bits = static_cast<unsigned short>(both);
                stored.at[i + 1].bits = static_cast<unsigned short>(both >> 16);
            }
        } else {
#pragma unroll
            for (u32 i = 0; i < LEN; i++) {
                stored.at[i] = values[i];
            }
        }
        *reinterpret_cast<Outputs<T, LEN>*>(to) = stored;
        return;
    }
#pragma unroll 1
    for (u32 k = 0; k < LEN && k < n; k++) {
        to[k] = Element<T>::narrow(values[0]);
        take_turns(values);
    }
}

// Outputs `first` on of row `row` of a tile among the rows of x that the backward has besides; zeros where
// there are none.
template <typename T, u32 LEN>
__device__ __forceinline__ void load_row(const LayerArgs& args, const LayerItem* items, u32 row, u32 first,
                                         Outputs<T, LEN>& to) {
    const RowsArgs& rows = args.epilogue.rows;
    const LayerItem& item = item_of_row(args, items, row);
    u32 v = vertex_of_row(args, row);
    bool exists = v < item.n_vertices && first < args.outputs;
    const T* from = static_cast<const T*>(rows.data) + item.rows + v * rows.row_stride + first;
    to = {};
    if (args.y_aligned != 0) {
        if (exists) {
            to = *reinterpret_cast<const Outputs<T, LEN>*>(from);
        }
        return;
    }
#pragma unroll 1
    for (u32 k = 0; k < LEN; k++) {
        take_turns(to.at);
        to.at[LEN - 1] = exists && first + k < args.outputs ? from[k] : T{};
    }
}

// Has the rows of a tile that come straight from global memory brought to the second-level cache.
template <typename T>
__device__ __forceinline__ void prefetch_rows(const LayerArgs& args, const LayerItem* items, u32 n_rows,
                                              u32 first, u32 n) {
    constexpr u32 SECTOR = 32 / sizeof(T);
    const RowsArgs& rows = args.epilogue.rows;
    u32 end = args.outputs - first < n ? args.outputs : first + n;
#pragma unroll 1
    for (u32 row = threadIdx.x / 8; rows.data != nullptr && row < n_rows; row += LAYER_THREADS / 8) {
        const LayerItem& item = item_of_row(args, items, row);
        u32 v = vertex_of_row(args, row);
        const T* from = static_cast<const T*>(rows.data) + item.rows + v * rows.row_stride;
#pragma unroll 1
        for (u32 k = first + threadIdx.x % 8 * SECTOR; v < item.n_vertices && k < end; k += 8 * SECTOR) {
            prefetch(from + k);
        }
    }
}

// Finishes outputs `first` on of row `row` of a tile, and stores them.
template <typename T, bool Backward, u32 LEN>
__device__ __forceinline__ void finish_row(const LayerArgs& args, const LayerItem* items, u32 row, u32 first,
                                           float (&values)[LEN]) {
    const EpilogueArgs& epilogue = args.epilogue;
    const LayerItem& item = item_of_row(args, items, row);
    u32 v = vertex_of_row(args, row);
    if (v >= item.n_vertices || first >= args.outputs) {
        return;
    }
    u32 n = args.outputs - first;
    bool aligned = args.y_aligned != 0;
    T* to = static_cast<T*>(args.y.data) + item.y + v * args.y.row_stride + first;
    float others[LEN];
    if constexpr (!Backward) {
        if (epilogue.activation == RELU && epilogue.backward == 0) {
#pragma unroll
            for (u32 i = 0; i < LEN; i++) {
                values[i] = activate(RELU, false, values[i]);
            }
        } else {
            activate_all(epilogue, values);
        }
        if (epilogue.rows.data != nullptr) {
            load_outputs(
                others,
                static_cast<const T*>(epilogue.rows.data) + item.rows + v * epilogue.rows.row_stride + first,
                aligned, n);
            combine_rows(epilogue, values, others, 1);
        }
    }
    if (args.add != 0) {
        load_outputs(others, static_cast<const T*>(to), aligned, n);
#pragma unroll
        for (u32 i = 0; i < LEN; i++) {
            values[i] += others[i];
        }
    }
    store_outputs(to, aligned, n, values);
}

// -----------------------------------------------------------------------------------------------------------

template <typename Products, u32 K, bool Backward>
__device__ __forceinline__ void layer(const LayerArgs& args) {
    using L = Layer<Products, K>;
    using T = typename L::T;
    constexpr u32 STAGES = L::STAGES;
    u32 rows = args.groups * GROUP_ROWS;
    u32 bits = args.slot_bits;
    bool own = args.own != 0;
    // The tiles, each with the operators of its rows; the items of one tile more; the operator of all; and
    // products of the warps.
    u32 stage_bytes = rows * args.pitch + (own ? operator_numbers(rows, bits) * u32(sizeof(float)) : 0);
    LayerItem* items = reinterpret_cast<LayerItem*>(shared_memory + STAGES * stage_bytes);
    u32 n_items = rows >> bits;
    float* operator_of_all = reinterpret_cast<float*>(items + (STAGES + 1) * n_items);
    float* left = operator_of_all + (own ? 0 : operator_numbers(1u << bits, bits));

    u32 warp = threadIdx.x / WARP;
    u32 column = warp % args.columns;
    u32 row_of_warps = warp / args.columns;
    u32 rows_of_warps = LAYER_WARPS / args.columns;
    u32 of_warp = column * L::OUTPUTS;
    u32 first_of_block = blockIdx.x % args.parts * args.columns * L::OUTPUTS;
    u32 first = first_of_block + of_warp + L::LEN * lane_of_quad();
    Theta<Products, K> theta;
    float bias[L::LEN] = {};
    if constexpr (Backward) {
        read_columns<Products, K>(args, shared_memory, first_of_block, of_warp, theta);
    } else {
        read_rows<Products, K>(args, shared_memory, first_of_block, of_warp, theta);
        if (args.epilogue.bias != nullptr && first < args.outputs) {
            load_outputs(bias, static_cast<const float*>(args.epilogue.bias) + first, args.bias_aligned != 0,
                         args.outputs - first);
        }
    }

    // A block takes 2^chunk_bits tiles at a time. Tile `i` of the block:
    u64 chunk_of_block = blockIdx.x / args.parts;
    u64 stride = gridDim.x / args.parts;
    u64 of_launch = args.items.blocks;
    u32 n_chunks =
        chunk_of_block < of_launch ? static_cast<u32>((of_launch - 1 - chunk_of_block) / stride) + 1 : 0;
    u32 n_tiles = n_chunks << args.chunk_bits;
    auto chunk_of = [&](u32 i) { return chunk_of_block + (i >> args.chunk_bits) * stride; };
    auto tile_of = [&](u32 i) {
        return (chunk_of(i) << args.chunk_bits) + (i & ((1u << args.chunk_bits) - 1));
    };
    auto stage_of = [&](u32 i) { return shared_memory + i % STAGES * stage_bytes; };
    auto items_of = [&](u32 i) { return items + i % (STAGES + 1) * n_items; };
    auto operators_of = [&](u32 i) {
        return own ? reinterpret_cast<float*>(stage_of(i) + rows * args.pitch) : operator_of_all;
    };
    u32 rows_of_operators = own ? rows : 1u << bits;

    OperatorFragment<Products::TERMS> m = {};
    float products[2][4] = {};
    // Items are found one round before the copies of their rows begin, rows are used STAGES - 1 later, and
    // products that were left are added one later.
#pragma unroll 1
    for (u32 round = 0; round < n_tiles + STAGES + Backward; round++) {
        wait_for_all_but<STAGES - 2>();
        __syncthreads();  // what is used below is there for all, and all are done with what is overwritten
        u32 i = round - STAGES;
        if constexpr (Backward) {
            u32 before = i - 1;
            bool is_last = own || (i & ((1u << args.chunk_bits) - 1)) == 0;
            if (before < n_tiles && is_last && args.products != nullptr) {
                u64 first_sum = own ? tile_of(before) * n_items : chunk_of(before);
                u32 n_rows = own || args.groups < rows_of_warps ? args.groups : rows_of_warps;
                store_products(args, left, n_rows, first_sum, own);
                __syncthreads();
            }
        }
        if (round < n_tiles) {
            find_items(args, tile_of(round), items_of(round));
        }
        u32 begun = round - 1;
        if (begun < n_tiles) {
            const LayerItem* its_items = items_of(begun);
            copy_rows<T>(stage_of(begun), args.pitch, rows, args.inputs, args.x_aligned != 0, args.copy_bits,
                         [&](u32 row) -> const T* {
                             const LayerItem& item = item_of_row(args, its_items, row);
                             u32 v = vertex_of_row(args, row);
                             const T* x = static_cast<const T*>(args.x.data) + item.x;
                             return v < item.n_vertices ? x + v * args.x.row_stride : nullptr;
                         });
            prefetch_rows<T>(args, its_items, rows, first_of_block, args.columns * L::OUTPUTS);
            if (own || begun == 0) {
                copy_operators(args, its_items, rows_of_operators, operators_of(begun));
            }
        }
        commit_copies();
        if (i >= n_tiles) {
            continue;
        }
#pragma unroll 1
        for (u32 group = row_of_warps; group < args.groups; group += rows_of_warps) {
            u32 first_row = group * GROUP_ROWS;
            Outputs<T, L::LEN> of_x[2];
            if constexpr (Backward) {
                if (args.products != nullptr) {
#pragma unroll
                    for (u32 half = 0; half < 2; half++) {
                        load_row(args, items_of(i), first_row + 8 * half + quad_of_warp(), first, of_x[half]);
                    }
                }
            }
            float s[2][L::TALL][4];
            multiply_rows<Products, K>(stage_of(i) + first_row * args.pitch, args.pitch, theta, s);
            if (own || (i == 0 && group < rows_of_warps)) {
                read_operator<Products::TERMS, Backward>(m, operators_of(i), rows_of_operators, first_row,
                                                         bits, own);
            }
            if constexpr (Backward) {
                if (args.products != nullptr) {
                    add_products<T>(s, of_x, products);
                    bool is_last =
                        (i + 1 & ((1u << args.chunk_bits) - 1)) == 0 && group + rows_of_warps >= args.groups;
                    if (own || is_last) {
                        u32 part = (own ? group : row_of_warps) * args.columns + column;
                        float scales[2];
#pragma unroll
                        for (u32 half = 0; half < 2; half++) {
                            scales[half] = scale_of_row(operators_of(i), rows_of_operators, first_row,
                                                        8 * half + quad_of_warp(), bits, own);
                        }
                        leave_products(products, scales, bits, left + part * (GROUP_ROWS << bits));
#pragma unroll
                        for (u32 k = 0; k < 8; k++) {
                            products[k / 4][k % 4] = 0;
                        }
                    }
                }
                if (args.y.data == nullptr) {
                    continue;
                }
            }
            float sums[2 * L::TALL][4];
            begin_sums(sums, bias);
            apply_operator(m, s, sums);
            // An element of S that is not finite makes each sum of its output so: 0 times it is NaN.
            float zero = 0;
#pragma unroll
            for (u32 k = 0; k < L::LEN; k++) {
                zero = fused_multiply_add(sums[k / 2][k % 2], 0.0f, zero);
            }
            if (!__all_sync(ALL_LANES, zero == 0)) {
                begin_sums(sums, bias);
                apply_operator_to_finite(m, s, sums);
            }
#pragma unroll 1
            for (u32 row = first_row + quad_of_warp(); row < first_row + GROUP_ROWS; row += 8) {
                float values[L::LEN];
#pragma unroll
                for (u32 k = 0; k < L::LEN; k++) {
                    values[k] = sums[k / 2][k % 2];
                    sums[k / 2][k % 2] = sums[k / 2][2 + k % 2];
                }
                finish_row<T, Backward>(args, items_of(i), row, first, values);
            }
        }
    }
    wait_for_all_but<0>();
}

// A layer of up to `K` inputs, or its backward: of up to `K` outputs. Each block has the registers of a
// multiprocessor: Theta is in most of them.
#define LAYER_KERNEL(PRODUCTS, K, BACKWARD, NAME) \
    extern "C" __global__ void __launch_bounds__(LAYER_THREADS, 1) NAME(const LayerArgs args) { \
        layer<PRODUCTS, K, BACKWARD>(args); \
    }
