// The gradients of weights (and scales), of which each is the sum over all instances whose windows cover it.
//
//     sum_chunks   s_ci = sum over the instances g of chunk c, ascending, of v_gi
//     sum_windows  dloss/dw_j (+)= sum over the chunks c whose windows cover j, in their order, of
//                                  s_c(j - offset of c)
//
// v_gi is the gradient of row i of instance g alone, in double and in blocks that are added first, then
// rounded to the accumulation type. Up to 64 instances of one topology that read at one offset are a chunk.
// Chunks are listed by rank, which is a range of window widths, by offset within a rank: those that cover j
// are found by binary search, with no table of all weights. A chunk's sums are stored in the rows of its
// first instance, so they need no room but that of all rows. Nothing depends on the number of threads.
// Launched by src/cuda/instance_sums.rs; src/chunks.rs makes the chunks, and src/cpu adds in the same order.
//
// Modules: sums.

#include "modules.cuh"
#include "tables.cuh"

// A chunk: the rows of each of its instances, and which those are.
struct Chunk {
    u64 n_rows;
    u64 offset;
    u64 first_member;
    u64 end_member;
};

// Chunk `c`.
template <bool Checked>
__device__ __forceinline__ bool chunk_of(const GradientArgs& args, Check<Checked>& check, u64 c,
                                         Chunk& chunk) {
    const TablesArgs& tables = args.tables;
    if (args.chunks == nullptr) {
        u64 first = c * args.chunk_len;
        u64 rest = tables.instances - first;
        chunk = {args.n_rows, 0, first, first + (rest < args.chunk_len ? rest : args.chunk_len)};
        return true;
    }
    const u64* words = args.chunks + c * CHUNK_WORDS;
    u64 topology = words[CHUNK_TOPOLOGY];
    if (!check.below(CHUNKS, c * CHUNK_WORDS + CHUNK_TOPOLOGY, topology, tables.n_topologies)) {
        return false;
    }
    chunk = {tables.topologies[topology].n_targets, words[CHUNK_OFFSET], words[CHUNK_FIRST_MEMBER],
             words[CHUNK_WORDS + CHUNK_FIRST_MEMBER]};
    return check.below(TOPOLOGIES, topology * TOPOLOGY_WORDS + TOPOLOGY_N_TARGETS, chunk.n_rows,
                       u64(tables.largest_targets) + 1) &&
           check.below(CHUNKS, (c + 1) * CHUNK_WORDS + CHUNK_FIRST_MEMBER, chunk.end_member,
                       args.n_members + 1) &&
           check.below(CHUNKS, c * CHUNK_WORDS + CHUNK_FIRST_MEMBER, chunk.first_member, chunk.end_member);
}

enum : u32 { ABSENT = 0, PRESENT = 1, WRONG = 2 };

// Where the rows of member `k` of a chunk start in the batch; ABSENT where this call has fewer copies.
template <bool Checked>
__device__ __forceinline__ u32 member_of(const GradientArgs& args, Check<Checked>& check, const Chunk& chunk,
                                         u64 k, u64& instance, u64& start) {
    const TablesArgs& tables = args.tables;
    instance = args.chunks == nullptr ? k : args.members[k];
    // Each instance of the table is a member once, and a call may have fewer.
    if (args.chunks != nullptr && !check.below(MEMBERS, k, instance, args.n_members)) {
        return WRONG;
    }
    if (instance >= tables.instances) {
        if (tables.topology_ids == nullptr) {
            return ABSENT;
        }
        check.below(MEMBERS, k, instance, tables.instances);
        return WRONG;
    }
    bool known =
        start_of(check, TARGET_STARTS, tables.target_starts, instance, chunk.n_rows, tables.n_targets, start);
    return known ? PRESENT : WRONG;
}

// The sums of all chunks: a warp takes 32 rows of one, a lane each.
template <typename A, bool Checked>
__device__ __forceinline__ void sum_chunks(const GradientArgs& args) {
    u32 lane = threadIdx.x % WARP;
    for (u64 tile = first_tile(); tile < args.tiles; tile += tile_step()) {
        Check<Checked> check;
        u64 instance = 0;
        u64 c = 0;
        u64 tile_of_chunk = tile;
        Chunk chunk;
        bool known = true;
        if (args.chunks == nullptr) {
            u64 tiles_of_each = (args.n_rows + (WARP - 1)) / WARP;
            c = divide(tile, tiles_of_each);
            tile_of_chunk = tile - c * tiles_of_each;
            known = chunk_of(args, check, c, chunk);
        } else {
            c = search(args.chunks + CHUNK_FIRST_TILE, args.n_chunks, tile, CHUNK_WORDS);
            known = chunk_of(args, check, c, chunk);
            if (known) {
                u64 first_tile_of_chunk = args.chunks[c * CHUNK_WORDS + CHUNK_FIRST_TILE];
                u64 next = args.chunks[(c + 1) * CHUNK_WORDS + CHUNK_FIRST_TILE];
                tile_of_chunk = tile - first_tile_of_chunk;
                known =
                    check.below(CHUNKS, c * CHUNK_WORDS + CHUNK_FIRST_TILE, first_tile_of_chunk, tile + 1) &&
                    check.apart(CHUNKS, c * CHUNK_WORDS + CHUNK_FIRST_TILE, first_tile_of_chunk, next,
                                (chunk.n_rows + (WARP - 1)) / WARP, CHUNK_WORDS);
            }
        }
        u64 row = tile_of_chunk * WARP + lane;
        if (known && row < chunk.n_rows) {
            A sum = 0;
            u64 first_start = 0;
            for (u64 k = chunk.first_member; k < chunk.end_member; k++) {
                u64 start = 0;
                u32 member = member_of(args, check, chunk, k, instance, start);
                if (k == chunk.first_member) {
                    known = member == PRESENT;
                    first_start = start;
                    if (args.chunks != nullptr && known) {
                        u64 bound =
                            args.gradient_len >= chunk.n_rows ? args.gradient_len - chunk.n_rows + 1 : 0;
                        check.below(CHUNKS, c * CHUNK_WORDS + CHUNK_OFFSET, chunk.offset, bound);
                    }
                }
                if (member == ABSENT) {
                    break;  // and so are those behind it
                }
                if (member == PRESENT) {
                    sum += static_cast<A>(sum_of_blocks(args.values, start + row, args.blocks));
                }
            }
            if (check.failed) {
                sum = not_a_number<A>();
            }
            if (known && args.direct != 0) {
                if (row < args.gradient_len) {
                    A* to = static_cast<A*>(args.gradient) + row;
                    *to = (args.add != 0 ? *to : A(0)) + sum;
                }
            } else if (known) {
                static_cast<A*>(args.sums)[first_start + row] = sum;
            }
        }
        check.publish(args.record, SUM_CHUNKS, args.tables.orientation, instance);
    }
}

// What chunk `c` has for weight `weight`, if its window covers that.
template <typename A, bool Checked>
__device__ __forceinline__ bool covers(const GradientArgs& args, Check<Checked>& check, u64 c, u64 weight,
                                       u64& instance, A& value) {
    Chunk chunk;
    u64 start = 0;
    if (!chunk_of(args, check, c, chunk) || weight < chunk.offset || weight - chunk.offset >= chunk.n_rows ||
        member_of(args, check, chunk, chunk.first_member, instance, start) != PRESENT) {
        return false;
    }
    value = static_cast<const A*>(args.sums)[start + (weight - chunk.offset)];
    return true;
}

// The first of the chunks `low` ... `high`, ascending by offset, whose offset plus `widest` is above
// `weight`; `high` if none.
__device__ __forceinline__ u64 first_above(const u64* chunks, u64 low, u64 high, u64 weight, u64 widest) {
    while (low < high) {
        u64 middle = low + (high - low) / 2;
        if (chunks[middle * CHUNK_WORDS + CHUNK_OFFSET] + widest > weight) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return low;
}

// All weights (or values of a scale), in tiles of WARP / lanes.
template <typename A, bool Checked>
__device__ __forceinline__ void sum_windows(const GradientArgs& args) {
    u32 lane_of_warp = threadIdx.x % WARP;
    bool alone = args.lanes == 1;
    u32 lane = alone ? 0 : lane_of_warp;
    u64 tiles = alone ? (args.gradient_len + (WARP - 1)) / WARP : args.gradient_len;
    u64 n_ranks = args.chunks == nullptr ? 1 : args.n_ranks;
    for (u64 tile = first_tile(); tile < tiles; tile += tile_step()) {
        u64 weight = alone ? tile * WARP + lane_of_warp : tile;
        bool exists = weight < args.gradient_len;
        Check<Checked> check;
        u64 instance = 0;
        A* to = static_cast<A*>(args.gradient) + weight;
        // Of a warp, the first lane's is the sum.
        A sum = exists && lane == 0 && args.add != 0 ? *to : A(0);
        for (u64 k = 0; k < n_ranks; k++) {
            u64 low = 0;
            u64 high = args.n_chunks;
            if (args.chunks != nullptr) {
                const u64* words = args.ranks + k * RANK_WORDS;
                low = words[RANK_FIRST_CHUNK];
                high = words[RANK_WORDS + RANK_FIRST_CHUNK];
                if (!(check.below(RANKS, (k + 1) * RANK_WORDS + RANK_FIRST_CHUNK, high, args.n_chunks + 1) &&
                      check.below(RANKS, k * RANK_WORDS + RANK_FIRST_CHUNK, low, high + 1))) {
                    break;
                }
                u64 widest = words[RANK_WIDTH];
                if (!check.below(RANKS, k * RANK_WORDS + RANK_WIDTH, widest,
                                 u64(args.tables.largest_targets) + 1)) {
                    break;
                }
                low = first_above(args.chunks, low, high, weight, widest);
                high = first_above(args.chunks, low, high, weight, 0);
            }
            // In a warp all lanes have the same weight, and go through the same chunks.
            for (u64 first = low; first < high; first += args.lanes) {
                A value = 0;
                bool mine = exists && first + lane < high &&
                            covers(args, check, first + lane, weight, instance, value);
                if (alone) {
                    sum = mine ? sum + value : sum;
                    continue;
                }
                u32 covering = __ballot_sync(ALL_LANES, mine);
                while (covering != 0) {
                    u32 next = static_cast<u32>(__ffs(static_cast<int>(covering))) - 1;
                    sum += shuffle(value, next);
                    covering &= covering - 1;
                }
            }
        }
        bool poisoned = check.failed;
        if (Checked && !alone) {
            poisoned = __ballot_sync(ALL_LANES, check.failed) != 0;
        }
        if (exists && lane == 0) {
            *to = poisoned ? not_a_number<A>() : sum;
        }
        check.publish(args.record, SUM_WINDOWS, args.tables.orientation, instance);
    }
}

// Without a number of blocks the assembler spills in some of these, to make room for more.
#define KERNELS(A, NAME, CHECKS) \
    extern "C" __global__ void __launch_bounds__(THREADS, 8) sum_chunks_##NAME(const GradientArgs args) { \
        sum_chunks<A, CHECKS>(args); \
    } \
    extern "C" __global__ void __launch_bounds__(THREADS, 8) sum_windows_##NAME(const GradientArgs args) { \
        sum_windows<A, CHECKS>(args); \
    }

MODULES_OF_SUMS(KERNELS)
