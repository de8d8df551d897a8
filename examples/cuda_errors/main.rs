//! What goes wrong with CUDA is an error that a program can handle: a driver or a device that is missing or
//! too old, and a wrong index on the device, after which the same context gives right results again.
//!
//! `cargo run --example cuda_errors` shows what this machine has. With `HYPERSCATTER_EMULATED=1` it shows the
//! rest without a GPU, on the emulated driver of the tests, which runs the kernels on the CPU. Building that
//! driver needs Linux on x86-64, g++ and binutils, and no CUDA.

mod opening;
mod recovery;

use std::error::Error;

use hyperscatter::cuda::Device;
use hyperscatter_emulator::control;

const EMULATED_COMMAND: &str = "HYPERSCATTER_EMULATED=1 cargo run --example cuda_errors";

/// Whether the emulated driver is asked for.
fn is_emulated() -> bool {
    std::env::var_os("HYPERSCATTER_EMULATED").is_some()
}

fn main() -> Result<(), Box<dyn Error>> {
    if opening::is_child() {
        return opening::open_in_this_process();
    }
    println!("# A driver or a device that is missing or too old\n");
    opening::show()?;

    println!("\n# A wrong index on the device\n");
    if is_emulated() {
        control::install()?;
    }
    match Device::open(0) {
        Ok(device) => recovery::show(&device),
        Err(_) => {
            println!("Not shown: that takes a device, and this machine has none that can be used.");
            println!("The emulated driver shows it: {EMULATED_COMMAND}");
            Ok(())
        }
    }
}
