//! Interrupt remapping table entries (AMD I/O Virtualization 2.2.5). They have 32 bits while the control register's `GAEn` is 0
//! and 128 bits while it is 1; of those the meaning depends on `GuestMode`.

use bitfield_struct::bitfield;

/// Interrupt type (2.2.5, IntType).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum IntType {
    /// Fixed.
    Fixed,
    /// Arbitrated (lowest priority).
    Arbitrated,
    /// An encoding that the specification reserves.
    Reserved(u8),
}

impl IntType {
    const fn from_bits(bits: u8) -> Self {
        match bits & 7 {
            0 => Self::Fixed,
            1 => Self::Arbitrated,
            other => Self::Reserved(other),
        }
    }

    const fn into_bits(self) -> u8 {
        match self {
            Self::Fixed => 0,
            Self::Arbitrated => 1,
            Self::Reserved(other) => other & 7,
        }
    }
}

/// An interrupt remapping table entry of 32 bits (2.2.5.1).
#[bitfield(u32)]
#[derive(PartialEq, Eq, Hash)]
pub struct Irte32 {
    /// Remapping enabled; otherwise the interrupt is aborted.
    pub remap_en: bool,
    /// Suppress I/O page fault events for it.
    pub sup_iopf: bool,
    /// Interrupt type.
    #[bits(3)]
    pub int_type: IntType,
    /// EOI is requested.
    pub rq_eoi: bool,
    /// Destination mode: logical.
    pub dm: bool,
    /// Always 0 in this format.
    pub guest_mode: bool,
    /// Destination APIC ID.
    pub destination: u8,
    /// Vector.
    pub vector: u8,
    __: u8,
}

/// Bits 63:0 of a 128-bit entry with `GuestMode` 0 (2.2.5.2).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Irte128Low {
    /// Remapping enabled; otherwise the interrupt is aborted.
    pub remap_en: bool,
    /// Suppress I/O page fault events for it.
    pub sup_iopf: bool,
    /// Interrupt type.
    #[bits(3)]
    pub int_type: IntType,
    /// EOI is requested.
    pub rq_eoi: bool,
    /// Destination mode: logical.
    pub dm: bool,
    /// Guest mode: where 1 the entry is an [`IrteGuestLow`].
    pub guest_mode: bool,
    /// Destination APIC ID, bits 23:0; 7:0 alone count without x2APIC.
    #[bits(24)]
    pub destination_23_0: u32,
    #[bits(32)]
    __: u32,
}

/// Bits 127:64 of a 128-bit entry with `GuestMode` 0 (2.2.5.2).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Irte128High {
    /// Vector.
    pub vector: u8,
    #[bits(48)]
    __: u64,
    /// Destination APIC ID, bits 31:24.
    pub destination_31_24: u8,
}

/// Bits 63:0 of a 128-bit entry with `GuestMode` 1: the guest virtual APIC (2.2.5.3).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct IrteGuestLow {
    /// Remapping enabled; otherwise the interrupt is aborted.
    pub remap_en: bool,
    /// Suppress I/O page fault events for it.
    pub sup_iopf: bool,
    /// Log and interrupt when the guest is not running.
    pub ga_log_intr: bool,
    #[bits(3)]
    __: u8,
    /// The guest is running.
    pub is_run: bool,
    /// Guest mode: 1.
    pub guest_mode: bool,
    /// Physical APIC ID of the running guest, bits 23:0.
    #[bits(24)]
    pub destination_23_0: u32,
    /// Tag that the log carries.
    pub ga_tag: u32,
}

/// Bits 127:64 of a 128-bit entry with `GuestMode` 1 (2.2.5.3).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct IrteGuestHigh {
    /// Vector in the guest.
    pub vector: u8,
    #[bits(4)]
    __: u8,
    /// Guest virtual APIC table root, bits 51:12.
    #[bits(40)]
    pub ga_table_root: u64,
    #[bits(4)]
    __: u8,
    /// Physical APIC ID of the running guest, bits 31:24.
    pub destination_31_24: u8,
}

/// A 128-bit interrupt remapping table entry (2.2.5.2, 2.2.5.3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Irte128 {
    /// `GuestMode` 0: remapped.
    Remapped(Irte128Low, Irte128High),
    /// `GuestMode` 1: to a guest's virtual APIC.
    Guest(IrteGuestLow, IrteGuestHigh),
}

impl Irte128 {
    /// From the two 64-bit words in memory.
    #[must_use]
    pub const fn decode(words: [u64; 2]) -> Self {
        let low = Irte128Low::from_bits(words[0]);
        if low.guest_mode() {
            Self::Guest(IrteGuestLow::from_bits(words[0]), IrteGuestHigh::from_bits(words[1]))
        } else {
            Self::Remapped(low, Irte128High::from_bits(words[1]))
        }
    }

    /// The two 64-bit words in memory.
    #[must_use]
    pub const fn encode(self) -> [u64; 2] {
        match self {
            Self::Remapped(low, high) => [low.into_bits(), high.into_bits()],
            Self::Guest(low, high) => [low.into_bits(), high.into_bits()],
        }
    }

    /// The destination APIC ID, put together from its two fields.
    #[must_use]
    pub const fn destination(self) -> u32 {
        match self {
            Self::Remapped(low, high) => low.destination_23_0() | (high.destination_31_24() as u32) << 24,
            Self::Guest(low, high) => low.destination_23_0() | (high.destination_31_24() as u32) << 24,
        }
    }
}
