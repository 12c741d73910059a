//! The Arm SMMUv3.
//!
//! [`probe`] reads what a unit can do; [`Smmuv3::start`] takes it over with every stream blocked in its table, and
//! [`crate::Unit::enable`] puts that in force. Sections are those of the Arm System MMU Architecture Specification, IHI 0070.
//!
//! A first stage has an ASID of its own, and VMID 0; a second stage has a VMID. A stream's entry comes from two things: what
//! transactions without PASID come to, and whether any PASID is attached. As long as none is, the entry itself says what the first
//! is; otherwise it leads to context descriptors, of which number 0 is that of transactions without PASID (S1DSS), so that PASID 0 can't
//! be used. A guest's descriptors ([`GuestDirectory`](portcullis_spec::GuestDirectory)) are in memory of its own, with ASIDs of its
//! own below a VMID of its nested domain. Entries and descriptors in use are changed along a [`live::Plan`].

mod capabilities;
mod entries;
mod events;
mod invalidate;
pub mod live;
mod queue;
mod registers;
mod streams;
mod tables;

use alloc::collections::BTreeMap;
use core::sync::atomic::AtomicBool;
use core::time::Duration;

use portcullis_spec::smmuv3::command::Command;
use portcullis_spec::smmuv3::registers::Cr0;
use portcullis_spec::{
    Context, DomainTag, FaultReason, Invalidation, Pasid, PhysAddr, Requester, SpaceTag, Tags,
};

use crate::common::architecture::{
    Architecture, ContextError, FaultCounts, FaultRecord, FaultSignal, Features, Stages,
};
use crate::common::entries::Condemned;
use crate::common::queue::CommandQueue;
use crate::common::table::TableSpace;
use crate::error::{Error, Feature, UnitError};
use crate::platform::{Lock, Mmio, Platform};
use entries::Encoder;
use events::EventQueue;
use queue::Speech;
use registers::Registers;
use tables::{Descriptors, Space, Stream, StreamTable};

pub use capabilities::{Capabilities, probe};

/// How a unit is to be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Physical address bits of the platform; the unit's own limit counts too.
    pub host_address_bits: u8,
    /// StreamID bits that are served; the unit's own limit counts too. A unit without two-level tables needs 64 bytes for each
    /// stream in one block.
    pub stream_bits: u8,
    /// log2 of the pages of the command queue, at most 7.
    pub queue_size: u8,
    /// log2 of the pages of the event queue, at most 7.
    pub event_queue_size: u8,
    /// How long the unit may take to answer.
    pub timeout: Duration,
}

impl Default for Options {
    /// 52 address bits, as many streams as the unit has, queues of one page, and one second to answer.
    fn default() -> Self {
        Self {
            host_address_bits: 52,
            stream_bits: 32,
            queue_size: 0,
            event_queue_size: 0,
            timeout: Duration::from_secs(1),
        }
    }
}

/// What the unit may still read although nobody uses it.
enum Unconfirmed {
    /// A block of `1 << .1` bytes.
    Block(PhysAddr, u8),
    /// The descriptors of a stream that is not known any more.
    Descriptors(u32, Descriptors),
}

impl Unconfirmed {
    fn free<P: Platform>(self, space: &Space<'_, P>) {
        use portcullis_pagetable::TableAllocator as _;
        match self {
            Self::Block(block, size_log2) => space.free(block, size_log2),
            Self::Descriptors(_, descriptors) => descriptors.free(space),
        }
    }
}

/// A unit in the driver's hands.
pub struct Smmuv3<M: Mmio, P: Platform> {
    platform: P,
    capabilities: Capabilities,
    features: Features,
    encoder: Encoder,
    registers: Registers<M, P>,
    queue: CommandQueue<P>,
    /// Completions of commands come as messages.
    messages: AtomicBool,
    events: P::Lock<EventQueue>,
    table: P::Lock<StreamTable>,
    streams: P::Lock<BTreeMap<u32, Stream>>,
    condemned: Condemned<Unconfirmed, P>,
}

impl<M: Mmio, P: Platform> Smmuv3<M, P> {
    /// Takes a unit over: an empty stream table (all blocked), its queues, and everything cached forgotten. A unit that translated
    /// before aborts everything meanwhile and goes on to block; of one that did not, what passes is left as it was until
    /// [`crate::Unit::enable`].
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the unit can't do what this driver needs, [`Error::OutOfMemory`], or [`Error::Unit`]. Memory
    /// that the unit may have been told of stays allocated in the last case.
    pub fn start(mmio: M, platform: P, options: Options) -> Result<Self, Error> {
        let capabilities = probe(&mmio).map_err(Error::Unit)?;
        let features = capabilities.features(options.host_address_bits)?;
        let space = TableSpace::new(&platform, capabilities.coherent());
        let table =
            StreamTable::allocate(&space, capabilities, options.stream_bits).ok_or(Error::OutOfMemory)?;
        let Some(queue) = queue::allocate(&platform, options.queue_size.min(7), capabilities) else {
            table.free(&space);
            return Err(Error::OutOfMemory);
        };
        let Some(events) = EventQueue::allocate(&platform, options.event_queue_size.min(7), capabilities)
        else {
            table.free(&space);
            queue.free(&platform);
            return Err(Error::OutOfMemory);
        };
        let this = Self {
            registers: Registers::new(mmio, options.timeout),
            platform,
            capabilities,
            features,
            encoder: Encoder { capabilities },
            queue,
            messages: AtomicBool::new(capabilities.idr0.msi() && capabilities.coherent()),
            events: Lock::new(events),
            table: Lock::new(table),
            streams: Lock::new(BTreeMap::new()),
            condemned: Condemned::new(),
        };
        this.take_over().map_err(Error::Unit)?;
        Ok(this)
    }

    /// The identification registers.
    #[must_use]
    pub const fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    /// Whether translation is in force (CR0.SMMUEN).
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.registers.cr0().smmuen()
    }

    fn take_over(&self) -> Result<(), UnitError> {
        let (registers, platform) = (&self.registers, &self.platform);
        let translated = registers.cr0().smmuen();
        if translated {
            registers.set_abort(platform, true)?;
        }
        registers.set_cr0(platform, |_| Cr0::new())?;
        registers.signal_faults(platform, false, None)?;
        registers.acknowledge(registers.errors().ok_or(UnitError::Absent)?);
        registers.set_access(self.capabilities.coherent());
        let (base, log2size, split) =
            self.table.with(|table| (table.base(), table.log2size(), table.split()));
        registers.set_stream_table(base, log2size, split);
        self.queue.start(&self.speech(), platform)?;
        self.send(&invalidate::everything(self.capabilities))?;
        self.events.with(|events| events.start(registers, platform))?;
        if translated {
            registers.set_cr0(platform, |cr0| cr0.with_smmuen(true))?;
        }
        Ok(())
    }

    /// Memory as the unit is shown it.
    fn space(&self) -> Space<'_, P> {
        TableSpace::new(&self.platform, self.capabilities.coherent())
    }

    /// How the unit is spoken to in its queue.
    const fn speech(&self) -> Speech<'_, M, P> {
        Speech { registers: &self.registers, messages: &self.messages, entries: self.queue.entries() }
    }

    fn send(&self, commands: &[Command]) -> Result<(), UnitError> {
        self.queue.submit(&self.speech(), &self.platform, commands)
    }

    /// The StreamID, where the requester is this unit's.
    fn streamid(&self, requester: Requester) -> Result<u32, Error> {
        match requester {
            Requester::Stream(id) if self.table.with(|table| table.reaches(id)) => Ok(id),
            other => Err(Error::Unsupported(Feature::Requester(other))),
        }
    }

    fn free_condemned(&self) {
        let space = self.space();
        self.condemned.free(|what| what.free(&space));
    }
}

impl<M: Mmio, P: Platform> Architecture for Smmuv3<M, P> {
    type Platform = P;

    fn platform(&self) -> &P {
        &self.platform
    }

    fn features(&self) -> &Features {
        &self.features
    }

    fn add_requester(&self, requester: Requester, pasid_bits: u8) -> Result<(), Error> {
        let streamid = self.streamid(requester)?;
        self.condemned.refuse(|what| matches!(what, Unconfirmed::Descriptors(id, _) if *id == streamid))?;
        let space = self.space();
        let (entry, made) = self.table.with(|table| table.entry(&space, streamid))?;
        if made {
            // The first-level descriptor may be cached for any stream that it is about.
            let range = self.table.with(|table| table.split()).map_or(0, |split| split - 1);
            self.send(&[Command::CfgiSteRange { streamid, range }]).map_err(Error::NotInvalidated)?;
        }
        let mut stream = Stream {
            entry,
            descriptors: None,
            pasid_bits,
            context: Context::Blocked(Some(FaultReason::RequestBlocked)),
            pasids: 0,
        };
        if pasid_bits > 0 {
            stream.descriptors(&space, self.capabilities.idr0.cd2l())?;
        }
        self.streams.with(|streams| streams.insert(streamid, stream));
        Ok(())
    }

    fn remove_requester(&self, requester: Requester) -> Result<(), UnitError> {
        let Ok(streamid) = self.streamid(requester) else { return Ok(()) };
        let Some(stream) = self.streams.with(|streams| streams.remove(&streamid)) else { return Ok(()) };
        // Had a silent domain been the last, events are recorded again.
        let forgotten = self.invalidate_entry(streamid, &stream);
        let Some(descriptors) = stream.descriptors else { return forgotten };
        let what = Unconfirmed::Descriptors(streamid, descriptors);
        self.condemned.free_once(forgotten, what, |what| what.free(&self.space()))
    }

    /// ASID and VMID name the same domain, whichever it has. First stages on a second come from directories only.
    fn tags(&self, domain: DomainTag, _pasid: Option<Pasid>, stages: Stages) -> Tags {
        match stages {
            Stages::First => Tags { domain: invalidate::NO_VMID, space: Some(SpaceTag(domain.0)) },
            Stages::Second | Stages::FirstOnSecond | Stages::DirectoryOnSecond => {
                Tags { domain, space: None }
            }
        }
    }

    fn set_context(
        &self,
        requester: Requester,
        pasid: Option<Pasid>,
        former: &Context,
        context: &Context,
    ) -> Result<(), ContextError> {
        let streamid = self.streamid(requester).map_err(ContextError::Refused)?;
        self.change(streamid, pasid, context)?;
        let mut commands = invalidate::translations_of(former);
        // 4.6.2: what has stalled meanwhile ends here, whether its event is ever read or not.
        if self.capabilities.may_stall() && matches!(context, Context::Blocked(_)) {
            commands.push(Command::StallTerm { streamid });
        }
        if commands.is_empty() {
            return Ok(());
        }
        self.send(&commands).map_err(ContextError::Uncertain)
    }

    /// Every transaction meanwhile sees one or the other, where the entries allow that at all.
    fn replace_context(
        &self,
        requester: Requester,
        pasid: Option<Pasid>,
        former: &Context,
        context: &Context,
    ) -> Result<(), ContextError> {
        self.set_context(requester, pasid, former, context)
    }

    fn invalidate(&self, what: &[Invalidation]) -> Result<(), UnitError> {
        let commands = invalidate::commands(what, self.capabilities);
        if commands.is_empty() {
            return Ok(());
        }
        self.send(&commands)
    }

    fn recover(&self) -> Result<(), UnitError> {
        self.queue.start(&self.speech(), &self.platform)?;
        self.send(&invalidate::everything(self.capabilities))?;
        self.free_condemned();
        Ok(())
    }

    fn enable(&self) -> Result<(), UnitError> {
        self.registers.set_cr0(&self.platform, |cr0| cr0.with_smmuen(true))
    }

    fn disable(&self) -> Result<(), UnitError> {
        self.registers.set_abort(&self.platform, false)?;
        self.registers.set_cr0(&self.platform, |cr0| cr0.with_smmuen(false))
    }

    fn shut_down(&self) -> Result<(), UnitError> {
        self.disable()?;
        self.queue.stop(UnitError::Stopped);
        self.registers.signal_faults(&self.platform, false, None)?;
        self.registers.set_cr0(&self.platform, |_| Cr0::new())?;
        self.queue.free(&self.platform);
        self.events.with(|events| events.free(&self.platform));
        self.free_condemned();
        let space = self.space();
        for stream in self.streams.with(core::mem::take).into_values() {
            if let Some(descriptors) = stream.descriptors {
                descriptors.free(&space);
            }
        }
        self.table.with(|table| table.free(&space));
        Ok(())
    }

    fn signal_faults(&self, message: Option<FaultSignal>) {
        // A unit that does not answer has no faults to tell of either.
        let msi = self.capabilities.idr0.msi();
        let _unanswered = self.registers.signal_faults(&self.platform, msi, message);
    }

    fn read_faults(&self, sink: &mut dyn FnMut(FaultRecord)) -> FaultCounts {
        let (counts, stalled) = self.events.with(|events| events.read(&self.registers, &self.platform, sink));
        if !stalled.is_empty() {
            // A queue that stands still ends no stall; recovery, and the detach that follows, do.
            let _unconfirmed = self.send(&stalled);
        }
        counts
    }
}
