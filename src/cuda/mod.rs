//! The operators on a CUDA device, by hand-written kernels.
//!
//! A [`Device`] is opened by its ordinal, or taken from a context that the caller has. A [`Batch`](crate::Batch) is uploaded
//! to it once, for plans of every width. A [`Plan`] adds the number of features, the conventions of the convolution and
//! whether every index is checked. A [`Workspace`] owns the scratch memory for one stream, and its methods are the operators, with
//! the words of [`cpu`](crate::cpu): both scatter steps with their scales, the convolution, and the gradients of all of them, for
//! `f32`, `f64`, `f16` and `bf16`; sums, weights and their gradients are `f32` (`f64` for `f64`).
//!
//! ```no_run
//! use hyperscatter::cuda::{Checks, Device, Plan};
//! use hyperscatter::{Batch, Conv, Incidence, Out, Rows, Weights};
//!
//! const TOKENS: usize = 4096;
//! const FEATURES: usize = 256;
//! let device = Device::open(0)?;
//! let batch = device.upload(&Batch::replicate(Incidence::subsets(8, 2)?))?;
//! let plan = Plan::<f32>::new(&batch, FEATURES, Conv::default(), Checks::default())?;
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
//! An operator call queues its work and returns. It allocates nothing, waits for nothing, and does no work on the host that
//! grows with the number of instances. Shapes, strides, overlaps, contexts and alignment are checked before any kernel is
//! queued. [`Operator::max_launches`] is the most kernels that a call launches, [`Plan::explain`] says how many it does for
//! a batch. Besides, the driver is asked for the current context and for the capture status; two more calls make the
//! context current and restore the one before, where it is not current. In a context with several streams, `cudarc`'s event
//! guards add 4 calls for each operand that is read and 6 for each that is written (waits, a record, and a look at the
//! context for each of these), and the capture status is read again, since a wait can take a stream into a capture. Window
//! tables take none. The host's part of a call, without the driver's, took 0.36 µs for a step of one launch, 0.55 µs for a
//! convolution of 3 and 1.2 µs for a backward of 10, on an Intel Xeon virtual machine (2026-11-25, `cargo test --
//! the_host_cost --nocapture`, a driver that does nothing, debug assertions on). The thread's current context is what it
//! was before.
//!
//! Buffers are `cudarc`'s: `&slice` or a view for [`Rows`](crate::Rows) and [`Weights`](crate::Weights). Views are not `Clone`,
//! so neither are operands that are made of them: make one for each call, from `&slice` or `&view`. What can be wrong with
//! operands is listed with the [CPU backend](crate::cpu#errors-of-operands).
//!
//! Streams and buffers must be of the device's very context. Work of several streams
//! needs a workspace for each; the guards then order reads and writes of the same buffers. (Of several streams that read a slice,
//! `cudarc` 0.19 remembers the last: wait for the others before it is dropped or written.)
//!
//! Batches, plans, workspaces and buffers may be dropped while their work is in flight: the memory that it uses is kept until
//! an event behind it has passed, and let go at the next upload, workspace or check after that. The last holder of a device
//! waits for it.
//!
//! These calls cannot be captured into a CUDA graph ([`Error::Capturing`](crate::Error::Capturing)): a graph would use
//! buffers beyond the borrow that the call has of them. The [raw tier](raw) has the same operators as `unsafe` methods on
//! device pointers and foreign streams, without events, and those can. An operand that was written on a stream that is
//! being captured takes the workspace's stream into the graph before the call is refused; that capture then has to be ended
//! or joined as usual. (If other operands were used outside of the capture, waiting for those makes it invalid, as CUDA has it.)
//!
//! `cudarc` orders streams by two events in each slice, and CUDA takes an event that was recorded in a capture for
//! invalid once that has ended. So a slice that was last written through `cudarc` in a capture (or last read in one,
//! for a call that writes it) cannot be waited for any more, in a context with several streams. Each call with it is
//! [`Error::Driver`](crate::Error::Driver), `"waiting for an operand that a stream capture used last"`; nothing is
//! queued, and nothing else is hindered. What helps:
//!
//! * to make the slices of captures while event tracking is off (`CudaContext::disable_event_tracking`): they have no
//!   events, and their order is up to their owner, as that of replays is anyway;
//! * to give a slice new events: `leak` it, take away the error that this leaves with `CudaContext::check_err`, and make
//!   a slice of the address again with `upgrade_device_ptr`. (`cudarc` itself never records the old ones again.)
//!
//! When such a slice is dropped, the context remembers the failed wait. The next call that asks it, of this crate or
//! of `cudarc`, returns it once, this crate's as an error of `"an earlier call of this context"`, unless `check_err`
//! was called before.
//!
//! # Memory
//! Gathers are two launches' worth of traffic, a step each, so the convolution has rows of hyperedges in between: z = B⁻¹Hᵀ
//! R x, in the accumulation type, since a rounded z spoils the gradient of the weights where vertices are alike.
//! [`conv`](Workspace::conv) has them in the workspace, M · F numbers; [`conv_backward`](Workspace::conv_backward) computes
//! them again, and needs as many for the gradient's way back. [`conv_saving_z`](Workspace::conv_saving_z) and
//! [`conv_backward_from_z`](Workspace::conv_backward_from_z) leave them with the caller instead, and save a gather.
//! [`Uses`] says what a workspace has memory for, [`Plan::workspace_bytes`] how much that is. The rest are sums of segments
//! of rows of more than 512 incidences, and for each vertex and hyperedge a few numbers and a dot product for each 32
//! vectors of 16 bytes of features. The gradient of weights needs no table of all slots: a number for each hyperedge of the
//! batch, whatever the windows.
//!
//! # Windows
//! Weights and scales are read through windows: shared, consecutive, or a table that [`DeviceBatch::upload_windows`] takes to
//! the device. Gradients of weights are summed over the instances that read them in an order that depends on the batch and the
//! windows alone, without atomics: instances of one topology and offset in chunks, then the chunks of each slot in order.
//!
//! # Bits
//! Results have the same bits from run to run, alone and in any batch, at any position, with any strides and alignment: a row
//! is computed by one group of lanes, in the order of its incidences. They are the bits of the CPU backend, but for the
//! payloads of NaN.
//!
//! Rows are read 16 bytes at a time where a row is a multiple of 16 bytes and so are all addresses and strides, and element
//! by element where not; the bits are the same. Less than an element's alignment is [`Error::Misaligned`](crate::Error::Misaligned).
//!
//! # Checks
//! See [`Checks`]. A negative degree under symmetric normalization is reported with checks or without. A wrong index is a
//! value, [`Error::IndexOutOfBounds`](crate::Error::IndexOutOfBounds); there is no device assert, and the context lives on.
//! The first violation is written to host memory that each call looks at without calling the driver: calls return it until
//! [`Workspace::check`] has cleared it. The first kernel on the stream that finds a violation has the say. Of several that one
//! kernel finds, any may be reported, and another one in the next run: that, and nothing else, depends on scheduling.
//!
//! # What has run
//! An H100 (compute capability 9.0, driver 580, 2026-11-26, commit fb3d1756066a) passed every test, with the bits of the CPU, and
//! compute-sanitizer found nothing in the kernels; races were looked for by its racecheck alone. An H200 passed every test of
//! results at an earlier commit. No other generation has run them. Logs and times: `benches/results` in the repository.
//! Elsewhere the tests run on an emulated driver.
//!
//! # Features
//! Building needs no CUDA. The driver's library is looked for when a device is opened; a missing driver, too old a driver, a
//! missing device and too old a device are four different errors. Kernels are PTX that the driver compiles when a plan first
//! needs them (it caches them on disk), unless native code was asked for at build time: `HYPERSCATTER_NVCC` names the nvcc and
//! `HYPERSCATTER_ARCHITECTURES` the architectures, such as `80,90`.
//!
//! With the feature `nvtx` each operator call is an NVTX range on the thread that makes it, in both tiers, for the timelines of
//! profilers such as Nsight Systems: `hyperscatter::` and [`Operator::name`]. The NVTX library (`libnvtx3interop.so.1`, or
//! `libnvToolsExt.so.1` before CUDA 12.9) is looked for at the first call; without one there are no ranges. Building needs none.

mod abi;
mod args;
mod batch;
mod buffer;
mod call;
mod conv;
mod count;
mod degree;
mod device;
mod driver;
mod element;
mod explain;
mod gather;
mod geometry;
mod instance_sums;
mod kernels;
mod launches;
mod operands;
mod plan;
mod ranges;
pub mod raw;
mod record;
mod retired;
mod row_scale;
mod row_sums;
mod safe;
mod scratch;
mod split;
mod step;
mod tables;
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
pub use operands::{DevicePointer, Step};
pub use plan::Plan;
pub use tables::{Orientation, Table};
pub use window_table::{DeviceWindows, WindowPart};
pub use workspace::Workspace;
