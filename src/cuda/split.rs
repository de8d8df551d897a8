//! Which instances of a table batch are on which path, where a plan has several.

use super::args::{Address, TablesArgs};
use super::batch::DeviceBatch;
use super::buffer::Buffer;
use super::tables::{Orientation, PartSide};
use crate::error::{Result, try_with_capacity};
use crate::path::{Path, Paths};

/// The instances of each path: as work starts that give the others no work, and as a list.
pub(super) struct Split(Vec<Part>);

struct Part {
    path: Path,
    by_edge: PartSide,
    by_vertex: PartSide,
    instances: Buffer<u32>,
}

impl Split {
    /// `None` where all instances are on one path. The context must be current.
    pub(super) fn new(batch: &DeviceBatch, paths: &Paths, used: &[Path]) -> Result<Option<Self>> {
        let host = batch.batch();
        let (n_paths, Some(n_instances)) = (used.len(), host.n_instances()) else {
            return Ok(None);
        };
        if n_paths < 2 {
            return Ok(None);
        }
        let stream = batch.device().context().default_stream();
        let what = "the instances of a path";
        let mut parts = try_with_capacity(what, n_paths)?;
        for &path in used {
            let takes_part = |topology: usize| paths.as_slice()[topology] == path;
            let side = |orientation| PartSide::new(host, orientation, takes_part, &stream);
            let mut instances = try_with_capacity(what, n_instances)?;
            let own = (0..n_instances).filter(|&g| takes_part(host.topology_id(g)));
            instances.extend(own.map(|g| g as u32));
            parts.push(Part {
                path,
                by_edge: side(Orientation::ByEdge)?,
                by_vertex: side(Orientation::ByVertex)?,
                instances: Buffer::from_slice(what, &stream, &instances)?,
            });
        }
        Ok(Some(Self(parts)))
    }

    /// The tables of the instances on a path, given those of all.
    pub(super) fn tables(&self, path: Path, orientation: Orientation, all: TablesArgs) -> TablesArgs {
        let part = self.part(path).map(|part| match orientation {
            Orientation::ByEdge => &part.by_edge,
            Orientation::ByVertex => &part.by_vertex,
        });
        part.map_or(all, |side| side.instead_of(all))
    }

    /// Where the numbers of the instances on a path are, and how many those are.
    pub(super) fn instances(&self, path: Path) -> Option<(Address, u64)> {
        self.part(path).map(|part| (part.instances.address(), part.instances.len() as u64))
    }

    fn part(&self, path: Path) -> Option<&Part> {
        self.0.iter().find(|part| part.path == path)
    }
}
