//! Commands of the non-secure command queue (SMMUv3 4): 16 bytes each, little-endian.

use bitfield_struct::bitfield;

/// Bytes of a command.
pub const COMMAND_SIZE: u64 = 16;

/// Command opcodes (SMMUv3 4.1.1).
pub mod opcode {
    /// CMD_PREFETCH_CONFIG.
    pub const PREFETCH_CONFIG: u8 = 0x01;
    /// CMD_PREFETCH_ADDR.
    pub const PREFETCH_ADDR: u8 = 0x02;
    /// CMD_CFGI_STE.
    pub const CFGI_STE: u8 = 0x03;
    /// CMD_CFGI_STE_RANGE, and CMD_CFGI_ALL with a range of 31.
    pub const CFGI_STE_RANGE: u8 = 0x04;
    /// CMD_CFGI_CD.
    pub const CFGI_CD: u8 = 0x05;
    /// CMD_CFGI_CD_ALL.
    pub const CFGI_CD_ALL: u8 = 0x06;
    /// CMD_TLBI_NH_ALL.
    pub const TLBI_NH_ALL: u8 = 0x10;
    /// CMD_TLBI_NH_ASID.
    pub const TLBI_NH_ASID: u8 = 0x11;
    /// CMD_TLBI_NH_VA.
    pub const TLBI_NH_VA: u8 = 0x12;
    /// CMD_TLBI_NH_VAA.
    pub const TLBI_NH_VAA: u8 = 0x13;
    /// CMD_TLBI_EL2_ALL.
    pub const TLBI_EL2_ALL: u8 = 0x20;
    /// CMD_TLBI_EL2_ASID.
    pub const TLBI_EL2_ASID: u8 = 0x21;
    /// CMD_TLBI_EL2_VA.
    pub const TLBI_EL2_VA: u8 = 0x22;
    /// CMD_TLBI_EL2_VAA.
    pub const TLBI_EL2_VAA: u8 = 0x23;
    /// CMD_TLBI_S12_VMALL.
    pub const TLBI_S12_VMALL: u8 = 0x28;
    /// CMD_TLBI_S2_IPA.
    pub const TLBI_S2_IPA: u8 = 0x2a;
    /// CMD_TLBI_NSNH_ALL.
    pub const TLBI_NSNH_ALL: u8 = 0x30;
    /// CMD_ATC_INV.
    pub const ATC_INV: u8 = 0x40;
    /// CMD_PRI_RESP.
    pub const PRI_RESP: u8 = 0x41;
    /// CMD_RESUME.
    pub const RESUME: u8 = 0x44;
    /// CMD_STALL_TERM.
    pub const STALL_TERM: u8 = 0x45;
    /// CMD_SYNC.
    pub const SYNC: u8 = 0x46;
}

/// First word of the commands that name a stream (SMMUv3 4.2, 4.3, 4.5).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct StreamWord {
    /// Opcode.
    pub opcode: u8,
    __: bool,
    /// CMD_ATC_INV: for all PASIDs.
    pub g: bool,
    /// Secure stream: illegal in the non-secure queue (SMMUv3 4.1.6).
    pub ssec: bool,
    /// `substreamid` is valid.
    pub ssv: bool,
    /// SubstreamID.
    #[bits(20)]
    pub substreamid: u32,
    /// StreamID.
    pub streamid: u32,
}

/// First word of the TLB invalidations (SMMUv3 4.4).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct TlbiLow {
    /// Opcode.
    pub opcode: u8,
    #[bits(4)]
    __: u8,
    /// Range: granules minus 1, before scaling.
    #[bits(5)]
    pub num: u8,
    #[bits(3)]
    __: u8,
    /// Range: log2 of the factor. Five bits where 52-bit addresses with small granules are not supported.
    #[bits(6)]
    pub scale: u8,
    #[bits(6)]
    __: u8,
    /// VMID.
    pub vmid: u16,
    /// ASID.
    pub asid: u16,
}

/// Second word of the TLB invalidations (SMMUv3 4.4).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct TlbiHigh {
    /// Only leaf entries.
    pub leaf: bool,
    #[bits(7)]
    __: u8,
    /// Level hint.
    #[bits(2)]
    pub ttl: u8,
    /// Granule: 0 no range, 1 4 KiB, 2 16 KiB, 3 64 KiB.
    #[bits(2)]
    pub tg: u8,
    /// Address bits 63:12.
    #[bits(52)]
    pub address: u64,
}

/// First word of CMD_SYNC (SMMUv3 4.7.3).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct SyncLow {
    /// 0x46.
    pub opcode: u8,
    #[bits(2)]
    __: u8,
    /// Secure: illegal in the non-secure queue.
    pub ssec: bool,
    __: bool,
    /// Completion signal: 0 none, 1 interrupt, 2 event (SEV).
    #[bits(2)]
    pub cs: u8,
    __: u8,
    /// MSI shareability.
    #[bits(2)]
    pub msh: u8,
    /// MSI memory type.
    #[bits(4)]
    pub msiattr: u8,
    #[bits(4)]
    __: u8,
    /// MSI data.
    pub msidata: u32,
}

/// The addresses of a TLB invalidation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TlbiRange {
    /// First address, a multiple of 4096.
    pub address: u64,
    /// Bytes, where a range is given; `None` is the one entry around `address` whatever its size (SMMUv3 4.4.1.1).
    pub length: Option<u64>,
    /// Only leaf entries.
    pub leaf: bool,
}

/// How CMD_SYNC reports completion (SMMUv3 4.7.3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SyncSignal {
    /// CONS alone shows it.
    None,
    /// An interrupt: an MSI where the address is not zero.
    Irq {
        /// MSI address bits 55:2, as an address.
        address: u64,
        /// MSI data.
        data: u32,
    },
    /// A WFE wake-up event.
    Sev,
}

/// What CMD_RESUME does with a stalled transaction (SMMUv3 4.7.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ResumeAction {
    /// Terminates it, reads as zero and ignores writes.
    Terminate,
    /// Tries again.
    Retry,
    /// Terminates it with an abort.
    Abort,
}

/// A command, decoded (SMMUv3 4).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Command {
    /// A hint to fetch a stream's configuration.
    PrefetchConfig {
        /// Stream.
        streamid: u32,
        /// Substream.
        substreamid: Option<u32>,
    },
    /// A hint to fetch a stream's configuration and translations.
    PrefetchAddr {
        /// Stream.
        streamid: u32,
        /// Substream.
        substreamid: Option<u32>,
        /// Address.
        address: u64,
    },
    /// Forget one STE and its CDs.
    CfgiSte {
        /// Stream.
        streamid: u32,
        /// First-level descriptors may stay.
        leaf: bool,
    },
    /// Forget the STEs of an aligned range of 2^(range + 1) streams, and their CDs.
    CfgiSteRange {
        /// A stream in the range.
        streamid: u32,
        /// 0 to 31; 31 is everything (CMD_CFGI_ALL).
        range: u8,
    },
    /// Forget one CD.
    CfgiCd {
        /// Stream.
        streamid: u32,
        /// Index of the CD.
        substreamid: u32,
        /// First-level descriptors may stay.
        leaf: bool,
    },
    /// Forget all CDs of a stream.
    CfgiCdAll {
        /// Stream.
        streamid: u32,
    },
    /// Forget stage 1 translations of a VM.
    TlbiNhAll {
        /// VMID.
        vmid: u16,
    },
    /// Forget stage 1 translations of an ASID, but for global ones.
    TlbiNhAsid {
        /// VMID.
        vmid: u16,
        /// ASID.
        asid: u16,
    },
    /// Forget stage 1 translations of addresses in an ASID, global ones too.
    TlbiNhVa {
        /// VMID.
        vmid: u16,
        /// ASID.
        asid: u16,
        /// Addresses.
        range: TlbiRange,
    },
    /// Forget stage 1 translations of addresses in all ASIDs.
    TlbiNhVaa {
        /// VMID.
        vmid: u16,
        /// Addresses.
        range: TlbiRange,
    },
    /// Forget all EL2 translations.
    TlbiEl2All,
    /// Forget EL2 translations of an ASID.
    TlbiEl2Asid {
        /// ASID.
        asid: u16,
    },
    /// Forget EL2 translations of addresses in an ASID.
    TlbiEl2Va {
        /// ASID.
        asid: u16,
        /// Addresses.
        range: TlbiRange,
    },
    /// Forget EL2 translations of addresses in all ASIDs.
    TlbiEl2Vaa {
        /// Addresses.
        range: TlbiRange,
    },
    /// Forget all translations of a VM, both stages.
    TlbiS12Vmall {
        /// VMID.
        vmid: u16,
    },
    /// Forget stage 2 translations of addresses.
    TlbiS2Ipa {
        /// VMID.
        vmid: u16,
        /// IPAs.
        range: TlbiRange,
    },
    /// Forget all non-secure EL1 translations.
    TlbiNsnhAll,
    /// Invalidate in a device's ATC.
    AtcInv {
        /// Stream.
        streamid: u32,
        /// Substream.
        substreamid: Option<u32>,
        /// All PASIDs.
        global: bool,
        /// First address.
        address: u64,
        /// log2 of the 4 KiB pages; 52 is everything.
        size: u8,
    },
    /// Answer a page-request group.
    PriResp {
        /// Stream.
        streamid: u32,
        /// Substream.
        substreamid: Option<u32>,
        /// Group index.
        prgindex: u16,
        /// 0 deny, 1 fail, 2 success.
        resp: u8,
    },
    /// Resume a stalled transaction.
    Resume {
        /// Stream.
        streamid: u32,
        /// The event's tag.
        stag: u16,
        /// What to do.
        action: ResumeAction,
    },
    /// Terminate all stalled transactions of a stream.
    StallTerm {
        /// Stream.
        streamid: u32,
    },
    /// Complete when all before it is.
    Sync {
        /// How to report it.
        signal: SyncSignal,
    },
}

/// Why a command is illegal, CERROR_ILL (SMMUv3 4.1.3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CommandError {
    /// The opcode is reserved, or for another security state.
    UnknownOpcode,
    /// SSec is set in the non-secure queue (SMMUv3 4.1.6).
    SecureStream,
    /// A parameter has a reserved value.
    Parameter,
}

macro_rules! tri {
    ($result:expr) => {
        match $result {
            Ok(value) => value,
            Err(error) => return Err(error),
        }
    };
}

const ADDRESS_55_2: u64 = 0x00ff_ffff_ffff_fffc;

impl Command {
    /// Reads a command from the non-secure queue. Reserved fields are ignored, as SMMUv3 4.1.5 permits; range fields
    /// count only where `range_invalidation` (IDR3.RIL), and are reserved otherwise.
    ///
    /// # Errors
    /// Why it is illegal. Whether the unit has what the command is for (stages, stalls, ATS) is for the unit to check.
    pub const fn decode(words: [u64; 2], range_invalidation: bool) -> Result<Self, CommandError> {
        let stream = StreamWord::from_bits(words[0]);
        let low = TlbiLow::from_bits(words[0]);
        let streamid = stream.streamid();
        let substreamid = if stream.ssv() { Some(stream.substreamid()) } else { None };
        let (vmid, asid) = (low.vmid(), low.asid());
        let code = stream.opcode();
        if stream.ssec() && (code < opcode::TLBI_NH_ALL || code >= opcode::ATC_INV) && known(code) {
            return Err(CommandError::SecureStream);
        }
        Ok(match code {
            opcode::PREFETCH_CONFIG => Self::PrefetchConfig { streamid, substreamid },
            opcode::PREFETCH_ADDR => Self::PrefetchAddr { streamid, substreamid, address: words[1] & !0xfff },
            opcode::CFGI_STE => Self::CfgiSte { streamid, leaf: words[1] & 1 != 0 },
            opcode::CFGI_STE_RANGE => Self::CfgiSteRange { streamid, range: (words[1] & 0x1f) as u8 },
            opcode::CFGI_CD => {
                Self::CfgiCd { streamid, substreamid: stream.substreamid(), leaf: words[1] & 1 != 0 }
            }
            opcode::CFGI_CD_ALL => Self::CfgiCdAll { streamid },
            opcode::TLBI_NH_ALL => Self::TlbiNhAll { vmid },
            opcode::TLBI_NH_ASID => Self::TlbiNhAsid { vmid, asid },
            opcode::TLBI_NH_VA => {
                Self::TlbiNhVa { vmid, asid, range: tri!(range(words, range_invalidation)) }
            }
            opcode::TLBI_NH_VAA => Self::TlbiNhVaa { vmid, range: tri!(range(words, range_invalidation)) },
            opcode::TLBI_EL2_ALL => Self::TlbiEl2All,
            opcode::TLBI_EL2_ASID => Self::TlbiEl2Asid { asid },
            opcode::TLBI_EL2_VA => Self::TlbiEl2Va { asid, range: tri!(range(words, range_invalidation)) },
            opcode::TLBI_EL2_VAA => Self::TlbiEl2Vaa { range: tri!(range(words, range_invalidation)) },
            opcode::TLBI_S12_VMALL => Self::TlbiS12Vmall { vmid },
            opcode::TLBI_S2_IPA => Self::TlbiS2Ipa { vmid, range: tri!(range(words, range_invalidation)) },
            opcode::TLBI_NSNH_ALL => Self::TlbiNsnhAll,
            opcode::ATC_INV => Self::AtcInv {
                streamid,
                substreamid,
                global: stream.g(),
                address: words[1] & !0xfff,
                size: (words[1] & 0x3f) as u8,
            },
            opcode::PRI_RESP => {
                let resp = (words[1] >> 12 & 3) as u8;
                if resp == 3 {
                    return Err(CommandError::Parameter);
                }
                Self::PriResp { streamid, substreamid, prgindex: (words[1] & 0x1ff) as u16, resp }
            }
            opcode::RESUME => {
                let action = match words[0] >> 12 & 3 {
                    0 => ResumeAction::Terminate,
                    2 => ResumeAction::Abort,
                    _ => ResumeAction::Retry,
                };
                Self::Resume { streamid, stag: words[1] as u16, action }
            }
            opcode::STALL_TERM => Self::StallTerm { streamid },
            opcode::SYNC => {
                let sync = SyncLow::from_bits(words[0]);
                let signal = match sync.cs() {
                    0 => SyncSignal::None,
                    1 => SyncSignal::Irq { address: words[1] & ADDRESS_55_2, data: sync.msidata() },
                    2 => SyncSignal::Sev,
                    // SMMUv3 4.7.3: CS 0b11 is reserved.
                    _ => return Err(CommandError::Parameter),
                };
                Self::Sync { signal }
            }
            _ => return Err(CommandError::UnknownOpcode),
        })
    }

    /// Writes a command. A range is encoded for tables with 4 KiB granules: the smallest range that covers it, and one granule as no
    /// range.
    #[must_use]
    pub const fn encode(self) -> [u64; 2] {
        match self {
            Self::PrefetchConfig { streamid, substreamid } => {
                [stream(opcode::PREFETCH_CONFIG, streamid, substreamid), 0]
            }
            Self::PrefetchAddr { streamid, substreamid, address } => {
                [stream(opcode::PREFETCH_ADDR, streamid, substreamid), address & !0xfff]
            }
            Self::CfgiSte { streamid, leaf } => [stream(opcode::CFGI_STE, streamid, None), leaf as u64],
            Self::CfgiSteRange { streamid, range } => {
                [stream(opcode::CFGI_STE_RANGE, streamid, None), (range & 0x1f) as u64]
            }
            Self::CfgiCd { streamid, substreamid, leaf } => {
                let low = StreamWord::new().with_opcode(opcode::CFGI_CD).with_streamid(streamid);
                [low.with_substreamid(substreamid & 0xf_ffff).into_bits(), leaf as u64]
            }
            Self::CfgiCdAll { streamid } => [stream(opcode::CFGI_CD_ALL, streamid, None), 0],
            Self::TlbiNhAll { vmid } => [tlbi(opcode::TLBI_NH_ALL, vmid, 0), 0],
            Self::TlbiNhAsid { vmid, asid } => [tlbi(opcode::TLBI_NH_ASID, vmid, asid), 0],
            Self::TlbiNhVa { vmid, asid, range } => ranged(tlbi(opcode::TLBI_NH_VA, vmid, asid), range),
            Self::TlbiNhVaa { vmid, range } => ranged(tlbi(opcode::TLBI_NH_VAA, vmid, 0), range),
            Self::TlbiEl2All => [tlbi(opcode::TLBI_EL2_ALL, 0, 0), 0],
            Self::TlbiEl2Asid { asid } => [tlbi(opcode::TLBI_EL2_ASID, 0, asid), 0],
            Self::TlbiEl2Va { asid, range } => ranged(tlbi(opcode::TLBI_EL2_VA, 0, asid), range),
            Self::TlbiEl2Vaa { range } => ranged(tlbi(opcode::TLBI_EL2_VAA, 0, 0), range),
            Self::TlbiS12Vmall { vmid } => [tlbi(opcode::TLBI_S12_VMALL, vmid, 0), 0],
            Self::TlbiS2Ipa { vmid, range } => ranged(tlbi(opcode::TLBI_S2_IPA, vmid, 0), range),
            Self::TlbiNsnhAll => [tlbi(opcode::TLBI_NSNH_ALL, 0, 0), 0],
            Self::AtcInv { streamid, substreamid, global, address, size } => {
                let low =
                    StreamWord::from_bits(stream(opcode::ATC_INV, streamid, substreamid)).with_g(global);
                [low.into_bits(), address & !0xfff | (size & 0x3f) as u64]
            }
            Self::PriResp { streamid, substreamid, prgindex, resp } => [
                stream(opcode::PRI_RESP, streamid, substreamid),
                (prgindex & 0x1ff) as u64 | ((resp & 3) as u64) << 12,
            ],
            Self::Resume { streamid, stag, action } => {
                let action = match action {
                    ResumeAction::Terminate => 0,
                    ResumeAction::Retry => 1,
                    ResumeAction::Abort => 2,
                };
                [stream(opcode::RESUME, streamid, None) | action << 12, stag as u64]
            }
            Self::StallTerm { streamid } => [stream(opcode::STALL_TERM, streamid, None), 0],
            Self::Sync { signal } => {
                let low = SyncLow::new().with_opcode(opcode::SYNC);
                match signal {
                    SyncSignal::None => [low.into_bits(), 0],
                    SyncSignal::Sev => [low.with_cs(2).into_bits(), 0],
                    SyncSignal::Irq { address, data } => {
                        [low.with_cs(1).with_msidata(data).into_bits(), address & ADDRESS_55_2]
                    }
                }
            }
        }
    }
}

const fn known(code: u8) -> bool {
    matches!(code, 0x01..=0x06 | 0x40 | 0x41 | 0x44..=0x46)
}

const fn range(words: [u64; 2], range_invalidation: bool) -> Result<TlbiRange, CommandError> {
    let (low, high) = (TlbiLow::from_bits(words[0]), TlbiHigh::from_bits(words[1]));
    let address = high.address() << 12;
    if !range_invalidation || high.tg() == 0 {
        return Ok(TlbiRange { address, length: None, leaf: high.leaf() });
    }
    // 4.4.1.1: a granule with neither a range nor a level is reserved.
    if low.num() == 0 && low.scale() == 0 && high.ttl() == 0 {
        return Err(CommandError::Parameter);
    }
    let granule_shift = 10 + 2 * high.tg() as u32;
    // 4.4.1.1: SCALE above 39 counts as 39; a range does not wrap.
    let scale = if low.scale() > 39 { 39 } else { low.scale() as u32 };
    let granules = ((low.num() as u64 + 1) as u128) << scale;
    let bytes = granules << granule_shift;
    let length = if bytes > u64::MAX as u128 { u64::MAX } else { bytes as u64 };
    Ok(TlbiRange { address, length: Some(length), leaf: high.leaf() })
}

const fn stream(code: u8, streamid: u32, substreamid: Option<u32>) -> u64 {
    let word = StreamWord::new().with_opcode(code).with_streamid(streamid);
    match substreamid {
        Some(id) => word.with_ssv(true).with_substreamid(id & 0xf_ffff).into_bits(),
        None => word.into_bits(),
    }
}

const fn tlbi(code: u8, vmid: u16, asid: u16) -> u64 {
    TlbiLow::new().with_opcode(code).with_vmid(vmid).with_asid(asid).into_bits()
}

const fn ranged(low: u64, range: TlbiRange) -> [u64; 2] {
    let mut low = TlbiLow::from_bits(low);
    let mut high = TlbiHigh::new().with_leaf(range.leaf).with_address(range.address >> 12);
    // 4.4.1.1: one granule is no range; without a level, that encoding is reserved.
    if let Some(length) = range.length
        && length > 4096
    {
        let mut scale = 0;
        let mut granules = length.div_ceil(4096);
        while granules > 32 {
            granules = granules.div_ceil(2);
            scale += 1;
        }
        let num = granules.saturating_sub(1) as u8;
        low = low.with_num(num).with_scale(scale);
        high = high.with_tg(1);
    }
    [low.into_bits(), high.into_bits()]
}

#[cfg(test)]
mod tests {
    use proptest::{option, prelude::*};

    use super::*;

    // Values built by hand from the masks of Linux, drivers/iommu/arm/arm-smmu-v3/arm-smmu-v3.h.
    #[test]
    fn commands_stand_where_linux_has_them() {
        let range = TlbiRange { address: 0x1234_5000, length: None, leaf: true };
        assert_eq!(
            Command::TlbiNhVa { vmid: 3, asid: 5, range }.encode(),
            [0x12 | 3 << 32 | 5 << 48, 0x1234_5000 | 1]
        );
        let range = TlbiRange { address: 0, length: Some(64 << 12), leaf: false };
        assert_eq!(
            Command::TlbiS2Ipa { vmid: 1, range }.encode(),
            [0x2a | 31 << 12 | 1 << 20 | 1 << 32, 1 << 10]
        );
        assert_eq!(
            Command::CfgiCd { streamid: 7, substreamid: 9, leaf: true }.encode(),
            [0x05 | 9 << 12 | 7 << 32, 1]
        );
        let signal = SyncSignal::Irq { address: 0x8000, data: 6 };
        assert_eq!(Command::Sync { signal }.encode(), [0x46 | 1 << 12 | 6 << 32, 0x8000]);
        let resume = Command::Resume { streamid: 2, stag: 4, action: ResumeAction::Abort };
        assert_eq!(resume.encode(), [0x44 | 2 << 12 | 2 << 32, 4]);
    }

    #[test]
    fn illegal_commands_are_refused() {
        assert_eq!(Command::decode([0, 0], true), Err(CommandError::UnknownOpcode));
        // 4.1.1: secure and EL3 commands.
        assert_eq!(Command::decode([0x18, 0], true), Err(CommandError::UnknownOpcode));
        assert_eq!(Command::decode([0x03 | 1 << 10, 0], true), Err(CommandError::SecureStream));
        assert_eq!(Command::decode([0x46 | 3 << 12, 0], true), Err(CommandError::Parameter));
    }

    #[test]
    fn a_range_is_num_and_scale_granules() {
        // 4.4.1.1: Range = ((NUM+1)*2^SCALE) * granule.
        let words = [0x12 | 4 << 12 | 3 << 20, 2 << 10 | 0x10_0000];
        let Ok(Command::TlbiNhVa { range, .. }) = Command::decode(words, true) else { panic!() };
        assert_eq!(range.length, Some(5 * 8 * 16384));
        let Ok(Command::TlbiNhVa { range, .. }) = Command::decode(words, false) else { panic!() };
        assert_eq!(range.length, None);
        // A granule with neither range nor level.
        assert_eq!(Command::decode([0x12, 2 << 10], true), Err(CommandError::Parameter));
        assert!(Command::decode([0x12, 2 << 10 | 3 << 8], true).is_ok());
    }

    fn any_range() -> impl Strategy<Value = TlbiRange> {
        // A length that the fields can express exactly.
        let length = option::of((1u64..32, 0u32..20).prop_map(|(num, scale)| ((num + 1) << scale) << 12));
        (any::<u64>(), length, any::<bool>()).prop_map(|(address, length, leaf)| TlbiRange {
            address: address & !0xfff,
            length,
            leaf,
        })
    }

    fn command() -> impl Strategy<Value = Command> {
        let ssid = option::of(0u32..1 << 20);
        prop_oneof![
            (any::<u32>(), ssid.clone())
                .prop_map(|(streamid, substreamid)| Command::PrefetchConfig { streamid, substreamid }),
            (any::<u32>(), any::<bool>()).prop_map(|(streamid, leaf)| Command::CfgiSte { streamid, leaf }),
            (any::<u32>(), 0u8..32).prop_map(|(streamid, range)| Command::CfgiSteRange { streamid, range }),
            (any::<u32>(), 0u32..1 << 20, any::<bool>())
                .prop_map(|(streamid, substreamid, leaf)| Command::CfgiCd { streamid, substreamid, leaf }),
            (any::<u16>(), any::<u16>(), any_range()).prop_map(|(vmid, asid, range)| Command::TlbiNhVa {
                vmid,
                asid,
                range
            }),
            (any::<u16>(), any_range()).prop_map(|(vmid, range)| Command::TlbiS2Ipa { vmid, range }),
            (any::<u32>(), ssid, any::<bool>(), any::<u64>(), 0u8..=52).prop_map(
                |(streamid, substreamid, global, address, size)| Command::AtcInv {
                    streamid,
                    substreamid,
                    global,
                    address: address & !0xfff,
                    size
                }
            ),
            (any::<u32>(), any::<u16>()).prop_map(|(streamid, stag)| Command::Resume {
                streamid,
                stag,
                action: ResumeAction::Retry
            }),
            (any::<u64>(), any::<u32>()).prop_map(|(address, data)| Command::Sync {
                signal: SyncSignal::Irq { address: address & ADDRESS_55_2, data }
            }),
        ]
    }

    proptest! {
        #[test]
        fn a_command_decodes_to_what_was_encoded(command in command()) {
            prop_assert_eq!(Command::decode(command.encode(), true), Ok(command));
        }

        #[test]
        fn any_words_decode_without_panic(words: [u64; 2], range: bool) {
            let _ = Command::decode(words, range);
        }
    }
}
