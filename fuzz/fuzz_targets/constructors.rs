//! Arbitrary input to every constructor gives `Ok` with all invariants, or `Err`. A call with arbitrary
//! windows, strides and operands on their results gives `Ok` or `Err`, within the bounds of its buffers.

#![no_main]

use arbitrary::Arbitrary;
use hyperscatter::{
    AllInFirst, Axis, Batch, Conv, Error, Incidence, Normalization, Out, Owners, Repeats, RowLayout, Rows,
    SelfLoops, WeightUse, WindowTable, cpu,
};
use libfuzzer_sys::fuzz_target;

#[path = "../../tests/invariants.rs"]
mod invariants;

use invariants::{assert_batch, assert_incidence, is_all_in_first};

#[derive(Debug, Arbitrary)]
struct Input {
    sizes: [Size; 2],
    arrays: [Vec<Number>; 4],
    lists: Vec<Vec<Number>>,
    repeats: u8,
    conv: [u8; 2],
    strides: [Option<Size>; 4],
    instances: Option<Size>,
    to_hyperedges: bool,
}

/// Mostly small. Never so large that its tables would fill the memory, unless a constructor refuses it.
#[derive(Debug, Clone, Copy, Arbitrary)]
enum Size {
    Small(u8),
    Huge(u8),
}

impl Size {
    fn get(self) -> usize {
        match self {
            Self::Small(size) => size.into(),
            Self::Huge(size) => usize::MAX - usize::from(size),
        }
    }
}

/// Mostly small, so that some of it is right; never a legal count of more vertices than there is memory for.
#[derive(Debug, Clone, Copy, Arbitrary)]
enum Number {
    Small(i8),
    Any(i64),
}

fn numbers(array: &[Number]) -> Vec<i64> {
    array
        .iter()
        .map(|n| match n {
            Number::Small(n) => i64::from(*n).rem_euclid(17) - 1,
            Number::Any(n) if (1 << 12..1 << 32).contains(n) => n >> 20,
            Number::Any(n) => *n,
        })
        .collect()
}

fuzz_target!(|input: Input| {
    let [n, m] = input.sizes.map(Size::get);
    let [a, b, c, d] = input.arrays.each_ref().map(|a| numbers(a));
    let lists: Vec<_> = input.lists.iter().map(|l| numbers(l)).collect();
    let repeats = [Repeats::Keep, Repeats::Reject, Repeats::Merge][usize::from(input.repeats % 3)];
    let made = [
        Incidence::from_edges(n, &lists, repeats),
        Incidence::from_csr(n, &a, &b, repeats),
        Incidence::from_coo(n, m, &a, &b, repeats),
        Incidence::subsets(n % 12, m),
    ];
    let mut incidences = vec![];
    for incidence in made.into_iter().flatten() {
        assert_incidence(&incidence);
        for loops in [SelfLoops::Isolated, SelfLoops::All] {
            assert_incidence(&incidence.clone().with_self_loops(loops).unwrap());
        }
        incidences.push(incidence);
    }
    let owners = |ids: bool, values| if ids { Owners::GraphIds(values) } else { Owners::Counts(values) };
    for (v, e) in [(true, true), (true, false), (false, true), (false, false)] {
        let batch = |all_in_first| {
            Batch::from_batched_coo(n, &a, &b, owners(v, &c), owners(e, &d), repeats, all_in_first)
        };
        let rejected = batch(AllInFirst::Reject);
        if let Ok(batch) = batch(AllInFirst::Accept) {
            assert_batch(&batch);
            let all_in_first = matches!(rejected, Err(Error::AllInFirstGraph { .. }));
            assert_eq!(is_all_in_first(&batch, &a, &b), all_in_first, "{rejected:?}");
        } else {
            assert!(rejected.is_err());
        }
    }
    let mut batches: Vec<_> = incidences.first().cloned().map(Batch::replicate).into_iter().collect();
    if let Ok(batch) = Batch::from_table(incidences, &c) {
        assert_batch(&batch);
        batches.push(batch);
    }
    for batch in batches {
        call(&input, &batch, &d);
    }
});

/// A convolution and its backward with windows at `offsets` and rows wherever the input's strides say.
fn call(input: &Input, batch: &Batch, offsets: &[i64]) {
    const FEATURES: usize = 3;
    let layout = |strides: &[Option<Size>]| {
        let mut layout = RowLayout::contiguous(FEATURES);
        if let Some(stride) = strides[0] {
            layout = layout.row_stride(stride.get());
        }
        if let Some(stride) = strides[1] {
            layout = layout.instance_stride(stride.get());
        }
        if let Some(instances) = input.instances {
            layout = layout.instances(instances.get());
        }
        layout
    };
    let norm = [Normalization::Row, Normalization::Symmetric, Normalization::None];
    let uses = [WeightUse::Documented, WeightUse::DegreeOnly, WeightUse::MessageOnly];
    let conv = Conv::new(norm[usize::from(input.conv[0] % 3)], uses[usize::from(input.conv[1] % 3)]);
    let plan = cpu::Plan::<f32>::builder(batch, FEATURES).conv(conv).build().unwrap();
    let Ok(mut workspace) = plan.workspace(300) else { return };
    let len = batch.start(Axis::Vertex, batch.n_instances().unwrap_or(2)) * FEATURES;
    let (x, mut y, weights) = (vec![1.0f32; len], vec![0.0f32; len], vec![0.5f32; 40]);
    let mut grads = vec![0.0f32; weights.len()];
    let table = WindowTable::new(batch, offsets).ok();
    let windows = [
        Some(cpu::Weights::shared(&weights[..])),
        Some(cpu::Weights::consecutive(&weights)),
        table.as_ref().map(|table| cpu::Weights::table(&weights, table)),
    ];
    for weights in windows.into_iter().flatten() {
        let x = Rows::new(&x[..], layout(&input.strides[..2]));
        let _ = workspace.conv(x, weights, Out::Overwrite(Rows::new(&mut y, layout(&input.strides[2..]))));
        let out = Out::Accumulate(Rows::new(&mut y[..], layout(&input.strides[2..])));
        let _ = workspace.conv_backward(x, weights, x, out, Out::Accumulate(&mut grads));
        let step = cpu::Step::mean().hyperedge_scale(weights);
        let out = Out::Overwrite(Rows::new(&mut y[..], layout(&input.strides[2..])));
        let _ = match input.to_hyperedges {
            true => workspace.vertex_to_hyperedge(&step, x, out),
            false => workspace.hyperedge_to_vertex(&step, x, out),
        };
        let gradients = cpu::StepGradients::none()
            .rows(Out::Accumulate(Rows::new(&mut y[..], layout(&input.strides[2..]))))
            .hyperedge_scale(Out::Overwrite(&mut grads[..]));
        let _ = match input.to_hyperedges {
            true => workspace.vertex_to_hyperedge_backward(&step, x, x, gradients),
            false => workspace.hyperedge_to_vertex_backward(&step, x, x, gradients),
        };
    }
}
