//! Machines with a RISC-V IOMMU.

use super::MachineError;
use super::model::{ModelMachine, modelled};
use super::qemu::Board;
use super::ram::Ram;
use crate::qtest::pci::ConfigAccess;
use portcullis_model::riscv::config::{Interrupts, RiscvConfig};
use portcullis_model::riscv::{RiscvPort, RiscvUnit};
use portcullis_model::{NoInterrupts, VmMemory};
use portcullis_spec::Requester;
use std::sync::Arc;

/// Physical address of the first byte of memory.
const RAM: u64 = 0x8000_0000;

/// What QEMU's `riscv-iommu-pci` is asked to be.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Stages {
    /// First stages only.
    First,
    /// Second stages only.
    Second,
    /// Both.
    Both,
    /// Both, and MSI page tables: device contexts have the extended format.
    Extended,
}

impl Stages {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::First, Self::Second, Self::Both, Self::Extended];

    const fn properties(self) -> &'static str {
        match self {
            Self::First => "s-stage=on,g-stage=off,intremap=off",
            Self::Second => "s-stage=off,g-stage=on,intremap=off",
            Self::Both => "s-stage=on,g-stage=on,intremap=off",
            Self::Extended => "s-stage=on,g-stage=on,intremap=on",
        }
    }
}

/// QEMU's virt with this unit, without ATS.
#[must_use]
pub fn board(stages: Stages) -> Board {
    // The first function with registers of its own: the bus gives it the first addresses.
    let unit = format!("riscv-iommu-pci,addr=1,ats=off,{}", stages.properties());
    Board {
        program: "qemu-system-riscv64",
        arguments: ["-machine", "virt,memory-backend=ram", "-bios", "none", "-device", &unit]
            .map(str::to_owned)
            .to_vec(),
        ram: RAM,
        config: ConfigAccess::Memory(0x3000_0000),
        pci_memory: 0x4000_0000,
        registers: 0x4000_0000,
    }
}

/// Who a requester ID is to QEMU: it asks for a function's device_id before buses have numbers, so that all are on bus 0.
#[must_use]
pub fn requester(requester_id: u16) -> Requester {
    Requester::Device(u32::from(requester_id & 0xff))
}

/// The requester IDs of QEMU's engines, in their order.
const ENGINES: [u16; 5] = [0x10, 0x18, 0x19, 0x100, 0xa8];

/// Our model, with what QEMU's unit has and no more; but Sv32, which it says it has.
#[must_use]
pub fn like_qemu(stages: Stages) -> RiscvConfig {
    let (first, second) = (stages != Stages::Second, stages != Stages::First);
    RiscvConfig {
        sv39: first,
        sv48: first,
        sv57: first,
        sv39x4: second,
        sv48x4: second,
        sv57x4: second,
        svpbmt: false,
        flag_updates: false,
        interrupts: Interrupts::Messages,
        msi_tables: stages == Stages::Extended,
        interrupt_files: stages == Stages::Extended,
        vectors: 4,
        counters: Some(31),
        debug: true,
        physical_bits: 56,
        pd8: true,
        pd17: false,
        pd20: false,
        ..RiscvConfig::default()
    }
}

modelled!(RiscvModel, RiscvUnit, RiscvPort);

/// A machine with our model.
pub type RiscvMachine = ModelMachine<RiscvModel>;

/// A machine with a model of this configuration.
///
/// # Errors
/// Where there is no memory for it, or no such unit.
pub fn model(config: RiscvConfig) -> Result<RiscvMachine, MachineError> {
    let ram = Ram::new(RAM, None)?;
    let memory = Arc::new(VmMemory(ram.guest().clone()));
    let unit = RiscvUnit::new(config, memory, Arc::new(NoInterrupts));
    let unit = unit.map_err(|error| MachineError::Model(error.to_string()))?;
    // As QEMU does: what a driver forgets to invalidate is to show.
    unit.retain_translations();
    let unit = RiscvModel::new(unit);
    Ok(ModelMachine::new(unit, ram, ENGINES.map(requester).to_vec()))
}
