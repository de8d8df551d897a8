//! Workspaces on both backends.

use std::ffi::c_void;
use std::sync::Arc;

use hyperscatter::cuda::cudarc::driver::{CudaStream, sys};
use hyperscatter::cuda::{self, DeviceElement, DevicePointer};
use hyperscatter::{Batch, Element, Error, Operator, cpu};

use crate::arguments::choice;
use crate::call::{Call, on_cpu, on_cuda};
use crate::error::{Failure, Result};
use crate::options::{HS_OPERATORS_ALL, hs_workspace_options};
use crate::pools;

/// A workspace is asked for.
pub(crate) struct Request {
    max_instances: usize,
    operators: Vec<Operator>,
    owns_scratch: bool,
}

impl Request {
    pub(crate) fn new(options: &hs_workspace_options) -> Result<Self> {
        let &hs_workspace_options { max_instances, operators, scratch, .. } = options;
        let (value, bound) = (operators.into(), u64::from(HS_OPERATORS_ALL) + 1);
        if value >= bound {
            return Err(Failure::Argument { what: "operators", value, bound });
        }
        let is_in = |operator: &Operator| operators & bit(*operator) != 0;
        Ok(Self {
            max_instances,
            operators: self::operators().iter().copied().filter(is_in).collect(),
            owns_scratch: choice("scratch", scratch, &[true, false])?,
        })
    }
}

/// The operators of this interface.
pub(crate) fn operators() -> &'static [Operator] {
    &Operator::ALL[..HS_OPERATORS_ALL.count_ones() as usize]
}

fn bit(operator: Operator) -> u32 {
    1 << operator as u32
}

/// A workspace on either backend, of any type.
pub(crate) trait AnyWorkspace: Send {
    fn batch(&self) -> &Batch;

    /// The sizes of an element and of a sum.
    fn sizes(&self) -> [usize; 2];

    /// # Safety
    /// The operands are as their structures say, on the backend; no output shares memory with another; on a
    /// device the contract of the raw tier holds.
    unsafe fn call(&mut self, call: &Call<'_>, stream: *mut c_void) -> Result<()>;

    /// # Safety
    /// The stream is one of the device.
    unsafe fn check(&mut self, stream: *mut c_void) -> Result<()>;

    fn scratch_bytes(&self, operator: Operator, instances: usize) -> Result<usize>;

    /// # Safety
    /// That of [`cuda::Workspace::lend_scratch`].
    unsafe fn lend_scratch(&mut self, memory: u64, bytes: usize) -> Result<()>;
}

pub(crate) struct OnCpu<T: Element> {
    workspace: cpu::Workspace<T>,
    /// How many threads larger calls run on. Not the pool itself: a forked process has pools of its own.
    threads: usize,
    operators: u32,
    owns_scratch: bool,
}

impl<T: Element> OnCpu<T> {
    pub(crate) fn new(plan: &cpu::Plan<T>, request: &Request) -> Result<Self> {
        let &Request { max_instances, ref operators, owns_scratch } = request;
        let threads = pools::threads();
        // It has memory for the threads that it is made on.
        let workspace = pools::on_threads(threads, || plan.workspace_for(max_instances, operators))??;
        let operators = operators.iter().fold(0, |set, &operator| set | bit(operator));
        Ok(Self { workspace, threads, operators, owns_scratch })
    }

    fn check_operator(&self, operator: Operator) -> Result<()> {
        match self.operators & bit(operator) {
            0 => Err(Error::NotMadeFor { operator: operator.name() }.into()),
            _ => Ok(()),
        }
    }
}

impl<T: Element> AnyWorkspace for OnCpu<T> {
    fn batch(&self) -> &Batch {
        self.workspace.plan().batch()
    }

    fn sizes(&self) -> [usize; 2] {
        [size_of::<T>(), size_of::<T::Acc>()]
    }

    unsafe fn call(&mut self, call: &Call<'_>, _stream: *mut c_void) -> Result<()> {
        self.check_operator(call.operator())?;
        let workspace = &mut self.workspace;
        let is_small = !call.is_of_layer() && call.instances().is_some_and(|n| workspace.plan().is_small(n));
        let threads = if is_small { 1 } else { self.threads };
        // SAFETY: the caller's promise.
        pools::on_threads(threads, || unsafe { on_cpu(workspace, call) })?
    }

    unsafe fn check(&mut self, _stream: *mut c_void) -> Result<()> {
        Ok(())
    }

    fn scratch_bytes(&self, operator: Operator, instances: usize) -> Result<usize> {
        self.check_operator(operator)?;
        let bound = self.workspace.max_instances();
        match instances <= bound {
            true => Ok(0),
            false => Err(Error::TooManyInstances { value: instances, bound }.into()),
        }
    }

    unsafe fn lend_scratch(&mut self, _memory: u64, _bytes: usize) -> Result<()> {
        if self.owns_scratch { Err(Error::OwnsScratch.into()) } else { Ok(()) }
    }
}

pub(crate) struct OnCuda<T: DeviceElement>(cuda::Workspace<T>);

impl<T: DeviceElement> OnCuda<T> {
    pub(crate) fn new(plan: &cuda::Plan<T>, stream: &Arc<CudaStream>, request: &Request) -> Result<Self> {
        let &Request { max_instances, ref operators, owns_scratch } = request;
        Ok(Self(match owns_scratch {
            true => plan.workspace_for(stream, max_instances, operators)?,
            false => plan.workspace_without_memory(stream, max_instances, operators)?,
        }))
    }
}

impl<T: DeviceElement> AnyWorkspace for OnCuda<T> {
    fn batch(&self) -> &Batch {
        self.0.plan().batch().batch()
    }

    fn sizes(&self) -> [usize; 2] {
        [size_of::<T>(), size_of::<T::Acc>()]
    }

    unsafe fn call(&mut self, call: &Call<'_>, stream: *mut c_void) -> Result<()> {
        // Before all operands, as on the CPU.
        if !self.0.is_made_for(call.operator()) {
            return Err(Error::NotMadeFor { operator: call.operator().name() }.into());
        }
        // SAFETY: the caller's promise.
        unsafe { on_cuda(&mut self.0, stream as sys::CUstream, call) }
    }

    unsafe fn check(&mut self, stream: *mut c_void) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.0.check_raw(stream as sys::CUstream) }.map_err(Failure::from)
    }

    fn scratch_bytes(&self, operator: Operator, instances: usize) -> Result<usize> {
        Ok(self.0.scratch_bytes(operator, instances)?)
    }

    unsafe fn lend_scratch(&mut self, memory: u64, bytes: usize) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.0.lend_scratch(DevicePointer::new(memory, bytes)) }.map_err(Failure::from)
    }
}
