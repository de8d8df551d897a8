//! Kernels with planted bugs: the checked build finds each, and names its line, in every order of threads.
//! Beside each stands its correct twin, which passes with the right result in both builds.

use std::fs;
use std::sync::atomic::AtomicU8;

use hyperscatter_emulator::engine;
use hyperscatter_emulator::interface::{Allocation, Build, Fault, FaultKind, Launch, Memory, Order, Space};

const ORDERS: [Order; 5] =
    [Order::Forward, Order::Reverse, Order::Shuffled(1), Order::Preempting(2), Order::Preempting(3)];

/// One bug: the kernel, its twin, and how they are launched.
#[derive(Clone, Copy)]
struct Case {
    file: &'static str,
    bug: &'static str,
    twin: &'static str,
    kind: FaultKind,
    /// What the message must also say.
    says: &'static str,
    grid: u32,
    block: u32,
    /// Elements of `in` and of `out`.
    n: usize,
    /// Dynamic shared memory of the launches with and without the bug.
    dynamic: [u32; 2],
    /// What the launch with the bug does to `in`.
    input: Input,
    /// Element i of the twin's `out`; element i of `in` is i + 1.
    right: fn(usize, usize) -> f32,
}

#[derive(Clone, Copy, PartialEq)]
enum Input {
    Written,
    Unwritten,
    Freed,
}

const fn case(file: &'static str, bug: &'static str, twin: &'static str, kind: FaultKind) -> Case {
    Case {
        file,
        bug,
        twin,
        kind,
        says: "",
        grid: 1,
        block: 32,
        n: 32,
        dynamic: [0; 2],
        input: Input::Written,
        right: |i, _| input(i),
    }
}

const fn input(i: usize) -> f32 {
    i as f32 + 1.0
}

const BOUNDS: &str = "planted_bounds.cu";
const ORDER: &str = "planted_order.cu";
const COPIES: &str = "planted_copies.cu";
const MEETING: &str = "planted_meeting.cu";
const MATRICES: &str = "planted_matrices.cu";
const ARITHMETIC: &str = "planted_arithmetic.cu";

const CASES: &[Case] = &[
    Case {
        says: "0 bytes behind the end of allocation 1 (400 bytes)",
        grid: 4,
        n: 100,
        right: |i, n| if i + 1 < n { input(i + 1) } else { 0.0 },
        ..case(BOUNDS, "read_behind_end", "read_behind_end_ok", FaultKind::OutOfBounds)
    },
    Case {
        says: "4 bytes before the start of allocation 1",
        right: |i, _| if i > 0 { input(i - 1) } else { 0.0 },
        ..case(BOUNDS, "read_before_start", "read_before_start_ok", FaultKind::OutOfBounds)
    },
    Case {
        says: "a write of 4 bytes",
        block: 64,
        right: |_, _| 7.0,
        ..case(BOUNDS, "write_behind_end", "write_behind_end_ok", FaultKind::OutOfBounds)
    },
    Case {
        n: 30,
        right: |i, _| 2.0 * input(i),
        ..case(BOUNDS, "partial_tile", "partial_tile_ok", FaultKind::OutOfBounds)
    },
    Case {
        says: "index 32 is outside of 'float [32]'",
        ..case(BOUNDS, "static_shared_bounds", "static_shared_bounds_ok", FaultKind::OutOfBounds)
    },
    Case {
        says: "byte 128 of the dynamic shared memory, of which the launch has 128 bytes",
        dynamic: [128; 2],
        ..case(BOUNDS, "dynamic_shared_bounds", "dynamic_shared_bounds_ok", FaultKind::OutOfBounds)
    },
    Case {
        says: "of which the launch has 124 bytes",
        dynamic: [124, 128],
        ..case(BOUNDS, "dynamic_shared_bounds_ok", "dynamic_shared_bounds_ok", FaultKind::OutOfBounds)
    },
    Case {
        right: |i, n| input(n - 1 - i),
        ..case("planted.cuh", "bug_in_header", "bug_in_header_ok", FaultKind::OutOfBounds)
    },
    case(BOUNDS, "null_pointer", "null_pointer_ok", FaultKind::OutOfBounds),
    Case {
        says: "whose end it crosses",
        ..case(BOUNDS, "copy_struct", "copy_struct_ok", FaultKind::OutOfBounds)
    },
    Case {
        says: "of allocation 1 (128 bytes), which has been freed",
        input: Input::Freed,
        ..case(BOUNDS, "copy", "copy", FaultKind::UseAfterFree)
    },
    Case {
        says: "of allocation 1 (128 bytes), which was never written",
        input: Input::Unwritten,
        ..case(BOUNDS, "copy", "copy", FaultKind::Uninitialised)
    },
    Case {
        right: |i, _| if i % 2 == 0 { input(i) } else { 0.0 },
        ..case(ORDER, "uninitialised_shared", "uninitialised_shared_ok", FaultKind::Uninitialised)
    },
    Case {
        says: "block (1, 0, 0)",
        grid: 2,
        n: 64,
        dynamic: [128; 2],
        right: |i, _| input(i % 32),
        ..case(BOUNDS, "unwritten_dynamic", "unwritten_dynamic_ok", FaultKind::Uninitialised)
    },
    Case {
        says: "block (1, 0, 0)",
        grid: 2,
        n: 64,
        right: |i, _| input(i % 32),
        ..case(BOUNDS, "unwritten_static", "unwritten_static_ok", FaultKind::Uninitialised)
    },
    Case {
        says: "block (1, 0, 0)",
        grid: 2,
        n: 64,
        right: |i, _| input(i % 32),
        ..case(ORDER, "unwritten_by_later_block", "unwritten_by_later_block_ok", FaultKind::Uninitialised)
    },
    Case {
        says: "unordered with",
        block: 64,
        n: 64,
        right: |i, n| input(n - 1 - i),
        ..case(ORDER, "missing_syncthreads", "missing_syncthreads_ok", FaultKind::Race)
    },
    Case {
        says: "block (1, 0, 0)",
        grid: 3,
        n: 96,
        right: |i, _| input(31 - i % 32) + 32.0,
        ..case(ORDER, "late_race", "late_race_ok", FaultKind::Race)
    },
    Case {
        block: 64,
        n: 64,
        right: |i, n| 3.0 * input(n - 1 - i) + 3.0,
        ..case(ORDER, "reused_buffer", "reused_buffer_ok", FaultKind::Race)
    },
    Case {
        right: |i, n| input(n - 1 - i),
        ..case(ORDER, "missing_syncwarp", "missing_syncwarp_ok", FaultKind::Race)
    },
    Case { right: |i, _| input(i ^ 15), ..case(ORDER, "wrong_half", "wrong_half_ok", FaultKind::Race) },
    Case { right: |_, _| 0.0, ..case(ORDER, "shuffle_for_order", "shuffle_for_order_ok", FaultKind::Race) },
    Case {
        says: "of allocation 2 (128 bytes)",
        right: |i, n| if i < n / 2 { input(i) } else { 1.0 },
        ..case(ORDER, "global_race_in_block", "global_race_in_block_ok", FaultKind::Race)
    },
    Case { block: 48, right: |_, _| 0.0, ..case(ORDER, "byte_race", "byte_race_ok", FaultKind::Race) },
    Case {
        grid: 3,
        n: 96,
        right: |i, _| input(i % 32),
        ..case(ORDER, "race_between_blocks", "race_between_blocks_ok", FaultKind::Race)
    },
    Case {
        grid: 2,
        n: 64,
        right: |i, _| input(i / 32 * 32 + 31 - i % 32),
        ..case(ORDER, "read_between_blocks", "read_between_blocks_ok", FaultKind::Race)
    },
    Case {
        says: "atomic access",
        block: 64,
        n: 64,
        right: |_, _| 64.0,
        ..case(ORDER, "store_against_atomic", "store_against_atomic_ok", FaultKind::Race)
    },
    Case {
        says: "to which a copy is under way",
        ..case(COPIES, "missing_wait", "missing_wait_ok", FaultKind::Uninitialised)
    },
    case(COPIES, "never_waited_for", "never_waited_for_ok", FaultKind::Undefined),
    Case {
        right: |i, _| 2.0 * input(i),
        ..case(COPIES, "wait_for_too_few", "wait_for_too_few_ok", FaultKind::Uninitialised)
    },
    Case {
        right: |i, n| input(n - 1 - i),
        ..case(COPIES, "wait_without_syncwarp", "wait_without_syncwarp_ok", FaultKind::Race)
    },
    Case {
        right: |_, n| input(n),
        ..case(COPIES, "copy_over_a_read", "copy_over_a_read_ok", FaultKind::Race)
    },
    Case {
        right: |i, n| if i + 1 < n { input(i + 1) } else { 0.0 },
        ..case(COPIES, "copy_behind_the_end", "copy_behind_the_end_ok", FaultKind::OutOfBounds)
    },
    Case {
        right: |i, _| input(if i < 4 { i + 4 } else { i }),
        ..case(COPIES, "misaligned_copy", "misaligned_copy_ok", FaultKind::Misaligned)
    },
    Case {
        says: "to which a copy is under way",
        ..case(COPIES, "wide_read_of_a_copy", "wide_read_of_a_copy_ok", FaultKind::Uninitialised)
    },
    Case {
        says: "no shared memory",
        ..case(COPIES, "copy_to_global", "copy_to_global_ok", FaultKind::OutOfBounds)
    },
    Case {
        says: "no multiple of 16",
        ..case(MATRICES, "matrix_row_misaligned", "matrix_row_ok", FaultKind::Misaligned)
    },
    Case {
        says: "no shared memory",
        ..case(MATRICES, "matrix_row_of_global_memory", "matrix_row_ok", FaultKind::OutOfBounds)
    },
    case(MATRICES, "matrix_row_unwritten", "matrix_row_ok", FaultKind::Uninitialised),
    Case {
        right: |i, n| input(n - 1 - i),
        ..case(MATRICES, "matrix_row_without_syncwarp", "matrix_row_without_syncwarp_ok", FaultKind::Race)
    },
    Case {
        says: "which names lane 31, which has exited,",
        ..case(
            MATRICES,
            "fragment_of_a_lane_that_is_gone",
            "fragment_of_a_lane_that_is_gone_ok",
            FaultKind::WarpMask,
        )
    },
    Case {
        says: "another lane of it waits in an operation on matrices",
        ..case(MATRICES, "fragments_of_two_products", "fragments_of_two_products_ok", FaultKind::Divergence)
    },
    Case {
        block: 64,
        n: 60,
        right: |i, n| input(n - 1 - i),
        ..case(MEETING, "early_return", "early_return_ok", FaultKind::Divergence)
    },
    Case {
        block: 64,
        n: 64,
        ..case(MEETING, "barrier_on_two_lines", "barrier_on_two_lines_ok", FaultKind::Divergence)
    },
    Case {
        says: "by lane 31, which is not in it",
        right: |_, _| 1.0,
        ..case(MEETING, "lane_outside_its_mask", "lane_outside_its_mask_ok", FaultKind::WarpMask)
    },
    Case {
        says: "which names lane 0, which has exited,",
        right: |_, _| 2.0,
        ..case(MEETING, "mask_of_exited_lane", "mask_of_exited_lane_ok", FaultKind::WarpMask)
    },
    Case {
        right: |i, _| input(i ^ 8),
        ..case(MEETING, "source_outside_the_mask", "source_outside_the_mask_ok", FaultKind::WarpMask)
    },
    Case {
        right: |i, _| input(i % 2),
        ..case(MEETING, "shuffle_on_two_lines", "shuffle_on_two_lines_ok", FaultKind::Divergence)
    },
    Case {
        says: "63 threads wait in __syncthreads",
        block: 64,
        n: 64,
        ..case(MEETING, "deadlock", "deadlock_ok", FaultKind::Deadlock)
    },
    Case { block: 8, ..case(ARITHMETIC, "misaligned_vector", "misaligned_vector_ok", FaultKind::Misaligned) },
    Case { block: 8, ..case(ARITHMETIC, "misaligned_store", "misaligned_store_ok", FaultKind::Misaligned) },
    Case {
        says: "does not fit into 'int'",
        ..case(ARITHMETIC, "signed_overflow", "signed_overflow_ok", FaultKind::Undefined)
    },
    Case {
        says: "division of 32 by 0",
        right: |i, n| (n / (i % 4 + 1)) as f32,
        ..case(ARITHMETIC, "division_by_zero", "division_by_zero_ok", FaultKind::Undefined)
    },
    Case {
        says: "by 32",
        right: |i, _| (1u32 << i) as f32,
        ..case(ARITHMETIC, "wide_shift", "wide_shift_ok", FaultKind::Undefined)
    },
    Case {
        right: |i, _| {
            let mut state = i + 1;
            while state < 1000 {
                state *= 2;
            }
            input(i) + state as f32
        },
        ..case(ARITHMETIC, "endless_loop", "endless_loop_ok", FaultKind::Timeout)
    },
    Case { right: |_, _| 0.0, ..case(ARITHMETIC, "endless_wait", "endless_wait_ok", FaultKind::Timeout) },
    case(ARITHMETIC, "trap", "trap_ok", FaultKind::Undefined),
];

#[test]
fn every_planted_bug_is_found_with_its_line_in_every_order() {
    for case in CASES {
        for order in ORDERS {
            let outcome = case.launch(case.bug, Build::Checked, order, case.dynamic[0], case.input);
            let Err(Fault { kind, message }) = outcome else {
                panic!("{} {order:?}: not found", case.bug);
            };
            let line = bug_line(case.file, case.bug);
            assert_eq!(kind, case.kind, "{message}");
            for part in [&format!("kernel {}: ", case.bug), case.says, &line, "block (", "thread ("] {
                assert!(message.contains(part), "{order:?}: {part:?} is missing in: {message}");
            }
        }
    }
}

#[test]
fn every_correct_twin_passes_in_both_builds_and_every_order() {
    for case in CASES {
        for build in [Build::Fast, Build::Checked] {
            for order in ORDERS {
                let out = case.launch(case.twin, build, order, case.dynamic[1], Input::Written);
                let right: Vec<_> = (0..case.n).map(|i| (case.right)(i, case.n)).collect();
                assert_eq!(out.as_ref(), Ok(&right), "{} {build:?} {order:?}", case.twin);
            }
        }
    }
}

#[test]
fn every_planted_kernel_is_tested() {
    let source = |file: &str| fs::read_to_string(format!("{}/kernels/{file}", env!("CARGO_MANIFEST_DIR")));
    for file in [BOUNDS, ORDER, MEETING, ARITHMETIC] {
        let source = source(file).unwrap();
        for kernel in source.split("__global__ void ").skip(1) {
            let name = &kernel[..kernel.find('(').unwrap()];
            assert!(CASES.iter().any(|case| case.bug == name || case.twin == name), "{name}");
            assert!(engine::kernel(Build::Fast, name).is_some(), "{name}");
        }
    }
}

/// "file.cu:12": the first line of the kernel that is marked as the bug.
fn bug_line(file: &str, kernel: &str) -> String {
    let path = format!("{}/kernels/{file}", env!("CARGO_MANIFEST_DIR"));
    let source = fs::read_to_string(path).unwrap();
    let lines = source.lines().zip(1..);
    let mut of_kernel = lines.skip_while(|(line, _)| !line.contains(&format!(" {kernel}(")));
    let (_, line) = of_kernel.find(|(line, _)| line.contains("// BUG")).unwrap();
    format!("{file}:{line},")
}

impl Case {
    /// Runs a kernel on fresh memory; returns `out`.
    fn launch(
        &self,
        kernel: &'static str,
        build: Build,
        order: Order,
        dynamic_shared: u32,
        state: Input,
    ) -> Result<Vec<f32>, Fault> {
        let mut memory = Buffers::default();
        let input = memory.add(&(0..self.n).map(input).collect::<Vec<_>>(), state);
        let out = memory.add(&vec![0.0; self.n], Input::Written);
        let params = [out, input, self.n].map(|p| p.to_ne_bytes().to_vec());
        let [out_param, in_param, n] = params;
        engine::run(
            &Launch {
                kernel,
                build,
                grid: [self.grid, 1, 1],
                block: [self.block, 1, 1],
                dynamic_shared,
                params: &[out_param, in_param, n[..4].to_vec()],
                order,
                detect_races: true,
            },
            &memory,
        )?;
        Ok(memory.read(out))
    }
}

/// A device's memory: numbered buffers.
#[derive(Default)]
struct Buffers {
    allocations: Vec<(Allocation, Box<[Line]>)>,
}

/// Aligned as device memory is.
#[repr(align(256))]
#[derive(Clone, Copy)]
struct Line([f32; 64]);

impl Buffers {
    /// A new allocation with these elements; returns its address.
    fn add(&mut self, values: &[f32], state: Input) -> usize {
        // One line more, so that what lies behind is no other allocation.
        let mut lines = vec![Line([f32::NAN; 64]); values.len() / 64 + 2].into_boxed_slice();
        for (line, chunk) in lines.iter_mut().zip(values.chunks(64)) {
            line.0[..chunk.len()].copy_from_slice(chunk);
        }
        let len = size_of_val(values);
        let written = u8::from(state == Input::Written);
        let allocation = Allocation {
            base: lines.as_mut_ptr() as usize,
            len,
            space: Space::Device,
            number: self.allocations.len() as u64 + 1,
            freed: state == Input::Freed,
            written: Some((0..len).map(|_| AtomicU8::new(written)).collect()),
        };
        let base = allocation.base;
        self.allocations.push((allocation, lines));
        base
    }

    fn read(&self, base: usize) -> Vec<f32> {
        let (allocation, lines) = self.allocations.iter().find(|(a, _)| a.base == base).unwrap();
        let values = lines.iter().flat_map(|line| line.0);
        values.take(allocation.len / 4).collect()
    }
}

impl Memory for Buffers {
    fn find(&self, address: usize) -> Option<&Allocation> {
        let all = || self.allocations.iter().map(|(allocation, _)| allocation);
        let contains = |a: &&Allocation| (a.base..a.base + a.len).contains(&address);
        let near = |a: &&Allocation| (a.base.saturating_sub(256)..a.base + a.len + 256).contains(&address);
        all().find(|a| contains(a) && !a.freed).or_else(|| all().find(contains)).or_else(|| all().find(near))
    }
}
