//! The four errors of opening a device.
//!
//! A process loads the driver once. So each error is provoked in a process of its own, which runs this
//! program again.

use std::error::Error as StdError;
use std::process::Command;

use hyperscatter::Error;
use hyperscatter::cuda::Device;
use hyperscatter_emulator::control;

use crate::is_emulated;

/// Set in such a process, to one of the drivers below.
const CHILD: &str = "CUDA_ERRORS_OPENS";

/// The machine's own driver.
const OWN: &str = "own";

/// The emulated driver as its variables say.
const EMULATED: &str = "emulated";

/// The emulated driver, with a device of compute capability 7.0.
const OLD_DEVICE: &str = "old device";

pub fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// The child: opens a device, and tells the result.
pub fn open_in_this_process() -> Result<(), Box<dyn StdError>> {
    let driver = std::env::var(CHILD)?;
    if driver != OWN {
        let emulator = control::install()?;
        if driver == OLD_DEVICE {
            emulator.device(0).set_compute_capability(7, 0);
        }
    }
    match Device::open(0) {
        Ok(device) => println!("opened: {device:?}"),
        Err(error) => println!("{}: {error}", kind(&error)),
    }
    Ok(())
}

fn kind(error: &Error) -> &'static str {
    match error {
        Error::DriverUnavailable { .. } => "no driver",
        Error::DriverTooOld { .. } => "an old driver",
        Error::NoDevice { .. } => "no device",
        Error::UnsupportedArchitecture { .. } => "an old device",
        _ => "another error",
    }
}

/// The outcome of opening a device with this driver and these environment variables.
fn open(driver: &str, variables: &[(&str, &str)]) -> Result<String, Box<dyn StdError>> {
    let mut command = Command::new(std::env::current_exe()?);
    let output = command.env(CHILD, driver).envs(variables.iter().copied()).output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_string());
    }
    Err(format!("{driver}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr)).into())
}

/// Prints what this machine has, and then each of the errors. Where an error cannot be provoked, its text is
/// printed.
pub fn show() -> Result<(), Box<dyn StdError>> {
    let own = open(OWN, &[])?;
    let missing = Error::DriverUnavailable { library: "libcuda.so", reason: "what the loader says".into() };
    let old_driver = Error::DriverTooOld { found: (11, 8), needed: (12, 0) };
    let no_device = Error::NoDevice { ordinal: 0, count: 0 };
    let old_device = Error::UnsupportedArchitecture { ordinal: 0, found: (7, 0), needed: (7, 5) };

    let has_driver = !own.starts_with(kind(&missing));
    if has_driver {
        println!("this machine: {own}\n");
    }
    // A driver that is there cannot be taken away, and a device cannot be made older.
    let emulated = |driver, variables: &[_]| is_emulated().then(|| open(driver, variables)).transpose();
    let provoked_no_device = match (is_emulated(), has_driver) {
        (true, _) => Some(open(EMULATED, &[("HYPERSCATTER_EMULATOR_DEVICES", "0")])?),
        (false, true) => Some(open(OWN, &[("CUDA_VISIBLE_DEVICES", "-1")])?),
        (false, false) => None,
    };
    let cases = [
        ((!has_driver).then_some(own), missing),
        (emulated(EMULATED, &[("HYPERSCATTER_EMULATOR_DRIVER_VERSION", "11080")])?, old_driver),
        (provoked_no_device, no_device),
        (emulated(OLD_DEVICE, &[])?, old_device),
    ];
    for (provoked, error) in cases {
        match provoked {
            Some(text) if text.starts_with(kind(&error)) => println!("{text}"),
            Some(text) => return Err(format!("not {}, but {text}", kind(&error)).into()),
            None => println!("{} (not provoked here; it would be): {error}", kind(&error)),
        }
    }
    if !is_emulated() {
        println!("\nThe emulated driver provokes the others: {}", crate::EMULATED_COMMAND);
    }
    Ok(())
}
