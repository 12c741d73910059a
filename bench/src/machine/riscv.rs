//! The RISC-V IOMMU.

use super::Kind;
use super::ram::Ram;
use portcullis_driver::riscv;
use portcullis_manager::embedded::UnitRegisters;
use portcullis_model::riscv::config::RiscvConfig;
use portcullis_model::riscv::{Riscv as Model, RiscvUnit};
use portcullis_model::{GuestMemory, NoInterrupts, Port};
use portcullis_spec::{PagingFormat, Pasid, PhysAddr, Requester};
use std::sync::Arc;

/// A RISC-V unit.
pub struct Riscv(RiscvUnit);

impl Kind for Riscv {
    const NAME: &'static str = "riscv";
    type Model = Model;
    type Driver = riscv::Riscv<UnitRegisters<RiscvUnit>, Arc<Ram>>;

    fn build(memory: Arc<dyn GuestMemory>, ram: Arc<Ram>) -> (Self, Self::Driver) {
        let unit = RiscvUnit::new(RiscvConfig::full(), memory, Arc::new(NoInterrupts));
        let unit = unit.expect("a configuration");
        let options = riscv::Options::default();
        let driver = riscv::Riscv::start(UnitRegisters(unit.clone()), ram, options);
        (Self(unit), driver.expect("a unit that the driver knows"))
    }

    fn is_shape(format: PagingFormat) -> bool {
        format == PagingFormat::RiscvSv { levels: 4 }
    }

    fn leaf(page: PhysAddr) -> u64 {
        // Privileged Specification, Sv39: V, R, W, U, A, D.
        page.0 >> 12 << 10 | 0xd7
    }

    fn requester(number: u16) -> Requester {
        Requester::Device(number.into())
    }

    fn port(&self, requester: Requester, pasid: Option<Pasid>) -> Port<Model> {
        self.0.port(requester.index(), pasid)
    }
}
