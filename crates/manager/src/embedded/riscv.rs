//! The RISC-V IOMMU on the embedded platform.

use std::sync::Arc;

use portcullis_driver::FaultSignal;
use portcullis_driver::riscv as driver;
use portcullis_model::riscv::config::RiscvConfig;
use portcullis_model::riscv::{Riscv, RiscvUnit};
use portcullis_model::{GuestMemory, InterruptSink};
use portcullis_spec::Requester;

use super::registers::UnitRegisters;
use super::{EmbeddedError, Host, Machine};
use crate::inventory::UnitKind;

/// What the platform is to be like.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RiscvOptions {
    /// The unit.
    pub unit: RiscvConfig,
}

impl Default for RiscvOptions {
    /// A unit with everything that the model has.
    fn default() -> Self {
        Self { unit: RiscvConfig::full() }
    }
}

/// A RISC-V IOMMU unit.
pub struct RiscvMachine;

impl Machine for RiscvMachine {
    const NAME: &'static str = "riscv";
    const KIND: UnitKind = UnitKind::Riscv;
    const RECORD_WORDS: u8 = 4;
    const RESERVED_BY: &'static str = "The RISC-V IOMMU";
    const FAULT_SIGNAL: FaultSignal = FaultSignal { address: 0xfee0_0000, data: 0 };

    type Options = RiscvOptions;
    type Model = Riscv;
    type Driver = driver::Riscv<UnitRegisters<RiscvUnit>, Arc<Host>>;

    fn build(
        options: RiscvOptions,
        memory: Arc<dyn GuestMemory>,
        signals: Arc<dyn InterruptSink>,
        host: Arc<Host>,
    ) -> Result<(RiscvUnit, Self::Driver), EmbeddedError> {
        let model = RiscvUnit::new(options.unit, memory, signals)?;
        // 4096 records, so that one device's do not crowd out another's before they are read.
        let options = driver::Options { fault_queue_size: 5, ..driver::Options::default() };
        let driver = driver::Riscv::start(UnitRegisters(model.clone()), host, options)?;
        Ok((model, driver))
    }

    fn requester(number: u16) -> Requester {
        Requester::Device(number.into())
    }

    fn id(requester: Requester) -> u32 {
        requester.index()
    }
}
