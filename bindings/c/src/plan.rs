//! Plans.

use std::ffi::c_char;
use std::sync::{Arc, PoisonError};

use hyperscatter::cuda::{self, Checks, Device, DeviceBatch, DeviceElement};
use hyperscatter::half::{bf16, f16};
use hyperscatter::{
    Axis, Batch, Conv, Error, Normalization, Operator, Path, Precision, WeightUse, WindowTable, cpu,
};

use crate::abi::hs_abi;
use crate::arguments::{choice, give, hs_indices, indices, make, optional, reference, slice, with_indices};
use crate::backend::{AnyWorkspace, OnCpu, OnCuda, Request, operators};
use crate::batch::hs_batch;
use crate::device::{OwnStream, hs_device};
use crate::error::{Failure, Result, entry, quietly};
use crate::incidence::axis;
use crate::options::hs_plan_options;
use crate::windows::hs_windows;
use crate::{pools, versions};

/// What stays from call to call: a batch, the element type, the number of features F, the conventions of the
/// convolution, and the backend. It never changes, and any number of threads may use it.
#[allow(non_camel_case_types)]
pub struct hs_plan(pub(crate) Box<dyn AnyPlan>);

/// A plan on either backend, of any type.
pub(crate) trait AnyPlan: Send + Sync {
    fn batch(&self) -> &Batch;

    fn workspace(&self, request: &Request) -> Result<Box<dyn AnyWorkspace>>;

    fn windows(&self, table: WindowTable) -> Result<hs_windows>;

    fn check_operator(&self, operator: Operator) -> Result<()>;

    fn explain(&self, instances: usize) -> Result<String>;
}

struct CpuPlan<T>(cpu::Plan<T>);

struct CudaPlan<T: DeviceElement> {
    plan: cuda::Plan<T>,
    stream: OwnStream,
}

impl<T: DeviceElement> AnyPlan for CpuPlan<T> {
    fn batch(&self) -> &Batch {
        self.0.batch()
    }

    fn workspace(&self, request: &Request) -> Result<Box<dyn AnyWorkspace>> {
        Ok(Box::new(OnCpu::<T>::new(&self.0, request)?))
    }

    fn windows(&self, table: WindowTable) -> Result<hs_windows> {
        Ok(hs_windows { table, on_device: None })
    }

    fn check_operator(&self, operator: Operator) -> Result<()> {
        Ok(self.0.check_operator(operator)?)
    }

    fn explain(&self, instances: usize) -> Result<String> {
        let Self(plan) = self;
        if let Some(bound) = plan.batch().n_instances().filter(|&n| n != instances) {
            let (operand, bound_of) = ("the call", "the batch");
            return Err(Error::InstancesMismatch { operand, value: instances, bound, bound_of }.into());
        }
        let (conv, threads) = (plan.conv(), pools::threads());
        let mut text = format!(
            "{} features of {}, on {threads} threads of the CPU\nconvolution: {:?}, weights {:?}\n\
             for {instances} instances:\n",
            plan.features(),
            T::NAME,
            conv.normalization,
            conv.weight_use
        );
        for (id, (topology, path)) in plan.batch().topologies().iter().zip(plan.paths()).enumerate() {
            let (n, m, incidences) =
                (topology.n_vertices(), topology.n_hyperedges(), topology.n_incidences());
            text += &format!(
                "  topology {id}: {n} vertices, {m} hyperedges, {incidences} incidences, by {}\n",
                path.name()
            );
        }
        Ok(text)
    }
}

impl<T: DeviceElement> AnyPlan for CudaPlan<T> {
    fn batch(&self) -> &Batch {
        self.plan.batch().batch()
    }

    fn workspace(&self, request: &Request) -> Result<Box<dyn AnyWorkspace>> {
        Ok(Box::new(OnCuda::<T>::new(&self.plan, self.stream.get(), request)?))
    }

    fn windows(&self, table: WindowTable) -> Result<hs_windows> {
        let on_device = Some(self.plan.batch().upload_windows(&table)?);
        Ok(hs_windows { table, on_device })
    }

    fn check_operator(&self, operator: Operator) -> Result<()> {
        Ok(self.plan.check_operator(operator)?)
    }

    fn explain(&self, instances: usize) -> Result<String> {
        Ok(self.plan.explain(instances)?.to_string())
    }
}

/// The batch on a device, uploaded once for all plans on it.
fn upload(batch: &hs_batch, device: &Device) -> Result<DeviceBatch> {
    let mut uploads = batch.uploads.lock().unwrap_or_else(PoisonError::into_inner);
    let is_there = |of: &&DeviceBatch| Arc::ptr_eq(of.device().context(), device.context());
    if let Some(uploaded) = uploads.iter().find(is_there) {
        return Ok(uploaded.clone());
    }
    let uploaded = device.upload(&batch.batch)?;
    uploads.push(uploaded.clone());
    Ok(uploaded)
}

/// What a plan is made of, checked.
struct Options<'a> {
    batch: &'a hs_batch,
    device: Option<&'a hs_device>,
    features: usize,
    inputs: usize,
    precision: Precision,
    conv: Conv,
    checks: Checks,
    paths: Option<Vec<Path>>,
}

fn plan<T: DeviceElement>(options: &Options<'_>) -> Result<hs_plan> {
    let &Options { batch, device, features, inputs, precision, conv, checks, ref paths } = options;
    Ok(hs_plan(match device {
        None => {
            let builder = cpu::Plan::<T>::builder(&batch.batch, features).inputs(inputs).conv(conv);
            let builder = paths.as_ref().map_or(builder.clone(), |paths| builder.paths(paths));
            Box::new(CpuPlan(builder.build()?))
        }
        Some(hs_device { device, stream }) => {
            let uploaded = upload(batch, device)?;
            let builder = cuda::Plan::<T>::builder(&uploaded, features).inputs(inputs).precision(precision);
            let builder = builder.conv(conv).checks(checks);
            let builder = paths.as_ref().map_or(builder.clone(), |paths| builder.paths(paths));
            Box::new(CudaPlan { plan: builder.build()?, stream: stream.clone() })
        }
    }))
}

/// A plan. On a device the tables of the batch are uploaded, once for all plans of the batch; they stay there
/// until the batch and all its plans and workspaces are freed. An upload waits for the default stream, and
/// may not be while a stream is captured (see `hs_workspace_create`).
///
/// Errors: `HS_ERROR_ABI` where the caller was compiled with another header; `HS_ERROR_PATHS_MISMATCH`,
/// `HS_ERROR_PATH_UNAVAILABLE`, `HS_ERROR_TOO_LARGE`, `HS_ERROR_OUT_OF_MEMORY`, `HS_ERROR_DRIVER`,
/// `HS_ERROR_ARGUMENT`, `HS_ERROR_NULL`.
///
/// # Safety
/// `batch` and `options->device` are null or living handles, `options` is null or as it says, and `plan` is
/// null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hs_plan_create(
    batch: *const hs_batch,
    options: *const hs_plan_options,
    plan: *mut *mut hs_plan,
) -> i32 {
    entry(|| {
        let of = || {
            // SAFETY: the caller's promise, here and below. The first member is read alone: a structure of
            // another version may be shorter.
            let abi = unsafe { reference("options", options.cast::<hs_abi>())? };
            versions::check(abi)?;
            // SAFETY: as above.
            let (batch, options) = unsafe { (reference("batch", batch)?, reference("options", options)?) };
            let normalizations = [Normalization::Row, Normalization::Symmetric, Normalization::None];
            let uses = [WeightUse::Documented, WeightUse::DegreeOnly, WeightUse::MessageOnly];
            let checks = [Checks::default(), Checks::On, Checks::Off];
            let precisions = [Precision::ThreeBf16, Precision::Tf32];
            // SAFETY: as above.
            let numbers = unsafe { slice("paths", options.paths, options.n_paths)? };
            let path = |&number: &u32| choice("paths[]", number, &[Path::Gather, Path::Dense]);
            let paths = numbers.iter().map(path).collect::<Result<Vec<_>>>()?;
            let options_of = Options {
                batch,
                // SAFETY: as above.
                device: unsafe { optional("device", options.device)? },
                features: options.features,
                inputs: if options.inputs == 0 { options.features } else { options.inputs },
                precision: choice("precision", options.precision, &precisions)?,
                conv: Conv::new(
                    choice("normalization", options.normalization, &normalizations)?,
                    choice("weight_use", options.weight_use, &uses)?,
                ),
                checks: choice("checks", options.checks, &checks)?,
                paths: (!options.paths.is_null()).then_some(paths),
            };
            let plans = [self::plan::<f32>, self::plan::<f64>, self::plan::<f16>, self::plan::<bf16>];
            choice("element", options.element, &plans)?(&options_of)
        };
        // SAFETY: as above.
        unsafe { make("plan", plan, of) }
    })
}

/// Whether a plan has an operator (`HS_LAYER`, …). All have the steps and the convolution, with and without
/// an epilogue. Matrices need small topologies, and layers on a device what `hs_layer` says. So a program
/// finds out before it makes a workspace.
///
/// Errors, which tell what is in the way: `HS_ERROR_MATRIX_UNAVAILABLE`, `HS_ERROR_LAYER_UNAVAILABLE`,
/// `HS_ERROR_ARGUMENT`, `HS_ERROR_NULL`.
///
/// # Safety
/// `plan` is null or a living handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hs_plan_check_operator(plan: *const hs_plan, operator: u32) -> i32 {
    entry(|| {
        let operator = choice("operator", operator, operators())?;
        // SAFETY: the caller's promise.
        unsafe { reference("plan", plan)? }.0.check_operator(operator)
    })
}

/// What the calls of a plan do with so many instances, in English: launches, kernels, bytes, and how each
/// topology is computed. Writes the text and a zero to `text`, which has room for `capacity` bytes, and the
/// bytes that both take to `needed`, also where there is no room (or `text` is null).
///
/// Errors: `HS_ERROR_CAPACITY` where there is no room, `HS_ERROR_INSTANCES_MISMATCH`, `HS_ERROR_TOO_LARGE`,
/// `HS_ERROR_NULL`.
///
/// # Safety
/// `plan` is null or a living handle; `text` is null or has room for `capacity` bytes; `needed` is null or
/// may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hs_plan_explain(
    plan: *const hs_plan,
    instances: usize,
    text: *mut c_char,
    capacity: usize,
    needed: *mut usize,
) -> i32 {
    entry(|| {
        // SAFETY: the caller's promise, here and below.
        let explanation = unsafe { reference("plan", plan)? }.0.explain(instances)?;
        let bound = explanation.len() + 1;
        // SAFETY: as above.
        unsafe { give("needed", needed, bound)? };
        if text.is_null() || capacity < bound {
            let value = if text.is_null() { 0 } else { capacity };
            return Err(Failure::Capacity { what: "text", value, bound });
        }
        // SAFETY: as above; there is room for the text and a zero.
        unsafe {
            std::ptr::copy_nonoverlapping(explanation.as_ptr(), text.cast(), explanation.len());
            text.add(explanation.len()).write(0);
        }
        Ok(())
    })
}

/// Frees a handle, or does nothing for null. Workspaces and windows keep what they need.
///
/// # Safety
/// `plan` is null or a living handle, which nobody uses any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hs_plan_free(plan: *mut hs_plan) {
    // SAFETY: the caller's promise; handles are boxes.
    quietly(|| drop((!plan.is_null()).then(|| unsafe { Box::from_raw(plan) })));
}

/// Windows that begin where `offsets` says: instance `g` reads as many values from `offsets[g]` on as its
/// topology has hyperedges (`HS_HYPEREDGE`, for weights and scales of hyperedges) or vertices (`HS_VERTEX`,
/// for scales of vertices). They may overlap. A table of instances needs one offset for each, copies as many
/// as a call will have instances.
///
/// They serve every plan of the same batch on the same `hs_device` (or on the CPU). On a device they are
/// uploaded, as the tables of a batch are for `hs_plan_create`.
///
/// Errors: `HS_ERROR_LENGTH_MISMATCH`, `HS_ERROR_OFFSET_OUT_OF_RANGE`, `HS_ERROR_TOO_LARGE`,
/// `HS_ERROR_OUT_OF_MEMORY`, `HS_ERROR_DRIVER`, `HS_ERROR_ARGUMENT`, `HS_ERROR_NULL`.
///
/// # Safety
/// `plan` is null or a living handle; `offsets` is null or as it says; `windows` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hs_windows_create(
    plan: *const hs_plan,
    axis: u32,
    offsets: *const hs_indices,
    windows: *mut *mut hs_windows,
) -> i32 {
    entry(|| {
        let of = || {
            let axis = self::axis(axis)?;
            // SAFETY: the caller's promise, here and below.
            let (plan, offsets) = unsafe { (reference("plan", plan)?, indices("offsets", offsets)?) };
            let batch = plan.0.batch();
            let table = with_indices!(offsets, offsets => match axis {
                Axis::Vertex => WindowTable::for_vertices(batch, offsets),
                Axis::Hyperedge => WindowTable::new(batch, offsets),
            });
            plan.0.windows(table?)
        };
        // SAFETY: as above.
        unsafe { make("windows", windows, of) }
    })
}
