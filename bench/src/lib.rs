//! Portcullis beside its peers, measured in one run.
//!
//! Peers are dependencies of this crate alone. The program `bench` measures what issue-sized targets exist for; what it and the
//! criterion benchmarks share is here.

pub mod contest;
pub mod host_memory;
pub mod machine;
pub mod order;
pub mod peers;
pub mod raw;
pub mod result;
pub mod stress;
