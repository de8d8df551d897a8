//! The golden cases: batches in `tests/fixtures` (and in the folder that `HYPERSCATTER_GOLDEN_DIR` names)
//! with outputs and gradients that a dense evaluation with automatic differentiation gave in `f64`.
//! `generate.py` beside them says how they were made and what the files hold.
//!
//! Every case runs on every backend; on the GPU in all element types, builds of the emulated driver, and
//! orders of threads.
//!
//! Errors are relative Frobenius norms. `f64` and `f32` are compared with the files, 16-bit types with the
//! dense reference of this test on the rounded inputs, since rounding the inputs alone moves results further
//! than anything that is tested here.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use hyperscatter::{
    Axis, Batch, Conv, Incidence, Normalization, Out, Repeats, Rows, WeightUse, WindowTable, cpu,
};
use safetensors::{Dtype, SafeTensors};

use crate::backend::Backend;
use crate::common::{TestElement, norm, relative_error, widen};
use crate::per_backend::per_backend;
use crate::reference;

/// One file.
struct Case {
    name: String,
    tensors: HashMap<String, Tensor>,
    batch: Batch,
    windows: WindowTable,
    offsets: Vec<i64>,
    features: usize,
}

enum Tensor {
    F64(Vec<f64>, Vec<usize>),
    I64(Vec<i64>),
}

impl Case {
    fn load(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensors: HashMap<_, _> = file
            .iter()
            .map(|(name, view)| {
                let words = view.data().as_chunks::<8>().0;
                let shape = view.shape().to_vec();
                let tensor = match view.dtype() {
                    Dtype::F64 => Tensor::F64(words.iter().map(|&w| f64::from_le_bytes(w)).collect(), shape),
                    Dtype::I64 => Tensor::I64(words.iter().map(|&w| i64::from_le_bytes(w)).collect()),
                    other => panic!("{}: {name} is {other:?}", path.display()),
                };
                (name.to_string(), tensor)
            })
            .collect();
        let ints = |name: &str| match &tensors[name] {
            Tensor::I64(values) => values.clone(),
            Tensor::F64(..) => panic!("{name} is f64"),
        };
        let mut topologies = Vec::new();
        while tensors.contains_key(&format!("topology.{}.n_vertices", topologies.len())) {
            let t = topologies.len();
            let n_vertices = ints(&format!("topology.{t}.n_vertices"))[0] as usize;
            let edge_ptr = ints(&format!("topology.{t}.edge_ptr"));
            let edge_vertices = ints(&format!("topology.{t}.edge_vertices"));
            topologies
                .push(Incidence::from_csr(n_vertices, &edge_ptr, &edge_vertices, Repeats::Keep).unwrap());
        }
        let (ids, offsets): (Vec<i64>, Vec<i64>) = ints("instances").chunks(2).map(|i| (i[0], i[1])).unzip();
        let batch = Batch::from_table(topologies, &ids).unwrap();
        let windows = WindowTable::new(&batch, &offsets).unwrap();
        let features = match &tensors["x"] {
            Tensor::F64(_, shape) => shape[1],
            Tensor::I64(..) => panic!("x is i64"),
        };
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        Self { name, tensors, batch, windows, offsets, features }
    }

    /// A tensor, rounded to `T`.
    fn get<T: TestElement>(&self, name: &str) -> Vec<T> {
        self.f64(name).iter().map(|&x| T::of(x)).collect()
    }

    /// The weights, rounded to `T::Acc`.
    fn weights<T: TestElement>(&self) -> Vec<T::Acc> {
        self.f64("weights").iter().map(|&w| T::acc(w)).collect()
    }

    fn f64(&self, name: &str) -> &[f64] {
        match &self.tensors[name] {
            Tensor::F64(values, _) => values,
            Tensor::I64(..) => panic!("{name} is i64"),
        }
    }

    /// The conventions that the file has results for.
    fn conventions(&self) -> Vec<(String, Conv)> {
        let norms = [
            ("row", Normalization::Row),
            ("symmetric", Normalization::Symmetric),
            ("none", Normalization::None),
        ];
        let uses = [
            ("documented", WeightUse::Documented),
            ("degree_only", WeightUse::DegreeOnly),
            ("message_only", WeightUse::MessageOnly),
        ];
        norms
            .iter()
            .flat_map(|(norm, n)| {
                uses.iter().map(move |(used, u)| (format!("{norm}.{used}"), Conv::new(*n, *u)))
            })
            .filter(|(key, _)| self.tensors.contains_key(&format!("{key}.out")))
            .collect()
    }
}

/// Results of a case under one convention, widened.
struct Results {
    /// Empty where it was not saved.
    z: Vec<f64>,
    out: Vec<f64>,
    grad_x: Vec<f64>,
    grad_weights: Vec<f64>,
}

impl Case {
    /// What the file gives; z is not in it.
    fn expected(&self, key: &str, conv: Conv) -> Results {
        let get = |what: &str| self.f64(&format!("{key}.{what}")).to_vec();
        let z = self.dense::<f64>(conv).z;
        Results { z, out: get("out"), grad_x: get("grad_x"), grad_weights: get("grad_weights") }
    }

    /// What a backend gives for inputs rounded to `T`; the backward starts from z where that is saved.
    fn computed<T: TestElement>(&self, backend: &dyn Backend<T>, conv: Conv, save_z: bool) -> Results {
        let features = self.features;
        let (x, g, w): (Vec<T>, Vec<T>, Vec<T::Acc>) =
            (self.get("x"), self.get("grad_out"), self.weights::<T>());
        let (mut y, mut grad_x) = (vec![T::of(f64::NAN); x.len()], vec![T::of(f64::NAN); x.len()]);
        let mut grad_weights = vec![T::acc(f64::NAN); w.len()];
        let mut z = vec![T::acc(f64::NAN); self.batch.start(Axis::Hyperedge, self.offsets.len()) * features];
        let weights = cpu::Weights::table(&w[..], &self.windows);
        let (x, g) = (Rows::contiguous(&x[..], features), Rows::contiguous(&g[..], features));
        let mut operators = backend.operators(&self.batch, features, conv, self.offsets.len()).unwrap();
        let saved = save_z.then(|| Rows::contiguous(&mut z[..], features));
        operators.conv(x, weights, saved, Out::Overwrite(Rows::contiguous(&mut y, features))).unwrap();
        let saved = save_z.then(|| Rows::contiguous(&z[..], features));
        let grad_rows = Out::Overwrite(Rows::contiguous(&mut grad_x[..], features));
        let grad_w = Out::Overwrite(&mut grad_weights[..]);
        operators.conv_backward(x, saved, weights, g, grad_rows, grad_w).unwrap();
        let z = if save_z { widen(&z) } else { vec![] };
        Results { z, out: widen(&y), grad_x: widen(&grad_x), grad_weights: widen(&grad_weights) }
    }

    /// The mean of each hyperedge's vertices, for inputs rounded to `T`.
    fn mean_z<T: TestElement>(&self, backend: &dyn Backend<T>) -> Vec<f64> {
        let (features, instances) = (self.features, self.offsets.len());
        let x: Vec<T> = self.get("x");
        let mut z = vec![T::of(f64::NAN); self.batch.start(Axis::Hyperedge, instances) * features];
        let rows = Out::Overwrite(Rows::contiguous(&mut z[..], features));
        let mut operators = backend.operators(&self.batch, features, Conv::default(), instances).unwrap();
        operators.step(true, cpu::Step::mean(), Rows::contiguous(&x, features), rows).unwrap();
        widen(&z)
    }

    /// What the dense reference gives for inputs rounded to `T`.
    fn dense<T: TestElement>(&self, conv: Conv) -> Results {
        let (x, g) = (widen(&self.get::<T>("x")), widen(&self.get::<T>("grad_out")));
        let w = widen(&self.weights::<T>());
        let mut results =
            Results { z: vec![], out: vec![], grad_x: vec![], grad_weights: vec![0.0; w.len()] };
        for (instance, &offset) in self.offsets.iter().enumerate() {
            let topology = self.batch.topology(instance);
            let start = self.batch.start(Axis::Vertex, instance) * self.features;
            let rows = start..start + topology.n_vertices() * self.features;
            let weights = &w[offset as usize..][..topology.n_hyperedges()];
            let dense = reference::conv(topology, self.features, conv, weights, &x[rows.clone()], &g[rows]);
            results.z.extend(dense.z);
            results.out.extend(dense.y);
            results.grad_x.extend(dense.grad_x);
            for (sum, grad) in results.grad_weights[offset as usize..].iter_mut().zip(dense.grad_weights) {
                *sum += grad;
            }
        }
        results
    }

    /// ‖x‖ ‖g‖, which bounds the sizes of the terms of the weight gradient, up to the weights.
    fn size_of_terms(&self) -> f64 {
        norm(self.f64("x")) * norm(self.f64("grad_out"))
    }

    /// By how much rounding errors of the weights are larger in the degrees than in the weights: 1 where all
    /// weights have one sign, more where they cancel out.
    fn degree_condition(&self) -> f64 {
        let w = self.f64("weights");
        let mut worst: f64 = 1.0;
        for (instance, &offset) in self.offsets.iter().enumerate() {
            for edges in self.batch.topology(instance).by_vertex().rows() {
                let weights = || edges.iter().map(|&e| w[offset as usize + e as usize]);
                let (sum, sum_of_sizes) = (weights().sum::<f64>(), weights().map(f64::abs).sum::<f64>());
                if sum != 0.0 {
                    worst = worst.max(sum_of_sizes / sum.abs());
                }
            }
        }
        worst
    }
}

/// The largest relative errors that are accepted.
struct Tolerance {
    z: f64,
    out: f64,
    grad_x: f64,
    grad_weights: f64,
}

/// Whether a result is zero but for the rounding errors of the terms that cancel out in it, as the weight
/// gradient is where every vertex stands in one hyperedge. It is then compared with the size of those terms.
fn is_rounding_noise(case: &Case, expected: &[f64]) -> bool {
    norm(expected) < 1e-14 * case.size_of_terms()
}

fn compare(
    case: &Case,
    key: &str,
    element: &str,
    computed: &Results,
    expected: &Results,
    tolerance: &Tolerance,
) {
    let z = if computed.z.is_empty() { &computed.z } else { &expected.z };
    for (what, computed, expected, bound) in [
        ("z", &computed.z, z, tolerance.z),
        ("out", &computed.out, &expected.out, tolerance.out),
        ("grad_x", &computed.grad_x, &expected.grad_x, tolerance.grad_x),
        ("grad_weights", &computed.grad_weights, &expected.grad_weights, tolerance.grad_weights),
    ] {
        let mut error = relative_error(computed, expected);
        if is_rounding_noise(case, expected) {
            error = norm(computed) / case.size_of_terms();
        }
        println!("{}: {key}.{what} in {element}: error {error:.1e} of {bound:.1e}", case.name);
        assert!(error <= bound, "{}: {key}.{what} in {element}: error {error:.1e} > {bound:.1e}", case.name);
    }
}

fn tolerance<T: TestElement>(case: &Case, conv: Conv) -> Tolerance {
    if T::NAME == "f64" {
        return Tolerance { z: 1e-12, out: 1e-12, grad_x: 1e-12, grad_weights: 1e-12 };
    }
    // Where signed weights nearly cancel out in a degree, their rounding to `f32` alone moves its inverse,
    // and the large row that it scales, by this much.
    let divides = conv.normalization != Normalization::None && conv.weight_use != WeightUse::MessageOnly;
    let cancelled = if divides { f64::from(f32::EPSILON) * (case.degree_condition() - 1.0) } else { 0.0 };
    let bound = 2e-6 + cancelled;
    // The two terms of the weight gradient nearly cancel out where all vertices are alike.
    let grad_weights = if case.name.starts_with("oversmoothed") { 1e-4 } else { bound };
    if T::NAME == "f32" {
        return Tolerance { z: bound, out: bound, grad_x: bound, grad_weights };
    }
    // Rows of results are rounded once; z and weight gradients are `f32`. Five times the tolerance of `f32`
    // results: where a weight gradient is a small difference of large terms, over 31 seeds of the generator
    // up to 7e-6 was seen.
    let rows = T::ROUNDING + bound;
    Tolerance { z: bound, out: rows, grad_x: rows, grad_weights: grad_weights.max(5.0 * bound) }
}

/// The error of a mean: in 16-bit types inputs and outputs are rounded.
fn mean_tolerance<T: TestElement>() -> f64 {
    match T::NAME {
        "f64" => 1e-12,
        "f32" => 2e-6,
        _ => 2.0 * T::ROUNDING,
    }
}

/// The convolutions of every case under every convention, with z saved for the backward or not.
fn compare_all<T: TestElement>(backend: &dyn Backend<T>, save_z: bool) {
    for case in fixtures().iter().map(|path| Case::load(path)) {
        for (key, conv) in case.conventions() {
            let expected = match T::NAME {
                "f64" | "f32" => case.expected(&key, conv),
                _ => case.dense::<T>(conv),
            };
            let computed = case.computed::<T>(backend, conv, save_z);
            compare(&case, &key, T::NAME, &computed, &expected, &tolerance::<T>(&case, conv));
        }
    }
}

fn convolutions_have_the_golden_results<T: TestElement>(backend: &dyn Backend<T>) {
    compare_all(backend, false);
}

fn convolutions_from_a_saved_z_have_the_golden_results<T: TestElement>(backend: &dyn Backend<T>) {
    compare_all(backend, true);
}

fn means_have_the_golden_results<T: TestElement>(backend: &dyn Backend<T>) {
    let cases = fixtures().into_iter().map(|path| Case::load(&path));
    for case in cases.filter(|case| case.tensors.contains_key("mean_z")) {
        let error = relative_error(&case.mean_z::<T>(backend), case.f64("mean_z"));
        let bound = mean_tolerance::<T>();
        assert!(error <= bound, "{}: mean_z in {}: {error:.1e} > {bound:.1e}", case.name, T::NAME);
    }
}

per_backend! {
    on [cpu, cuda(modes(&[Order::Reverse]))], in [f32, f64, f16, bf16]:
    convolutions_have_the_golden_results;
}

per_backend! {
    on [cpu, cuda(modes(&[Order::Forward, Order::Shuffled(1)]))], in [f32, f64, f16, bf16]:
    convolutions_from_a_saved_z_have_the_golden_results;
    means_have_the_golden_results;
}

#[test]
fn the_dense_reference_has_the_golden_results() {
    for path in fixtures() {
        let case = Case::load(&path);
        let conventions = case.conventions();
        assert!(!conventions.is_empty(), "{}: no results for any convention", case.name);
        for (key, conv) in conventions {
            let (computed, expected) = (case.dense::<f64>(conv), case.expected(&key, conv));
            compare(&case, &key, "the dense reference", &computed, &expected, &tolerance::<f64>(&case, conv));
        }
    }
}

/// The repository, or where its test files were copied to.
fn root() -> PathBuf {
    std::env::var_os("HYPERSCATTER_ROOT").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into()).into()
}

fn fixtures() -> Vec<PathBuf> {
    let own = root().join("tests/fixtures");
    let others = std::env::var_os("HYPERSCATTER_GOLDEN_DIR").map(PathBuf::from);
    let mut files = Vec::new();
    for folder in std::iter::once(own).chain(others) {
        let before = files.len();
        let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        files.extend(
            entries.map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "safetensors")),
        );
        assert!(files.len() > before, "no golden cases in {}", folder.display());
    }
    files.sort();
    files
}
