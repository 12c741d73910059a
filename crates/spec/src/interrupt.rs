//! What an interrupt table entry comes to.

use crate::{FaultReason, Iova, PhysAddr};

/// A message signalled interrupt as a device sends it: a write of 32 bits that the unit takes for an interrupt request.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub struct InterruptMessage {
    /// Where it is written, a multiple of 4.
    pub address: Iova,
    /// What is written.
    pub data: u32,
}

/// How the destination is named (x86).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub enum DestinationMode {
    /// An APIC ID.
    Physical,
    /// A logical ID.
    Logical,
}

/// How the signal behaves.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub enum TriggerMode {
    /// Edge.
    Edge,
    /// Level.
    Level,
}

/// Delivery mode (x86 SDM vol. 3, 11.11.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub enum DeliveryMode {
    /// The vector, to the destination.
    Fixed,
    /// The vector, to the lowest priority of the destinations.
    LowestPriority,
    /// System management interrupt.
    Smi,
    /// Non-maskable interrupt.
    Nmi,
    /// INIT.
    Init,
    /// As from an external (8259) controller.
    ExtInt,
}

impl DeliveryMode {
    /// The three bits that stand for it in a message's data and in table entries.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Fixed => 0b000,
            Self::LowestPriority => 0b001,
            Self::Smi => 0b010,
            Self::Nmi => 0b100,
            Self::Init => 0b101,
            Self::ExtInt => 0b111,
        }
    }

    /// What these bits stand for; `None` where they are reserved.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            0b000 => Self::Fixed,
            0b001 => Self::LowestPriority,
            0b010 => Self::Smi,
            0b100 => Self::Nmi,
            0b101 => Self::Init,
            0b111 => Self::ExtInt,
            _ => return None,
        })
    }
}

/// What an interrupt request comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub enum InterruptRoute {
    /// Refused; reported with the reason, or silently where the entry says so.
    Blocked(Option<FaultReason>),
    /// Sent on with these attributes.
    Remapped {
        /// Destination APIC ID: 8 bits, or 32 in x2APIC mode.
        destination: u32,
        /// How the destination is named.
        destination_mode: DestinationMode,
        /// Delivery mode.
        delivery_mode: DeliveryMode,
        /// Edge or level.
        trigger_mode: TriggerMode,
        /// Whether the interrupt may go to one of several destinations.
        redirection_hint: bool,
        /// Vector.
        vector: u8,
    },
    /// Written with its own data to a page of an interrupt controller, which knows by itself what the data stand for: an
    /// interrupt file on RISC-V, the doorbell of an ITS on Arm.
    Doorbell {
        /// Where the controller takes messages, a multiple of 4.
        address: PhysAddr,
        /// What is written: the interrupt's number there.
        data: u32,
    },
    /// Recorded in a posted-interrupt descriptor.
    Posted {
        /// The descriptor.
        descriptor: PhysAddr,
        /// The bit to set in it.
        vector: u8,
        /// Whether to notify at once.
        urgent: bool,
    },
}
