//! Why a launch was stopped, before the text is made: places in the source are looked up for a report only.

use std::ffi::{CStr, c_char};
use std::fmt;

use super::Running;
use crate::interface::{Fault, FaultKind};

/// A place in the source of a kernel.
#[derive(Clone, Copy)]
pub(super) enum Site {
    /// Behind a call in the machine code: an offset into the kernel library.
    Code(u32),
    /// A line of a file.
    Line { file: FileName, line: u32 },
}

/// A null-terminated string of a kernel library, not measured before it is needed.
#[derive(Clone, Copy)]
pub(super) struct FileName(*const c_char);

impl FileName {
    pub(super) fn get(self) -> &'static CStr {
        // SAFETY: as promised to `Site::line`; kernel libraries are never unloaded.
        unsafe { CStr::from_ptr(self.0) }
    }
}

impl Site {
    /// # Safety
    /// `file` is a null-terminated string of a kernel library.
    pub(super) unsafe fn line(file: *const c_char, line: u32) -> Self {
        Self::Line { file: FileName(file), line }
    }
}

impl PartialEq for Site {
    fn eq(&self, other: &Self) -> bool {
        match (*self, *other) {
            (Self::Code(a), Self::Code(b)) => a == b,
            (Self::Line { file: f, line: a }, Self::Line { file: g, line: b }) => {
                a == b && (f.0 == g.0 || f.get() == g.get())
            }
            _ => false,
        }
    }
}

/// Something that a thread did.
pub(super) struct Event {
    /// In words: "reads 4 bytes".
    pub(super) what: String,
    pub(super) site: Site,
    /// The block, by number; that of the failure where there is none.
    pub(super) block: Option<u64>,
    /// The thread, by its number in the block; `None` where it is not known.
    pub(super) thread: Option<u32>,
}

/// A mistake of a kernel.
pub(super) struct Failure {
    pub(super) kind: FaultKind,
    /// What happened, in the thread that runs.
    pub(super) event: Event,
    /// What it conflicts with.
    pub(super) others: Vec<Event>,
}

impl Failure {
    pub(super) fn new(kind: FaultKind, thread: u32, site: Site, what: impl fmt::Display) -> Box<Self> {
        let event = Event { what: what.to_string(), site, block: None, thread: Some(thread) };
        Box::new(Self { kind, event, others: Vec::new() })
    }

    pub(super) fn with(
        mut self: Box<Self>,
        thread: Option<u32>,
        site: Site,
        what: impl fmt::Display,
    ) -> Box<Self> {
        self.others.push(Event { what: what.to_string(), site, block: None, thread });
        self
    }

    /// The report.
    pub(super) fn into_fault(self, running: &Running<'_>, block: u64) -> Fault {
        let mut message = format!("kernel {}: ", running.launch.kernel);
        for (i, event) in std::iter::once(&self.event).chain(&self.others).enumerate() {
            let place = running.entry.library.source_line(event.site);
            let [x, y, z] = super::coordinates(event.block.unwrap_or(block), running.launch.grid);
            let thread = event.thread.map(|t| super::coordinates(t.into(), running.launch.block));
            let thread = thread.map(|[x, y, z]| format!(", thread ({x}, {y}, {z})")).unwrap_or_default();
            let before = if i == 0 { "" } else { "; " };
            message += &format!("{before}{} at {place}, block ({x}, {y}, {z}){thread}", event.what);
        }
        Fault { kind: self.kind, message }
    }
}
