//! The vocabulary in which both sides of an IOMMU meet, and per architecture how it is written in bits.
//!
//! A driver turns an intention into bits; the hardware turns those bits back into behaviour. The modules below are
//! the words that both use ([`Transaction`], [`Context`], [`Fault`], …). Each architecture has one folder
//! that writes them in bits and reads them back: [`vtd`] for Intel VT-d, [`amdvi`] for AMD-Vi, [`smmuv3`] for Arm's SMMUv3,
//! [`riscv`] for the RISC-V IOMMU.
//!
//! Nothing here allocates, does I/O, or is unsafe.
#![no_std]
#![forbid(unsafe_code)]

pub mod address;
pub mod amdvi;
pub mod context;
pub mod directory;
pub mod fault;
pub mod interrupt;
pub mod invalidation;
pub mod paging;
pub mod requester;
pub mod riscv;
pub mod smmuv3;
pub mod transaction;
pub mod translation;
pub mod vtd;

pub use address::{Iova, Ipa, PhysAddr};
pub use context::{Context, DomainTag, FirstStage, SpaceTag, Stage, StageRules, Tags};
pub use directory::{DescriptorLayout, DirectoryFormat, GuestDirectory, Unnumbered};
pub use fault::{ConfigTable, Fault, FaultReason, StageNumber};
pub use interrupt::{DeliveryMode, DestinationMode, InterruptMessage, InterruptRoute, TriggerMode};
pub use invalidation::{ContextScope, InterruptScope, Invalidation, TranslationScope};
pub use paging::{Granule, PagingFormat};
pub use requester::{NotAPciAddress, NotARequester, Pasid, PciAddress, Requester};
pub use transaction::{Access, RequestType, Transaction};
pub use translation::{Cacheability, MemoryAttributes, Shareability, Translation};
