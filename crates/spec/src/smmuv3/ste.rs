//! Level-1 stream table descriptors (SMMUv3 5.1) and stream table entries (5.2). An entry has 64 bytes: eight words, of which
//! each has its own type here. The specification numbers bits through the whole entry; here they begin at 0 in each word.

use bitfield_struct::bitfield;

use crate::{DescriptorLayout, Unnumbered};

/// Bytes of one stream table entry.
pub const STE_SIZE: u64 = 64;
/// Bytes of one level-1 stream table descriptor.
pub const L1STD_SIZE: u64 = 8;

/// A level-1 stream table descriptor (5.1).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct L1Std {
    /// 0: no level-2 table. 1 to 11: 2^(span - 1) entries in it. More is reserved and behaves as 0.
    #[bits(5)]
    pub span: u8,
    #[bits(1)]
    __: u8,
    /// Level-2 table, bits 55:6.
    #[bits(50)]
    pub l2ptr: u64,
    #[bits(8)]
    __: u8,
}

impl L1Std {
    /// The level-2 table's address in bytes.
    #[must_use]
    pub const fn table(self) -> u64 {
        self.l2ptr() << 6
    }

    /// Entries of the level-2 table; 0 where there is none.
    #[must_use]
    pub const fn entries(self) -> u32 {
        match self.span() {
            span @ 1..=11 => 1 << (span - 1),
            _ => 0,
        }
    }
}

/// What a stream's transactions go through (5.2, Config).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Config {
    /// Nothing passes, and no event is recorded. Holds the encoding, 0 to 3, of which only 0 is not reserved.
    Abort(u8),
    /// Both stages are bypassed.
    Bypass,
    /// Stage 1 translates.
    Stage1,
    /// Stage 2 translates.
    Stage2,
    /// Both translate.
    Nested,
}

impl Config {
    const fn from_bits(bits: u8) -> Self {
        match bits & 7 {
            0b100 => Self::Bypass,
            0b101 => Self::Stage1,
            0b110 => Self::Stage2,
            0b111 => Self::Nested,
            abort => Self::Abort(abort),
        }
    }

    const fn into_bits(self) -> u8 {
        match self {
            Self::Abort(encoding) => encoding & 3,
            Self::Bypass => 0b100,
            Self::Stage1 => 0b101,
            Self::Stage2 => 0b110,
            Self::Nested => 0b111,
        }
    }
}

/// Bits 63:0 of a stream table entry (5.2).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Ste0 {
    /// Valid.
    pub v: bool,
    /// Configuration.
    #[bits(3)]
    pub config: Config,
    /// Format of the context descriptor table: 0 linear, 1 two levels with 4 KiB leaves, 2 with 64 KiB leaves; 3 is reserved and
    /// behaves as 0.
    #[bits(2)]
    pub s1fmt: u8,
    /// Context descriptors, bits 55:6.
    #[bits(50)]
    pub s1contextptr: u64,
    #[bits(3)]
    __: u8,
    /// log2 of the number of context descriptors; 0: one, and no substreams.
    #[bits(5)]
    pub s1cdmax: u8,
}

impl Ste0 {
    /// S1Fmt, where there is more than one descriptor.
    #[must_use]
    pub const fn layout(self) -> DescriptorLayout {
        match self.s1fmt() {
            1 => DescriptorLayout::TwoLevel4K,
            2 => DescriptorLayout::TwoLevel64K,
            _ => DescriptorLayout::Linear,
        }
    }

    /// With S1Fmt for a layout.
    #[must_use]
    pub const fn with_layout(self, layout: DescriptorLayout) -> Self {
        self.with_s1fmt(match layout {
            DescriptorLayout::Linear => 0,
            DescriptorLayout::TwoLevel4K => 1,
            DescriptorLayout::TwoLevel64K => 2,
        })
    }
}

/// Bits 127:64 of a stream table entry (5.2).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Ste1 {
    /// Transactions without substream, where substreams are enabled: 0 terminated, 1 bypass stage 1, 2 use substream 0; 3 is
    /// reserved and behaves as 0.
    #[bits(2)]
    pub s1dss: u8,
    /// Inner cacheability of the context descriptors.
    #[bits(2)]
    pub s1cir: u8,
    /// Outer cacheability of the context descriptors.
    #[bits(2)]
    pub s1cor: u8,
    /// Shareability of the context descriptors.
    #[bits(2)]
    pub s1csh: u8,
    /// Hardware use of bit 59 of stage-2 descriptors.
    pub s2hwu59: bool,
    /// Hardware use of bit 60.
    pub s2hwu60: bool,
    /// Hardware use of bit 61.
    pub s2hwu61: bool,
    /// Hardware use of bit 62.
    pub s2hwu62: bool,
    /// Destructive read enable.
    pub dre: bool,
    /// log2 of the entries that hold the same as this one.
    #[bits(4)]
    pub cont: u8,
    /// Directed cache prefetch enable.
    pub dcp: bool,
    /// PASID is put on responses to page requests.
    pub ppar: bool,
    /// Merge similar events.
    pub mev: bool,
    /// Software's own.
    #[bits(4)]
    pub sw_reserved: u8,
    /// Stage-1 permission indirection enable.
    pub s1pie: bool,
    /// Stage-2 control of attributes (force write-back).
    pub s2fwb: bool,
    /// Stage 1 uses the context descriptor's MPAM fields.
    pub s1mpam: bool,
    /// Stage-1 faults may not stall.
    pub s1stalld: bool,
    /// ATS: 0 refused, 1 full, 2 split stage, 3 with device permission table.
    #[bits(2)]
    pub eats: u8,
    /// Stream world: 0 EL1, 1 EL3, 2 EL2.
    #[bits(2)]
    pub strw: u8,
    /// Memory type that replaces the incoming one.
    #[bits(4)]
    pub memattr: u8,
    /// Whether `memattr` replaces the incoming type.
    pub mtcfg: bool,
    /// Allocation hints.
    #[bits(4)]
    pub alloccfg: u8,
    #[bits(3)]
    __: u8,
    /// Shareability: 0 none, 1 incoming, 2 outer, 3 inner.
    #[bits(2)]
    pub shcfg: u8,
    /// Non-secure attribute.
    #[bits(2)]
    pub nscfg: u8,
    /// Privilege: 0 and 1 incoming, 2 unprivileged, 3 privileged.
    #[bits(2)]
    pub privcfg: u8,
    /// Instruction or data: 0 and 1 incoming, 2 data, 3 instruction.
    #[bits(2)]
    pub instcfg: u8,
    /// Implementation defined.
    #[bits(12)]
    pub impl_def: u16,
}

impl Ste1 {
    /// S1DSS, where substreams are enabled.
    #[must_use]
    pub const fn unnumbered(self) -> Unnumbered {
        match self.s1dss() {
            1 => Unnumbered::Bypass,
            2 => Unnumbered::Zero,
            _ => Unnumbered::Refused,
        }
    }

    /// With S1DSS for what becomes of transactions without substream.
    #[must_use]
    pub const fn with_unnumbered(self, unnumbered: Unnumbered) -> Self {
        self.with_s1dss(match unnumbered {
            Unnumbered::Refused => 0,
            Unnumbered::Bypass => 1,
            Unnumbered::Zero => 2,
        })
    }
}

/// Bits 191:128 of a stream table entry (5.2).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Ste2 {
    /// VMID.
    pub s2vmid: u16,
    /// Implementation defined.
    pub impl_def: u16,
    /// Stage-2 input region: 2^(64 - `s2t0sz`) bytes.
    #[bits(6)]
    pub s2t0sz: u8,
    /// Stage-2 start level, encoded by granule.
    #[bits(2)]
    pub s2sl0: u8,
    /// Inner cacheability of the stage-2 tables.
    #[bits(2)]
    pub s2ir0: u8,
    /// Outer cacheability of the stage-2 tables.
    #[bits(2)]
    pub s2or0: u8,
    /// Shareability of the stage-2 tables.
    #[bits(2)]
    pub s2sh0: u8,
    /// Stage-2 granule: 0 4 KiB, 1 64 KiB, 2 16 KiB; 3 is reserved.
    #[bits(2)]
    pub s2tg: u8,
    /// Physical address size.
    #[bits(3)]
    pub s2ps: u8,
    /// Stage-2 tables are VMSAv8-64.
    pub s2aa64: bool,
    /// Stage-2 tables are big-endian.
    pub s2endi: bool,
    /// Access flag faults are off.
    pub s2affd: bool,
    /// Stage-1 table walks to device memory fault.
    pub s2ptw: bool,
    /// The SMMU sets Dirty.
    pub s2hd: bool,
    /// The SMMU sets Accessed.
    pub s2ha: bool,
    /// Stage-2 faults stall.
    pub s2s: bool,
    /// Stage-2 faults are recorded.
    pub s2r: bool,
    /// The SMMU sets Accessed in table descriptors.
    pub s2haft: bool,
    /// Stage-2 permission indirection enable.
    pub s2pie: bool,
    /// Stage-2 permission overlay enable.
    pub s2poe: bool,
    /// VMID matching of the device permission table.
    #[bits(2)]
    pub dpt_vmatch: u8,
}

/// Bits 255:192 of a stream table entry (5.2).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Ste3 {
    /// NS of stage-2 walks of non-secure addresses, for secure streams.
    pub s2nsw: bool,
    /// NS of their outputs.
    pub s2nsa: bool,
    /// Bit 2 of `s2sl0`.
    pub s2sl0_2: bool,
    /// 52-bit addresses with 4 KiB and 16 KiB granules.
    pub s2ds: bool,
    /// Stage-2 table, bits 55:4.
    #[bits(52)]
    pub s2ttb: u64,
    #[bits(5)]
    __: u8,
    /// Skipped levels (VMSAv9-128).
    #[bits(2)]
    pub s2skl: u8,
    #[bits(1)]
    __: u8,
}

/// Bits 319:256 of a stream table entry (5.2).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Ste4 {
    /// Implementation defined.
    pub impl_def: u16,
    /// MPAM partition ID.
    pub partid: u16,
    /// Input region of the secure stage-2 tables.
    #[bits(6)]
    pub s_s2t0sz: u8,
    /// Start level of the secure stage-2 tables.
    #[bits(2)]
    pub s_s2sl0: u8,
    #[bits(6)]
    __: u8,
    /// Granule of the secure stage-2 tables.
    #[bits(2)]
    pub s_s2tg: u8,
    /// Memory encryption context ID.
    pub mecid: u16,
}

/// Bits 383:320 of a stream table entry (5.2).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Ste5 {
    /// MPAM performance monitoring group.
    pub pmg: u8,
    /// The partition ID is non-secure.
    pub mpam_ns: bool,
    /// AssuredOnly checks enable.
    pub assuredonly: bool,
    /// TopLevel 0 check enable.
    pub tl0: bool,
    /// TopLevel 1 check enable.
    pub tl1: bool,
    /// Virtual machine structure, bits 55:12.
    #[bits(44)]
    pub vmsptr: u64,
    #[bits(8)]
    __: u8,
}

/// Bits 447:384 of a stream table entry (5.2).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Ste6 {
    /// NS of stage-2 walks of secure addresses.
    pub s2sw: bool,
    /// NS of their outputs.
    pub s2sa: bool,
    /// Bit 2 of `s_s2sl0`.
    pub s_s2sl0_2: bool,
    #[bits(1)]
    __: u8,
    /// Secure stage-2 table, bits 55:4.
    #[bits(52)]
    pub s_s2ttb: u64,
    #[bits(5)]
    __: u8,
    /// Skipped levels of the secure stage-2 tables.
    #[bits(2)]
    pub s_s2skl: u8,
    #[bits(1)]
    __: u8,
}

/// A stream table entry (5.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Ste {
    /// Bits 63:0.
    pub q0: Ste0,
    /// Bits 127:64.
    pub q1: Ste1,
    /// Bits 191:128.
    pub q2: Ste2,
    /// Bits 255:192.
    pub q3: Ste3,
    /// Bits 319:256.
    pub q4: Ste4,
    /// Bits 383:320.
    pub q5: Ste5,
    /// Bits 447:384.
    pub q6: Ste6,
    /// Bits 511:448, S2POI: sixteen stage-2 permission overlays of four bits.
    pub s2poi: u64,
}

impl Ste {
    /// From the eight 64-bit words in memory.
    #[must_use]
    pub const fn decode(words: [u64; 8]) -> Self {
        Self {
            q0: Ste0::from_bits(words[0]),
            q1: Ste1::from_bits(words[1]),
            q2: Ste2::from_bits(words[2]),
            q3: Ste3::from_bits(words[3]),
            q4: Ste4::from_bits(words[4]),
            q5: Ste5::from_bits(words[5]),
            q6: Ste6::from_bits(words[6]),
            s2poi: words[7],
        }
    }

    /// The eight 64-bit words in memory.
    #[must_use]
    pub const fn encode(self) -> [u64; 8] {
        [
            self.q0.into_bits(),
            self.q1.into_bits(),
            self.q2.into_bits(),
            self.q3.into_bits(),
            self.q4.into_bits(),
            self.q5.into_bits(),
            self.q6.into_bits(),
            self.s2poi,
        ]
    }

    /// The context descriptors' address in bytes.
    #[must_use]
    pub const fn context_descriptors(self) -> u64 {
        self.q0.s1contextptr() << 6
    }

    /// The stage-2 table's address in bytes.
    #[must_use]
    pub const fn stage2_table(self) -> u64 {
        self.q3.s2ttb() << 4
    }
}
