//! Intel VT-d, in legacy mode and in scalable mode.

use super::Kind;
use super::ram::Ram;
use portcullis_driver::vtd::{self, Mode};
use portcullis_manager::embedded::UnitRegisters;
use portcullis_model::vtd::config::VtdConfig;
use portcullis_model::vtd::{Vtd as Model, VtdUnit};
use portcullis_model::{GuestMemory, NoInterrupts, Port};
use portcullis_spec::{PagingFormat, Pasid, PciAddress, PhysAddr, Requester};
use std::sync::Arc;

/// A VT-d unit.
pub struct Vtd<const SCALABLE: bool>(VtdUnit);

/// In legacy mode: context entries lead to second-stage tables.
pub type Legacy = Vtd<false>;
/// In scalable mode: context entries lead to PASID tables.
pub type Scalable = Vtd<true>;

impl<const SCALABLE: bool> Kind for Vtd<SCALABLE> {
    const NAME: &'static str = if SCALABLE { "vtd-scalable" } else { "vtd" };
    type Model = Model;
    type Driver = vtd::Vtd<UnitRegisters<VtdUnit>, Arc<Ram>>;

    fn build(memory: Arc<dyn GuestMemory>, ram: Arc<Ram>) -> (Self, Self::Driver) {
        let config = VtdConfig::full();
        let host_address_bits = config.host_address_bits;
        let unit = VtdUnit::new(config, memory, Arc::new(NoInterrupts)).expect("a configuration");
        let mode = if SCALABLE { Mode::Scalable } else { Mode::Legacy };
        let options = vtd::Options { host_address_bits, mode: Some(mode), ..vtd::Options::default() };
        let driver =
            vtd::Vtd::start(UnitRegisters(unit.clone()), ram, options).expect("a unit that the driver knows");
        (Self(unit), driver)
    }

    fn is_shape(format: PagingFormat) -> bool {
        format == PagingFormat::VtdSecondStage { levels: 4 }
    }

    fn leaf(page: PhysAddr) -> u64 {
        // VT-d 9.8: R and W.
        page.0 | 3
    }

    fn requester(number: u16) -> Requester {
        PciAddress { segment: 0, requester_id: number }.into()
    }

    fn port(&self, requester: Requester, pasid: Option<Pasid>) -> Port<Model> {
        self.0.port(requester.index() as u16, pasid)
    }
}
