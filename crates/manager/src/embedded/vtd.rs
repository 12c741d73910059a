//! Intel VT-d on the embedded platform.

use std::sync::Arc;

use portcullis_driver::FaultSignal;
use portcullis_driver::vtd::{self, InterruptOptions, Mode};
use portcullis_model::vtd::config::VtdConfig;
use portcullis_model::vtd::{Vtd, VtdUnit};
use portcullis_model::{GuestMemory, InterruptSink};
use portcullis_spec::vtd::interrupt::message;
use portcullis_spec::{DeliveryMode, DestinationMode, InterruptRoute, PciAddress, Requester, TriggerMode};

use super::registers::UnitRegisters;
use super::{EmbeddedError, Host, Machine};
use crate::inventory::UnitKind;

/// log2 of the entries of the interrupt remapping table: 512 KiB, of which only what is used costs anything.
const TABLE_BITS: u8 = 15;
/// Vectors below this are the processor's own.
const FIRST_VECTOR: u32 = 0x20;

/// What the platform is to be like.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VtdOptions {
    /// The unit.
    pub unit: VtdConfig,
    /// The mode in which the driver uses it; the best that it has where not said.
    pub mode: Option<Mode>,
}

impl Default for VtdOptions {
    /// A unit with everything that the model has, and room for as many faults as a unit can have.
    fn default() -> Self {
        Self { unit: VtdConfig { fault_records: 256, ..VtdConfig::full() }, mode: None }
    }
}

/// A VT-d unit, on segment 0 unless its configuration says otherwise.
pub struct VtdMachine;

impl Machine for VtdMachine {
    const NAME: &'static str = "vtd";
    const KIND: UnitKind = UnitKind::Vtd;
    const RECORD_WORDS: u8 = 2;
    const RESERVED_BY: &'static str = "Intel VT-d 3.14: the range of interrupts";
    const FAULT_SIGNAL: FaultSignal = FaultSignal { address: 0xfee0_0000, data: 0 };

    type Options = VtdOptions;
    type Model = Vtd;
    type Driver = vtd::Vtd<UnitRegisters<VtdUnit>, Arc<Host>>;

    fn build(
        options: VtdOptions,
        memory: Arc<dyn GuestMemory>,
        signals: Arc<dyn InterruptSink>,
        host: Arc<Host>,
    ) -> Result<(VtdUnit, Self::Driver), EmbeddedError> {
        let VtdOptions { unit, mode } = options;
        let (segment, host_address_bits) = (unit.segment, unit.host_address_bits);
        let interrupts =
            unit.interrupts.as_ref().map(|has| InterruptOptions { size: TABLE_BITS, x2apic: has.extended });
        let model = VtdUnit::new(unit, memory, signals)?;
        let options =
            vtd::Options { segment, host_address_bits, mode, interrupts, ..vtd::Options::default() };
        let driver = vtd::Vtd::start(UnitRegisters(model.clone()), host, options)?;
        Ok((model, driver))
    }

    /// A processor for each device.
    fn line(number: u16, vector: u32) -> Option<(InterruptRoute, (u64, u32))> {
        let route = InterruptRoute::Remapped {
            destination: number.into(),
            destination_mode: DestinationMode::Physical,
            delivery_mode: DeliveryMode::Fixed,
            trigger_mode: TriggerMode::Edge,
            redirection_hint: false,
            vector: u8::try_from(vector.checked_add(FIRST_VECTOR)?).ok()?,
        };
        let (address, data) = message(&route)?;
        Some((route, (address.into_bits(), data.into_bits())))
    }

    fn requester(number: u16) -> Requester {
        PciAddress { segment: 0, requester_id: number }.into()
    }

    fn id(requester: Requester) -> u16 {
        requester.index() as u16
    }
}
