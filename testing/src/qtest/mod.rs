//! QEMU as a piece of hardware: its devices, its IOMMU and its memory, with no processor running.
//!
//! `-accel tcg -S -qtest unix:…` stops the processor before its first instruction and lets a socket reach MMIO, ports and
//! memory instead. Everything that happens is then caused by a command, and finished when the command is answered; a run
//! is reproducible to the last bit. [`Client`] speaks the protocol, [`Qemu`] starts and supervises the process, [`pci`]
//! finds functions and gives them addresses, [`lsi`] and [`hda`] are DMA engines that run while the command that starts
//! them is being answered.

mod client;
mod qemu;

pub mod hda;
pub mod lsi;
pub mod pci;

pub use client::{Client, QtestError};
pub use qemu::{Qemu, QemuError, find, version};
