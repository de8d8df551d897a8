//! How an operator is described: once, for calls and for counts.

#![allow(unsafe_code)]

use super::DeviceElement;
use super::call::Call;
use super::launches::Launches;
use crate::error::Result;

/// An operator's operands, which its `bind` has bound and checked, and the launches for them. It is run twice
/// where scratch memory is lent: once to learn how much of it the call needs.
pub(super) trait Description: Copy {
    /// Makes the launches.
    ///
    /// # Safety
    /// There is what the operands say: rows where their placements are, weights where their windows reach.
    unsafe fn run<T: DeviceElement, L: Launches>(self, call: &mut Call<'_, T, L>) -> Result<()>;
}
