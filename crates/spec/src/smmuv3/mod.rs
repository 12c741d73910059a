//! Arm SMMUv3 (Arm System MMU Architecture Specification, IHI 0070), in bits and back.
//!
//! Field names are the specification's, lower case. Entry types keep every bit that they were made from, reserved ones too.
//!
//! - [`ste`]: stream table entries and level-1 descriptors (5.1, 5.2);
//! - [`cd`]: context descriptors and level-1 descriptors (5.3, 5.4);
//! - [`registers`]: the non-secure programming interface (6.3);
//! - [`command`]: commands (4);
//! - [`event`]: event records (7.3).

pub mod cd;
pub mod command;
pub mod event;
pub mod registers;
pub mod ste;
