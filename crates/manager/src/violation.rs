//! One refused access, as a back end reports it.

use portcullis_spec::Fault;

use crate::inventory::{DeviceId, UnitId};

/// A raw record, as long as the longest that an architecture writes (RISC-V and SMMUv3: 32 bytes; VT-d and AMD-Vi: 16).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct RawRecord {
    /// The words, those beyond `words` are 0.
    pub words: [u64; 4],
    /// How many words the record has; 0 where only text is known.
    pub length: u8,
}

/// One refused access, as a back end reports it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Violation {
    /// The unit that refused, where it is known.
    pub unit: Option<UnitId>,
    /// The device, where the reporter knows it; otherwise the core looks for the requester behind the unit.
    pub device: Option<DeviceId>,
    /// Who, where, what and why.
    pub fault: Fault,
    /// Nanoseconds since the Unix epoch at which it was reported.
    pub time: u64,
    /// What the hardware wrote.
    pub raw: RawRecord,
    /// Refusals that this record stands for: more than one where the reporter counts repetitions.
    pub count: u32,
}
