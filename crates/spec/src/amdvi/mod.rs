//! AMD-Vi (AMD I/O Virtualization Technology specification, 48882), in bits and back.
//!
//! Field names are the specification's, lower case. Entry types keep every bit that they were made from, reserved ones too.
//!
//! - [`device_table`]: device table entries (2.2.2);
//! - [`feature`]: the Extended Feature register (3.4.2);
//! - [`interrupt`]: interrupt remapping table entries, 32 and 128 bits (2.2.5);
//! - [`paging`]: host page-table entries (2.2.3).

pub mod device_table;
pub mod feature;
pub mod interrupt;
pub mod paging;
