//! GCMD_REG, GSTS_REG, RTADDR_REG and CCMD_REG (VT-d 11.4.4 to 11.4.6).

use bitfield_struct::bitfield;

/// GCMD_REG (VT-d 11.4.4.1): global command, written to change one thing at a time.
#[bitfield(u32)]
#[derive(PartialEq, Eq, Hash)]
pub struct Gcmd {
    #[bits(23)]
    __: u32,
    /// Compatibility format interrupts pass while interrupt remapping is on.
    pub cfi: bool,
    /// Set interrupt remapping table pointer (one-shot).
    pub sirtp: bool,
    /// Interrupt remapping enable.
    pub ire: bool,
    /// Queued invalidation enable.
    pub qie: bool,
    /// Write buffer flush (one-shot).
    pub wbf: bool,
    /// Enable advanced fault logging.
    pub eafl: bool,
    /// Set fault log pointer (one-shot).
    pub sfl: bool,
    /// Set root table pointer (one-shot).
    pub srtp: bool,
    /// Translation enable.
    pub te: bool,
}

/// GSTS_REG (VT-d 11.4.4.2): global status.
#[bitfield(u32)]
#[derive(PartialEq, Eq, Hash)]
pub struct Gsts {
    #[bits(23)]
    __: u32,
    /// Compatibility format interrupt status.
    pub cfis: bool,
    /// Interrupt remapping table pointer status.
    pub irtps: bool,
    /// Interrupt remapping enable status.
    pub ires: bool,
    /// Queued invalidation enable status.
    pub qies: bool,
    /// Write buffer flush status: set while a flush is under way.
    pub wbfs: bool,
    /// Advanced fault logging status.
    pub afls: bool,
    /// Fault log status.
    pub fls: bool,
    /// Root table pointer status.
    pub rtps: bool,
    /// Translation enable status.
    pub tes: bool,
}

impl Gsts {
    /// The bits of GSTS that stand for a lasting state; software reads them, changes one and writes the result to
    /// GCMD (VT-d 11.4.4.1).
    pub const LASTING: u32 = 0x96ff_ffff;
}

/// Translation table mode (VT-d 11.4.5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Ttm {
    /// Legacy mode.
    Legacy = 0b00,
    /// Scalable mode.
    Scalable = 0b01,
    /// Reserved.
    Reserved = 0b10,
    /// Abort-DMA mode.
    AbortDma = 0b11,
}

impl Ttm {
    const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0b00 => Self::Legacy,
            0b01 => Self::Scalable,
            0b10 => Self::Reserved,
            _ => Self::AbortDma,
        }
    }

    const fn into_bits(self) -> u8 {
        self as u8
    }
}

/// RTADDR_REG (VT-d 11.4.5): root table address.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Rtaddr {
    #[bits(10)]
    __: u16,
    /// Translation table mode.
    #[bits(2)]
    pub ttm: Ttm,
    /// Root table address, bits 63:12.
    #[bits(52)]
    pub rta: u64,
}

impl Rtaddr {
    /// The root table's address in bytes.
    #[must_use]
    pub const fn root_table(self) -> u64 {
        self.rta() << 12
    }
}

/// What a context command covers (VT-d 11.4.6.1, CIRG and CAIG).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum CcmdGranularity {
    /// Reserved as a request; "nothing was done" as an answer.
    Reserved = 0b00,
    /// All entries.
    Global = 0b01,
    /// A domain's entries.
    Domain = 0b10,
    /// A device's entries.
    Device = 0b11,
}

impl CcmdGranularity {
    const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0b00 => Self::Reserved,
            0b01 => Self::Global,
            0b10 => Self::Domain,
            _ => Self::Device,
        }
    }

    const fn into_bits(self) -> u8 {
        self as u8
    }
}

/// CCMD_REG (VT-d 11.4.6.1): register-based invalidation of the context cache.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Ccmd {
    /// Domain ID.
    pub did: u16,
    /// Source ID.
    pub sid: u16,
    /// Function mask: how many low bits of the function number are ignored (0, 1, 2, 3).
    #[bits(2)]
    pub fm: u8,
    #[bits(25)]
    __: u32,
    /// Actual granularity, by hardware.
    #[bits(2)]
    pub caig: CcmdGranularity,
    /// Requested granularity.
    #[bits(2)]
    pub cirg: CcmdGranularity,
    /// Invalidate: set by software, cleared by hardware when done.
    pub icc: bool,
}
