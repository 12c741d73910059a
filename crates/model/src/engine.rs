//! The way of a transaction through a unit, the same for every architecture: guard, context, translation, memory, fault.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use portcullis_pagetable::AnyFormat;
use portcullis_spec::{
    Access, Context, ContextScope, Fault, FaultReason, FirstStage, InterruptScope, Invalidation, Iova, Ipa,
    PagingFormat, Pasid, PhysAddr, RequestType, Requester, StageNumber, StageRules, Tags, Transaction,
    Translation, TranslationScope,
};

use crate::budget::Budget;
use crate::contexts::{Binding, Cached, Contexts, Resolved, Sender, Spaces, Tables};
use crate::fast::Reached;
use crate::gate::{Gate, Presence};
use crate::interrupt::{Message, Undelivered};
use crate::memory::{GuestMemory, MemoryError};
use crate::pattern::Guess;
use crate::pin::{Pin, Pins, TooManyPins};
use crate::plain::{Block, Plain, Special};
use crate::refusal::{Detail, Refusal};
use crate::space::{Space, SpaceKey};
use crate::translate::{FormattedStage, PageTranslation, Request, Stages};

/// Slots that the leaf caches of a unit take at most: 256 MiB, for 64 TiB.
const SLOT_LIMIT: usize = 1 << 25;

/// An interrupt request of which whoever asked can make nothing: nobody was interrupted, and nothing is recorded.
const NO_INTERRUPT: Refusal =
    Refusal { detail: Detail::Silent, ..Refusal::new(FaultReason::InterruptBlocked) };

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
/// All but [`record`](Self::record), [`hold`](Self::hold) and [`deliver`](Self::deliver) are called inside the guard: they are short, take
/// no lock that is held while draining, and wait for nothing.
pub trait Architecture: Send + Sync + 'static {
    /// What a look-up remembers beside its context.
    type Note: Copy + Send + Sync + 'static;

    /// What is recorded of a fault.
    type Record: Copy + Send + 'static;

    /// Addresses to which [`is_plain`](Self::is_plain) does not apply.
    const SPECIAL: Special = Special::NONE;

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

    /// Where an address between the stages leads that has a table of its own instead of the second stage (RISC-V MSI page
    /// tables). `None` for all others.
    #[inline(always)]
    fn redirect(
        &self,
        _memory: &dyn GuestMemory,
        _resolved: &Resolved<Self::Note>,
        _ipa: Ipa,
        _access: Access,
    ) -> Option<Result<PageTranslation, Refusal>> {
        None
    }

    /// The addresses of which [`redirect`](Self::redirect) says something, and perhaps more.
    fn redirected(&self, _resolved: &Resolved<Self::Note>) -> Block {
        Block::NONE
    }

    /// Does a transaction to the page of an interrupt file that [`redirect`](Self::redirect) refused with
    /// [`Detail::InterruptFile`]. `data` are the bytes of a write. A read gives zeros.
    ///
    /// # Errors
    /// Where it is refused.
    fn access_file(
        &self,
        _memory: &dyn GuestMemory,
        _transaction: &Transaction,
        refusal: Refusal,
        _data: Option<&[u8]>,
    ) -> Result<(), Refusal> {
        Err(refusal)
    }

    /// Takes a device's 32-bit write that was translated to where there is no memory, for an interrupt controller may be
    /// there. Called inside the guard: whoever invalidates waits until it is delivered.
    ///
    /// # Errors
    /// Where nothing takes it.
    fn message(&self, message: Message) -> Result<(), Undelivered> {
        Err(Undelivered { address: message.address })
    }

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

    /// Whether requests under a context are plain: untranslated ones for addresses that the tables reach, and that neither ask for nor
    /// lead to one that is [special](Self::SPECIAL), are all admitted, [asked](Self::ask) for and [accepted](Self::accept) alike, if their
    /// access and privilege are the same, whatever their address, which is also their input, and their length, unless that is 0.
    fn is_plain(&self, resolved: &Resolved<Self::Note>) -> bool;

    /// Whether [`count`](Self::count) wants to know of requests that cached translations serve.
    fn is_counting(&self) -> bool {
        false
    }

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

    /// The message that an interrupt request of a device comes to. An architecture that [admits](Self::admit) none has nothing to say
    /// here.
    ///
    /// # Errors
    /// Where it is blocked.
    fn remap(
        &self,
        _memory: &dyn GuestMemory,
        transaction: &Transaction,
        _data: u32,
    ) -> Result<Message, Report<Self::Record>> {
        Err(self.fault(transaction, None, Refusal::new(FaultReason::Internal)))
    }

    /// Delivers the message that [`remap`](Self::remap) gave. Called outside of the guard; a drain waits for it all the same.
    fn deliver(&self, _message: Message) {}

    /// Forgets interrupt entries, where the unit keeps any.
    fn forget_interrupts(&self, _scope: &InterruptScope) {}
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
    /// An atomic operation's address is not a multiple of its width. The unit was not asked.
    #[error("atomic operation on the misaligned address {address}")]
    Misaligned {
        /// First byte.
        address: Iova,
    },
}

impl AccessError {
    /// The fault, where the unit refused.
    #[must_use]
    pub const fn fault(&self) -> Option<&Fault> {
        match self {
            Self::Refused(fault) => Some(fault),
            Self::Memory(_) | Self::Misaligned { .. } => None,
        }
    }
}

/// The common part of a unit: caches, drain, memory.
pub struct Engine<A: Architecture> {
    /// The architecture.
    pub architecture: A,
    memory: Arc<dyn GuestMemory>,
    gate: Gate,
    pins: Pins,
    contexts: Contexts<A::Note>,
    spaces: Spaces,
    retaining: AtomicBool,
}

/// A thread's presence in a unit, and what it finds there.
pub(crate) struct Inside<'a> {
    pub(crate) presence: Presence<'a>,
    pub(crate) gate: &'a Gate,
    pub(crate) memory: &'a dyn GuestMemory,
    /// The patterns that the last entries had, of the first or only stage and of a second.
    pub(crate) guesses: [Guess; 2],
}

/// A transaction that does not reach memory.
pub(crate) enum Stop<R> {
    /// It is an interrupt request.
    Interrupt,
    /// It reaches an interrupt file in memory; the report is for who can't let it.
    File {
        /// What [`Architecture::access_file`] takes.
        refusal: Refusal,
        /// What is reported where it is refused.
        report: Report<R>,
    },
    /// It is refused.
    Refused(Report<R>),
}

impl<A: Architecture> Engine<A> {
    /// A unit with empty caches.
    pub fn new(architecture: A, memory: Arc<dyn GuestMemory>) -> Self {
        Self {
            architecture,
            memory,
            gate: Gate::default(),
            pins: Pins::default(),
            contexts: Contexts::default(),
            spaces: Spaces::new(Budget::new(SLOT_LIMIT), A::SPECIAL.input),
            retaining: AtomicBool::new(false),
        }
    }

    /// From now on, keeps whole translations in spaces that no context has led to yet, until they are invalidated, as
    /// hardware may: slower, and what software forgets to invalidate shows. To be called before devices are at work.
    pub fn retain_translations(&self) {
        self.retaining.store(true, Ordering::Relaxed);
    }

    /// The memory.
    pub fn memory(&self) -> &dyn GuestMemory {
        &*self.memory
    }

    /// Enters the unit: nothing that is found from now on is taken away before the presence ends.
    #[inline(always)]
    pub(crate) fn enter(&self) -> Inside<'_> {
        let presence = self.gate.enter();
        Inside { presence, gate: &self.gate, memory: &*self.memory, guesses: Default::default() }
    }

    /// Keeps what is found inside good for longer.
    pub(crate) fn pin(&self, _inside: &Inside<'_>) -> Result<Pin<'_>, TooManyPins> {
        self.pins.take()
    }

    /// Forgets what `invalidation` names. Device threads may use it until [`drain`](Self::drain) returns.
    pub fn invalidate(&self, invalidation: &Invalidation) {
        let inside = self.enter();
        match invalidation {
            Invalidation::Everything => {
                self.contexts.invalidate(&ContextScope::All, &inside);
                self.spaces.invalidate(&TranslationScope::default(), &inside);
                self.architecture.forget_interrupts(&InterruptScope::All);
            }
            Invalidation::Contexts(scope) => self.contexts.invalidate(scope, &inside),
            Invalidation::Translations(scope) => self.spaces.invalidate(scope, &inside),
            Invalidation::Interrupts(scope) => self.architecture.forget_interrupts(scope),
        }
    }

    /// Waits until no device thread uses, or can still keep, anything that was invalidated before.
    pub fn drain(&self) {
        self.pins.drain_behind(&self.gate);
        self.spaces.leave(self.contexts.departed());
    }

    /// Does something inside the guard, as a transaction is done: short, and waiting for nothing.
    pub(crate) fn guarded<R>(&self, something: impl FnOnce() -> R) -> R {
        let _inside = self.enter();
        something()
    }

    /// The binding of a sender.
    pub(crate) fn binding(&self, requester: Requester, pasid: Option<Pasid>) -> Arc<Binding<A::Note>> {
        self.contexts.binding(Sender { requester, pasid }, &self.enter())
    }

    /// Delivers an interrupt request of a device. Whoever drains waits until it is delivered.
    pub(crate) fn interrupt(&self, transaction: &Transaction, data: u32) -> Result<(), AccessError> {
        let inside = self.enter();
        let message = match self.architecture.remap(self.memory(), transaction, data) {
            Ok(message) => message,
            Err(report) => {
                drop(inside);
                return Err(self.refuse(&report));
            }
        };
        let pin = self.pin(&inside);
        // Where others hold all the pins there are, the guard does in a pin's place.
        let _inside = pin.is_err().then_some(inside);
        self.architecture.deliver(message);
        Ok(())
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

    /// Refuses an interrupt request where none can be.
    pub(crate) fn refuse_interrupt(&self, transaction: &Transaction) -> AccessError {
        self.refuse_outright(transaction, NO_INTERRUPT)
    }

    /// The report on what stopped a transaction that could not be an interrupt request.
    pub(crate) fn report(&self, stop: Stop<A::Record>, transaction: &Transaction) -> Report<A::Record> {
        match stop {
            Stop::Refused(report) | Stop::File { report, .. } => report,
            Stop::Interrupt => self.architecture.fault(transaction, None, NO_INTERRUPT),
        }
    }

    /// Records a refusal and finds out what becomes of the transaction. Called outside of the guard.
    pub(crate) fn settle(&self, report: &Report<A::Record>) -> Release {
        match (&report.record, report.outcome) {
            (Some(record), Outcome::Hold) => self.architecture.hold(self.memory(), record),
            (Some(record), outcome) => {
                self.architecture.record(self.memory(), record);
                Release::End(outcome)
            }
            (None, outcome) => Release::End(outcome),
        }
    }

    /// The cached context of a sender's requests for an address, unless requests are counted one by one.
    #[inline(always)]
    pub(crate) fn context<'i>(
        &self,
        binding: &'i Binding<A::Note>,
        address: Iova,
        inside: &'i Inside<'_>,
    ) -> Option<&'i Cached<A::Note>> {
        if self.architecture.is_counting() {
            return None;
        }
        binding.context(self.architecture.is_upper(address), inside)
    }

    /// Translates an untranslated request by what is cached alone, where nothing about it is out of the ordinary. `None` says nothing:
    /// [`decide`](Self::decide) then does.
    #[inline(always)]
    pub(crate) fn hit<'i>(
        &self,
        Cached { tables, plain, .. }: &'i Cached<A::Note>,
        (address, length): (Iova, u64),
        access: Access,
        privileged: bool,
        inside: &'i Inside<'_>,
    ) -> Option<Reached<'i>> {
        if length == 0 {
            return None;
        }
        let demand = plain.ask(access, privileged);
        let reached = match tables {
            Tables::OneStage(space) => space.hit(address.0, demand, inside)?,
            Tables::TwoStages(space) => space.hit_both(address.0, demand, inside)?,
            other => other.hit(address.0, demand, inside)?,
        };
        (!A::SPECIAL.output.contains(reached.address.0)).then_some(reached)
    }

    /// Decides a transaction of `bytes` bytes, whose sender's binding is given: where its first byte goes.
    #[inline]
    pub(crate) fn pass(
        &self,
        binding: &Binding<A::Note>,
        transaction: &Transaction,
        bytes: u64,
        inside: &Inside<'_>,
    ) -> Result<Translation, Stop<A::Record>> {
        let Transaction { address, length, access, privileged, request_type, .. } = *transaction;
        if request_type == RequestType::Untranslated
            && let Some(cached) = self.context(binding, address, inside)
            && let Some(reached) = self.hit(cached, (address, length), access, privileged, inside)
        {
            return Ok(reached.translation());
        }
        self.decide(binding, transaction, bytes, inside)
    }

    /// The same for a transaction that did not [`hit`](Self::hit).
    #[cold]
    #[inline(never)]
    pub(crate) fn decide(
        &self,
        binding: &Binding<A::Note>,
        transaction: &Transaction,
        bytes: u64,
        inside: &Inside<'_>,
    ) -> Result<Translation, Stop<A::Record>> {
        let architecture = &self.architecture;
        architecture.count(Event::Request, transaction, None);
        match architecture.admit(transaction) {
            Admission::Translate => {}
            Admission::Interrupt => return Err(Stop::Interrupt),
            Admission::Refused(refusal) => {
                return Err(Stop::Refused(architecture.fault(transaction, None, refusal)));
            }
        }
        let upper = architecture.is_upper(transaction.address);
        let found;
        let cached = match binding.context(upper, inside) {
            Some(cached) => cached,
            None => {
                found = self.look_up(binding, upper, inside);
                &*found
            }
        };
        let resolved = &cached.resolved;
        let judged = architecture.ask(transaction, resolved).and_then(|asked| {
            let page = self.page(cached, transaction, asked, inside)?;
            let address = page.address(asked.input.0);
            architecture.accept(transaction, resolved, address, bytes)?;
            let PageTranslation { shift: page_shift, access, attributes, .. } = page;
            Ok(Translation { address, page_shift, access, attributes })
        });
        judged.map_err(|refusal| self.refusal(transaction, resolved, refusal))
    }

    fn refusal(
        &self,
        transaction: &Transaction,
        resolved: &Resolved<A::Note>,
        refusal: Refusal,
    ) -> Stop<A::Record> {
        let report = self.architecture.fault(transaction, Some(resolved), refusal);
        match refusal.detail {
            Detail::InterruptFile => Stop::File { refusal, report },
            _ => Stop::Refused(report),
        }
    }

    /// Does a transaction that [`Stop::File`] stopped, inside the guard that it was stopped in.
    #[cold]
    pub(crate) fn access_file(
        &self,
        binding: &Binding<A::Note>,
        transaction: &Transaction,
        refusal: Refusal,
        data: Option<&[u8]>,
        inside: &Inside<'_>,
    ) -> Result<(), Report<A::Record>> {
        let architecture = &self.architecture;
        architecture.access_file(self.memory(), transaction, refusal, data).map_err(|refusal| {
            let upper = architecture.is_upper(transaction.address);
            match binding.context(upper, inside) {
                Some(cached) => architecture.fault(transaction, Some(&cached.resolved), refusal),
                None => {
                    let found = self.look_up(binding, upper, inside);
                    architecture.fault(transaction, Some(&found.resolved), refusal)
                }
            }
        })
    }

    /// Looks a sender's context up in the architecture's tables, and keeps it if it may be kept.
    #[cold]
    fn look_up(&self, binding: &Binding<A::Note>, upper: bool, inside: &Inside<'_>) -> Arc<Cached<A::Note>> {
        let Sender { requester, pasid } = binding.sender;
        let generation = self.contexts.generation();
        let mut resolved = self.architecture.lookup(self.memory(), requester, pasid, upper);
        let retaining = self.retaining.load(Ordering::Relaxed);
        let space = match self.stages(&resolved.context) {
            Ok(key) => key.map(|key| self.spaces.space(key, self.memory(), retaining)),
            Err(NoFormat) => {
                resolved.context = Context::Blocked(Some(FaultReason::Internal));
                resolved.cacheable = false;
                None
            }
        };
        let redirected = self.architecture.redirected(&resolved);
        let tables = match space {
            None => Tables::None,
            Some(space) if retaining || redirected != Block::NONE || self.architecture.caches_refusals() => {
                Tables::Other(space, redirected)
            }
            Some(space) if space.is_nested() => Tables::TwoStages(space),
            Some(space) => Tables::OneStage(space),
        };
        let plain = Plain::of(&self.architecture, binding.sender, upper, &resolved);
        let number = self.contexts.next_number();
        let cached = Arc::new(Cached { number, resolved, tables, plain });
        if resolved.cacheable {
            self.contexts.fill(binding, upper, &cached, generation, inside);
        }
        cached
    }

    fn stages(&self, context: &Context) -> Result<Option<SpaceKey>, NoFormat> {
        let format = |format, rules, nested| self.architecture.format(format, rules, nested).ok_or(NoFormat);
        Ok(match *context {
            // A look-up ends at a directory's entry, never at the directory.
            Context::TwoStages { first: FirstStage::Directory(_), .. } => return Err(NoFormat),
            Context::Blocked(_) | Context::Bypass { .. } => None,
            Context::OneStage { tags, stage, number } => {
                let only = FormattedStage { stage, format: format(stage.format, stage.rules, false)? };
                Some(SpaceKey { tags, stages: Stages::One { only, number } })
            }
            Context::TwoStages { tags, first: FirstStage::Tables(first), second } => Some(SpaceKey {
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
        inside: &Inside<'_>,
    ) -> Result<PageTranslation, Refusal> {
        let Asked { input, access, privileged, any } = asked;
        let resolved = &cached.resolved;
        let redirect = |ipa| self.architecture.redirect(inside.memory, resolved, ipa, access);
        if let Some(space) = cached.tables.space() {
            let request = Request { access, privileged, any, table: false };
            let caching = self.architecture.caches_refusals();
            return match space.find(input.0, request, inside, caching, redirect) {
                Some(answer) => answer,
                None => {
                    self.count_walk(space, transaction);
                    space.walk_and_keep(input.0, request, inside, caching, &redirect)
                }
            };
        }
        match &resolved.context {
            Context::Blocked(reason) => Err(Refusal::new(reason.unwrap_or(FaultReason::RequestBlocked))),
            Context::Bypass { access: permitted, output_bits, attributes, .. } => {
                let address = input.0;
                if *output_bits < 64 && address >> output_bits != 0 {
                    return Err(Refusal::new(FaultReason::AddressSize));
                }
                if !permitted.contains(access) {
                    return Err(Refusal::new(FaultReason::PermissionDenied));
                }
                if let Some(redirected) = redirect(Ipa(address)) {
                    return redirected;
                }
                Ok(PageTranslation {
                    base: PhysAddr(address & !0xfff),
                    shift: 12,
                    access: *permitted,
                    attributes: *attributes,
                })
            }
            // A context with tables has a space; without one nothing is permitted.
            Context::OneStage { .. } | Context::TwoStages { .. } => Err(Refusal::new(FaultReason::Internal)),
        }
    }
}

/// The unit has no such table format.
struct NoFormat;

impl<A: Architecture> Engine<A> {
    /// No cached translation serves the transaction.
    #[cold]
    fn count_walk(&self, space: &Space, transaction: &Transaction) {
        let stages = &space.key.stages;
        let count = |event| self.architecture.count(event, transaction, Some(space.key.tags));
        count(Event::CacheMiss);
        if stages.has(StageNumber::First) {
            count(Event::FirstStageWalk);
        }
        if stages.has(StageNumber::Second) {
            count(Event::SecondStageWalk);
        }
    }
}
