//! The event queue, global errors, and the interrupts that tell of them (SMMUv3 3.18, 6.3.19 to 6.3.34, 7.2, 7.4, 7.5).

use portcullis_spec::PhysAddr;
use portcullis_spec::smmuv3::event::EventRecord;
use portcullis_spec::smmuv3::registers::{EventqIndex, Gerror, IrqCtrl, QueueBase};

use super::Smmuv3;
use crate::interrupt::deliver;
use crate::memory::GuestMemory;
use crate::ring::WrappingRing;
use crate::state::locked;

/// The unit's interrupt wires. All are edges.
pub mod wire {
    /// The event queue became non-empty.
    pub const EVENT_QUEUE: u8 = 0;
    /// The PRI queue; never used.
    pub const PRI_QUEUE: u8 = 1;
    /// A CMD_SYNC completed.
    pub const SYNC: u8 = 2;
    /// A global error.
    pub const GLOBAL_ERROR: u8 = 3;
}

/// The registers of one message (6.3.21 to 6.3.23).
#[derive(Clone, Copy, Debug, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct MessageRegisters {
    /// IRQ_CFG0.
    pub(super) address: u64,
    /// IRQ_CFG1.
    pub(super) data: u32,
    /// IRQ_CFG2.
    pub(super) attributes: u32,
}

/// All registers that report something to software.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct Events {
    /// CR0.EVENTQEN.
    pub(super) enabled: bool,
    /// EVENTQ_BASE.
    pub(super) base: u64,
    /// EVENTQ_PROD.
    pub(super) producer: u32,
    /// EVENTQ_CONS.
    pub(super) consumer: u32,
    /// GERROR.
    pub(super) errors: u32,
    /// GERRORN.
    pub(super) acknowledged: u32,
    /// IRQ_CTRL.
    pub(super) interrupts: u32,
    /// GERROR_IRQ_CFG0 to 2.
    pub(super) error_message: MessageRegisters,
    /// EVENTQ_IRQ_CFG0 to 2.
    pub(super) event_message: MessageRegisters,
    /// Events since reset that were discarded.
    pub(super) unrecorded: u64,
}

/// What is to be told, once no lock is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Signal {
    /// The event queue became non-empty.
    Event,
    /// A global error became active.
    Error,
}

/// What became of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Recorded {
    /// It stands in the queue.
    Written(Option<Signal>),
    /// The queue takes nothing now; with what there is to tell of that.
    NotWritable(Option<Signal>),
}

impl Events {
    fn active(&self) -> Gerror {
        Gerror::from_bits(self.errors ^ self.acknowledged)
    }

    /// Whether the command queue is stopped by an error (7.1).
    pub(super) fn command_queue_stopped(&self) -> bool {
        self.active().cmdq_err()
    }

    /// Makes errors active that are not yet.
    pub(super) fn raise(&mut self, error: Gerror) -> Option<Signal> {
        let new = error.into_bits() & !self.active().into_bits();
        self.errors ^= new;
        (new != 0).then_some(Signal::Error)
    }

    /// The queue, as large as the unit allows.
    fn ring(&self, most: u8) -> WrappingRing {
        let base = QueueBase::from_bits(self.base);
        let log2 = base.log2size().min(most);
        WrappingRing { base: queue_base(base.addr() << 5, log2, 5), log2, entry_shift: 5 }
    }

    /// Whether a record can be written now (7.2.1).
    pub(super) fn is_writable(&self, most: u8) -> bool {
        self.enabled
            && !self.ring(most).is_full(self.producer, self.consumer)
            && !self.active().eventq_abt_err()
    }

    /// Writes a record (7.2.1, 7.4). `stalled` says that it is not discarded where it can't be written.
    pub(super) fn record(
        &mut self,
        memory: &dyn GuestMemory,
        record: &EventRecord,
        most: u8,
        address_mask: u64,
        stalled: bool,
    ) -> Recorded {
        let ring = self.ring(most);
        let (producer, consumer) =
            (EventqIndex::from_bits(self.producer), EventqIndex::from_bits(self.consumer));
        if !self.enabled || self.active().eventq_abt_err() {
            return Recorded::NotWritable(None);
        }
        if ring.is_full(producer.index(), consumer.index()) {
            if !stalled && producer.overflow() == consumer.overflow() {
                self.producer = producer.with_overflow(!producer.overflow()).into_bits();
            }
            return Recorded::NotWritable(None);
        }
        let mut bytes = [0; 32];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(record.encode()) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        let at = PhysAddr(ring.entry(producer.index()).0 & address_mask);
        if memory.write(at, &bytes).is_err() {
            // 7.2.2: a synchronous abort; the index stays.
            return Recorded::NotWritable(self.raise(Gerror::new().with_eventq_abt_err(true)));
        }
        let was_empty = ring.is_empty(producer.index(), consumer.index());
        self.producer = producer.with_index(ring.next(producer.index())).into_bits();
        Recorded::Written(was_empty.then_some(Signal::Event))
    }
}

/// A queue's base, aligned to the larger of 32 bytes and its size (6.3.26).
pub(super) fn queue_base(address: u64, log2: u8, entry_shift: u8) -> PhysAddr {
    let shift = u32::from(log2 + entry_shift).max(5);
    PhysAddr(address >> shift << shift)
}

impl Smmuv3 {
    /// Addresses of the unit's own writes are truncated to the output size (3.4.3).
    pub(super) fn address_mask(&self) -> u64 {
        u64::MAX >> (64 - self.unit.output_bits())
    }

    /// Records an event that is lost where the queue takes nothing.
    pub(super) fn write_event(&self, memory: &dyn GuestMemory, record: &EventRecord, stalled: bool) -> bool {
        let (mask, most) = (self.address_mask(), self.unit.idr1.eventqs());
        let recorded = {
            let mut events = locked(&self.events);
            let recorded = events.record(memory, record, most, mask, stalled);
            // 7.2: what stalls is kept, and written once there is room.
            events.unrecorded += u64::from(!stalled && matches!(recorded, Recorded::NotWritable(_)));
            recorded
        };
        let (written, signal) = match recorded {
            Recorded::Written(signal) => (true, signal),
            Recorded::NotWritable(signal) => (false, signal),
        };
        self.signal(memory, signal);
        written
    }

    /// Tells of something, by message or by wire, if software wants it (3.18). No lock of the events is held.
    pub(super) fn signal(&self, memory: &dyn GuestMemory, signal: Option<Signal>) {
        let Some(signal) = signal else { return };
        let (wanted, message) = {
            let events = locked(&self.events);
            let enables = IrqCtrl::from_bits(events.interrupts);
            match signal {
                Signal::Event => (enables.eventq_irqen(), events.event_message),
                Signal::Error => (enables.gerror_irqen(), events.error_message),
            }
        };
        if !wanted {
            return;
        }
        let wire = match signal {
            Signal::Event => wire::EVENT_QUEUE,
            Signal::Error => wire::GLOBAL_ERROR,
        };
        if self.notify(memory, message.address, message.data, wire) {
            return;
        }
        let error = match signal {
            Signal::Event => Gerror::new().with_msi_eventq_abt_err(true),
            // The interrupt that would tell of it is the one that failed: nothing follows.
            Signal::Error => {
                let _ = locked(&self.events).raise(Gerror::new().with_msi_gerror_abt_err(true));
                return;
            }
        };
        let signal = locked(&self.events).raise(error);
        self.signal(memory, signal);
    }

    /// Pulses a wire, and sends a message where one is configured: an address of zero sends none (3.18.2). Whether nothing
    /// aborted it.
    pub(super) fn notify(&self, memory: &dyn GuestMemory, address: u64, data: u32, wire: u8) -> bool {
        self.sink.set_wire(wire, true);
        self.sink.set_wire(wire, false);
        if !self.unit.idr0.msi() || address == 0 {
            return true;
        }
        deliver(memory, &*self.sink, address & self.address_mask(), data).is_ok()
    }
}
