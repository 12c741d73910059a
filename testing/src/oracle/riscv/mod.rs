//! The oracle for the RISC-V IOMMU.

pub mod bad_input;
pub mod departures;
pub mod judge;
pub mod model_tables;
pub mod programs;
pub mod qemu_tables;
pub mod run;
pub mod shapes;
pub mod tables;
