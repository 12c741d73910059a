//! The cases, one file for each suite.

mod boot;
mod firmware;
mod inspect;
mod manager;
mod systemd;
mod vfio;

use crate::case::Case;
pub(crate) use vfio::hold;

/// The cases of a suite, in the order in which they run.
pub(crate) fn suite(name: &str) -> Option<&'static [Case]> {
    match name {
        "boot" => Some(boot::CASES),
        "firmware" => Some(firmware::CASES),
        "inspect" => Some(inspect::CASES),
        "manager" => Some(manager::CASES),
        "systemd" => Some(systemd::CASES),
        "vfio" => Some(vfio::CASES),
        _ => None,
    }
}
