//! The operators on the device against a copy of their features in the same run.
//!
//! | case | topology | instances | F |
//! |---|---|---|---|
//! | A | 8 vertices, all 28 pairs | 24,576 | 32, 64, 128, 256 |
//! | B | 16 vertices, all 560 triples | 24,576 | 32, 64, 128, 256 |
//! | C | of the size of Cora's co-citations: 2,708 × 1,579, 4,786 incidences | 1 | 64, 256 |
//! | D | 10⁶ × 10⁶, 10⁸ incidences, or 2·10⁷ where memory is short | 1 | 64, 256 |
//! | L | 4 vertices, all pairs; 8, all pairs; 16, all triples: layers in one pass | 24,576 | 64, 128, 256, 512 |
//! | E | 2, 4, 8, 12, 24, 32, 48 and 64 vertices, all pairs: the convolution alone | 64 to 98,304 | 64; of 8 vertices 8, 16, 20, 256, 512, too |
//!
//! Each case but L runs in `f32` and `bf16`. A at F = 256 and D at F = 64 also run with checks, in `f32`. C
//! and D are synthetic: sizes of hyperedges and degrees of vertices fall by power laws. The steps are sums.
//! The convolution is normalized by rows, with documented weights that all instances share; it is also timed
//! with weights of its own for each instance. A and B run on the dense path, and at F = 256 also on that of
//! the gathers, which the name of the run says; A with vertex-major rows, too, and B without the asynchronous
//! copies that its backward has on devices that can. A and B, and C on the path of the gathers, are also
//! timed with epilogues at F = 256: a bias, activations, a residual, a readout, and the backwards of some.
//!
//! L has layers act(M (x Θᵀ) + b) in one pass, with as many inputs as features, a bias and ReLU, and their
//! gradients of x, Θ, the weights and the bias: at F = 256 in `f32` by both precisions, `f16` and `bf16`, and
//! with weights of its own for each instance, too; else of 8 vertices in the same types, and of 4 and 16 in
//! `bf16`. There are none in `f32` at F = 512. Of 8 vertices at F = 256 there is also the convolution with
//! the same epilogue, which a product with Θ would have to come before. Such a product alone is not timed
//! here, since this crate has none: `benches/peers` has torch's beside the layer. What the device has no
//! layers for is said, with the limit that it is beyond.
//!
//! B takes the most memory, 33 GB at F = 256: z and the saved z have rows of hyperedges, which take 14 GB. On
//! the path of the gathers the workspace has two such sets, and no z is saved. Where there is less room,
//! instances are halved until they fit. D needs 8 GB.
//!
//! # Time
//! Time is the device's, between two events around a batch of calls. It is the median of 10 batches, which
//! take 0.2 seconds together after 0.05 of warming up; a batch is a single call where calls are long. The
//! calls of a batch take turns on several sets of operands, together larger than any cache. Calls are queued
//! one by one, not as a graph, so the time of the shortest (C) is that of queueing their launches. Everything
//! is meant to take less than 240 seconds on an H100. No run is begun after that, and what is left out is
//! said.
//!
//! # Columns
//! * `MB`: the compulsory bytes, each feature row that is an operand once;
//! * uncached bytes: what is moved if nothing is cached, such as a row for each incidence of each gather.
//!   Rows that are used often come from caches, which may give more than the memory's bandwidth;
//! * `floor`: the time that the copy would take for the compulsory bytes;
//! * `% of copy`: floor / time.
//!
//! Both numbers of bytes are those of `Plan::explain`.
//!
//! # Choices
//! An argument chooses cases, as with criterion: `cargo bench --bench gpu -- 'B.*256, bf16/conv'`. With
//! `HYPERSCATTER_BENCH_SMALL=1` or `--test` sizes are tiny, for a rehearsal. Without a driver or a device
//! nothing is measured, and the output says so; with `HYPERSCATTER_GPU=real` that is a failure.

mod cases;
mod clock;
mod loaded;
mod table;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use criterion::{BenchmarkGroup, Criterion, SamplingMode, measurement::WallTime};
use hyperscatter::cuda::{Checks, Device, DeviceBatch, LoadedModule, Plan};
use hyperscatter::half::{bf16, f16};
use hyperscatter::{Batch, Error, Incidence, Operator};

use cases::{Case, Element, Run, Size, cases};
use loaded::{Call, Feature, Loaded, obstacle};
use table::{Measured, Row, print};

/// The batches of calls that are timed; criterion takes no fewer.
const SAMPLES: usize = 10;

/// After this time no run is begun.
const LONGEST: Duration = Duration::from_secs(235);

/// The memory that has to be free on the host and on the device for 10⁸ incidences: 3 GB while the tables are
/// made, and 9 GB with the operands at F = 256. Other processes may want some.
const BYTES_OF_LARGEST: u64 = 12_000_000_000;

/// A case whose tables are uploaded when it is first measured: what the command line leaves out is never
/// loaded.
struct Tables<'a> {
    device: &'a Device,
    case: &'a Case,
    batch: Option<DeviceBatch>,
}

impl Tables<'_> {
    fn batch(&mut self) -> &DeviceBatch {
        self.batch
            .get_or_insert_with(|| self.device.upload(&Batch::replicate((self.case.topology)())).unwrap())
    }

    fn load<T: Feature>(&mut self, run: Run, rotate: bool) -> Loaded<T> {
        let copies = self.case.copies;
        let loaded = Loaded::new(self.batch(), run, copies, rotate);
        if loaded.copies < self.case.copies {
            println!("{}, {run}: {} instances, since memory is short", self.case.name, loaded.copies);
        }
        loaded
    }

    /// What keeps the device from the layers of a run. Of other runs nothing is loaded for that.
    fn obstacle(&mut self, run: Run) -> Option<Error> {
        if !run.has_layers() {
            return None;
        }
        match run.element {
            Element::F32 => obstacle::<f32>(self.batch(), run),
            Element::F16 => obstacle::<f16>(self.batch(), run),
            Element::Bf16 => obstacle::<bf16>(self.batch(), run),
        }
    }
}

/// Times the calls of a run.
fn measure<T: Feature>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    calls: &[Call],
    mut load: impl FnMut() -> Loaded<T>,
) -> Vec<Row> {
    let mut loaded = None;
    let rows = calls.iter().filter_map(|&call| {
        let mut means = Vec::new();
        group.bench_function(call.name(), |b| {
            b.iter_custom(|calls| {
                let time = loaded.get_or_insert_with(&mut load).time(call, calls);
                means.push(time.as_secs_f64() / calls as f64);
                time
            });
        });
        // The samples come last, after the batches that warm up. There are none if the command line leaves
        // the call out.
        let mut samples = means.split_off(means.len().saturating_sub(SAMPLES));
        samples.sort_by(f64::total_cmp);
        let seconds = *samples.get(samples.len() / 2)?;
        let loaded = loaded.as_mut()?;
        loaded.check();
        Some(Row { call, seconds, bytes: loaded.bytes(call) })
    });
    rows.collect()
}

/// Prints how long the driver takes to load the kernels, for training and for all operators, and to call each
/// once.
fn print_loading_time(device: &Device) {
    let is_cached = std::env::var_os("CUDA_CACHE_DISABLE").is_none_or(|disabled| disabled != "1");
    let batch = device.upload(&Batch::replicate(Incidence::subsets(3, 2).unwrap())).unwrap();
    let begin = Instant::now();
    let plan = Plan::<f32>::builder(&batch, 4).checks(Checks::Off).build().unwrap();
    let stream = device.context().default_stream();
    drop(plan.workspace_for(&stream, 1, Operator::TRAINING).unwrap());
    let for_training = device.loaded_modules();
    drop(plan.workspace_for(&stream, 1, Operator::ALL).unwrap());
    let loaded = begin.elapsed();
    let modules = device.loaded_modules();
    let mut calls = Loaded::<f32>::new(&batch, Run::of(4), 1, false);
    for &call in Call::ALL {
        calls.time(call, 1);
    }
    println!(
        "loading the kernels took {:.0} ms, and {:.0} ms with a first call of each operator ({})",
        loaded.as_secs_f64() * 1e3,
        begin.elapsed().as_secs_f64() * 1e3,
        match is_cached {
            true => "compiled from PTX, or from the driver's cache: CUDA_CACHE_DISABLE=1 tells them apart",
            false => "compiled from PTX, without the driver's cache",
        }
    );
    for LoadedModule { name, bytes, is_native, time, .. } in &modules {
        let kind = if *is_native { "native code" } else { "PTX" };
        println!("    {name:<20} {bytes:>7} bytes of {kind:<11} {:>6.0} ms", time.as_secs_f64() * 1e3);
    }
    for (name, of) in [("for training", &for_training), ("all", &modules)] {
        let bytes: usize = of.iter().map(|module| module.bytes).sum();
        let time: Duration = of.iter().map(|module| module.time).sum();
        println!("    {name:<20} {bytes:>7} bytes {:>21.0} ms", time.as_secs_f64() * 1e3);
    }
}

/// The memory that the host has left, where it can be known.
fn host_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

fn main() -> ExitCode {
    let begin = Instant::now();
    if std::env::var_os("HYPERSCATTER_EMULATED").is_some() {
        // A rehearsal, so that the benchmark is known to run where it is needed.
        let emulator = hyperscatter_emulator::control::install().unwrap();
        emulator.device(0).set_build(hyperscatter_emulator::interface::Build::Fast);
        println!("on the emulated driver, whose times mean nothing");
    }

    let device = match Device::open(0) {
        Ok(device) => device,
        Err(error) => {
            println!("nothing was measured: {error}");
            let real = std::env::var_os("HYPERSCATTER_GPU").is_some_and(|gpu| gpu == "real");
            return if real { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    // As with criterion, benchmarks are tried, not timed, unless cargo says `--bench`.
    let arguments: Vec<String> = std::env::args().collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let tried = has("--test") || !has("--bench");
    let small = tried || std::env::var_os("HYPERSCATTER_BENCH_SMALL").is_some_and(|small| small == "1");
    let (free, _) = device.context().mem_get_info().unwrap();
    let largest =
        free as u64 >= BYTES_OF_LARGEST && host_memory().is_some_and(|free| free >= BYTES_OF_LARGEST);
    let size = match (small, largest) {
        (true, _) => Size::Tiny,
        (false, true) => Size::Full,
        (false, false) => Size::Short,
    };

    println!("{}, {:.1} GB free", device.context().name().unwrap(), free as f64 / 1e9);
    print_loading_time(&device);
    if !small {
        let short = if largest { "10^8" } else { "2 * 10^7, since memory is short" };
        println!("D has 10^6 x 10^6 and {short} incidences");
    }
    let mut criterion = Criterion::default()
        .without_plots()
        .sample_size(SAMPLES)
        .warm_up_time(Duration::from_millis(50))
        .measurement_time(Duration::from_millis(200))
        .nresamples(2_000)
        .configure_from_args();
    let mut table = Vec::new();
    for case in &cases(size) {
        let mut tables = Tables { device: &device, case, batch: None };
        for &run in &case.runs {
            let name = format!("{} x {}, {run}", case.name, case.copies);
            if begin.elapsed() > LONGEST {
                println!("LEFT OUT, since {} s are over: {name}", LONGEST.as_secs());
                continue;
            }
            if let Some(error) = tables.obstacle(run) {
                println!("NOT ON THIS DEVICE: {name}: {error}");
                continue;
            }
            let mut group = criterion.benchmark_group(&name);
            group.sampling_mode(SamplingMode::Flat);
            let rows = match run.element {
                Element::F32 => measure(&mut group, run.calls(), || tables.load::<f32>(run, !small)),
                Element::F16 => measure(&mut group, run.calls(), || tables.load::<f16>(run, !small)),
                Element::Bf16 => measure(&mut group, run.calls(), || tables.load::<bf16>(run, !small)),
            };
            group.finish();
            table.push(Measured { run: name, rows });
        }
    }
    criterion.final_summary();
    table.retain(|measured| !measured.rows.is_empty());
    if !table.is_empty() {
        if small {
            println!("\nA rehearsal with tiny sizes: the times below mean nothing.");
        }
        println!();
        print(&table);
    }
    println!("\n{} s", begin.elapsed().as_secs());
    ExitCode::SUCCESS
}
