//! Oracles and machines that judge Portcullis.
#![forbid(unsafe_code)]

pub mod machine;
pub mod qtest;
