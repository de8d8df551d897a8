//! Random layouts: topologies, batches, windows and places of rows, as the property tests draw them.

use std::ops::Range;

use hyperscatter::{
    Axis, Batch, Conv, Incidence, Normalization, Repeats, RowLayout, Rows, WeightUse, WindowTable, cpu,
};
use proptest::prelude::*;

/// Hyperedge lists: empty and repeated ones, isolated vertices, no vertices at all.
pub fn edges() -> impl Strategy<Value = (usize, Vec<Vec<u32>>)> {
    (0usize..10).prop_flat_map(|n| {
        let members = prop::collection::vec(0..n.max(1) as u32, if n == 0 { 0..1 } else { 0..7 });
        (Just(n), prop::collection::vec(members, 0..9))
    })
}

/// A giant: more incidences than a chunk of work, in one hyperedge longer than a few segments, one vertex
/// that stands in very many hyperedges, and the rest.
fn giant() -> impl Strategy<Value = Incidence> {
    (2usize..40, any::<u64>()).prop_map(|(n, seed)| {
        let vertex = |i: u64| (seed.rotate_left((i % 64) as u32).wrapping_mul(2 * i + 1) >> 7) as usize % n;
        let mut edges: Vec<Vec<usize>> = vec![(0..2600).map(vertex).collect()];
        edges.extend((0..900).map(|e| vec![n / 2, vertex(e), vertex(e + 5)]));
        edges.push(vec![]);
        Incidence::from_edges(n, &edges, Repeats::Keep).unwrap()
    })
}

/// Rows of a few segments, with no more incidences than that takes: one hyperedge of 1,500 and more, which
/// holds one of its vertices hundreds of times.
fn long() -> impl Strategy<Value = Incidence> {
    (1usize..5, 1500usize..1600, any::<u64>()).prop_map(|(n, len, seed)| {
        let vertex = |i: usize| if i.is_multiple_of(2) { n / 2 } else { (seed >> (i % 61)) as usize % n };
        let edges: [Vec<usize>; 3] = [vec![0], (0..len).map(vertex).collect(), vec![n - 1, 0]];
        Incidence::from_edges(n, &edges, Repeats::Keep).unwrap()
    })
}

/// A topology; one in forty is a giant.
pub fn topology() -> impl Strategy<Value = Incidence> {
    let small = edges().prop_map(|(n, edges)| Incidence::from_edges(n, &edges, Repeats::Keep).unwrap());
    let subsets = (0usize..7, 0usize..4).prop_map(|(n, k)| Incidence::subsets(n, k).unwrap());
    prop_oneof![26 => small, 13 => subsets, 1 => giant()]
}

/// Copies of all pairs of four vertices.
pub fn pairs() -> Batch {
    Batch::replicate(Incidence::subsets(4, 2).unwrap())
}

/// Batches without vertices, without hyperedges, without instances, without anything.
pub fn empty_batches() -> Vec<Batch> {
    let empty = Incidence::from_edges(0, &[] as &[Vec<u32>], Repeats::Reject).unwrap();
    let no_vertices = Incidence::from_edges(0, &[[0u32; 0]; 3], Repeats::Reject).unwrap();
    let no_edges = Incidence::from_edges(3, &[] as &[Vec<u32>], Repeats::Reject).unwrap();
    vec![
        Batch::replicate(empty.clone()),
        Batch::replicate(no_vertices.clone()),
        Batch::replicate(no_edges.clone()),
        Batch::from_table(vec![], &[0u8; 0]).unwrap(),
        Batch::from_table(vec![empty, no_vertices, no_edges], &[2u8, 0, 1, 2]).unwrap(),
    ]
}

/// Which windows a call uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WindowKind {
    Shared,
    Consecutive,
    Table,
}

impl WindowKind {
    pub const ALL: [Self; 3] = [Self::Shared, Self::Consecutive, Self::Table];

    pub fn any() -> impl Strategy<Value = Self> {
        prop_oneof![Just(Self::Shared), Just(Self::Consecutive), Just(Self::Table)]
    }
}

/// Where the rows of an operand lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Contiguous,
    /// Packed, with a gap behind each row.
    RowGap(usize),
    /// Each instance has room for the largest, and a gap behind it.
    Padded(usize),
    /// `[largest, instances, F]`: the same vertex of all instances stands together.
    VertexMajor,
}

pub fn place() -> impl Strategy<Value = Place> {
    prop_oneof![
        Just(Place::Contiguous),
        (1usize..5).prop_map(Place::RowGap),
        (0usize..5).prop_map(Place::Padded),
        Just(Place::VertexMajor),
    ]
}

/// A batch, with everything that a call needs but the values.
#[derive(Debug, Clone)]
pub struct Layout {
    pub batch: Batch,
    pub instances: usize,
    pub features: usize,
    pub windows: WindowKind,
    /// Where each instance reads, and for a replicated batch more copies than there are; used by
    /// `WindowKind::Table`.
    pub offsets: Vec<usize>,
    pub places: [Place; 5],
    pub conv: Conv,
    pub seed: u64,
}

pub fn conventions() -> impl Strategy<Value = Conv> {
    let norm =
        prop_oneof![Just(Normalization::Row), Just(Normalization::Symmetric), Just(Normalization::None)];
    let uses =
        prop_oneof![Just(WeightUse::Documented), Just(WeightUse::DegreeOnly), Just(WeightUse::MessageOnly)];
    (norm, uses).prop_map(|(n, u)| Conv::new(n, u))
}

/// A replicated batch or a table, of few or of more instances than a chunk holds.
fn batch() -> impl Strategy<Value = (Batch, usize)> {
    let replicated = (topology(), prop_oneof![0usize..6, 60usize..140])
        .prop_map(|(t, copies)| if t.n_incidences() > 1000 { (t, copies % 4) } else { (t, copies) })
        .prop_map(|(t, copies)| (Batch::replicate(t), copies));
    let table = (prop::collection::vec(topology(), 1..5), prop_oneof![9 => 0usize..12, 1 => 30usize..50])
        .prop_flat_map(|(topologies, n)| {
            (Just(topologies), prop::collection::vec(any::<prop::sample::Index>(), n))
        })
        .prop_map(|(topologies, ids)| {
            let ids: Vec<usize> = ids.iter().map(|i| i.index(topologies.len())).collect();
            let instances = ids.len();
            (Batch::from_table(topologies, &ids).unwrap(), instances)
        });
    prop_oneof![replicated, table]
}

/// The most incidences times features of a batch whose rows are not both long and wide. The emulated driver
/// takes about a microsecond for each.
const MOST: usize = 100_000;

/// A batch and its features.
fn affordable() -> impl Strategy<Value = (Batch, usize, usize)> {
    let features = prop_oneof![16 => 1usize..20, 2 => 30usize..75, 1 => 124usize..140, 1 => 250usize..270, 2 => Just(0usize)];
    (batch(), features).prop_map(|((batch, instances), features)| {
        let incidences: usize = (0..instances).map(|g| batch.topology(g).n_incidences()).sum();
        (batch, instances, features.min(MOST / incidences.max(1)))
    })
}

/// A batch with long rows, and features of more than a warp: that is from 129 of 4 bytes on, 65 of 8 and 257
/// of 2 bytes.
fn long_and_wide() -> impl Strategy<Value = (Batch, usize, usize)> {
    let instances = prop_oneof![3 => Just(1usize), 1 => Just(2)];
    let features = prop_oneof![3 => 129usize..140, 1 => 257usize..270];
    (long(), instances, any::<bool>(), features).prop_map(|(topology, instances, replicated, features)| {
        let batch = match replicated {
            true => Batch::replicate(topology),
            false => Batch::from_table(vec![topology], &vec![0u8; instances]).unwrap(),
        };
        (batch, instances, features)
    })
}

pub fn with(batch: impl Strategy<Value = (Batch, usize, usize)>) -> impl Strategy<Value = Layout> {
    let rest = (WindowKind::any(), prop::array::uniform5(place()), conventions(), any::<u64>());
    (batch, rest).prop_map(|((batch, instances, features), (windows, places, conv, seed))| {
        // Few distinct offsets, so that windows coincide, overlap and lie apart.
        let spare = if batch.is_replicated() { seed as usize % 4 } else { 0 };
        let offsets =
            (0..instances + spare).map(|g| (seed.rotate_right(g as u32 % 61) % 7) as usize * 2).collect();
        Layout { batch, instances, features, windows, offsets, places, conv, seed }
    })
}

/// A layout; one of fifty has rows that are both long and wide.
pub fn layout() -> impl Strategy<Value = Layout> {
    with(prop_oneof![49 => affordable(), 1 => long_and_wide()])
}

/// A layout with rows that are both long and wide.
pub fn long_and_wide_layout() -> impl Strategy<Value = Layout> {
    with(long_and_wide())
}

/// Few hyperedges over up to more than a thousand vertices; one in four has more incidences than a chunk of
/// work.
fn tall() -> impl Strategy<Value = Incidence> {
    let n = prop_oneof![
        Just(0usize),
        1usize..6,
        60usize..70,
        120usize..140,
        250usize..260,
        510usize..520,
        1020usize..1100
    ];
    (n, prop_oneof![3 => Just(1usize), 1 => Just(12)], any::<u64>()).prop_map(|(n, repeats, seed)| {
        let vertex =
            |i: usize| (seed.rotate_left((i % 64) as u32).wrapping_mul(2 * i as u64 + 1) >> 7) as usize % n;
        let edges = |e: usize| (0..n * repeats / 4).map(|i| vertex(4 * i + e)).collect::<Vec<_>>();
        let edges: Vec<_> = if n == 0 { vec![vec![]] } else { (0..5).map(edges).collect() };
        Incidence::from_edges(n, &edges, Repeats::Keep).unwrap()
    })
}

/// A layout whose instances have very different numbers of vertices.
pub fn tall_layout() -> impl Strategy<Value = Layout> {
    let topologies = prop::collection::vec(prop_oneof![2 => tall(), 1 => topology()], 1..5);
    let ids = prop::collection::vec(any::<prop::sample::Index>(), 0..7);
    with((topologies, ids, any::<bool>(), 1usize..10).prop_map(
        |(mut topologies, ids, replicated, features)| {
            let instances = ids.len();
            let batch = if replicated {
                Batch::replicate(topologies.remove(0))
            } else {
                let ids: Vec<usize> = ids.iter().map(|i| i.index(topologies.len())).collect();
                Batch::from_table(topologies, &ids).unwrap()
            };
            (batch, instances, features)
        },
    ))
}

/// Topologies of all classes of dense operators, and now and then one that is too large for those.
fn of_classes() -> impl Strategy<Value = Incidence> {
    let n = prop_oneof![4 => 0usize..9, 3 => 9usize..17, 3 => 17usize..33];
    let small = (n, prop::collection::vec(prop::collection::vec(any::<prop::sample::Index>(), 0..6), 0..9));
    let small = small.prop_map(|(n, edges)| {
        let members = |edge: Vec<prop::sample::Index>| {
            let of_vertices = edge.iter().filter(|_| n > 0);
            of_vertices.map(|i| i.index(n) as u32).collect::<Vec<_>>()
        };
        let edges: Vec<_> = edges.into_iter().map(members).collect();
        Incidence::from_edges(n, &edges, Repeats::Keep).unwrap()
    });
    prop_oneof![12 => small, 6 => topology(), 1 => Just(Incidence::subsets(33, 1).unwrap())]
}

/// A layout of topologies that have dense operators, mostly.
pub fn matrix_layout() -> impl Strategy<Value = Layout> {
    let topologies = prop::collection::vec(of_classes(), 1..5);
    let ids = prop::collection::vec(any::<prop::sample::Index>(), 0..6);
    let features = prop_oneof![8 => 0usize..10, 1 => 30usize..40];
    with((topologies, ids, any::<[bool; 2]>(), features).prop_map(
        |(mut topologies, ids, [replicated, many], features)| {
            let instances = ids.len();
            if !replicated {
                let ids: Vec<usize> = ids.iter().map(|i| i.index(topologies.len())).collect();
                return (Batch::from_table(topologies, &ids).unwrap(), instances, features);
            }
            let topology = topologies.remove(0);
            // More than the leaves of a launch of the tree over instances.
            let copies = if many && topology.n_vertices() < 6 { 64 + 40 * instances } else { instances };
            (Batch::replicate(topology), copies, if many { features.min(5) } else { features })
        },
    ))
}

/// What random layouts are too small for: windows that are scattered over so many values that a thread sums
/// each of their gradients, and not a warp; and rows of more segments than a warp has lanes.
pub fn extremes() -> [Layout; 2] {
    let topologies = vec![Incidence::subsets(4, 2).unwrap(), Incidence::subsets(5, 3).unwrap()];
    let instances = 40;
    let ids: Vec<usize> = (0..instances).map(|g| g % 7 / 4).collect();
    let offsets =
        (0..instances).map(|g| if g % 3 == 0 { 65_536 + g / 2 } else { g * 1_999 % 65_000 }).collect();
    let many_values = Layout {
        batch: Batch::from_table(topologies, &ids).unwrap(),
        instances,
        features: 3,
        windows: WindowKind::Table,
        offsets,
        places: [Place::Contiguous; 5],
        conv: Conv::default(),
        seed: 11,
    };
    let edges = [vec![0u8; 33 * 512], vec![0, 1]];
    let many_segments = Layout {
        batch: Batch::replicate(Incidence::from_edges(2, &edges, Repeats::Keep).unwrap()),
        instances: 1,
        offsets: vec![1],
        conv: Conv::new(Normalization::Symmetric, WeightUse::Documented),
        ..many_values.clone()
    };
    [many_values, many_segments]
}

impl Layout {
    /// Where instance `g` reads its weights.
    pub fn offset(&self, g: usize) -> usize {
        match self.windows {
            WindowKind::Shared => 0,
            WindowKind::Consecutive => self.batch.start(Axis::Hyperedge, g),
            WindowKind::Table => self.offsets[g],
        }
    }

    /// The number of weights: what the windows need; a table may leave some uncovered.
    pub fn n_weights(&self) -> usize {
        let ends = (0..self.instances).map(|g| self.offset(g) + self.batch.topology(g).n_hyperedges());
        ends.max().unwrap_or(0) + if self.windows == WindowKind::Table { 3 } else { 0 }
    }

    /// The sum over instances of vertices (or hyperedges).
    pub fn n_rows(&self, hyperedges: bool) -> usize {
        (0..self.instances).map(|g| self.n_rows_of(g, hyperedges)).sum()
    }

    pub fn n_rows_of(&self, g: usize, hyperedges: bool) -> usize {
        let topology = self.batch.topology(g);
        if hyperedges { topology.n_hyperedges() } else { topology.n_vertices() }
    }

    /// The instances that a workspace is made for: for a replicated batch sometimes more than there are.
    pub fn max_instances(&self) -> usize {
        self.offsets.len()
    }

    /// Instance `g` alone: a batch of one copy, contiguous rows, its window cut out.
    pub fn alone(&self, g: usize) -> Self {
        Self {
            batch: Batch::replicate(self.batch.topology(g).clone()),
            instances: 1,
            windows: WindowKind::Shared,
            offsets: vec![0],
            places: [Place::Contiguous; 5],
            ..self.clone()
        }
    }

    /// The elements of instance `g` in contiguous rows of vertices (or hyperedges).
    pub fn elements_of(&self, g: usize, hyperedges: bool) -> Range<usize> {
        let start = match hyperedges {
            true => self.batch.start(Axis::Hyperedge, g),
            false => self.batch.start(Axis::Vertex, g),
        };
        start * self.features..(start + self.n_rows_of(g, hyperedges)) * self.features
    }

    pub fn table(&self) -> WindowTable {
        WindowTable::new(&self.batch, &self.offsets).unwrap()
    }

    pub fn weights<'a, A>(&self, values: &'a [A], table: &'a WindowTable) -> cpu::Weights<'a, A> {
        match self.windows {
            WindowKind::Shared => cpu::Weights::shared(values),
            WindowKind::Consecutive => cpu::Weights::consecutive(values),
            WindowKind::Table => cpu::Weights::table(values, table),
        }
    }

    /// Contiguous rows, moved to where `place` puts them, with `filler` everywhere else.
    pub fn spread<T: Copy>(&self, rows: &[T], place: Place, hyperedges: bool, filler: T) -> Placed<T> {
        let f = self.features;
        let largest = (0..self.instances).map(|g| self.n_rows_of(g, hyperedges)).max().unwrap_or(0);
        let total = self.n_rows(hyperedges);
        let contiguous = RowLayout::contiguous(f);
        let (layout, len) = match place {
            Place::Contiguous => (contiguous, total * f),
            Place::RowGap(gap) => (contiguous.row_stride(f + gap), total * (f + gap)),
            Place::Padded(gap) => {
                let stride = largest * f + gap;
                (contiguous.instance_stride(stride), self.instances * stride)
            }
            Place::VertexMajor => {
                (contiguous.row_stride(self.instances * f).instance_stride(f), largest * self.instances * f)
            }
        };
        let mut starts = Vec::new();
        let mut before = 0;
        for g in 0..self.instances {
            let n = self.n_rows_of(g, hyperedges);
            starts.extend((0..n).map(|v| match place {
                Place::Contiguous => (before + v) * f,
                Place::RowGap(gap) => (before + v) * (f + gap),
                Place::Padded(gap) => g * (largest * f + gap) + v * f,
                Place::VertexMajor => (v * self.instances + g) * f,
            }));
            before += n;
        }
        let mut buffer = vec![filler; len];
        for (start, row) in starts.iter().zip(rows.chunks(f.max(1))) {
            buffer[*start..start + f].copy_from_slice(row);
        }
        Placed { buffer, layout: layout.instances(self.instances), starts, features: f }
    }
}

/// Rows in a buffer, and where they start.
pub struct Placed<T> {
    pub buffer: Vec<T>,
    layout: RowLayout,
    starts: Vec<usize>,
    features: usize,
}

impl<T: Copy> Placed<T> {
    pub fn rows(&self) -> Rows<&[T]> {
        Rows::new(&self.buffer, self.layout)
    }

    pub fn rows_mut(&mut self) -> Rows<&mut [T]> {
        Rows::new(&mut self.buffer, self.layout)
    }

    /// The rows, one behind the other.
    pub fn gathered(&self) -> Vec<T> {
        self.starts.iter().flat_map(|&s| self.buffer[s..s + self.features].iter().copied()).collect()
    }

    /// What lies between the rows.
    pub fn gaps(&self) -> Vec<T> {
        let mut is_gap = vec![true; self.buffer.len()];
        for &s in &self.starts {
            is_gap[s..s + self.features].fill(false);
        }
        self.buffer.iter().zip(is_gap).filter(|(_, gap)| *gap).map(|(x, _)| *x).collect()
    }
}
