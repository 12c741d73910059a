//! Portcullis beside its peers, measured in one run.
//!
//! Peers are dependencies of this crate's benchmarks alone. What the benchmarks share is here.

pub mod host_memory;
