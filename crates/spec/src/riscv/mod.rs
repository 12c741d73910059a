//! The RISC-V IOMMU (RISC-V IOMMU Architecture Specification, version 1.0.1), in bits and back.
//!
//! Field names are the specification's, lower case. "RISC-V IOMMU 3.2" in a comment is section 3.2 of that document.
//!
//! - [`registers`]: every register and its offset (chapter 5);
//! - [`device`], [`process`]: device and process directory entries and contexts (2.1, 2.3);
//! - [`msi`]: MSI page-table entries and what they lead to (2.1.3.6, 2.3.3);
//! - [`command`]: commands (3.1);
//! - [`fault`]: causes and fault records (3.2);
//! - [`page_request`]: page-request records (3.3).
//!
//! Words are as the IOMMU interprets them: where `fctl.be` or `tc.sbe` is set, whoever reads memory swaps bytes first.
//! Types keep every bit that they were made from, reserved ones too; what is reserved is asked for by name.

pub mod command;
pub mod device;
pub mod fault;
pub mod msi;
pub mod page_request;
pub mod process;
pub mod registers;

pub use command::{Command, CommandError};
pub use device::{
    DeviceContext, DeviceDirectoryEntry, Fsc, Iohgatp, IohgatpMode, IosatpMode, Msiptp, MsiptpMode, PdtpMode,
    Ta, Tc,
};
pub use fault::{Cause, FaultRecord, TransactionType};
pub use msi::{InterruptFiles, Mrif, MsiPte, MsiPteError};
pub use process::{ProcessContext, ProcessDirectoryEntry};
