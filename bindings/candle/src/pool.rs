//! Plans and workspaces, built once and used again. The core's workspaces serve one call at a time, while
//! candle's operators may be called from any thread.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, PoisonError};

use candle_core::WithDType;
use hyperscatter::cpu::{Plan, Workspace, on_this_thread};
use hyperscatter::half::{bf16, f16};
use hyperscatter::{Batch, Conv, Element, Result};

use crate::rows::Size;

/// A feature type of both candle and the core.
pub(crate) trait Feature: Element<Acc: WithDType> + WithDType {
    fn pool(pools: &Pools) -> &Pool<Self>;
}

/// The workspaces of one batch that are not in use, by type.
#[derive(Default)]
pub(crate) struct Pools {
    f32: Pool<f32>,
    f64: Pool<f64>,
    f16: Pool<f16>,
    bf16: Pool<bf16>,
}

macro_rules! feature {
    ($($t:ident),*) => {$(
        impl Feature for $t {
            fn pool(pools: &Pools) -> &Pool<Self> {
                &pools.$t
            }
        }
    )*};
}
feature!(f32, f64, f16, bf16);

/// By the number of features.
pub(crate) struct Pool<T: Element>(Mutex<HashMap<usize, Idle<T>>>);

struct Idle<T: Element> {
    plan: Plan<T>,
    workspaces: Vec<Workspace<T>>,
}

impl<T: Element> Default for Pool<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Element> Pool<T> {
    /// Calls `f` with a workspace that is large enough: an idle one, if there is one. If `f` panics, it is
    /// lost.
    pub(crate) fn with<R>(
        &self,
        batch: &Batch,
        conv: Conv,
        size: Size,
        f: impl FnOnce(&mut Workspace<T>) -> Result<R>,
    ) -> Result<R> {
        let mut workspace = self.take(batch, conv, size)?;
        let is_small = workspace.plan().is_small(size.instances);
        let result = if is_small { on_this_thread(|| f(&mut workspace)) } else { f(&mut workspace) };
        if let Some(idle) = self.lock().get_mut(&size.features) {
            idle.workspaces.push(workspace);
        }
        result
    }

    fn take(&self, batch: &Batch, conv: Conv, Size { features, instances }: Size) -> Result<Workspace<T>> {
        let mut by_features = self.lock();
        let Idle { plan, workspaces } = match by_features.entry(features) {
            Entry::Occupied(idle) => idle.into_mut(),
            Entry::Vacant(place) => place.insert(Idle {
                plan: Plan::builder(batch, features).conv(conv).build()?,
                workspaces: Vec::new(),
            }),
        };
        match workspaces.iter().position(|w| w.max_instances() >= instances) {
            Some(i) => Ok(workspaces.swap_remove(i)),
            None => {
                // A larger one takes the place of one that is too small.
                drop(workspaces.pop());
                let plan = plan.clone();
                drop(by_features);
                // Room to grow, so that batches that grow slowly do not make a new one each time.
                let growing = instances.checked_next_power_of_two().unwrap_or(instances);
                plan.workspace(batch.n_instances().unwrap_or(growing))
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<usize, Idle<T>>> {
        // Nothing is left half done under the lock, so a panic elsewhere leaves a good state.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The numbers of idle workspaces, and the most instances that they are for.
    #[cfg(test)]
    fn idle(&self) -> Vec<(usize, Vec<usize>)> {
        let by_features = self.lock();
        let max_instances = |idle: &Idle<T>| idle.workspaces.iter().map(Workspace::max_instances).collect();
        by_features.iter().map(|(&features, idle)| (features, max_instances(idle))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyperscatter::Incidence;

    #[test]
    fn a_workspace_is_used_again_and_a_larger_one_replaces_it() {
        let batch = Batch::replicate(Incidence::subsets(3, 2).unwrap());
        let pool = Pool::<f32>::default();
        let with = |features, instances| {
            let size = Size { features, instances };
            pool.with(&batch, Conv::default(), size, |w| Ok(w.max_instances())).unwrap()
        };
        assert_eq!(with(2, 3), 4);
        assert_eq!(with(2, 4), 4);
        assert_eq!(with(2, 0), 4);
        assert_eq!(pool.idle(), [(2, vec![4])]);
        assert_eq!(with(2, 5), 8);
        assert_eq!(pool.idle(), [(2, vec![8])]);
        // Two at a time need two.
        let size = Size { features: 2, instances: 1 };
        pool.with(&batch, Conv::default(), size, |_| Ok(with(2, 1))).unwrap();
        assert_eq!(pool.idle()[0].1.len(), 2);
    }

    #[test]
    fn the_workspace_of_a_failed_call_is_kept() {
        let batch = Batch::replicate(Incidence::subsets(3, 2).unwrap());
        let pool = Pool::<f64>::default();
        let size = Size { features: 1, instances: 1 };
        let error = hyperscatter::Error::TooManyInstances { value: 1, bound: 0 };
        pool.with(&batch, Conv::default(), size, |_| Err::<(), _>(error)).unwrap_err();
        assert_eq!(pool.idle(), [(1, vec![1])]);
    }
}
