//! The cases, one file for each suite.

mod boot;

use crate::case::Case;

/// The cases of a suite, in the order in which they run.
pub(crate) fn suite(name: &str) -> Option<&'static [Case]> {
    match name {
        "boot" => Some(boot::CASES),
        _ => None,
    }
}
