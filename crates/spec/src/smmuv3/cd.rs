//! Level-1 context descriptors (SMMUv3 5.3) and context descriptors (5.4). A descriptor has 64 bytes: eight words, of which
//! each has its own type here. The specification numbers bits through the whole descriptor; here they begin at 0 in each
//! word.

use bitfield_struct::bitfield;

/// Bytes of one context descriptor.
pub const CD_SIZE: u64 = 64;
/// Bytes of one level-1 context descriptor.
pub const L1CD_SIZE: u64 = 8;

/// A level-1 context descriptor (5.3).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct L1Cd {
    /// Valid.
    pub v: bool,
    #[bits(11)]
    __: u16,
    /// Level-2 table, bits 55:12.
    #[bits(44)]
    pub l2ptr: u64,
    #[bits(8)]
    __: u8,
}

impl L1Cd {
    /// The level-2 table's address in bytes.
    #[must_use]
    pub const fn table(self) -> u64 {
        self.l2ptr() << 12
    }
}

/// Bits 63:0 of a context descriptor (5.4).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Cd0 {
    /// Region of TTB0: 2^(64 - `t0sz`) bytes.
    #[bits(6)]
    pub t0sz: u8,
    /// Granule of TTB0: 0 4 KiB, 1 64 KiB, 2 16 KiB; 3 is reserved.
    #[bits(2)]
    pub tg0: u8,
    /// Inner cacheability of TTB0's tables.
    #[bits(2)]
    pub ir0: u8,
    /// Outer cacheability of TTB0's tables.
    #[bits(2)]
    pub or0: u8,
    /// Shareability of TTB0's tables.
    #[bits(2)]
    pub sh0: u8,
    /// TTB0 is not walked.
    pub epd0: bool,
    /// Tables are big-endian.
    pub endi: bool,
    /// Region of TTB1: 2^(64 - `t1sz`) bytes.
    #[bits(6)]
    pub t1sz: u8,
    /// Granule of TTB1: 1 16 KiB, 2 4 KiB, 3 64 KiB; 0 is reserved.
    #[bits(2)]
    pub tg1: u8,
    /// Inner cacheability of TTB1's tables.
    #[bits(2)]
    pub ir1: u8,
    /// Outer cacheability of TTB1's tables.
    #[bits(2)]
    pub or1: u8,
    /// Shareability of TTB1's tables.
    #[bits(2)]
    pub sh1: u8,
    /// TTB1 is not walked.
    pub epd1: bool,
    /// Valid.
    pub v: bool,
    /// Intermediate physical address size.
    #[bits(3)]
    pub ips: u8,
    /// Access flag faults are off.
    pub affd: bool,
    /// Writable pages never execute.
    pub wxn: bool,
    /// Pages writable by users never execute with privilege.
    pub uwxn: bool,
    /// Top byte of TTB0 addresses is ignored.
    pub tbi0: bool,
    /// Top byte of TTB1 addresses is ignored.
    pub tbi1: bool,
    /// Privileged data accesses to user pages are refused.
    pub pan: bool,
    /// Tables are VMSAv8-64.
    pub aa64: bool,
    /// The SMMU sets Dirty.
    pub hd: bool,
    /// The SMMU sets Accessed.
    pub ha: bool,
    /// Faults stall.
    pub s: bool,
    /// Faults are recorded.
    pub r: bool,
    /// Faults abort (otherwise reads are zero and writes are ignored).
    pub a: bool,
    /// The ASID is not shared with processors.
    pub aset: bool,
    /// Address space ID.
    pub asid: u16,
}

/// Bits 127:64 of a context descriptor (5.4).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Cd1 {
    /// NS of the first table of TTB0, for secure streams.
    pub nscfg0: bool,
    /// Hierarchical permissions of TTB0 are off (DisCH0 with 128-bit descriptors).
    pub had0: bool,
    /// Unprivileged accesses through TTB0 fault.
    pub e0pd0: bool,
    /// The SMMU sets Accessed in table descriptors.
    pub haft: bool,
    /// TTB0, bits 55:4.
    #[bits(52)]
    pub ttb0: u64,
    #[bits(2)]
    __: u8,
    /// Protected attribute enable.
    pub pnch: bool,
    /// Enhanced PAN.
    pub epan: bool,
    /// Hardware use of bit 59 of TTB0's descriptors.
    pub hwu059: bool,
    /// Hardware use of bit 60.
    pub hwu060: bool,
    /// Hardware use of bits 62:61 (SKL0 with 128-bit descriptors).
    #[bits(2)]
    pub hwu062_061: u8,
}

/// Bits 191:128 of a context descriptor (5.4).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Cd2 {
    /// NS of the first table of TTB1, for secure streams.
    pub nscfg1: bool,
    /// Hierarchical permissions of TTB1 are off (DisCH1 with 128-bit descriptors).
    pub had1: bool,
    /// Unprivileged accesses through TTB1 fault.
    pub e0pd1: bool,
    /// Attribute extension enable.
    pub aie: bool,
    /// TTB1, bits 55:4.
    #[bits(52)]
    pub ttb1: u64,
    #[bits(2)]
    __: u8,
    /// 52-bit addresses with 4 KiB and 16 KiB granules.
    pub ds: bool,
    /// Permission indirection enable.
    pub pie: bool,
    /// Hardware use of bit 59 of TTB1's descriptors.
    pub hwu159: bool,
    /// Hardware use of bit 60.
    pub hwu160: bool,
    /// Hardware use of bits 62:61 (SKL1 with 128-bit descriptors).
    #[bits(2)]
    pub hwu162_161: u8,
}

/// Bits 255:192 of a context descriptor (5.4).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Cd3 {
    /// Memory attributes 0 to 3, a byte each.
    pub mair0: u32,
    /// Memory attributes 4 to 7.
    pub mair1: u32,
}

/// Bits 319:256 of a context descriptor (5.4).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Cd4 {
    /// Auxiliary memory attributes 0 to 3.
    pub amair0: u32,
    /// Auxiliary memory attributes 4 to 7.
    pub amair1: u32,
}

/// Bits 383:320 of a context descriptor (5.4).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Cd5 {
    /// Implementation defined.
    pub impl_def: u32,
    /// MPAM partition ID.
    pub partid: u16,
    /// MPAM performance monitoring group.
    pub pmg: u8,
    __: u8,
}

/// A context descriptor (5.4).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Cd {
    /// Bits 63:0.
    pub q0: Cd0,
    /// Bits 127:64.
    pub q1: Cd1,
    /// Bits 191:128.
    pub q2: Cd2,
    /// Bits 255:192.
    pub q3: Cd3,
    /// Bits 319:256.
    pub q4: Cd4,
    /// Bits 383:320.
    pub q5: Cd5,
    /// Bits 447:384: sixteen unprivileged permission interpretations of three bits (PIIU), and 16 reserved bits.
    pub piiu: u64,
    /// Bits 511:448: sixteen privileged permission interpretations (PIIP).
    pub piip: u64,
}

impl Cd {
    /// From the eight 64-bit words in memory.
    #[must_use]
    pub const fn decode(words: [u64; 8]) -> Self {
        Self {
            q0: Cd0::from_bits(words[0]),
            q1: Cd1::from_bits(words[1]),
            q2: Cd2::from_bits(words[2]),
            q3: Cd3::from_bits(words[3]),
            q4: Cd4::from_bits(words[4]),
            q5: Cd5::from_bits(words[5]),
            piiu: words[6],
            piip: words[7],
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
            self.piiu,
            self.piip,
        ]
    }

    /// The address of TTB0's first table in bytes.
    #[must_use]
    pub const fn table0(self) -> u64 {
        self.q1.ttb0() << 4
    }

    /// The address of TTB1's first table in bytes.
    #[must_use]
    pub const fn table1(self) -> u64 {
        self.q2.ttb1() << 4
    }

    /// The eight memory attributes, a byte each (MAIR).
    #[must_use]
    pub const fn mair(self) -> [u8; 8] {
        self.q3.into_bits().to_le_bytes()
    }
}
