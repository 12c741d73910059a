//! Interrupt remapping: requests (VT-d 5.1.2), table entries (VT-d 9.9, 9.10) and the posted-interrupt descriptor
//! (VT-d 9.11).

use bitfield_struct::bitfield;

use crate::{DeliveryMode, DestinationMode, InterruptRoute, TriggerMode};

/// Bytes of one interrupt remapping table entry.
pub const IRTE_SIZE: u64 = 16;
/// Bytes of one posted-interrupt descriptor, which is aligned to its size.
pub const POSTED_DESCRIPTOR_SIZE: u64 = 64;

/// The address of a remappable format interrupt request (VT-d 5.1.2.2).
#[bitfield(u32)]
#[derive(PartialEq, Eq, Hash)]
pub struct RemappableAddress {
    /// Don't care.
    #[bits(2)]
    pub ign: u8,
    /// Bit 15 of the handle.
    pub handle_15: bool,
    /// Subhandle valid: the data's subhandle is added to the handle.
    pub shv: bool,
    /// Interrupt format: set for remappable requests, clear for compatibility requests.
    pub format: bool,
    /// Bits 14:0 of the handle.
    #[bits(15)]
    pub handle_14_0: u16,
    /// `FEEh`.
    #[bits(12)]
    pub prefix: u16,
}

impl RemappableAddress {
    /// The address of a request with this handle and SHV.
    #[must_use]
    pub const fn of(handle: u16, shv: bool) -> Self {
        Self::new()
            .with_handle_15(handle & 0x8000 != 0)
            .with_handle_14_0(handle & 0x7fff)
            .with_shv(shv)
            .with_format(true)
            .with_prefix(0xfee)
    }

    /// The 16-bit handle.
    #[must_use]
    pub const fn handle(self) -> u16 {
        self.handle_14_0() | (self.handle_15() as u16) << 15
    }
}

/// The data of a remappable format interrupt request (VT-d 5.1.2.2).
#[bitfield(u32)]
#[derive(PartialEq, Eq, Hash)]
pub struct RemappableData {
    /// Subhandle, added to the handle where SHV is set.
    pub subhandle: u16,
    /// Reserved where SHV is set; ignored otherwise.
    pub rsvd: u16,
}

/// The address of a compatibility format interrupt request (VT-d 5.1.2.1; SDM volume 3, 11.11.1), which is also what a processor
/// takes.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct CompatibilityAddress {
    /// Don't care.
    #[bits(2)]
    pub ign: u8,
    /// Destination mode: logical if set, else physical.
    pub dm: bool,
    /// Redirection hint.
    pub rh: bool,
    /// Interrupt format: clear.
    pub format: bool,
    #[bits(7)]
    __: u8,
    /// Destination, bits 7:0.
    pub dest_7_0: u8,
    /// `FEEh`.
    #[bits(12)]
    pub prefix: u16,
    #[bits(8)]
    __: u8,
    /// Destination, bits 31:8: where a platform takes x2APIC destinations in messages, it is here that they are continued.
    #[bits(24)]
    pub dest_31_8: u32,
}

/// The data of a compatibility format interrupt request (VT-d 5.1.2.1; SDM volume 3, 11.11.2).
#[bitfield(u32)]
#[derive(PartialEq, Eq, Hash)]
pub struct CompatibilityData {
    /// Vector.
    pub v: u8,
    /// Delivery mode.
    #[bits(3)]
    pub dlm: u8,
    #[bits(3)]
    __: u8,
    /// Level of a level-triggered interrupt: assert if set.
    pub level: bool,
    /// Trigger mode: level if set, else edge.
    pub tm: bool,
    __: u16,
}

/// The address and data of the message that a processor gets for a remapped request; `None` for other routes.
#[must_use]
pub const fn message(route: &InterruptRoute) -> Option<(CompatibilityAddress, CompatibilityData)> {
    // 9.9: it has the fields of the route's entry; in extended interrupt mode that holds every destination.
    let Some(entry) = RemappedLow::of(route, true) else { return None };
    let address = CompatibilityAddress::new()
        .with_dm(entry.dm())
        .with_rh(entry.rh())
        .with_dest_7_0(entry.dst() as u8)
        .with_prefix(0xfee)
        .with_dest_31_8(entry.dst() >> 8);
    let data =
        CompatibilityData::new().with_v(entry.v()).with_dlm(entry.dlm()).with_level(true).with_tm(entry.tm());
    Some((address, data))
}

/// Low half of an entry for remapped interrupts (VT-d 9.9).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct RemappedLow {
    /// Present.
    pub p: bool,
    /// Fault processing disable.
    pub fpd: bool,
    /// Destination mode: logical if set, else physical.
    pub dm: bool,
    /// Redirection hint.
    pub rh: bool,
    /// Trigger mode: level if set, else edge.
    pub tm: bool,
    /// Delivery mode: 0 fixed, 1 lowest priority, 2 SMI, 4 NMI, 5 INIT, 7 ExtINT.
    #[bits(3)]
    pub dlm: u8,
    /// Available to software.
    #[bits(4)]
    pub avail: u8,
    #[bits(3)]
    __: u8,
    /// IRTE mode; clear here.
    pub im: bool,
    /// Vector.
    pub v: u8,
    #[bits(8)]
    __: u8,
    /// Destination: 32 bits in extended interrupt mode, else in bits 15:8 of this field.
    pub dst: u32,
}

impl RemappedLow {
    /// What a present entry comes to, with `eime` from IRTA_REG; `None` where its delivery mode is reserved.
    #[must_use]
    pub const fn route(self, eime: bool) -> Option<InterruptRoute> {
        let Some(delivery_mode) = DeliveryMode::from_code(self.dlm()) else { return None };
        Some(InterruptRoute::Remapped {
            destination: if eime { self.dst() } else { self.dst() >> 8 & 0xff },
            destination_mode: if self.dm() { DestinationMode::Logical } else { DestinationMode::Physical },
            delivery_mode,
            trigger_mode: if self.tm() { TriggerMode::Level } else { TriggerMode::Edge },
            redirection_hint: self.rh(),
            vector: self.v(),
        })
    }

    /// A present entry that comes to `route`, with `eime` from IRTA_REG; `None` for routes that no such entry expresses, or whose
    /// destination is beyond the mode's.
    #[must_use]
    pub const fn of(route: &InterruptRoute, eime: bool) -> Option<Self> {
        let InterruptRoute::Remapped {
            destination,
            destination_mode,
            delivery_mode,
            trigger_mode,
            redirection_hint,
            vector,
        } = *route
        else {
            return None;
        };
        if !eime && destination > 0xff {
            return None;
        }
        Some(
            Self::new()
                .with_p(true)
                .with_dm(matches!(destination_mode, DestinationMode::Logical))
                .with_rh(redirection_hint)
                .with_tm(matches!(trigger_mode, TriggerMode::Level))
                .with_dlm(delivery_mode.code())
                .with_v(vector)
                .with_dst(if eime { destination } else { destination << 8 }),
        )
    }
}

/// Low half of an entry for posted interrupts (VT-d 9.10).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct PostedLow {
    /// Present.
    pub p: bool,
    /// Fault processing disable.
    pub fpd: bool,
    #[bits(6)]
    __: u8,
    /// Available to software.
    #[bits(4)]
    pub avail: u8,
    #[bits(2)]
    __: u8,
    /// Urgent.
    pub urg: bool,
    /// IRTE mode; set here.
    pub im: bool,
    /// Virtual vector.
    pub vv: u8,
    #[bits(14)]
    __: u16,
    /// Posted descriptor address, bits 31:6.
    #[bits(26)]
    pub pdal: u32,
}

/// How the source of a request is checked (VT-d 9.9, SVT).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum SourceValidation {
    /// Not at all.
    None = 0b00,
    /// SID and SQ name the requester.
    SourceId = 0b01,
    /// SID holds the first and last bus.
    BusRange = 0b10,
    /// Reserved.
    Reserved = 0b11,
}

impl SourceValidation {
    const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0b00 => Self::None,
            0b01 => Self::SourceId,
            0b10 => Self::BusRange,
            _ => Self::Reserved,
        }
    }

    const fn into_bits(self) -> u8 {
        self as u8
    }
}

/// High half of an entry, of either kind (VT-d 9.9, 9.10).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct IrteHigh {
    /// Source ID; for bus ranges, first bus in bits 15:8 and last in 7:0.
    pub sid: u16,
    /// Source ID qualifier: how many low function bits are ignored (0; bit 2; bits 2:1; bits 2:0).
    #[bits(2)]
    pub sq: u8,
    /// Source validation type.
    #[bits(2)]
    pub svt: SourceValidation,
    #[bits(12)]
    __: u16,
    /// Posted descriptor address, bits 63:32, in an entry for posted interrupts; reserved otherwise.
    pub pdah: u32,
}

impl IrteHigh {
    /// Whether the entry takes requests of the function with ID `source` (VT-d 9.9, SVT, SQ, SID). A reserved SVT takes none.
    #[must_use]
    pub const fn admits(self, source: u16) -> bool {
        match self.svt() {
            SourceValidation::None => true,
            SourceValidation::SourceId => {
                let ignored = match self.sq() {
                    0b00 => 0b000,
                    0b01 => 0b100,
                    0b10 => 0b110,
                    _ => 0b111,
                };
                (source ^ self.sid()) & !ignored == 0
            }
            SourceValidation::BusRange => {
                let bus = source >> 8;
                bus >= self.sid() >> 8 && bus <= self.sid() & 0xff
            }
            SourceValidation::Reserved => false,
        }
    }
}

/// An interrupt remapping table entry (VT-d 9.9, 9.10).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Irte {
    /// For remapped interrupts (IM clear).
    Remapped {
        /// Bits 63:0.
        low: RemappedLow,
        /// Bits 127:64.
        high: IrteHigh,
    },
    /// For posted interrupts (IM set).
    Posted {
        /// Bits 63:0.
        low: PostedLow,
        /// Bits 127:64.
        high: IrteHigh,
    },
}

impl Irte {
    /// From the two 64-bit words in memory.
    #[must_use]
    pub const fn decode(words: [u64; 2]) -> Self {
        let high = IrteHigh::from_bits(words[1]);
        if words[0] & 0x8000 != 0 {
            Self::Posted { low: PostedLow::from_bits(words[0]), high }
        } else {
            Self::Remapped { low: RemappedLow::from_bits(words[0]), high }
        }
    }

    /// The two 64-bit words in memory.
    #[must_use]
    pub const fn encode(self) -> [u64; 2] {
        match self {
            Self::Remapped { low, high } => [low.into_bits() & !0x8000, high.into_bits()],
            Self::Posted { low, high } => [low.into_bits() | 0x8000, high.into_bits()],
        }
    }

    /// Whether a reserved bit is set, with `eime` from IRTA_REG (VT-d 9.9, 9.10).
    #[must_use]
    pub const fn has_reserved_bits(self, eime: bool) -> bool {
        match self {
            Self::Remapped { low, high } => {
                let destination = if eime { 0 } else { 0xffff_00ff_0000_0000 };
                low.into_bits() & (0xff00_7000 | destination) != 0
                    || high.into_bits() & 0xffff_ffff_fff0_0000 != 0
            }
            Self::Posted { low, high } => {
                low.into_bits() & 0x3f_ff00_30fc != 0 || high.into_bits() & 0xfff0_0000 != 0
            }
        }
    }

    /// The high half: who may send the interrupt.
    #[must_use]
    pub const fn source(self) -> IrteHigh {
        match self {
            Self::Remapped { high, .. } | Self::Posted { high, .. } => high,
        }
    }

    /// The address of the posted-interrupt descriptor in bytes; `None` for a remapped entry.
    #[must_use]
    pub const fn posted_descriptor(self) -> Option<u64> {
        match self {
            Self::Remapped { .. } => None,
            Self::Posted { low, high } => Some((low.pdal() as u64) << 6 | (high.pdah() as u64) << 32),
        }
    }
}

/// Bits 319:256 of a posted-interrupt descriptor (VT-d 9.11).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct PostedControl {
    /// Outstanding notification.
    pub on: bool,
    /// Suppress notification of non-urgent interrupts.
    pub sn: bool,
    #[bits(14)]
    __: u16,
    /// Notification vector.
    pub nv: u8,
    #[bits(8)]
    __: u8,
    /// Notification destination: 32 bits in extended interrupt mode, else in bits 15:8 of this field.
    pub ndst: u32,
}

/// A posted-interrupt descriptor (VT-d 9.11).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct PostedDescriptor {
    /// Posted interrupt requests: one bit a vector, vector 0 in bit 0 of word 0.
    pub pir: [u64; 4],
    /// Notification control.
    pub control: PostedControl,
    /// Bits 511:320: reserved, or software's.
    pub rest: [u64; 3],
}

impl PostedDescriptor {
    /// From the eight 64-bit words in memory.
    #[must_use]
    pub const fn decode(words: [u64; 8]) -> Self {
        let [p0, p1, p2, p3, control, r0, r1, r2] = words;
        Self { pir: [p0, p1, p2, p3], control: PostedControl::from_bits(control), rest: [r0, r1, r2] }
    }

    /// The eight 64-bit words in memory.
    #[must_use]
    pub const fn encode(self) -> [u64; 8] {
        let ([p0, p1, p2, p3], [r0, r1, r2]) = (self.pir, self.rest);
        [p0, p1, p2, p3, self.control.into_bits(), r0, r1, r2]
    }

    /// Whether a reserved bit of the control word is set, with `eime` from IRTA_REG.
    #[must_use]
    pub const fn has_reserved_bits(self, eime: bool) -> bool {
        let destination = if eime { 0 } else { 0xffff_00ff_0000_0000 };
        self.control.into_bits() & (0xff00_fffc | destination) != 0
    }
}
