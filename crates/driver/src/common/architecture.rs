//! What the common rooms ask of an architecture.
//!
//! The common rooms decide what a requester's entries shall come to ([`Context`]) and what must be forgotten
//! ([`Invalidation`]); an architecture writes the first and sends the second.

use alloc::vec::Vec;

use portcullis_pagetable::format::AnyFormat;
use portcullis_spec::{
    Context, DirectoryFormat, DomainTag, Fault, FaultReason, InterruptMessage, InterruptRoute, Invalidation,
    PagingFormat, Pasid, Requester, Tags,
};

use crate::common::interrupts::InterruptFeatures;
use crate::common::region::{Device, Region};
use crate::error::{Error, Feature, UnitError};
use crate::platform::Platform;

/// What a unit can do, in words that all architectures share.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Features {
    /// Formats of tables that the driver can write for this unit, the preferred one first.
    pub formats: Vec<TableFeatures>,
    /// Whether addresses can pass unchanged without tables.
    pub identity: bool,
    /// Formats of first stages that can stand on a second stage by themselves.
    pub nested: Vec<PagingFormat>,
    /// Directories of first stages that can stand on a second stage, each as large as it may be.
    pub directories: Vec<DirectoryFormat>,
    /// PASID bits; 0 where requests with PASID are not served.
    pub pasid_bits: u8,
    /// Physical address bits.
    pub output_bits: u8,
    /// Whether the unit sees the processor's caches when it reads tables.
    pub coherent: bool,
    /// Whether faults of a requester can be left unreported.
    pub silent_blocking: bool,
    /// The lowest and the highest domain tag that can be used.
    pub domain_tags: (u32, u32),
    /// Regions that no domain may map, such as the interrupt range.
    pub reserved: Vec<Region>,
    /// The interrupt tables; `None` where interrupts are not remapped, and pass or not as the architecture has it.
    pub interrupts: Option<InterruptFeatures>,
}

/// One format that the unit walks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableFeatures {
    /// Its name and shape.
    pub shape: PagingFormat,
    /// The format with all that the unit's capabilities decide.
    pub format: AnyFormat,
    /// Input address bits that may be used; at most what the format reaches.
    pub input_bits: u8,
    /// Whether the unit sets Dirty in it.
    pub dirty: bool,
    /// Whether it is the first of two stages, or stands in the first one's place.
    pub first_stage: bool,
    /// Whether first stages may stand on it.
    pub parent: bool,
    /// Whether the unit may cache that something is not mapped, so that mapping needs an invalidation too.
    pub caches_not_present: bool,
}

/// What stages a domain has, as far as its tags depend on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stages {
    /// A second stage, or none.
    Second,
    /// A first stage only.
    First,
    /// One first stage on a second.
    FirstOnSecond,
    /// A directory of first stages on a second; their address spaces have tags of their writer's.
    DirectoryOnSecond,
}

/// How far a change of a device's entry came when it failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ContextError {
    /// Nothing was written.
    Refused(Error),
    /// The entry says what it should, but the unit may still use what it said before.
    Uncertain(UnitError),
}

/// A refused access as the unit recorded it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FaultRecord {
    /// What was refused.
    pub fault: Fault,
    /// The architecture's raw record, low word first; words that it does not have are zero.
    pub raw: [u64; 4],
}

/// The message by which a unit says that fault records wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FaultSignal {
    /// Where it is written.
    pub address: u64,
    /// What is written.
    pub data: u32,
}

/// What a reading of the fault records found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FaultCounts {
    /// Records read.
    pub read: u64,
    /// Of these, records that make no sense: an unknown reason. They are counted only.
    pub unknown: u64,
    /// Times that the unit reported records lost since the last reading. How many each time it does not say.
    pub overflows: u64,
    /// Records still wait, and no message will tell of them: it is to be read again. Not part of totals.
    pub more: bool,
}

/// The bits of one architecture: everything else is common.
///
/// A unit begins with every requester blocked. All methods may be called from several threads at once, except that
/// [`Architecture::set_context`] is never in progress twice for the same requester, nor [`Architecture::recover`] at all.
pub trait Architecture {
    /// The machine.
    type Platform: Platform;

    /// The machine.
    fn platform(&self) -> &Self::Platform;

    /// What the unit can do.
    fn features(&self) -> &Features;

    /// Checks that requests from this requester reach this unit, with PASIDs of so many bits (0 for none), and sets up
    /// what its entries need. It stays blocked.
    ///
    /// # Errors
    /// [`Error::Unsupported`], [`Error::OutOfMemory`], or [`Error::NotInvalidated`] where it was set up but the unit did not
    /// confirm; then it can't be used until the unit is recovered.
    fn add_requester(&self, requester: Requester, pasid_bits: u8) -> Result<(), Error>;

    /// Takes down what [`Architecture::add_requester`] set up. Every context of the requester is blocked already.
    ///
    /// # Errors
    /// The unit did not confirm; memory that it may still read stays allocated until the unit is recovered.
    fn remove_requester(&self, requester: Requester) -> Result<(), UnitError>;

    /// The tags under which translations of a requester in a domain are cached, as the unit's entries are to have them.
    fn tags(&self, domain: DomainTag, pasid: Option<Pasid>, stages: Stages) -> Tags;

    /// Makes the entry of a requester, or of one PASID of it, come to `context`, and makes the unit forget what it said
    /// before. Either `former` or `context` is [`Context::Blocked`]. After success nothing cached under the tags of `former` for
    /// this requester is used, nor was any transaction begun under it left unfinished.
    ///
    /// # Errors
    /// How far it came.
    fn set_context(
        &self,
        requester: Requester,
        pasid: Option<Pasid>,
        former: &Context,
        context: &Context,
    ) -> Result<(), ContextError>;

    /// Makes the entry come to `context` instead of `former`, neither of them [`Context::Blocked`]; else as [`Self::set_context`]. An
    /// architecture that can lets every transaction meanwhile see one or the other; the others block in between.
    ///
    /// # Errors
    /// How far it came: [`ContextError::Refused`] where the entry says `former` as before.
    fn replace_context(
        &self,
        requester: Requester,
        pasid: Option<Pasid>,
        former: &Context,
        context: &Context,
    ) -> Result<(), ContextError> {
        let blocked = Context::Blocked(Some(FaultReason::RequestBlocked));
        self.set_context(requester, pasid, former, &blocked)?;
        let Err(error) = self.set_context(requester, pasid, &blocked, context) else { return Ok(()) };
        match (error, self.set_context(requester, pasid, &blocked, former)) {
            (error, Ok(())) => Err(error),
            (_, Err(ContextError::Uncertain(error))) => Err(ContextError::Uncertain(error)),
            (_, Err(ContextError::Refused(_))) => Err(ContextError::Uncertain(UnitError::Stopped)),
        }
    }

    /// Makes entry `index` of the interrupt table that `device` uses come to `route`, for messages that one of the device's requesters
    /// sends, and makes the unit forget what it said before. Where both let something pass, an interrupt meanwhile goes one way or
    /// the other. After success no interrupt is under way along the former route. Returns what the device is to write where. Never in
    /// progress twice for the same device.
    ///
    /// # Errors
    /// How far it came.
    fn set_interrupt(
        &self,
        _device: &Device,
        _index: u32,
        _route: &InterruptRoute,
    ) -> Result<InterruptMessage, ContextError> {
        Err(ContextError::Refused(Error::Unsupported(Feature::Interrupts)))
    }

    /// Blocks `count` entries from `first` on, and makes the unit forget what they said. After success no interrupt is under way
    /// through any of them. Otherwise as [`Self::set_interrupt`].
    ///
    /// # Errors
    /// The entries block, but the unit has not confirmed.
    fn block_interrupts(&self, _device: &Device, _first: u32, _count: u32) -> Result<(), UnitError> {
        Ok(())
    }

    /// Makes the unit forget, in this order, and waits until it has and until no transaction that used what is forgotten is
    /// left unfinished. More than asked for may be forgotten. With nothing to forget it still makes earlier
    /// stores to tables visible to the unit where that takes more than a store.
    ///
    /// # Errors
    /// The unit has not confirmed.
    fn invalidate(&self, what: &[Invalidation]) -> Result<(), UnitError>;

    /// Starts invalidation again after an error, and makes the unit forget everything it caches. On success nothing
    /// is used any more that was to be forgotten by any earlier call, whatever that call returned.
    ///
    /// # Errors
    /// The unit still does not answer.
    fn recover(&self) -> Result<(), UnitError>;

    /// Lets nothing pass any more that the tables do not allow.
    ///
    /// # Errors
    /// The unit does not answer.
    fn enable(&self) -> Result<(), UnitError>;

    /// Stops translating: everything passes unless the platform blocks it by other means.
    ///
    /// # Errors
    /// The unit does not answer.
    fn disable(&self) -> Result<(), UnitError>;

    /// Stops translating, lets go of the unit, and gives all memory back that it used. Nothing is called after.
    ///
    /// # Errors
    /// The unit does not answer; what it may still read stays allocated.
    fn shut_down(&self) -> Result<(), UnitError>;

    /// Makes the unit write `data` to `address`, as a message signalled interrupt, when fault records begin to wait; with
    /// `None` it tells nobody.
    fn signal_faults(&self, message: Option<FaultSignal>);

    /// Reads the waiting fault records, oldest first, and makes room for new ones. Takes bounded time however fast
    /// new ones come.
    fn read_faults(&self, sink: &mut dyn FnMut(FaultRecord)) -> FaultCounts;
}
