//! Machines with an Arm SMMUv3.

use super::MachineError;
use super::model::{ModelMachine, modelled};
use super::qemu::Board;
use super::ram::Ram;
use crate::qtest::pci::ConfigAccess;
use portcullis_model::smmuv3::config::Smmuv3Config;
use portcullis_model::smmuv3::{Smmuv3Port, Smmuv3Unit};
use portcullis_model::{InterruptSink, NoInterrupts, VmMemory};
use portcullis_spec::Requester;
use std::sync::Arc;

/// Physical address of the first byte of memory.
const RAM: u64 = 0x4000_0000;

/// What QEMU's `arm-smmuv3` is asked to be.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Stages {
    /// Stage 1 only.
    One,
    /// Stage 2 only.
    Two,
    /// Both, one on the other where the driver asks for it.
    Nested,
}

impl Stages {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::One, Self::Two, Self::Nested];

    const fn property(self) -> &'static str {
        match self {
            Self::One => "arm-smmuv3.stage=1",
            Self::Two => "arm-smmuv3.stage=2",
            Self::Nested => "arm-smmuv3.stage=nested",
        }
    }
}

/// QEMU's virt with this unit.
#[must_use]
pub fn board(stages: Stages) -> Board {
    // From version 9.2 on the machine chooses the stages itself and no property changes that.
    let machine = "virt-9.1,iommu=smmuv3,highmem-ecam=off,gic-version=3,memory-backend=ram";
    Board {
        program: "qemu-system-aarch64",
        arguments: ["-machine", machine, "-cpu", "cortex-a57", "-global", stages.property()]
            .map(str::to_owned)
            .to_vec(),
        ram: RAM,
        config: ConfigAccess::Memory(0x3f00_0000),
        pci_memory: 0x1000_0000,
        registers: 0x0905_0000,
    }
}

/// Who a requester ID is: the SMMU has no segments, and its StreamIDs are the bus's requester IDs.
#[must_use]
pub fn requester(requester_id: u16) -> Requester {
    Requester::Stream(u32::from(requester_id))
}

/// The requester IDs of QEMU's engines, in their order.
const ENGINES: [u16; 5] = [0x10, 0x18, 0x19, 0x100, 0xa8];

/// Our model, with what QEMU's unit has and no more.
#[must_use]
pub fn like_qemu(stages: Stages) -> Smmuv3Config {
    Smmuv3Config {
        stream_id_bits: 16,
        stage1: stages != Stages::Two,
        stage2: stages != Stages::One,
        output_bits: 44,
        granule_16k: true,
        granule_64k: true,
        asid_16: stages != Stages::Two,
        vmid_16: stages != Stages::One,
        hierarchical_disable: true,
        stage2_execute_by_privilege: stages != Stages::One,
        break_before_make_level: 2,
        command_queue_log2: 19,
        event_queue_log2: 19,
        range_invalidation: true,
        ..Smmuv3Config::default()
    }
}

modelled!(Smmuv3Model, Smmuv3Unit, Smmuv3Port);

/// A machine with our model.
pub type Smmuv3Machine = ModelMachine<Smmuv3Model>;

/// A machine with a model of this configuration.
///
/// # Errors
/// Where there is no memory for it, or no such unit.
pub fn model(config: Smmuv3Config) -> Result<Smmuv3Machine, MachineError> {
    model_with(config, Arc::new(NoInterrupts))
}

/// As [`model`], with whoever takes the messages that are not to memory.
///
/// # Errors
/// As there.
pub fn model_with(
    config: Smmuv3Config,
    interrupts: Arc<dyn InterruptSink>,
) -> Result<Smmuv3Machine, MachineError> {
    let ram = Ram::new(RAM, None)?;
    let memory = Arc::new(VmMemory(ram.guest().clone()));
    let unit = Smmuv3Unit::new(config, memory, interrupts);
    let unit = unit.map_err(|error| MachineError::Model(error.to_string()))?;
    // What a driver forgets to invalidate is to show.
    unit.retain_translations();
    Ok(ModelMachine::new(Smmuv3Model::new(unit), ram, ENGINES.map(requester).to_vec()))
}
