//! Shapes, strides, windows, tables, threads: whatever must not change the results.

use std::sync::Arc;

use hyperscatter_candle::{Operators, TensorStep, TensorWeights, TensorWindows, core_error};

use crate::candle_core::{DType, Device, Result, Tensor};
use crate::hyperscatter::{Axis, Batch, Conv, Error, Incidence, Normalization, WeightUse, WindowTable};
use crate::reference::*;

const SYMMETRIC: Normalization = Normalization::Symmetric;

fn operators(batch: &Batch) -> Operators {
    Operators::new(batch, Conv::new(SYMMETRIC, WeightUse::Documented))
}

/// `x` and the weights' gradients and the result, of the convolution and of both steps with scales.
fn everything(
    operators: &Operators,
    x: &Tensor,
    g: &Tensor,
    weights: &Tensor,
    windows: TensorWindows,
) -> Vec<Tensor> {
    let w = var(weights);
    let scale = || Some(TensorWeights::new(&w, windows.clone()));
    let conv = operators.conv(x, scale().unwrap()).unwrap();
    let z = operators.vertex_to_hyperedge(x, TensorStep::mean().hyperedge_scale(scale())).unwrap();
    let y = operators.hyperedge_to_vertex(&z, TensorStep::sum().hyperedge_scale(scale())).unwrap();
    let loss = (&conv + &y).unwrap().mul(g).unwrap().sum_all().unwrap().backward().unwrap();
    let gradient_of_x = loss.get(x).cloned();
    [Some(conv), Some(z), Some(y), loss.get(&w).cloned(), gradient_of_x].into_iter().flatten().collect()
}

#[track_caller]
fn assert_all_same(found: &[Tensor], expected: &[Tensor], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_same(found, expected, &format!("{what}, result {i}"));
    }
}

#[test]
fn strided_features_give_the_bits_of_contiguous_ones() {
    let operators = operators(&pairs(5));
    let w = positive(&[10], 1, DType::F32);
    let g = signed(&[7, 5, 3], 2, DType::F32);
    let views: [(&str, Tensor); 4] = [
        ("expert-major", signed(&[5, 7, 3], 3, DType::F32).transpose(0, 1).unwrap()),
        (
            "one head of several",
            signed(&[7, 5, 4, 3], 4, DType::F32).narrow(2, 2, 1).unwrap().squeeze(2).unwrap(),
        ),
        ("feature-major", signed(&[7, 3, 5], 5, DType::F32).transpose(1, 2).unwrap()),
        ("one copy, broadcast", signed(&[5, 3], 6, DType::F32).broadcast_left(7).unwrap()),
    ];
    for (what, view) in views {
        assert!(!view.is_contiguous());
        let strided_g = g.transpose(0, 1).unwrap().contiguous().unwrap().transpose(0, 1).unwrap();
        let expected = everything(&operators, &view.contiguous().unwrap(), &g, &w, TensorWindows::Shared);
        assert_all_same(
            &everything(&operators, &view, &strided_g, &w, TensorWindows::Shared),
            &expected,
            what,
        );
    }
}

#[test]
fn gradients_flow_back_through_strided_views() {
    let operators = operators(&pairs(5));
    let w = positive(&[10], 1, DType::F64);
    let (x, g) = (var(&signed(&[5, 7, 3], 2, DType::F64)), signed(&[5, 7, 3], 3, DType::F64));
    // Transposed back, the result's gradient arrives with strides too.
    let strided = operators
        .conv(&x.transpose(0, 1).unwrap(), TensorWeights::shared(&w))
        .unwrap()
        .transpose(0, 1)
        .unwrap();
    let copied = x.transpose(0, 1).unwrap().contiguous().unwrap();
    let contiguous = operators.conv(&copied, TensorWeights::shared(&w)).unwrap();
    let expected = gradients(&contiguous, &g.transpose(0, 1).unwrap().contiguous().unwrap(), &[&x]);
    assert_same(&gradients(&strided, &g, &[&x])[0], &expected[0], "the gradient of x");
}

#[test]
fn a_batch_gives_the_bits_of_each_instance_alone() {
    let operators = operators(&pairs(4));
    let w = positive(&[6], 1, DType::F32);
    let (x, g) = (var(&signed(&[9, 4, 5], 2, DType::F32)), signed(&[9, 4, 5], 3, DType::F32));
    let all = everything(&operators, &x, &g, &w, TensorWindows::Shared);
    let mut grad_w = w.zeros_like().unwrap();
    for i in 0..9 {
        // [4, 5], without any leading dimension
        let one =
            everything(&operators, &var(&x.get(i).unwrap()), &g.get(i).unwrap(), &w, TensorWindows::Shared);
        for result in [0, 1, 2, 4] {
            assert_same(
                &all[result].get(i).unwrap(),
                &one[result],
                &format!("instance {i}, result {result}"),
            );
        }
        grad_w = (grad_w + &one[3]).unwrap();
    }
    assert_close(&all[3], &grad_w, 1e-5, "the gradient of the weights");
}

#[test]
fn leading_dimensions_are_copies_in_row_major_order() {
    let operators = operators(&pairs(4));
    let w = positive(&[6], 1, DType::F32);
    let (x, g) = (signed(&[2, 3, 4, 5], 2, DType::F32), signed(&[2, 3, 4, 5], 3, DType::F32));
    let flat = |t: &Tensor| t.flatten(0, 1).unwrap();
    let expected = everything(&operators, &flat(&x), &flat(&g), &w, TensorWindows::Shared);
    let found = everything(&operators, &x, &g, &w, TensorWindows::Shared);
    assert_eq!(found[1].dims(), [2, 3, 6, 5]);
    for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let found = if found.rank() == 4 { flat(found) } else { found.clone() };
        assert_same(&found, expected, &format!("result {i}"));
    }
    // These two leading dimensions do not collapse into one stride, and are copied.
    let swapped = x.transpose(0, 1).unwrap().contiguous().unwrap().transpose(0, 1).unwrap();
    assert_all_same(&everything(&operators, &swapped, &g, &w, TensorWindows::Shared), &found, "swapped");
}

#[test]
fn windows_of_their_own_are_read_and_their_gradients_land_there() {
    let batch = pairs(4);
    let operators = operators(&batch);
    let (x, g) = (signed(&[3, 4, 2], 1, DType::F32), signed(&[3, 4, 2], 2, DType::F32));
    let offsets = [9usize, 3, 0];
    let table = TensorWindows::Table(Arc::new(WindowTable::new(&batch, &offsets).unwrap()));
    // Consecutive weights may have the shape of what they are.
    let cases: [(&str, TensorWindows, &[usize], [usize; 3]); 2] = [
        ("consecutive", TensorWindows::Consecutive, &[3, 6], [0, 6, 12]),
        ("a table", table, &[16], offsets),
    ];
    for (what, windows, shape, offsets) in cases {
        let w = positive(shape, 3, DType::F32);
        let all = everything(&operators, &x, &g, &w, windows);
        assert_eq!(all[3].dims(), shape);
        let mut expected = vec![0f64; w.elem_count()];
        for (i, offset) in offsets.into_iter().enumerate() {
            let own = w.flatten_all().unwrap().narrow(0, offset, 6).unwrap();
            let (x, g) = (x.get(i).unwrap(), g.get(i).unwrap());
            let one = everything(&operators, &x, &g, &own, TensorWindows::Shared);
            for result in 0..3 {
                let instance = all[result].get(i).unwrap();
                assert_same(&instance, &one[result], &format!("{what}: instance {i}, result {result}"));
            }
            for (sum, value) in expected[offset..].iter_mut().zip(values(&one[3])) {
                *sum += value;
            }
        }
        let expected = Tensor::from_vec(expected, shape, x.device()).unwrap().to_dtype(DType::F32).unwrap();
        assert_close(&all[3], &expected, 1e-5, what);
    }
}

#[test]
fn a_table_of_topologies_computes_each_of_them() {
    let topologies = [Incidence::subsets(4, 2).unwrap(), Incidence::subsets(3, 3).unwrap(), odd_topology()];
    let ids = [2usize, 0, 1, 0];
    let batch = Batch::from_table(topologies.to_vec(), &ids).unwrap();
    let (vertices, hyperedges) = (batch.start(Axis::Vertex, 4), batch.start(Axis::Hyperedge, 4));
    let table = operators(&batch);
    let w = positive(&[hyperedges], 1, DType::F32);
    // Every second row of a larger tensor: the rows of a table may be strided.
    let wide = signed(&[vertices, 2, 3], 2, DType::F32);
    let (x, g) = (wide.narrow(1, 1, 1).unwrap().squeeze(1).unwrap(), signed(&[vertices, 3], 3, DType::F32));
    assert!(!x.is_contiguous());
    let all = everything(&table, &x, &g, &w, TensorWindows::Consecutive);
    assert_eq!(all[1].dims(), [hyperedges, 3]);
    assert_eq!(table.degrees(TensorWeights::consecutive(&w)).unwrap().dims(), [vertices]);
    for (i, &id) in ids.iter().enumerate() {
        let topology = &topologies[id];
        let (v, e) = (batch.start(Axis::Vertex, i), batch.start(Axis::Hyperedge, i));
        let of_vertices = |t: &Tensor| t.narrow(0, v, topology.n_vertices()).unwrap();
        let of_hyperedges = |t: &Tensor| t.narrow(0, e, topology.n_hyperedges()).unwrap();
        let single = operators(&Batch::replicate(topology.clone()));
        let one = everything(
            &single,
            &of_vertices(&x),
            &of_vertices(&g),
            &of_hyperedges(&w),
            TensorWindows::Shared,
        );
        assert_same(&of_vertices(&all[0]), &one[0], "conv");
        assert_same(&of_hyperedges(&all[1]), &one[1], "z");
        assert_same(&of_vertices(&all[2]), &one[2], "y");
        assert_same(&of_hyperedges(&all[3]), &one[3], "the gradient of the weights");
    }
}

#[test]
fn the_number_of_copies_may_change_from_call_to_call() {
    let operators = operators(&pairs(4));
    let w = positive(&[6], 1, DType::F32);
    let (x, g) = (signed(&[40, 4, 2], 2, DType::F32), signed(&[40, 4, 2], 3, DType::F32));
    let run = |operators: &Operators, copies| {
        let first = |t: &Tensor| t.narrow(0, 0, copies).unwrap();
        everything(operators, &first(&x), &first(&g), &w, TensorWindows::Shared)
    };
    for copies in [3, 40, 1, 17] {
        let fresh = Operators::new(operators.batch(), operators.conventions());
        assert_all_same(&run(&operators, copies), &run(&fresh, copies), &format!("{copies} copies"));
    }
}

#[test]
fn no_copies_and_no_features_are_legal() {
    let operators = operators(&pairs(4));
    let w = positive(&[6], 1, DType::F32);
    for shape in [[0, 4, 2], [3, 4, 0]] {
        let x = var(&Tensor::zeros(&shape[..], DType::F32, w.device()).unwrap());
        let all = everything(&operators, &x, &x, &w, TensorWindows::Shared);
        assert_eq!(all[0].dims(), shape);
        assert_eq!(all[1].dims(), [shape[0], 6, shape[2]]);
        assert_eq!(all[3].to_vec1::<f32>().unwrap(), [0.0; 6]);
        assert_eq!(all[4].dims(), shape);
    }
}

#[test]
fn threads_share_one_set_of_operators() {
    let operators = operators(&pairs(6));
    let w = positive(&[15], 1, DType::F32);
    let run = |seed: u64| {
        let copies = 1 + seed as usize % 7;
        let (x, g) = (signed(&[copies, 6, 4], seed, DType::F32), signed(&[copies, 6, 4], !seed, DType::F32));
        everything(&operators, &x, &g, &w, TensorWindows::Shared)
    };
    let alone: Vec<_> = (0..40).map(run).collect();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| (0..40).map(run).collect::<Vec<_>>())).collect();
        for thread in threads {
            for (together, alone) in thread.join().unwrap().iter().zip(&alone) {
                assert_all_same(together, alone, "at the same time");
            }
        }
    });
}

#[test]
fn thousands_of_copies_are_one_operation() -> Result<()> {
    // The shape of a mixture of experts: many tokens, few experts.
    let operators = operators(&pairs(8));
    let (x, w) = (var(&signed(&[4096, 8, 4], 1, DType::F32)), var(&positive(&[28], 2, DType::F32)));
    let y = operators.conv(&x, TensorWeights::shared(&w))?;
    for copy in [0, 63, 64, 4095] {
        let alone = operators.conv(&x.get(copy)?, TensorWeights::shared(&w))?;
        assert_eq!(values(&y.get(copy)?), values(&alone), "copy {copy}");
    }
    let gradients = y.sqr()?.sum_all()?.backward()?;
    assert!(values(gradients.get(&w).unwrap()).iter().all(|g| g.is_finite()));
    Ok(())
}

#[test]
fn degrees_of_copies_with_windows_of_their_own() {
    let batch = Batch::replicate(Incidence::subsets(3, 2).unwrap());
    let operators = Operators::new(&batch, Conv::default());
    let w = Tensor::new(&[[1f32, 2., 4.], [8., 16., 32.]], &Device::Cpu).unwrap();
    let degrees = operators.degrees(TensorWeights::consecutive(&w)).unwrap();
    assert_eq!(degrees.to_vec2::<f32>().unwrap(), [[3., 5., 6.], [24., 40., 48.]]);
    let table = Arc::new(WindowTable::new(&batch, &[3, 0, 1]).unwrap());
    let degrees = operators.degrees(TensorWeights::table(&w, table)).unwrap();
    assert_eq!(degrees.to_vec2::<f32>().unwrap(), [[24., 40., 48.], [3., 5., 6.], [6., 10., 12.]]);
    // Weights of all copies, read as if they were shared: refused, not read from the first on.
    let error = operators.degrees(TensorWeights::shared(&w)).unwrap_err();
    assert!(matches!(core_error(&error), Some(Error::UnreadWeights { value: 6, bound: 3, .. })));
}
