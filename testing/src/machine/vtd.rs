//! Machines with Intel VT-d.

use super::qemu::Board;
use crate::qtest::pci::ConfigAccess;
use portcullis_spec::{PciAddress, Requester};

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

/// Who a requester ID is.
#[must_use]
pub fn requester(requester_id: u16) -> Requester {
    Requester::Pci(PciAddress { segment: 0, requester_id })
}
