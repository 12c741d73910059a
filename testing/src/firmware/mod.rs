//! Firmware tables judged: by `iasl`, by rules that hold for any bytes, and by tables made up at random.

pub mod differences;
pub mod generate;
pub mod iasl;
pub mod reference;
pub mod rules;
pub mod tables;
