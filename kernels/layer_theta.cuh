// The gradient of the matrix of a layer, see layer.cuh:
//
//     dloss/dTheta = (M^T t)^T x             F_out x F_in, a sum over all rows
//
// A warp has up to 64 outputs and 64 inputs, and sums over the rows of some tiles: tile k is of split k
// modulo the number of splits, and where a block has several rows of warps, they share out the groups of a
// tile. So sums are cut by the number of instances, the numbers of features and the shared memory of a
// device. Each such part is written once, to scratch memory; layer_theta_sum adds them.
//
// M^T t is computed in shared memory, in the place of t, one tile before it is needed. It is rounded to the
// type of features. Those of 32 bits are split for bf16, here and in x, see ThreeProducts: eight of them have
// two chunks, one of what bf16 has of them and one of the rest.

#pragma once

#include "layer.cuh"

// The outputs and inputs of a warp.
enum : u32 { THETA_SIDE = 64, THETA_STAGES = 4 };

// How rows of T lie in shared memory as 16-bit elements.
template <typename T>
struct Planes {
    using Feature = T;
    static constexpr u32 N = 1;
    static constexpr u32 TERMS = 1;
};
template <>
struct Planes<float> {
    using Feature = Bf16;
    static constexpr u32 N = 2;
    static constexpr u32 TERMS = 2;
};

// Splits the elements of rows in shared memory, eight at a time. Of 16 bits they stay as they are.
template <typename T>
__device__ __forceinline__ void split_rows(u8* rows, u32 pitch, u32 n_rows) {
    if constexpr (Planes<T>::N == 2) {
        u32 of_row = pitch / (2 * CHUNK_BYTES);
#pragma unroll 1
        for (u32 i = threadIdx.x; i < n_rows * of_row; i += LAYER_THREADS) {
            u32 row = i / of_row;
            u32 first = i % of_row * 2;
            Words* chunks[2];
            Words found[2];
#pragma unroll
            for (u32 k = 0; k < 2; k++) {
                u32 at = place_of_chunk<OneOfEightRows>(row, first + k, pitch);
                chunks[k] = reinterpret_cast<Words*>(rows + at);
                found[k] = ThreeProducts::prepared(*chunks[k]);
            }
#pragma unroll
            for (u32 k = 0; k < 2; k++) {
                *chunks[k] = {
                    {found[0].at[2 * k], found[0].at[2 * k + 1], found[1].at[2 * k], found[1].at[2 * k + 1]}};
            }
        }
    }
}

// Two neighbouring elements in shared memory, as numbers of TF32 and what that does not have of them.
__device__ __forceinline__ void read_pair(const float* from, float (&to)[2]) {
    to[0] = from[0];
    to[1] = from[1];
}
template <typename T>
__device__ __forceinline__ void read_pair(const T* from, float (&to)[2]) {
    u32 both = *reinterpret_cast<const u32*>(from);
    to[0] = Element<T>::widen(T{static_cast<unsigned short>(both)});
    to[1] = Element<T>::widen(T{static_cast<unsigned short>(both >> 16)});
}

// M^T t of a group for 16 outputs, in the place of t: those of chunks `first` on, of rows `row` on.
template <typename T>
__device__ __forceinline__ void transpose_convolution(const OperatorFragment<Planes<T>::TERMS>& m, u8* rows,
                                                      u32 pitch, u32 row, u32 output) {
    u32 g = quad_of_warp();
    u32 t = lane_of_quad();
    auto place = [&](u32 of_row, u32 of_output) {
        u32 byte = of_output * u32(sizeof(T));
        u32 at = place_of_chunk<OneOfEightRows>(of_row, byte / CHUNK_BYTES, pitch);
        return rows + at + byte % CHUNK_BYTES;
    };
    // Elements 2 g and 2 g + 1 of rows are in column g of two products.
    float in[2][1][4];
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
#pragma unroll
        for (u32 i = 0; i < 2; i++) {
            float pair[2];
            read_pair(reinterpret_cast<const T*>(place(row + 8 * half + 2 * t + i, output + 2 * g)), pair);
            in[half][0][i] = pair[0];
            in[half][0][2 + i] = pair[1];
        }
    }
    float sums[2][4] = {};
    apply_operator(m, in, sums);
    __syncwarp();
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        // Outputs 4 t to 4 t + 3 of a row.
        float values[4] = {sums[0][2 * half], sums[1][2 * half], sums[0][2 * half + 1],
                           sums[1][2 * half + 1]};
        u32 of_row = row + 8 * half + g;
        if constexpr (Planes<T>::N == 1) {
            u32* to = reinterpret_cast<u32*>(place(of_row, output + 4 * t));
            to[0] = pack(T{}, values[0], values[1]);
            to[1] = pack(T{}, values[2], values[3]);
        } else {
            u32 high[2];
            u32 low[2];
            split(values[0], values[1], high[0], low[0]);
            split(values[2], values[3], high[1], low[1]);
            // Eight elements have 32 bytes: the first 16 are what bf16 has of them.
            u32 eight = output + t / 2 * 8;
            u32* of_high = reinterpret_cast<u32*>(place(of_row, eight)) + t % 2 * 2;
            u32* of_low = reinterpret_cast<u32*>(place(of_row, eight + 4)) + t % 2 * 2;
#pragma unroll
            for (u32 i = 0; i < 2; i++) {
                of_high[i] = high[i];
                of_low[i] = low[i];
            }
        }
    }
    __syncwarp();
}

template <typename T>
__device__ __forceinline__ void layer_theta(const LayerArgs& args) {
    using P = Planes<T>;
    u32 rows = args.groups * GROUP_ROWS;
    u32 bits = args.slot_bits;
    bool own = args.own != 0;
    u32 x_bytes = rows * args.pitch;
    u32 t_bytes = rows * args.theta_pitch;
    u32 stage_bytes = x_bytes + t_bytes + (own ? operator_numbers(rows, bits) * u32(sizeof(float)) : 0);
    LayerItem* items = reinterpret_cast<LayerItem*>(shared_memory + THETA_STAGES * stage_bytes);
    u32 n_items = rows >> bits;
    float* operator_of_all = reinterpret_cast<float*>(items + (THETA_STAGES + 1) * n_items);

    u32 warp = threadIdx.x / WARP;
    u32 warps_of_row = args.columns * args.input_columns;
    u32 row_of_warps = warp / warps_of_row;
    u32 rows_of_warps = LAYER_WARPS / warps_of_row;
    u32 of_output = warp % args.columns * THETA_SIDE;
    u32 of_input = warp / args.columns % args.input_columns * THETA_SIDE;
    u32 part = blockIdx.x % (args.parts * args.input_parts);
    u32 split = blockIdx.x / (args.parts * args.input_parts);
    u32 n_splits = gridDim.x / (args.parts * args.input_parts);
    u32 first_output = part % args.parts * args.columns * THETA_SIDE;
    u32 first_input = part / args.parts * args.input_columns * THETA_SIDE;

    u64 of_launch = args.items.blocks;
    u32 n_tiles = split < of_launch ? static_cast<u32>((of_launch - 1 - split) / n_splits) + 1 : 0;
    auto tile_of = [&](u32 i) { return split + u64(i) * n_splits; };
    auto stage_of = [&](u32 i) { return shared_memory + i % THETA_STAGES * stage_bytes; };
    auto items_of = [&](u32 i) { return items + i % (THETA_STAGES + 1) * n_items; };
    auto operators_of = [&](u32 i) {
        return own ? reinterpret_cast<float*>(stage_of(i) + x_bytes + t_bytes) : operator_of_all;
    };
    u32 rows_of_operators = own ? rows : 1u << bits;
    auto copy = [&](u8* to, u32 pitch, const RowsArgs& from, u64 LayerItem::* start, u32 first, u32 n,
                    bool aligned, const LayerItem* its_items) {
        copy_rows<T, OneOfEightRows>(
            to, pitch, rows, n - first < pitch / sizeof(T) ? n - first : pitch / sizeof(T), aligned,
            args.copy_bits, [&](u32 row) -> const T* {
                const LayerItem& item = item_of_row(args, its_items, row);
                u32 v = vertex_of_row(args, row);
                const T* rows_of_item = static_cast<const T*>(from.data) + item.*start + first;
                return v < item.n_vertices ? rows_of_item + v * from.row_stride : nullptr;
            });
    };

    OperatorFragment<P::TERMS> m = {};
    float sums[4][8][4];
#pragma unroll
    for (u32 k = 0; k < 4 * 8 * 4; k++) {
        sums[k / 32][k / 4 % 8][k % 4] = 0;
    }
    // Items are found one round before the copies of their rows begin, M^T t is computed two later, and
    // multiplied with x one later.
#pragma unroll 1
    for (u32 round = 0; round < n_tiles + THETA_STAGES; round++) {
        wait_for_all_but<THETA_STAGES - 3>();
        __syncthreads();  // what is used below is there for all, and all are done with what is overwritten
        if (round < n_tiles) {
            find_items(args, tile_of(round), items_of(round));
        }
        u32 begun = round - 1;
        if (begun < n_tiles) {
            u8* stage = stage_of(begun);
            copy(stage, args.pitch, args.x, &LayerItem::x, first_input, args.inputs, args.x_aligned != 0,
                 items_of(begun));
            copy(stage + x_bytes, args.theta_pitch, args.y, &LayerItem::y, first_output, args.outputs,
                 args.y_aligned != 0, items_of(begun));
            if (own || begun == 0) {
                copy_operators(args, items_of(begun), rows_of_operators, operators_of(begun));
            }
        }
        commit_copies();
        u32 next = round - (THETA_STAGES - 1);
        if (next < n_tiles) {
            u8* stage = stage_of(next);
            split_rows<T>(stage, args.pitch, rows);
            u32 of_group = args.theta_pitch / (16 * u32(sizeof(T)));
#pragma unroll 1
            for (u32 k = warp; k < args.groups * of_group; k += LAYER_WARPS) {
                u32 first_row = k / of_group * GROUP_ROWS;
                if (own || (next == 0 && k < LAYER_WARPS)) {
                    read_operator<P::TERMS, true>(m, operators_of(next), rows_of_operators, first_row, bits,
                                                  own);
                }
                transpose_convolution<T>(m, stage + x_bytes, args.theta_pitch, first_row, k % of_group * 16);
            }
        }
        u32 i = next - 1;
        if (i >= n_tiles) {
            continue;
        }
        // Lanes pass rows of the matrices that they load: of the first and second eight of a fragment.
        u32 l = threadIdx.x % 8;
        u32 matrix = threadIdx.x % WARP / 8;
#pragma unroll 1
        for (u32 group = row_of_warps; group < args.groups; group += rows_of_warps) {
            u32 first_row = group * GROUP_ROWS;
            const u8* x = stage_of(i);
            const u8* t = x + x_bytes;
            u32 a[P::N][4][4];
#pragma unroll
            for (u32 k = 0; k < 4; k++) {
#pragma unroll
                for (u32 plane = 0; plane < P::N; plane++) {
                    u32 chunk = (of_output / 8 + 2 * k + matrix % 2) * P::N + plane;
                    u32 row = first_row + 8 * (matrix / 2) + l;
                    load_matrices<true>(a[plane][k],
                                        t + place_of_chunk<OneOfEightRows>(row, chunk, args.theta_pitch));
                }
            }
#pragma unroll
            for (u32 k = 0; k < 4; k++) {
                u32 b[P::N][4];
#pragma unroll
                for (u32 plane = 0; plane < P::N; plane++) {
                    u32 chunk = (of_input / 8 + 2 * k + matrix / 2) * P::N + plane;
                    u32 row = first_row + 8 * (matrix % 2) + l;
                    load_matrices<true>(b[plane], x + place_of_chunk<OneOfEightRows>(row, chunk, args.pitch));
                }
#pragma unroll
                for (u32 j = 0; j < 4; j++) {
#pragma unroll
                    for (u32 h = 0; h < 2; h++) {
                        u32 high[2] = {b[0][2 * h], b[0][2 * h + 1]};
                        if constexpr (P::N == 2) {
                            u32 low[2] = {b[1][2 * h], b[1][2 * h + 1]};
                            multiply<Bf16>(sums[j][2 * k + h], a[0][j], low);
                            multiply<Bf16>(sums[j][2 * k + h], a[1][j], high);
                        }
                        multiply<typename P::Feature>(sums[j][2 * k + h], a[0][j], high);
                    }
                }
            }
        }
    }
    wait_for_all_but<0>();
    // Which part of the sum this warp has, if it has any: rows of warps beyond the groups have none.
    rows_of_warps = args.groups < rows_of_warps ? args.groups : rows_of_warps;
    if (row_of_warps >= rows_of_warps) {
        return;
    }
    u64 number = u64(split) * rows_of_warps + row_of_warps;
    float* to = static_cast<float*>(args.products) + number * args.inputs * args.outputs;
#pragma unroll
    for (u32 j = 0; j < 4; j++) {
#pragma unroll
        for (u32 k = 0; k < 8; k++) {
#pragma unroll
            for (u32 e = 0; e < 4; e++) {
                u32 output = first_output + of_output + 16 * j + 8 * (e / 2) + quad_of_warp();
                u32 input = first_input + of_input + 8 * k + 2 * lane_of_quad() + e % 2;
                if (output < args.outputs && input < args.inputs) {
                    to[u64(output) * args.inputs + input] = sums[j][k][e];
                }
            }
        }
    }
}
