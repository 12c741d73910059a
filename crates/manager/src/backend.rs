//! What the core asks of whoever can program IOMMUs and reach devices.
//!
//! The core decides; a back end carries out, in the order in which it is called, and decides nothing. It may assume that every
//! range was checked against the inventory it reported: aligned, inside the unit's addresses, not overlapping another mapping
//! of the space. One call is in progress at a time.
//!
//! A back end starts with every device that it reports blocked, and keeps it so until [`Backend::attach`].

use std::{
    os::fd::{BorrowedFd, OwnedFd},
    sync::Arc,
};

use portcullis_spec::{Access, Iova, Pasid, PhysAddr};

use crate::{
    inventory::{Device, DeviceId, Inventory, UnitId},
    violation::Violation,
};

/// A set of mappings that the devices attached to it share; never reused while the manager runs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SpaceId(pub u64);

/// Memory that a client brought; never reused while the manager runs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MemoryId(pub u64);

/// Why a back end did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// This back end or this hardware cannot do it, ever.
    #[error("{what} is not possible here: {why}")]
    Unsupported {
        /// What was asked.
        what: &'static str,
        /// Why not.
        why: String,
    },
    /// Someone else holds what is needed.
    #[error("{what} is held by {holder}")]
    Busy {
        /// What is needed.
        what: String,
        /// Who holds it.
        holder: String,
    },
    /// A limit of the system stands in the way; nothing was changed.
    #[error("not enough {what}: {needed} needed, {available} available; {remedy}")]
    Limit {
        /// What there is too little of.
        what: &'static str,
        /// How much is needed.
        needed: u64,
        /// How much there is.
        available: u64,
        /// What a person can do.
        remedy: String,
    },
    /// The operating system refused; nothing was changed.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// Its answer.
        source: std::io::Error,
    },
    /// The device is gone.
    #[error("the device is gone")]
    Gone,
    /// The state of the hardware is no longer known: the core goes to its safe state.
    #[error("unknown condition: {0}")]
    Unknown(String),
}

/// What a back end as a whole can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Capabilities {
    /// Mapping costs time in proportion to its bytes (memory is pinned), so long requests are made in steps.
    pub pins_memory: bool,
    /// Grants of physical addresses are possible: static `allow`, unity-mapped guests.
    pub physical: bool,
    /// Devices can be handed out as descriptors.
    pub descriptors: bool,
    /// What it guards is simulated: nothing real is protected.
    pub simulated: bool,
    /// Refused accesses are counted exactly, those without a record too; otherwise counts are lower bounds, as what guards
    /// does not say how many it kept back.
    pub counts_violations: bool,
}

/// What a mapping leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// Memory registered with [`Backend::add_memory`], from this byte of it on.
    Memory(MemoryId, u64),
    /// Physical addresses; only where [`Capabilities::physical`].
    Physical(PhysAddr),
}

/// One mapping of a space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// First address as devices use it, a multiple of the unit's smallest page.
    pub iova: Iova,
    /// Bytes, a multiple of the unit's smallest page, not 0.
    pub length: u64,
    /// What it leads to.
    pub source: Source,
    /// What devices may do.
    pub access: Access,
}

/// Something that happened to the hardware without being asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// A device appeared. It is blocked.
    Appeared(DeviceId, Device),
    /// A device disappeared; its attachments are gone with it.
    Disappeared(DeviceId),
}

/// Where violations come from, apart from the back end so that reading them disturbs nobody.
pub trait ViolationSource: Send {
    /// Waits until there is something to read, at most `timeout`, then hands every waiting record to `sink`, oldest first.
    /// Returns how many were lost by the hardware or the kernel since the last call, as far as that is known.
    ///
    /// # Errors
    ///
    /// The source is broken for good; the core goes to its safe state.
    fn read(
        &mut self,
        timeout: std::time::Duration,
        sink: &mut dyn FnMut(Violation),
    ) -> Result<u64, BackendError>;
}

/// Whoever programs IOMMUs and reaches devices.
///
/// Every error but [`BackendError::Unknown`] means that nothing was changed.
pub trait Backend: Send {
    /// A name for people: `embedded vtd`, `vfio`.
    fn name(&self) -> String;

    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Looks at what there is, and makes sure that every device which is reported with a unit is blocked unless the
    /// operating system's own driver has it.
    ///
    /// # Errors
    ///
    /// What could not be read.
    fn inventory(&mut self) -> Result<Inventory, BackendError>;

    /// The stream of violations, the first time it is asked for.
    fn violations(&mut self) -> Option<Box<dyn ViolationSource>> {
        None
    }

    /// A descriptor that can be read as soon as [`Backend::changes`] has something to tell, which empties it; the first time it
    /// is asked for.
    fn change_signal(&mut self) -> Option<OwnedFd> {
        None
    }

    /// What happened unasked since the last call.
    fn changes(&mut self) -> Vec<Change> {
        Vec::new()
    }

    /// Takes all devices of a group from their drivers. On return none of them can reach any memory.
    ///
    /// # Errors
    ///
    /// Why that is not possible; then the drivers are back.
    fn claim(&mut self, devices: &[DeviceId]) -> Result<(), BackendError>;

    /// Takes up a group's devices that a former process had claimed, for the client that had them: what they reach stays as it
    /// is until [`Backend::settle`]. Only before that.
    ///
    /// # Errors
    ///
    /// Nothing of theirs was kept; [`BackendError::Unsupported`] where nothing can be.
    fn resume(&mut self, _devices: &[DeviceId]) -> Result<(), BackendError> {
        Err(BackendError::Unsupported {
            what: "taking up what a former process had",
            why: "nothing of it is left".into(),
        })
    }

    /// Removes whatever part of a range of a space a former process had mapped without our knowing how much of it.
    ///
    /// # Errors
    ///
    /// Only [`BackendError::Unknown`].
    fn clear(&mut self, _space: SpaceId, _iova: Iova, _length: u64) -> Result<(), BackendError> {
        Ok(())
    }

    /// All that is to be taken up of a former process is: whatever else its devices reach is taken away, and they are given back.
    ///
    /// # Errors
    ///
    /// Only [`BackendError::Unknown`].
    fn settle(&mut self) -> Result<(), BackendError> {
        Ok(())
    }

    /// Makes the device stop: on return it issues no more DMA of its own, or is blocked if it cannot be stopped.
    ///
    /// # Errors
    ///
    /// Only [`BackendError::Gone`] and [`BackendError::Unknown`].
    fn quiesce(&mut self, device: DeviceId) -> Result<(), BackendError>;

    /// Brings a quiesced device back to the state it has after power-on, so that nothing of one client reaches the next.
    ///
    /// # Errors
    ///
    /// As [`Backend::quiesce`]; [`BackendError::Unsupported`] where a device has no reset.
    fn reset(&mut self, device: DeviceId) -> Result<(), BackendError>;

    /// Gives a group's devices back to the drivers that they were taken from.
    ///
    /// # Errors
    ///
    /// What could not be restored; the devices stay blocked.
    fn release(&mut self, devices: &[DeviceId]) -> Result<(), BackendError>;

    /// The device's own descriptor, for the client that has claimed it, or `None` where devices have none.
    ///
    /// # Errors
    ///
    /// Why there is none.
    fn device_descriptor(&mut self, _device: DeviceId) -> Result<Option<OwnedFd>, BackendError> {
        Ok(None)
    }

    /// Has the device's interrupts signal these event descriptors, the first for vector 0, instead of those before. With none its
    /// interrupts reach nobody: on return none is under way.
    ///
    /// # Errors
    ///
    /// Why that is not possible; none reaches anybody then. With none, only [`BackendError::Gone`] and [`BackendError::Unknown`].
    fn set_interrupts(&mut self, _device: DeviceId, _events: Vec<OwnedFd>) -> Result<(), BackendError> {
        Err(BackendError::Unsupported {
            what: "granting interrupts",
            why: "this back end leads no interrupts".into(),
        })
    }

    /// Makes a client's memory known. It is sealed against shrinking and `length` bytes long.
    ///
    /// # Errors
    ///
    /// Why it cannot be used.
    fn add_memory(
        &mut self,
        memory: MemoryId,
        file: Arc<OwnedFd>,
        length: u64,
        writable: bool,
    ) -> Result<(), BackendError>;

    /// Forgets memory that no mapping leads to any more.
    ///
    /// # Errors
    ///
    /// Only [`BackendError::Unknown`].
    fn remove_memory(&mut self, memory: MemoryId) -> Result<(), BackendError>;

    /// Makes an empty space for devices behind `unit`.
    ///
    /// # Errors
    ///
    /// Why that is not possible.
    fn create_space(&mut self, space: SpaceId, unit: UnitId) -> Result<(), BackendError>;

    /// Removes a space that no device is attached to, with all its mappings.
    ///
    /// # Errors
    ///
    /// Only [`BackendError::Unknown`].
    fn destroy_space(&mut self, space: SpaceId) -> Result<(), BackendError>;

    /// Lets a claimed device, or one PASID of it, reach what the space maps. Where the hardware knows only groups, this is
    /// called for every device of the group, one after the other.
    ///
    /// # Errors
    ///
    /// Why that is not possible.
    fn attach(&mut self, space: SpaceId, device: DeviceId, pasid: Option<Pasid>) -> Result<(), BackendError>;

    /// Takes the space away from a device. On return the device (or that PASID of it) reaches nothing.
    ///
    /// # Errors
    ///
    /// Only [`BackendError::Gone`] and [`BackendError::Unknown`].
    fn detach(&mut self, space: SpaceId, device: DeviceId, pasid: Option<Pasid>) -> Result<(), BackendError>;

    /// Adds a mapping; on return devices can use it.
    ///
    /// # Errors
    ///
    /// Why that is not possible; then none of it is mapped.
    fn map(&mut self, space: SpaceId, mapping: &Mapping) -> Result<(), BackendError>;

    /// Adds mappings in order. The default calls [`Backend::map`] for each.
    ///
    /// # Errors
    ///
    /// How many were made, and why the next was not.
    fn map_batch(&mut self, space: SpaceId, mappings: &[Mapping]) -> Result<(), (usize, BackendError)> {
        for (done, mapping) in mappings.iter().enumerate() {
            self.map(space, mapping).map_err(|error| (done, error))?;
        }
        Ok(())
    }

    /// Removes a whole mapping, made by one [`Backend::map`]. On return no device can reach it, nor has any access to it
    /// in flight.
    ///
    /// # Errors
    ///
    /// Only [`BackendError::Unknown`].
    fn unmap(&mut self, space: SpaceId, mapping: &Mapping) -> Result<(), BackendError>;

    /// Removes whole mappings. The default calls [`Backend::unmap`] for each; one invalidation for all is faster.
    ///
    /// # Errors
    ///
    /// Only [`BackendError::Unknown`].
    fn unmap_batch(&mut self, space: SpaceId, mappings: &[Mapping]) -> Result<(), BackendError> {
        mappings.iter().try_for_each(|mapping| self.unmap(space, mapping))
    }

    /// The safe state: blocks every device, whatever else is broken. Called once, and nothing after it.
    fn block_everything(&mut self);

    /// Descriptors that must outlive this process for its devices to stay blocked over a restart, with names that
    /// [`Backend::adopt`] knows.
    fn keep(&self) -> Vec<(String, BorrowedFd<'_>)> {
        Vec::new()
    }

    /// Takes back descriptors that a former process kept, before [`Backend::inventory`] is asked for.
    fn adopt(&mut self, _kept: Vec<(String, OwnedFd)>) {}

    /// DMA requests of a device since it was claimed, where that can be counted: reads and writes that arrived.
    fn traffic(&self, _device: DeviceId) -> Option<u64> {
        None
    }
}
