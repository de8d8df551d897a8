//! Each error of the library has a status.

use std::collections::HashSet;
use std::ffi::CStr;

use hyperscatter_c::{HS_ERROR_PANIC, HS_OK, hs_error, hs_last_error, hs_status_name, status_of};

const STATUS: &str = include_str!("../src/status.rs");

/// The names and numbers of all statuses.
fn statuses() -> Vec<(&'static str, i32)> {
    let constants = STATUS.lines().filter_map(|line| line.strip_prefix("pub const ")?.split_once(": i32 = "));
    constants.map(|(name, number)| (name, number.trim_end_matches(';').parse().unwrap())).collect()
}

#[test]
fn each_status_has_a_number_and_a_name_of_its_own() {
    let statuses = statuses();
    let numbers: HashSet<_> = statuses.iter().map(|(_, number)| number).collect();
    assert_eq!(numbers.len(), statuses.len(), "a number stands for two statuses");
    for (name, number) in statuses {
        // SAFETY: it is null or a static string.
        let found = unsafe { hs_status_name(number).as_ref().map(|c| CStr::from_ptr(c)) };
        assert_eq!(found.and_then(|found| found.to_str().ok()), Some(name));
    }
    assert!(hs_status_name(99).is_null());
}

/// The library's enumeration may grow: then this asks for a status.
#[test]
fn each_error_of_the_library_has_a_status() {
    let source = include_str!("../../../src/error.rs");
    let kinds = source.lines().filter_map(|line| {
        let name = line.strip_prefix("    ")?.trim_end_matches([' ', '{', ',']);
        let is_variant = line.ends_with(" {") || line.ends_with(',');
        let is_name = name.chars().all(|c| c.is_ascii_alphanumeric()) && name.starts_with(char::is_uppercase);
        (is_variant && is_name).then_some(name)
    });
    let all = source.matches("\n    #[error(").count();
    let kinds: Vec<_> = kinds.take(all).collect();
    assert_eq!(kinds.len(), all);
    let is_missing = |kind: &&&str| !STATUS.contains(&format!("        Error::{kind}"));
    let missing: Vec<_> = kinds.iter().filter(is_missing).collect();
    assert!(missing.is_empty(), "{missing:?} have no status");
    assert_eq!(statuses().iter().filter(|(_, number)| *number >= 100).count(), all);
}

/// The words of the last error: its name, and what it says.
fn last_error() -> (String, String) {
    let mut error = std::mem::MaybeUninit::<hs_error>::zeroed();
    // SAFETY: the size is set, and strings of this thread are valid until its next failure.
    unsafe {
        (*error.as_mut_ptr()).size = size_of::<hs_error>();
        assert_eq!(hs_last_error(error.as_mut_ptr()), HS_OK);
        let error = error.assume_init();
        let [name, message] = [error.name, error.message].map(|text| CStr::from_ptr(text).to_str().unwrap());
        (name.to_owned(), message.to_owned())
    }
}

#[test]
fn a_panic_is_a_status() {
    assert_eq!(status_of(|| ()), HS_OK);
    let number = 7;
    assert_eq!(status_of(|| panic!("planted {number}")), HS_ERROR_PANIC);
    let (name, message) = last_error();
    assert_eq!(name, "HS_ERROR_PANIC");
    assert!(message.ends_with("please report it: planted 7"), "{message}");
    assert_eq!(status_of(|| std::panic::panic_any(7)), HS_ERROR_PANIC);
    // Each thread has its own.
    std::thread::spawn(|| assert_eq!(last_error(), ("HS_OK".to_owned(), String::new()))).join().unwrap();
    assert_eq!(last_error().0, "HS_ERROR_PANIC");
}
