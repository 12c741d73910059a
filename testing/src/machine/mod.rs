//! Machines with devices, memory and an IOMMU, on which a driver runs and which another machine is compared with.
//!
//! [`qemu`] is a machine that nobody here wrote; the same [`Machine`] over our own models must behave the same.

pub mod model;
pub mod qemu;
pub mod ram;
pub mod recorder;
pub mod riscv;
pub mod smmuv3;
pub mod still;
pub mod vtd;

use portcullis_driver::platform::Mmio;
use portcullis_spec::Requester;
use ram::Ram;

/// Why a machine can no longer be used.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// QEMU is not there or failed.
    #[error(transparent)]
    Qemu(#[from] crate::qtest::QemuError),
    /// Its memory could not be reached.
    #[error("memory of the machine: {0}")]
    Memory(String),
    /// No model can be built like this.
    #[error("no such model: {0}")]
    Model(String),
    /// A device that it should have is missing.
    #[error("the machine has no {0}")]
    Device(&'static str),
}

/// A copy by DMA: a read of `length` bytes, then a write of what was read, in pieces of at most [`COPY_PIECE`] bytes. Bytes
/// that may not be read are written as zeros.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Copy {
    /// First byte read, as the device sends it.
    pub source: u32,
    /// First byte written.
    pub destination: u32,
    /// Bytes, less than 16 MiB.
    pub length: u32,
}

/// Bytes that one engine reads before it writes them.
pub const COPY_PIECE: u32 = 4096;

/// A read of 4 bytes, then two writes of 4 zeros one behind the other, anywhere in 64 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Touch {
    /// First byte read, a multiple of 4.
    pub read: u64,
    /// First byte written; leaves 8 divided by 128.
    pub write: u64,
}

/// A machine. Its own [`Mmio`] are the registers of its IOMMU.
///
/// Everything that happens is caused by a call and over when the call returns. A machine that fails goes on returning all
/// ones, as a bus does, and says why in [`Machine::health`].
pub trait Machine: Mmio {
    /// The memory that devices reach.
    fn ram(&self) -> &Ram;

    /// The engines that copy, in the order of their numbers; the last one touches instead.
    fn requesters(&self) -> &[Requester];

    /// Let engine `engine` copy. Whether it could fetch its own program, of [`ram::SCRIPT_BYTES`] bytes, from
    /// [`Ram::script`], which it does first. Nothing else happens where it could not.
    fn copy(&self, engine: usize, copy: Copy) -> bool;

    /// Let the last engine read and write. The value that [`Ram::put_token`] put where it read; 0 where it may not read or
    /// finds zeros.
    fn touch(&self, touch: Touch) -> u8;

    /// Whether everything so far was really done.
    ///
    /// # Errors
    /// What went wrong first.
    fn health(&self) -> Result<(), String>;
}
