//! Oracles: the same programs on a machine that somebody else wrote and on ours, compared at every step.

pub mod program;
pub mod shrink;
