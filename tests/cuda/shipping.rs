//! A missing or old driver, and missing or old devices: four different errors, and never a panic.
//!
//! The driver is loaded once in a process, so each case runs in a process of its own: this test binary, which
//! then runs only the test at the end of this file.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use hyperscatter::cuda::{Checks, Device, DeviceElement, Plan, embedded_modules};
use hyperscatter::half::{bf16, f16};
use hyperscatter::{Batch, Error, Incidence, Path, Repeats};

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

/// Checks cost nothing where they are off: the unchecked kernels have no trace of them. Negative degrees are
/// reported always.
#[test]
fn unchecked_kernels_report_nothing() {
    let reports = |text: &str| ["atom.", "membar", "fence"].iter().any(|word| text.contains(word));
    let degrees = ["degree_f32", "degree_f64"];
    for (name, text) in entries() {
        let reads_tables = !name.starts_with("degree_gradient_");
        let has_degrees = degrees.contains(&name) || name.starts_with("conv_single_block_");
        let expected = name.ends_with("_checked") && reads_tables || has_degrees;
        assert_eq!(reports(text), expected, "{name}");
    }
}

#[test]
fn kernels_come_with_checks_and_without() {
    let entries = entries();
    for name in entries.keys() {
        let twin = match name.strip_suffix("_checked") {
            Some(unchecked) => unchecked.to_string(),
            None => format!("{name}_checked"),
        };
        assert!(entries.contains_key(&*twin), "{name}");
    }
}

/// No module has what another has.
#[test]
fn a_kernel_is_shipped_once() {
    assert_eq!(embedded_modules().flat_map(|(_, ptx)| entries_of(ptx)).count(), entries().len());
}

/// What is shipped is what plans load: no more, no less.
#[test]
fn plans_load_each_kernel_that_is_shipped() {
    let kernels = [f32::kernels, f64::kernels, f16::kernels, bf16::kernels];
    let sets = kernels.iter().flat_map(|kernels| [Checks::On, Checks::Off].map(kernels));
    let loaded: BTreeSet<&str> = sets.flat_map(|set| set.names).collect();
    assert_eq!(loaded, entries().into_keys().collect());
}

/// What of a batch decides which modules its plan loads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A small topology, on the single-block path.
    Small,
    /// The same on the path of the gather.
    Gathered,
    /// A topology with long rows.
    Long,
    /// A table of both.
    Both,
    /// The same, but that no instance uses the small one.
    LongAlone,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Small, Self::Gathered, Self::Long, Self::Both, Self::LongAlone];

    fn batch(self) -> Batch {
        let small = Incidence::subsets(3, 2).unwrap();
        let long = Incidence::from_edges(2, &[vec![0u32; 513], vec![1]], Repeats::Keep).unwrap();
        match self {
            Self::Small | Self::Gathered => Batch::replicate(small),
            Self::Long => Batch::replicate(long),
            Self::Both => Batch::from_table(vec![small, long], &[0u8, 1]).unwrap(),
            Self::LongAlone => Batch::from_table(vec![small, long], &[1u8, 1]).unwrap(),
        }
    }

    fn paths(self) -> &'static [Path] {
        match self {
            Self::Small => &[Path::SingleBlock],
            Self::Gathered | Self::Long => &[Path::Gather],
            Self::Both | Self::LongAlone => &[Path::SingleBlock, Path::Gather],
        }
    }

    fn has_long_rows(self) -> bool {
        matches!(self, Self::Long | Self::Both | Self::LongAlone)
    }

    fn is_on_single_block(self) -> bool {
        matches!(self, Self::Small | Self::Both)
    }
}

/// The modules of a plan, and how many bytes of PTX they may have together. A driver takes about 3.7 s to
/// compile a megabyte of it, where it has not kept what it compiled.
fn modules_of<T: DeviceElement>(kind: Kind, checks: Checks) -> (BTreeSet<String>, usize) {
    let acc = if T::NAME == "f64" { "f64" } else { "f32" };
    let ending = if checks == Checks::On { "_checked" } else { "" };
    let (gather, single_block) = (format!("gather_{}", T::NAME), format!("single_block_{}", T::NAME));
    let mut names = BTreeSet::from([format!("{gather}{ending}"), format!("weight_gradient{ending}")]);
    names.extend(["degree", "row_scale", "instance_sums"].map(|name| format!("{name}_{acc}{ending}")));
    if kind.has_long_rows() {
        names.insert(format!("{gather}_long{ending}"));
    }
    if kind.is_on_single_block() {
        names.insert(format!("{single_block}{ending}"));
    }
    let budget = match (T::NAME, checks) {
        ("f32" | "f64", Checks::Off) => 160_000,
        (_, Checks::Off) => 260_000,
        ("f32" | "f64", Checks::On) => 360_000,
        (_, Checks::On) => 480_000,
    };
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
fn a_plan_loads_the_modules_that_it_needs_alone() {
    fn load<T: DeviceElement>(kind: Kind, checks: Checks) {
        let gpu = Gpu::take();
        let device = Device::open(gpu.ordinal()).unwrap();
        let batch = device.upload(&kind.batch()).unwrap();
        assert_eq!(device.loaded_modules(), []);
        let plan = Plan::<T>::builder(&batch, 4).checks(checks).paths(kind.paths()).build().unwrap();
        let (expected, budget) = modules_of::<T>(kind, checks);
        let (names, bytes) = loaded(&gpu, &device);
        assert_eq!(names, expected);
        println!("{} {checks:?} {kind:?}: {bytes} bytes", T::NAME);
        assert!(bytes <= budget, "{} {checks:?}: {bytes} bytes of at most {budget}", T::NAME);
        drop(plan);
    }
    for (kind, checks) in Kind::ALL.into_iter().flat_map(|kind| [(kind, Checks::Off), (kind, Checks::On)]) {
        load::<f32>(kind, checks);
        load::<f64>(kind, checks);
        load::<f16>(kind, checks);
        load::<bf16>(kind, checks);
    }
}

/// A second plan loads what the first has not, and what both have once.
#[test]
fn plans_share_modules() {
    let gpu = Gpu::take();
    let device = Device::open(gpu.ordinal()).unwrap();
    let batch = device.upload(&Batch::replicate(Incidence::subsets(3, 2).unwrap())).unwrap();
    let first = Plan::<f32>::builder(&batch, 4).checks(Checks::Off).build().unwrap();
    let second = Plan::<bf16>::builder(&batch, 4).checks(Checks::Off).build().unwrap();
    let (mut expected, _) = modules_of::<f32>(Kind::Small, Checks::Off);
    assert_eq!(expected.len(), 6);
    expected.extend(["gather_bf16", "single_block_bf16"].map(String::from));
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
