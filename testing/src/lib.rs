//! Oracles and machines that judge Portcullis.
#![forbid(unsafe_code)]

pub mod qtest;
