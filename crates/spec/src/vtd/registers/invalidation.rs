//! Invalidation registers (VT-d 11.4.6, 11.4.9) and the interrupt remapping table address (VT-d 11.4.10).

use bitfield_struct::bitfield;

/// What an IOTLB invalidation covers (VT-d 11.4.6.2, IIRG and IAIG; also the G field of 6.5.2.3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum IotlbGranularity {
    /// Reserved as a request; "nothing was done" as an answer.
    Reserved = 0b00,
    /// Everything.
    Global = 0b01,
    /// A domain.
    Domain = 0b10,
    /// Pages of a domain.
    Page = 0b11,
}

impl IotlbGranularity {
    const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0b00 => Self::Reserved,
            0b01 => Self::Global,
            0b10 => Self::Domain,
            _ => Self::Page,
        }
    }

    const fn into_bits(self) -> u8 {
        self as u8
    }
}

/// IOTLB_REG (VT-d 11.4.6.2): register-based IOTLB invalidation.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Iotlb {
    #[bits(32)]
    __: u32,
    /// Domain ID.
    pub did: u16,
    /// Drain writes.
    pub dw: bool,
    /// Drain reads.
    pub dr: bool,
    #[bits(7)]
    __: u8,
    /// Actual granularity, by hardware.
    #[bits(2)]
    pub iaig: IotlbGranularity,
    #[bits(1)]
    __: u8,
    /// Requested granularity.
    #[bits(2)]
    pub iirg: IotlbGranularity,
    #[bits(1)]
    __: u8,
    /// Invalidate: set by software, cleared by hardware when done.
    pub ivt: bool,
}

/// IVA_REG (VT-d 11.4.6.3): the address of a page-selective invalidation.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Iva {
    /// Address mask: `2^am` pages, aligned to their size.
    #[bits(6)]
    pub am: u8,
    /// Invalidation hint: only leaf entries changed.
    pub ih: bool,
    #[bits(5)]
    __: u8,
    /// Address bits 63:12.
    #[bits(52)]
    pub addr: u64,
}

/// IQH_REG (VT-d 11.4.9.1): invalidation queue head; read-only.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Iqh {
    #[bits(4)]
    __: u8,
    /// Queue head in units of 16 bytes; its lowest bit is zero with 256-bit descriptors.
    #[bits(15)]
    pub qh: u16,
    #[bits(45)]
    __: u64,
}

/// IQT_REG (VT-d 11.4.9.2): invalidation queue tail.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Iqt {
    #[bits(4)]
    __: u8,
    /// Queue tail in units of 16 bytes; its lowest bit must be zero with 256-bit descriptors.
    #[bits(15)]
    pub qt: u16,
    #[bits(45)]
    __: u64,
}

/// IQA_REG (VT-d 11.4.9.3): invalidation queue address.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Iqa {
    /// Queue size: `2^qs` pages of 4 KiB, whatever the descriptor width.
    #[bits(3)]
    pub qs: u8,
    #[bits(8)]
    __: u8,
    /// Descriptor width: 256 bits if set, else 128.
    pub dw: bool,
    /// Queue address, bits 63:12.
    #[bits(52)]
    pub iqa: u64,
}

impl Iqa {
    /// Address of the queue in bytes.
    #[must_use]
    pub const fn queue(self) -> u64 {
        self.iqa() << 12
    }

    /// Size of the queue in bytes.
    #[must_use]
    pub const fn queue_bytes(self) -> u64 {
        4096 << self.qs()
    }

    /// Size of one descriptor in bytes.
    #[must_use]
    pub const fn descriptor_bytes(self) -> u64 {
        if self.dw() { 32 } else { 16 }
    }
}

/// ICS_REG (VT-d 11.4.9.4): invalidation completion status.
#[bitfield(u32)]
#[derive(PartialEq, Eq, Hash)]
pub struct Ics {
    /// A wait descriptor with its interrupt flag completed; write 1 to clear.
    pub iwc: bool,
    #[bits(31)]
    __: u32,
}

/// Why the invalidation queue stopped (VT-d 11.4.9.9, IQEI).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Iqei {
    /// No information, or hardware does not report any.
    NotAvailable,
    /// The tail points beyond the queue.
    InvalidTail,
    /// A descriptor could not be fetched.
    DescriptorFetch,
    /// A descriptor has an invalid type.
    InvalidType,
    /// A descriptor has a reserved field set, or an invalid value.
    ReservedField,
    /// The descriptor width does not fit the mode or the capabilities.
    InvalidWidth,
    /// The tail is not aligned to the descriptor width.
    TailMisaligned,
    /// The translation table mode is invalid.
    InvalidTtm,
    /// An encoding that the specification does not define.
    Undefined(u8),
}

impl Iqei {
    const fn from_bits(bits: u8) -> Self {
        match bits & 0xf {
            0 => Self::NotAvailable,
            1 => Self::InvalidTail,
            2 => Self::DescriptorFetch,
            3 => Self::InvalidType,
            4 => Self::ReservedField,
            5 => Self::InvalidWidth,
            6 => Self::TailMisaligned,
            7 => Self::InvalidTtm,
            other => Self::Undefined(other),
        }
    }

    const fn into_bits(self) -> u8 {
        match self {
            Self::NotAvailable => 0,
            Self::InvalidTail => 1,
            Self::DescriptorFetch => 2,
            Self::InvalidType => 3,
            Self::ReservedField => 4,
            Self::InvalidWidth => 5,
            Self::TailMisaligned => 6,
            Self::InvalidTtm => 7,
            Self::Undefined(other) => other & 0xf,
        }
    }
}

/// IQERCD_REG (VT-d 11.4.9.9): invalidation queue error record.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Iqercd {
    /// Invalidation queue error information; valid while FSTS.IQE is set.
    #[bits(4)]
    pub iqei: Iqei,
    #[bits(28)]
    __: u32,
    /// Source ID of a time-out; valid while FSTS.ITE is set.
    pub itesid: u16,
    /// Source ID of a completion error; valid while FSTS.ICE is set.
    pub icesid: u16,
}

/// IRTA_REG (VT-d 11.4.10.1): interrupt remapping table address.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Irta {
    /// Size: `2^(s+1)` entries.
    #[bits(4)]
    pub s: u8,
    #[bits(7)]
    __: u8,
    /// Extended interrupt mode enable (x2APIC).
    pub eime: bool,
    /// Table address, bits 63:12.
    #[bits(52)]
    pub irta: u64,
}

impl Irta {
    /// Address of the table in bytes.
    #[must_use]
    pub const fn table(self) -> u64 {
        self.irta() << 12
    }

    /// How many entries the table has.
    #[must_use]
    pub const fn entries(self) -> u32 {
        2 << self.s()
    }
}
