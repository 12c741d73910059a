//! What firmware says about IOMMUs.
#![no_std]
#![forbid(unsafe_code)]
