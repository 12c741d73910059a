//! What protects a host from DMA, what does not, and what to do about it.
//!
//! [`Report::of`] puts together what [`crate::host`] read: units, devices, groups with their reasons, and [`Finding`]s. It decides
//! nothing and changes nothing.

mod capability;
mod findings;
mod grouping;
mod guards;
mod names;
mod report;

pub use capability::Capability;
pub use findings::{Evidence, Finding, FindingCode, Severity};
pub use names::PciNames;
pub use report::{
    DeviceReport, FirmwareReport, GroupReport, InterruptReport, Protection, Report, ReservedReport,
    UnitReport,
};
