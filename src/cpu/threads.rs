//! On which threads a call computes: those of the current rayon pool, or the calling one alone.

use std::cell::Cell;

/// The most products of a call for which other threads would take longer to wake than it does.
pub(super) const SMALL: usize = 1 << 15;

thread_local! {
    static IS_ALONE: Cell<bool> = const { Cell::new(false) };
}

/// Calls `f`, in which this thread computes whatever it calls of this backend alone. It asks rayon for
/// nothing, so that no pool is started, and no other thread is woken or waited for: that takes longer than a
/// [small](super::Plan::is_small) call itself.
///
/// Results have the same bits. A [`Workspace`](super::Workspace) may be made within or outside of it: made
/// within, it has memory for one thread.
///
/// ```
/// use hyperscatter::cpu::{self, Plan, Weights};
/// use hyperscatter::{Batch, Incidence, Out, Rows};
///
/// # fn main() -> hyperscatter::Result<()> {
/// let plan = Plan::<f32>::builder(&Batch::replicate(Incidence::subsets(2, 2)?), 1).build()?;
/// let mut y = [0.0; 2];
/// cpu::on_this_thread(|| {
///     let (x, y) = (Rows::contiguous(&[1.0, 3.0][..], 1), Rows::contiguous(&mut y[..], 1));
///     plan.workspace(1)?.conv(x, Weights::shared(&[1.0]), Out::Overwrite(y))
/// })?;
/// assert_eq!(y, [2.0, 2.0]);
/// # Ok(())
/// # }
/// ```
pub fn on_this_thread<R>(f: impl FnOnce() -> R) -> R {
    struct Before(bool);

    impl Drop for Before {
        fn drop(&mut self) {
            IS_ALONE.set(self.0);
        }
    }

    let _before = Before(IS_ALONE.replace(true));
    f()
}

/// Whether this thread computes alone.
pub(super) fn is_alone() -> bool {
    IS_ALONE.get()
}

/// The threads that compute.
pub(super) fn n_threads() -> usize {
    if is_alone() { 1 } else { rayon::current_num_threads() }
}
