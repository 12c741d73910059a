//! IVRS: I/O virtualization reporting structure (AMD I/O Virtualization chapter 5).

mod structures;
mod topology;

use alloc::vec::Vec;

use super::decode::{Block, Decoder};
use super::header::{Header, View, WriteError, Writer};
use super::layout::{Layout, Record, Show, fields_length, get, patch};
use super::walk::{Raw, Shape, Walk, length_at_2};
use crate::topology::{FindingKind, Findings, Signature, Source};

pub use structures::{Acpi, Alias, Extended, Ivhd10, Ivhd11, Ivmd, PlatformInfo, Short, Special};
pub(crate) use topology::topology;

/// Bytes before the first block.
const FIRST: usize = Header::LENGTH + PlatformInfo::LENGTH;

const BLOCKS: Shape = Shape { what: "IVRS block", header: 4, length: length_at_2 };
const ENTRIES: Shape = Shape { what: "device entry", header: 4, length: entry_length };

/// 5.2.2.5: the two highest bits of the type say 4, 8, 16 or 32 bytes; types from 240 on say their length themselves.
fn entry_length(bytes: &[u8]) -> Option<usize> {
    let kind = get::<u8>(bytes, 0)?;
    match kind {
        240.. => get::<u8>(bytes, 21).map(|uid_length| Acpi::LENGTH + usize::from(uid_length)),
        _ => Some(4 << (kind >> 6)),
    }
}

/// A device entry.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Entry {
    /// Types 0 to 4, and unknown ones up to 63.
    Short(Short),
    /// Types 66 and 67.
    Alias(Alias),
    /// Types 70 and 71.
    Extended(Extended),
    /// Type 72.
    Special(Special),
    /// Type 240, and the bytes of its `_UID`.
    Acpi(Acpi, Vec<u8>),
    /// Padding of eight bytes (type 64) and types that this crate does not know: type, and what follows it.
    Other(u8, Vec<u8>),
}

/// A block.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Definition {
    /// IVHD type 10h.
    Ivhd10(Ivhd10, Vec<Entry>),
    /// IVHD type 11h.
    Ivhd11(Ivhd11, Vec<Entry>),
    /// IVHD type 40h.
    Ivhd40(Ivhd11, Vec<Entry>),
    /// IVMD, and bytes that a longer block has after it.
    Ivmd(Ivmd, Vec<u8>),
    /// A type that this crate does not know: type, flags, and what follows the length.
    Unknown(u8, u8, Vec<u8>),
}

/// An IVRS table.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Ivrs {
    /// Table header.
    pub header: Header,
    /// What is said of the platform.
    pub platform: PlatformInfo,
    /// Blocks.
    pub definitions: Vec<Definition>,
}

/// A block as it lies in the table.
#[derive(Clone, Copy)]
enum Part {
    Ivhd10(Ivhd10),
    Ivhd11(Ivhd11),
    Ivhd40(Ivhd11),
    Ivmd(Ivmd),
    Unknown(structures::Unknown),
}

impl Part {
    /// `Err` where the block is too short for its type.
    fn read(raw: Raw<'_>) -> Result<Self, FindingKind> {
        fn fixed<R: Record>(
            bytes: &[u8],
            what: &'static str,
            part: fn(R) -> Part,
        ) -> Result<Part, FindingKind> {
            R::read(bytes).map(part).ok_or(FindingKind::TooShort {
                what,
                stated: bytes.len() as u64,
                needed: R::LENGTH as u64,
            })
        }
        let bytes = raw.bytes;
        match get::<u8>(bytes, 0).unwrap_or(0) {
            0x10 => fixed(bytes, "IVHD type 10h", Part::Ivhd10),
            0x11 => fixed(bytes, "IVHD type 11h", Part::Ivhd11),
            0x40 => fixed(bytes, "IVHD type 40h", Part::Ivhd40),
            0x20..=0x22 => fixed(bytes, "IVMD", Part::Ivmd),
            _ => fixed(bytes, "IVRS block", Part::Unknown),
        }
    }

    const fn describe(self) -> (&'static str, &'static [Layout]) {
        match self {
            Self::Ivhd10(_) => ("I/O Virtualization Hardware Definition", Ivhd10::FIELDS),
            Self::Ivhd11(_) | Self::Ivhd40(_) => ("I/O Virtualization Hardware Definition", Ivhd11::FIELDS),
            Self::Ivmd(_) => ("I/O Virtualization Memory Definition", Ivmd::FIELDS),
            Self::Unknown(_) => ("Unknown Block", structures::Unknown::FIELDS),
        }
    }

    fn fixed_length(self) -> usize {
        fields_length(self.describe().1)
    }

    const fn has_entries(self) -> bool {
        matches!(self, Self::Ivhd10(_) | Self::Ivhd11(_) | Self::Ivhd40(_))
    }
}

fn blocks<'a>(view: &View<'a>) -> Walk<'a> {
    Walk::new(view.bytes, FIRST, view.bytes.len(), BLOCKS)
}

fn entries<'a>(view: &View<'a>, raw: Raw<'a>, fixed: usize) -> Walk<'a> {
    Walk::new(view.bytes, raw.offset + fixed, raw.offset + raw.bytes.len(), ENTRIES)
}

/// A device entry as it lies in the table.
#[derive(Clone, Copy)]
enum EntryView<'a> {
    Short(Short),
    Alias(Alias),
    Extended(Extended),
    Special(Special),
    Acpi(Acpi, &'a [u8]),
    Other(u8, &'a [u8]),
}

impl<'a> EntryView<'a> {
    /// The walk has seen to it that the bytes are those of the entry's type.
    fn read(raw: Raw<'a>) -> Option<Self> {
        let bytes = raw.bytes;
        let kind = get::<u8>(bytes, 0)?;
        match kind {
            0..=63 => Short::read(bytes).map(Self::Short),
            66 | 67 => Alias::read(bytes).map(Self::Alias),
            70 | 71 => Extended::read(bytes).map(Self::Extended),
            72 => Special::read(bytes).map(Self::Special),
            240 => Some(Self::Acpi(Acpi::read(bytes)?, bytes.get(Acpi::LENGTH..)?)),
            _ => Some(Self::Other(kind, bytes.get(1..)?)),
        }
    }

    const fn describe(self) -> (&'static str, &'static [Layout]) {
        match self {
            Self::Short(_) => ("Device Entry", Short::FIELDS),
            Self::Alias(_) => ("Device Entry with Alias", Alias::FIELDS),
            Self::Extended(_) => ("Device Entry with Extended Setting", Extended::FIELDS),
            Self::Special(_) => ("Special Device Entry", Special::FIELDS),
            Self::Acpi(..) => ("ACPI Device Entry", Acpi::FIELDS),
            Self::Other(64, _) => ("Padding Entry", Short::FIELDS),
            Self::Other(..) => ("Unknown Device Entry", Short::FIELDS),
        }
    }

    fn to_owned(self) -> Entry {
        match self {
            Self::Short(entry) => Entry::Short(entry),
            Self::Alias(entry) => Entry::Alias(entry),
            Self::Extended(entry) => Entry::Extended(entry),
            Self::Special(entry) => Entry::Special(entry),
            Self::Acpi(entry, uid) => Entry::Acpi(entry, uid.to_vec()),
            Self::Other(kind, rest) => Entry::Other(kind, rest.to_vec()),
        }
    }
}

fn report(problem: Option<(usize, FindingKind)>, findings: &mut Findings) {
    if let Some((offset, kind)) = problem {
        findings.push(Source::table(Signature::IVRS, offset as u32), kind);
    }
}

impl Ivrs {
    /// Reads what can be trusted of a table; `findings` says what cannot.
    pub(crate) fn read(view: &View<'_>, findings: &mut Findings) -> Option<Self> {
        let Some(platform) = view.bytes.get(Header::LENGTH..).and_then(PlatformInfo::read) else {
            let (stated, needed) = (view.bytes.len() as u64, FIRST as u64);
            report(Some((0, FindingKind::TooShort { what: "IVRS", stated, needed })), findings);
            return None;
        };
        let mut definitions = Vec::new();
        let mut walk = blocks(view);
        for raw in walk.by_ref() {
            let part = match Part::read(raw) {
                Ok(part) => part,
                Err(kind) => {
                    report(Some((raw.offset, kind)), findings);
                    continue;
                }
            };
            let fixed = part.fixed_length();
            let mut owned = Vec::new();
            if part.has_entries() {
                let mut walk = entries(view, raw, fixed);
                owned.extend(walk.by_ref().filter_map(EntryView::read).map(EntryView::to_owned));
                report(walk.problem, findings);
            }
            let rest = raw.bytes.get(fixed..).unwrap_or_default();
            definitions.push(match part {
                Part::Ivhd10(ivhd) => Definition::Ivhd10(ivhd, owned),
                Part::Ivhd11(ivhd) => Definition::Ivhd11(ivhd, owned),
                Part::Ivhd40(ivhd) => Definition::Ivhd40(ivhd, owned),
                Part::Ivmd(ivmd) => Definition::Ivmd(ivmd, rest.to_vec()),
                Part::Unknown(block) => Definition::Unknown(block.kind, block.flags, rest.to_vec()),
            });
        }
        report(walk.problem, findings);
        Some(Self { header: view.header, platform, definitions })
    }

    /// The table's bytes, with lengths and checksum.
    ///
    /// # Errors
    ///
    /// A block or `_UID` longer than its length field can say, or an entry whose bytes are not as many as its type says.
    pub fn write(&self) -> Result<Vec<u8>, WriteError> {
        let mut writer = Writer::new(Signature::IVRS, &self.header);
        self.platform.append(&mut writer.out);
        for definition in &self.definitions {
            let start = writer.len();
            let (kind, entries): (u8, &[Entry]) = match definition {
                Definition::Ivhd10(ivhd, entries) => (writer.append(0x10, ivhd), entries),
                Definition::Ivhd11(ivhd, entries) => (writer.append(0x11, ivhd), entries),
                Definition::Ivhd40(ivhd, entries) => (writer.append(0x40, ivhd), entries),
                Definition::Ivmd(ivmd, rest) => {
                    let kind = writer.append(ivmd.kind, ivmd);
                    writer.out.extend_from_slice(rest);
                    (kind, &[])
                }
                Definition::Unknown(kind, flags, rest) => {
                    let kind = writer.append(*kind, &structures::Unknown { kind: *kind, flags: *flags });
                    writer.out.extend_from_slice(rest);
                    (kind, &[])
                }
            };
            for entry in entries {
                write_entry(&mut writer, entry)?;
            }
            let length: u16 = writer.since(start, "IVRS block")?;
            patch(&mut writer.out, start, kind);
            patch(&mut writer.out, start + 2, length);
        }
        writer.finish()
    }
}

fn write_entry(writer: &mut Writer, entry: &Entry) -> Result<(), WriteError> {
    let start = writer.len();
    let kind = match entry {
        Entry::Short(entry) => writer.append(entry.kind, entry),
        Entry::Alias(entry) => writer.append(entry.kind, entry),
        Entry::Extended(entry) => writer.append(entry.kind, entry),
        Entry::Special(entry) => writer.append(72, entry),
        Entry::Acpi(entry, uid) => {
            let kind = writer.append(240, entry);
            let length = uid.len();
            let field = u8::try_from(length).map_err(|_| WriteError::TooLong { what: "UniqueID", length })?;
            patch(&mut writer.out, start + 21, field);
            writer.out.extend_from_slice(uid);
            kind
        }
        Entry::Other(kind, rest) => {
            writer.out.push(*kind);
            writer.out.extend_from_slice(rest);
            *kind
        }
    };
    patch(&mut writer.out, start, kind);
    let written = writer.out.get(start..).unwrap_or_default();
    if entry_length(written) == Some(written.len()) {
        Ok(())
    } else {
        Err(WriteError::EntryLength { what: "device entry", value: kind.into(), length: written.len() })
    }
}

/// Every field of the table.
pub(crate) fn decode<'a>(view: &View<'a>) -> Vec<Block<'a>> {
    let mut decoder = Decoder::new(view.bytes);
    decoder.begin("I/O Virtualization Reporting Structure", 0, 0, FIRST, Header::FIELDS);
    decoder.layout(PlatformInfo::FIELDS, Header::LENGTH);
    decoder.fill(FIRST);
    let mut end = FIRST;
    for raw in blocks(view) {
        let (offset, length) = (raw.offset, raw.bytes.len());
        end = offset + length;
        let part = Part::read(raw).unwrap_or(Part::Unknown(structures::Unknown::default()));
        let (name, fields) = part.describe();
        decoder.begin(name, 1, offset, length, fields);
        if !part.has_entries() {
            decoder.fill(end);
            continue;
        }
        let mut entries_end = offset + part.fixed_length();
        decoder.fill(entries_end);
        for raw in entries(view, raw, part.fixed_length()) {
            entries_end = raw.offset + raw.bytes.len();
            let Some(entry) = EntryView::read(raw) else { continue };
            let (name, fields) = entry.describe();
            decoder.begin(name, 2, raw.offset, raw.bytes.len(), fields);
            if let EntryView::Acpi(entry, uid) = entry {
                let show = if entry.uid_format == 2 { Show::Text } else { Show::Bytes };
                decoder.field("UniqueID", raw.offset + Acpi::LENGTH, uid.len(), show);
            }
            decoder.fill(entries_end);
        }
        decoder.unreadable("Unreadable Device Entry", 2, entries_end, end);
    }
    decoder.unreadable("Unreadable Block", 1, end, view.bytes.len());
    decoder.finish()
}
