//! The embedded platform: our driver over our model, in this process. It protects simulated memory, not the host.
//!
//! Devices are [`Engine`]s, whose DMA goes through the model; memory is what is given to [`Embedded::add_memory`].

pub mod backend;
mod bus;
pub mod device;
mod interrupts;
mod machine;
mod platform;
mod plug;
mod refused;
mod registers;
pub mod riscv;
pub mod smmuv3;
pub mod vtd;

use std::fs::File;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use portcullis_driver::{Unit, UnitError};
use portcullis_model::vtd::config::ConfigError;
use portcullis_model::{
    AccessError, GuestMemory, InterruptSink, Message, NoInterrupts, OwnedMemory, Undelivered, VmMemory,
};
use portcullis_spec::{Iova, Pasid, PhysAddr, Requester};
use rustix::mm::{MapFlags, ProtFlags};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

pub use backend::EmbeddedBackend;
pub use bus::Bus;
pub use interrupts::Controller;
pub use machine::Machine;
use machine::Reach;
pub use platform::Host;
pub use plug::Plugs;
pub use registers::UnitRegisters;
pub use riscv::RiscvMachine;
pub use smmuv3::Smmuv3Machine;
pub use vtd::{VtdMachine, VtdOptions as EmbeddedOptions};

/// A domain of the embedded unit.
pub type EmbeddedDomain<M = VtdMachine> = portcullis_driver::Domain<<M as Machine>::Driver>;

/// Names of the architectures that the platform can simulate.
pub const ARCHITECTURES: [&str; 3] = [VtdMachine::NAME, Smmuv3Machine::NAME, RiscvMachine::NAME];

/// A platform of the architecture called `name`, with everything that its model has; `None` where there is none of that name.
#[must_use]
pub fn simulate(
    name: &str,
    devices: &[(&str, device::Kind)],
) -> Option<Result<Box<dyn crate::Backend>, EmbeddedError>> {
    fn of<M: Machine>(devices: &[(&str, device::Kind)]) -> Result<Box<dyn crate::Backend>, EmbeddedError> {
        Ok(Box::new(EmbeddedBackend::<M>::of(M::Options::default(), devices)?))
    }
    match name {
        VtdMachine::NAME => Some(of::<VtdMachine>(devices)),
        Smmuv3Machine::NAME => Some(of::<Smmuv3Machine>(devices)),
        RiscvMachine::NAME => Some(of::<RiscvMachine>(devices)),
        _ => None,
    }
}

/// Why the embedded platform could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// The configuration of the VT-d model contradicts itself.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// That of the SMMUv3 model does.
    #[error(transparent)]
    Smmuv3(#[from] portcullis_model::smmuv3::config::ConfigError),
    /// That of the RISC-V model does.
    #[error(transparent)]
    Riscv(#[from] portcullis_model::riscv::config::ConfigError),
    /// The driver refuses the model.
    #[error(transparent)]
    Driver(#[from] portcullis_driver::Error),
    /// No place in the simulated physical memory.
    #[error("no place for {bytes} bytes in simulated physical memory")]
    NoPlace {
        /// How many were to be placed.
        bytes: u64,
    },
    /// A segment has no more requester IDs.
    #[error("{asked} simulated devices; there is room for {most}")]
    TooManyDevices {
        /// How many were asked for.
        asked: usize,
        /// How many there can be.
        most: usize,
    },
    /// Memory could not be mapped into this process.
    #[error("memory cannot be mapped: {0}")]
    Map(String),
}

impl From<UnitError> for EmbeddedError {
    fn from(error: UnitError) -> Self {
        Self::Driver(portcullis_driver::Error::Unit(error))
    }
}

/// Passes devices' messages on, and keeps the unit's own.
struct Signals {
    devices: Arc<dyn InterruptSink>,
    faults: Mutex<bool>,
    changed: Condvar,
}

impl InterruptSink for Signals {
    fn send(&self, message: Message) -> Result<(), Undelivered> {
        if message.source.is_some() {
            return self.devices.send(message);
        }
        *self.faults.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
        Ok(())
    }
}

/// One unit with everything behind it. Every device is blocked until it is attached.
pub struct Embedded<M: Machine = VtdMachine> {
    bus: Arc<Bus>,
    model: portcullis_model::Unit<M::Model>,
    unit: Unit<M::Driver>,
    signals: Arc<Signals>,
}

impl Embedded {
    /// A VT-d platform whose devices' interrupts go nowhere.
    ///
    /// # Errors
    /// [`EmbeddedError::Config`] or [`EmbeddedError::Driver`].
    pub fn new(options: EmbeddedOptions) -> Result<Self, EmbeddedError> {
        Self::of(options, Arc::new(NoInterrupts))
    }

    /// A VT-d platform whose devices' interrupt messages go to `interrupts`.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_interrupts(
        options: EmbeddedOptions,
        interrupts: Arc<dyn InterruptSink>,
    ) -> Result<Self, EmbeddedError> {
        Self::of(options, interrupts)
    }
}

impl<M: Machine> Embedded<M> {
    /// A platform of any architecture whose devices' interrupt messages go to `interrupts`.
    ///
    /// # Errors
    /// [`EmbeddedError::Config`] or [`EmbeddedError::Driver`].
    pub fn of(options: M::Options, interrupts: Arc<dyn InterruptSink>) -> Result<Self, EmbeddedError> {
        let bus = Arc::new(Bus::default());
        let signals =
            Arc::new(Signals { devices: interrupts, faults: Mutex::new(false), changed: Condvar::new() });
        let host = Arc::new(Host::new(bus.clone()));
        let (model, driver) = M::build(options, bus.clone(), signals.clone(), host)?;
        let unit = Unit::new(driver);
        unit.signal_faults(Some(M::FAULT_SIGNAL));
        unit.enable()?;
        Ok(Self { bus, model, unit, signals })
    }

    /// The unit: devices are added and attached here, domains made, faults read.
    #[must_use]
    pub const fn unit(&self) -> &Unit<M::Driver> {
        &self.unit
    }

    /// The architecture's own side.
    #[must_use]
    pub const fn model(&self) -> &portcullis_model::Unit<M::Model> {
        &self.model
    }

    /// The simulated physical memory.
    #[must_use]
    pub const fn bus(&self) -> &Arc<Bus> {
        &self.bus
    }

    /// Zeroed memory of the process's own; where it lies in simulated physical memory.
    ///
    /// # Errors
    /// [`EmbeddedError::NoPlace`].
    pub fn add_memory(&self, bytes: u64) -> Result<PhysAddr, EmbeddedError> {
        let no_place = EmbeddedError::NoPlace { bytes };
        let Ok(length) = usize::try_from(bytes) else { return Err(no_place) };
        self.bus
            .add(bytes, true, |place| {
                Ok::<_, EmbeddedError>(Arc::new(OwnedMemory::at(place, length)) as Arc<dyn GuestMemory>)
            })
            .map_err(|error| error.unwrap_or(no_place))
    }

    /// A file's first `bytes` bytes, shared with whoever else has it; where they lie in simulated physical memory. The file must not
    /// shrink meanwhile (a sealed memfd can't). Unless `writable`, no device writes to it, whatever a domain says.
    ///
    /// # Errors
    /// [`EmbeddedError::NoPlace`], [`EmbeddedError::Map`].
    pub fn add_file(&self, file: Arc<File>, bytes: u64, writable: bool) -> Result<PhysAddr, EmbeddedError> {
        let no_place = EmbeddedError::NoPlace { bytes };
        let Ok(length) = usize::try_from(bytes) else { return Err(no_place) };
        let protection = if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        let say = |error: &dyn std::fmt::Display| EmbeddedError::Map(error.to_string());
        self.bus
            .add(bytes, writable, |place| {
                let mapping = MmapRegion::<()>::build(
                    Some(FileOffset::from_arc(file, 0)),
                    length,
                    protection.bits() as i32,
                    (MapFlags::SHARED | MapFlags::NORESERVE).bits() as i32,
                )
                .map_err(|error| say(&error))?;
                let region = GuestRegionMmap::new(mapping, GuestAddress(place.0))
                    .ok_or(EmbeddedError::NoPlace { bytes })?;
                let memory = GuestMemoryMmap::from_regions(vec![region]).map_err(|error| say(&error))?;
                Ok::<_, EmbeddedError>(Arc::new(VmMemory(memory)) as Arc<dyn GuestMemory>)
            })
            .map_err(|error| error.unwrap_or(no_place))
    }

    /// Takes memory out of the platform. No domain maps it any more.
    pub fn remove_memory(&self, place: PhysAddr) {
        self.bus.remove(place);
    }

    /// A device's DMA, with a PASID or none.
    #[must_use]
    pub fn engine(&self, device: impl Into<Requester>, pasid: Option<Pasid>) -> Engine {
        Engine { port: Box::new(self.model.port(M::id(device.into()), pasid)) }
    }

    /// Waits until the unit has said that faults wait, at most `timeout`. Whether it has.
    pub fn wait_for_faults(&self, timeout: Duration) -> bool {
        let waiting = self.signals.faults.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut waiting, _) = self
            .signals
            .changed
            .wait_timeout_while(waiting, timeout, |waiting| !*waiting)
            .unwrap_or_else(PoisonError::into_inner);
        core::mem::take(&mut *waiting)
    }
}

/// A simulated DMA engine: what a device does on its own.
pub struct Engine {
    port: Box<dyn Reach>,
}

impl Clone for Engine {
    fn clone(&self) -> Self {
        Self { port: self.port.another() }
    }
}

impl Engine {
    /// Reads memory.
    ///
    /// # Errors
    /// The first request that was refused or met no memory.
    pub fn read(&self, address: Iova, buffer: &mut [u8]) -> Result<(), AccessError> {
        self.port.read(address, buffer)
    }

    /// Writes memory, or, with 4 bytes to the interrupt range, sends a message.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn write(&self, address: Iova, bytes: &[u8]) -> Result<(), AccessError> {
        self.port.write(address, bytes)
    }

    /// Reads `length` bytes and writes them elsewhere, a page at a time.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn copy(&self, from: Iova, to: Iova, length: u64) -> Result<(), AccessError> {
        let mut buffer = [0; 4096];
        let mut done = 0;
        while done < length {
            let count = (length - done).min(4096);
            let piece = &mut buffer[..count as usize];
            self.read(Iova(from.0.wrapping_add(done)), piece)?;
            self.write(Iova(to.0.wrapping_add(done)), piece)?;
            done += count;
        }
        Ok(())
    }
}
