//! A missing or old driver, and missing or old devices: four different errors, and never a panic.
//!
//! The driver is loaded once in a process, so each case runs in a process of its own: this test binary, which then runs
//! only the test at the end of this file.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use hyperscatter::Error;
use hyperscatter::cuda::{Checks, Device, DeviceElement};
use hyperscatter::half::{bf16, f16};

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

/// The kernels of the PTX that is embedded, each with its text.
fn entries() -> BTreeMap<&'static str, &'static str> {
    let files = [
        include_str!("../../kernels/degree.ptx"),
        include_str!("../../kernels/gather.ptx"),
        include_str!("../../kernels/windows.ptx"),
    ];
    let entries = files.iter().flat_map(|file| file.split(".entry ").skip(1));
    entries.map(|entry| (entry.split('(').next().unwrap(), entry)).collect()
}

/// Checks cost nothing where they are off: the unchecked kernels have no trace of them. Negative degrees are reported
/// always.
#[test]
fn unchecked_kernels_report_nothing() {
    let reports = |text: &str| ["atom.", "membar", "fence"].iter().any(|word| text.contains(word));
    let degrees = ["degree_f32", "degree_f64", "add_degree_f32", "add_degree_f64"];
    for (name, text) in entries() {
        let expected = name.ends_with("_checked") || degrees.contains(&name);
        assert_eq!(reports(text), expected, "{name}");
    }
}

/// All kernels that read a table: `degree_gradient` reads none.
#[test]
fn kernels_come_with_checks_and_without() {
    let entries = entries();
    for name in entries.keys() {
        let twin = match name.strip_suffix("_checked") {
            Some(unchecked) => unchecked.to_string(),
            None => format!("{name}_checked"),
        };
        let is_alone = name.starts_with("degree_gradient_");
        assert_eq!(entries.contains_key(&*twin), !is_alone, "{name}");
    }
}

/// What is shipped is what plans load: no more, no less.
#[test]
fn plans_load_each_kernel_that_is_shipped() {
    let kernels = [f32::kernels, f64::kernels, f16::kernels, bf16::kernels];
    let names = kernels.iter().flat_map(|kernels| [Checks::On, Checks::Off].map(kernels));
    let loaded: BTreeSet<&str> = names.flatten().copied().collect();
    assert_eq!(loaded, entries().into_keys().collect());
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
