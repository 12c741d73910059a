//! The oracle for Arm SMMUv3.

pub mod departures;
pub mod judge;
pub mod qemu_tables;
pub mod run;
pub mod tables;
