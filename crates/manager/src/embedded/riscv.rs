//! The RISC-V IOMMU on the embedded platform.

use std::sync::Arc;

use portcullis_driver::FaultSignal;
use portcullis_driver::platform::Mmio;
use portcullis_driver::riscv as driver;
use portcullis_model::riscv::config::RiscvConfig;
use portcullis_model::riscv::{Riscv, RiscvUnit};
use portcullis_model::{GuestMemory, InterruptSink, Port};
use portcullis_spec::{Pasid, Requester};

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
pub struct RiscvMachine(RiscvUnit);

impl RiscvMachine {
    /// The model that plays the unit.
    #[must_use]
    pub const fn model(&self) -> &RiscvUnit {
        &self.0
    }
}

impl Machine for RiscvMachine {
    const NAME: &'static str = "riscv";
    const KIND: UnitKind = UnitKind::Riscv;
    const RECORD_WORDS: u8 = 4;
    const RESERVED_BY: &'static str = "The RISC-V IOMMU";
    const FAULT_SIGNAL: FaultSignal = FaultSignal { address: 0xfee0_0000, data: 0 };

    type Options = RiscvOptions;
    type Model = Riscv;
    type Driver = driver::Riscv<RiscvRegisters, Arc<Host>>;

    fn build(
        options: RiscvOptions,
        memory: Arc<dyn GuestMemory>,
        signals: Arc<dyn InterruptSink>,
        host: Arc<Host>,
    ) -> Result<(Self, Self::Driver), EmbeddedError> {
        let model = RiscvUnit::new(options.unit, memory, signals)?;
        // 4096 records, so that one device's do not crowd out another's before they are read.
        let options = driver::Options { fault_queue_size: 5, ..driver::Options::default() };
        let driver = driver::Riscv::start(RiscvRegisters(model.clone()), host, options)?;
        Ok((Self(model), driver))
    }

    fn requester(number: u16) -> Requester {
        Requester::Device(number.into())
    }

    fn port(&self, requester: Requester, pasid: Option<Pasid>) -> Port<Riscv> {
        self.0.port(requester.index(), pasid)
    }
}

/// The registers of a RISC-V IOMMU's model.
pub struct RiscvRegisters(RiscvUnit);

impl Mmio for RiscvRegisters {
    fn read32(&self, offset: u64) -> u32 {
        self.0.read32(offset)
    }

    fn read64(&self, offset: u64) -> u64 {
        self.0.read64(offset)
    }

    fn write32(&self, offset: u64, value: u32) {
        self.0.write32(offset, value);
    }

    fn write64(&self, offset: u64, value: u64) {
        self.0.write64(offset, value);
    }
}
