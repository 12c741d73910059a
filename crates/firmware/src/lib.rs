//! What firmware says about IOMMUs: which unit guards which device, under which identifier, and which memory must stay
//! reachable.
//!
//! Every source (ACPI tables, devicetree, the user) yields the same [`Topology`], in which each statement knows its
//! [`Source`]. Reading never panics and never loops, whatever the bytes: a broken table gives [`Finding`]s with their
//! offsets, and as much topology as can be trusted.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod acpi;
pub mod devicetree;
pub mod groups;
pub mod topology;
pub mod user;

pub use topology::{Fact, Finding, Severity, Source, Topology};
