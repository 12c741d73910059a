//! Everything that isn't bits.

pub mod architecture;
mod attachment;
pub mod domain;
pub(crate) mod entries;
mod gate;
pub mod gather;
pub mod interrupts;
pub mod iova;
mod mappings;
pub(crate) mod queue;
pub(crate) mod records;
pub mod region;
pub(crate) mod registers;
pub mod table;
mod tags;
pub mod unit;
