//! The violation record of a workspace: what a checked kernel found wrong in a table (or any kernel in a
//! degree), and how the host hears of it.
//!
//! The first thread that finds something claims the record in device memory, and publishes the facts to
//! mapped host memory, its `ready` word last. The host looks at that word at each call, without calling the
//! driver. If one kernel finds several violations, scheduling decides which is reported: to report the
//! smallest, threads would have to compare them.

#![allow(unsafe_code)]

use std::sync::Arc;

use cudarc::driver::CudaStream;

use super::args::{RecordArgs, TableId, Violation};
use super::buffer::{Buffer, Mapped};
use super::kernels::KernelSet;
use super::tables::Orientation;
use crate::error::{Error, Result};

pub(super) struct Record {
    claim: Buffer<u32>,
    violation: Mapped<Violation>,
}

impl Record {
    /// The context of `stream` must be current.
    pub(super) fn new(stream: &Arc<CudaStream>) -> Result<Self> {
        let what = "the violation record";
        let record = Self { claim: Buffer::new(what, stream, 1)?, violation: Mapped::new(what, stream)? };
        record.claim.zero()?;
        Ok(record)
    }

    pub(super) fn args(&self) -> RecordArgs {
        RecordArgs { claim: self.claim.address(), published: self.violation.device() }
    }

    /// The violation that was published, if there is one.
    pub(super) fn published(&self, kernels: &KernelSet) -> Result<()> {
        let violation = self.violation.host();
        // SAFETY: the memory is alive and initialised; the word is aligned and written as a whole.
        if unsafe { (&raw const (*violation).ready).read_volatile() } == 0 {
            return Ok(());
        }
        // The device wrote the rest before the word, with a fence of the whole system between.
        std::sync::atomic::fence(std::sync::atomic::Ordering::Acquire);
        // SAFETY: the claim lets one thread write one violation, which is complete.
        let Violation { kernel, table, orientation, instance, position, value, bound, .. } =
            unsafe { violation.read_volatile() };
        if table == TableId::NegativeDegree as u32 {
            let (instance, vertex) = (instance as usize, position as usize);
            return Err(Error::NegativeDegree { instance, vertex, value: f64::from_bits(value) });
        }
        let kernel = kernels.name_of(kernel);
        let table = Orientation::table_name(orientation, table);
        Err(Error::IndexOutOfBounds { kernel, table, instance, position, value, bound })
    }

    /// Forgets the violation, and waits for that, since the work that follows may be on another stream. No
    /// kernel that uses the record may be running, and the context must be current.
    pub(super) fn clear(&self) -> Result<()> {
        self.claim.write(0, &[0])?;
        // SAFETY: as in `published`; no kernel is running that would write.
        unsafe { (&raw mut (*self.violation.host()).ready).write_volatile(0) };
        Ok(())
    }
}
