//! Arm SMMUv3 on the embedded platform.

use std::sync::Arc;

use portcullis_driver::FaultSignal;
use portcullis_driver::smmuv3 as driver;
use portcullis_model::smmuv3::config::Smmuv3Config;
use portcullis_model::smmuv3::{Smmuv3, Smmuv3Unit};
use portcullis_model::{GuestMemory, InterruptSink};
use portcullis_spec::Requester;

use super::registers::UnitRegisters;
use super::{EmbeddedError, Host, Machine};
use crate::inventory::UnitKind;

/// What the platform is to be like.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Smmuv3Options {
    /// The unit.
    pub unit: Smmuv3Config,
}

impl Default for Smmuv3Options {
    /// A unit with everything that the model has.
    fn default() -> Self {
        Self { unit: Smmuv3Config::full() }
    }
}

/// An SMMUv3 unit.
pub struct Smmuv3Machine;

impl Machine for Smmuv3Machine {
    const NAME: &'static str = "smmuv3";
    const KIND: UnitKind = UnitKind::SmmuV3;
    const RECORD_WORDS: u8 = 4;
    const RESERVED_BY: &'static str = "Arm SMMUv3";
    const FAULT_SIGNAL: FaultSignal = FaultSignal { address: 0xfee0_0000, data: 0 };

    type Options = Smmuv3Options;
    type Model = Smmuv3;
    type Driver = driver::Smmuv3<UnitRegisters<Smmuv3Unit>, Arc<Host>>;

    fn build(
        options: Smmuv3Options,
        memory: Arc<dyn GuestMemory>,
        signals: Arc<dyn InterruptSink>,
        host: Arc<Host>,
    ) -> Result<(Smmuv3Unit, Self::Driver), EmbeddedError> {
        let model = Smmuv3Unit::new(options.unit, memory, signals)?;
        // 4096 events, so that one device's do not crowd out another's before they are read.
        let options = driver::Options { event_queue_size: 5, ..driver::Options::default() };
        let driver = driver::Smmuv3::start(UnitRegisters(model.clone()), host, options)?;
        Ok((model, driver))
    }

    fn requester(number: u16) -> Requester {
        Requester::Stream(number.into())
    }

    fn id(requester: Requester) -> u32 {
        requester.index()
    }
}
