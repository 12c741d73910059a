//! Drivers that program IOMMUs, on any machine: `no_std`, with `alloc`, over the small traits of [`platform`].
//!
//! [`common`] holds everything that isn't bits: [`Unit`], [`Domain`], invalidation, addresses, faults. Each architecture has a folder
//! that implements [`common::architecture::Architecture`]: [`riscv`], [`smmuv3`], [`vtd`].
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

pub mod common;
pub mod error;
pub mod platform;
pub mod riscv;
pub mod smmuv3;
mod turn;
pub mod vtd;

pub use common::architecture::{FaultCounts, FaultRecord, FaultSignal, Features};
pub use common::domain::{Domain, DomainOptions};
pub use common::gather::{FlushPolicy, Ticket};
pub use common::interrupts::InterruptFeatures;
pub use common::iova::Prefer;
pub use common::region::{Device, Region, RegionKind};
pub use common::unit::Unit;
pub use error::{Error, Feature, UnitError};
pub use platform::{Clock, Lock, Memory, Mmio, Platform};
