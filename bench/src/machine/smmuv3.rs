//! The Arm SMMUv3.

use super::Kind;
use super::ram::Ram;
use portcullis_driver::smmuv3;
use portcullis_manager::embedded::UnitRegisters;
use portcullis_model::smmuv3::config::Smmuv3Config;
use portcullis_model::smmuv3::{Smmuv3 as Model, Smmuv3Unit};
use portcullis_model::{GuestMemory, NoInterrupts, Port};
use portcullis_spec::{Granule, PagingFormat, Pasid, PhysAddr, Requester};
use std::sync::Arc;

/// An SMMUv3.
pub struct Smmuv3(Smmuv3Unit);

impl Kind for Smmuv3 {
    const NAME: &'static str = "smmuv3";
    type Model = Model;
    type Driver = smmuv3::Smmuv3<UnitRegisters<Smmuv3Unit>, Arc<Ram>>;

    fn build(memory: Arc<dyn GuestMemory>, ram: Arc<Ram>) -> (Self, Self::Driver) {
        let unit = Smmuv3Unit::new(Smmuv3Config::full(), memory, Arc::new(NoInterrupts));
        let unit = unit.expect("a configuration");
        let options = smmuv3::Options::default();
        let driver = smmuv3::Smmuv3::start(UnitRegisters(unit.clone()), ram, options);
        (Self(unit), driver.expect("a unit that the driver knows"))
    }

    fn is_shape(format: PagingFormat) -> bool {
        matches!(format, PagingFormat::ArmStage1 { granule: Granule::Size4K, input_bits: 48, .. })
    }

    fn leaf(page: PhysAddr) -> u64 {
        // VMSAv8-64: a page, AP[1], AF, nG.
        page.0 | 3 | 1 << 6 | 1 << 10 | 1 << 11
    }

    fn requester(number: u16) -> Requester {
        Requester::Stream(number.into())
    }

    fn port(&self, requester: Requester, pasid: Option<Pasid>) -> Port<Model> {
        self.0.port(requester.index(), pasid)
    }
}
