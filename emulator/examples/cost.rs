//! What the emulator itself costs, in nanoseconds for each thread or access, in both builds.

use std::sync::atomic::AtomicU8;
use std::time::Instant;

use hyperscatter_emulator::engine;
use hyperscatter_emulator::interface::{Allocation, Build, Launch, Memory, Order, Space};

const THREADS: u32 = 256;
const BLOCKS: u32 = 4;
const STEPS: usize = 256;

struct Buffers([(Allocation, Vec<u128>); 2]);

impl Memory for Buffers {
    fn find(&self, address: usize) -> Option<&Allocation> {
        self.0.iter().map(|(a, _)| a).find(|a| (a.base..a.base + a.len).contains(&address))
    }
}

fn buffer(number: u64) -> (Allocation, Vec<u128>) {
    let len = THREADS as usize * STEPS * 4;
    let words = vec![0u128; len / 16];
    let written = Some((0..len).map(|_| AtomicU8::new(1)).collect());
    let base = words.as_ptr() as usize;
    (Allocation { base, len, space: Space::Device, number, freed: false, written }, words)
}

/// The best of several runs, in nanoseconds.
fn best(launch: &Launch<'_>, memory: &Buffers) -> f64 {
    let once = || {
        let start = Instant::now();
        engine::run(launch, memory).expect("a correct kernel");
        start.elapsed().as_secs_f64() * 1e9
    };
    (0..20).map(|_| once()).fold(f64::MAX, f64::min)
}

fn main() {
    let memory = Buffers([buffer(1), buffer(2)]);
    let [out, input] = [0, 1].map(|i| memory.0[i].0.base.to_ne_bytes().to_vec());
    let params = [out, input, (STEPS as u32).to_ne_bytes().to_vec()];
    // The kernel, what it does, its blocks and threads, and how often each thread does it.
    let kernels = [
        ("cost_nothing", "launch", 1, 1, 1),
        ("cost_nothing", "thread", BLOCKS, THREADS, 1),
        ("cost_global", "access to global memory", 1, THREADS, 2 * STEPS),
        ("cost_global_vector", "16-byte access to global memory", 1, THREADS, STEPS / 2),
        ("cost_shared", "volatile access to shared memory", BLOCKS, THREADS, 2 * STEPS),
        ("cost_barrier", "thread at a barrier", BLOCKS, THREADS, STEPS),
        ("cost_shuffle", "lane in a shuffle", BLOCKS, THREADS, STEPS),
    ];
    for (kernel, what, grid, threads, count) in kernels {
        print!("{what:32}");
        let builds = [
            ("fast", Build::Fast, false),
            ("checked", Build::Checked, false),
            ("races", Build::Checked, true),
        ];
        for (name, build, detect_races) in builds {
            let launch = Launch {
                kernel,
                build,
                grid: [grid, 1, 1],
                block: [threads, 1, 1],
                dynamic_shared: 0,
                params: &params,
                order: Order::Forward,
                detect_races,
            };
            let each = best(&launch, &memory) / f64::from(grid * threads) / count as f64;
            print!("  {name} {each:6.1} ns");
        }
        println!();
    }
}
