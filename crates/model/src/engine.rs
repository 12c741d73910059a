//! The way of a transaction through a unit, the same for every architecture: guard, context, translation, memory, fault.

use std::sync::Arc;

use portcullis_pagetable::AnyFormat;
use portcullis_spec::{
    Access, Context, ContextScope, Fault, FaultReason, Invalidation, Iova, PagingFormat, Pasid, PhysAddr,
    Requester, StageNumber, StageRules, Tags, Transaction, Translation, TranslationScope,
};

use crate::contexts::{Cached, Contexts, Resolved, Sender};
use crate::gate::Gate;
use crate::memory::{GuestMemory, MemoryError};
use crate::refusal::Refusal;
use crate::space::{Budget, Generation, SpaceKey};
use crate::translate::{FormattedStage, PageTranslation, Request, Stages, translate};

/// Contexts that a unit caches at most.
const CONTEXT_LIMIT: usize = 1 << 16;
/// Translations that a unit caches at most.
const TRANSLATION_LIMIT: usize = 1 << 20;

/// What an architecture makes of a transaction before any table is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admission {
    /// Its requester is looked up.
    Translate,
    /// It is an interrupt request: a 32-bit write that never reaches memory.
    Interrupt,
    /// It is refused; silently where the architecture's record says so.
    Refused(Refusal),
}

/// What a transaction asks of the tables once its context is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asked {
    /// The address that is translated: the transaction's, without the bits that the context ignores.
    pub input: Iova,
    /// What must be permitted.
    pub access: Access,
    /// Whether with privileged rights.
    pub privileged: bool,
    /// Whether it is enough that anything is permitted.
    pub any: bool,
}

/// What becomes of a refused transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The device is told that it failed.
    Abort,
    /// The device is told that it is done: reads give zeros, and writes are dropped (Arm RAZ/WI).
    ZeroAndIgnore,
    /// It is held until software says what becomes of it (Arm stall).
    Hold,
}

/// What software decided about a held transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Release {
    /// It is tried again, as if it had just come.
    Retry,
    /// It ends like this; [`Outcome::Hold`] is an abort here.
    End(Outcome),
}

/// A refusal: what the device's side is told, and what the architecture records of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Report<R> {
    /// What the device's side is told.
    pub fault: Fault,
    /// What the architecture records and signals, if anything.
    pub record: Option<R>,
    /// What becomes of the transaction.
    pub outcome: Outcome,
}

/// What happens on a transaction's way, for units that count it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A transaction came.
    Request,
    /// No cached translation served it.
    CacheMiss,
    /// The first stage's tables were walked.
    FirstStageWalk,
    /// The second stage's tables were walked.
    SecondStageWalk,
}

/// What an architecture supplies: from tables to [`Context`], and from a refusal to its own codes and records.
///
/// All but [`record`](Self::record) and [`interrupt`](Self::interrupt) are called inside the guard: they are short, take
/// no lock that is held while draining, and wait for nothing.
pub trait Architecture: Send + Sync + 'static {
    /// What a look-up remembers beside its context.
    type Note: Copy + Send + Sync + 'static;

    /// What is recorded of a fault.
    type Record: Copy + Send + 'static;

    /// Whether an address lies in the upper half of an address space whose halves have tables of their own (Arm TTB1). The
    /// halves are looked up apart.
    fn is_upper(&self, _address: Iova) -> bool {
        false
    }

    /// What to do with a transaction before any table is read.
    fn admit(&self, transaction: &Transaction) -> Admission;

    /// Reads the tables that lead from a requester to its context, for addresses of one half.
    fn lookup(
        &self,
        memory: &dyn GuestMemory,
        requester: Requester,
        pasid: Option<Pasid>,
        upper: bool,
    ) -> Resolved<Self::Note>;

    /// The page-table format of a stage with what the unit's capabilities decide, or `None` where the unit lacks it.
    /// `nested` says that it is the first of two stages.
    fn format(&self, format: PagingFormat, rules: StageRules, nested: bool) -> Option<AnyFormat>;

    /// What the transaction asks under the context found.
    ///
    /// # Errors
    /// Where the context refuses it whatever the tables say.
    fn ask(&self, transaction: &Transaction, resolved: &Resolved<Self::Note>) -> Result<Asked, Refusal>;

    /// Whether the transaction may reach the memory that it was translated to.
    ///
    /// # Errors
    /// Where it may not.
    fn accept(
        &self,
        transaction: &Transaction,
        resolved: &Resolved<Self::Note>,
        output: PhysAddr,
        bytes: u64,
    ) -> Result<(), Refusal>;

    /// Something that the unit may count happened to a transaction; `tags` are its context's, once that is known.
    fn count(&self, _event: Event, _transaction: &Transaction, _tags: Option<Tags>) {}

    /// Whether a refusal by second-stage tables may be cached (caching mode).
    fn caches_refusals(&self) -> bool {
        false
    }

    /// The fault for a refusal, with the architecture's code. `resolved` is absent where the refusal came before the
    /// look-up.
    fn fault(
        &self,
        transaction: &Transaction,
        resolved: Option<&Resolved<Self::Note>>,
        refusal: Refusal,
    ) -> Report<Self::Record>;

    /// Records a fault and signals it. Called outside of the guard.
    fn record(&self, memory: &dyn GuestMemory, record: &Self::Record);

    /// Records a held transaction's fault, and waits until software has decided. Called outside of the guard.
    fn hold(&self, memory: &dyn GuestMemory, record: &Self::Record) -> Release {
        self.record(memory, record);
        Release::End(Outcome::Abort)
    }

    /// Delivers an interrupt request of a device. Called outside of the guard.
    ///
    /// # Errors
    /// Where it is blocked.
    fn interrupt(&self, transaction: &Transaction, data: u32) -> Result<(), Report<Self::Record>>;
}

/// Why a device's access did not happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AccessError {
    /// The unit refused it.
    #[error("refused: {:?}, code {:#x}", .0.reason, .0.code)]
    Refused(Fault),
    /// The unit let it pass, and there is no memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

impl AccessError {
    /// The fault, where the unit refused.
    #[must_use]
    pub const fn fault(&self) -> Option<&Fault> {
        match self {
            Self::Refused(fault) => Some(fault),
            Self::Memory(_) => None,
        }
    }
}

/// The common part of a unit: caches, drain, memory.
pub struct Engine<A: Architecture> {
    /// The architecture.
    pub architecture: A,
    memory: Arc<dyn GuestMemory>,
    gate: Gate,
    generation: Generation,
    contexts: Contexts<A::Note>,
    budget: Budget,
}

/// What became of an access that did not fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Done {
    /// Its bytes were moved.
    Moved,
    /// Nothing was moved: a read gives zeros, a write is dropped.
    ZeroAndIgnore,
}

/// A transaction that may reach memory.
struct Passed {
    page: PageTranslation,
    output: PhysAddr,
    asked: Asked,
}

impl<A: Architecture> Engine<A> {
    /// A unit with empty caches.
    pub fn new(architecture: A, memory: Arc<dyn GuestMemory>) -> Self {
        Self {
            architecture,
            memory,
            gate: Gate::default(),
            generation: Generation::default(),
            contexts: Contexts::new(CONTEXT_LIMIT),
            budget: Budget::new(TRANSLATION_LIMIT),
        }
    }

    /// The memory.
    pub fn memory(&self) -> &dyn GuestMemory {
        &*self.memory
    }

    /// A shard of the gate for a new port.
    pub(crate) fn assign_shard(&self) -> usize {
        self.gate.assign()
    }

    /// Forgets what `invalidation` names. Device threads may use it until [`drain`](Self::drain) returns.
    pub fn invalidate(&self, invalidation: &Invalidation) {
        self.generation.advance();
        match invalidation {
            Invalidation::Everything => {
                self.contexts.invalidate(&ContextScope::All);
                self.contexts.invalidate_translations(&TranslationScope::default(), &self.budget);
            }
            Invalidation::Contexts(scope) => self.contexts.invalidate(scope),
            Invalidation::Translations(scope) => self.contexts.invalidate_translations(scope, &self.budget),
            Invalidation::Interrupts(_) => {}
        }
    }

    /// Waits until no device thread uses, or can still keep, anything that was invalidated before.
    pub fn drain(&self) {
        self.gate.drain();
    }

    /// Does something inside the guard, as a transaction is done: short, and waiting for nothing.
    pub(crate) fn guarded<R>(&self, something: impl FnOnce() -> R) -> R {
        let _guard = self.gate.enter(0);
        something()
    }

    /// Translates the first byte of a transaction.
    ///
    /// # Errors
    /// The fault, which is also recorded if the architecture records it, and whatever becomes of the transaction.
    pub fn translate(&self, shard: usize, transaction: &Transaction) -> Result<Translation, Fault> {
        loop {
            let guard = self.gate.enter(shard);
            let passed = self.pass(transaction, 1);
            drop(guard);
            let report = match passed {
                Ok(passed) => {
                    return Ok(Translation {
                        address: passed.output,
                        page_shift: passed.page.shift,
                        access: passed.page.access(passed.asked.privileged),
                        attributes: passed.page.attributes,
                    });
                }
                Err(report) => report,
            };
            if let Release::End(_) = self.settle(&report) {
                return Err(report.fault);
            }
        }
    }

    /// Does one access that does not cross a 4 KiB boundary: `touch` moves the bytes, inside the guard.
    pub(crate) fn access(
        &self,
        shard: usize,
        transaction: &Transaction,
        mut touch: impl FnMut(&dyn GuestMemory, PhysAddr) -> Result<(), MemoryError>,
    ) -> Result<Done, AccessError> {
        loop {
            let guard = self.gate.enter(shard);
            let report = match self.pass(transaction, transaction.length) {
                Ok(passed) => {
                    touch(&*self.memory, passed.output)?;
                    return Ok(Done::Moved);
                }
                Err(report) => report,
            };
            drop(guard);
            match self.settle(&report) {
                Release::Retry => {}
                Release::End(Outcome::ZeroAndIgnore) => return Ok(Done::ZeroAndIgnore),
                Release::End(Outcome::Abort | Outcome::Hold) => {
                    return Err(AccessError::Refused(report.fault));
                }
            }
        }
    }

    /// What to do with a transaction before any table is read.
    pub(crate) fn admit(&self, transaction: &Transaction) -> Admission {
        self.architecture.admit(transaction)
    }

    /// Delivers an interrupt request of a device.
    pub(crate) fn interrupt(&self, transaction: &Transaction, data: u32) -> Result<(), AccessError> {
        self.architecture.interrupt(transaction, data).map_err(|report| self.refuse(&report))
    }

    /// Refuses a transaction for a reason that needs no table.
    pub(crate) fn refuse_outright(&self, transaction: &Transaction, refusal: Refusal) -> AccessError {
        self.refuse(&self.architecture.fault(transaction, None, refusal))
    }

    fn refuse(&self, report: &Report<A::Record>) -> AccessError {
        if let Some(record) = &report.record {
            self.architecture.record(self.memory(), record);
        }
        AccessError::Refused(report.fault)
    }

    /// Records a refusal and finds out what becomes of the transaction.
    fn settle(&self, report: &Report<A::Record>) -> Release {
        match (&report.record, report.outcome) {
            (Some(record), Outcome::Hold) => self.architecture.hold(self.memory(), record),
            (Some(record), outcome) => {
                self.architecture.record(self.memory(), record);
                Release::End(outcome)
            }
            (None, outcome) => Release::End(outcome),
        }
    }

    fn pass(&self, transaction: &Transaction, bytes: u64) -> Result<Passed, Report<A::Record>> {
        let architecture = &self.architecture;
        architecture.count(Event::Request, transaction, None);
        match architecture.admit(transaction) {
            Admission::Translate => {}
            Admission::Interrupt => {
                let refusal = Refusal::new(FaultReason::InterruptBlocked);
                return Err(architecture.fault(transaction, None, refusal));
            }
            Admission::Refused(refusal) => return Err(architecture.fault(transaction, None, refusal)),
        }
        let upper = architecture.is_upper(transaction.address);
        let cached = self.context(transaction.requester, transaction.pasid, upper);
        let resolved = &cached.resolved;
        let fault = |refusal| architecture.fault(transaction, Some(resolved), refusal);
        let asked = architecture.ask(transaction, resolved).map_err(fault)?;
        let page = self.page(&cached, transaction, asked).map_err(fault)?;
        let output = page.address(asked.input.0);
        architecture.accept(transaction, resolved, output, bytes).map_err(fault)?;
        Ok(Passed { page, output, asked })
    }

    /// The context of a requester and PASID, from the cache or from the architecture's tables.
    fn context(&self, requester: Requester, pasid: Option<Pasid>, upper: bool) -> Arc<Cached<A::Note>> {
        let key = Sender { requester, pasid, upper };
        if let Some(cached) = self.contexts.find(key) {
            return cached;
        }
        let generation = self.generation.read();
        let mut resolved = self.architecture.lookup(self.memory(), requester, pasid, upper);
        let space = match self.stages(&resolved.context) {
            Ok(Some(key)) => Some(self.contexts.space(key, &self.budget)),
            Ok(None) => None,
            Err(NoFormat) => {
                resolved.context = Context::Blocked(Some(FaultReason::Internal));
                resolved.cacheable = false;
                None
            }
        };
        let cacheable = resolved.cacheable;
        let cached = Arc::new(Cached { resolved, space });
        if cacheable {
            self.contexts.fill(key, &cached, generation, &self.generation);
        }
        cached
    }

    fn stages(&self, context: &Context) -> Result<Option<SpaceKey>, NoFormat> {
        let format = |format, rules, nested| self.architecture.format(format, rules, nested).ok_or(NoFormat);
        Ok(match *context {
            Context::Blocked(_) | Context::Bypass { .. } => None,
            Context::OneStage { tags, stage, number } => {
                let only = FormattedStage { stage, format: format(stage.format, stage.rules, false)? };
                Some(SpaceKey { tags, stages: Stages::One { only, number } })
            }
            Context::TwoStages { tags, first, second } => Some(SpaceKey {
                tags,
                stages: Stages::Two {
                    first: FormattedStage { stage: first, format: format(first.format, first.rules, true)? },
                    second: FormattedStage {
                        stage: second,
                        format: format(second.format, second.rules, false)?,
                    },
                },
            }),
        })
    }

    fn page(
        &self,
        cached: &Cached<A::Note>,
        transaction: &Transaction,
        asked: Asked,
    ) -> Result<PageTranslation, Refusal> {
        let Asked { input, access, privileged, any } = asked;
        match (&cached.resolved.context, &cached.space) {
            (Context::Blocked(reason), _) => Err(Refusal::new(reason.unwrap_or(FaultReason::RequestBlocked))),
            (Context::Bypass { access: permitted, output_bits, attributes, .. }, _) => {
                let address = input.0;
                if *output_bits < 64 && address >> output_bits != 0 {
                    return Err(Refusal::new(FaultReason::AddressSize));
                }
                if !permitted.contains(access) {
                    return Err(Refusal::new(FaultReason::PermissionDenied));
                }
                Ok(PageTranslation {
                    base: PhysAddr(address & !0xfff),
                    shift: 12,
                    user: *permitted,
                    privileged: *permitted,
                    dirty: true,
                    attributes: *attributes,
                })
            }
            (_, Some(space)) => {
                let request = Request { access, privileged, any, table: false };
                if let Some(answer) = space.find(input, request) {
                    return answer;
                }
                let stages = &space.key.stages;
                let count = |event| self.architecture.count(event, transaction, Some(space.key.tags));
                count(Event::CacheMiss);
                if stages.has(StageNumber::First) {
                    count(Event::FirstStageWalk);
                }
                if stages.has(StageNumber::Second) {
                    count(Event::SecondStageWalk);
                }
                let generation = self.generation.read();
                let answer = translate(self.memory(), &space.key.stages, input, request);
                let keep = match &answer {
                    Ok(_) => true,
                    Err(refusal) => {
                        self.architecture.caches_refusals() && may_be_kept(&space.key.stages, refusal)
                    }
                };
                if keep {
                    space.fill(input, answer, generation, &self.generation, &self.budget);
                }
                answer
            }
            // A context with tables has a space; without one nothing is permitted.
            (_, None) => Err(Refusal::new(FaultReason::Internal)),
        }
    }
}

/// The unit has no such table format.
struct NoFormat;

/// In caching mode, what a second stage alone does not map may be kept; what a first stage refuses may not.
fn may_be_kept(stages: &Stages, refusal: &Refusal) -> bool {
    matches!(stages, Stages::One { number: StageNumber::Second, .. })
        && refusal.reason == FaultReason::NotMapped
}
