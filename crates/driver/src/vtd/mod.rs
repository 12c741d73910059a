//! Intel VT-d.
//!
//! [`probe`] reads what a unit can do; [`Vtd::start`] takes it over with every device blocked in the tables, and
//! [`crate::Unit::enable`] puts them in force. What must be invalidated after which change is chapter 6 of the specification; each
//! place here cites its section.

mod capabilities;
mod entries;
mod faults;
mod interrupts;
mod invalidate;
mod queue;
mod registers;
mod tables;

use core::time::Duration;

use portcullis_spec::vtd::invalidation::{ContextCacheScope, InvalidationDescriptor, PasidCacheScope};
use portcullis_spec::vtd::registers::{Gsts, Rtaddr, Ttm};
use portcullis_spec::{
    Context, DomainTag, InterruptMessage, InterruptRoute, Invalidation, Pasid, Requester, SpaceTag, Tags,
};

use crate::common::architecture::{
    Architecture, ContextError, FaultCounts, FaultRecord, FaultSignal, Features, Stages,
};
use crate::common::entries::Condemned;
use crate::common::queue::CommandQueue;
use crate::common::region::Device;
use crate::error::{Error, Feature, UnitError};
use crate::platform::{Lock, Mmio, Platform};
use queue::{Descriptors, FENCE};
use registers::Registers;
use tables::{RID_PASID, Tables};

pub use capabilities::{Capabilities, Mode, probe};
pub use interrupts::InterruptOptions;

/// How a unit is to be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// PCI segment that the unit serves (DMAR, DRHD).
    pub segment: u16,
    /// Physical address bits of the platform (DMAR, host address width).
    pub host_address_bits: u8,
    /// Translation table mode; [`Capabilities::best_mode`] where not said.
    pub mode: Option<Mode>,
    /// Whether to invalidate by registers even where the unit has a queue. Legacy mode only.
    pub avoid_queue: bool,
    /// How interrupts are remapped; where not said, whether and how they are is left alone. It needs the queue.
    pub interrupts: Option<InterruptOptions>,
    /// log2 of the pages of the invalidation queue, at most 7.
    pub queue_size: u8,
    /// How long the unit may take to answer.
    pub timeout: Duration,
}

impl Default for Options {
    /// Segment 0, 52 address bits, the best mode, interrupts left alone, a queue of one page, and one second to answer.
    fn default() -> Self {
        Self {
            segment: 0,
            host_address_bits: 52,
            mode: None,
            avoid_queue: false,
            interrupts: None,
            queue_size: 0,
            timeout: Duration::from_secs(1),
        }
    }
}

/// A unit in the driver's hands.
pub struct Vtd<M: Mmio, P: Platform> {
    platform: P,
    options: Options,
    capabilities: Capabilities,
    mode: Mode,
    features: Features,
    registers: Registers<M, P>,
    queue: Option<CommandQueue<P>>,
    tables: P::Lock<Tables>,
    interrupts: Option<interrupts::Table>,
    /// Requester IDs whose PASID directories the unit may still read.
    condemned: Condemned<u16, P>,
}

impl<M: Mmio, P: Platform> Vtd<M, P> {
    /// Takes a unit over: an empty root table (all blocked), an invalidation queue where there is one, and everything cached
    /// forgotten. Translation is in force afterwards only where it was before; [`crate::Unit::enable`] puts it in force.
    ///
    /// Whoever had the unit before (firmware, a former kernel) must not use it any more. Where it was translating in the other
    /// mode, it stops for the moment of the change, as the specification demands; the protected memory ranges, where
    /// set, hold through it.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the unit can't do what the options ask for or this driver needs, [`Error::OutOfMemory`], or
    /// [`Error::Unit`]. Memory that the unit may have been told of stays allocated in the last case.
    pub fn start(mmio: M, platform: P, options: Options) -> Result<Self, Error> {
        let capabilities = probe(&mmio).map_err(Error::Unit)?;
        let mode = options.mode.unwrap_or(capabilities.best_mode());
        let mut features = capabilities.features(mode, options.host_address_bits)?;
        let wide = mode == Mode::Scalable;
        let coherent = capabilities.ecap.c();
        let avoid_queue = options.avoid_queue && mode == Mode::Legacy;
        let queued = capabilities.ecap.qi() && !avoid_queue;
        if let Some(interrupts) = options.interrupts {
            if !capabilities.ecap.ir() || !queued {
                return Err(Error::Unsupported(Feature::Interrupts));
            }
            if interrupts.x2apic && !capabilities.ecap.eim() {
                return Err(Error::Unsupported(Feature::X2apic));
            }
        }
        let mut tables = Tables::allocate(&platform, mode, coherent).ok_or(Error::OutOfMemory)?;
        let queue = match queued {
            true => {
                let bytes = if wide { 32 } else { 16 };
                CommandQueue::allocate(&platform, options.queue_size.min(7), bytes, coherent).map(Some)
            }
            false => Some(None),
        };
        let interrupts = match options.interrupts {
            Some(options) => interrupts::Table::allocate(&platform, options, coherent).map(Some),
            None => Some(None),
        };
        let (queue, interrupts) = match (queue, interrupts) {
            (Some(queue), Some(interrupts)) => (queue, interrupts),
            (queue, interrupts) => {
                tables.free(&platform);
                queue.flatten().inspect(|queue| queue.free(&platform));
                interrupts.flatten().inspect(|table| table.free(&platform));
                return Err(Error::OutOfMemory);
            }
        };
        features.interrupts = interrupts.as_ref().map(interrupts::Table::features);
        let this = Self {
            registers: Registers::new(mmio, capabilities.ecap, options.timeout),
            platform,
            options,
            capabilities,
            mode,
            features,
            queue,
            tables: Lock::new(tables),
            interrupts,
            condemned: Condemned::new(),
        };
        this.take_over().map_err(Error::Unit)?;
        Ok(this)
    }

    /// The capability registers.
    #[must_use]
    pub const fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    /// The translation table mode in use.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether translation is in force (GSTS.TES).
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.registers.gsts().tes()
    }

    fn take_over(&self) -> Result<(), UnitError> {
        let ttm = match self.mode {
            Mode::Legacy => Ttm::Legacy,
            Mode::Scalable => Ttm::Scalable,
        };
        let status = self.registers.gsts();
        if status.into_bits() == u32::MAX {
            return Err(UnitError::Absent);
        }
        // 11.4.4.2, 11.4.5: TTM is not to be changed while translation is in force.
        if status.tes() && self.registers.rtaddr().ttm() != ttm {
            self.registers.set_translation(&self.platform, false)?;
        }
        self.take_over_queue(status)?;
        let root = self.tables.with(|tables| tables.root());
        let rtaddr = Rtaddr::new().with_ttm(ttm).with_rta(root.0 >> 12);
        self.registers.set_root_table(&self.platform, rtaddr)?;
        // 6.6, 11.4.4.1 SRTP: context cache, PASID cache and IOTLB are invalidated globally, in this order, by software,
        // unless CAP.ESRTPS says that setting the pointer does it.
        if !self.capabilities.cap.esrtps() {
            self.invalidate_everything()?;
        }
        self.take_over_interrupts()
    }

    /// How the unit is spoken to in its queue.
    fn speech(&self) -> Descriptors<'_, M, P> {
        Descriptors { registers: &self.registers, wide: self.mode == Mode::Scalable }
    }

    fn take_over_queue(&self, status: Gsts) -> Result<(), UnitError> {
        match &self.queue {
            Some(queue) => {
                if status.qies() {
                    self.registers.drain_foreign_queue(&self.platform)?;
                }
                queue.turn_on(&self.speech(), &self.platform)
            }
            None if status.qies() => self.registers.drain_foreign_queue(&self.platform),
            None => Ok(()),
        }
    }

    /// The requester ID, where the requester is this unit's.
    fn requester_id(&self, requester: Requester) -> Result<u16, Error> {
        match requester {
            Requester::Pci(address) if address.segment == self.options.segment => Ok(address.requester_id),
            other => Err(Error::Unsupported(Feature::Requester(other))),
        }
    }

    /// Writes a requester's entry. Returns what must be invalidated then.
    fn write_context(
        &self,
        requester_id: u16,
        pasid: Option<Pasid>,
        former: &Context,
        context: &Context,
    ) -> Result<alloc::vec::Vec<InvalidationDescriptor>, Error> {
        let platform = &self.platform;
        match (self.mode, context) {
            (Mode::Legacy, _) if pasid.is_some() => Err(Error::Unsupported(Feature::Pasid)),
            (Mode::Legacy, Context::Blocked(report)) => {
                let fpd = report.is_none();
                self.tables.with(|tables| tables.clear_context(platform, requester_id, fpd))?;
                Ok(self.forget_context(requester_id, former))
            }
            (Mode::Legacy, context) => {
                let entry = self.context_entry(context)?;
                self.tables.with(|tables| tables.set_context(platform, requester_id, entry))?;
                Ok(self.notice_context(requester_id, context))
            }
            (Mode::Scalable, Context::Blocked(report)) => {
                let fpd = report.is_none();
                let number = pasid.unwrap_or(RID_PASID);
                self.tables.with(|tables| tables.clear_pasid(platform, requester_id, number, fpd))?;
                Ok(self.forget_pasid(number, former))
            }
            (Mode::Scalable, context) => {
                let entry = self.pasid_entry(context)?;
                let number = pasid.unwrap_or(RID_PASID);
                self.tables.with(|tables| tables.set_pasid(platform, requester_id, number, entry))?;
                Ok(self.notice_pasid(number, context))
            }
        }
    }

    fn free_condemned(&self) {
        self.tables.with(|tables| {
            self.condemned.free(|requester_id| tables.free_directory(&self.platform, requester_id));
        });
    }
}

impl<M: Mmio, P: Platform> Architecture for Vtd<M, P> {
    type Platform = P;

    fn platform(&self) -> &P {
        &self.platform
    }

    fn features(&self) -> &Features {
        &self.features
    }

    fn add_requester(&self, requester: Requester, pasid_bits: u8) -> Result<(), Error> {
        let sid = self.requester_id(requester)?;
        let platform = &self.platform;
        self.condemned.refuse(|it| *it == sid)?;
        match self.mode {
            Mode::Legacy => self.tables.with(|tables| tables.prepare(platform, sid)),
            Mode::Scalable => {
                self.tables.with(|tables| tables.add_directory(platform, sid, pasid_bits))?;
                let seen = match self.capabilities.cap.cm() {
                    true => self.send(&[InvalidationDescriptor::ContextCache(ContextCacheScope::Device {
                        did: 0,
                        sid,
                        fm: 0,
                    })]),
                    false => self.flush_write_buffer(),
                };
                seen.map_err(|error| {
                    let _unconfirmed = self.remove_requester(requester);
                    Error::NotInvalidated(error)
                })
            }
        }
    }

    fn remove_requester(&self, requester: Requester) -> Result<(), UnitError> {
        let Ok(sid) = self.requester_id(requester) else { return Ok(()) };
        let platform = &self.platform;
        match self.mode {
            Mode::Legacy => {
                // Back to reporting faults, had a silent domain been the last.
                let cleared = self.tables.with(|tables| tables.clear_context(platform, sid, false));
                match cleared {
                    Ok(()) => self.send(&self.forget_context(sid, &Context::Blocked(None))),
                    Err(_) => Ok(()),
                }
            }
            Mode::Scalable => {
                self.tables.with(|tables| tables.clear_directory(platform, sid));
                // 6.5.3.3: the context entry, and all PASID entries found through it. They had no translations any more.
                let forgotten = self.send(&[
                    InvalidationDescriptor::ContextCache(ContextCacheScope::Device { did: 0, sid, fm: 0 }),
                    FENCE,
                    InvalidationDescriptor::PasidCache(PasidCacheScope::Global),
                ]);
                let free = |sid| self.tables.with(|tables| tables.free_directory(platform, sid));
                self.condemned.free_once(forgotten, sid, free)
            }
        }
    }

    fn tags(&self, domain: DomainTag, pasid: Option<Pasid>, stages: Stages) -> Tags {
        let own = matches!(stages, Stages::First | Stages::FirstOnSecond);
        let space = own.then(|| SpaceTag(pasid.unwrap_or(RID_PASID).value()));
        Tags { domain, space }
    }

    fn set_context(
        &self,
        requester: Requester,
        pasid: Option<Pasid>,
        former: &Context,
        context: &Context,
    ) -> Result<(), ContextError> {
        let descriptors = self
            .requester_id(requester)
            .and_then(|sid| self.write_context(sid, pasid, former, context))
            .map_err(ContextError::Refused)?;
        if descriptors.is_empty() {
            return self.flush_write_buffer().map_err(ContextError::Uncertain);
        }
        self.send(&descriptors).map_err(ContextError::Uncertain)
    }

    fn set_interrupt(
        &self,
        device: &Device,
        index: u32,
        route: &InterruptRoute,
    ) -> Result<InterruptMessage, ContextError> {
        self.write_interrupt(device, index, route)
    }

    fn block_interrupts(&self, _device: &Device, first: u32, count: u32) -> Result<(), UnitError> {
        self.clear_interrupts(first, count)
    }

    fn invalidate(&self, what: &[Invalidation]) -> Result<(), UnitError> {
        if what.is_empty() {
            return self.flush_write_buffer();
        }
        self.send(&self.descriptors(what))
    }

    fn recover(&self) -> Result<(), UnitError> {
        if let Some(queue) = &self.queue {
            queue.start(&self.speech(), &self.platform)?;
        }
        self.invalidate_everything()?;
        self.free_condemned();
        Ok(())
    }

    /// Translation on, and then the protected memory ranges off: there is no moment at which neither holds (11.4.8).
    fn enable(&self) -> Result<(), UnitError> {
        self.registers.set_translation(&self.platform, true)?;
        self.set_interrupt_remapping(true)?;
        let cap = self.capabilities.cap;
        if cap.plmr() || cap.phmr() {
            self.registers.disable_protected_memory(&self.platform)?;
        }
        Ok(())
    }

    fn disable(&self) -> Result<(), UnitError> {
        self.set_interrupt_remapping(false)?;
        self.registers.set_translation(&self.platform, false)
    }

    fn shut_down(&self) -> Result<(), UnitError> {
        self.disable()?;
        if let Some(queue) = &self.queue {
            queue.turn_off(&self.speech(), &self.platform)?;
            queue.free(&self.platform);
        }
        self.tables.with(|tables| tables.free(&self.platform));
        if let Some(table) = &self.interrupts {
            table.free(&self.platform);
        }
        Ok(())
    }

    fn signal_faults(&self, message: Option<FaultSignal>) {
        self.registers.signal_faults(message);
    }

    fn read_faults(&self, sink: &mut dyn FnMut(FaultRecord)) -> FaultCounts {
        faults::read(&self.registers, self.capabilities.cap, self.options.segment, sink)
    }
}
