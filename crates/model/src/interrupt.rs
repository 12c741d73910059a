//! Where interrupt messages go.

use portcullis_spec::{PhysAddr, Requester};

use crate::memory::GuestMemory;

/// A message signalled interrupt: a 32-bit write to an address that a machine's interrupt controllers watch.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Message {
    /// The device that sent it, or `None` where the IOMMU itself did (a fault or completion event).
    pub source: Option<Requester>,
    /// The address written.
    pub address: u64,
    /// The data written.
    pub data: u32,
}

/// Nothing takes messages at this address: the write was aborted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
#[error("no interrupt controller takes messages at {address:#x}")]
pub struct Undelivered {
    /// The address written.
    pub address: u64,
}

/// Receives interrupt messages, and drives the interrupt wires of units that have some.
///
/// Both are called from the thread that caused them: one that does DMA, or one that writes a register. They must not
/// block for long, must not call back into the unit that sends, and take no lock that someone holds who writes its registers: a
/// command that waits for devices also waits for the messages that they are sending.
pub trait InterruptSink: Send + Sync {
    /// Delivers one message.
    ///
    /// # Errors
    /// Where nothing took it; some architectures tell software so.
    fn send(&self, message: Message) -> Result<(), Undelivered>;

    /// Drives one of the unit's interrupt wires, whose level it keeps. Wires are not asserted at first. A machine without such wires
    /// need not implement it.
    fn set_wire(&self, wire: u8, asserted: bool) {
        let _ = (wire, asserted);
    }

    /// Wakes processors that wait for an event (Arm SEV). A machine without such processors need not implement it.
    fn wake(&self) {}
}

/// Takes every message and drops it.
pub struct NoInterrupts;

impl InterruptSink for NoInterrupts {
    fn send(&self, _message: Message) -> Result<(), Undelivered> {
        Ok(())
    }
}

/// Does a unit's own 32-bit write: to memory where there is some, and otherwise as a message to the interrupt controllers.
///
/// # Errors
/// Where neither takes it.
pub(crate) fn deliver(
    memory: &dyn GuestMemory,
    sink: &dyn InterruptSink,
    address: u64,
    data: u32,
) -> Result<(), Undelivered> {
    memory.store32(PhysAddr(address), data).or_else(|_| sink.send(Message { source: None, address, data }))
}
