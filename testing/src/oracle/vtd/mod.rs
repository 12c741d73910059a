//! The oracle for Intel VT-d.

pub mod bad_input;
pub mod departures;
pub mod interrupts;
pub mod judge;
pub mod model_tables;
pub mod programs;
pub mod qemu_tables;
pub mod run;
pub mod tables;
