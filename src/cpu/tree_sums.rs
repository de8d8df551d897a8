//! Sums in `f64` of many rows by a binary tree over their numbers: rows 0 and 1, 2 and 3 and so on are added,
//! then the sums of 0 … 1 and 2 … 3, and so on. Where there is no right one, the left one is taken as it is.
//! So the error grows with the logarithm of the number of rows.

use super::partials::Partials;
use crate::error::{Result, try_zeroed};

/// A tree to which rows are added one by one: for each bit of their number there is one sum at most, as in a
/// binary counter.
#[derive(Debug)]
pub(super) struct Tree {
    /// The sum of 2^level rows, where bit `level` of `count` is set.
    levels: Vec<f64>,
    /// What is carried to the next level.
    carry: Vec<f64>,
    width: usize,
    count: usize,
}

impl Tree {
    /// Room for so many rows of up to `width` values.
    pub(super) fn with_room(width: usize, rows: usize) -> Result<Self> {
        let what = "the workspace";
        let n_levels = if width == 0 { 0 } else { (usize::BITS - rows.leading_zeros()) as usize };
        Ok(Self {
            levels: try_zeroed(what, n_levels.saturating_mul(width))?,
            carry: try_zeroed(what, width)?,
            width,
            count: 0,
        })
    }

    /// Begins a sum of rows of this width.
    pub(super) fn begin(&mut self, width: usize) {
        (self.width, self.count) = (width, 0);
    }

    /// Adds the next row.
    pub(super) fn push(&mut self, row: &[f64]) {
        let (width, carry) = (self.width, &mut self.carry[..self.width]);
        carry.copy_from_slice(&row[..width]);
        let level = self.count.trailing_ones() as usize;
        for level in 0..level {
            add_left(&self.levels[level * width..], carry);
        }
        self.levels[level * width..][..width].copy_from_slice(carry);
        self.count += 1;
    }

    /// The sum of all rows: zeros where there are none.
    pub(super) fn root(&mut self) -> &mut [f64] {
        let (width, carry) = (self.width, &mut self.carry[..self.width]);
        let mut levels = (0..usize::BITS as usize).filter(|&level| self.count >> level & 1 == 1);
        match levels.next() {
            Some(level) => carry.copy_from_slice(&self.levels[level * width..][..width]),
            None => carry.fill(0.0),
        }
        for level in levels {
            add_left(&self.levels[level * width..], carry);
        }
        carry
    }
}

/// A tree over blocks of rows of a fixed number, each of which adds its rows in order.
#[derive(Debug)]
pub(super) struct BlockTree {
    tree: Tree,
    block: Vec<f64>,
    /// The rows of a block, and those that the block under way has.
    len: usize,
    count: usize,
}

impl BlockTree {
    /// Room for so many rows of up to `width` values.
    pub(super) fn with_room(width: usize, rows: usize) -> Result<Self> {
        let block = try_zeroed("the workspace", width)?;
        Ok(Self { tree: Tree::with_room(width, rows)?, block, len: 1, count: 0 })
    }

    /// Begins a sum of rows of this width, in blocks of `len` rows.
    pub(super) fn begin(&mut self, width: usize, len: usize) {
        self.tree.begin(width);
        (self.len, self.count) = (len, 0);
    }

    /// Adds the next row (or rows that count as one): `add` adds it to what it is given.
    pub(super) fn add(&mut self, add: impl FnOnce(&mut [f64])) {
        let block = &mut self.block[..self.tree.width];
        if self.count == 0 {
            block.fill(0.0);
        }
        add(block);
        self.count += 1;
        if self.count == self.len {
            self.tree.push(block);
            self.count = 0;
        }
    }

    /// The sum of all rows: zeros where there are none.
    pub(super) fn root(&mut self) -> &mut [f64] {
        if self.count > 0 {
            self.tree.push(&self.block);
            self.count = 0;
        }
        self.tree.root()
    }
}

/// right = left + right.
fn add_left(left: &[f64], right: &mut [f64]) {
    for (right, left) in right.iter_mut().zip(left) {
        *right += left;
    }
}

/// Room for the sum of many rows that are computed in parallel.
pub(super) struct TreeSums {
    partials: Partials<f64>,
    tree: Tree,
}

impl TreeSums {
    /// Room for up to `rows` rows of up to `width` values.
    pub(super) fn with_room(width: usize, rows: usize) -> Result<Self> {
        Ok(Self { partials: Partials::new(width, rows)?, tree: Tree::with_room(width, rows)? })
    }

    /// The sum of `n` rows of this width. `f` computes each, with one of the `states` to itself. Then `large`
    /// is called with all of the states, to compute what is not for one thread alone.
    pub(super) fn add_up<S: Send>(
        &mut self,
        width: usize,
        states: &mut [S],
        n: usize,
        f: impl Fn(&mut S, usize, &mut [f64]) + Sync,
        mut large: impl FnMut(&mut [S], usize, &mut [f64]),
    ) -> &mut [f64] {
        let Self { partials, tree } = self;
        partials.narrow(width);
        tree.begin(width);
        partials.for_each(states, n, f, |states, i, row| {
            large(states, i, row);
            tree.push(row);
        });
        tree.root()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sum of the rows of a range of 2^level, cut in halves.
    fn in_halves(rows: &[f64], first: usize, level: u32) -> f64 {
        if level == 0 {
            return rows[first];
        }
        let middle = first + (1 << (level - 1));
        let left = in_halves(rows, first, level - 1);
        if middle < rows.len() { left + in_halves(rows, middle, level - 1) } else { left }
    }

    #[test]
    fn rows_add_in_a_tree() {
        for n in (1..70usize).chain([127, 128, 129, 1000]) {
            let rows: Vec<f64> = (0..n).map(|i| 1.0 / (1.0 + (i * 7919 % 1009) as f64)).collect();
            let expected = in_halves(&rows, 0, n.next_power_of_two().ilog2());
            let mut tree = Tree::with_room(3, n).unwrap();
            tree.begin(2);
            rows.iter().for_each(|&row| tree.push(&[row, -row]));
            assert_eq!(tree.root(), [expected, -expected], "{n}");
            // Blocks of rows that are computed in parallel, and a tree over aligned parts.
            let mut sums = TreeSums::with_room(1, n).unwrap();
            let mut trees = [Tree::with_room(1, 4).unwrap(), Tree::with_room(1, 4).unwrap()];
            let part = |tree: &mut Tree, part: usize, sum: &mut [f64]| {
                tree.begin(1);
                rows[4 * part..n.min(4 * part + 4)].iter().for_each(|&row| tree.push(&[row]));
                sum.copy_from_slice(tree.root());
            };
            let n_parts = n.div_ceil(4);
            let root = sums.add_up(1, &mut trees, n_parts, part, |_, _, _| {});
            assert_eq!(root, [expected], "{n}");
            // Of the third part of all, by one thread after the others.
            let others = |tree: &mut Tree, i: usize, sum: &mut [f64]| {
                if i != 2 {
                    part(tree, i, sum)
                }
            };
            let root = sums.add_up(1, &mut trees, n_parts, others, |trees, i, sum| {
                if i == 2 {
                    part(&mut trees[1], i, sum);
                }
            });
            assert_eq!(root, [expected], "{n}");
        }
        let mut tree = Tree::with_room(2, 0).unwrap();
        tree.begin(2);
        assert_eq!(tree.root(), [0.0; 2]);
    }
}
