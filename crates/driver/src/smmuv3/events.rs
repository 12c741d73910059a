//! The event queue (7.2, 7.3, 7.4): [`RecordRing`] in the SMMU's words.

use alloc::vec::Vec;

use portcullis_spec::smmuv3::command::{Command, ResumeAction};
use portcullis_spec::smmuv3::event::{EVENT_SIZE, EventRecord};
use portcullis_spec::smmuv3::registers::{EventqIndex, Gerror};

use super::capabilities::Capabilities;
use super::registers::Registers;
use crate::common::architecture::{FaultCounts, FaultRecord};
use crate::common::records::RecordRing;
use crate::error::UnitError;
use crate::platform::{Mmio, Platform};

pub(super) struct EventQueue {
    ring: RecordRing,
}

impl EventQueue {
    /// A queue of at most `2^size` pages, not yet known to the unit.
    pub(super) fn allocate(platform: &impl Platform, size: u8, capabilities: Capabilities) -> Option<Self> {
        let most = (u32::from(capabilities.idr1.eventqs()) + EVENT_SIZE.trailing_zeros()).saturating_sub(12);
        let size = u32::from(size).min(most) as u8;
        Some(Self { ring: RecordRing::allocate(platform, size, EVENT_SIZE, capabilities.coherent())? })
    }

    pub(super) fn free(&self, platform: &impl Platform) {
        self.ring.free(platform);
    }

    pub(super) fn start<M: Mmio, P: Platform>(
        &mut self,
        registers: &Registers<M, P>,
        platform: &P,
    ) -> Result<(), UnitError> {
        registers.set_cr0(platform, |cr0| cr0.with_eventqen(false))?;
        self.ring.restart();
        registers.set_event_queue(self.ring.base(), self.ring.entries());
        registers.set_cr0(platform, |cr0| cr0.with_eventqen(true))
    }

    /// Hands out the records that are there now; those that come meanwhile are for the next time. With the counts come the commands that
    /// end the stalls among them (3.12.2: each waits for one).
    pub(super) fn read<M: Mmio, P: Platform>(
        &mut self,
        registers: &Registers<M, P>,
        platform: &P,
        sink: &mut dyn FnMut(FaultRecord),
    ) -> (FaultCounts, Vec<Command>) {
        let mut stalled = Vec::new();
        let Some(errors) = registers.errors() else { return (FaultCounts::default(), stalled) };
        let prod = registers.eventq_prod();
        let entries = self.ring.entries();
        let tail = (prod.index() & (entries - 1), prod.index() & entries != 0);
        let decode = |raw| {
            let record = EventRecord::decode(raw);
            let fault = record.to_fault()?;
            if record.syndrome.stall() {
                let (streamid, stag) = (record.header.streamid(), record.syndrome.stag());
                stalled.push(Command::Resume { streamid, stag, action: ResumeAction::Abort });
            }
            Some(FaultRecord { fault, raw })
        };
        let mut counts = self.ring.read(platform, tail, decode, sink);
        // 7.4: overflowed while the flags differ; taking the unit's over acknowledges it.
        if prod.overflow() != registers.eventq_cons().overflow() {
            counts.overflows += 1;
        }
        let (head, wrapped) = self.ring.head();
        let index = head | if wrapped { entries } else { 0 };
        registers.set_eventq_cons(EventqIndex::new().with_index(index).with_overflow(prod.overflow()));
        // 3.18: only the first record in an empty queue is told of, and this one is not empty if some came since `prod`.
        counts.more = registers.eventq_prod().index() != index;
        // 7.2: a record that could not be written is lost as well. Messages that could not be are not: whoever reads does not need them.
        if errors.eventq_abt_err() {
            counts.overflows += 1;
        }
        let noted = Gerror::new().with_eventq_abt_err(errors.eventq_abt_err());
        let noted = noted.with_msi_eventq_abt_err(errors.msi_eventq_abt_err());
        let noted = noted.with_msi_gerror_abt_err(errors.msi_gerror_abt_err());
        if noted.into_bits() != 0 {
            registers.acknowledge(noted);
        }
        (counts, stalled)
    }
}
