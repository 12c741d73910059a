//! Access Control Services (PCIe 6.12): what keeps functions and ports from talking to each other directly.

use core::fmt;

use super::{Function, Functions, PortType, quirks};

bitflags::bitflags! {
    /// Bits of the ACS capability and control registers (PCIe 7.7.11), and of what isolation needs.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
    pub struct Acs: u16 {
        /// Source validation.
        const SV = 1;
        /// Translation blocking.
        const TB = 1 << 1;
        /// P2P request redirect.
        const RR = 1 << 2;
        /// P2P completion redirect.
        const CR = 1 << 3;
        /// Upstream forwarding.
        const UF = 1 << 4;
        /// P2P egress control.
        const EC = 1 << 5;
        /// Direct translated P2P.
        const DT = 1 << 6;
        /// What isolation needs (Linux `REQ_ACS_FLAGS`).
        const ISOLATION = Self::SV.bits() | Self::RR.bits() | Self::CR.bits() | Self::UF.bits();
    }
}

/// What a function lacks for isolation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AcsState {
    /// It has no ACS capability, or is of a kind that cannot have one.
    Absent,
    /// Its ACS capability could not be read: the configuration space was not given whole.
    Unread,
    /// It has the capability, but these services are off.
    Off(Acs),
}

impl fmt::Display for AcsState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("has no ACS"),
            Self::Unread => f.write_str("has no ACS that could be read"),
            Self::Off(services) => {
                f.write_str("has ACS switched off for ")?;
                for (place, (name, _)) in services.iter_names().enumerate() {
                    if place > 0 {
                        f.write_str(", ")?;
                    }
                    f.write_str(name)?;
                }
                Ok(())
            }
        }
    }
}

/// What `function` lacks so that requests pass it only upstream; `None` where it lacks nothing (Linux `pci_acs_enabled`).
/// `amd`: AMD-Vi guards the machine, which some chipsets' devices need to be isolated.
pub(super) fn lacking(functions: &Functions, function: &Function, amd: bool) -> Option<AcsState> {
    let on_root_bus = functions.bridge_above(function).is_none();
    if let Some(isolated) = quirks::isolated(function, on_root_bus, amd) {
        return (!isolated).then_some(AcsState::Absent);
    }
    let Some(express) = function.express else { return Some(AcsState::Absent) };
    match express.port_type {
        PortType::BridgeToPciExpress | PortType::BridgeToPci | PortType::EventCollector => {
            Some(AcsState::Absent)
        }
        PortType::RootPort | PortType::DownstreamPort => services_off(function),
        _ if function.multifunction => services_off(function),
        // PCIe 6.12.1.3: a single function that is no downstream port has nobody to talk to.
        _ => None,
    }
}

fn services_off(function: &Function) -> Option<AcsState> {
    let Some((capability, control)) = function.acs else {
        return Some(if function.reach.whole() { AcsState::Absent } else { AcsState::Unread });
    };
    // What it cannot do, it need not be told to do; but egress control counts.
    let needed = Acs::ISOLATION & (capability | Acs::EC);
    let off = needed - control;
    (!off.is_empty()).then_some(AcsState::Off(off))
}
