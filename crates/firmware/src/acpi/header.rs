//! The header that every ACPI table begins with (ACPI 5.2.6).

use alloc::vec::Vec;

use super::layout::{Record, Show, get, patch, record};
use crate::topology::{FindingKind, Findings, Signature, Source};

record! {
    /// The table header without what follows from the table: signature, length and checksum.
    pub struct Header, 36 bytes {
        0: [u8; 4], "Signature", Show::Text;
        4: u32, "Length";
        8: /** Revision of the table. */ pub revision: u8, "Revision";
        9: u8, "Checksum";
        10: /** OEMID. */ pub oem_id: [u8; 6], "OEMID", Show::Text;
        16: /** OEM Table ID. */ pub oem_table_id: [u8; 8], "OEM Table ID", Show::Text;
        24: /** OEM Revision. */ pub oem_revision: u32, "OEM Revision";
        28: /** Creator ID. */ pub creator_id: [u8; 4], "Creator ID", Show::Text;
        32: /** Creator Revision. */ pub creator_revision: u32, "Creator Revision";
    }
}

impl Header {
    /// A header for a table that Portcullis makes.
    #[must_use]
    pub const fn new(revision: u8) -> Self {
        Self {
            revision,
            oem_id: *b"PORTCL",
            oem_table_id: *b"PORTCULL",
            oem_revision: 1,
            creator_id: *b"PORT",
            creator_revision: 1,
        }
    }
}

/// A table's bytes, as many of them as both its header and its owner vouch for.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) signature: Signature,
    pub(crate) header: Header,
    pub(crate) bytes: &'a [u8],
}

impl<'a> View<'a> {
    /// Checks length and checksum. `None` where there is no header.
    pub(crate) fn open(bytes: &'a [u8], findings: &mut Findings) -> Option<Self> {
        let available = bytes.len() as u64;
        let signature = Signature(get(bytes, 0).unwrap_or(*b"\0\0\0\0"));
        let (Some(header), Some(stated)) = (Header::read(bytes), get::<u32>(bytes, 4)) else {
            findings.push(Source::table(signature, 0), FindingKind::NoHeader { available });
            return None;
        };
        let whole = usize::try_from(stated).ok().and_then(|stated| bytes.get(..stated));
        if u64::from(stated) != available {
            findings.push(Source::table(signature, 4), FindingKind::TableLength { stated, available });
        }
        let bytes = match whole {
            Some(whole) if whole.len() >= Header::LENGTH => {
                let sum = whole.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
                if sum != 0 {
                    findings.push(Source::table(signature, 9), FindingKind::Checksum { sum });
                }
                whole
            }
            _ => bytes,
        };
        Some(Self { signature, header, bytes })
    }
}

/// Where a table's bytes grow, and its lengths and checksum are filled in.
pub(crate) struct Writer {
    pub(crate) out: Vec<u8>,
}

impl Writer {
    pub(crate) fn new(signature: Signature, header: &Header) -> Self {
        let mut out = Vec::new();
        header.append(&mut out);
        patch(&mut out, 0, signature.0);
        Self { out }
    }

    pub(crate) fn len(&self) -> usize {
        self.out.len()
    }

    /// Appends a structure's fixed part, and hands on its type.
    pub(crate) fn append<K>(&mut self, kind: K, record: &impl Record) -> K {
        record.append(&mut self.out);
        kind
    }

    /// Where the next byte goes, as offset fields hold it.
    pub(crate) fn offset_of<T: TryFrom<usize>>(&self, what: &'static str) -> Result<T, WriteError> {
        self.since(0, what)
    }

    /// Bytes since `start`, as a length field of type `T` holds them.
    pub(crate) fn since<T: TryFrom<usize>>(&self, start: usize, what: &'static str) -> Result<T, WriteError> {
        T::try_from(self.len() - start).map_err(|_| WriteError::TooLong { what, length: self.len() - start })
    }

    /// Sets length and checksum.
    pub(crate) fn finish(mut self) -> Result<Vec<u8>, WriteError> {
        let length: u32 = self.since(0, "table")?;
        patch(&mut self.out, 4, length);
        let sum = self.out.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        patch(&mut self.out, 9, sum.wrapping_neg());
        Ok(self.out)
    }
}

/// Why a description cannot be written as a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// More bytes or entries than the length or count field can say.
    #[error("{what} has {length} bytes or entries, more than its length field can say")]
    TooLong {
        /// Which structure.
        what: &'static str,
        /// Bytes or entries.
        length: usize,
    },
    /// A reference to a node that is not in the table.
    #[error("{what} refers to node {index}, but there are {count}")]
    NoSuchNode {
        /// Which field.
        what: &'static str,
        /// The node.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// A reference by offset to a place where a node begins, which would be read as one to that node.
    #[error("{what} refers to offset {offset:#x}, where a node begins: refer to the node")]
    OffsetOfNode {
        /// Which field.
        what: &'static str,
        /// The offset.
        offset: u32,
    },
    /// An entry whose type says another length than its bytes have.
    #[error("{what} of type {value:#x} cannot have {length} bytes")]
    EntryLength {
        /// Which structure.
        what: &'static str,
        /// Its type.
        value: u32,
        /// Bytes.
        length: usize,
    },
}
