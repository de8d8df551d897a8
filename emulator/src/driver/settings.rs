//! What the environment says, read once: settings that a driver cannot change while it runs.

use std::env;
use std::str::FromStr;
use std::sync::OnceLock;

use crate::interface::Build;

/// Settings of the whole driver.
pub(crate) struct Settings {
    /// What `cuDriverGetVersion` gives: 1000 · major + 10 · minor.
    pub(crate) driver_version: u32,
    /// How many devices there are.
    pub(crate) devices: usize,
    /// Whether the devices say that they have memory pools; without them, bindings allocate synchronously.
    pub(crate) async_alloc: bool,
    /// Which compilation of the kernels runs where no test sets another.
    pub(crate) build: Build,
}

impl Settings {
    /// The newest PTX that the driver understands: 7.x for CUDA 11.x, 8.x for 12.x, where releases since 12.6
    /// are one ahead of their PTX, and 9.x for 13.x.
    pub(crate) fn newest_ptx(&self) -> (u32, u32) {
        let (major, minor) = (self.driver_version / 1000, self.driver_version % 1000 / 10);
        let lag = u32::from(major == 12 && minor >= 6);
        (major - 4, minor - lag)
    }
}

/// The settings.
pub(crate) fn settings() -> &'static Settings {
    static SETTINGS: OnceLock<Settings> = OnceLock::new();
    SETTINGS.get_or_init(|| Settings {
        driver_version: variable("HYPERSCATTER_EMULATOR_DRIVER_VERSION", 12_000),
        // A test takes a device to itself, so that tests may run side by side.
        devices: variable("HYPERSCATTER_EMULATOR_DEVICES", 64),
        async_alloc: variable("HYPERSCATTER_EMULATOR_ASYNC_ALLOC", 1u8) != 0,
        build: if variable("HYPERSCATTER_EMULATOR_CHECKED", 1u8) != 0 { Build::Checked } else { Build::Fast },
    })
}

fn variable<T: FromStr>(name: &str, default: T) -> T {
    match env::var(name) {
        Err(_) => default,
        Ok(text) => text.parse().unwrap_or_else(|_| {
            // There is no caller to tell: the driver is being loaded.
            eprintln!("{name}={text} is no number; the emulated driver ignores it");
            default
        }),
    }
}
