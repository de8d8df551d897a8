//! The operators on a CUDA device, by hand-written kernels.
//!
//! | | what it is |
//! |---|---|
//! | [`Device`] | a device, opened by its ordinal or taken from a context that the caller has |
//! | [`DeviceBatch`] | a [`Batch`](crate::Batch) whose tables are on the device, for plans of every width |
//! | [`Plan`] | a batch, the number of features, the conventions of the convolution, checks or none |
//! | [`Workspace`] | the scratch memory of one stream; its methods are the operators |
//!
//! The operators are those of [`cpu`](crate::cpu), by the same names: both scatter steps with their scales,
//! the convolution with and without an epilogue, readouts, matrices of instances, and the gradients of all of
//! them, for `f32`, `f64`, `f16` and `bf16`. Sums, weights and their gradients are `f32` (`f64` for `f64`).
//!
//! ```no_run
//! use hyperscatter::cuda::{Device, Plan, Weights};
//! use hyperscatter::{Batch, Incidence, Out, Rows};
//!
//! const TOKENS: usize = 4096;
//! const FEATURES: usize = 256;
//! let device = Device::open(0)?;
//! let batch = device.upload(&Batch::replicate(Incidence::subsets(8, 2)?))?;
//! let plan = Plan::<f32>::builder(&batch, FEATURES).build()?;
//! let stream = device.context().default_stream();
//! let mut workspace = plan.workspace(&stream, TOKENS)?;
//! let x = stream.clone_htod(&vec![1.0; TOKENS * 8 * FEATURES]).unwrap();
//! let w = stream.clone_htod(&[0.5; 28]).unwrap();
//! let (mut y, mut grad_w) = (stream.alloc_zeros(x.len()).unwrap(), stream.alloc_zeros(w.len()).unwrap());
//! let out = Out::Overwrite(Rows::contiguous(&mut y, FEATURES));
//! workspace.conv(Rows::contiguous(&x, FEATURES), Weights::shared(&w), out)?;
//! let (x, g) = (Rows::contiguous(&x, FEATURES), Rows::contiguous(&y, FEATURES));
//! workspace.conv_backward(x, Weights::shared(&w), g, Out::Skip, Out::Overwrite(grad_w.as_view_mut()))?;
//! workspace.check()?; // waits, and reports a wrong index
//! # Ok::<(), hyperscatter::Error>(())
//! ```
//!
//! # Calls
//! An operator call queues its work and returns. It allocates nothing, waits for nothing, and does no work on
//! the host that grows with the number of instances. Shapes, strides, overlaps, contexts and alignment are
//! checked before any kernel is queued. [`Plan::explain`] tells how many kernels each operator launches for a
//! batch, [`Plan::explain_call`] how many a call with given options does. The driver is also called for this:
//!
//! | what | driver calls |
//! |---|---|
//! | the current context, and the capture status of the stream | 2 |
//! | making the context current and restoring the one before, where it is not current | 2 |
//! | in a context with several streams: each operand that is read | 4 |
//! | in a context with several streams: each operand that is written | 6 |
//! | in a context with several streams: the capture status again, since a wait can take a stream into a capture | 1 |
//! | window tables | 0 |
//!
//! The calls for operands are those of `cudarc`'s event guards: waits, a record, and a look at the context
//! for each. The thread's current context is the same after a call as before.
//!
//! The host's part of a call, without the driver's, took 0.46 µs for a step of one launch, 0.54 µs for a
//! convolution of one and 1.2 µs for a backward of 5, on an AMD EPYC virtual machine (2026-11-27, commit
//! 064f975, `cargo test -- the_host_cost --nocapture`, a driver that does nothing, debug assertions on).
//!
//! Buffers are `cudarc`'s: `&slice` or a view for [`Rows`](crate::Rows) and [`Weights`](crate::Weights).
//! Views are not `Clone`, and neither are operands that are made of them: make one for each call, from
//! `&slice` or `&view`. The [CPU backend](crate::cpu#errors-of-operands) lists what can be wrong with
//! operands.
//!
//! # Streams
//! Streams and buffers must be of the device's very context. Each stream needs a workspace of its own.
//! `cudarc`'s guards then order reads and writes of the same buffers. (Of several streams that read a slice,
//! `cudarc` 0.19 remembers the last: wait for the others before the slice is dropped or written.)
//!
//! Batches, plans, workspaces and buffers may be dropped while their work is in flight. The memory that the
//! work uses is kept until an event behind it has passed, and freed at the next upload, workspace or check
//! after that. The last holder of a device waits for it.
//!
//! # Captures
//! These calls cannot be captured into a CUDA graph ([`Error::Capturing`](crate::Error::Capturing)): a graph
//! would use buffers beyond the borrow that the call has of them. The [raw tier](raw) has the same operators
//! as `unsafe` methods on device pointers and foreign streams, without events. Those can be captured.
//!
//! An operand that was written on a stream that is being captured takes the workspace's stream into the graph
//! before the call is refused. That capture then has to be ended or joined as usual. If other operands were
//! used outside of the capture, waiting for those makes it invalid, as CUDA has it.
//!
//! `cudarc` orders streams by two events in each slice, and CUDA takes an event that was recorded in a
//! capture for invalid once the capture has ended. So in a context with several streams, a slice cannot be
//! waited for any more if it was last written through `cudarc` in a capture (or, for a call that writes it,
//! last read in one). Each call with it is [`Error::Driver`](crate::Error::Driver), `"waiting for an operand
//! that a stream capture used last"`. Nothing is queued, and nothing else is hindered. (A call that is also
//! refused for an operand of another context returns that error. The context then remembers the failed wait,
//! as below.) What helps:
//!
//! * Make the slices of captures while event tracking is off (`CudaContext::disable_event_tracking`). They
//!   have no events, and their order is up to their owner, as that of replays is anyway.
//! * Give a slice new events: `leak` it, take away the error that this leaves with `CudaContext::check_err`,
//!   and make a slice of the address again with `upgrade_device_ptr`. (`cudarc` itself never records the old
//!   ones again.)
//!
//! When such a slice is dropped, the context remembers the failed wait. The next call that asks the context
//! for errors returns it once, be it of this crate or of `cudarc`: this crate's as an error of `"an earlier
//! call of this context"`. `CudaContext::check_err` takes it away.
//!
//! # Memory
//! On the path of the gathers the convolution has rows of hyperedges between its two gathers: z = B⁻¹Hᵀ R x,
//! in the accumulation type, since a rounded z spoils the gradient of the weights where vertices are alike.
//!
//! | operator, if a topology is on [`Path::Gather`](crate::Path::Gather) | rows of hyperedges in the workspace |
//! |---|---|
//! | the steps and their gradients, [`conv_saving_z`](Workspace::conv_saving_z) | none |
//! | [`conv`](Workspace::conv) | M · F numbers |
//! | [`conv_backward_from_z`](Workspace::conv_backward_from_z) | M · F numbers |
//! | [`conv_backward`](Workspace::conv_backward), which computes z again | 2 · M · F numbers |
//!
//! With an epilogue or a readout it is the same. Their backwards have N · F elements of vertices besides, on
//! each path: the gradients of the convolution's sums. So have readouts, where some instance is on the path
//! of the gathers or has more than 16 vertices, and the gradient of a bias has sums of 256 vertices each.
//!
//! [`Plan::workspace`] makes a workspace for the convolution and its backward, [`Plan::workspace_for`] one
//! for the operators that it is given, and [`Plan::workspace_bytes`] tells its size.
//! [`Plan::workspace_without_memory`] makes one whose scratch memory the caller owns and lends. The rest are
//! sums of segments of rows of more than 512 incidences, a few numbers for each vertex and hyperedge, and a
//! dot product for each 32 vectors of 16 bytes of features; on the dense path an operator of up to 32 × 32
//! numbers for each instance (of matrices of instances 64 × 64), and backward as many products. The gradient
//! of weights needs no table of all weights: a number for each hyperedge of the batch, whatever the windows.
//!
//! # Windows
//! Weights and scales are read through windows: shared, consecutive, or a table that
//! [`DeviceBatch::upload_windows`] takes to the device. Gradients of weights are summed over the instances
//! that read them, without atomics, in an order that depends on the batch and the windows alone: instances of
//! one topology and offset in chunks, then the chunks of each weight in order.
//!
//! # Bits
//! Results have the same bits from run to run, alone and in any batch, at any position, with any strides and
//! alignment: a row is computed by one group of lanes, in the order of its incidences. They are the bits of
//! the CPU backend, except for the payloads of NaN.
//!
//! Rows are read 16 bytes at a time where a row and all addresses and strides are multiples of 16 bytes, and
//! element by element where not. The bits are the same. Less than an element's alignment is
//! [`Error::Misaligned`](crate::Error::Misaligned).
//!
//! # Checks
//! With [`Checks::On`] kernels test every index. A wrong one is a value,
//! [`Error::IndexOutOfBounds`](crate::Error::IndexOutOfBounds): there is no device assert, and the context
//! lives on. A negative degree under symmetric normalization is reported with checks or without.
//!
//! The first violation is written to host memory, at which each call looks without calling the driver. Calls
//! return it until [`Workspace::check`] has cleared it. It is a violation of the first kernel on the stream
//! that found one. Which of several of that kernel is reported depends on scheduling, and nothing else does.
//!
//! # What has run
//! An H100 (compute capability 9.0, driver 580, 2026-11-26, commit fb3d1756066a) passed every test, with the
//! bits of the CPU. compute-sanitizer found nothing in the kernels; of races, only its racecheck was asked.
//! An H200 passed every test of results at an earlier commit. No other generation has run the kernels, and
//! those of later commits have run on no GPU yet. Logs and times: `benches/results` in the repository.
//! Elsewhere the tests run on an emulated driver.
//!
//! # Features
//! Building needs no CUDA. The driver's library is looked for when a device is opened. A missing driver, too
//! old a driver, a missing device and too old a device are four different errors. Kernels are PTX, in modules
//! by kernel file, type and checks. The driver compiles a module when a workspace first needs it, and
//! caches it on disk. Native code can be asked for at build time: `HYPERSCATTER_NVCC` names the nvcc, and
//! `HYPERSCATTER_ARCHITECTURES` the architectures, such as `80,90`.
//!
//! With the feature `nvtx` each operator call is an NVTX range on the thread that makes it, in both tiers,
//! for the timelines of profilers such as Nsight Systems: `hyperscatter::` and
//! [`Operator::name`](crate::Operator::name). The NVTX library (`libnvtx3interop.so.1`, or
//! `libnvToolsExt.so.1` before CUDA 12.9) is looked for when a device is opened. Without one there are no
//! ranges.
//! Building needs none.

mod abi;
mod args;
mod batch;
mod buffer;
mod call;
mod conv;
mod count;
mod degree;
mod dense_tables;
mod description;
mod device;
mod driver;
mod element;
mod epilogue;
mod explain;
mod gather;
mod geometry;
mod instance_sums;
mod kernels;
mod launches;
mod lent;
mod operands;
mod plan;
mod ranges;
pub mod raw;
mod record;
mod retired;
mod route;
mod row_scale;
mod row_sums;
mod safe;
mod scratch;
mod split;
mod step;
mod tables;
mod tiers;
mod weight_gradient;
mod window_table;
mod workspace;

pub use batch::DeviceBatch;
pub use count::Request;
pub use cudarc;
#[doc(hidden)]
pub use device::embedded_modules;
pub use device::{Device, LoadedModule};
pub use element::{Checks, DeviceElement};
pub use explain::{Explanation, OperatorExplanation, RowsExplanation};
pub use operands::DevicePointer;
pub use plan::{Plan, PlanBuilder};
pub use safe::{Epilogue, EpilogueGradients, LayerGradients, Step, StepGradients, Weights};
pub use tables::{Orientation, Table};
pub use window_table::{DeviceWindows, WindowPart};
pub use workspace::Workspace;
