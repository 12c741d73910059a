//! Oracles and machines that judge Portcullis.
#![forbid(unsafe_code)]

pub mod firmware;
pub mod machine;
pub mod oracle;
pub mod qtest;
pub mod reference;
