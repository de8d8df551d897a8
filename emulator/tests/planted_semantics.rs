//! The built-ins mean in the emulator what the CUDA documentation says, in both builds and every order;
//! launches do not disturb each other.

use std::fs;
use std::sync::atomic::AtomicU8;
use std::thread;

use hyperscatter_emulator::engine;
use hyperscatter_emulator::interface::{Allocation, Build, Fault, FaultKind, Launch, Memory, Order, Space};

const BUILDS: [Build; 2] = [Build::Fast, Build::Checked];
const ORDERS: [Order; 4] = [Order::Forward, Order::Reverse, Order::Shuffled(5), Order::Preempting(6)];

/// Buffers of 32-bit words.
#[derive(Default)]
struct Words(Vec<(Allocation, Box<[u128]>)>);

impl Words {
    fn add(&mut self, words: &[u32]) -> Vec<u8> {
        let mut bytes: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
        let len = bytes.len();
        bytes.resize(len.next_multiple_of(16), 0);
        let storage: Box<[u128]> =
            bytes.chunks(16).map(|c| u128::from_ne_bytes(c.try_into().unwrap())).collect();
        let base = storage.as_ptr() as usize;
        let written = Some((0..len).map(|_| AtomicU8::new(1)).collect());
        let number = self.0.len() as u64 + 1;
        self.0.push((Allocation { base, len, space: Space::Device, number, freed: false, written }, storage));
        base.to_ne_bytes().to_vec()
    }

    /// The words of the buffer that was added at this place.
    fn read(&self, place: usize) -> Vec<u32> {
        let (allocation, storage) = &self.0[place];
        let bytes = storage.iter().flat_map(|w| w.to_ne_bytes()).collect::<Vec<_>>();
        bytes[..allocation.len].chunks(4).map(|c| u32::from_ne_bytes(c.try_into().unwrap())).collect()
    }
}

impl Memory for Words {
    fn find(&self, address: usize) -> Option<&Allocation> {
        self.0.iter().map(|(a, _)| a).find(|a| (a.base..a.base + a.len).contains(&address))
    }
}

fn launch<'a>(kernel: &'static str, grid: [u32; 3], block: [u32; 3], params: &'a [Vec<u8>]) -> Launch<'a> {
    Launch {
        kernel,
        build: Build::Checked,
        grid,
        block,
        dynamic_shared: 0,
        params,
        order: Order::Forward,
        detect_races: true,
    }
}

/// Runs a kernel that takes `out` and perhaps `input`, in both builds and every order; returns `out`, which
/// is always the same.
fn always(kernel: &'static str, grid: [u32; 3], block: [u32; 3], out: &[u32], input: &[u32]) -> Vec<u32> {
    let mut results =
        BUILDS.into_iter().flat_map(|build| ORDERS.map(|order| (build, order))).map(|(build, order)| {
            let mut memory = Words::default();
            let mut params = vec![memory.add(out)];
            if !input.is_empty() {
                params.push(memory.add(input));
            }
            let launch = Launch { build, order, ..launch(kernel, grid, block, &params) };
            engine::run(&launch, &memory)
                .unwrap_or_else(|fault| panic!("{build:?} {order:?}: {}", fault.message));
            memory.read(0)
        });
    let first = results.next().unwrap();
    results.for_each(|other| assert_eq!(other, first, "{kernel}"));
    first
}

#[test]
fn threads_know_their_place_in_three_dimensions() {
    let (grid, block) = ([3, 2, 2], [4, 3, 5]);
    let threads = 12 * 60;
    let out = always("semantics_indices", grid, block, &vec![0; threads], &[]);
    for (place, &seen) in (0u32..).zip(&out) {
        let (b, t) = (place / 60, place % 60);
        let right = [t % 4, t / 4 % 3, t / 12, b % 3, b / 3 % 2, b / 6];
        let seen: Vec<_> = (0..6).map(|i| seen >> (4 * i) & 15).collect();
        assert_eq!(seen, right);
    }
}

#[test]
fn warp_operations_give_what_cuda_documents() {
    let input: Vec<u32> = (0..32u32).map(|i| i.wrapping_mul(2_654_435_761)).collect();
    let out = always("semantics_warp", [1; 3], [32, 1, 1], &[0; 32 * 22], &input);
    let at = |lane: usize| input[lane];
    // The lanes that vote and reduce together.
    let group = |lane: usize| if lane < 12 { 0..12 } else { 12..32 };
    let mask = |lane: usize, keep: &dyn Fn(usize) -> bool| {
        group(lane).filter(|&l| keep(l)).fold(0u32, |mask, l| mask | 1 << l)
    };
    let reduce = |lane: usize, next: fn(u32, u32) -> u32| group(lane).map(at).reduce(next).unwrap();
    let right: [&dyn Fn(usize) -> u32; 22] = [
        &|_| at(5),
        &|l| at(l / 8 * 8 + (l + 3) % 8),
        &|l| at(if l < 3 { l } else { l - 3 }),
        &|l| at(if l % 8 < 3 { l } else { l - 3 }),
        &|l| at(if l + 5 < 32 { l + 5 } else { l }),
        &|l| at(if l % 16 + 5 < 16 { l + 5 } else { l }),
        &|l| at(l ^ 6),
        // Lanes of the first segment would read from a later one.
        &|l| at(if l < 16 { l } else { l - 16 }),
        &|l| at(l ^ 1),
        &|l| at(l ^ 1),
        &|l| mask(l, &|l| at(l).is_multiple_of(3)),
        &|l| u32::from(l < 12),
        &|l| u32::from(l >= 12),
        &|l| (0..32).filter(|&o| at(o) % 5 == at(l) % 5).fold(0, |mask, o| mask | 1 << o),
        &|l| reduce(l, u32::wrapping_add),
        &|l| reduce(l, u32::min),
        &|l| reduce(l, u32::max),
        &|l| reduce(l, |a, b| (a as i32).min(b as i32) as u32),
        &|l| reduce(l, |a, b| (a as i32).max(b as i32) as u32),
        &|l| group(l).map(|l| at(l) | 1).reduce(|a, b| a & b).unwrap(),
        &|l| reduce(l, |a, b| a | b),
        &|l| reduce(l, |a, b| a ^ b),
    ];
    for (row, right) in right.iter().enumerate() {
        let right: Vec<_> = (0..32).map(right).collect();
        assert_eq!(out[32 * row..32 * (row + 1)], right, "row {row}");
    }
}

/// The element types of matrices: the kernel, how many elements a word has, and an element's value.
type OfMatrices = (&'static str, usize, fn(u32) -> f64);

const OF_MATRICES: [OfMatrices; 3] = [
    ("semantics_multiply_bf16", 2, |bits| f32::from_bits(bits << 16).into()),
    ("semantics_multiply_f16", 2, |bits| half::f16::from_bits(bits as u16).into()),
    ("semantics_multiply_tf32", 1, |bits| f32::from_bits(bits & !0x1fff).into()),
];

/// Products of matrices that are spread over the lanes by their rows and columns, which is the other way
/// round than the emulator's: from an element to its lane.
#[test]
fn products_of_matrices_are_those_of_their_rows_and_columns() {
    for (kernel, in_word, value) in OF_MATRICES {
        let columns = 8 * in_word;
        // Small whole numbers and halves, of which products and sums are exact.
        let number = |seed: usize, r: usize, c: usize| (seed * 31 + r * 7 + c * 13) % 17;
        let bits = |n: usize| match kernel {
            "semantics_multiply_f16" => u32::from(half::f16::from_f32(n as f32 / 2.0 - 4.0).to_bits()),
            "semantics_multiply_bf16" => (n as f32 / 2.0 - 4.0).to_bits() >> 16,
            // What is dropped is there.
            _ => (n as f32 / 2.0 - 4.0).to_bits() | 0x0abc,
        };
        let (mut a, mut b, mut c) = (vec![0; 16 * columns], vec![0; columns * 8], vec![0.0; 16 * 8]);
        let mut lanes = vec![0u32; 32 * 10];
        for row in 0..16 {
            for k in 0..columns {
                a[row * columns + k] = bits(number(1, row, k));
                // Rows 0 to 7 and the first half of the columns in a[0], and so on.
                let (half, within) = (k / (columns / 2), k % (columns / 2));
                let (lane, word) = (row % 8 * 4 + within / in_word, row / 8 + 2 * half);
                lanes[10 * lane + word] |= a[row * columns + k] << (16 * (within % in_word));
            }
            for column in 0..8 {
                c[row * 8 + column] = number(3, row, column) as f32 - 8.5;
                let (lane, word) = (row % 8 * 4 + column / 2, row / 8 * 2 + column % 2);
                lanes[10 * lane + 6 + word] = c[row * 8 + column].to_bits();
            }
        }
        for k in 0..columns {
            for column in 0..8 {
                b[k * 8 + column] = bits(number(2, k, column));
                let (half, within) = (k / (columns / 2), k % (columns / 2));
                let lane = column * 4 + within / in_word;
                lanes[10 * lane + 4 + half] |= b[k * 8 + column] << (16 * (within % in_word));
            }
        }
        let out = always(kernel, [1; 3], [32, 1, 1], &[0; 32 * 8], &lanes);
        for row in 0..16 {
            for column in 0..8 {
                let product = |other: usize| {
                    let of = |k: usize| {
                        let there = (k + other * columns / 2) % columns;
                        value(a[row * columns + k]) * value(b[there * 8 + column])
                    };
                    (0..columns).map(of).sum::<f64>()
                };
                let once = f64::from(c[row * 8 + column]) + product(0);
                let (lane, word) = (row % 8 * 4 + column / 2, row / 8 * 2 + column % 2);
                let found = |i: usize| f64::from(f32::from_bits(out[8 * lane + i]));
                assert_eq!(found(word), once, "{kernel}: row {row}, column {column}");
                // Then with the halves of B exchanged.
                assert_eq!(found(4 + word), once + product(1), "{kernel}: row {row}, column {column}");
            }
        }
    }
}

#[test]
fn matrices_are_loaded_and_transposed() {
    let words: Vec<u32> = (0..64 * 4).map(|i| (2 * i) | (2 * i + 1) << 16).collect();
    let out = always("semantics_load_matrices", [1; 3], [64, 1, 1], &[0; 64 * 9], &words);
    for thread in 0..64 {
        let (warp, g, t) = (thread / 32, thread % 32 / 4, thread % 4);
        // Element of a row of a matrix, which is its own number.
        let element = |matrix: usize, r: usize, c: usize| (((warp * 32 + matrix * 8 + r) * 8) + c) as u32;
        let two = |first: u32, second: u32| first | second << 16;
        let of = &out[9 * thread..][..9];
        for matrix in 0..4 {
            let row = two(element(matrix, g, 2 * t), element(matrix, g, 2 * t + 1));
            let column = two(element(matrix, 2 * t, g), element(matrix, 2 * t + 1, g));
            assert_eq!((of[matrix], of[4 + matrix]), (row, column), "thread {thread}, matrix {matrix}");
        }
        assert_eq!(of[8], of[4], "thread {thread}");
    }
}

#[test]
fn barriers_count_votes() {
    let out = always("semantics_barrier", [1; 3], [48, 1, 1], &[0; 48], &[]);
    assert_eq!(out, [16 << 4 | 0b1010; 48]);
}

#[test]
fn atomics_lose_nothing() {
    for build in BUILDS {
        for order in ORDERS {
            let mut memory = Words::default();
            let out = memory.add(&[0, 0, u32::MAX, 0, u32::MAX, 0, 0, 0, 0]);
            let params = [out, memory.add(&[0]), memory.add(&[0, 0])];
            let launch =
                Launch { build, order, ..launch("semantics_atomics", [3, 1, 1], [40, 1, 1], &params) };
            engine::run(&launch, &memory).unwrap();
            let sum = (0..120).sum::<u32>();
            assert_eq!(memory.read(0), [sum, 119, 0, u32::MAX, !0x7f, 1, 1, 1, 1], "{build:?} {order:?}");
            assert_eq!(memory.read(1), [60.0f32.to_bits()]);
            assert_eq!(memory.read(2), [0, 2 * 120]);
        }
    }
}

#[test]
fn nothing_is_fused_but_what_the_kernel_fuses() {
    let (a, b) = (1.0 + f32::EPSILON, 1.0 - f32::EPSILON);
    let out = always("semantics_rounding", [1; 3], [1; 3], &[0; 3], &[a, b, -1.0f32].map(f32::to_bits));
    let right = [a * b - 1.0, a.mul_add(b, -1.0), a * b - 1.0].map(f32::to_bits);
    assert_ne!(right[0], right[1]);
    assert_eq!(out, right);
}

#[test]
fn arrays_in_local_memory_belong_to_their_thread() {
    let out = always("semantics_local", [1; 3], [64, 1, 1], &[0; 64], &[]);
    let right: Vec<u32> = (0..64u32).map(|t| (0..16).map(|i| (i ^ (t % 16)) * i).sum()).collect();
    assert_eq!(out, right);
}

#[test]
fn structures_are_passed_by_value() {
    let mut memory = Words::default();
    let data: Vec<u32> = (0..12).map(|i| (i as f32).to_bits()).collect();
    let from = memory.add(&data);
    let to = memory.add(&[0; 4]);
    let scale = memory.add(&[0, (2.0f64.to_bits() >> 32) as u32]);
    let mut args = [from, 3i64.to_ne_bytes().to_vec(), 7u64.to_ne_bytes().to_vec(), to].concat();
    args.extend(4u64.to_ne_bytes());
    let params = [args, vec![0; 8], scale];
    for build in BUILDS {
        let launch = Launch { build, ..launch("semantics_arguments", [1; 3], [32, 1, 1], &params) };
        engine::run(&launch, &memory).unwrap();
        assert_eq!(memory.read(1), [0.0f32, 6.0, 12.0, 18.0].map(f32::to_bits));
    }
    let info = engine::kernel(Build::Fast, "semantics_arguments").unwrap();
    let params: Vec<_> = info.params.iter().map(|p| (p.size, p.is_pointer, p.pointee_align)).collect();
    assert_eq!(params, [(40, false, 1), (8, true, 1), (8, true, 8)]);
    assert!((16..1024).contains(&info.static_shared), "{}", info.static_shared);
    assert!(engine::kernel(Build::Fast, "no_such_kernel").is_none());
}

#[test]
fn kernels_that_macros_define_are_found() {
    let kernel = |name| engine::kernel(Build::Checked, name).map(|k| k.params.len());
    assert_eq!(kernel("semantics_macro_f32"), Some(1));
    assert_eq!(kernel("semantics_macro_f64"), Some(1));
    let out = always("semantics_macro_f64", [1; 3], [1; 3], &[0; 2], &[]);
    assert_eq!(out, [0, (2.0f64.to_bits() >> 32) as u32]);
}

#[test]
fn fresh_shared_memory_holds_nan_in_every_block() {
    for (kernel, dynamic_shared) in [("semantics_fresh_shared", 16), ("semantics_fresh_static", 0)] {
        let mut memory = Words::default();
        let params = [memory.add(&[0; 24])];
        let launch =
            Launch { build: Build::Fast, dynamic_shared, ..launch(kernel, [3, 1, 1], [8, 1, 1], &params) };
        engine::run(&launch, &memory).unwrap();
        assert_eq!(memory.read(0), [u32::MAX; 24], "{kernel}");
    }
}

#[test]
fn the_order_is_the_one_asked_for_and_random_orders_follow_their_seed() {
    let came = |order| {
        let mut memory = Words::default();
        let params = [memory.add(&[0; 2 * 3 * 50]), memory.add(&[0])];
        let launch = Launch { order, ..launch("semantics_order", [3, 1, 1], [50, 1, 1], &params) };
        engine::run(&launch, &memory).unwrap();
        memory.read(0)
    };
    // Block b counts its threads from 100 b, and again from 100 b + 50 after the barrier.
    let forward: Vec<u32> =
        [0, 50].into_iter().flat_map(|half| (0..150).map(move |i| i / 50 * 100 + half + i % 50)).collect();
    assert_eq!(came(Order::Forward), forward);
    let reverse: Vec<u32> = [0, 50]
        .into_iter()
        .flat_map(|half| (0..150).rev().map(move |i| i / 50 * 100 + half + i % 50))
        .collect();
    assert_eq!(came(Order::Reverse), reverse);
    for random in [Order::Shuffled, Order::Preempting] {
        let one = came(random(1));
        assert_eq!(one, came(random(1)));
        assert_ne!(one, came(random(2)));
        let (before, after) = one.split_at(150);
        assert!(before.iter().zip(after).any(|(b, a)| b + 50 != *a), "the same order after the barrier");
    }
}

#[test]
fn the_last_warp_of_a_block_may_have_fewer_lanes() {
    let mut memory = Words::default();
    let params = [memory.add(&[0; 64])];
    let run =
        |threads| engine::run(&launch("semantics_full_mask", [1; 3], [threads, 1, 1], &params), &memory);
    run(64).unwrap();
    let Fault { kind, message } = run(40).unwrap_err();
    assert_eq!(kind, FaultKind::WarpMask);
    assert!(message.contains("names lane 8, which this block does not have"), "{message}");
}

#[test]
fn races_are_found_only_where_they_are_looked_for() {
    let mut memory = Words::default();
    let params = [memory.add(&[0; 32]), memory.add(&[0; 32]), 32u32.to_ne_bytes().to_vec()];
    let racing = launch("global_race_in_block", [1; 3], [32, 1, 1], &params);
    assert_eq!(engine::run(&racing, &memory).unwrap_err().kind, FaultKind::Race);
    engine::run(&Launch { detect_races: false, ..racing }, &memory).unwrap();
}

#[test]
fn a_fault_leaves_everything_usable_and_no_memory_behind() {
    let resident = || {
        let pages = fs::read_to_string("/proc/self/statm").unwrap();
        pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    let mut memory = Words::default();
    let params = [memory.add(&[0; 512]), memory.add(&[0; 512]), 500u32.to_ne_bytes().to_vec()];
    let bad = launch("barrier_on_two_lines", [1; 3], [512, 1, 1], &params);
    let good = launch("barrier_on_two_lines_ok", [1; 3], [512, 1, 1], &params);
    let mut before = 0;
    for i in 0..600 {
        if i == 100 {
            before = resident();
        }
        assert_eq!(engine::run(&bad, &memory).unwrap_err().kind, FaultKind::Divergence);
        engine::run(&good, &memory).unwrap();
    }
    // A leaked stack is two pages at least, and there were 500 times 512.
    let grown = resident().saturating_sub(before);
    assert!(grown < 64 << 20, "{grown} bytes more");
}

#[test]
fn launches_on_several_os_threads_do_not_disturb_each_other() {
    thread::scope(|scope| {
        for seed in 0..4 {
            scope.spawn(move || {
                for round in 0..40 {
                    let input: Vec<u32> = (0..64).map(|i| ((i * 4 + seed) as f32).to_bits()).collect();
                    let mut memory = Words::default();
                    let params = [memory.add(&[0; 64]), memory.add(&input), 64u32.to_ne_bytes().to_vec()];
                    let build = BUILDS[round % 2];
                    let order = Order::Shuffled(round as u64);
                    let base = launch("missing_syncthreads_ok", [1; 3], [64, 1, 1], &params);
                    engine::run(&Launch { build, order, ..base }, &memory).unwrap();
                    assert!(memory.read(0).iter().eq(input.iter().rev()));
                }
            });
        }
    });
}
