//! What the embedded platform asks of an architecture: its driver over its model, face to face.
//!
//! One file an architecture ([`vtd`](super::vtd)); everything else of the platform knows none.

use std::sync::Arc;

use portcullis_driver::FaultSignal;
use portcullis_driver::common::architecture::Architecture as Driver;
use portcullis_model::engine::Architecture;
use portcullis_model::{AccessError, GuestMemory, InterruptSink, Model, Port, Unit};
use portcullis_spec::{InterruptRoute, Iova, Requester};

use super::{EmbeddedError, Host};
use crate::inventory::UnitKind;

/// An architecture that has both sides.
pub trait Machine: 'static {
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
    /// The architecture's part of the model.
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
    ) -> Result<(Unit<Self::Model>, Self::Driver), EmbeddedError>;

    /// How vector `vector` of the device with this number goes to the machine's interrupt controller, and the address and data with
    /// which it arrives there; nothing where the machine has no controller that the unit's driver could lead it to.
    fn line(_number: u16, _vector: u32) -> Option<(InterruptRoute, (u64, u32))> {
        None
    }

    /// The requester that the unit sees for the device with this number.
    fn requester(number: u16) -> Requester;

    /// What the model calls a requester.
    fn id(requester: Requester) -> <Self::Model as Model>::RequesterId;
}

/// A device's way to memory, whatever the architecture.
pub(super) trait Reach: Send {
    fn read(&self, address: Iova, buffer: &mut [u8]) -> Result<(), AccessError>;
    fn write(&self, address: Iova, bytes: &[u8]) -> Result<(), AccessError>;
    fn another(&self) -> Box<dyn Reach>;
}

impl<A: Architecture> Reach for Port<A> {
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
