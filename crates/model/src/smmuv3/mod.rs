//! Arm SMMUv3, its non-secure programming interface (Arm System MMU Architecture, IHI 0070).
//!
//! [`Smmuv3Unit`] is the device: registers on one side, [ports](crate::Port) for devices on the other. Its parts: what it has
//! ([`config`]), stream table entries (`stream`), context descriptors (`descriptor`) and the look-up through both (`lookup`),
//! the register file (`registers`), the command queue (`queue`), events and global errors (`events`, `fault`), stalled
//! transactions (`stall`), address translation operations (`gatos`).

pub mod config;
mod descriptor;
mod events;
mod fault;
mod gatos;
mod lookup;
mod note;
mod queue;
mod registers;
mod stall;
mod state;
mod stream;
mod tables;

use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, RwLock};

use portcullis_pagetable::{AnyFormat, Format};
use portcullis_spec::smmuv3::event::EventRecord;
use portcullis_spec::{
    Access, Context, FaultReason, Iova, MemoryAttributes, PagingFormat, Pasid, PhysAddr, RequestType,
    Requester, StageRules, Transaction,
};

use crate::contexts::Resolved;
use crate::engine::{Admission, Architecture, Asked, Outcome, Release, Report};
use crate::interrupt::InterruptSink;
use crate::memory::GuestMemory;
use crate::port::Port;
use crate::refusal::Refusal;
use crate::state::locked;
use crate::sync::Apart;
use crate::translate::PageTranslation;
use crate::unit::{Model, Unit};
use config::{ConfigError, Identification, Smmuv3Config};
use events::Events;
pub use events::wire;
use lookup::Steering;
pub use note::{FaultFlags, Note, Override, Stop};
use queue::Queue;
use registers::Control;
use stall::Stalls;
pub use state::Smmuv3State;

/// An SMMUv3. After reset translation is off and all DMA passes.
pub type Smmuv3Unit = Unit<Smmuv3>;

/// A device's way to memory through an SMMUv3.
///
/// Where the unit stalls, reads, writes and translations that fault wait until software resumes or terminates them: the thread
/// that drives the device is held, as the device is.
pub type Smmuv3Port = Port<Smmuv3>;

/// The architecture's part of a unit.
pub struct Smmuv3 {
    config: Smmuv3Config,
    unit: Identification,
    sink: Arc<dyn InterruptSink>,
    /// What look-ups are decided by.
    steering: RwLock<Steering>,
    control: Mutex<Control>,
    /// Every fault writes here.
    events: Apart<Mutex<Events>>,
    queue: Mutex<Queue>,
    /// CMDQ_CONS, apart so that it can be read while the queue is worked on.
    consumer: AtomicU32,
    stalls: Stalls,
}

/// What is recorded of a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    event: EventRecord,
    /// The tag of a stalled transaction, where there was room for one.
    tag: Option<u16>,
}

/// An address whose bits 63:56 are taken from bit 55 (3.4.1, top byte ignored).
const fn without_top_byte(address: u64) -> u64 {
    ((address << 8) as i64 >> 8) as u64
}

impl Model for Smmuv3 {
    type Config = Smmuv3Config;
    type ConfigError = ConfigError;
    type RequesterId = u32;

    fn build(
        config: Smmuv3Config,
        memory: Arc<dyn GuestMemory>,
        sink: Arc<dyn InterruptSink>,
    ) -> Result<(Self, Arc<dyn GuestMemory>), ConfigError> {
        let unit = config.registers()?;
        let control = Control::default();
        let smmu = Self {
            unit,
            sink,
            steering: RwLock::new(control.steering()),
            control: Mutex::new(control),
            events: Apart::default(),
            queue: Mutex::default(),
            consumer: AtomicU32::new(0),
            stalls: Stalls::default(),
            config,
        };
        Ok((smmu, memory))
    }

    fn config(&self) -> &Smmuv3Config {
        &self.config
    }

    fn requester(&self, id: u32) -> Requester {
        Requester::Stream(id)
    }

    fn unrecorded_faults(&self) -> u64 {
        locked(&self.events).unrecorded
    }
}

impl Smmuv3Unit {
    /// The page of an address that stage 1 does not translate.
    fn bypassed(&self, address: u64) -> PageTranslation {
        let unit = &self.model().unit;
        let shift = match (unit.idr5.gran4k(), unit.idr5.gran16k()) {
            (true, _) => 12,
            (false, true) => 14,
            (false, false) => 16,
        };
        PageTranslation {
            base: PhysAddr(address >> shift << shift),
            shift,
            access: Access::all(),
            attributes: MemoryAttributes::default(),
        }
    }
}

impl Smmuv3 {
    /// The most transactions that stall at once.
    fn stall_max(&self) -> u16 {
        self.unit.idr5.stall_max()
    }
}

impl Architecture for Smmuv3 {
    type Note = Note;
    type Record = Record;

    /// 3.4.1: bit 55 chooses between TTB0 and TTB1.
    #[inline]
    fn is_upper(&self, address: Iova) -> bool {
        address.0 >> 55 & 1 != 0
    }

    #[inline]
    fn admit(&self, transaction: &Transaction) -> Admission {
        // There is no ATS: what only ATS sends is unsupported (7.3.2).
        if transaction.request_type == RequestType::Untranslated {
            Admission::Translate
        } else {
            Admission::Refused(Refusal::new(FaultReason::RequesterUnsupported))
        }
    }

    fn lookup(
        &self,
        memory: &dyn GuestMemory,
        requester: Requester,
        pasid: Option<Pasid>,
        upper: bool,
    ) -> Resolved<Note> {
        lookup::lookup(memory, &self.unit, self.steering(), requester.index(), pasid, upper)
    }

    fn format(&self, format: PagingFormat, rules: StageRules, _nested: bool) -> Option<AnyFormat> {
        tables::format(&self.unit, format, rules)
    }

    #[inline]
    fn ask(&self, transaction: &Transaction, resolved: &Resolved<Note>) -> Result<Asked, Refusal> {
        let note = &resolved.note;
        let address = transaction.address.0;
        let (privileged, instruction) = fault::attributes(transaction, note);
        let access = if instruction { Access::EXECUTE } else { transaction.access - Access::EXECUTE };
        let asked = Asked {
            input: Iova(if note.ignores_top_byte { without_top_byte(address) } else { address }),
            access,
            privileged: privileged && !note.one_privilege,
            any: false,
        };
        if matches!(resolved.context, Context::Blocked(_)) {
            return Ok(asked);
        }
        // 3.4: what bypasses stage 1 is a stage-1 output, and checked as one.
        if note.bypass_bits.is_some_and(|bits| address >> bits != 0) {
            return Err(Refusal::new(FaultReason::AddressSize));
        }
        Ok(asked)
    }

    #[inline]
    fn accept(
        &self,
        _transaction: &Transaction,
        _resolved: &Resolved<Note>,
        _output: PhysAddr,
        _bytes: u64,
    ) -> Result<(), Refusal> {
        Ok(())
    }

    /// Addresses with a top byte are beyond the tables. Where sizes are checked, the tables must not reach beyond them.
    fn is_plain(&self, resolved: &Resolved<Note>) -> bool {
        let Some(bits) = resolved.note.bypass_bits else { return true };
        let Context::OneStage { stage, .. } = &resolved.context else { return false };
        self.format(stage.format, stage.rules, false).is_some_and(|format| format.input_bits() <= bits)
    }

    fn fault(
        &self,
        transaction: &Transaction,
        resolved: Option<&Resolved<Note>>,
        refusal: Refusal,
    ) -> Report<Record> {
        let note = resolved.map(|resolved| &resolved.note);
        let report = fault::report(transaction, note, refusal, self.steering().record_bad_streams);
        let tag = if report.outcome == Outcome::Hold {
            self.stalls.enter(transaction.requester.index(), self.stall_max())
        } else {
            None
        };
        Report {
            fault: report.fault,
            record: report.record.map(|event| Record { event, tag }),
            outcome: report.outcome,
        }
    }

    fn record(&self, memory: &dyn GuestMemory, record: &Record) {
        self.write_event(memory, &record.event, false);
    }

    fn hold(&self, memory: &dyn GuestMemory, record: &Record) -> Release {
        let Some(tag) = record.tag else {
            self.stalls.wait_for_room(self.stall_max());
            return Release::Retry;
        };
        if self.stalls.announce(tag) {
            let mut event = record.event;
            event.syndrome = event.syndrome.with_stall(true).with_stag(tag);
            if !self.write_event(memory, &event, true) {
                self.stalls.withdraw(tag);
                self.retry_if_writable();
            }
        }
        self.stalls.wait(tag)
    }
}
