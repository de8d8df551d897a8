//! Which instances and topologies of a table batch are on which route.

use super::args::{Address, TablesArgs};
use super::batch::DeviceBatch;
use super::buffer::Buffer;
use super::route::Route;
use super::tables::{Orientation, PartSide};
use crate::error::{Result, try_with_capacity};

/// The topologies of each route that some instance has, and where a plan has several routes, the instances of
/// each.
pub(super) struct Split(Vec<Part>);

struct Part {
    route: Route,
    topologies: Buffer<u32>,
    /// None: all are on this route.
    instances: Option<Instances>,
}

/// As work starts that give the others no work, and as a list.
struct Instances {
    by_edge: PartSide,
    by_vertex: PartSide,
    list: Buffer<u32>,
}

impl Split {
    /// Given which topologies are in use; `None` for a replicated batch. The context must be current.
    pub(super) fn new(
        batch: &DeviceBatch,
        route_of: impl Fn(usize) -> Route,
        is_used: &[bool],
        routes: &[Route],
    ) -> Result<Option<Self>> {
        let host = batch.batch();
        let Some(n_instances) = host.n_instances() else { return Ok(None) };
        let stream = batch.device().context().default_stream();
        let what = "the instances of a route";
        let list = |len: usize, takes_part: &dyn Fn(usize) -> bool| {
            let mut list = try_with_capacity(what, len)?;
            list.extend((0..len).filter(|&i| takes_part(i)).map(|i| i as u32));
            Buffer::from_slice(what, &stream, &list)
        };
        let mut parts = try_with_capacity(what, routes.len())?;
        for &route in routes {
            let takes_part = |topology: usize| route_of(topology) == route;
            let side = |orientation| PartSide::new(host, orientation, takes_part, &stream);
            let instances = || -> Result<_> {
                Ok(Instances {
                    by_edge: side(Orientation::ByEdge)?,
                    by_vertex: side(Orientation::ByVertex)?,
                    list: list(n_instances, &|g| takes_part(host.topology_id(g)))?,
                })
            };
            parts.push(Part {
                route,
                topologies: list(is_used.len(), &|id| is_used[id] && takes_part(id))?,
                instances: if routes.len() > 1 { Some(instances()?) } else { None },
            });
        }
        Ok(Some(Self(parts)))
    }

    /// The tables of the instances on a route, given those of all.
    pub(super) fn tables(&self, route: Route, orientation: Orientation, all: TablesArgs) -> TablesArgs {
        let instances = self.part(route).and_then(|part| part.instances.as_ref());
        let side = instances.map(|instances| match orientation {
            Orientation::ByEdge => &instances.by_edge,
            Orientation::ByVertex => &instances.by_vertex,
        });
        side.map_or(all, |side| side.instead_of(all))
    }

    /// Where the numbers of the instances on a route are, and how many those are; `None` where all are on it.
    pub(super) fn instances(&self, route: Route) -> Option<(Address, u64)> {
        let instances = self.part(route)?.instances.as_ref()?;
        Some((instances.list.address(), instances.list.len() as u64))
    }

    /// Where the numbers of the topologies on a route are, and how many those are.
    pub(super) fn topologies(&self, route: Route) -> Option<(Address, u64)> {
        self.part(route).map(|part| (part.topologies.address(), part.topologies.len() as u64))
    }

    fn part(&self, route: Route) -> Option<&Part> {
        self.0.iter().find(|part| part.route == route)
    }
}
