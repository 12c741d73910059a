//! One page-table engine, many formats.
#![no_std]
#![forbid(unsafe_code)]
