//! What a call costs on the host, and what it can address.

use std::time::{Duration, Instant};

use hyperscatter::cuda::cudarc::driver::CudaSlice;
use hyperscatter::cuda::{Checks, Operator, Plan, Step, Workspace};
use hyperscatter::{Batch, Conv, Incidence, Out, Repeats, RowLayout, Rows};

use super::gpu::{Gpu, Mode};
use crate::calls::allocations;
use crate::common::{bits, features};

const F: usize = 8;

fn pairs() -> Batch {
    Batch::replicate(Incidence::subsets(8, 2).unwrap())
}

fn call(workspace: &mut Workspace<f32>, x: &CudaSlice<f32>, z: &mut CudaSlice<f32>) {
    let out = Out::Overwrite(Rows::contiguous(z.as_view_mut(), F));
    workspace.vertex_to_hyperedge(Step::mean(), Rows::contiguous(x.as_view(), F), out).unwrap();
}

#[test]
fn a_call_makes_as_many_driver_calls_as_the_documentation_says() {
    let long = Incidence::from_edges(4, &[vec![1u32; 600], vec![0, 2]], Repeats::Keep).unwrap();
    for (batch, launches) in [(pairs(), 1), (Batch::replicate(long), 2)] {
        for checks in [Checks::On, Checks::Off] {
            let gpu = Gpu::take();
            let Some(control) = gpu.control("counting driver calls") else { return };
            let context = gpu.device().context();
            let stream = context.default_stream();
            let plan =
                Plan::<f32>::new(&gpu.device().upload(&batch).unwrap(), F, Conv::default(), checks).unwrap();
            let step = Operator::VertexToHyperedge;
            assert!(launches <= step.max_launches());
            assert_eq!(plan.explain().of(step).launches, launches);
            let mut workspace = plan.workspace(&stream, 3).unwrap();
            let x = stream.clone_htod(&vec![1.0f32; 3 * batch.max_vertices() * F]).unwrap();
            let mut z = stream.alloc_zeros::<f32>(3 * batch.max_hyperedges() * F).unwrap();
            let mut count = |workspace: &mut _| {
                control.reset_calls();
                call(workspace, &x, &mut z);
                let mut calls: Vec<_> = control.calls().into_iter().filter(|(_, n)| *n > 0).collect();
                calls.sort();
                calls
            };
            let named = |calls: &[(&str, u64)]| -> Vec<_> {
                calls.iter().map(|(name, n)| (name.to_string(), *n)).collect()
            };
            let single =
                [("cuCtxGetCurrent", 1), ("cuLaunchKernel", launches as u64), ("cuStreamIsCapturing", 1)];
            assert_eq!(count(&mut workspace), named(&single));
            // A second stream in the context turns the event guards of the operands on.
            let second = context.new_stream().unwrap();
            let several = [
                ("cuCtxGetCurrent", 6),
                ("cuEventRecord", 2),
                ("cuLaunchKernel", launches as u64),
                ("cuStreamIsCapturing", 2),
                ("cuStreamWaitEvent", 3),
            ];
            assert_eq!(count(&mut workspace), named(&several));
            drop(second);
            // Where the context is not current, it is made current, and what was before is restored.
            let other = Gpu::take();
            other.device().context().bind_to_thread().unwrap();
            let entered =
                [("cuCtxSetCurrent", 1), ("cuLaunchKernel", launches as u64), ("cuStreamIsCapturing", 1)];
            // The calls before and after are the other device's.
            let calls = count(&mut workspace);
            let own: Vec<_> = calls.into_iter().filter(|(name, _)| name != "cuCtxGetCurrent").collect();
            assert_eq!(own, named(&entered));
            context.bind_to_thread().unwrap();
        }
    }
}

#[test]
fn no_call_allocates_on_the_host_or_on_the_device() {
    let gpu = Gpu::take();
    let stream = gpu.device().context().default_stream();
    let plan =
        Plan::<f32>::new(&gpu.device().upload(&pairs()).unwrap(), F, Conv::default(), Checks::On).unwrap();
    let mut workspace = plan.workspace(&stream, 20).unwrap();
    let x = stream.clone_htod(&vec![1.0f32; 20 * 8 * F]).unwrap();
    let mut z = stream.alloc_zeros::<f32>(20 * 28 * F).unwrap();
    call(&mut workspace, &x, &mut z);
    let control = gpu.control("counting allocations of the device");
    let creations = || control.map(|control| control.creations());
    let (on_device, on_host) = (creations(), allocations());
    for _ in 0..10 {
        call(&mut workspace, &x, &mut z);
    }
    assert_eq!(allocations(), on_host);
    assert_eq!(creations(), on_device);
    workspace.check().unwrap();
}

/// The host's part of a call, against a driver that does nothing. Run with `--nocapture` to see the numbers.
#[test]
fn the_host_cost_of_a_call_does_not_grow_with_the_number_of_instances() {
    let gpu = Gpu::take();
    let Some(control) = gpu.control("a driver that does nothing") else { return };
    let stream = gpu.device().context().default_stream();
    let subsets = || Incidence::subsets(8, 2).unwrap();
    let mut costs = vec![];
    for instances in [1, 10_000] {
        for batch in [pairs(), Batch::from_table(vec![subsets()], &vec![0u8; instances]).unwrap()] {
            for checks in [Checks::On, Checks::Off] {
                let plan =
                    Plan::<f32>::new(&gpu.device().upload(&batch).unwrap(), F, Conv::default(), checks)
                        .unwrap();
                let mut workspace = plan.workspace(&stream, instances).unwrap();
                let x = stream.alloc_zeros::<f32>(instances * 8 * F).unwrap();
                let mut z = stream.alloc_zeros::<f32>(instances * 28 * F).unwrap();
                stream.synchronize().unwrap();
                control.set_execute(false);
                let calls = 2000;
                // The best of several, since the machine does other things too.
                let best = (0..10)
                    .map(|_| {
                        let start = Instant::now();
                        (0..calls).for_each(|_| call(&mut workspace, &x, &mut z));
                        let time = start.elapsed() / calls;
                        stream.synchronize().unwrap();
                        time
                    })
                    .min()
                    .unwrap();
                control.set_execute(true);
                println!(
                    "{instances} instances, {}, {checks:?}: {best:?} a call",
                    if batch.is_replicated() { "copies" } else { "table" }
                );
                costs.push(best);
            }
        }
    }
    let (few, many) = costs.split_at(4);
    for (few, many) in few.iter().zip(many) {
        assert!(*many < *few * 5 + Duration::from_micros(5), "{few:?} for 1 instance, {many:?} for 10,000");
        // Far from what is stated, for a machine that is busy; an accidental allocation or loop is worse.
        assert!(*many < Duration::from_micros(100), "{many:?} a call");
    }
}

#[test]
fn any_alignment_of_elements_has_the_same_bits() {
    let gpu = Gpu::take();
    gpu.set(Mode::PLAIN);
    let stream = gpu.device().context().default_stream();
    let plan =
        Plan::<f32>::new(&gpu.device().upload(&pairs()).unwrap(), F, Conv::default(), Checks::Off).unwrap();
    let mut workspace = plan.workspace(&stream, 2).unwrap();
    let values: Vec<f32> = features(3, 2 * 8 * F);
    let mut results = vec![];
    for (x_offset, z_offset) in [(0, 0), (1, 0), (0, 3), (2, 1)] {
        let mut x = stream.alloc_zeros::<f32>(values.len() + 4).unwrap();
        let mut z = stream.alloc_zeros::<f32>(2 * 28 * F + 4).unwrap();
        stream.memcpy_htod(&values, &mut x.slice_mut(x_offset..x_offset + values.len())).unwrap();
        let out = Out::Overwrite(Rows::contiguous(z.slice_mut(z_offset..z_offset + 2 * 28 * F), F));
        let from = Rows::contiguous(x.slice(x_offset..x_offset + values.len()), F);
        workspace.vertex_to_hyperedge(Step::mean(), from, out).unwrap();
        let z = stream.clone_dtoh(&z).unwrap();
        results.push(bits(&z[z_offset..z_offset + 2 * 28 * F]));
    }
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
}

/// Rows that lie more than 2³² elements apart, of which memory is only touched where the rows are. A short, a medium and a
/// long row are gathered from them.
#[test]
fn offsets_have_64_bits() {
    let gpu = Gpu::take();
    gpu.set(Mode::PLAIN);
    let stream = gpu.device().context().default_stream();
    let edges = [1, 10, 300].map(|repeats| [0u32, 1].repeat(repeats));
    let batch = Batch::replicate(Incidence::from_edges(2, &edges, Repeats::Keep).unwrap());
    let plan =
        Plan::<f32>::new(&gpu.device().upload(&batch).unwrap(), F, Conv::default(), Checks::On).unwrap();
    let mut workspace = plan.workspace(&stream, 2).unwrap();
    let stride = (1usize << 32) + 4;
    // SAFETY: the rows that are read are written first.
    let x = unsafe { stream.alloc::<f32>(stride + 2 * F) };
    let mut x = match x {
        Ok(x) => x,
        Err(error) => {
            println!("SKIPPED: no memory for 2^32 elements: {error}");
            return;
        }
    };
    // Vertex 0 of both instances, then vertex 1 of both.
    let rows: Vec<f32> = (0..4 * F).map(|i| i as f32).collect();
    stream.memcpy_htod(&rows[..2 * F], &mut x.slice_mut(..2 * F)).unwrap();
    stream.memcpy_htod(&rows[2 * F..], &mut x.slice_mut(stride..)).unwrap();
    let layout = RowLayout::contiguous(F).row_stride(stride).instance_stride(F).instances(2);
    let mut z = stream.alloc_zeros::<f32>(2 * 3 * F).unwrap();
    let out = Out::Overwrite(Rows::contiguous(z.as_view_mut(), F));
    workspace.vertex_to_hyperedge(Step::mean(), Rows::new(x.as_view(), layout), out).unwrap();
    workspace.check().unwrap();
    let mean = |i: usize| (rows[i] + rows[2 * F + i]) / 2.0;
    let expected: Vec<f32> = (0..2).flat_map(|g| (0..3 * F).map(move |i| mean(g * F + i % F))).collect();
    assert_eq!(stream.clone_dtoh(&z).unwrap(), expected);
    // And written: a vertex is in each hyperedge, and the mean of equal rows is that row.
    let out = Out::Overwrite(Rows::new(x.as_view_mut(), layout));
    workspace.hyperedge_to_vertex(Step::mean(), Rows::contiguous(z.as_view(), F), out).unwrap();
    workspace.check().unwrap();
    let expected: Vec<f32> = (0..2 * F).map(mean).collect();
    assert_eq!(stream.clone_dtoh(&x.slice(stride..)).unwrap(), expected);
    assert_eq!(stream.clone_dtoh(&x.slice(..2 * F)).unwrap(), expected);
}

#[test]
fn a_plan_explains_itself() {
    let gpu = Gpu::take();
    let edges = [vec![0u32; 600], (0..20).map(|i| i % 4).collect(), vec![1, 2], vec![]];
    let topology = Incidence::from_edges(5, &edges, Repeats::Keep).unwrap();
    let plan = Plan::<f32>::new(
        &gpu.device().upload(&Batch::replicate(topology)).unwrap(),
        20,
        Conv::default(),
        Checks::Off,
    )
    .unwrap();
    let explanation = plan.explain();
    let rows = explanation.rows[0];
    assert_eq!((rows.short, rows.medium, rows.long, rows.segments), (2, 1, 1, 2));
    let step = explanation.of(Operator::VertexToHyperedge);
    assert_eq!(step.launches, 2);
    assert_eq!(step.compulsory_bytes, (5 + 4) * 20 * 4);
    assert_eq!(step.gathered_bytes, (4 + 622) * 20 * 4);
    let conv = explanation.of(Operator::Conv);
    assert_eq!(conv.compulsory_bytes, 2 * 5 * 20 * 4);
    assert_eq!(conv.floor(1e9).as_nanos(), 2 * 5 * 20 * 4);
    assert_eq!((explanation.lanes, explanation.vectors), (8, true));
    let text = explanation.to_string();
    println!("{text}");
    for part in [
        "20 features of f32, unchecked",
        "8 lanes, 16 bytes at a time",
        "for each copy:",
        "vertex_to_hyperedge: gather-reduce, 2 launches (gather_f32, add_partials_f32)",
        "conv: gather-reduce, 6 launches (degree_f32, add_degree_f32, gather_f32, add_partials_f32)",
        "hyperedges: 2 of up to 8 incidences, 1 of up to 512, 1 longer, in 2 segments",
    ] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}
