//! Which instances of a table batch are on which path, where a plan has several.

use super::args::TablesArgs;
use super::batch::DeviceBatch;
use super::buffer::Buffer;
use super::tables::{Orientation, PartSide};
use crate::error::{Result, try_with_capacity};
use crate::path::{Path, Paths};

/// The tables of each path's instances.
pub(super) struct Split {
    by_edge: PartSide,
    by_vertex: PartSide,
    single_block: Buffer<u32>,
}

impl Split {
    /// `None` where all instances are on one path. The context must be current.
    pub(super) fn new(batch: &DeviceBatch, paths: &Paths) -> Result<Option<Self>> {
        let host = batch.batch();
        let Some(instances) = host.n_instances() else { return Ok(None) };
        if paths.used().count() < 2 {
            return Ok(None);
        }
        let stream = batch.device().context().default_stream();
        let gathers = |id: usize| paths.as_slice()[id] == Path::Gather;
        let side = |orientation| PartSide::new(host, orientation, gathers, &stream);
        let what = "the instances of a path";
        let mut single_block = try_with_capacity(what, instances)?;
        single_block.extend((0..instances).filter(|&g| !gathers(host.topology_id(g))).map(|g| g as u32));
        Ok(Some(Self {
            by_edge: side(Orientation::ByEdge)?,
            by_vertex: side(Orientation::ByVertex)?,
            single_block: Buffer::from_slice(what, &stream, &single_block)?,
        }))
    }

    /// The tables of the instances on [`Path::Gather`], given those of all instances.
    pub(super) fn gather(&self, all: TablesArgs, orientation: Orientation) -> TablesArgs {
        match orientation {
            Orientation::ByEdge => self.by_edge.instead_of(all),
            Orientation::ByVertex => self.by_vertex.instead_of(all),
        }
    }

    /// The numbers of the instances on [`Path::SingleBlock`], and how many those are.
    pub(super) fn single_block(&self) -> (u64, u64) {
        (self.single_block.address(), self.single_block.len() as u64)
    }
}
