//! The memory-mapped registers (RISC-V IOMMU 5), each a type named as the specification names the register, and their
//! offsets in bytes.

use bitfield_struct::bitfield;

/// Bytes of the register region (RISC-V IOMMU 5.2).
pub const REGISTER_REGION_SIZE: u64 = 4096;

/// Offsets of the registers in bytes (RISC-V IOMMU 5.2).
pub mod offset {
    /// Capabilities, 64 bits.
    pub const CAPABILITIES: u64 = 0x000;
    /// Features control, 32 bits.
    pub const FCTL: u64 = 0x008;
    /// Device-directory-table pointer, 64 bits.
    pub const DDTP: u64 = 0x010;
    /// Command-queue base, 64 bits.
    pub const CQB: u64 = 0x018;
    /// Command-queue head, 32 bits.
    pub const CQH: u64 = 0x020;
    /// Command-queue tail, 32 bits.
    pub const CQT: u64 = 0x024;
    /// Fault-queue base, 64 bits.
    pub const FQB: u64 = 0x028;
    /// Fault-queue head, 32 bits.
    pub const FQH: u64 = 0x030;
    /// Fault-queue tail, 32 bits.
    pub const FQT: u64 = 0x034;
    /// Page-request-queue base, 64 bits.
    pub const PQB: u64 = 0x038;
    /// Page-request-queue head, 32 bits.
    pub const PQH: u64 = 0x040;
    /// Page-request-queue tail, 32 bits.
    pub const PQT: u64 = 0x044;
    /// Command-queue control and status, 32 bits.
    pub const CQCSR: u64 = 0x048;
    /// Fault-queue control and status, 32 bits.
    pub const FQCSR: u64 = 0x04c;
    /// Page-request-queue control and status, 32 bits.
    pub const PQCSR: u64 = 0x050;
    /// Interrupt pending status, 32 bits.
    pub const IPSR: u64 = 0x054;
    /// Performance-monitoring counter overflow status, 32 bits.
    pub const IOCOUNTOVF: u64 = 0x058;
    /// Performance-monitoring counter inhibits, 32 bits.
    pub const IOCOUNTINH: u64 = 0x05c;
    /// Performance-monitoring cycles counter, 64 bits.
    pub const IOHPMCYCLES: u64 = 0x060;
    /// The first of 31 performance-monitoring event counters, 64 bits each.
    pub const IOHPMCTR: u64 = 0x068;
    /// The first of 31 performance-monitoring event selectors, 64 bits each.
    pub const IOHPMEVT: u64 = 0x160;
    /// Translation-request IOVA, 64 bits.
    pub const TR_REQ_IOVA: u64 = 0x258;
    /// Translation-request control, 64 bits.
    pub const TR_REQ_CTL: u64 = 0x260;
    /// Translation-request response, 64 bits.
    pub const TR_RESPONSE: u64 = 0x268;
    /// IOMMU QoS ID, 32 bits.
    pub const IOMMU_QOSID: u64 = 0x270;
    /// Interrupt-cause-to-vector, 64 bits.
    pub const ICVEC: u64 = 0x2f8;
    /// The first of 16 MSI configuration entries, 16 bytes each: address (64 bits), data and vector control (32 each).
    pub const MSI_CFG_TBL: u64 = 0x300;
    /// The first byte behind the MSI configuration table.
    pub const MSI_CFG_TBL_END: u64 = 0x400;
}

/// How interrupts are generated (capabilities.IGS).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Igs {
    /// Only as MSIs.
    Msi = 0,
    /// Only as wire-signaled interrupts.
    Wsi = 1,
    /// Both; `fctl.wsi` chooses.
    Both = 2,
    /// Reserved.
    Reserved = 3,
}

impl Igs {
    const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::Msi,
            1 => Self::Wsi,
            2 => Self::Both,
            _ => Self::Reserved,
        }
    }

    const fn into_bits(self) -> u8 {
        self as u8
    }
}

/// `capabilities` (RISC-V IOMMU 5.3).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Capabilities {
    /// Version: major in bits 7:4, minor in 3:0; 0x10 is 1.0.
    pub version: u8,
    /// Sv32.
    pub sv32: bool,
    /// Sv39.
    pub sv39: bool,
    /// Sv48.
    pub sv48: bool,
    /// Sv57.
    pub sv57: bool,
    #[bits(2)]
    __: u8,
    /// Svrsw60t59b: bits 60 and 59 of paging entries are software's.
    pub svrsw60t59b: bool,
    /// Page-based memory types.
    pub svpbmt: bool,
    /// Sv32x4.
    pub sv32x4: bool,
    /// Sv39x4.
    pub sv39x4: bool,
    /// Sv48x4.
    pub sv48x4: bool,
    /// Sv57x4.
    pub sv57x4: bool,
    __: bool,
    /// Atomic updates of memory-resident interrupt files.
    pub amo_mrif: bool,
    /// MSI address translation with a flat MSI page table.
    pub msi_flat: bool,
    /// Memory-resident interrupt files.
    pub msi_mrif: bool,
    /// Atomic updates of the accessed and dirty bits.
    pub amo_hwad: bool,
    /// PCIe ATS and PRI.
    pub ats: bool,
    /// ATS translations may be guest-physical addresses.
    pub t2gpa: bool,
    /// Both byte orders; `fctl.be` chooses.
    pub end: bool,
    /// How interrupts are generated.
    #[bits(2)]
    pub igs: Igs,
    /// Performance monitoring.
    pub hpm: bool,
    /// Translation-request debug interface.
    pub dbg: bool,
    /// Physical address bits.
    #[bits(6)]
    pub pas: u8,
    /// One-level process directory, 8 bits.
    pub pd8: bool,
    /// Two-level process directory, 17 bits.
    pub pd17: bool,
    /// Three-level process directory, 20 bits.
    pub pd20: bool,
    /// QoS identifiers.
    pub qosid: bool,
    /// Non-leaf invalidation.
    pub nl: bool,
    /// Invalidation of address ranges.
    pub s: bool,
    #[bits(12)]
    __: u16,
    /// Custom.
    pub custom: u8,
}

/// `fctl`, features control (RISC-V IOMMU 5.4).
#[bitfield(u32)]
#[derive(PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Fctl {
    /// Memory accesses to queues and directories are big-endian.
    pub be: bool,
    /// Interrupts are wire-signaled.
    pub wsi: bool,
    /// Guest translation is RV32's.
    pub gxl: bool,
    #[bits(13)]
    __: u16,
    /// Custom.
    pub custom: u16,
}

/// `ddtp.iommu_mode` (RISC-V IOMMU 5.5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum IommuMode {
    /// No inbound transactions are allowed.
    Off,
    /// Pass-through.
    Bare,
    /// One-level device directory.
    OneLevel,
    /// Two levels.
    TwoLevel,
    /// Three levels.
    ThreeLevel,
}

impl IommuMode {
    /// The mode that `bits` encodes, or `None` where they are reserved or custom.
    #[must_use]
    pub const fn decode(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Self::Off,
            1 => Self::Bare,
            2 => Self::OneLevel,
            3 => Self::TwoLevel,
            4 => Self::ThreeLevel,
            _ => return None,
        })
    }

    /// The bits of `ddtp.iommu_mode`.
    #[must_use]
    pub const fn encode(self) -> u8 {
        self as u8
    }

    /// Levels of the device directory, 0 where there is none.
    #[must_use]
    pub const fn levels(self) -> u8 {
        match self {
            Self::Off | Self::Bare => 0,
            Self::OneLevel => 1,
            Self::TwoLevel => 2,
            Self::ThreeLevel => 3,
        }
    }
}

/// `ddtp`, device-directory-table pointer (RISC-V IOMMU 5.5).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Ddtp {
    /// Mode; see [`IommuMode::decode`].
    #[bits(4)]
    pub iommu_mode: u8,
    /// A write is being processed; writing then is not allowed.
    pub busy: bool,
    #[bits(5)]
    __: u8,
    /// Root page of the device directory.
    #[bits(44)]
    pub ppn: u64,
    #[bits(10)]
    __: u16,
}

/// `cqb`, `fqb`, `pqb`: the base of a queue (RISC-V IOMMU 5.6, 6.9, 6.12).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct QueueBase {
    /// log2 of the entries, minus 1.
    #[bits(5)]
    pub log2szm1: u8,
    #[bits(5)]
    __: u8,
    /// First page.
    #[bits(44)]
    pub ppn: u64,
    #[bits(10)]
    __: u16,
}

/// `cqcsr` (RISC-V IOMMU 5.15).
#[bitfield(u32)]
#[derive(PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Cqcsr {
    /// Enable.
    pub cqen: bool,
    /// Interrupt enable.
    pub cie: bool,
    #[bits(6)]
    __: u8,
    /// A command could not be read. Cleared by writing 1.
    pub cqmf: bool,
    /// A command timed out. Cleared by writing 1.
    pub cmd_to: bool,
    /// An illegal or unsupported command. Cleared by writing 1.
    pub cmd_ill: bool,
    /// An `IOFENCE.C` with WSI completed. Cleared by writing 1.
    pub fence_w_ip: bool,
    #[bits(4)]
    __: u8,
    /// Active.
    pub cqon: bool,
    /// A write is being processed.
    pub busy: bool,
    #[bits(10)]
    __: u16,
    /// Custom.
    #[bits(4)]
    pub custom: u8,
}

/// `fqcsr` and `pqcsr`, which have the same fields (RISC-V IOMMU 5.16, 6.17).
#[bitfield(u32)]
#[derive(PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Fqcsr {
    /// Enable (`fqen`, `pqen`).
    pub fqen: bool,
    /// Interrupt enable (`fie`, `pie`).
    pub fie: bool,
    #[bits(6)]
    __: u8,
    /// A record could not be written (`fqmf`, `pqmf`). Cleared by writing 1.
    pub fqmf: bool,
    /// The queue was full (`fqof`, `pqof`). Cleared by writing 1.
    pub fqof: bool,
    #[bits(6)]
    __: u8,
    /// Active (`fqon`, `pqon`).
    pub fqon: bool,
    /// A write is being processed.
    pub busy: bool,
    #[bits(10)]
    __: u16,
    /// Custom.
    #[bits(4)]
    pub custom: u8,
}

/// `ipsr`, interrupt pending status; every bit is cleared by writing 1 (RISC-V IOMMU 5.18).
#[bitfield(u32)]
#[derive(PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Ipsr {
    /// Command queue.
    pub cip: bool,
    /// Fault queue.
    pub fip: bool,
    /// Performance monitoring.
    pub pmip: bool,
    /// Page-request queue.
    pub pip: bool,
    #[bits(28)]
    __: u32,
}

/// `iohpmcycles` (RISC-V IOMMU 5.21).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Iohpmcycles {
    /// Cycles.
    #[bits(63)]
    pub counter: u64,
    /// Overflow.
    pub of: bool,
}

/// Event identifiers of `iohpmevt` (RISC-V IOMMU 5.23).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u16)]
pub enum HpmEvent {
    /// Do not count.
    None = 0,
    /// Untranslated requests.
    UntranslatedRequests = 1,
    /// Translated requests.
    TranslatedRequests = 2,
    /// ATS translation requests.
    TranslationRequests = 3,
    /// TLB misses.
    TlbMiss = 4,
    /// Device directory walks.
    DeviceDirectoryWalks = 5,
    /// Process directory walks.
    ProcessDirectoryWalks = 6,
    /// First-stage page-table walks.
    FirstStageWalks = 7,
    /// Second-stage page-table walks.
    SecondStageWalks = 8,
}

impl HpmEvent {
    /// The event that `bits` encodes, or `None` where they are reserved or custom.
    #[must_use]
    pub const fn decode(bits: u16) -> Option<Self> {
        Some(match bits {
            0 => Self::None,
            1 => Self::UntranslatedRequests,
            2 => Self::TranslatedRequests,
            3 => Self::TranslationRequests,
            4 => Self::TlbMiss,
            5 => Self::DeviceDirectoryWalks,
            6 => Self::ProcessDirectoryWalks,
            7 => Self::FirstStageWalks,
            8 => Self::SecondStageWalks,
            _ => return None,
        })
    }
}

/// `iohpmevt` (RISC-V IOMMU 5.23).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Iohpmevt {
    /// Event; see [`HpmEvent::decode`].
    #[bits(15)]
    pub event_id: u16,
    /// `did_gscid` is matched under a mask made of its low bits.
    pub dmask: bool,
    /// process_id or PSCID.
    #[bits(20)]
    pub pid_pscid: u32,
    /// device_id or GSCID.
    #[bits(24)]
    pub did_gscid: u32,
    /// `pid_pscid` counts.
    pub pv_pscv: bool,
    /// `did_gscid` counts.
    pub dv_gscv: bool,
    /// Filter by GSCID and PSCID rather than device_id and process_id.
    pub idt: bool,
    /// The counter has overflowed.
    pub of: bool,
}

/// `tr_req_ctl` (RISC-V IOMMU 5.25).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct TrReqCtl {
    /// Set to start; clear when done.
    pub go_busy: bool,
    /// Privileged.
    pub r#priv: bool,
    /// Execute.
    pub exe: bool,
    /// No write: read only.
    pub nw: bool,
    #[bits(8)]
    __: u8,
    /// process_id.
    #[bits(20)]
    pub pid: u32,
    /// `pid` is valid.
    pub pv: bool,
    #[bits(3)]
    __: u8,
    /// Custom.
    #[bits(4)]
    pub custom: u8,
    /// device_id.
    #[bits(24)]
    pub did: u32,
}

/// `tr_response` (RISC-V IOMMU 5.26).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct TrResponse {
    /// The translation faulted; the rest is unspecified.
    pub fault: bool,
    #[bits(6)]
    __: u8,
    /// Memory type.
    #[bits(2)]
    pub pbmt: u8,
    /// Larger than a page: the size is encoded in `ppn` by its lowest clear bit.
    pub s: bool,
    /// Physical page.
    #[bits(44)]
    pub ppn: u64,
    #[bits(6)]
    __: u8,
    /// Custom.
    #[bits(4)]
    pub custom: u8,
}

/// `icvec`, the interrupt vector of each cause (RISC-V IOMMU 5.27).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Icvec {
    /// Command queue.
    #[bits(4)]
    pub civ: u8,
    /// Fault queue.
    #[bits(4)]
    pub fiv: u8,
    /// Performance monitoring.
    #[bits(4)]
    pub pmiv: u8,
    /// Page-request queue.
    #[bits(4)]
    pub piv: u8,
    #[bits(48)]
    __: u64,
}

/// `msi_addr` of the MSI configuration table (RISC-V IOMMU 5.28).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct MsiAddr {
    #[bits(2)]
    __: u8,
    /// Address bits 55:2.
    #[bits(54)]
    pub addr: u64,
    #[bits(8)]
    __: u8,
}

/// `msi_vec_ctl` of the MSI configuration table (RISC-V IOMMU 5.28).
#[bitfield(u32)]
#[derive(PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct MsiVecCtl {
    /// Masked.
    pub m: bool,
    #[bits(31)]
    __: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    // Values from the masks of Linux, drivers/iommu/riscv/iommu-bits.h.
    #[test]
    fn fields_stand_where_linux_has_them() {
        assert_eq!(Capabilities::new().with_svpbmt(true).into_bits(), 1 << 15);
        assert_eq!(Capabilities::new().with_msi_flat(true).into_bits(), 1 << 22);
        assert_eq!(Capabilities::new().with_amo_hwad(true).into_bits(), 1 << 24);
        assert_eq!(Capabilities::new().with_igs(Igs::Both).into_bits(), 2 << 28);
        assert_eq!(Capabilities::new().with_pas(0x3f).into_bits(), 0x3f << 32);
        assert_eq!(Capabilities::new().with_pd20(true).into_bits(), 1 << 40);
        assert_eq!(Ddtp::new().with_ppn((1 << 44) - 1).into_bits(), ((1 << 44) - 1) << 10);
        assert_eq!(QueueBase::new().with_ppn(1).into_bits(), 1 << 10);
        assert_eq!(Cqcsr::new().with_fence_w_ip(true).into_bits(), 1 << 11);
        assert_eq!(Cqcsr::new().with_cqon(true).with_busy(true).into_bits(), 3 << 16);
        assert_eq!(Fqcsr::new().with_fqof(true).into_bits(), 1 << 9);
        assert_eq!(Iohpmevt::new().with_did_gscid(0xff_ffff).into_bits(), 0xff_ffff << 36);
        assert_eq!(TrReqCtl::new().with_did(1).into_bits(), 1 << 40);
        assert_eq!(TrReqCtl::new().with_pid(1).with_pv(true).into_bits(), 1 << 12 | 1 << 32);
        assert_eq!(TrResponse::new().with_pbmt(3).with_s(true).into_bits(), 3 << 7 | 1 << 9);
    }
}
