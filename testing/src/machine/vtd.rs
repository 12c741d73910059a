//! Machines with Intel VT-d.

use super::MachineError;
use super::model::{ModelMachine, modelled};
use super::qemu::Board;
use super::ram::Ram;
use crate::qtest::pci::ConfigAccess;
use portcullis_model::vtd::config::{ScalableConfig, VtdConfig};
use portcullis_model::vtd::{VtdPort, VtdUnit};
use portcullis_model::{InterruptSink, NoInterrupts, VmMemory};
use portcullis_spec::{PciAddress, Requester};
use std::sync::Arc;

/// What QEMU's `intel-iommu` is asked to be.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mode {
    /// Legacy mode, second-stage tables of 3 levels.
    Legacy39,
    /// Legacy mode, second-stage tables of 4 levels.
    Legacy48,
    /// Scalable mode, first-stage tables of 4 levels.
    FirstStage48,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Legacy39, Self::Legacy48, Self::FirstStage48];

    /// Input address bits.
    #[must_use]
    pub const fn address_bits(self) -> u8 {
        match self {
            Self::Legacy39 => 39,
            Self::Legacy48 | Self::FirstStage48 => 48,
        }
    }

    const fn properties(self) -> &'static str {
        match self {
            Self::Legacy39 => "aw-bits=39",
            Self::Legacy48 => "aw-bits=48",
            Self::FirstStage48 => "aw-bits=48,x-scalable-mode=on,x-flts=on",
        }
    }
}

/// QEMU's q35 with this unit.
#[must_use]
pub fn board(mode: Mode) -> Board {
    let machine = "q35,kernel-irqchip=split,memory-backend=ram";
    let unit = format!("intel-iommu,intremap=off,{}", mode.properties());
    Board {
        program: "qemu-system-x86_64",
        arguments: ["-machine", machine, "-device", &unit].map(str::to_owned).to_vec(),
        ram: 0,
        config: ConfigAccess::Ports,
        pci_memory: 0xc000_0000,
        registers: 0xfed9_0000,
    }
}

/// QEMU's q35 with a unit that remaps interrupts, in legacy mode.
#[must_use]
pub fn board_with_interrupts() -> Board {
    let mut board = board(Mode::Legacy48);
    for argument in &mut board.arguments {
        *argument = argument.replace("intremap=off", "intremap=on,eim=off");
    }
    board
}

/// Who a requester ID is.
#[must_use]
pub fn requester(requester_id: u16) -> Requester {
    Requester::Pci(PciAddress { segment: 0, requester_id })
}

/// The requester IDs of QEMU's engines, in their order.
const ENGINES: [u16; 5] = [0x10, 0x18, 0x19, 0x100, 0xa8];

/// Our model, with what QEMU's unit has and no more.
#[must_use]
pub fn like_qemu(mode: Mode) -> VtdConfig {
    let scalable = ScalableConfig {
        first_stage: true,
        first_stage_five_level: false,
        first_stage_1g: true,
        second_stage: false,
        nested: false,
        second_stage_flags: false,
        pasid_bits: None,
        supervisor: false,
        extended_accessed: false,
        page_walk_coherency: false,
        rid_pasid: false,
        rid_priv: false,
    };
    VtdConfig {
        version: (1, 0),
        host_address_bits: mode.address_bits(),
        guest_address_bits: mode.address_bits(),
        four_level: mode != Mode::Legacy39,
        fault_records: 1,
        collapse_faults: true,
        zero_length_reads: false,
        enhanced_set_root: false,
        coherent: false,
        scalable: (mode == Mode::FirstStage48).then_some(scalable),
        ..VtdConfig::default()
    }
}

modelled!(VtdModel, VtdUnit, VtdPort);

/// A machine with our model.
pub type VtdMachine = ModelMachine<VtdModel>;

/// A machine with a model of this configuration.
///
/// # Errors
/// Where there is no memory for it, or no such unit.
pub fn model(config: VtdConfig) -> Result<VtdMachine, MachineError> {
    model_into(config, Arc::new(NoInterrupts))
}

/// As [`model`], with devices' messages delivered to `interrupts`.
///
/// # Errors
/// Where there is no memory for it, or no such unit.
pub fn model_into(config: VtdConfig, interrupts: Arc<dyn InterruptSink>) -> Result<VtdMachine, MachineError> {
    let ram = Ram::new(0, None)?;
    let memory = Arc::new(VmMemory(ram.guest().clone()));
    let unit = VtdUnit::new(config, memory, interrupts);
    let unit = unit.map_err(|error| MachineError::Model(error.to_string()))?;
    let unit = VtdModel::new(unit);
    Ok(ModelMachine::new(unit, ram, ENGINES.map(requester).to_vec()))
}
