//! The bits of all results for a set of layouts, as hashes in a committed file, so that a change of the code
//! that must not change a bit can show that it has not.
//!
//! `HYPERSCATTER_WRITE_HASHES=1 cargo test hashes` writes the file anew, from the CPU backend. That takes a
//! reason, which the commit states: another order of summation, another formula.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use hyperscatter::half::{bf16, f16};
use hyperscatter::{Activation, Batch, Conv, Incidence, Normalization, Path, Reduce, Repeats, WeightUse};

use crate::backend::{Backend, Cpu, StepKind};
use crate::common::{TestElement, bits};
use crate::convolutions::{Asked, Operands, Results, gathers, operators, run};
use crate::epilogue::epilogue_bits;
use crate::layouts::{Layout, Place, WindowKind};
use crate::matrix::matrix_bits;
use crate::per_backend::per_backend;
use crate::steps::step_bits;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/hashes.txt");

/// What is hashed in, for the tests that run where there is no repository.
const COMMITTED: &str = include_str!("hashes.txt");

const HEADER: &str = "\
# FNV-1a hashes of the bits of all results, per layout, windows, type and convention: see tests/hashes.rs, which writes this
# file with `HYPERSCATTER_WRITE_HASHES=1 cargo test hashes`. Do not edit it.
";

/// FNV-1a of 64 bits.
fn hash(parts: &[(&'static str, Vec<u64>)]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325;
    let bytes = parts.iter().flat_map(|(_, bits)| bits).flat_map(|bits| bits.to_le_bytes());
    for byte in bytes {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash
}

/// Small hypergraphs that dense paths are for, and ones that they are not: long rows, single incidences,
/// empty hyperedges, isolated vertices, several topologies, more instances than a chunk. And the last ones
/// are for matrices of instances alone.
fn layouts() -> Vec<(&'static str, Layout)> {
    let subsets = |n, k| Incidence::subsets(n, k).unwrap();
    let odd = |n: usize, edges: &[&[u32]]| Incidence::from_edges(n, edges, Repeats::Keep).unwrap();
    let long: Vec<Vec<usize>> = std::iter::once((0..1300).map(|i| i * 7919 % 5).collect())
        .chain((0..600).map(|e| vec![2, e % 5]))
        .chain([vec![5]])
        .collect();
    let table = |topologies: Vec<Incidence>, instances: usize| {
        let ids: Vec<usize> = (0..instances).map(|g| g * g % topologies.len()).collect();
        (Batch::from_table(topologies, &ids).unwrap(), instances)
    };
    let irregular = odd(6, &[&[0, 1, 2], &[2], &[], &[3, 3, 1], &[4, 0]]);
    let packed = [Place::Contiguous; 5];
    let mixed = [Place::VertexMajor, Place::RowGap(3), Place::Padded(1), Place::Contiguous, Place::Padded(2)];
    let cases = [
        ("pairs of 8, F = 64", (Batch::replicate(subsets(8, 2)), 70), 64, packed),
        ("pairs of 2, F = 8", (Batch::replicate(subsets(2, 2)), 5), 8, packed),
        ("triples of 6, F = 20", (Batch::replicate(subsets(6, 3)), 9), 20, mixed),
        ("triples of 16, F = 16", (Batch::replicate(subsets(16, 3)), 2), 16, packed),
        ("irregular, F = 33", (Batch::replicate(irregular.clone()), 7), 33, mixed),
        (
            "several, F = 40",
            table(vec![irregular, subsets(5, 2), subsets(4, 3), subsets(9, 2)], 40),
            40,
            packed,
        ),
        (
            "long rows, F = 12",
            (Batch::replicate(Incidence::from_edges(6, &long, Repeats::Keep).unwrap()), 2),
            12,
            packed,
        ),
        ("pairs of 20, F = 12", (Batch::replicate(subsets(20, 2)), 3), 12, packed),
        (
            "many vertices, F = 4",
            table(vec![odd(600, &[&[0, 599], &[3]]), subsets(3, 2), subsets(18, 2), odd(0, &[])], 6),
            4,
            packed,
        ),
        ("matrices of 40, F = 12", (Batch::replicate(subsets(40, 2)), 3), 12, packed),
        (
            "matrices of several, F = 7",
            table(
                vec![odd(64, &[&[0, 63, 31, 32], &[40], &[], &[3, 3, 33]]), subsets(5, 2), subsets(18, 2)],
                4,
            ),
            7,
            mixed,
        ),
    ];
    let layout = |(i, (name, (batch, instances), features, places)): (usize, _)| {
        let offsets = (0..instances).map(|g| g * 5 % 7).collect();
        let (windows, conv, seed) = (WindowKind::Shared, Conv::default(), 100 + i as u64);
        (name, Layout { batch, instances, features, windows, offsets, places, conv, seed })
    };
    cases.into_iter().enumerate().map(layout).collect()
}

const TYPES: [&str; 4] = ["f32", "f64", "f16", "bf16"];

/// The conventions with each kind of windows.
fn all_conventions() -> impl Iterator<Item = (WindowKind, Conv)> {
    let normalizations = [Normalization::Row, Normalization::Symmetric, Normalization::None];
    let uses = [WeightUse::Documented, WeightUse::DegreeOnly, WeightUse::MessageOnly];
    WindowKind::ALL.into_iter().flat_map(move |windows| {
        normalizations.into_iter().flat_map(move |normalization| {
            uses.map(|weight_use| (windows, Conv::new(normalization, weight_use)))
        })
    })
}

/// Those of a layout that a backend is fast enough for: all, or if it has the layout in all types, each of
/// them in two.
fn conventions<T: TestElement>(
    backend: &dyn Backend<T>,
    layout: &Layout,
) -> impl Iterator<Item = (WindowKind, Conv)> {
    let is_of_all_types = backend.affords(size(layout));
    let n_shares = if is_of_all_types && !backend.affords(usize::MAX) { 2 } else { 1 };
    share(T::NAME, n_shares)
}

fn size(layout: &Layout) -> usize {
    layout.instances * layout.features
}

/// What falls to a type.
fn share(name: &str, n_shares: usize) -> impl Iterator<Item = (WindowKind, Conv)> {
    let number = TYPES.iter().position(|other| *other == name).expect("the types are four");
    all_conventions().skip(number % n_shares).step_by(n_shares)
}

#[test]
fn each_convention_falls_to_two_types() {
    let shared: Vec<_> = TYPES.iter().flat_map(|name| share(name, 2)).collect();
    assert_eq!(shared.len(), 2 * 27);
    assert!(all_conventions().all(|of| shared.iter().filter(|other| **other == of).count() == 2));
}

fn named(conv: Conv) -> String {
    format!("{:?} {:?}", conv.normalization, conv.weight_use)
}

/// The hashes of a layout in one type, by what they are of.
fn hashes<T: TestElement>(backend: &dyn Backend<T>, name: &str, layout: &Layout) -> BTreeMap<String, u64> {
    let mut hashes = matrix_hashes(backend, name, layout);
    if name.starts_with(MATRICES) {
        return hashes;
    }
    for (windows, conv) in conventions(backend, layout) {
        let layout = Layout { windows, conv, ..layout.clone() };
        let asked = Asked { save_z: true, ..Asked::ALL };
        let operands = Operands::<T>::of(&layout);
        let what = named(conv);
        let mut insert = |path: &str, bits: &[(&'static str, Vec<u64>)]| {
            let hash = hash(bits);
            hashes.insert(format!("{name}, {}, {windows:?}: {path}conv {what}", T::NAME), hash);
        };
        let results = run(&mut *gathers(backend, &layout), &layout, &operands, asked);
        insert("", &results.bits());
        // On the path of each topology. Where z is saved, the others are the same.
        let without_z = |results: &Results<T>| {
            let rows = [("y", bits(&results.y)), ("grad_x", bits(&results.grad_x))];
            [&rows[..], &[("grad_weights", bits(&results.grad_weights))]].concat()
        };
        let on_paths = |save_z| {
            let asked = Asked { save_z, ..Asked::ALL };
            without_z(&run(&mut *operators(backend, &layout), &layout, &operands, asked))
        };
        let found = on_paths(false);
        assert!(found == on_paths(true), "{name}, {}, {windows:?}: with z, {what}", T::NAME);
        if found != without_z(&results) {
            insert("dense ", &found);
        }
    }
    for windows in WindowKind::ALL {
        let layout = Layout { windows, ..layout.clone() };
        if windows == WindowKind::Shared {
            for &activation in Activation::ALL {
                for readout in [false, true] {
                    let of = if readout { "readout" } else { "epilogue" };
                    let mut insert = |path: &str, bits: &[(&'static str, Vec<u64>)]| {
                        let what = format!("{name}, {}, {windows:?}: {path}{of} {activation:?}", T::NAME);
                        hashes.insert(what, hash(bits));
                    };
                    let bits_on = |path| epilogue_bits::<T>(backend, &layout, activation, readout, path);
                    let (chosen, gathered) = (bits_on(None), bits_on(Some(Path::Gather)));
                    insert("", &chosen);
                    if gathered != chosen {
                        insert("gather ", &gathered);
                    }
                }
            }
        }
        for to_hyperedges in [true, false] {
            for reduce in [Reduce::Sum, Reduce::Mean] {
                let bits = step_bits::<T>(backend, &layout, StepKind { to_hyperedges, reduce }, windows);
                let what = if to_hyperedges { "v2e" } else { "e2v" };
                hashes.insert(format!("{name}, {}, {windows:?}: {what} {reduce:?}", T::NAME), hash(&bits));
            }
        }
    }
    hashes
}

/// How the layouts begin that are for matrices alone.
const MATRICES: &str = "matrices";

/// The hashes of matrices of instances and of their gradients, where there are any.
fn matrix_hashes<T: TestElement>(
    backend: &dyn Backend<T>,
    name: &str,
    layout: &Layout,
) -> BTreeMap<String, u64> {
    let mut hashes = BTreeMap::new();
    for (windows, conv) in conventions(backend, layout) {
        let layout = Layout { windows, conv, ..layout.clone() };
        let Some([matrix, grad_weights, gram, grad_x]) = matrix_bits::<T>(backend, &layout) else {
            return hashes;
        };
        let mut insert = |windows: WindowKind, what: String, bits| {
            hashes.insert(format!("{name}, {}, {windows:?}: {what}", T::NAME), hash(&[bits]));
        };
        insert(windows, format!("conv_matrix {}", named(conv)), matrix);
        insert(windows, format!("conv_matrix_backward {}", named(conv)), grad_weights);
        // They have no windows and no conventions.
        insert(WindowKind::Shared, "gram".into(), gram);
        insert(WindowKind::Shared, "gram_backward".into(), grad_x);
    }
    hashes
}

/// The committed hashes.
fn committed() -> BTreeMap<String, u64> {
    let lines = COMMITTED.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (hash, what) = line.split_once(' ').unwrap();
            (what.to_owned(), u64::from_str_radix(hash, 16).unwrap())
        })
        .collect()
}

/// Whether a line of the file is about this type.
fn is_of<T: TestElement>(what: &str) -> bool {
    what.contains(&format!(", {}, ", T::NAME))
}

/// Of a layout that a backend is too slow for in all types, it has one.
fn results_have_the_committed_hashes<T: TestElement>(backend: &dyn Backend<T>) {
    if is_to_be_written() {
        return;
    }
    let committed = committed();
    let mut all = BTreeMap::new();
    let (mut asked, mut left_out) = (vec![], vec![]);
    for (i, (name, layout)) in layouts().into_iter().enumerate() {
        let is_its_turn = TYPES[i % 4] == T::NAME;
        if backend.affords(size(&layout)) || is_its_turn {
            asked.push((name, conventions(backend, &layout).collect::<Vec<_>>()));
            all.extend(hashes::<T>(backend, name, &layout));
        } else {
            left_out.push(name);
        }
    }
    let differ: Vec<_> = all.iter().filter(|(what, hash)| committed.get(*what) != Some(hash)).collect();
    let names: Vec<_> = differ.iter().take(10).map(|(what, _)| what.as_str()).collect();
    assert!(names.is_empty(), "{} hashes differ: {names:#?}", differ.len());
    let is_asked_for = |what: &str| {
        let is_of = |(windows, conv): &(WindowKind, Conv)| {
            what.contains(&format!(", {windows:?}: ")) && what.ends_with(&named(*conv))
        };
        let of_layout = asked.iter().filter(|(name, _)| what.starts_with(&format!("{name}, ")));
        of_layout.flat_map(|(_, conventions)| conventions).any(is_of)
            || !all_conventions().any(|of| is_of(&of))
    };
    let missing = |what: &&String| {
        let is_left_out = left_out.iter().any(|name| what.starts_with(name)) || !is_asked_for(what);
        is_of::<T>(what) && !all.contains_key(*what) && !is_left_out
    };
    let missing: Vec<_> = committed.keys().filter(missing).collect();
    assert!(missing.is_empty(), "hashes of what is no more: {missing:#?}");
}

per_backend! {
    on [cpu, cuda([Mode::QUICK])],
    in [f32, f64, f16, bf16]:
    results_have_the_committed_hashes;
}

fn is_to_be_written() -> bool {
    std::env::var_os("HYPERSCATTER_WRITE_HASHES").is_some()
}

#[test]
fn the_file_is_written_where_that_is_asked_for() {
    if !is_to_be_written() {
        return;
    }
    let mut all = BTreeMap::new();
    for (name, layout) in layouts() {
        all.extend(hashes::<f32>(&Cpu, name, &layout));
        all.extend(hashes::<f64>(&Cpu, name, &layout));
        all.extend(hashes::<f16>(&Cpu, name, &layout));
        all.extend(hashes::<bf16>(&Cpu, name, &layout));
    }
    let mut text = HEADER.to_owned();
    all.iter().for_each(|(what, hash)| writeln!(text, "{hash:016x} {what}").unwrap());
    std::fs::write(FILE, text).unwrap();
}
