//! Linux guests in QEMU that judge Portcullis on a real kernel.
//!
//! Two programs share this crate. `guest` runs on the developer's machine: it obtains a Debian kernel, packs an initial
//! RAM file system, boots it, and reads what comes back. `portcullis-guest` is the first process inside: it runs the
//! cases of one suite and reports each. Between them is a serial line and the [`protocol`]; what is on the disks both work out from [`content`].
#![forbid(unsafe_code)]

/// Evidence: milliseconds from a refused access to its being listed.
pub const TOLD_AFTER: &str = "told-after-ms";

pub mod content;
pub mod protocol;
