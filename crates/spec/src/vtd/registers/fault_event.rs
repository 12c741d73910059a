//! Fault status, fault events and fault recording registers (VT-d 11.4.7), and the event registers that fault,
//! invalidation completion and page request events share in shape (VT-d 11.4.7.2, 11.4.9.6, 11.4.11.5).

use bitfield_struct::bitfield;

/// FSTS_REG (VT-d 11.4.7.1): fault status.
#[bitfield(u32)]
#[derive(PartialEq, Eq, Hash)]
pub struct Fsts {
    /// Primary fault overflow; write 1 to clear.
    pub pfo: bool,
    /// Primary pending fault: the OR of the F bits of all fault recording registers; read-only.
    pub ppf: bool,
    /// Advanced fault overflow; write 1 to clear.
    pub afo: bool,
    /// Advanced pending fault; write 1 to clear.
    pub apf: bool,
    /// Invalidation queue error; write 1 to clear.
    pub iqe: bool,
    /// Invalidation completion error; write 1 to clear.
    pub ice: bool,
    /// Invalidation time-out error; write 1 to clear.
    pub ite: bool,
    /// Deprecated (page request overflow until revision 3); zero.
    #[bits(1)]
    __: u8,
    /// Fault record index: the first record that was pending when PPF became set; read-only.
    pub fri: u8,
    #[bits(16)]
    __: u16,
}

impl Fsts {
    /// The bits that are cleared by writing 1.
    pub const WRITE_1_CLEAR: u32 = 0x7d;
}

/// FECTL_REG, IECTL_REG and PECTL_REG (VT-d 11.4.7.2): event control.
#[bitfield(u32)]
#[derive(PartialEq, Eq, Hash)]
pub struct EventControl {
    #[bits(30)]
    __: u32,
    /// Interrupt pending; read-only.
    pub ip: bool,
    /// Interrupt mask.
    pub im: bool,
}

/// FEDATA_REG, IEDATA_REG and PEDATA_REG (VT-d 11.4.7.3): event message data.
#[bitfield(u32)]
#[derive(PartialEq, Eq, Hash)]
pub struct EventData {
    /// Interrupt message data.
    pub imd: u16,
    /// Extended interrupt message data; reserved since revision 3.3.
    pub eimd: u16,
}

/// FEADDR_REG, IEADDR_REG and PEADDR_REG (VT-d 11.4.7.4): event message address, low half. The upper half
/// (FEUADDR_REG, …) is 32 bits of address and nothing else.
#[bitfield(u32)]
#[derive(PartialEq, Eq, Hash)]
pub struct EventAddress {
    #[bits(2)]
    __: u8,
    /// Message address, bits 31:2.
    #[bits(30)]
    pub ma: u32,
}

/// AFLOG_REG (VT-d 11.4.7.7): advanced fault log.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Aflog {
    #[bits(9)]
    __: u16,
    /// Fault log size: `2^fls` pages.
    #[bits(3)]
    pub fls: u8,
    /// Fault log address, bits 63:12.
    #[bits(52)]
    pub fla: u64,
}

/// FRCD_REG, low half (VT-d 11.4.7.6).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct FrcdLow {
    #[bits(12)]
    __: u16,
    /// Fault information: address bits 63:12 of a DMA fault; the interrupt index in its top 16 bits (63:48 of the
    /// register) of an interrupt fault.
    #[bits(52)]
    pub fi: u64,
}

/// FRCD_REG, high half (VT-d 11.4.7.6).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct FrcdHigh {
    /// Source ID.
    pub sid: u16,
    #[bits(12)]
    __: u16,
    /// Type bit 2; with T1: 00 write, 01 page request, 10 read, 11 atomic operation.
    pub t2: bool,
    /// Privileged mode was requested; valid with PP.
    pub r#priv: bool,
    /// Execute permission was requested; valid with PP.
    pub exe: bool,
    /// PASID present.
    pub pp: bool,
    /// Fault reason.
    pub fr: u8,
    /// PASID value; valid with PP.
    #[bits(20)]
    pub pv: u32,
    /// Address type (the AT field) of the request.
    #[bits(2)]
    pub at: u8,
    /// Type bit 1.
    pub t1: bool,
    /// Fault: the record is valid; write 1 to clear.
    pub f: bool,
}
