//! The oracle for Intel VT-d.

pub mod departures;
pub mod judge;
pub mod qemu_tables;
pub mod tables;
