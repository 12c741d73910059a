//! Commands (RISC-V IOMMU 3.1): 16 bytes each.

use bitfield_struct::bitfield;

/// Bytes of a command.
pub const COMMAND_SIZE: u64 = 16;

const IOTINVAL: u8 = 1;
const IOFENCE: u8 = 2;
const IODIR: u8 = 3;
const ATS: u8 = 4;

/// First word of `IOTINVAL.VMA` and `IOTINVAL.GVMA` (RISC-V IOMMU 3.1.1).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct IotinvalLow {
    /// 1.
    #[bits(7)]
    pub opcode: u8,
    /// 0 VMA, 1 GVMA.
    #[bits(3)]
    pub func3: u8,
    /// `addr` is valid.
    pub av: bool,
    __: bool,
    /// Process soft-context ID.
    #[bits(20)]
    pub pscid: u32,
    /// `pscid` is valid.
    pub pscv: bool,
    /// `gscid` is valid.
    pub gv: bool,
    /// Non-leaf entries too (`capabilities.nl`).
    pub nl: bool,
    #[bits(9)]
    __: u16,
    /// Guest soft-context ID.
    pub gscid: u16,
    #[bits(4)]
    __: u8,
}

/// Second word of `IOTINVAL.VMA` and `IOTINVAL.GVMA` (RISC-V IOMMU 3.1.1).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct IotinvalHigh {
    #[bits(9)]
    __: u16,
    /// `addr` encodes a naturally aligned range (`capabilities.s`).
    pub s: bool,
    /// Address bits 63:12.
    #[bits(52)]
    pub addr: u64,
    #[bits(2)]
    __: u8,
}

/// First word of `IOFENCE.C` (RISC-V IOMMU 3.1.2).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct IofenceLow {
    /// 2.
    #[bits(7)]
    pub opcode: u8,
    /// 0.
    #[bits(3)]
    pub func3: u8,
    /// Write `data` to `addr` on completion.
    pub av: bool,
    /// Raise a wire-signaled interrupt on completion.
    pub wsi: bool,
    /// Earlier reads are globally ordered first.
    pub pr: bool,
    /// Earlier writes are globally ordered first.
    pub pw: bool,
    #[bits(18)]
    __: u32,
    /// What to write.
    pub data: u32,
}

/// Second word of `IOFENCE.C` (RISC-V IOMMU 3.1.2).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct IofenceHigh {
    /// Address bits 63:2.
    #[bits(62)]
    pub addr: u64,
    #[bits(2)]
    __: u8,
}

/// First word of `IODIR.INVAL_DDT` and `IODIR.INVAL_PDT` (RISC-V IOMMU 3.1.3). The second is reserved.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct IodirLow {
    /// 3.
    #[bits(7)]
    pub opcode: u8,
    /// 0 `INVAL_DDT`, 1 `INVAL_PDT`.
    #[bits(3)]
    pub func3: u8,
    #[bits(2)]
    __: u8,
    /// process_id.
    #[bits(20)]
    pub pid: u32,
    __: bool,
    /// `did` is valid.
    pub dv: bool,
    #[bits(6)]
    __: u8,
    /// device_id.
    #[bits(24)]
    pub did: u32,
}

/// First word of `ATS.INVAL` and `ATS.PRGR` (RISC-V IOMMU 3.1.4). The second is the message's payload.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct AtsLow {
    /// 4.
    #[bits(7)]
    pub opcode: u8,
    /// 0 `INVAL`, 1 `PRGR`.
    #[bits(3)]
    pub func3: u8,
    #[bits(2)]
    __: u8,
    /// PASID.
    #[bits(20)]
    pub pid: u32,
    /// `pid` is valid.
    pub pv: bool,
    /// `dseg` is valid.
    pub dsv: bool,
    #[bits(6)]
    __: u8,
    /// Requester ID.
    pub rid: u16,
    /// Segment.
    pub dseg: u8,
}

/// Which addresses an `IOTINVAL` names.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct AddressRange {
    /// First address, a multiple of 4096.
    pub first: u64,
    /// log2 of the bytes, at least 12. 64 is everything.
    pub size_log2: u8,
}

impl AddressRange {
    /// From `addr` (in pages) and `s`: with `s`, the lowest clear bit of `addr` gives the size, as in NAPOT encodings
    /// (RISC-V IOMMU 3.1.1, address range invalidation extension).
    const fn decode(addr: u64, s: bool) -> Self {
        if !s {
            return Self { first: addr << 12, size_log2: 12 };
        }
        let ones = addr.trailing_ones();
        if ones >= 51 {
            return Self { first: 0, size_log2: 64 };
        }
        Self { first: (addr >> (ones + 1) << (ones + 1)) << 12, size_log2: 13 + ones as u8 }
    }

    const fn encode(self) -> (u64, bool) {
        match self.size_log2 {
            0..=12 => (self.first >> 12, false),
            13..=63 => {
                let bits = self.size_log2 - 12;
                (((self.first >> 12) >> bits << bits) | ((1 << (bits - 1)) - 1), true)
            }
            64.. => ((1 << 51) - 1, true),
        }
    }
}

/// A command, decoded (RISC-V IOMMU 3.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Command {
    /// `IOTINVAL.VMA`: forget first-stage translations.
    IotinvalVma {
        /// Only of this guest; `None` is the host.
        gscid: Option<u16>,
        /// Only of this process.
        pscid: Option<u32>,
        /// Only of these addresses.
        range: Option<AddressRange>,
        /// Non-leaf entries too, where a range is given.
        non_leaf: bool,
    },
    /// `IOTINVAL.GVMA`: forget second-stage translations.
    IotinvalGvma {
        /// Only of this guest; `None` is all.
        gscid: Option<u16>,
        /// Only of these guest-physical addresses.
        range: Option<AddressRange>,
        /// Non-leaf entries too, where a range is given.
        non_leaf: bool,
    },
    /// `IOFENCE.C`: complete when all before it is.
    Iofence {
        /// Write these four bytes there, a multiple of 4.
        write: Option<(u64, u32)>,
        /// Raise a wire-signaled interrupt.
        wsi: bool,
        /// Order earlier reads.
        pr: bool,
        /// Order earlier writes.
        pw: bool,
    },
    /// `IODIR.INVAL_DDT`: forget device contexts, of one device or all.
    IodirInvalDdt {
        /// The device.
        did: Option<u32>,
    },
    /// `IODIR.INVAL_PDT`: forget one process context.
    IodirInvalPdt {
        /// The device.
        did: u32,
        /// The process.
        pid: u32,
    },
    /// `ATS.INVAL`: an invalidation request to a device TLB.
    AtsInval {
        /// Segment, where given.
        dseg: Option<u8>,
        /// Requester ID.
        rid: u16,
        /// PASID, where given.
        pid: Option<u32>,
        /// Payload.
        payload: u64,
    },
    /// `ATS.PRGR`: a page-request group response.
    AtsPrgr {
        /// Segment, where given.
        dseg: Option<u8>,
        /// Requester ID.
        rid: u16,
        /// PASID, where given.
        pid: Option<u32>,
        /// Payload.
        payload: u64,
    },
}

/// Why a command is illegal (RISC-V IOMMU 3.1, `cqcsr.cmd_ill`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CommandError {
    /// The opcode or function is reserved or custom.
    UnknownOpcode,
    /// A reserved bit is set.
    ReservedBits,
    /// Operands that the specification does not allow together.
    Operands,
}

impl Command {
    /// Reads a command.
    ///
    /// # Errors
    /// Why it is illegal. `non_leaf` and ranges decode whether or not the unit has them: that is for the unit to refuse.
    pub const fn decode(words: [u64; 2]) -> Result<Self, CommandError> {
        let opcode = (words[0] & 0x7f) as u8;
        let func3 = (words[0] >> 7 & 7) as u8;
        match (opcode, func3) {
            (IOTINVAL, 0 | 1) => Self::decode_iotinval(words, func3 == 1),
            (IOFENCE, 0) => {
                if words[0] & 0xffff_c000 != 0 || words[1] >> 62 != 0 {
                    return Err(CommandError::ReservedBits);
                }
                let low = IofenceLow::from_bits(words[0]);
                let write = if low.av() { Some((words[1] << 2, low.data())) } else { None };
                Ok(Self::Iofence { write, wsi: low.wsi(), pr: low.pr(), pw: low.pw() })
            }
            (IODIR, 0 | 1) => {
                if words[0] & 0xfd_0000_0c00 != 0 || words[1] != 0 {
                    return Err(CommandError::ReservedBits);
                }
                let low = IodirLow::from_bits(words[0]);
                match (func3, low.dv()) {
                    (0, dv) => {
                        // 3.1.3: PID is reserved for INVAL_DDT.
                        if low.pid() != 0 {
                            return Err(CommandError::ReservedBits);
                        }
                        Ok(Self::IodirInvalDdt { did: if dv { Some(low.did()) } else { None } })
                    }
                    (_, true) => Ok(Self::IodirInvalPdt { did: low.did(), pid: low.pid() }),
                    // 3.1.3: DV must be 1 for INVAL_PDT.
                    (_, false) => Err(CommandError::Operands),
                }
            }
            (ATS, 0 | 1) => {
                if words[0] & 0xfc_0000_0c00 != 0 {
                    return Err(CommandError::ReservedBits);
                }
                let low = AtsLow::from_bits(words[0]);
                let dseg = if low.dsv() { Some(low.dseg()) } else { None };
                let pid = if low.pv() { Some(low.pid()) } else { None };
                let (rid, payload) = (low.rid(), words[1]);
                Ok(if func3 == 0 {
                    Self::AtsInval { dseg, rid, pid, payload }
                } else {
                    Self::AtsPrgr { dseg, rid, pid, payload }
                })
            }
            _ => Err(CommandError::UnknownOpcode),
        }
    }

    const fn decode_iotinval(words: [u64; 2], gvma: bool) -> Result<Self, CommandError> {
        if words[0] & 0xf000_0ff8_0000_0800 != 0 || words[1] & 0xc000_0000_0000_01ff != 0 {
            return Err(CommandError::ReservedBits);
        }
        let low = IotinvalLow::from_bits(words[0]);
        let high = IotinvalHigh::from_bits(words[1]);
        let gscid = if low.gv() { Some(low.gscid()) } else { None };
        let range = if low.av() { Some(AddressRange::decode(high.addr(), high.s())) } else { None };
        if !gvma {
            let pscid = if low.pscv() { Some(low.pscid()) } else { None };
            return Ok(Self::IotinvalVma { gscid, pscid, range, non_leaf: low.nl() });
        }
        // 3.1.1: PSCV with GVMA is illegal; AV without GV is ignored.
        if low.pscv() {
            return Err(CommandError::Operands);
        }
        let range = if low.gv() { range } else { None };
        Ok(Self::IotinvalGvma { gscid, range, non_leaf: low.nl() })
    }

    /// Writes a command.
    #[must_use]
    pub const fn encode(self) -> [u64; 2] {
        match self {
            Self::IotinvalVma { gscid, pscid, range, non_leaf } => {
                encode_iotinval(0, gscid, pscid, range, non_leaf)
            }
            Self::IotinvalGvma { gscid, range, non_leaf } => encode_iotinval(1, gscid, None, range, non_leaf),
            Self::Iofence { write, wsi, pr, pw } => {
                let mut low = IofenceLow::new().with_opcode(IOFENCE).with_wsi(wsi).with_pr(pr).with_pw(pw);
                let mut high = IofenceHigh::new();
                if let Some((address, data)) = write {
                    low = low.with_av(true).with_data(data);
                    high = high.with_addr(address >> 2);
                }
                [low.into_bits(), high.into_bits()]
            }
            Self::IodirInvalDdt { did } => {
                let mut low = IodirLow::new().with_opcode(IODIR);
                if let Some(did) = did {
                    low = low.with_dv(true).with_did(did);
                }
                [low.into_bits(), 0]
            }
            Self::IodirInvalPdt { did, pid } => {
                let low = IodirLow::new().with_opcode(IODIR).with_func3(1).with_dv(true);
                [low.with_did(did).with_pid(pid).into_bits(), 0]
            }
            Self::AtsInval { dseg, rid, pid, payload } => encode_ats(0, dseg, rid, pid, payload),
            Self::AtsPrgr { dseg, rid, pid, payload } => encode_ats(1, dseg, rid, pid, payload),
        }
    }
}

const fn encode_iotinval(
    func3: u8,
    gscid: Option<u16>,
    pscid: Option<u32>,
    range: Option<AddressRange>,
    non_leaf: bool,
) -> [u64; 2] {
    let mut low = IotinvalLow::new().with_opcode(IOTINVAL).with_func3(func3).with_nl(non_leaf);
    let mut high = IotinvalHigh::new();
    if let Some(gscid) = gscid {
        low = low.with_gv(true).with_gscid(gscid);
    }
    if let Some(pscid) = pscid {
        low = low.with_pscv(true).with_pscid(pscid);
    }
    if let Some(range) = range {
        let (addr, s) = range.encode();
        low = low.with_av(true);
        high = high.with_addr(addr).with_s(s);
    }
    [low.into_bits(), high.into_bits()]
}

const fn encode_ats(func3: u8, dseg: Option<u8>, rid: u16, pid: Option<u32>, payload: u64) -> [u64; 2] {
    let mut low = AtsLow::new().with_opcode(ATS).with_func3(func3).with_rid(rid);
    if let Some(dseg) = dseg {
        low = low.with_dsv(true).with_dseg(dseg);
    }
    if let Some(pid) = pid {
        low = low.with_pv(true).with_pid(pid);
    }
    [low.into_bits(), payload]
}

#[cfg(test)]
mod tests {
    use proptest::{option, prelude::*};

    use super::*;

    // Values built by hand from the field masks of Linux, drivers/iommu/riscv/iommu-bits.h.
    #[test]
    fn commands_stand_where_linux_has_them() {
        let range = Some(AddressRange { first: 0x1234_5000, size_log2: 12 });
        let vma = Command::IotinvalVma { gscid: Some(3), pscid: Some(5), range, non_leaf: false };
        assert_eq!(vma.encode(), [1 | 1 << 10 | 5 << 12 | 1 << 32 | 1 << 33 | 3 << 44, 0x12345 << 10]);
        let fence = Command::Iofence { write: Some((0x8000, 7)), wsi: false, pr: true, pw: true };
        assert_eq!(fence.encode(), [2 | 1 << 10 | 1 << 12 | 1 << 13 | 7 << 32, 0x8000 >> 2]);
        let pdt = Command::IodirInvalPdt { did: 9, pid: 2 };
        assert_eq!(pdt.encode(), [3 | 1 << 7 | 2 << 12 | 1 << 33 | 9 << 40, 0]);
    }

    #[test]
    fn a_range_is_a_napot_encoding() {
        // Address range invalidation extension: yyyy…0111 is 16 pages around the address.
        assert_eq!(AddressRange::decode(0x1230 | 7, true), AddressRange { first: 0x123_0000, size_log2: 16 });
        assert_eq!(AddressRange::decode(0x1230, true), AddressRange { first: 0x123_0000, size_log2: 13 });
    }

    #[test]
    fn illegal_commands_are_refused() {
        assert_eq!(Command::decode([0, 0]), Err(CommandError::UnknownOpcode));
        assert_eq!(Command::decode([1 | 1 << 7 | 1 << 32, 0]), Err(CommandError::Operands));
        assert_eq!(Command::decode([1 | 1 << 11, 0]), Err(CommandError::ReservedBits));
        assert_eq!(Command::decode([3 | 1 << 7, 0]), Err(CommandError::Operands));
        assert_eq!(Command::decode([3, 1]), Err(CommandError::ReservedBits));
    }

    fn range() -> impl Strategy<Value = Option<AddressRange>> {
        option::of((12u8..=63, any::<u64>()).prop_map(|(size_log2, address)| AddressRange {
            first: address >> size_log2 << size_log2,
            size_log2,
        }))
    }

    fn command() -> impl Strategy<Value = Command> {
        let id20 = 0u32..1 << 20;
        let id24 = 0u32..1 << 24;
        prop_oneof![
            (any::<Option<u16>>(), option::of(id20.clone()), range(), any::<bool>()).prop_map(
                |(gscid, pscid, range, non_leaf)| Command::IotinvalVma { gscid, pscid, range, non_leaf }
            ),
            (any::<u16>(), range(), any::<bool>()).prop_map(|(gscid, range, non_leaf)| {
                Command::IotinvalGvma { gscid: Some(gscid), range, non_leaf }
            }),
            (option::of((any::<u64>().prop_map(|a| a & !3), any::<u32>())), any::<[bool; 3]>())
                .prop_map(|(write, [wsi, pr, pw])| Command::Iofence { write, wsi, pr, pw }),
            option::of(id24.clone()).prop_map(|did| Command::IodirInvalDdt { did }),
            (id24, id20.clone()).prop_map(|(did, pid)| Command::IodirInvalPdt { did, pid }),
            (any::<Option<u8>>(), any::<u16>(), option::of(id20), any::<u64>())
                .prop_map(|(dseg, rid, pid, payload)| Command::AtsInval { dseg, rid, pid, payload }),
        ]
    }

    proptest! {
        #[test]
        fn a_command_decodes_to_what_was_encoded(command in command()) {
            prop_assert_eq!(Command::decode(command.encode()), Ok(command));
        }

        #[test]
        fn any_words_decode_without_panic(words: [u64; 2]) {
            let _ = Command::decode(words);
        }
    }
}
