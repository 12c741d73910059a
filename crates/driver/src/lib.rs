//! Drivers that program IOMMUs, on any machine: `no_std`, with `alloc`, over the small traits of [`platform`].
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

pub mod platform;

pub use platform::{Clock, Lock, Memory, Mmio, Platform};
