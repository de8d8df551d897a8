//! A missing or old driver, and missing or old devices: four different errors, and never a panic.
//!
//! The driver is loaded once in a process, so each case runs in a process of its own: this test binary, which
//! then runs only the test at the end of this file.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use hyperscatter::cuda::{Checks, Device, DeviceElement, Plan, embedded_modules};
use hyperscatter::half::{bf16, f16};
use hyperscatter::{Batch, Error, Incidence, Operator, Path, Repeats};

use super::gpu::Gpu;

const CHILD: &str = "HYPERSCATTER_TEST_OPEN";

/// What opening a device prints in a process with these variables.
fn open(variables: &[(&str, &str)]) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "cuda::shipping::open_in_this_process", "--nocapture"]);
    command.env_remove("HYPERSCATTER_GPU").env(CHILD, "").envs(variables.iter().copied());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let line = text.lines().find_map(|line| line.split_once("opened: ")).map(|(_, line)| line.to_string());
    line.unwrap_or_else(|| panic!("{text}"))
}

/// The child: opens the device, and prints the result.
#[test]
fn open_in_this_process() {
    let Ok(how) = std::env::var(CHILD) else { return };
    if how != "no driver" {
        hyperscatter_emulator::control::install().unwrap();
    }
    match Device::open(0) {
        Ok(device) => println!("opened: {device:?}"),
        Err(error) => println!("opened: {error:?}"),
    }
}

#[test]
fn a_driver_that_is_too_old_is_an_error() {
    let opened = open(&[("HYPERSCATTER_EMULATOR_DRIVER_VERSION", "11080")]);
    assert_eq!(opened, "DriverTooOld { found: (11, 8), needed: (12, 0) }");
    let remedy = Error::DriverTooOld { found: (11, 8), needed: (12, 0) }.to_string();
    assert!(remedy.contains("R525"), "{remedy}");
    assert!(open(&[("HYPERSCATTER_EMULATOR_DRIVER_VERSION", "12000")]).starts_with("Device"));
    assert!(open(&[("HYPERSCATTER_EMULATOR_DRIVER_VERSION", "13000")]).starts_with("Device"));
}

#[test]
fn a_missing_device_is_an_error() {
    let opened = open(&[("HYPERSCATTER_EMULATOR_DEVICES", "0")]);
    assert_eq!(opened, "NoDevice { ordinal: 0, count: 0 }");
    let gpu = Gpu::take();
    let error = Device::open(999).unwrap_err();
    assert!(matches!(error, Error::NoDevice { ordinal: 999, count } if count > gpu.ordinal()), "{error}");
}

#[test]
fn a_missing_driver_is_an_error() {
    let opened = open(&[(CHILD, "no driver"), ("LD_LIBRARY_PATH", "")]);
    if opened.starts_with("Device") || !opened.starts_with("DriverUnavailable") {
        println!("SKIPPED: this machine has a driver: {opened}");
        return;
    }
    let remedy = Error::DriverUnavailable { library: "libcuda.so", reason: "none".into() }.to_string();
    assert!(
        opened.contains("libcuda.so") && remedy.contains("Install the NVIDIA driver"),
        "{opened}\n{remedy}"
    );
}

/// A library of the driver's name that is not a driver.
#[cfg(target_os = "linux")]
#[test]
fn a_library_that_is_no_driver_is_an_error() {
    let folder = std::env::temp_dir().join(format!("hyperscatter-no-driver-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let this_binary = std::fs::read_link("/proc/self/exe").unwrap();
    let c_library = std::fs::read_to_string("/proc/self/maps").unwrap();
    let c_library =
        c_library.lines().find_map(|l| l.split_once('/').filter(|(_, p)| p.ends_with("libc.so.6")));
    let Some((_, c_library)) = c_library else {
        println!("SKIPPED: {} is not linked with a shared C library", this_binary.display());
        return;
    };
    let link = folder.join("libcuda.so");
    let _ = std::fs::remove_file(&link);
    std::os::unix::fs::symlink(format!("/{c_library}"), &link).unwrap();
    let opened = open(&[(CHILD, "no driver"), ("LD_LIBRARY_PATH", folder.to_str().unwrap())]);
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(opened.starts_with("DriverUnavailable") && opened.contains("has no function cu"), "{opened}");
}

#[test]
fn a_device_that_is_too_old_is_an_error() {
    let gpu = Gpu::take();
    let Some(control) = gpu.control("a device of another architecture") else { return };
    for (capability, supported) in
        [((7, 0), false), ((6, 1), false), ((7, 5), true), ((8, 0), true), ((12, 0), true)]
    {
        control.set_compute_capability(capability.0, capability.1);
        let opened = Device::open(gpu.ordinal()).map(drop);
        let expected =
            Err(Error::UnsupportedArchitecture { ordinal: gpu.ordinal(), found: capability, needed: (7, 5) });
        assert_eq!(opened, if supported { Ok(()) } else { expected });
    }
}

/// The kernels of a module, each with its text.
fn entries_of(ptx: &'static str) -> impl Iterator<Item = (&'static str, &'static str)> {
    ptx.split(".entry ").skip(1).map(|entry| (entry.split('(').next().unwrap(), entry))
}

/// The kernels of the PTX that is embedded, each with its text.
fn entries() -> BTreeMap<&'static str, &'static str> {
    embedded_modules().flat_map(|(_, ptx)| entries_of(ptx)).collect()
}

/// Whether an element type has kernels that copy to shared memory asynchronously.
fn copies_async(element: &str) -> bool {
    element != "f64"
}

/// What finds the items of kernels of rows, with checks: those have none of their own.
const DENSE_FIND: &str = "dense_find_checked";

/// Whether a kernel is one of rows of the dense path: they are named after classes.
fn is_of_rows(name: &str) -> bool {
    name.strip_prefix("dense").is_some_and(|class| class.starts_with(|c: char| c.is_ascii_digit()))
}

/// Whether a kernel is one of layers, which find their instances as those of rows do.
fn is_of_layers(name: &str) -> bool {
    name.starts_with("layer")
}

/// Checks cost nothing where they are off: the unchecked kernels have no trace of them. Negative degrees are
/// reported always.
#[test]
fn unchecked_kernels_report_nothing() {
    let reports = |text: &str| ["atom.", "membar", "fence"].iter().any(|word| text.contains(word));
    let degrees = ["degree_f32", "degree_f64"];
    for (name, text) in entries() {
        let reads_tables = !name.starts_with("degree_gradient_") && !name.starts_with("add_sums_");
        // Where operators are formed, and so degrees are found. Those of the forward form some of them, too,
        // but none that a negative degree is an error in.
        let has_degrees = degrees.contains(&name) || name.starts_with("dense_form");
        let expected = name.ends_with("_checked") && reads_tables || has_degrees;
        assert_eq!(reports(text), expected, "{name}");
    }
}

/// But for dense kernels of rows and layers: with checks another one is launched before them, which has no
/// other use.
#[test]
fn kernels_come_with_checks_and_without() {
    let entries = entries();
    for &name in entries.keys() {
        let twin = match name.strip_suffix("_checked") {
            Some(unchecked) => unchecked.to_string(),
            None => format!("{name}_checked"),
        };
        let has_twin = !is_of_rows(name) && !is_of_layers(name) && name != DENSE_FIND;
        assert_eq!(entries.contains_key(&*twin), has_twin, "{name}");
    }
    assert!(entries.contains_key(DENSE_FIND));
}

/// No module has what another has.
#[test]
fn a_kernel_is_shipped_once() {
    assert_eq!(embedded_modules().flat_map(|(_, ptx)| entries_of(ptx)).count(), entries().len());
}

/// What is shipped is what workspaces load: no more, no less.
#[test]
fn workspaces_may_load_each_kernel_that_is_shipped() {
    let kernels = [f32::kernels, f64::kernels, f16::kernels, bf16::kernels];
    let choices = [(Checks::On, true), (Checks::On, false), (Checks::Off, true), (Checks::Off, false)];
    let sets = kernels.iter().flat_map(|kernels| choices.map(|(checks, is_async)| kernels(checks, is_async)));
    // Not each type has all kernels of layers.
    let names = sets.flat_map(|set| set.names).filter(|name| !name.is_empty());
    let loaded: BTreeSet<&str> = names.collect();
    assert_eq!(loaded, entries().into_keys().collect());
}

/// What of a batch decides which modules its workspaces load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A topology of so many vertices, on the dense path.
    Dense(usize),
    /// A small one on the path of the gather.
    Gathered,
    /// A topology with long rows.
    Long,
    /// A table of a dense one with as many vertices, and of one with long rows.
    Both(usize),
    /// The same, but that no instance uses the dense one.
    LongAlone,
    /// A table of dense ones of all classes.
    Classes,
    /// One that has matrices, but no kernels of a class.
    Wide,
    /// A table of it and of a dense one of 16.
    WideAndDense,
}

impl Kind {
    const ALL: [Self; 10] = [
        Self::Dense(8),
        Self::Dense(16),
        Self::Dense(32),
        Self::Gathered,
        Self::Long,
        Self::Both(8),
        Self::LongAlone,
        Self::Classes,
        Self::Wide,
        Self::WideAndDense,
    ];

    fn batch(self) -> Batch {
        let pairs = |n| Incidence::subsets(n, 2).unwrap();
        let long = Incidence::from_edges(2, &[vec![0u32; 513], vec![1]], Repeats::Keep).unwrap();
        match self {
            Self::Dense(n) => Batch::replicate(pairs(n)),
            Self::Gathered => Batch::replicate(pairs(3)),
            Self::Long => Batch::replicate(long),
            Self::Both(n) => Batch::from_table(vec![pairs(n), long], &[0u8, 1]).unwrap(),
            Self::LongAlone => Batch::from_table(vec![pairs(3), long], &[1u8, 1]).unwrap(),
            Self::Classes => Batch::from_table([8, 16, 32].map(pairs).into(), &[0u8, 1, 2]).unwrap(),
            Self::Wide => Batch::replicate(pairs(40)),
            Self::WideAndDense => Batch::from_table([40, 16].map(pairs).into(), &[0u8, 1, 1]).unwrap(),
        }
    }

    fn paths(self) -> &'static [Path] {
        match self {
            Self::Dense(_) => &[Path::Dense],
            Self::Classes => &[Path::Dense; 3],
            Self::Gathered | Self::Long | Self::Wide => &[Path::Gather],
            Self::Both(_) | Self::LongAlone => &[Path::Dense, Path::Gather],
            Self::WideAndDense => &[Path::Gather, Path::Dense],
        }
    }

    fn has_long_rows(self) -> bool {
        matches!(self, Self::Long | Self::Both(_) | Self::LongAlone)
    }

    /// Whether all topologies in use are so small that a kernel computes layers of them.
    fn has_layers(self) -> bool {
        matches!(self, Self::Dense(8 | 16) | Self::Gathered)
    }

    /// The classes of its dense topologies.
    fn dense(self) -> Vec<usize> {
        match self {
            Self::Dense(n) | Self::Both(n) => vec![n],
            Self::Classes => vec![8, 16, 32],
            Self::WideAndDense => vec![16],
            Self::Gathered | Self::Long | Self::LongAlone | Self::Wide => vec![],
        }
    }

    /// The classes whose kernels make inner products, whatever the path and the hyperedges.
    fn classes_of_products(self) -> Vec<usize> {
        match self {
            Self::Both(n) if n > 8 => vec![8, n],
            Self::Long | Self::Both(_) | Self::LongAlone => vec![8],
            _ => self.classes_of_matrices(),
        }
    }

    /// The classes whose kernels make the matrices of the convolution, whatever the path.
    fn classes_of_matrices(self) -> Vec<usize> {
        match self {
            Self::Dense(_) | Self::Classes => self.dense(),
            Self::Gathered => vec![8],
            Self::Wide => vec![64],
            Self::WideAndDense => vec![16, 64],
            Self::Long | Self::Both(_) | Self::LongAlone => vec![],
        }
    }
}

/// Sets of operators that workspaces are made for, beside that of all and [`Operator::TRAINING`].
const FORWARD: &[Operator] = &[Operator::Conv];
const STEP: &[Operator] = &[Operator::VertexToHyperedge];

/// The modules of a workspace, and how many bytes of PTX they may have together. A driver takes about 3.7 s
/// to compile a megabyte of it, where it has not kept what it compiled.
fn modules_of<T: DeviceElement>(
    kind: Kind,
    operators: &[Operator],
    checks: Checks,
) -> (BTreeSet<String>, usize) {
    let acc = if T::NAME == "f64" { "f64" } else { "f32" };
    let ending = if checks == Checks::On { "_checked" } else { "" };
    let has = |operator| operators.contains(&operator);
    let (gathers, has_backward) = (kind.paths().contains(&Path::Gather), has(Operator::ConvBackward));
    let has_steps = has(Operator::VertexToHyperedge);
    let mut names = BTreeSet::new();
    let of_type = |name: &str| format!("{name}_{}{ending}", T::NAME);
    let of_sums = |name: &str| format!("{name}_{acc}{ending}");
    let of_rows = |class: usize| format!("dense{class}_{}", T::NAME);
    let backward = |class: usize| {
        let is_async = class == 16 && copies_async(T::NAME);
        format!("dense{class}_backward{}_{}", if is_async { "_async" } else { "" }, T::NAME)
    };
    if gathers || has_steps {
        names.insert(of_type("gather"));
        if kind.has_long_rows() {
            names.insert(format!("gather_{}_long{ending}", T::NAME));
        }
    }
    if gathers && has(Operator::Conv) {
        names.insert(of_sums("degree"));
    }
    if has_backward {
        names.insert(of_sums("instance_sums"));
        if gathers {
            names.extend([format!("weight_gradient{ending}"), of_sums("row_scale")]);
        }
    }
    if has_steps && has(Operator::VertexToHyperedgeBackward) {
        names.insert(of_sums("row_scale"));
    }
    let dense = if has(Operator::Conv) { kind.dense() } else { vec![] };
    // Kernels of the forward form the operators of few instances themselves.
    let forms = |class: usize| class <= 16 && acc == "f32" && checks == Checks::Off;
    for &class in &dense {
        names.insert(of_rows(class));
        if has_backward || !forms(class) {
            names.insert(of_sums("dense_form"));
        }
        if has_backward {
            names.extend([backward(class), of_sums("dense_gradient")]);
        }
    }
    if has(Operator::ConvEpilogueBackward) {
        names.extend([of_type("epilogue"), of_sums("add_sums")]);
    }
    if has(Operator::ConvMatrix) && !kind.classes_of_matrices().is_empty() {
        names.extend(["dense_form", "dense_gradient", "matrix"].map(of_sums));
    }
    let of_products = if has(Operator::Gram) { kind.classes_of_products() } else { vec![] };
    for &class in &of_products {
        // Beyond 32 vertices the kernels of matrices take rows, too.
        if class <= 32 {
            names.extend([of_rows(class), backward(class)]);
        }
        names.insert(of_sums("matrix"));
    }
    let has_layers = has(Operator::Layer) && T::NAME != "f64" && kind.has_layers();
    if has_layers {
        names.extend(
            ["layer256", "layer256_backward", "layer_theta"].map(|name| format!("{name}_{}", T::NAME)),
        );
        names.insert("layer_theta_sum".to_string());
        names.extend(["dense_form", "dense_gradient"].map(of_sums));
    }
    if checks == Checks::On && names.iter().any(|name| is_of_rows(name)) {
        names.insert(DENSE_FIND.to_string());
    }
    // A table of topologies on both paths has the kernels of both; steps beside dense operators take gathers.
    let is_dense = !dense.is_empty() || !of_products.is_empty();
    let takes_more = is_dense && (gathers || has_steps);
    let budget = match (T::NAME, checks) {
        ("f32" | "f64", Checks::Off) if takes_more && operators == Operator::TRAINING => 290_000,
        ("f32" | "f64", Checks::Off) if takes_more && gathers => 335_000,
        ("f32" | "f64", Checks::Off) if takes_more => 275_000,
        ("f32" | "f64", Checks::Off) if is_dense => 190_000,
        ("f32" | "f64", Checks::Off) => 160_000,
        (_, Checks::Off) if takes_more => 430_000,
        (_, Checks::Off) if is_dense => 205_000,
        (_, Checks::Off) => 245_000,
        ("f32" | "f64", Checks::On) => 460_000,
        (_, Checks::On) => 570_000,
    };
    let n_classes = dense.len().max(of_products.iter().filter(|&&class| class <= 32).count());
    let budget = budget + 100_000 * n_classes.saturating_sub(1);
    let budget = if operators == FORWARD && !gathers { budget / 2 } else { budget };
    let budget = if has_layers { budget + 270_000 } else { budget };
    (names, budget)
}

/// The names and the bytes of the modules that a device has loaded; as the device says, and as the driver
/// does.
fn loaded(gpu: &Gpu, device: &Device) -> (BTreeSet<String>, usize) {
    let modules = device.loaded_modules();
    let names = modules.iter().map(|module| module.name.to_string()).collect();
    if let Some(control) = gpu.control("which modules the driver has") {
        let texts: BTreeMap<_, _> = embedded_modules().collect();
        let kernels = modules.iter().flat_map(|module| entries_of(texts[module.name]).map(|(name, _)| name));
        let expected: BTreeSet<String> = kernels.map(str::to_string).collect();
        let live = control.live();
        let of_modules = live.iter().filter(|object| object.starts_with("module "));
        let found = of_modules.flat_map(|module| {
            let (_, kernels) = module.trim_end_matches(')').split_once(" (").unwrap();
            kernels.split(", ").map(str::to_string).collect::<Vec<_>>()
        });
        assert_eq!(found.collect::<BTreeSet<_>>(), expected);
        assert!(modules.iter().all(|module| module.bytes == texts[module.name].len() && !module.is_native));
    }
    (names, modules.iter().map(|module| module.bytes).sum())
}

#[test]
fn a_workspace_loads_the_modules_that_it_needs_alone() {
    fn load<T: DeviceElement>(kind: Kind, operators: &[Operator], checks: Checks) {
        let gpu = Gpu::take();
        let device = Device::open(gpu.ordinal()).unwrap();
        let batch = device.upload(&kind.batch()).unwrap();
        let plan = Plan::<T>::builder(&batch, 4).checks(checks).paths(kind.paths()).build().unwrap();
        assert_eq!(device.loaded_modules(), []);
        let stream = device.context().default_stream();
        let workspace = match operators == Operator::TRAINING {
            true => plan.workspace(&stream, 3).unwrap(),
            false => plan.workspace_for(&stream, 3, operators).unwrap(),
        };
        let (expected, budget) = modules_of::<T>(kind, operators, checks);
        let (names, bytes) = loaded(&gpu, &device);
        assert_eq!(names, expected, "{kind:?}, {operators:?}");
        println!("{} {checks:?} {kind:?}, {} operators: {bytes} bytes", T::NAME, operators.len());
        assert!(bytes <= budget, "{} {checks:?} {kind:?}: {bytes} bytes of at most {budget}", T::NAME);
        drop((workspace, plan));
    }
    let kinds = Kind::ALL.into_iter().flat_map(|kind| [(kind, Checks::Off), (kind, Checks::On)]);
    for (kind, checks) in kinds {
        for operators in [Operator::ALL, Operator::TRAINING, FORWARD, STEP] {
            load::<f32>(kind, operators, checks);
            load::<f64>(kind, operators, checks);
            load::<f16>(kind, operators, checks);
            load::<bf16>(kind, operators, checks);
        }
    }
}

/// A second workspace loads what the first has not, and what both have once.
#[test]
fn workspaces_share_modules() {
    let gpu = Gpu::take();
    let device = Device::open(gpu.ordinal()).unwrap();
    let batch = device.upload(&Batch::replicate(Incidence::subsets(3, 2).unwrap())).unwrap();
    let stream = device.context().default_stream();
    let first = Plan::<f32>::builder(&batch, 4).checks(Checks::Off).build().unwrap();
    let second = Plan::<bf16>::builder(&batch, 4).checks(Checks::Off).build().unwrap();
    let first = first.workspace(&stream, 1).unwrap();
    let second = second.workspace(&stream, 1).unwrap();
    let (mut expected, _) = modules_of::<f32>(Kind::Dense(8), Operator::TRAINING, Checks::Off);
    assert_eq!(expected.len(), 5);
    expected.extend(["dense8_bf16", "dense8_backward_bf16"].map(String::from));
    assert_eq!(loaded(&gpu, &device).0, expected);
    drop((first, second));
}

/// Devices whose pools cannot allocate in stream order run the same tests of lifetimes.
#[test]
fn devices_without_memory_pools_pass_the_tests_of_lifetimes() {
    if super::gpu::is_real() {
        println!("SKIPPED on a real GPU: whether it has memory pools is not ours to choose");
        return;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output = command
        .args(["cuda::lifetimes", "--test-threads=2"])
        .env("HYPERSCATTER_EMULATOR_ASYNC_ALLOC", "0")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("test result: ok.") && !text.contains("running 0 tests"), "{text}");
}
