//! The client for C. `include/portcullis.h` says what each call does; this is how.
//!
//! | file | is |
//! | --- | --- |
//! | `ffi` | C's side: pointers, text, structures; the only unsafe code |
//! | `registry` | numbers that stand for connections |
//! | `connection` | what the calls do, over `portcullis-client` |
//! | `faults` | records that wait to be fetched, and the event that tells of them |
//! | `failure` | from refusals to error numbers |
#![deny(unsafe_code)]

mod connection;
mod failure;
mod faults;
pub mod ffi;
mod registry;
