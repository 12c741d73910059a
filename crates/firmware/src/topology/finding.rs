//! What is wrong or remarkable with a source.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use portcullis_spec::PciAddress;

use super::{AddressRange, Signature, Source};

/// How bad a finding is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Worth knowing; nothing is lost.
    Note,
    /// Against the specification, but what is meant is clear.
    Warning,
    /// Something that the source states could not be used.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// What was found. The text (`Display`) is one sentence without a full stop.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// There are not even the 36 bytes of a table header.
    #[error("{available} bytes are too few for a table header, which has 36")]
    NoHeader {
        /// Bytes there.
        available: u64,
    },
    /// The signature is none of those that this crate reads.
    #[error("signature {signature} is not one of DMAR, IVRS, IORT, VIOT, RIMT")]
    UnknownSignature {
        /// As the table has it.
        signature: Signature,
    },
    /// The header's length and the bytes differ.
    #[error("the header says {stated} bytes, there are {available}")]
    TableLength {
        /// Header.
        stated: u32,
        /// Bytes there.
        available: u64,
    },
    /// The bytes do not add up to zero.
    #[error("the bytes add up to {sum:#04x} instead of 0: wrong checksum")]
    Checksum {
        /// Sum modulo 256.
        sum: u8,
    },
    /// The revision is newer or older than those that this crate knows.
    #[error("revision {revision} is not one that is known ({known})")]
    Revision {
        /// As the table or node has it.
        revision: u8,
        /// Those that are.
        known: &'static str,
    },
    /// A structure ends beyond what contains it.
    #[error("{what} of {stated} bytes, but only {available} are left")]
    Truncated {
        /// Name of the structure.
        what: &'static str,
        /// Bytes that it claims or needs.
        stated: u64,
        /// Bytes there.
        available: u64,
    },
    /// A structure's length field is below its fixed part (and reading cannot go on after a zero).
    #[error("{what} says it has {stated} bytes, it needs at least {needed}")]
    TooShort {
        /// Name of the structure.
        what: &'static str,
        /// Length field.
        stated: u64,
        /// Fixed part.
        needed: u64,
    },
    /// Bytes after the last structure that are none.
    #[error("{count} bytes after the last {what} are no {what}")]
    TrailingBytes {
        /// Name of the structure.
        what: &'static str,
        /// How many.
        count: u64,
    },
    /// A structure type that the specification does not define.
    #[error("{what} of unknown type {value:#x}")]
    UnknownType {
        /// Name of the structure.
        what: &'static str,
        /// The type.
        value: u32,
    },
    /// A field holds a value that the specification reserves.
    #[error("{field} is {value:#x}, which is reserved or invalid")]
    InvalidField {
        /// Field, as the specification names it.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// A count in the header and what is there differ.
    #[error("{what}: {stated} are announced, {found} are there")]
    Count {
        /// Of what.
        what: &'static str,
        /// Announced.
        stated: u64,
        /// There.
        found: u64,
    },
    /// A reference to another structure that leads nowhere, or to the wrong kind.
    #[error("{what} refers to offset {target:#x}, where {problem}")]
    Reference {
        /// Name of the field.
        what: &'static str,
        /// Where it points, in bytes from the table's start.
        target: u64,
        /// What is wrong there.
        problem: &'static str,
    },
    /// A unit with no registers.
    #[error("{what} at {base:#x} cannot be a register window")]
    RegisterBase {
        /// Name of the field.
        what: &'static str,
        /// Its value.
        base: u64,
    },
    /// Two statements of one unit.
    #[error("a unit with registers at {base:#x} is already described at {first}")]
    DuplicateUnit {
        /// Register base.
        base: u64,
        /// The first statement.
        first: Source,
    },
    /// Two units for one device.
    #[error("{devices} already goes to a unit by {first}")]
    DuplicateRoute {
        /// Which.
        devices: String,
        /// The first statement.
        first: Source,
    },
    /// Something is said of a unit that no statement describes.
    #[error("no unit has registers at {base:#x}")]
    NoSuchUnit {
        /// Register base.
        base: u64,
    },
    /// More than one unit takes the rest of a segment.
    #[error("a second unit takes all the rest of segment {segment:#x}")]
    SecondCatchAll {
        /// Segment.
        segment: u16,
    },
    /// A catch-all unit that is not its segment's last.
    #[error("the unit that takes all the rest of segment {segment:#x} is not the last of that segment")]
    CatchAllNotLast {
        /// Segment.
        segment: u16,
    },
    /// A unit that no device goes to.
    #[error("no device goes to this unit")]
    IdleUnit,
    /// A reserved region for nobody.
    #[error("the reserved region names no device")]
    NoDevices,
    /// A range that ends before it starts, or is empty.
    #[error("the range {first:#x} to {last:#x} is empty or ends before it starts")]
    EmptyRange {
        /// First.
        first: u64,
        /// Last.
        last: u64,
    },
    /// A reserved range that does not begin and end at page boundaries.
    #[error("the range {range} does not begin and end on 4 KiB boundaries")]
    UnalignedRange {
        /// The range.
        range: AddressRange,
    },
    /// Two reserved ranges for one unit's devices share addresses.
    #[error("the range {range} overlaps that of {other}")]
    OverlappingRange {
        /// The range.
        range: AddressRange,
        /// The other statement.
        other: Source,
    },
    /// A path with no hop, or whose device or function number is too large.
    #[error("the path has {problem}")]
    Path {
        /// What is wrong.
        problem: &'static str,
    },
    /// A range start without its end, or an end without its start.
    #[error("{problem}")]
    RangeEntry {
        /// What is wrong.
        problem: &'static str,
    },
    /// A name that is not text, or has no end.
    #[error("{what} is not {expected}")]
    Name {
        /// Which.
        what: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// Two mappings of one node that take the same number.
    #[error("IDs {first:#x} to {last:#x} are mapped twice; the first mapping counts")]
    OverlappingIds {
        /// First of the range.
        first: u64,
        /// Last of the range.
        last: u64,
    },
    /// A range of numbers that passes 32 (or 16) bits.
    #[error("IDs from {first:#x}, {count:#x} of them, pass the {bits} bits that they have")]
    IdOverflow {
        /// First.
        first: u32,
        /// How many.
        count: u64,
        /// Bits.
        bits: u8,
    },
    /// A statement that was given up so that reading stays bounded.
    #[error("{what}: more than {limit}; the rest is not read")]
    Limit {
        /// Of what.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// Devicetree: the blob or a property of it cannot be read.
    #[error("{problem}")]
    Devicetree {
        /// What is wrong.
        problem: String,
    },
    /// The user's input contradicts itself or firmware in a way that cannot be merged.
    #[error("{problem}")]
    User {
        /// What is wrong.
        problem: String,
    },
    /// The user's input replaces what firmware says.
    #[error("{what}: {now} replaces {was} from {firmware}")]
    Overridden {
        /// What.
        what: &'static str,
        /// The user's value.
        now: String,
        /// The value replaced.
        was: String,
        /// Who said it.
        firmware: Source,
    },
    /// A device that firmware names is not there.
    #[error("{address} is not there")]
    AbsentDevice {
        /// The device.
        address: PciAddress,
    },
}

impl FindingKind {
    /// How bad it is.
    #[must_use]
    pub const fn severity(&self) -> Severity {
        match self {
            Self::NoHeader { .. }
            | Self::UnknownSignature { .. }
            | Self::Truncated { .. }
            | Self::TooShort { .. }
            | Self::Reference { .. }
            | Self::RegisterBase { .. }
            | Self::DuplicateUnit { .. }
            | Self::NoSuchUnit { .. }
            | Self::EmptyRange { .. }
            | Self::Path { .. }
            | Self::RangeEntry { .. }
            | Self::Name { .. }
            | Self::IdOverflow { .. }
            | Self::Limit { .. }
            | Self::Devicetree { .. }
            | Self::User { .. } => Severity::Error,
            Self::TableLength { .. }
            | Self::Checksum { .. }
            | Self::TrailingBytes { .. }
            | Self::UnknownType { .. }
            | Self::InvalidField { .. }
            | Self::Count { .. }
            | Self::DuplicateRoute { .. }
            | Self::SecondCatchAll { .. }
            | Self::CatchAllNotLast { .. }
            | Self::NoDevices
            | Self::UnalignedRange { .. }
            | Self::OverlappingRange { .. }
            | Self::OverlappingIds { .. } => Severity::Warning,
            Self::Revision { .. } | Self::IdleUnit | Self::Overridden { .. } | Self::AbsentDevice { .. } => {
                Severity::Note
            }
        }
    }
}

/// Something wrong or remarkable, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// What.
    pub kind: FindingKind,
    /// Where.
    pub source: Source,
}

impl Finding {
    /// How bad it is.
    #[must_use]
    pub const fn severity(&self) -> Severity {
        self.kind.severity()
    }
}

impl fmt::Display for Finding {
    /// `DMAR+0x30: warning: …`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.source, self.severity(), self.kind)
    }
}

impl serde::Serialize for Finding {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use alloc::string::ToString;
        use serde::ser::SerializeStruct;
        let mut fields = serializer.serialize_struct("Finding", 4)?;
        fields.serialize_field("severity", &self.severity())?;
        fields.serialize_field("source", &self.source)?;
        fields.serialize_field("text", &self.kind.to_string())?;
        fields.serialize_field("facts", &self.kind)?;
        fields.end()
    }
}

/// All findings, in the order of discovery; at most [`Findings::LIMIT`] are kept and the rest counted, so that a hostile
/// table cannot fill memory with them.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct Findings {
    /// Those kept.
    pub list: Vec<Finding>,
    /// How many more there were.
    pub dropped: u64,
}

impl Findings {
    /// How many are kept.
    pub const LIMIT: usize = 1024;

    /// Adds one.
    pub fn push(&mut self, source: Source, kind: FindingKind) {
        if self.list.len() < Self::LIMIT {
            self.list.push(Finding { kind, source });
        } else {
            self.dropped = self.dropped.saturating_add(1);
        }
    }

    /// Adds all of `other`.
    pub fn append(&mut self, other: Self) {
        self.dropped = self.dropped.saturating_add(other.dropped);
        for finding in other.list {
            self.push(finding.source, finding.kind);
        }
    }

    /// Those kept.
    pub fn iter(&self) -> core::slice::Iter<'_, Finding> {
        self.list.iter()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty() && self.dropped == 0
    }
}

impl<'a> IntoIterator for &'a Findings {
    type Item = &'a Finding;
    type IntoIter = core::slice::Iter<'a, Finding>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
