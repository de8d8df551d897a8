//! What is measured: topologies, how many copies of them, and at which widths.

use hyperscatter::cuda::Checks;
use hyperscatter::{Incidence, Path, Precision, Repeats};

use crate::loaded::Call;

/// A topology, `copies` times, at several widths.
pub struct Case {
    pub name: &'static str,
    pub topology: Box<dyn Fn() -> Incidence>,
    pub copies: usize,
    pub runs: Vec<Run>,
}

/// A width, a type of features, and what is timed.
#[derive(Clone, Copy)]
pub struct Run {
    pub features: usize,
    pub element: Element,
    pub checks: Checks,
    /// How layers multiply `f32`.
    pub precision: Precision,
    /// The path that the convolution is forced onto, if any.
    pub path: Option<Path>,
    pub what: What,
    pub variant: Variant,
}

/// How a run differs from what a plan does by itself with contiguous rows.
#[derive(Clone, Copy, PartialEq)]
pub enum Variant {
    Default,
    /// Rows of vertices are [n, instances, F], as where each expert has a matrix of its own.
    VertexMajor,
    /// Kernels do not copy rows to shared memory asynchronously, also where the device can.
    DirectLoads,
}

/// What is timed.
#[derive(Clone, Copy, PartialEq)]
pub enum What {
    All,
    /// The convolution, forward and backward.
    Convolution,
    /// The same with epilogues, with a residual and as a readout.
    Epilogues,
    /// A layer in one pass, forward and backward.
    Layer,
    /// The same, also with weights of its own for each instance.
    LayerAndOwn,
    /// The same beside the convolution that is in it, which reads what a product with Θ has stored.
    LayerAndConvolution,
}

impl Run {
    /// All calls in `f32`, without checks.
    pub fn of(features: usize) -> Self {
        run(features, Element::F32, Checks::Off)
    }

    pub fn calls(&self) -> &'static [Call] {
        match self.what {
            What::All => Call::ALL,
            What::Convolution => Call::CONVOLUTION,
            What::Epilogues => Call::EPILOGUES,
            What::Layer => Call::LAYER,
            What::LayerAndOwn => Call::LAYER_AND_OWN,
            What::LayerAndConvolution => Call::LAYER_AND_CONVOLUTION,
        }
    }

    pub fn has_layers(&self) -> bool {
        matches!(self.what, What::Layer | What::LayerAndOwn | What::LayerAndConvolution)
    }
}

#[derive(Clone, Copy, PartialEq)]
pub enum Element {
    F32,
    F16,
    Bf16,
}

/// How large the cases are.
#[derive(Clone, Copy)]
pub enum Size {
    /// For a rehearsal.
    Tiny,
    /// D has 2·10⁷ incidences.
    Short,
    /// D has 10⁸ incidences.
    Full,
}

pub fn cases(size: Size) -> Vec<Case> {
    let copies = |copies: usize| if matches!(size, Size::Tiny) { copies.min(2) } else { copies };
    let cora = match size {
        Size::Tiny => (200, 100, 400),
        _ => (2_708, 1_579, 4_786),
    };
    let (n, n_incidences) = match size {
        Size::Tiny => (100, 6_000),
        Size::Short => (1_000_000, 20_000_000),
        Size::Full => (1_000_000, 100_000_000),
    };
    vec![
        Case {
            name: "A: (8, 28 pairs)",
            topology: Box::new(|| Incidence::subsets(8, 2).unwrap()),
            copies: copies(24_576),
            runs: [
                runs(&[32, 64, 128, 256], Some(256)),
                gathers(),
                variant(Variant::VertexMajor),
                epilogues(None),
            ]
            .concat(),
        },
        Case {
            name: "B: (16, 560 triples)",
            topology: Box::new(|| Incidence::subsets(16, 3).unwrap()),
            copies: copies(24_576),
            runs: [
                runs(&[32, 64, 128, 256], None),
                gathers(),
                variant(Variant::DirectLoads),
                epilogues(None),
            ]
            .concat(),
        },
        Case {
            name: "L: (4, 6 pairs)",
            topology: Box::new(|| Incidence::subsets(4, 2).unwrap()),
            copies: copies(24_576),
            runs: layers(size, &[BF16], What::LayerAndOwn),
        },
        Case {
            name: "L: (8, 28 pairs)",
            topology: Box::new(|| Incidence::subsets(8, 2).unwrap()),
            copies: copies(24_576),
            runs: layers(size, &LAYER_TYPES, What::LayerAndConvolution),
        },
        Case {
            name: "L: (16, 560 triples)",
            topology: Box::new(|| Incidence::subsets(16, 3).unwrap()),
            copies: copies(24_576),
            runs: layers(size, &[BF16], What::LayerAndOwn),
        },
        small("E: (2, 1 pair)", 2, copies(98_304), &[64]),
        small("E: (4, 6 pairs)", 4, copies(49_152), &[64]),
        small("E: (8, 28 pairs), 64", 8, copies(64), &[256]),
        small("E: (8, 28 pairs), 512", 8, copies(512), &[64, 256]),
        small("E: (8, 28 pairs), 2,048", 8, copies(2_048), &[256]),
        small("E: (8, 28 pairs)", 8, copies(24_576), &[8, 16, 20, 512]),
        small("E: (12, 66 pairs)", 12, copies(16_384), &[64]),
        small("E: (24, 276 pairs)", 24, copies(8_192), &[64]),
        small("E: (32, 496 pairs)", 32, copies(6_144), &[64]),
        small("E: (48, 1,128 pairs)", 48, copies(4_096), &[64]),
        small("E: (64, 2,016 pairs)", 64, copies(3_072), &[64]),
        Case {
            name: "C: Cora-like",
            topology: Box::new(move || power_law(cora.0, cora.1, cora.2)),
            copies: 1,
            runs: [runs(&[64, 256], None), epilogues(Some(Path::Gather))].concat(),
        },
        Case {
            name: "D: power law",
            topology: Box::new(move || power_law(n, n, n_incidences)),
            copies: 1,
            runs: runs(&[64, 256], Some(64)),
        },
    ]
}

/// All pairs of some vertices, of which the convolution alone is timed.
fn small(name: &'static str, n: usize, copies: usize, widths: &[usize]) -> Case {
    let convolution = |run| Run { what: What::Convolution, ..run };
    Case {
        name,
        topology: Box::new(move || Incidence::subsets(n, 2).unwrap()),
        copies,
        runs: runs(widths, None).into_iter().map(convolution).collect(),
    }
}

/// The convolution on the path of the gathers, where the other runs are on the dense path.
fn gathers() -> Vec<Run> {
    let gathers = |run| Run { path: Some(Path::Gather), what: What::Convolution, ..run };
    runs(&[256], None).into_iter().map(gathers).collect()
}

/// The convolution in another way.
fn variant(variant: Variant) -> Vec<Run> {
    let other = |run| Run { variant, what: What::Convolution, ..run };
    runs(&[256], None).into_iter().map(other).collect()
}

/// The convolution with epilogues.
fn epilogues(path: Option<Path>) -> Vec<Run> {
    let epilogues = |run| Run { path, what: What::Epilogues, ..run };
    runs(&[256], None).into_iter().map(epilogues).collect()
}

/// The types of layers: kernels multiply `f32` in two ways.
const LAYER_TYPES: [(Element, Precision); 4] =
    [(Element::F32, Precision::ThreeBf16), (Element::F32, Precision::Tf32), (Element::F16, DEFAULT), BF16];
const BF16: (Element, Precision) = (Element::Bf16, DEFAULT);

/// What 16-bit types have no use for.
const DEFAULT: Precision = Precision::ThreeBf16;

/// Layers of as many inputs as features: of 256 in each type, and also what `what` has besides; of other
/// numbers in `types` alone. There are none of 512 in `f32`. A rehearsal has a quarter of the features: the
/// emulated driver takes longest for what tensor cores do.
fn layers(size: Size, types: &[(Element, Precision)], what: What) -> Vec<Run> {
    let part = if matches!(size, Size::Tiny) { 4 } else { 1 };
    let runs_of = |features: usize| {
        let (what, types) = match features {
            256 => (what, &LAYER_TYPES[..]),
            _ => (What::Layer, types),
        };
        let types = types.iter().filter(move |(element, _)| features <= 256 || *element != Element::F32);
        types.map(move |&(element, precision)| {
            let run = run(features / part, element, Checks::Off);
            Run { precision, what, ..run }
        })
    };
    [64, 128, 256, 512].into_iter().flat_map(runs_of).collect()
}

fn run(features: usize, element: Element, checks: Checks) -> Run {
    Run {
        features,
        element,
        checks,
        precision: Precision::default(),
        path: None,
        what: What::All,
        variant: Variant::Default,
    }
}

/// Each width in both types, and one of them with checks, too.
fn runs(widths: &[usize], checked: Option<usize>) -> Vec<Run> {
    let unchecked = widths.iter().flat_map(|&features| {
        [Element::F32, Element::Bf16].map(|element| run(features, element, Checks::Off))
    });
    let checked = checked.map(|features| run(features, Element::F32, Checks::On));
    unchecked.chain(checked).collect()
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let element = match (self.element, self.precision) {
            (Element::F32, Precision::Tf32) => "f32 by TF32",
            (Element::F32, _) => "f32",
            (Element::F16, _) => "f16",
            (Element::Bf16, _) => "bf16",
        };
        let checks = if self.checks == Checks::On { ", checked" } else { "" };
        let path = self.path.map_or(String::new(), |path| format!(", {}", path.name()));
        let what = if self.what == What::Epilogues { ", epilogues" } else { "" };
        let variant = match self.variant {
            Variant::Default => "",
            Variant::VertexMajor => ", vertex-major",
            Variant::DirectLoads => ", direct loads",
        };
        write!(f, "F = {}, {element}{checks}{path}{what}{variant}", self.features)
    }
}

/// Hyperedge sizes fall as rank^(−3/4), and vertex v of a ranking has a share ∝ v^(−2/3) of the incidences.
/// Neighbours in rank are far from each other in memory.
fn power_law(n_vertices: usize, n_hyperedges: usize, n_incidences: usize) -> Incidence {
    const PRIME: usize = 611_953;
    let weight = |e: usize| ((e * PRIME % n_hyperedges + 1) as f64).powf(-0.75);
    let whole: f64 = (0..n_hyperedges).map(weight).sum();
    let mut sum = 0.0;
    let mut pointers = vec![0; n_hyperedges + 1];
    for (e, end) in pointers[1..].iter_mut().enumerate() {
        sum += weight(e);
        *end = (n_incidences as f64 * (sum / whole)) as u32;
    }
    // Rounding may have left some over.
    pointers[n_hyperedges] = n_incidences as u32;
    let mut state = 1u64;
    let vertices: Vec<u32> = (0..n_incidences)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let u = (state >> 11) as f64 / (1u64 << 53) as f64;
            let rank = (n_vertices as f64 * (u * u * u)) as usize;
            (rank.min(n_vertices - 1) * PRIME % n_vertices) as u32
        })
        .collect();
    Incidence::from_csr(n_vertices, &pointers, &vertices, Repeats::Keep).unwrap()
}
