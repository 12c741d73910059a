//! The RISC-V IOMMU.
//!
//! [`probe`] reads what a unit can do; [`Riscv::start`] takes it over with every device blocked in its directory, and
//! [`crate::Unit::enable`] puts that in force. Sections are those of the RISC-V IOMMU Architecture Specification.
//!
//! A device without PASIDs has its context in the device directory. One with PASIDs has a process directory there, in which requests
//! without a PASID count as process 0; its second stage, which the architecture keeps in the device's own entry, stays off. So a
//! device whose PASIDs a guest is to serve, in a process directory of its own, is one without PASIDs to the host.

mod capabilities;
mod entries;
mod faults;
mod messages;
mod queue;
mod registers;
mod tables;

use alloc::collections::BTreeSet;
use core::time::Duration;

use portcullis_spec::riscv::Command;
use portcullis_spec::riscv::command::COMMAND_SIZE;
use portcullis_spec::riscv::registers::{Capabilities, IommuMode};
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
use faults::FaultQueue;
use queue::Speech;
use registers::Registers;
use tables::Tables;

pub use capabilities::probe;
pub use messages::InterruptOptions;

/// How a unit is to be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Physical address bits of the platform; the unit's own limit counts too.
    pub host_address_bits: u8,
    /// log2 of the pages of the command queue, at most 7.
    pub queue_size: u8,
    /// log2 of the pages of the fault queue, at most 7.
    pub fault_queue_size: u8,
    /// How long the unit may take to answer.
    pub timeout: Duration,
    /// How messages of devices are translated, where the unit has MSI page tables and second stages: then domains have second stages
    /// unless they ask for something else, and devices in others, or with PASIDs, send no messages. Without it messages are
    /// writes like all others.
    pub interrupts: Option<InterruptOptions>,
}

impl Default for Options {
    /// 56 address bits, queues of one page, one second to answer, and no messages.
    fn default() -> Self {
        Self {
            host_address_bits: 56,
            queue_size: 0,
            fault_queue_size: 0,
            timeout: Duration::from_secs(1),
            interrupts: None,
        }
    }
}

/// A unit in the driver's hands.
pub struct Riscv<M: Mmio, P: Platform> {
    platform: P,
    capabilities: Capabilities,
    features: Features,
    registers: Registers<M, P>,
    queue: CommandQueue<P>,
    faults: P::Lock<FaultQueue>,
    tables: P::Lock<Tables>,
    mode: IommuMode,
    /// device_ids whose process directories the unit may still read.
    condemned: Condemned<u32, P>,
    /// GSCIDs under which first stages may be cached: nothing but their number makes a unit forget those.
    guests: P::Lock<BTreeSet<u16>>,
}

impl<M: Mmio, P: Platform> Riscv<M, P> {
    /// Takes a unit over: an empty device directory (all blocked), its queues, and everything cached forgotten. A unit that let
    /// everything pass goes on doing so until [`crate::Unit::enable`]; any other blocks from here on.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the unit can't do what this driver needs, [`Error::OutOfMemory`], or [`Error::Unit`]. Memory
    /// that the unit may have been told of stays allocated in the last case.
    pub fn start(mmio: M, platform: P, options: Options) -> Result<Self, Error> {
        let capabilities = probe(&mmio).map_err(Error::Unit)?;
        let second = capabilities.sv39x4() || capabilities.sv48x4() || capabilities.sv57x4();
        let interrupts = options.interrupts.filter(|_| capabilities.msi_flat() && second);
        let features = capabilities::features(capabilities, options.host_address_bits, interrupts)?;
        let registers = Registers::new(mmio, options.timeout);
        let tables = Tables::allocate(&platform, capabilities, interrupts).ok_or(Error::OutOfMemory)?;
        let Some(queue) = CommandQueue::allocate(&platform, options.queue_size.min(7), COMMAND_SIZE, true)
        else {
            tables.free(&platform);
            return Err(Error::OutOfMemory);
        };
        let Some(faults) = FaultQueue::allocate(&platform, options.fault_queue_size.min(7)) else {
            tables.free(&platform);
            queue.free(&platform);
            return Err(Error::OutOfMemory);
        };
        let mut this = Self {
            platform,
            capabilities,
            features,
            registers,
            queue,
            faults: Lock::new(faults),
            tables: Lock::new(tables),
            mode: IommuMode::Off,
            condemned: Condemned::new(),
            guests: Lock::new(BTreeSet::new()),
        };
        this.take_over()?;
        Ok(this)
    }

    /// `capabilities`, as the unit reports it.
    #[must_use]
    pub const fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    /// The device directory's depth in use.
    #[must_use]
    pub const fn mode(&self) -> IommuMode {
        self.mode
    }

    fn take_over(&mut self) -> Result<(), Error> {
        let (registers, platform) = (&self.registers, &self.platform);
        registers.set_little_endian().map_err(Error::Unit)?;
        self.queue.start(&self.speech(), platform).map_err(Error::Unit)?;
        self.faults.with(|faults| faults.start(registers, platform)).map_err(Error::Unit)?;
        // 5.5: which depths the unit has can only be told by trying. The directory is empty at any depth.
        let root = self.tables.with(|tables| tables.root());
        let former = registers.ddtp();
        let passes = former.iommu_mode() == IommuMode::Bare.encode();
        if !passes {
            // From one depth to another there is no way but through Off.
            registers.set_ddtp(platform, IommuMode::Off, root).map_err(Error::Unit)?;
        }
        let modes = [IommuMode::ThreeLevel, IommuMode::TwoLevel, IommuMode::OneLevel];
        let mut found = None;
        for mode in modes {
            if registers.set_ddtp(platform, mode, root).map_err(Error::Unit)? {
                found = Some(mode);
                break;
            }
        }
        let Some(mode) = found else { return Err(Error::Unsupported(Feature::AnyFormat)) };
        self.mode = mode;
        self.tables.with(|tables| tables.set_levels(mode.levels()));
        self.forget_everything().map_err(Error::Unit)?;
        if passes {
            self.pass().map_err(Error::Unit)?;
        }
        Ok(())
    }

    /// Lets everything pass. 5.5: from a directory to Bare there is no way but through Off.
    fn pass(&self) -> Result<(), UnitError> {
        let root = self.tables.with(|tables| tables.root());
        for mode in [IommuMode::Off, IommuMode::Bare] {
            if !self.registers.set_ddtp(&self.platform, mode, root)? {
                return Err(UnitError::CommandRefused { register: "ddtp", value: u64::from(mode.encode()) });
            }
        }
        Ok(())
    }

    /// How the unit is spoken to in its queue.
    const fn speech(&self) -> Speech<'_, M, P> {
        Speech(&self.registers)
    }

    fn send(&self, commands: &[Command]) -> Result<(), UnitError> {
        self.queue.submit(&self.speech(), &self.platform, commands)
    }

    fn forget_everything(&self) -> Result<(), UnitError> {
        let guests = self.guests.with(|guests| guests.clone());
        self.send(&entries::EVERYTHING)?;
        self.send(&guests.into_iter().map(entries::first_stages_of).collect::<alloc::vec::Vec<_>>())
    }

    /// The device_id, where the requester is this unit's.
    fn device_id(&self, requester: Requester) -> Result<u32, Error> {
        match requester {
            Requester::Device(id) if self.tables.with(|tables| tables.reaches(id)) => Ok(id),
            other => Err(Error::Unsupported(Feature::Requester(other))),
        }
    }

    fn device_ids(&self, device: &Device) -> Result<alloc::vec::Vec<u32>, Error> {
        device.requesters.iter().map(|requester| self.device_id(*requester)).collect()
    }

    fn free_condemned(&self) {
        self.tables.with(|tables| {
            self.condemned.free(|device_id| tables.free_directory(&self.platform, device_id));
        });
    }

    /// Writes a requester's entry. Returns what must be invalidated then.
    fn write_context(
        &self,
        device_id: u32,
        pasid: Option<Pasid>,
        former: &Context,
        context: &Context,
    ) -> Result<alloc::vec::Vec<Command>, Error> {
        let platform = &self.platform;
        if let Context::TwoStages { tags, .. } = context {
            self.guests.with(|guests| guests.insert(tags.domain.0 as u16));
        }
        self.tables.with(|tables| {
            if tables.has_directory(device_id) {
                let process = entries::process(context)?;
                tables.set_process(platform, device_id, pasid, process)?;
            } else if pasid.is_some() {
                return Err(Error::Unsupported(Feature::Pasid));
            } else {
                let device = entries::device(context, self.capabilities, tables.nowhere())?;
                tables.set_device(platform, device_id, device)?;
            }
            Ok(entries::forget(device_id, tables.has_directory(device_id).then_some(pasid), former))
        })
    }
}

impl<M: Mmio, P: Platform> Architecture for Riscv<M, P> {
    type Platform = P;

    fn platform(&self) -> &P {
        &self.platform
    }

    fn features(&self) -> &Features {
        &self.features
    }

    fn add_requester(&self, requester: Requester, pasid_bits: u8) -> Result<(), Error> {
        let device_id = self.device_id(requester)?;
        self.condemned.refuse(|it| *it == device_id)?;
        let platform = &self.platform;
        if pasid_bits == 0 {
            return self.tables.with(|tables| tables.prepare(platform, device_id));
        }
        self.tables.with(|tables| tables.add_directory(platform, device_id, pasid_bits))?;
        self.send(&[Command::IodirInvalDdt { did: Some(device_id) }]).map_err(|error| {
            let _unconfirmed = self.remove_requester(requester);
            Error::NotInvalidated(error)
        })
    }

    fn remove_requester(&self, requester: Requester) -> Result<(), UnitError> {
        let Ok(device_id) = self.device_id(requester) else { return Ok(()) };
        let platform = &self.platform;
        // Had a silent domain been the last, faults are reported again.
        let cleared = self.tables.with(|tables| tables.clear_device(platform, device_id));
        if !cleared {
            return Ok(());
        }
        let forgotten = self.send(&[Command::IodirInvalDdt { did: Some(device_id) }]);
        let free = |device_id| self.tables.with(|tables| tables.free_directory(platform, device_id));
        self.condemned.free_once(forgotten, device_id, free)
    }

    /// GSCID and PSCID name the same domain, whichever of the stages there are.
    fn tags(&self, domain: DomainTag, _pasid: Option<Pasid>, stages: Stages) -> Tags {
        let space = Some(SpaceTag(domain.0));
        match stages {
            Stages::First => Tags { domain: entries::HOST, space },
            Stages::FirstOnSecond => Tags { domain, space },
            Stages::Second | Stages::DirectoryOnSecond => Tags { domain, space: None },
        }
    }

    fn set_context(
        &self,
        requester: Requester,
        pasid: Option<Pasid>,
        former: &Context,
        context: &Context,
    ) -> Result<(), ContextError> {
        let commands = self
            .device_id(requester)
            .and_then(|device_id| self.write_context(device_id, pasid, former, context))
            .map_err(ContextError::Refused)?;
        self.send(&commands).map_err(ContextError::Uncertain)
    }

    fn set_interrupt(
        &self,
        device: &Device,
        index: u32,
        route: &InterruptRoute,
    ) -> Result<InterruptMessage, ContextError> {
        let (commands, message) = self
            .device_ids(device)
            .and_then(|ids| self.tables.with(|tables| tables.set_message(&self.platform, &ids, index, route)))
            .map_err(ContextError::Refused)?;
        self.send(&commands).map(|()| message).map_err(ContextError::Uncertain)
    }

    fn block_interrupts(&self, device: &Device, first: u32, count: u32) -> Result<(), UnitError> {
        let Ok(ids) = self.device_ids(device) else { return Ok(()) };
        let commands = self.tables.with(|tables| tables.block_messages(&self.platform, &ids, (first, count)));
        self.send(&commands)
    }

    /// Stores to page tables are visible to a coherent unit as they are; all RISC-V IOMMUs are (2, "cache coherent").
    fn invalidate(&self, what: &[Invalidation]) -> Result<(), UnitError> {
        if what.is_empty() {
            return Ok(());
        }
        self.send(&entries::commands(what, self.capabilities.s()))
    }

    fn recover(&self) -> Result<(), UnitError> {
        self.queue.start(&self.speech(), &self.platform)?;
        self.forget_everything()?;
        self.free_condemned();
        Ok(())
    }

    fn enable(&self) -> Result<(), UnitError> {
        let root = self.tables.with(|tables| tables.root());
        if self.registers.set_ddtp(&self.platform, self.mode, root)? {
            // 5.5: what was cached under the former mode may be used until this.
            return self.forget_everything();
        }
        Err(UnitError::CommandRefused { register: "ddtp", value: u64::from(self.mode.encode()) })
    }

    fn disable(&self) -> Result<(), UnitError> {
        self.pass()
    }

    fn shut_down(&self) -> Result<(), UnitError> {
        self.disable()?;
        self.queue.turn_off(&self.speech(), &self.platform)?;
        self.faults.with(|faults| faults.turn_off(&self.registers, &self.platform))?;
        self.queue.free(&self.platform);
        self.faults.with(|faults| faults.free(&self.platform));
        self.tables.with(|tables| tables.free(&self.platform));
        Ok(())
    }

    fn signal_faults(&self, message: Option<FaultSignal>) {
        self.registers.signal_faults(self.capabilities, message);
    }

    fn read_faults(&self, sink: &mut dyn FnMut(FaultRecord)) -> FaultCounts {
        self.faults.with(|faults| faults.read(&self.registers, &self.platform, sink))
    }
}
