//! A unit as a machine holds it: registers on one side, ports on the other.

use std::sync::Arc;

use portcullis_spec::{Pasid, Requester};

use crate::engine::{Architecture, Engine};
use crate::interrupt::InterruptSink;
use crate::memory::GuestMemory;
use crate::port::Port;

/// What an architecture supplies for a unit of it to be built.
pub trait Model: Architecture + Sized {
    /// What a unit can be built with.
    type Config;

    /// What a configuration can contradict itself in.
    type ConfigError;

    /// How devices are told apart on one unit.
    type RequesterId;

    /// The architecture's part of a unit after reset, and the memory as the unit reaches it.
    ///
    /// # Errors
    /// Where the configuration contradicts itself.
    fn build(
        config: Self::Config,
        memory: Arc<dyn GuestMemory>,
        sink: Arc<dyn InterruptSink>,
    ) -> Result<(Self, Arc<dyn GuestMemory>), Self::ConfigError>;

    /// What the unit was built with.
    fn config(&self) -> &Self::Config;

    /// The requester with this ID.
    fn requester(&self, id: Self::RequesterId) -> Requester;

    /// Faults since reset of which there is no record.
    fn unrecorded_faults(&self) -> u64;

    /// From now on, keeps what the architecture caches by itself until that is invalidated.
    fn retain(&self) {}
}

/// A unit. Clones are the same unit.
pub struct Unit<M: Model> {
    pub(crate) engine: Arc<Engine<M>>,
}

impl<M: Model> Clone for Unit<M> {
    fn clone(&self) -> Self {
        Self { engine: Arc::clone(&self.engine) }
    }
}

impl<M: Model> Unit<M> {
    /// A unit after reset: all DMA passes, or none where the architecture or the configuration says so. Messages, its own and
    /// its devices', go to `sink`.
    ///
    /// # Errors
    /// Where the configuration contradicts itself.
    pub fn new(
        config: M::Config,
        memory: Arc<dyn GuestMemory>,
        sink: Arc<dyn InterruptSink>,
    ) -> Result<Self, M::ConfigError> {
        let (model, memory) = M::build(config, memory, sink)?;
        Ok(Self { engine: Arc::new(Engine::new(model, memory)) })
    }

    /// Keeps whole translations until they are invalidated, as hardware may, so that what software forgets to invalidate
    /// shows: for simulators and tests. To be called before the unit is used.
    pub fn retain_translations(&self) {
        self.engine.retain_translations();
        self.model().retain();
    }

    /// What the unit was built with.
    #[must_use]
    pub fn config(&self) -> &M::Config {
        self.model().config()
    }

    /// A port for the device with this ID: a requester ID (bus, device and function) on VT-d, on the unit's segment; a StreamID on
    /// SMMUv3; a device_id on RISC-V, of which 24 bits count. With a PASID (SubstreamID, process_id) or none.
    #[must_use]
    pub fn port(&self, id: M::RequesterId, pasid: Option<Pasid>) -> Port<M> {
        Port::new(Arc::clone(&self.engine), self.model().requester(id), pasid)
    }

    /// Faults since reset of which there is no record, as there was no room for one: all that software sees of them is a flag
    /// (FSTS.PFO on VT-d, EVENTQ_PROD.OVFLG on SMMUv3, `fqcsr.fqof` on RISC-V).
    #[must_use]
    pub fn unrecorded_faults(&self) -> u64 {
        self.model().unrecorded_faults()
    }

    pub(crate) fn model(&self) -> &M {
        &self.engine.architecture
    }

    pub(crate) fn memory(&self) -> &dyn GuestMemory {
        self.engine.memory()
    }
}
