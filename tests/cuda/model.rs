//! What the kernels of `kernels/gather.cu` must do with the tables as they are, right or wrong: every row
//! that the tables list, or the first wrong value on the way to it. Written from the meaning of the tables,
//! one work item after the other, to compare with.

use std::collections::HashMap;

use hyperscatter::cuda::{DeviceBatch, Orientation, Table};
use hyperscatter::{Error, Reduce};

/// What must be below what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wrong {
    pub table: &'static str,
    pub instance: u64,
    pub position: u64,
    pub value: u64,
    pub bound: u64,
}

/// Packed rows of the sources and targets of a batch.
pub struct Call<'a> {
    pub orientation: Orientation,
    pub reduce: Reduce,
    pub features: usize,
    pub instances: usize,
    /// The rows of the largest topology, of sources and of targets.
    pub largest: [u64; 2],
    /// The rows of all instances.
    pub total: [u64; 2],
    /// The work items of each class, as the host counts them.
    pub items: [u64; 4],
    pub x: &'a [f32],
}

/// What a call makes of the tables.
pub struct Outcome {
    /// Everything that a thread may report.
    pub wrong: Vec<(Kernel, Wrong)>,
    /// Rows that were computed, by number in the batch; NaN where a wrong value was for them. More than one
    /// where wrong lists name a row more than once.
    pub rows: HashMap<u64, Vec<Vec<f32>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    Gather,
    AddPartials,
}

const PARTIAL: usize = 0;
const MEDIUM: usize = 1;
const SHORT: usize = 2;
const LONG: usize = 3;
const SEGMENT: u64 = 512;

/// The tables of a batch, copied from the device.
pub struct Tables(HashMap<Table, Vec<u64>>);

impl Tables {
    pub fn read(batch: &DeviceBatch) -> Self {
        Self(Table::ALL.iter().map(|&table| (table, batch.read_table(table).unwrap())).collect())
    }

    pub fn get(&self, table: Table) -> &[u64] {
        &self.0[&table]
    }
}

struct Topology<'a> {
    words: &'a [u64],
    position: u64,
}

impl Topology<'_> {
    fn counts(&self) -> [u64; 4] {
        [self.words[6], self.words[7], self.words[8], self.words[9]]
    }
}

/// Tests, the first of which that fails is an item's end.
struct Test {
    instance: u64,
}

impl Test {
    fn below(&self, table: Table, position: u64, value: u64, bound: u64) -> Result<(), Wrong> {
        self.below_named(table.name(), position, value, bound)
    }

    fn below_named(&self, table: &'static str, position: u64, value: u64, bound: u64) -> Result<(), Wrong> {
        if value < bound {
            return Ok(());
        }
        Err(Wrong { table, instance: self.instance, position, value, bound })
    }

    /// Two neighbouring prefix sums.
    fn apart(&self, table: Table, position: u64, values: &[u64], size: u64) -> Result<(), Wrong> {
        let (start, end) = (values[position as usize], values[position as usize + 1]);
        if start <= end && end - start > size {
            return self.below(table, position + 1, end, start + size + 1);
        }
        self.below(table, position, start, end.checked_sub(size).map_or(0, |last| last + 1))
    }
}

/// A row that an item stands for, as far as it could be read.
struct Row {
    target: u64,
    source: u64,
    n_sources: u64,
    instance: u64,
    /// Its incidences in the index table, and their number in the whole row; or what was wrong.
    incidences: Result<(std::ops::Range<u64>, u64), Wrong>,
    /// For long rows: the segments' sums.
    partials: std::ops::Range<u64>,
}

impl Tables {
    pub fn run(&self, call: &Call<'_>) -> Outcome {
        let mut outcome = Outcome { wrong: vec![], rows: HashMap::new() };
        let mut partials: Vec<Vec<f32>> = vec![];
        for class in [PARTIAL, MEDIUM, SHORT, LONG] {
            let kernel = if class == LONG { Kernel::AddPartials } else { Kernel::Gather };
            for item in 0..call.items[class] {
                let poisoned = vec![f32::NAN; call.features];
                let row = match self.find(call, class, item) {
                    Ok(row) => row,
                    Err(wrong) => {
                        outcome.wrong.push((kernel, wrong));
                        if class == PARTIAL {
                            partials.push(poisoned);
                        }
                        continue;
                    }
                };
                let mut report = |wrong| outcome.wrong.push((kernel, wrong));
                let sums = match &row.incidences {
                    Err(wrong) => {
                        report(*wrong);
                        None
                    }
                    Ok(_) if class == LONG => Some(sum(
                        row.partials.clone().map(|p| partials[p as usize].as_slice()),
                        call.features,
                    )),
                    Ok((incidences, _)) => self.gather(call, &row, incidences.clone(), &mut report),
                };
                let length = row.incidences.as_ref().map_or(0, |(_, length)| *length);
                let scale = match call.reduce {
                    Reduce::Mean if length == 0 => 0.0,
                    Reduce::Mean => 1.0 / length as f32,
                    Reduce::Sum => 1.0,
                    other => panic!("no model of {other:?}"),
                };
                match class {
                    PARTIAL => partials.push(sums.unwrap_or(poisoned)),
                    _ => {
                        let row_of = |sums: Vec<f32>| sums.into_iter().map(|s| s * scale).collect();
                        outcome.rows.entry(row.target).or_default().push(sums.map_or(poisoned, row_of));
                    }
                }
            }
        }
        outcome
    }

    fn gather(
        &self,
        call: &Call<'_>,
        row: &Row,
        incidences: std::ops::Range<u64>,
        report: &mut impl FnMut(Wrong),
    ) -> Option<Vec<f32>> {
        let test = Test { instance: row.instance };
        let table = Table::Indices(call.orientation);
        let (mut sources, mut right) = (vec![], true);
        for position in incidences {
            let source = self.get(table)[position as usize];
            match test.below(table, position, source, row.n_sources) {
                Ok(()) => sources.push((row.source + source) as usize * call.features),
                Err(wrong) => {
                    report(wrong);
                    right = false;
                }
            }
        }
        right.then(|| sum(sources.into_iter().map(|s| &call.x[s..s + call.features]), call.features))
    }

    fn find(&self, call: &Call<'_>, class: usize, item: u64) -> Result<Row, Wrong> {
        let o = call.orientation;
        let instances = call.instances as u64;
        let ids = self.get(Table::TopologyIds);
        let replicated = self.get(Table::WorkStarts(o)).is_empty();
        let mut test = Test { instance: 0 };
        let mut id = 0;
        let first = class as u64 * (instances + 1);
        if !replicated {
            let starts = &self.get(Table::WorkStarts(o))[first as usize..][..=call.instances];
            test.instance = search(starts, item);
            id = ids[test.instance as usize];
            test.below(
                Table::TopologyIds,
                test.instance,
                id,
                self.get(Table::Topologies(o)).len() as u64 / 10,
            )?;
        }
        let topology =
            Topology { words: &self.get(Table::Topologies(o))[id as usize * 10..][..10], position: id * 10 };
        self.fits(call, &test, &topology)?;
        let counts = topology.counts();
        let count = counts[class];
        test.below_named("work items", item, 0, count)?;
        let entry = if replicated {
            let instance = item / count;
            test.instance = instance;
            test.below_named("work items", item, instance, instances)?;
            item - instance * count
        } else {
            let starts = self.get(Table::WorkStarts(o));
            let position = first + test.instance;
            let start = starts[position as usize];
            test.below(Table::WorkStarts(o), position, start, item + 1)?;
            test.apart(Table::WorkStarts(o), position, starts, count)?;
            test.below_named("work items", item, item - start, count)?;
            item - start
        };

        let work = self.get(Table::Work(o));
        let lists = [
            topology.words[2],
            topology.words[2] + 2 * counts[PARTIAL],
            topology.words[2] + 2 * counts[PARTIAL] + counts[MEDIUM],
            topology.words[2] + 2 * counts[PARTIAL] + counts[MEDIUM] + counts[SHORT],
        ];
        let pairs = class == PARTIAL || class == LONG;
        let position = lists[class] + if pairs { 2 * entry } else { entry };
        let row = work[position as usize];
        let [_, _, _, n_rows, n_sources, n_indices, ..] = *topology.words else { unreachable!() };
        test.below(Table::Work(o), position, row, n_rows)?;

        let start = |axis: usize, table: Table, n: u64| -> Result<u64, Wrong> {
            if replicated {
                return Ok(test.instance * call.largest[axis]);
            }
            let starts = self.get(table);
            test.apart(table, test.instance, starts, n)?;
            test.below(table, test.instance + 1, starts[test.instance as usize + 1], call.total[axis] + 1)?;
            Ok(starts[test.instance as usize])
        };
        let (of_rows, of_sources) = match o {
            Orientation::ByEdge => (Table::HyperedgeStarts, Table::VertexStarts),
            Orientation::ByVertex => (Table::VertexStarts, Table::HyperedgeStarts),
        };
        let target = start(1, of_rows, n_rows)? + row;
        let mut found = Row {
            target,
            source: 0,
            n_sources,
            instance: test.instance,
            incidences: Ok((0..0, 0)),
            partials: 0..0,
        };
        match start(0, of_sources, n_sources) {
            Ok(source) => found.source = source,
            Err(wrong) => {
                found.incidences = Err(wrong);
                return Ok(found);
            }
        }
        let incidences = self.incidences(&test, class, o, &topology, row, position, n_indices);
        if let (LONG, Ok(_)) = (class, &incidences) {
            let (first, next) =
                self.listed(&test, o, entry, position, counts[PARTIAL], counts[LONG]).unwrap();
            let before = if replicated {
                let of_each = call.items[PARTIAL] / instances;
                let word = topology.position + 6;
                if let Err(wrong) = test.below(Table::Topologies(o), word, counts[PARTIAL], of_each + 1) {
                    found.incidences = Err(wrong);
                    return Ok(found);
                }
                test.instance * counts[PARTIAL]
            } else {
                let starts = self.get(Table::WorkStarts(o));
                let apart = test.apart(Table::WorkStarts(o), test.instance, starts, counts[PARTIAL]);
                let inside = apart.and_then(|()| {
                    let end = starts[test.instance as usize] + counts[PARTIAL];
                    test.below(Table::WorkStarts(o), test.instance + 1, end, call.items[PARTIAL] + 1)
                });
                if let Err(wrong) = inside {
                    found.incidences = Err(wrong);
                    return Ok(found);
                }
                starts[test.instance as usize]
            };
            found.partials = before + first..before + next;
        }
        found.incidences = incidences;
        Ok(found)
    }

    /// The incidences that an item adds, and the length of its row.
    #[allow(clippy::too_many_arguments)]
    fn incidences(
        &self,
        test: &Test,
        class: usize,
        o: Orientation,
        topology: &Topology<'_>,
        row: u64,
        position: u64,
        n_indices: u64,
    ) -> Result<(std::ops::Range<u64>, u64), Wrong> {
        let (pointers, pointer) = (self.get(Table::Pointers(o)), topology.words[0] + row);
        let (start, end) = (pointers[pointer as usize], pointers[pointer as usize + 1]);
        test.below(Table::Pointers(o), pointer + 1, end, n_indices + 1)?;
        test.below(Table::Pointers(o), pointer, start, end + 1)?;
        let (length, indices) = (end - start, topology.words[1] + start);
        let work = self.get(Table::Work(o));
        match class {
            PARTIAL => {
                let segment = work[position as usize + 1];
                test.below(Table::Work(o), position + 1, segment, length.div_ceil(SEGMENT))?;
                let before = segment * SEGMENT;
                Ok((indices + before..indices + (before + SEGMENT).min(length), length))
            }
            LONG => {
                let counts = topology.counts();
                let list = topology.words[2] + 2 * counts[PARTIAL] + counts[MEDIUM] + counts[SHORT];
                let entry = (position - list) / 2;
                let (first, next) = self.listed(test, o, entry, position, counts[PARTIAL], counts[LONG])?;
                let listed = next - first;
                test.below(Table::Pointers(o), pointer + 1, end, start + listed * SEGMENT + 1)?;
                let least = (listed - 1) * SEGMENT + 1;
                test.below(
                    Table::Pointers(o),
                    pointer,
                    start,
                    end.checked_sub(least).map_or(0, |last| last + 1),
                )?;
                Ok((indices..indices, length))
            }
            _ => {
                let longest = if class == SHORT { 8 } else { SEGMENT };
                test.below(Table::Pointers(o), pointer + 1, end, start + longest + 1)?;
                Ok((indices..indices + length, length))
            }
        }
    }

    /// The first segment of a long row, and the first of the next.
    fn listed(
        &self,
        test: &Test,
        o: Orientation,
        entry: u64,
        position: u64,
        n_partials: u64,
        n_long: u64,
    ) -> Result<(u64, u64), Wrong> {
        let work = self.get(Table::Work(o));
        let (first, mut next) = (work[position as usize + 1], n_partials);
        if entry + 1 < n_long {
            next = work[position as usize + 3];
            test.below(Table::Work(o), position + 3, next, n_partials + 1)?;
        }
        test.below(Table::Work(o), position + 1, first, next)?;
        Ok((first, next))
    }

    /// A topology's parts lie within the tables.
    fn fits(&self, call: &Call<'_>, test: &Test, topology: &Topology<'_>) -> Result<(), Wrong> {
        let o = call.orientation;
        let [pointers, indices, work, n_rows, n_sources, n_indices, partial, medium, short, long] =
            *topology.words
        else {
            unreachable!()
        };
        let len = |table| self.get(table).len() as u64;
        let (n_pointers, all_indices) = (len(Table::Pointers(o)), len(Table::Indices(o)));
        let below = |word: u64, value, bound| {
            test.below(Table::Topologies(o), topology.position + word, value, bound)
        };
        below(3, n_rows, n_pointers)?;
        below(3, n_rows, call.largest[1] + 1)?;
        below(0, pointers, n_pointers - n_rows)?;
        below(4, n_sources, call.largest[0] + 1)?;
        below(5, n_indices, all_indices + 1)?;
        below(1, indices, all_indices - n_indices + 1)?;
        let mut left = len(Table::Work(o));
        for (word, count, words) in [(6, partial, 2), (7, medium, 1), (8, short, 1), (9, long, 2)] {
            below(word, count, left / words + 1)?;
            left -= count * words;
        }
        below(2, work, left + 1)
    }
}

/// Sums in order, from 0.
fn sum<'a>(rows: impl Iterator<Item = &'a [f32]>, features: usize) -> Vec<f32> {
    let mut sums = vec![0.0; features];
    for row in rows {
        sums.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
    }
    sums
}

/// The last of the starts (but the end) that is not above `item`, by bisection.
fn search(starts: &[u64], item: u64) -> u64 {
    let (mut low, mut high) = (0, starts.len() - 1);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if starts[middle] <= item { low = middle } else { high = middle }
    }
    low as u64
}

impl Wrong {
    /// As the crate reports it.
    pub fn is(&self, kernel: Kernel, error: &Error) -> bool {
        let names = match kernel {
            Kernel::Gather => ["gather_f32", "gather_f32_checked"],
            Kernel::AddPartials => ["add_partials_f32", "add_partials_f32_checked"],
        };
        let Self { table, instance, position, value, bound } = *self;
        matches!(error, Error::IndexOutOfBounds { kernel: k, table: t, instance: i, position: p, value: v, bound: b }
            if names.contains(k) && *t == table && *i == instance && *p == position && *v == value && *b == bound)
    }
}
