//! Where interrupt messages go.

use portcullis_spec::Requester;

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

/// Receives interrupt messages.
///
/// [`send`](Self::send) is called from the thread that caused the message: one that does DMA, or one that writes a
/// register. It must not block for long and must not call back into the unit that sends.
pub trait InterruptSink: Send + Sync {
    /// Delivers one message.
    fn send(&self, message: Message);
}

/// Drops every message.
pub struct NoInterrupts;

impl InterruptSink for NoInterrupts {
    fn send(&self, _message: Message) {}
}
