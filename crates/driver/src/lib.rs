//! Drivers that program IOMMUs.
#![no_std]
#![forbid(unsafe_code)]
