//! A client of the manager.
#![deny(unsafe_code)]

pub mod device;
