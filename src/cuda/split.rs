//! Which instances of a table batch are on which route, where a plan has several.

use super::args::{Address, TablesArgs};
use super::batch::DeviceBatch;
use super::buffer::Buffer;
use super::route::Route;
use super::tables::{Orientation, PartSide};
use crate::error::{Result, try_with_capacity};

/// The instances of each route: as work starts that give the others no work, and as a list.
pub(super) struct Split(Vec<Part>);

struct Part {
    route: Route,
    by_edge: PartSide,
    by_vertex: PartSide,
    instances: Buffer<u32>,
}

impl Split {
    /// `None` where all instances are on one route. The context must be current.
    pub(super) fn new(
        batch: &DeviceBatch,
        route_of: impl Fn(usize) -> Route,
        used: &[Route],
    ) -> Result<Option<Self>> {
        let host = batch.batch();
        let Some(n_instances) = host.n_instances() else { return Ok(None) };
        if used.len() < 2 {
            return Ok(None);
        }
        let stream = batch.device().context().default_stream();
        let what = "the instances of a route";
        let mut parts = try_with_capacity(what, used.len())?;
        for &route in used {
            let takes_part = |topology: usize| route_of(topology) == route;
            let side = |orientation| PartSide::new(host, orientation, takes_part, &stream);
            let mut instances = try_with_capacity(what, n_instances)?;
            let own = (0..n_instances).filter(|&g| takes_part(host.topology_id(g)));
            instances.extend(own.map(|g| g as u32));
            parts.push(Part {
                route,
                by_edge: side(Orientation::ByEdge)?,
                by_vertex: side(Orientation::ByVertex)?,
                instances: Buffer::from_slice(what, &stream, &instances)?,
            });
        }
        Ok(Some(Self(parts)))
    }

    /// The tables of the instances on a route, given those of all.
    pub(super) fn tables(&self, route: Route, orientation: Orientation, all: TablesArgs) -> TablesArgs {
        let part = self.part(route).map(|part| match orientation {
            Orientation::ByEdge => &part.by_edge,
            Orientation::ByVertex => &part.by_vertex,
        });
        part.map_or(all, |side| side.instead_of(all))
    }

    /// Where the numbers of the instances on a route are, and how many those are.
    pub(super) fn instances(&self, route: Route) -> Option<(Address, u64)> {
        self.part(route).map(|part| (part.instances.address(), part.instances.len() as u64))
    }

    fn part(&self, route: Route) -> Option<&Part> {
        self.0.iter().find(|part| part.route == route)
    }
}
