//! Invalidation queue descriptors, 128 and 256 bits (VT-d 6.5.2). The 256-bit form of a descriptor is its 128-bit form
//! with the upper half reserved.

use super::page_request::ResponseCode;
use super::registers::Iqei;

/// What a context-cache invalidation covers (VT-d 6.5.2.1, G).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ContextCacheScope {
    /// 01b: all entries.
    Global,
    /// 10b: a domain's entries.
    Domain {
        /// Domain ID.
        did: u16,
    },
    /// 11b: a device's entries.
    Device {
        /// Domain ID of the entries; hardware may ignore it.
        did: u16,
        /// Source ID.
        sid: u16,
        /// Function mask.
        fm: u8,
    },
}

/// What a PASID-cache invalidation covers (VT-d 6.5.2.2, G).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PasidCacheScope {
    /// 00b: all PASIDs of a domain.
    Domain {
        /// Domain ID.
        did: u16,
    },
    /// 01b: one PASID of a domain.
    Pasid {
        /// Domain ID.
        did: u16,
        /// PASID.
        pasid: u32,
    },
    /// 11b: all entries.
    Global,
}

/// The pages of a page-selective invalidation (VT-d 6.5.2.3, 6.5.2.4).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Pages {
    /// Address bits 63:12, in place: a byte address with its low 12 bits clear.
    pub addr: u64,
    /// Address mask: `2^am` pages.
    pub am: u8,
    /// Invalidation hint: only leaf entries changed.
    pub ih: bool,
}

impl Pages {
    /// The first and last byte that the mask covers. A mask of 52 or more is everything.
    #[must_use]
    pub const fn range(self) -> (u64, u64) {
        if self.am >= 52 {
            return (0, u64::MAX);
        }
        let low = (1u64 << (self.am + 12)) - 1;
        (self.addr & !low, self.addr | low)
    }
}

/// What an IOTLB invalidation covers (VT-d 6.5.2.3, G).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum IotlbScope {
    /// 01b: everything.
    Global,
    /// 10b: a domain.
    Domain {
        /// Domain ID.
        did: u16,
    },
    /// 11b: pages of a domain.
    Pages {
        /// Domain ID.
        did: u16,
        /// Which.
        pages: Pages,
    },
}

/// An invalidation queue descriptor (VT-d 6.5.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum InvalidationDescriptor {
    /// `cc_inv_dsc`, type 1 (VT-d 6.5.2.1).
    ContextCache(ContextCacheScope),
    /// `iotlb_inv_dsc`, type 2 (VT-d 6.5.2.3).
    Iotlb {
        /// Which translations.
        scope: IotlbScope,
        /// Drain writes.
        dw: bool,
        /// Drain reads.
        dr: bool,
    },
    /// `dev_tlb_inv_dsc`, type 3 (VT-d 6.5.2.5).
    DeviceTlb {
        /// Source ID.
        sid: u16,
        /// Source ID of the physical function.
        pfsid: u16,
        /// Maximum invalidations pending at the device.
        mip: u8,
        /// Whether `addr` encodes a size by its lowest clear bit.
        s: bool,
        /// Address, low 12 bits clear.
        addr: u64,
    },
    /// `iec_inv_dsc`, type 4 (VT-d 6.5.2.7).
    InterruptEntryCache {
        /// First index and index mask (`2^im` entries), or everything.
        index: Option<(u16, u8)>,
    },
    /// `inv_wait_dsc`, type 5 (VT-d 6.5.2.8).
    Wait {
        /// IF: signal a completion event.
        interrupt: bool,
        /// SW: write `stdata` to `staddr`.
        sw: bool,
        /// FN: later descriptors wait for this one.
        fence: bool,
        /// PD: drain page requests.
        pd: bool,
        /// Status data.
        stdata: u32,
        /// Status address, 4-byte aligned.
        staddr: u64,
    },
    /// `p_iotlb_inv_dsc`, type 6 (VT-d 6.5.2.4).
    PasidIotlb {
        /// Domain ID.
        did: u16,
        /// PASID.
        pasid: u32,
        /// Which pages (G = 11b), or all of the PASID's (G = 10b).
        pages: Option<Pages>,
    },
    /// `pc_inv_dsc`, type 7 (VT-d 6.5.2.2).
    PasidCache(PasidCacheScope),
    /// `p_dev_tlb_inv_dsc`, type 8 (VT-d 6.5.2.6).
    PasidDeviceTlb {
        /// Source ID.
        sid: u16,
        /// Source ID of the physical function.
        pfsid: u16,
        /// PASID.
        pasid: u32,
        /// Maximum invalidations pending at the device.
        mip: u8,
        /// Global: all PASIDs.
        g: bool,
        /// Whether `addr` encodes a size by its lowest clear bit.
        s: bool,
        /// Address, low 12 bits clear.
        addr: u64,
    },
    /// `page_grp_resp_dsc`, type 9 (VT-d 7.5.1).
    PageGroupResponse {
        /// PASID present.
        pp: bool,
        /// Response code.
        code: ResponseCode,
        /// Requester ID.
        rid: u16,
        /// PASID.
        pasid: u32,
        /// Page request group index, 9 bits.
        prgi: u16,
    },
}

/// Why a descriptor is refused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DescriptorError {
    /// No descriptor has this type.
    InvalidType {
        /// The 7 bits of the type.
        type_: u8,
    },
    /// A reserved bit is set.
    Reserved {
        /// Index of the 64-bit word.
        word: u8,
        /// The bits.
        bits: u64,
    },
    /// The granularity is not one of those that the type has.
    Granularity {
        /// The G field.
        g: u8,
    },
}

impl DescriptorError {
    /// What IQERCD_REG tells software (VT-d 11.4.9.9).
    #[must_use]
    pub const fn iqei(self) -> Iqei {
        match self {
            Self::InvalidType { .. } => Iqei::InvalidType,
            Self::Reserved { .. } | Self::Granularity { .. } => Iqei::ReservedField,
        }
    }
}

const fn field(word: u64, shift: u32, bits: u32) -> u64 {
    (word >> shift) & ((1 << bits) - 1)
}

const fn flag(word: u64, bit: u32) -> bool {
    word & (1 << bit) != 0
}

const PAGE: u64 = !0xfff;

impl InvalidationDescriptor {
    /// The bits of words 0 and 1 that a descriptor of this type has; words 2 and 3 have none. `None` where no
    /// descriptor has the type.
    const fn defined_bits(type_: u8) -> Option<[u64; 2]> {
        Some(match type_ {
            1 => [0x0003_ffff_ffff_0e3f, 0],
            2 => [0x0000_0000_ffff_0eff, 0xffff_ffff_ffff_f07f],
            3 => [0xfff0_ffff_001f_fe0f, 0xffff_ffff_ffff_f001],
            4 => [0x0000_ffff_f800_0e1f, 0],
            5 => [0xffff_ffff_0000_0eff, !3],
            6 => [0x000f_ffff_ffff_0e3f, 0xffff_ffff_ffff_f07f],
            7 => [0x000f_ffff_ffff_0e3f, 0],
            8 => [0xffff_ffff_ffff_ffff, 0xffff_ffff_ffff_f801],
            9 => [0x000f_ffff_ffff_fe1f, 0xff8],
            _ => return None,
        })
    }

    /// The 7-bit type of a raw descriptor: bits 11:9 and 3:0 (VT-d 6.5.2).
    #[must_use]
    pub const fn raw_type(word0: u64) -> u8 {
        (field(word0, 0, 4) | field(word0, 9, 3) << 4) as u8
    }

    /// Reads a descriptor. A 128-bit descriptor has zeros in the last two words.
    ///
    /// # Errors
    /// [`DescriptorError`] says what stops the queue. Whether the hardware has what the descriptor asks for (ECAP.DT,
    /// ECAP.PDS, CAP.PSI, CAP.MAMV, …) is not judged here.
    pub const fn decode(words: &[u64; 4]) -> Result<Self, DescriptorError> {
        let &[low, high, _, _] = words;
        let type_ = Self::raw_type(low);
        let Some([defined_low, defined_high]) = Self::defined_bits(type_) else {
            return Err(DescriptorError::InvalidType { type_ });
        };
        let defined = [defined_low, defined_high, 0, 0];
        let mut word = 0;
        while word < 4 {
            let bits = words[word] & !defined[word];
            if bits != 0 {
                return Err(DescriptorError::Reserved { word: word as u8, bits });
            }
            word += 1;
        }
        let g = field(low, 4, 2) as u8;
        let did = field(low, 16, 16) as u16;
        let sid = field(low, 32, 16) as u16;
        let pasid = field(low, 32, 20) as u32;
        let pfsid = (field(low, 12, 4) | field(low, 52, 12) << 4) as u16;
        let pages = Pages { addr: high & PAGE, am: field(high, 0, 6) as u8, ih: flag(high, 6) };
        Ok(match (type_, g) {
            (1, 0b01) => Self::ContextCache(ContextCacheScope::Global),
            (1, 0b10) => Self::ContextCache(ContextCacheScope::Domain { did }),
            (1, 0b11) => {
                Self::ContextCache(ContextCacheScope::Device { did, sid, fm: field(low, 48, 2) as u8 })
            }
            (2, 0b01..=0b11) => Self::Iotlb {
                scope: match g {
                    0b01 => IotlbScope::Global,
                    0b10 => IotlbScope::Domain { did },
                    _ => IotlbScope::Pages { did, pages },
                },
                dw: flag(low, 6),
                dr: flag(low, 7),
            },
            (3, _) => Self::DeviceTlb {
                sid,
                pfsid,
                mip: field(low, 16, 5) as u8,
                s: flag(high, 0),
                addr: high & PAGE,
            },
            (4, _) => Self::InterruptEntryCache {
                index: if flag(low, 4) { Some((sid, field(low, 27, 5) as u8)) } else { None },
            },
            (5, _) => Self::Wait {
                interrupt: flag(low, 4),
                sw: flag(low, 5),
                fence: flag(low, 6),
                pd: flag(low, 7),
                stdata: (low >> 32) as u32,
                staddr: high,
            },
            (6, 0b10) => Self::PasidIotlb { did, pasid, pages: None },
            (6, 0b11) => Self::PasidIotlb { did, pasid, pages: Some(pages) },
            (7, 0b00) => Self::PasidCache(PasidCacheScope::Domain { did }),
            (7, 0b01) => Self::PasidCache(PasidCacheScope::Pasid { did, pasid }),
            (7, 0b11) => Self::PasidCache(PasidCacheScope::Global),
            (8, _) => Self::PasidDeviceTlb {
                sid: did,
                pfsid,
                pasid,
                mip: field(low, 4, 5) as u8,
                g: flag(high, 0),
                s: flag(high, 11),
                addr: high & PAGE,
            },
            (9, _) => Self::PageGroupResponse {
                pp: flag(low, 4),
                code: ResponseCode::from_bits(field(low, 12, 4) as u8),
                rid: did,
                pasid,
                prgi: field(high, 3, 9) as u16,
            },
            _ => return Err(DescriptorError::Granularity { g }),
        })
    }

    /// Writes a descriptor; its first two words are its 128-bit form. Values beyond their field's width are cut off.
    #[must_use]
    pub const fn encode(&self) -> [u64; 4] {
        let (low, high) = match *self {
            Self::ContextCache(scope) => (
                match scope {
                    ContextCacheScope::Global => 1 | 0b01 << 4,
                    ContextCacheScope::Domain { did } => 1 | 0b10 << 4 | (did as u64) << 16,
                    ContextCacheScope::Device { did, sid, fm } => {
                        1 | 0b11 << 4 | (did as u64) << 16 | (sid as u64) << 32 | (fm as u64 & 3) << 48
                    }
                },
                0,
            ),
            Self::Iotlb { scope, dw, dr } => {
                let drain = (dw as u64) << 6 | (dr as u64) << 7;
                match scope {
                    IotlbScope::Global => (2 | 0b01 << 4 | drain, 0),
                    IotlbScope::Domain { did } => (2 | 0b10 << 4 | drain | (did as u64) << 16, 0),
                    IotlbScope::Pages { did, pages } => {
                        (2 | 0b11 << 4 | drain | (did as u64) << 16, encode_pages(pages))
                    }
                }
            }
            Self::DeviceTlb { sid, pfsid, mip, s, addr } => (
                3 | encode_pfsid(pfsid) | (mip as u64 & 0x1f) << 16 | (sid as u64) << 32,
                (addr & PAGE) | s as u64,
            ),
            Self::InterruptEntryCache { index } => (
                match index {
                    None => 4,
                    Some((iidx, im)) => 4 | 1 << 4 | (im as u64 & 0x1f) << 27 | (iidx as u64) << 32,
                },
                0,
            ),
            Self::Wait { interrupt, sw, fence, pd, stdata, staddr } => (
                5 | (interrupt as u64) << 4
                    | (sw as u64) << 5
                    | (fence as u64) << 6
                    | (pd as u64) << 7
                    | (stdata as u64) << 32,
                staddr & !3,
            ),
            Self::PasidIotlb { did, pasid, pages } => {
                let low = 6 | (did as u64) << 16 | (pasid as u64 & 0xf_ffff) << 32;
                match pages {
                    None => (low | 0b10 << 4, 0),
                    Some(pages) => (low | 0b11 << 4, encode_pages(pages)),
                }
            }
            Self::PasidCache(scope) => (
                match scope {
                    PasidCacheScope::Domain { did } => 7 | (did as u64) << 16,
                    PasidCacheScope::Pasid { did, pasid } => {
                        7 | 0b01 << 4 | (did as u64) << 16 | (pasid as u64 & 0xf_ffff) << 32
                    }
                    PasidCacheScope::Global => 7 | 0b11 << 4,
                },
                0,
            ),
            Self::PasidDeviceTlb { sid, pfsid, pasid, mip, g, s, addr } => (
                8 | encode_pfsid(pfsid)
                    | (mip as u64 & 0x1f) << 4
                    | (sid as u64) << 16
                    | (pasid as u64 & 0xf_ffff) << 32,
                (addr & PAGE) | g as u64 | (s as u64) << 11,
            ),
            Self::PageGroupResponse { pp, code, rid, pasid, prgi } => (
                9 | (pp as u64) << 4
                    | (code.into_bits() as u64) << 12
                    | (rid as u64) << 16
                    | (pasid as u64 & 0xf_ffff) << 32,
                (prgi as u64 & 0x1ff) << 3,
            ),
        };
        [low, high, 0, 0]
    }
}

const fn encode_pages(pages: Pages) -> u64 {
    (pages.addr & PAGE) | (pages.am as u64 & 0x3f) | (pages.ih as u64) << 6
}

const fn encode_pfsid(pfsid: u16) -> u64 {
    (pfsid as u64 & 0xf) << 12 | (pfsid as u64 >> 4) << 52
}
