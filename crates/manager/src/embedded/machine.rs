//! What the embedded platform asks of an architecture: its driver over its model, face to face.
//!
//! One file an architecture ([`vtd`](super::vtd)); everything else of the platform knows none.

use std::sync::Arc;

use portcullis_driver::FaultSignal;
use portcullis_driver::common::architecture::Architecture as Driver;
use portcullis_model::engine::Architecture as Model;
use portcullis_model::{AccessError, GuestMemory, InterruptSink, Port};
use portcullis_spec::{InterruptRoute, Iova, Pasid, Requester};

use super::{EmbeddedError, Host};
use crate::inventory::UnitKind;

/// An architecture that has both sides.
pub trait Machine: Sized + Send + Sync + 'static {
    /// What people call it: `vtd`.
    const NAME: &'static str;
    /// Its kind.
    const KIND: UnitKind;
    /// Words of a raw fault record.
    const RECORD_WORDS: u8;
    /// Where it says that the regions which [`Features::reserved`](portcullis_driver::Features::reserved) names are so.
    const RESERVED_BY: &'static str;
    /// How the unit says that faults wait: a message that no device can send, as it lacks a source.
    const FAULT_SIGNAL: FaultSignal;

    /// What can be chosen.
    type Options: Default + Clone;
    /// The architecture's part of the model, for ports.
    type Model: Model;
    /// The architecture's part of the driver.
    type Driver: Driver<Platform = Arc<Host>> + Send + Sync;

    /// A unit over this memory, whose messages go to `signals`, and its driver, which blocks everything. Not enabled yet.
    ///
    /// # Errors
    /// [`EmbeddedError::Config`] or [`EmbeddedError::Driver`].
    fn build(
        options: Self::Options,
        memory: Arc<dyn GuestMemory>,
        signals: Arc<dyn InterruptSink>,
        host: Arc<Host>,
    ) -> Result<(Self, Self::Driver), EmbeddedError>;

    /// Faults since the start of which the unit kept no record. To software an overflowed unit says only that at least one is gone;
    /// its model counts them.
    fn unrecorded(&self) -> u64;

    /// How vector `vector` of the device with this number goes to the machine's interrupt controller, and the address and data with
    /// which it arrives there; nothing where the machine has no controller that the unit's driver could lead it to.
    fn line(_number: u16, _vector: u32) -> Option<(InterruptRoute, (u64, u32))> {
        None
    }

    /// The requester that the unit sees for the device with this number.
    fn requester(number: u16) -> Requester;

    /// A port of the model.
    fn port(&self, requester: Requester, pasid: Option<Pasid>) -> Port<Self::Model>;
}

/// A device's way to memory, whatever the architecture.
pub(super) trait Reach: Send + Sync {
    fn read(&self, address: Iova, buffer: &mut [u8]) -> Result<(), AccessError>;
    fn write(&self, address: Iova, bytes: &[u8]) -> Result<(), AccessError>;
    fn another(&self) -> Box<dyn Reach>;
}

impl<M: Model> Reach for Port<M> {
    fn read(&self, address: Iova, buffer: &mut [u8]) -> Result<(), AccessError> {
        Port::read(self, address, buffer)
    }

    fn write(&self, address: Iova, bytes: &[u8]) -> Result<(), AccessError> {
        Port::write(self, address, bytes)
    }

    fn another(&self) -> Box<dyn Reach> {
        Box::new(self.clone())
    }
}
