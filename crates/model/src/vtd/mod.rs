//! Intel VT-d.
//!
//! [`VtdUnit`] is the device: registers on one side, [ports](crate::Port) for devices on the other. Its parts: what it has
//! ([`config`]), the look-up from tables to context (`lookup`), the register file (`registers`), the invalidation queue
//! (`queue`), interrupt remapping (`interrupts`), faults and events (`events`).

pub mod config;
mod events;
mod interrupts;
mod lookup;
mod queue;
mod reason;
mod registers;
mod state;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use portcullis_pagetable::{AnyFormat, format};
use portcullis_spec::vtd::fault::FaultRecord;
use portcullis_spec::vtd::registers::{Cap, Ecap, Rtaddr, Ver};
use portcullis_spec::vtd::{INTERRUPT_ADDRESS_FIRST, VtdFaultReason, is_interrupt_address};
use portcullis_spec::{
    Access, Context, Fault, FaultReason, InterruptScope, PagingFormat, Pasid, PciAddress, PhysAddr,
    RequestType, Requester, StageRules, Transaction,
};

use crate::contexts::Resolved;
use crate::engine::{Admission, Architecture, Asked, Outcome, Report};
use crate::interrupt::{InterruptSink, Message};
use crate::memory::GuestMemory;
use crate::plain::{Block, Special};
use crate::port::Port;
use crate::refusal::{Detail, Refusal};
use crate::state::locked;
use crate::sync::Apart;
use crate::unit::{Model, Unit};
use config::{ConfigError, VtdConfig};
use events::Events;
use interrupts::Interrupts;
use lookup::{Capabilities, Root};
pub use lookup::{Mode, Note};
use queue::Queue;
use registers::{Control, Protection};
pub use state::VtdState;

/// A VT-d remapping hardware unit. After reset translation is off and all DMA passes, as VT-d wants it.
pub type VtdUnit = Unit<Vtd>;

/// A device's way to memory through a VT-d unit.
pub type VtdPort = Port<Vtd>;

/// The architecture's part of a unit.
pub struct Vtd {
    config: VtdConfig,
    ver: Ver,
    unit: Capabilities,
    sink: Arc<dyn InterruptSink>,
    /// GSTS.TES, read by look-ups.
    enabled: AtomicBool,
    /// The root table address that was set last, read by look-ups.
    rtaddr: AtomicU64,
    /// What the protected regions protect, read by translations that pass.
    protection: RwLock<Protection>,
    interrupts: Interrupts,
    control: Mutex<Control>,
    /// Every fault writes here.
    events: Apart<Mutex<Events>>,
    queue: Mutex<Queue>,
    /// IQH_REG, apart so that it can be read while the queue is worked on.
    queue_head: AtomicU64,
}

impl Model for Vtd {
    type Config = VtdConfig;
    type ConfigError = ConfigError;
    type RequesterId = u16;

    fn build(
        config: VtdConfig,
        memory: Arc<dyn GuestMemory>,
        sink: Arc<dyn InterruptSink>,
    ) -> Result<(Self, Arc<dyn GuestMemory>), ConfigError> {
        let (ver, cap, ecap) = config.registers()?;
        let haw = config.host_address_bits;
        let vtd = Self {
            ver,
            unit: Capabilities { haw, cap, ecap },
            sink,
            enabled: AtomicBool::new(false),
            rtaddr: AtomicU64::new(0),
            protection: RwLock::default(),
            interrupts: Interrupts::default(),
            control: Mutex::default(),
            events: Apart(Mutex::new(Events::new(config.fault_records))),
            queue: Mutex::default(),
            queue_head: AtomicU64::new(0),
            config,
        };
        Ok((vtd, memory))
    }

    fn config(&self) -> &VtdConfig {
        &self.config
    }

    fn requester(&self, id: u16) -> Requester {
        PciAddress { segment: self.config.segment, requester_id: id }.into()
    }

    fn unrecorded_faults(&self) -> u64 {
        locked(&self.events).unrecorded()
    }
}

impl Vtd {
    const fn cap(&self) -> Cap {
        self.unit.cap
    }

    const fn ecap(&self) -> Ecap {
        self.unit.ecap
    }

    /// The report on a refused interrupt request: what the device's side is told is what the record holds.
    fn report(&self, transaction: &Transaction, record: FaultRecord, fpd: bool) -> Report<FaultRecord> {
        let told = record.to_fault(self.config.segment).unwrap_or(Fault {
            requester: transaction.requester,
            pasid: None,
            address: transaction.address,
            ipa: None,
            access: transaction.access,
            privileged: false,
            request_type: transaction.request_type,
            reason: FaultReason::InterruptBlocked,
            stage: None,
            code: 0,
        });
        Report { fault: told, record: (!fpd).then_some(record), outcome: Outcome::Abort }
    }

    /// Sends a message, outside of every lock. Of a write that was aborted VT-d tells nobody.
    fn send(&self, message: Option<Message>) {
        if let Some(message) = message {
            let _ = self.sink.send(message);
        }
    }

    /// Whether a request is without PASID and goes to the interrupt address range, where nothing is translated
    /// (VT-d 3.15).
    #[inline]
    fn is_interrupt(transaction: &Transaction) -> bool {
        transaction.pasid.is_none() && is_interrupt_address(transaction.address.0)
    }
}

impl Architecture for Vtd {
    type Note = Note;
    type Record = FaultRecord;

    const SPECIAL: Special = {
        let interrupts = Block::around(INTERRUPT_ADDRESS_FIRST, 20);
        Special { input: interrupts, output: interrupts }
    };

    #[inline]
    fn admit(&self, transaction: &Transaction) -> Admission {
        if !Self::is_interrupt(transaction) {
            return Admission::Translate;
        }
        let is_message = transaction.access == Access::WRITE
            && transaction.length == 4
            && transaction.address.is_aligned(4)
            && transaction.request_type == RequestType::Untranslated;
        if is_message {
            return Admission::Interrupt;
        }
        // Remapping is what looks at requests: without it nothing is recorded.
        let judged = self.interrupts.enabled() && transaction.request_type == RequestType::Untranslated;
        let detail = if judged { Detail::None } else { Detail::Silent };
        Admission::Refused(Refusal { detail, ..Refusal::new(FaultReason::InterruptBlocked) })
    }

    fn lookup(
        &self,
        memory: &dyn GuestMemory,
        requester: Requester,
        pasid: Option<Pasid>,
        _upper: bool,
    ) -> Resolved<Note> {
        let root = Root {
            enabled: self.enabled.load(Ordering::SeqCst),
            rtaddr: Rtaddr::from_bits(self.rtaddr.load(Ordering::SeqCst)),
        };
        lookup::lookup(memory, &self.unit, root, requester.index() as u16, pasid)
    }

    fn format(&self, format: PagingFormat, rules: StageRules, nested: bool) -> Option<AnyFormat> {
        let Capabilities { haw, cap, ecap } = self.unit;
        let flags = StageRules::SET_ACCESSED | StageRules::ACCESSED_REQUIRED;
        Some(match format {
            PagingFormat::VtdSecondStage { levels } => AnyFormat::VtdSecondStage(format::VtdSecondStage {
                levels,
                pages_2m: cap.sslps() & 1 != 0,
                pages_1g: cap.sslps() & 2 != 0,
                snoop: ecap.sc(),
                transient: false,
                accessed_dirty: rules.intersects(flags),
                host_bits: haw,
            }),
            PagingFormat::X86 { levels } => AnyFormat::X86(format::X86 {
                levels,
                pages_1g: cap.fs1gp(),
                // XD is ignored since revision 4, not reserved: execute requests are gone.
                execute_disable: true,
                extended_accessed: rules.contains(StageRules::SET_EXTENDED_ACCESSED),
                canonical: true,
                // A nested first stage leads to guest addresses, which the second stage judges (SFS.5, SGN.5).
                host_bits: if nested { 52 } else { haw },
            }),
            _ => return None,
        })
    }

    #[inline]
    fn ask(&self, transaction: &Transaction, resolved: &Resolved<Note>) -> Result<Asked, Refusal> {
        let note = &resolved.note;
        let input = transaction.address;
        let mut access = transaction.access;
        if matches!(resolved.context, Context::Blocked(_)) {
            return Ok(Asked { input, access, privileged: false, any: false });
        }
        if transaction.request_type != RequestType::Untranslated {
            return Err(Refusal::new(FaultReason::TranslatedBlocked));
        }
        let with_pasid = transaction.pasid.is_some();
        if access.contains(Access::EXECUTE) {
            if with_pasid {
                return Err(Refusal::new(FaultReason::RequestBlocked));
            }
            // A request without PASID has no way to say that it fetches.
            access = (access - Access::EXECUTE) | Access::READ;
        }
        let privileged = if with_pasid { transaction.privileged } else { note.rid_priv };
        if privileged && note.first_stage && !note.sre {
            return Err(Refusal::new(FaultReason::PrivilegeDenied));
        }
        let any = transaction.length == 0 && access == Access::READ && self.cap().zlr();
        Ok(Asked { input, access, privileged, any })
    }

    #[inline]
    fn accept(
        &self,
        _transaction: &Transaction,
        resolved: &Resolved<Note>,
        output: PhysAddr,
        bytes: u64,
    ) -> Result<(), Refusal> {
        let note = &resolved.note;
        if note.mode != Mode::Disabled && is_interrupt_address(output.0) {
            return Err(Refusal::new(FaultReason::ReservedRange));
        }
        if note.passes && self.protects(output, bytes) {
            // VT-d 11.4.8.1: not recorded or reported as a fault.
            return Err(Refusal { detail: Detail::Silent, ..Refusal::new(FaultReason::ReservedRange) });
        }
        Ok(())
    }

    /// Where regions may be protected, any address may matter.
    fn is_plain(&self, resolved: &Resolved<Note>) -> bool {
        !resolved.note.passes
    }

    #[inline]
    fn caches_refusals(&self) -> bool {
        self.cap().cm()
    }

    fn fault(
        &self,
        transaction: &Transaction,
        resolved: Option<&Resolved<Note>>,
        refusal: Refusal,
    ) -> Report<FaultRecord> {
        if refusal.reason == FaultReason::InterruptBlocked && refusal.detail != Detail::Silent {
            let source = transaction.requester.index() as u16;
            let record = FaultRecord::interrupt(source, VtdFaultReason::InterruptRequestInvalid, 0);
            return self.report(transaction, record, false);
        }
        let code = reason::reason(transaction, resolved.map(|resolved| &resolved.note), refusal);
        let fpd = resolved.is_some_and(|resolved| resolved.note.fpd);
        let fault = Fault {
            requester: transaction.requester,
            pasid: transaction.pasid,
            address: transaction.address.align_down(0x1000),
            ipa: refusal.ipa,
            access: transaction.access,
            privileged: transaction.privileged,
            request_type: transaction.request_type,
            reason: code.map_or(refusal.reason, VtdFaultReason::neutral),
            stage: code.map_or(refusal.stage, VtdFaultReason::stage),
            code: code.map_or(0, |code| code.code().into()),
        };
        let recorded = code.is_some_and(|code| !(fpd && code.is_qualified()));
        let record = if recorded { FaultRecord::from_fault(&fault) } else { None };
        Report { fault, record, outcome: Outcome::Abort }
    }

    fn record(&self, _memory: &dyn GuestMemory, record: &FaultRecord) {
        let message = locked(&self.events).record(*record, self.config.collapse_faults);
        self.send(message);
    }

    fn remap(
        &self,
        memory: &dyn GuestMemory,
        transaction: &Transaction,
        data: u32,
    ) -> Result<Message, Report<FaultRecord>> {
        let source = transaction.requester.index() as u16;
        let remapped = self.interrupts.remap(memory, &self.unit, source, transaction.address.0, data);
        let (address, data) = remapped.map_err(|stop| {
            let record = FaultRecord::interrupt(source, stop.reason, stop.index);
            self.report(transaction, record, stop.fpd)
        })?;
        Ok(Message { source: Some(transaction.requester), address, data })
    }

    fn deliver(&self, message: Message) {
        self.send(Some(message));
    }

    fn forget_interrupts(&self, scope: &InterruptScope) {
        self.interrupts.forget(scope);
    }
}
