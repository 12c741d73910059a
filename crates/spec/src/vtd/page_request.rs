//! Page requests as hardware writes them to the page request queue (VT-d 7.4.1). Responses are invalidation queue
//! descriptors: [`super::invalidation::InvalidationDescriptor::PageGroupResponse`].

use bitfield_struct::bitfield;

/// Bytes of one page request descriptor.
pub const PAGE_REQUEST_SIZE: u64 = 32;

/// Bits 63:0 of a page request descriptor (VT-d 7.4.1.1).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct PageRequest0 {
    /// Type: 1 for a page request.
    pub r#type: u8,
    /// PASID present.
    pub pp: bool,
    #[bits(7)]
    __: u8,
    /// Requester ID.
    pub rid: u16,
    /// PASID; valid with PP.
    #[bits(20)]
    pub pasid: u32,
    /// Execute requested; valid with PP.
    pub exe: bool,
    /// Privileged mode requested; valid with PP.
    pub pm: bool,
    #[bits(10)]
    __: u16,
}

/// Bits 127:64 of a page request descriptor (VT-d 7.4.1.1).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct PageRequest1 {
    /// Read requested.
    pub rd: bool,
    /// Write requested.
    pub wr: bool,
    /// Last page in group.
    pub lpig: bool,
    /// Page request group index.
    #[bits(9)]
    pub prgi: u16,
    /// Address bits 63:12.
    #[bits(52)]
    pub addr: u64,
}

/// The type of a page request descriptor (VT-d 7.4.1.1).
pub const PAGE_REQUEST_TYPE: u8 = 1;

/// A page request descriptor (VT-d 7.4.1.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct PageRequest {
    /// Bits 63:0.
    pub word0: PageRequest0,
    /// Bits 127:64.
    pub word1: PageRequest1,
    /// Bits 255:128, reserved.
    pub rest: [u64; 2],
}

impl PageRequest {
    /// From the four 64-bit words in memory.
    #[must_use]
    pub const fn decode(words: [u64; 4]) -> Self {
        Self {
            word0: PageRequest0::from_bits(words[0]),
            word1: PageRequest1::from_bits(words[1]),
            rest: [words[2], words[3]],
        }
    }

    /// The four 64-bit words in memory.
    #[must_use]
    pub const fn encode(self) -> [u64; 4] {
        [self.word0.into_bits(), self.word1.into_bits(), self.rest[0], self.rest[1]]
    }

    /// Address of the page in bytes.
    #[must_use]
    pub const fn address(self) -> u64 {
        self.word1.addr() << 12
    }
}

/// The answer to a group of page requests (VT-d 7.5.1, response code).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ResponseCode {
    /// The pages are there.
    Success,
    /// Some page can't be made available.
    Invalid,
    /// A catastrophic error; the device must stop.
    Failure,
    /// An encoding that the specification reserves.
    Reserved(u8),
}

impl ResponseCode {
    /// From the 4-bit field.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        match bits & 0xf {
            0b0000 => Self::Success,
            0b0001 => Self::Invalid,
            0b1111 => Self::Failure,
            other => Self::Reserved(other),
        }
    }

    /// The 4-bit field.
    #[must_use]
    pub const fn into_bits(self) -> u8 {
        match self {
            Self::Success => 0b0000,
            Self::Invalid => 0b0001,
            Self::Failure => 0b1111,
            Self::Reserved(other) => other & 0xf,
        }
    }
}
