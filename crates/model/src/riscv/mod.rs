//! The RISC-V IOMMU.
//!
//! [`RiscvUnit`] is the device: registers on one side, [ports](crate::Port) for devices on the other. Its parts: what it has
//! ([`config`]), the look-up from directories to context (`lookup`), the register file (`registers`), the command queue
//! (`queue`), the fault queue and interrupts (`events`), what a refusal is called (`cause`), the counters (`counters`) and the
//! translation-request interface (`debug`), MSI page tables and memory-resident interrupt files (`msi`).

mod cause;
pub mod config;
mod counters;
mod debug;
mod events;
mod lookup;
mod msi;
mod queue;
mod registers;
mod state;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use portcullis_pagetable::AnyFormat;
use portcullis_spec::riscv::fault::FaultRecord;
use portcullis_spec::riscv::registers::{Capabilities, Ddtp, Fctl, HpmEvent};
use portcullis_spec::{
    Access, Context, Fault, FaultReason, InterruptScope, Ipa, PagingFormat, Pasid, PhysAddr, RequestType,
    Requester, StageRules, Tags, Transaction,
};

use crate::contexts::Resolved;
use crate::engine::{Admission, Architecture, Asked, Event, Outcome, Report};
use crate::interrupt::{InterruptSink, Message, Undelivered};
use crate::memory::{Addressable, GuestMemory};
use crate::plain::Block;
use crate::port::Port;
use crate::refusal::Refusal;
use crate::state::locked;
use crate::sync::Apart;
use crate::translate::PageTranslation;
use crate::unit::{Model, Unit};
use config::{ConfigError, RiscvConfig};
use counters::{Counters, Ids};
use debug::Debug;
use events::Events;
use lookup::{Lookup, Root};
pub use lookup::{Note, Stop};
use msi::{MsiEntries, MsiTable};
use queue::Queue;
pub use state::RiscvState;

/// A RISC-V IOMMU. After reset nothing passes, or everything, as the configuration says.
pub type RiscvUnit = Unit<Riscv>;

/// A device's way to memory through a RISC-V IOMMU.
pub type RiscvPort = Port<Riscv>;

/// The architecture's part of a unit.
///
/// Locks are taken in the order of the fields: `queue`, `directory`, `delivery`, `events`.
pub struct Riscv {
    config: RiscvConfig,
    capabilities: Capabilities,
    sink: Arc<dyn InterruptSink>,
    memory: Arc<dyn GuestMemory>,
    /// `fctl`.
    fctl: AtomicU32,
    /// `ddtp`, read by look-ups.
    ddtp: AtomicU64,
    /// `cqh`, apart so that it can be read while the queue is worked on.
    command_head: AtomicU32,
    counters: Counters,
    debug: Mutex<Debug>,
    msi_entries: MsiEntries,
    queue: Mutex<Queue>,
    /// `ddtp` as it is being written, one half after the other.
    directory: Mutex<u64>,
    /// The wires as they were driven last. Held while interrupts are delivered, so that levels don't overtake each other.
    delivery: Apart<Mutex<u16>>,
    /// Every fault writes here.
    events: Apart<Mutex<Events>>,
}

impl Model for Riscv {
    type Config = RiscvConfig;
    type ConfigError = ConfigError;
    type RequesterId = u32;

    fn build(
        config: RiscvConfig,
        memory: Arc<dyn GuestMemory>,
        sink: Arc<dyn InterruptSink>,
    ) -> Result<(Self, Arc<dyn GuestMemory>), ConfigError> {
        let capabilities = config.capabilities()?;
        let memory = Addressable::limit(memory, config.physical_bits);
        let riscv = Self {
            capabilities,
            sink,
            memory: Arc::clone(&memory),
            fctl: AtomicU32::new(config.initial_features().into_bits()),
            ddtp: AtomicU64::new(config.initial_directory().into_bits()),
            command_head: AtomicU32::new(0),
            counters: Counters::new(config.counters),
            debug: Mutex::default(),
            msi_entries: MsiEntries::default(),
            queue: Mutex::default(),
            directory: Mutex::new(config.initial_directory().into_bits()),
            delivery: Apart::default(),
            events: Apart(Mutex::new(config.initial_events())),
            config,
        };
        Ok((riscv, memory))
    }

    fn config(&self) -> &RiscvConfig {
        &self.config
    }

    fn requester(&self, id: u32) -> Requester {
        Requester::Device(id & 0xff_ffff)
    }

    fn unrecorded_faults(&self) -> u64 {
        locked(&self.events).unrecorded
    }

    fn retain(&self) {
        self.msi_entries.retain();
    }
}

impl Riscv {
    fn fctl(&self) -> Fctl {
        Fctl::from_bits(self.fctl.load(Ordering::SeqCst))
    }

    fn ddtp(&self) -> Ddtp {
        Ddtp::from_bits(self.ddtp.load(Ordering::SeqCst))
    }

    /// Changes the reporting registers, and delivers what interrupts that causes. A message that nothing takes is a fault of its own
    /// (5.28), which at most sets one more pending bit.
    fn change<T>(&self, change: impl FnOnce(&mut Events) -> T) -> T {
        let mut wires = locked(&self.delivery);
        let mut events = locked(&self.events);
        let result = change(&mut events);
        loop {
            let messages = events.take_messages();
            let now = events.wires();
            drop(events);
            for wire in (0..16).filter(|wire| (*wires ^ now) >> wire & 1 != 0) {
                self.sink.set_wire(wire, now >> wire & 1 != 0);
            }
            *wires = now;
            let mut aborted =
                messages.into_iter().filter_map(|message| self.sink.send(message).err()).peekable();
            if aborted.peek().is_none() {
                return result;
            }
            let aborted: Vec<_> = aborted.collect();
            events = locked(&self.events);
            for undelivered in aborted {
                events.record(&*self.memory, &Events::message_fault(undelivered.address));
            }
        }
    }

    fn count(&self, event: HpmEvent, ids: Ids) {
        if self.counters.count(event, ids) {
            self.change(Events::counter_overflow);
        }
    }
}

impl Architecture for Riscv {
    type Note = Note;
    type Record = FaultRecord;

    /// Messages of devices are writes to memory, which the tables translate.
    #[inline]
    fn admit(&self, _transaction: &Transaction) -> Admission {
        Admission::Translate
    }

    fn lookup(
        &self,
        memory: &dyn GuestMemory,
        requester: Requester,
        pasid: Option<Pasid>,
        _upper: bool,
    ) -> Resolved<Note> {
        let root = Root { ddtp: self.ddtp(), fctl: self.fctl() };
        Lookup { memory, unit: self, root }.context(requester.index(), pasid)
    }

    fn format(&self, format: PagingFormat, _rules: StageRules, _nested: bool) -> Option<AnyFormat> {
        lookup::format(self.capabilities, format)
    }

    #[inline]
    fn ask(&self, transaction: &Transaction, resolved: &Resolved<Note>) -> Result<Asked, Refusal> {
        let note = &resolved.note;
        if transaction.request_type != RequestType::Untranslated && note.untranslated_only {
            return Err(Refusal::new(FaultReason::TranslatedBlocked));
        }
        // 2.3: without a process_id there is no privilege to ask for.
        let privileged = transaction.privileged && transaction.pasid.is_some();
        let mut access = transaction.access;
        if !matches!(resolved.context, Context::Blocked(_)) {
            if privileged && !note.privileged {
                return Err(Refusal::new(FaultReason::PrivilegeDenied));
            }
            // 3.2, TTYP: what fetches is a read for execute, and needs both.
            access.set(Access::READ, access.intersects(Access::READ | Access::EXECUTE));
        }
        Ok(Asked { input: transaction.address, access, privileged, any: false })
    }

    #[inline(always)]
    fn redirect(
        &self,
        memory: &dyn GuestMemory,
        resolved: &Resolved<Note>,
        ipa: Ipa,
        access: Access,
    ) -> Option<Result<PageTranslation, Refusal>> {
        let table = resolved.note.msi.as_ref()?;
        self.interrupt_page(memory, table, ipa, access)
    }

    fn redirected(&self, resolved: &Resolved<Note>) -> Block {
        resolved.note.msi.as_ref().map_or(Block::NONE, MsiTable::addresses)
    }

    fn access_file(
        &self,
        memory: &dyn GuestMemory,
        transaction: &Transaction,
        refusal: Refusal,
        data: Option<&[u8]>,
    ) -> Result<(), Refusal> {
        self.access_interrupt_file(memory, transaction, refusal, data)
    }

    fn message(&self, message: Message) -> Result<(), Undelivered> {
        self.sink.send(message)
    }

    fn forget_interrupts(&self, _scope: &InterruptScope) {
        self.msi_entries.forget(None, None);
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

    /// Addresses are not looked at.
    fn is_plain(&self, _resolved: &Resolved<Note>) -> bool {
        true
    }

    #[inline]
    fn is_counting(&self) -> bool {
        self.counters.are_counting()
    }

    #[inline]
    fn count(&self, event: Event, transaction: &Transaction, tags: Option<Tags>) {
        let ids = Ids::of(transaction.requester.index(), transaction.pasid).with_tags(tags);
        let event = match event {
            Event::Request => match transaction.request_type {
                RequestType::Untranslated => HpmEvent::UntranslatedRequests,
                RequestType::Translated => HpmEvent::TranslatedRequests,
                RequestType::TranslationRequest => HpmEvent::TranslationRequests,
            },
            Event::CacheMiss => HpmEvent::TlbMiss,
            Event::FirstStageWalk => HpmEvent::FirstStageWalks,
            Event::SecondStageWalk => HpmEvent::SecondStageWalks,
        };
        self.count(event, ids);
    }

    fn fault(
        &self,
        transaction: &Transaction,
        resolved: Option<&Resolved<Note>>,
        refusal: Refusal,
    ) -> Report<FaultRecord> {
        let note = resolved.map(|resolved| &resolved.note);
        let (cause, iotval2) = cause::cause(transaction, note, refusal);
        let fault = Fault {
            requester: transaction.requester,
            pasid: transaction.pasid,
            address: transaction.address,
            ipa: None,
            access: transaction.access,
            privileged: transaction.privileged && transaction.pasid.is_some(),
            request_type: transaction.request_type,
            reason: cause.reason(),
            stage: None,
            code: cause.encode().into(),
        };
        let record = FaultRecord::from_fault(&fault, iotval2);
        // What the record says is what the device's side is told.
        let fault = record.to_fault().map_or(fault, |told| Fault { access: transaction.access, ..told });
        let recorded = cause.reported_with_dtf() || !note.is_some_and(|note| note.dtf);
        Report { fault, record: recorded.then_some(record), outcome: Outcome::Abort }
    }

    fn record(&self, memory: &dyn GuestMemory, record: &FaultRecord) {
        self.change(|events| events.record(memory, record));
    }
}
