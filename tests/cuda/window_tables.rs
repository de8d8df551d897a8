//! Window tables on a device: any number of streams read one at once, and it may be dropped or overwritten
//! behind them.

use std::sync::Arc;

use hyperscatter::cuda::cudarc::driver::{CudaSlice, CudaStream};
use hyperscatter::cuda::{Checks, DeviceBatch, DeviceWindows, Plan, Step, WindowPart, Workspace};
use hyperscatter::{Batch, Error, Incidence, Operator, Out, Rows, Weights, WindowTable};

use super::gpu::{Gpu, Mode, in_any_order};

const F: usize = 4;
const COPIES: usize = 3;

/// A stream, and a workspace on it with operands.
struct Reader {
    stream: Arc<CudaStream>,
    workspace: Workspace<f32>,
    x: CudaSlice<f32>,
    scale: CudaSlice<f32>,
    z: CudaSlice<f32>,
}

impl Reader {
    fn new(gpu: &Gpu, batch: &DeviceBatch, checks: Checks) -> Self {
        let stream = gpu.device().context().new_stream().unwrap();
        let plan = Plan::<f32>::builder(batch, F).checks(checks).build().unwrap();
        Self {
            workspace: plan.workspace_for(&stream, COPIES, Operator::ALL).unwrap(),
            x: stream.clone_htod(&[1.0; COPIES * 4 * F]).unwrap(),
            scale: stream.clone_htod(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap(),
            z: stream.alloc_zeros(COPIES * 6 * F).unwrap(),
            stream,
        }
    }

    fn read(&mut self, windows: &DeviceWindows) -> hyperscatter::Result<()> {
        let scale = Weights::table(self.scale.as_view(), windows);
        let step = Step::sum().vertex_scale(scale);
        let to = Out::Overwrite(Rows::contiguous(self.z.as_view_mut(), F));
        self.workspace.vertex_to_hyperedge(&step, Rows::contiguous(self.x.as_view(), F), to)
    }

    /// Each copy's pairs of 1, 2, 3, 4, with the copy's offset added to both.
    fn assert_right(&mut self, offsets: [u32; COPIES]) {
        self.workspace.check().unwrap();
        let z = self.stream.clone_dtoh(&self.z).unwrap();
        let pairs = [(1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4)];
        let expected: Vec<f32> = offsets
            .iter()
            .flat_map(|offset| pairs.map(|(a, b)| (a + b + 2 * offset) as f32))
            .flat_map(|sum| [sum; F])
            .collect();
        assert_eq!(z, expected);
    }
}

fn windows(batch: &DeviceBatch) -> DeviceWindows {
    batch.upload_windows(&WindowTable::for_vertices(batch.batch(), &[0u8, 2, 1]).unwrap()).unwrap()
}

fn batch(gpu: &Gpu) -> DeviceBatch {
    gpu.device().upload(&Batch::replicate(Incidence::subsets(4, 2).unwrap())).unwrap()
}

#[test]
fn a_table_may_be_dropped_while_two_streams_read_it() {
    let gpu = Gpu::take();
    gpu.set(Mode::PLAIN);
    let batch = batch(&gpu);
    let mut readers = [Checks::Off, Checks::On].map(|checks| Reader::new(&gpu, &batch, checks));
    let windows = windows(&batch);
    for reader in &mut readers {
        reader.read(&windows).unwrap();
    }
    if let Some(control) = gpu.control("that the work is still queued") {
        assert!(control.pending() > 0, "nothing is in flight: this test shows nothing");
    }
    drop(windows);
    // New memory may be what was let go of too early. The second reader ends first.
    let again = (0..4).map(|_| self::windows(&batch)).collect::<Vec<_>>();
    readers[1].stream.synchronize().unwrap();
    drop(again);
    for reader in &mut readers {
        reader.assert_right([0, 2, 1]);
    }
}

#[test]
fn a_table_is_overwritten_behind_all_its_readers() {
    in_any_order(overwritten_behind_all_readers);
}

fn overwritten_behind_all_readers(gpu: &Gpu) {
    let batch = batch(gpu);
    let mut readers = [Checks::Off, Checks::On].map(|checks| Reader::new(gpu, &batch, checks));
    let mut windows = windows(&batch);
    for reader in &mut readers {
        reader.read(&windows).unwrap();
    }
    windows.overwrite(WindowPart::Offsets, 1, &[1 << 40]).unwrap();
    for reader in &mut readers {
        reader.assert_right([0, 2, 1]);
    }
    // Unchecked kernels do not read it any more, and checked ones find it.
    assert_eq!(readers[0].read(&windows), Err(Error::UncheckedTables));
    readers[1].read(&windows).unwrap();
    let error = readers[1].workspace.check().unwrap_err();
    let is_named = matches!(
        error,
        Error::IndexOutOfBounds { table: "vertex_windows", instance: 1, position: 1, bound: 3, .. }
    );
    assert!(is_named, "{error}");
    // Right offsets again.
    windows.overwrite(WindowPart::Offsets, 1, &[0]).unwrap();
    assert_eq!(windows.read(WindowPart::Offsets).unwrap(), [0, 0, 1]);
    readers[1].read(&windows).unwrap();
    readers[1].assert_right([0, 0, 1]);
}
