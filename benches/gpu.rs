//! Both scatter steps on the device against a copy of as many bytes, in compulsory bytes: each row of one side is read
//! once, each row of the other is written once. `GB/s` counts those. `gathered` counts what would be moved without caches,
//! a row for each incidence; where rows are used often it is above the memory's bandwidth.
//!
//! * A: 24,576 × (8 vertices, 28 pairs), F = 32 and 256;
//! * B: 24,576 × (16 vertices, 560 triples), F = 32; at F = 256 it is a quarter of the instances, 6,144, whose two sets of
//!   rows take 7 GB instead of 29;
//! * C: one hypergraph of the size of Cora's co-citations, 2,708 × 1,579 with 4,786 incidences, F = 256. A call takes
//!   about as long as its launch does, so that both show in the time;
//! * D: one hypergraph of 10⁶ × 10⁶ with 10⁸ incidences, or 2·10⁷ where memory is short, F = 64.
//!
//! C and D are synthetic: sizes of hyperedges and degrees of vertices fall by power laws. `f32`, sums.
//!
//! Time is that of the device, between two events around a batch of calls. The calls of a batch take turns on several
//! sets of rows, together larger than any cache. The copy takes turns on the same memory.
//!
//! `HYPERSCATTER_BENCH_SMALL=1`, or `--test`: tiny sizes, for a rehearsal. Without a driver or a device nothing is measured,
//! which is said; with `HYPERSCATTER_GPU=real` it is a failure.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkGroup, Criterion, measurement::WallTime};
use hyperscatter::cuda::cudarc::driver::{CudaEvent, CudaSlice, CudaStream, sys};
use hyperscatter::cuda::{Checks, Device, Operator, Plan, Step, Workspace};
use hyperscatter::{Batch, Conv, Incidence, Out, Repeats, Rows};

/// What the sets of rows of a case have in bytes, together, at least: three times the largest L2 cache (60 MB) of the
/// devices that this was written for.
const ROTATED_BYTES: usize = 3 * 60_000_000;

/// The batches of calls that are timed. The median of their means is what the table shows.
const SAMPLES: usize = 10;

/// What has to be free on the host and on the device for 10⁸ incidences: 3 GB while the tables are made, and 2 GB with two
/// sets of rows; as much again, since others may want some.
const BYTES_OF_LARGEST: u64 = 6_000_000_000;

/// One topology, `copies` times, with `features` features.
struct Case {
    name: &'static str,
    topology: Box<dyn Fn() -> Incidence>,
    copies: usize,
    features: usize,
    /// What its sets of rows have in bytes, together, at least. There are two sets or more.
    rotated_bytes: usize,
}

fn cases(small: bool, largest: bool) -> Vec<Case> {
    let case = |name, features, copies: usize, topology: Box<dyn Fn() -> Incidence>| Case {
        name,
        topology,
        copies: if small { copies.min(3) } else { copies },
        features,
        rotated_bytes: if small { 0 } else { ROTATED_BYTES },
    };
    let pairs = || Box::new(|| Incidence::subsets(8, 2).unwrap());
    let triples = || Box::new(|| Incidence::subsets(16, 3).unwrap());
    let (n, n_incidences) = match (small, largest) {
        (true, _) => (100, 6_000),
        (false, false) => (1_000_000, 20_000_000),
        (false, true) => (1_000_000, 100_000_000),
    };
    vec![
        case("A: (8, 28 pairs)", 32, 24_576, pairs()),
        case("A: (8, 28 pairs)", 256, 24_576, pairs()),
        case("B: (16, 560 triples)", 32, 24_576, triples()),
        case("B: (16, 560 triples)", 256, 6_144, triples()),
        case("C: Cora-like", 256, 1, Box::new(|| power_law(2_708, 1_579, 4_786))),
        case("D: power law", 64, 1, Box::new(move || power_law(n, n, n_incidences))),
    ]
}

/// Hyperedge sizes fall as rank^(−3/4), and vertex v of a ranking has a share ∝ v^(−2/3) of the incidences. Neighbours in
/// rank are far from each other in memory.
fn power_law(n_vertices: usize, n_hyperedges: usize, n_incidences: usize) -> Incidence {
    const PRIME: usize = 611_953;
    let weight = |e: usize| ((e * PRIME % n_hyperedges + 1) as f64).powf(-0.75);
    let whole: f64 = (0..n_hyperedges).map(weight).sum();
    let mut sum = 0.0;
    let mut pointers = vec![0; n_hyperedges + 1];
    for (e, end) in pointers[1..].iter_mut().enumerate() {
        sum += weight(e);
        *end = (n_incidences as f64 * (sum / whole)) as u32;
    }
    // Whatever rounding left over.
    pointers[n_hyperedges] = n_incidences as u32;
    let mut state = 1u64;
    let vertices: Vec<u32> = (0..n_incidences)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let u = (state >> 11) as f64 / (1u64 << 53) as f64;
            let rank = (n_vertices as f64 * (u * u * u)) as usize;
            (rank.min(n_vertices - 1) * PRIME % n_vertices) as u32
        })
        .collect();
    Incidence::from_csr(n_vertices, &pointers, &vertices, Repeats::Keep).unwrap()
}

/// A case on the device.
struct Loaded {
    stream: Arc<CudaStream>,
    clock: Clock,
    /// Sets of rows, of vertices and of hyperedges.
    x: Vec<CudaSlice<f32>>,
    z: Vec<CudaSlice<f32>>,
    unchecked: Workspace<f32>,
    checked: Workspace<f32>,
    features: usize,
    compulsory_bytes: u64,
    /// Of each step.
    gathered_bytes: [u64; 2],
}

impl Loaded {
    fn new(device: &Device, case: &Case) -> Self {
        let topology = (case.topology)();
        let len = |rows: usize| rows * case.copies * case.features;
        let (x_len, z_len) = (len(topology.n_vertices()), len(topology.n_hyperedges()));
        let compulsory_bytes = (x_len + z_len) * size_of::<f32>();
        let sets = case.rotated_bytes.div_ceil(compulsory_bytes).max(2);

        let stream = device.context().default_stream();
        let batch = device.upload(&Batch::replicate(topology)).unwrap();
        let plan = |checks| Plan::<f32>::new(&batch, case.features, Conv::default(), checks).unwrap();
        let workspace = |checks| plan(checks).workspace(&stream, case.copies).unwrap();
        let explained = plan(Checks::Off).explain();
        let explained =
            [Operator::VertexToHyperedge, Operator::HyperedgeToVertex].map(|o| explained.of(o).clone());
        // No zeros: a device computes them with less power, and so at a higher clock.
        let values: Vec<f32> = (0..x_len).map(|i| (i % 1013) as f32 / 500.0 - 1.0).collect();
        let mut loaded = Self {
            clock: Clock::new(device),
            x: (0..sets).map(|_| stream.clone_htod(&values).unwrap()).collect(),
            z: (0..sets).map(|_| stream.alloc_zeros(z_len).unwrap()).collect(),
            unchecked: workspace(Checks::Off),
            checked: workspace(Checks::On),
            features: case.features,
            compulsory_bytes: compulsory_bytes as u64,
            gathered_bytes: explained.map(|step| (step.gathered_bytes * case.copies as u128) as u64),
            stream,
        };
        (0..sets).for_each(|set| loaded.step(Checks::On, StepKind::VertexToHyperedge, set));
        loaded.checked.check().unwrap();
        loaded
    }

    /// Queues a call, on the next set of rows.
    fn step(&mut self, checks: Checks, kind: StepKind, call: usize) {
        let set = call % self.x.len();
        let (x, z, features) = (&mut self.x[set], &mut self.z[set], self.features);
        let workspace = match checks {
            Checks::On => &mut self.checked,
            Checks::Off => &mut self.unchecked,
        };
        let done = match kind {
            StepKind::VertexToHyperedge => {
                let to = Out::Overwrite(Rows::contiguous(z.as_view_mut(), features));
                workspace.vertex_to_hyperedge(Step::sum(), Rows::contiguous(x.as_view(), features), to)
            }
            StepKind::HyperedgeToVertex => {
                let to = Out::Overwrite(Rows::contiguous(x.as_view_mut(), features));
                workspace.hyperedge_to_vertex(Step::sum(), Rows::contiguous(z.as_view(), features), to)
            }
        };
        done.unwrap();
    }

    /// Queues a copy of half of the compulsory bytes (a copy reads and writes), from one set to the next. The larger
    /// operand has room for it.
    fn copy(&mut self, call: usize) {
        let len = self.compulsory_bytes as usize / 2 / size_of::<f32>();
        let sets = if self.x[0].len() < self.z[0].len() { &mut self.z } else { &mut self.x };
        let (from, to) = (call % sets.len(), (call + 1) % sets.len());
        let [from, to] = sets.get_disjoint_mut([from, to]).unwrap();
        self.stream.memcpy_dtod(&from.slice(..len), &mut to.slice_mut(..len)).unwrap();
    }

    /// The time of the device for `calls` calls.
    fn time(&mut self, calls: u64, mut call: impl FnMut(&mut Self, usize)) -> Duration {
        self.clock.start.record(&self.stream).unwrap();
        (0..calls as usize).for_each(|i| call(self, i));
        self.clock.end.record(&self.stream).unwrap();
        self.clock.elapsed()
    }
}

#[derive(Clone, Copy)]
enum StepKind {
    VertexToHyperedge,
    HyperedgeToVertex,
}

/// The device's clock: two events, and the function for the time between them.
struct Clock {
    start: CudaEvent,
    end: CudaEvent,
    between: ElapsedTime,
}

type ElapsedTime = unsafe extern "C" fn(*mut f32, sys::CUevent, sys::CUevent) -> sys::CUresult;

impl Clock {
    fn new(device: &Device) -> Self {
        let event = || device.context().new_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT)).unwrap();
        Self { start: event(), end: event(), between: elapsed_time() }
    }

    /// From the first to the second event, once that has passed.
    fn elapsed(&self) -> Duration {
        self.end.synchronize().unwrap();
        let mut milliseconds = 0.0;
        // SAFETY: both events are alive, with timing, and recorded; the pointer is valid for the call.
        unsafe { (self.between)(&mut milliseconds, self.start.cu_event(), self.end.cu_event()) }
            .result()
            .unwrap();
        // Criterion refuses 0, which two events may be apart by their resolution.
        Duration::from_secs_f64(f64::from(milliseconds) / 1e3).max(Duration::from_nanos(1))
    }
}

/// `cuEventElapsedTime`, which every driver has. Bindings of CUDA 13 know `cuEventElapsedTime_v2` alone, which drivers
/// before CUDA 12.8 do not have.
fn elapsed_time() -> ElapsedTime {
    let names = if cfg!(windows) { ["nvcuda.dll"; 2] } else { ["libcuda.so", "libcuda.so.1"] };
    // SAFETY: the driver was loaded by this name when the device was opened; this is another handle of the same library.
    let library = names.into_iter().find_map(|name| unsafe { libloading::Library::new(name) }.ok());
    let library = library.expect("the driver, which has opened a device");
    // SAFETY: the function has this type, and the driver stays loaded as long as the process runs.
    unsafe { *library.get::<ElapsedTime>(b"cuEventElapsedTime").unwrap() }
}

/// A line of the table.
struct Measured {
    case: String,
    what: String,
    seconds: f64,
    compulsory_bytes: u64,
    /// `None` for the copy.
    gathered_bytes: Option<u64>,
}

/// A case that is loaded when it is first measured: what the command line leaves out is never loaded.
struct Bench<'a> {
    device: &'a Device,
    case: &'a Case,
    name: String,
    loaded: Option<Loaded>,
}

impl Bench<'_> {
    /// Times calls with criterion. `step` is the number of the step, or `None` for the copy.
    fn measure(
        &mut self,
        group: &mut BenchmarkGroup<'_, WallTime>,
        what: &str,
        step: Option<usize>,
        call: impl Fn(&mut Loaded, usize),
    ) -> Option<Measured> {
        let mut means = Vec::new();
        group.bench_function(what, |b| {
            b.iter_custom(|calls| {
                let loaded = self.loaded.get_or_insert_with(|| Loaded::new(self.device, self.case));
                let time = loaded.time(calls, &call);
                means.push(time.as_secs_f64() / calls as f64);
                time
            });
        });
        let loaded = self.loaded.as_mut()?;
        loaded.checked.check().unwrap();
        // The samples come last, behind the batches that warm up.
        let mut samples = means.split_off(means.len().saturating_sub(SAMPLES));
        samples.sort_by(f64::total_cmp);
        Some(Measured {
            case: self.name.clone(),
            what: what.into(),
            seconds: *samples.get(samples.len() / 2)?,
            compulsory_bytes: loaded.compulsory_bytes,
            gathered_bytes: step.map(|step| loaded.gathered_bytes[step]),
        })
    }
}

/// A case: the copy, and each step with and without checks.
fn bench(c: &mut Criterion, device: &Device, case: &Case, table: &mut Vec<Measured>) {
    let name = format!("{} x {}, F = {}", case.name, case.copies, case.features);
    let mut group = c.benchmark_group(&name);
    let mut bench = Bench { device, case, name, loaded: None };
    table.extend(bench.measure(&mut group, "copy", None, Loaded::copy));
    let steps = [
        ("vertex to hyperedge", StepKind::VertexToHyperedge),
        ("hyperedge to vertex", StepKind::HyperedgeToVertex),
    ];
    for (number, (step, kind)) in steps.into_iter().enumerate() {
        for (suffix, checks) in [("", Checks::Off), (", checked", Checks::On)] {
            let call = |loaded: &mut Loaded, i| loaded.step(checks, kind, i);
            table.extend(bench.measure(&mut group, &format!("{step}{suffix}"), Some(number), call));
        }
    }
    group.finish();
}

fn print(table: &[Measured]) {
    println!(
        "{:<36} {:<30} {:>12} {:>9} {:>10} {:>9}",
        "case", "step", "time", "GB/s", "% of copy", "gathered"
    );
    let mut copy = None;
    for Measured { case, what, seconds, compulsory_bytes, gathered_bytes } in table {
        let of_copy = match gathered_bytes {
            None => {
                copy = Some((case, seconds));
                "100".into()
            }
            // The command line may have left the copy out.
            Some(_) => match copy.filter(|(of, _)| *of == case) {
                Some((_, copy)) => format!("{:.0}", 100.0 * copy / seconds),
                None => "-".into(),
            },
        };
        let rate = |bytes: u64| format!("{:.0}", bytes as f64 / seconds / 1e9);
        let gathered = gathered_bytes.map_or("-".into(), rate);
        let time = format!("{:.1} us", seconds * 1e6);
        println!(
            "{case:<36} {what:<30} {time:>12} {:>9} {of_copy:>10} {gathered:>9}",
            rate(*compulsory_bytes)
        );
    }
}

/// The memory that the host has left, where it can be known.
fn host_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

fn main() -> ExitCode {
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
    // As criterion has it: benchmarks are tried, not timed, unless cargo says `--bench`.
    let arguments: Vec<String> = std::env::args().collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let tried = has("--test") || !has("--bench");
    let small = tried || std::env::var_os("HYPERSCATTER_BENCH_SMALL").is_some_and(|small| small == "1");
    let (free, _) = device.context().mem_get_info().unwrap();
    let largest =
        free as u64 >= BYTES_OF_LARGEST && host_memory().is_some_and(|free| free >= BYTES_OF_LARGEST);

    println!("{}, {:.1} GB free", device.context().name().unwrap(), free as f64 / 1e9);
    if !small {
        let short = if largest { "10^8" } else { "2 * 10^7, since memory is short" };
        println!("D has 10^6 x 10^6 and {short} incidences");
    }
    let mut criterion = Criterion::default()
        .without_plots()
        .sample_size(SAMPLES)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600))
        .nresamples(1_000)
        .configure_from_args();
    let mut table = Vec::new();
    for case in cases(small, largest) {
        bench(&mut criterion, &device, &case, &mut table);
    }
    criterion.final_summary();
    if !table.is_empty() {
        if small {
            println!("\nA rehearsal with tiny sizes: the times below mean nothing.");
        }
        println!();
        print(&table);
    }
    ExitCode::SUCCESS
}
