//! Machines with an Arm SMMUv3.

use super::qemu::Board;
use crate::qtest::pci::ConfigAccess;
use portcullis_spec::Requester;

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
        ram: 0x4000_0000,
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
