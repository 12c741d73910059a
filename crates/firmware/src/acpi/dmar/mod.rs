//! DMAR: DMA remapping reporting (VT-d chapter 8).
//!
//! ```
//! use portcullis_firmware::acpi::{Header, dmar, topology};
//!
//! let table = dmar::Dmar {
//!     header: Header::new(1),
//!     platform: dmar::PlatformInfo { host_address_width: 38, flags: 1, ..Default::default() },
//!     structures: vec![dmar::Structure::Drhd(
//!         dmar::Drhd { flags: 1, register_base: 0xfed9_0000, ..Default::default() },
//!         vec![dmar::Scope {
//!             info: dmar::ScopeInfo { kind: dmar::SCOPE_IOAPIC, start_bus: 0xff, ..Default::default() },
//!             path: vec![(0, 0)],
//!             odd_byte: None,
//!         }],
//!     )],
//! };
//! let bytes = table.write()?;
//! assert_eq!(topology(&bytes).units.len(), 1);
//! # Ok::<(), portcullis_firmware::acpi::WriteError>(())
//! ```

mod structures;
mod topology;

use alloc::vec::Vec;

use super::decode::{Block, Decoder};
use super::header::{Header, View, WriteError, Writer};
use super::layout::{Layout, Record, Show, fields_length, get, patch};
use super::walk::{Raw, Shape, Walk, length_at_2};
use crate::topology::{FindingKind, Findings, Signature, Source};

pub use structures::{
    Andd, Atsr, Drhd, NAMESPACE_DEVICE, PlatformInfo, Rhsa, Rmrr, SCOPE_HPET, SCOPE_IOAPIC,
    SCOPE_PCI_ENDPOINT, SCOPE_PCI_HIERARCHY, Satc, ScopeInfo, Sidp,
};
pub(crate) use topology::topology;

/// Bytes before the first structure.
const FIRST: usize = Header::LENGTH + PlatformInfo::LENGTH;

const STRUCTURES: Shape = Shape { what: "remapping structure", header: 4, length: length_at_2 };
const SCOPES: Shape = Shape {
    what: "device scope entry",
    header: ScopeInfo::LENGTH,
    length: |bytes| get::<u8>(bytes, 1).map(usize::from),
};

/// A device scope entry (VT-d 8.3.1).
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Scope {
    /// Fixed part.
    pub info: ScopeInfo,
    /// Path: device and function at each hop from the start bus.
    pub path: Vec<(u8, u8)>,
    /// An odd byte after the path, which the specification does not allow but a table may have.
    pub odd_byte: Option<u8>,
}

/// A remapping structure.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Structure {
    /// DMA remapping hardware unit definition.
    Drhd(Drhd, Vec<Scope>),
    /// Reserved memory region reporting.
    Rmrr(Rmrr, Vec<Scope>),
    /// Root port ATS capability reporting.
    Atsr(Atsr, Vec<Scope>),
    /// Remapping hardware static affinity.
    Rhsa(Rhsa),
    /// ACPI namespace device declaration: the name's bytes as they are, with the NUL that ends it.
    Andd(Andd, Vec<u8>),
    /// SoC integrated address translation cache.
    Satc(Satc, Vec<Scope>),
    /// SoC integrated device properties.
    Sidp(Sidp, Vec<Scope>),
    /// A type that this crate does not know: what follows type and length.
    Unknown(u16, Vec<u8>),
}

/// A DMAR table.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Dmar {
    /// Table header.
    pub header: Header,
    /// What is said of the platform.
    pub platform: PlatformInfo,
    /// Remapping structures.
    pub structures: Vec<Structure>,
}

/// A structure as it lies in the table: its fixed part, and where its variable part begins.
#[derive(Clone, Copy)]
enum Part {
    Drhd(Drhd),
    Rmrr(Rmrr),
    Atsr(Atsr),
    Rhsa(Rhsa),
    Andd(Andd),
    Satc(Satc),
    Sidp(Sidp),
    Unknown(u16),
}

impl Part {
    /// `Err` where the structure is too short for its type.
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
        match get::<u16>(bytes, 0).unwrap_or(u16::MAX) {
            0 => fixed(bytes, "DRHD", Part::Drhd),
            1 => fixed(bytes, "RMRR", Part::Rmrr),
            2 => fixed(bytes, "ATSR", Part::Atsr),
            3 => fixed(bytes, "RHSA", Part::Rhsa),
            4 => fixed(bytes, "ANDD", Part::Andd),
            5 => fixed(bytes, "SATC", Part::Satc),
            6 => fixed(bytes, "SIDP", Part::Sidp),
            other => Ok(Part::Unknown(other)),
        }
    }

    /// What it is called, and the fields of its fixed part.
    const fn describe(self) -> (&'static str, &'static [Layout]) {
        match self {
            Self::Drhd(_) => ("DMA Remapping Hardware Unit Definition", Drhd::FIELDS),
            Self::Rmrr(_) => ("Reserved Memory Region Reporting", Rmrr::FIELDS),
            Self::Atsr(_) => ("Root Port ATS Capability Reporting", Atsr::FIELDS),
            Self::Rhsa(_) => ("Remapping Hardware Static Affinity", Rhsa::FIELDS),
            Self::Andd(_) => ("ACPI Name-space Device Declaration", Andd::FIELDS),
            Self::Satc(_) => ("SoC Integrated Address Translation Cache", Satc::FIELDS),
            Self::Sidp(_) => ("SoC Integrated Device Property", Sidp::FIELDS),
            Self::Unknown(_) => ("Unknown Remapping Structure", structures::Unknown::FIELDS),
        }
    }

    fn fixed_length(self) -> usize {
        fields_length(self.describe().1)
    }

    const fn has_scopes(self) -> bool {
        matches!(self, Self::Drhd(_) | Self::Rmrr(_) | Self::Atsr(_) | Self::Satc(_) | Self::Sidp(_))
    }
}

/// One device scope entry as it lies in the table.
#[derive(Clone, Copy)]
struct ScopeView<'a> {
    offset: usize,
    info: ScopeInfo,
    path: &'a [u8],
}

fn structures<'a>(view: &View<'a>) -> Walk<'a> {
    Walk::new(view.bytes, FIRST, view.bytes.len(), STRUCTURES)
}

/// The scopes of the structure `raw`, whose fixed part has `fixed` bytes.
fn scopes<'a>(view: &View<'a>, raw: Raw<'a>, fixed: usize) -> Walk<'a> {
    Walk::new(view.bytes, raw.offset + fixed, raw.offset + raw.bytes.len(), SCOPES)
}

fn scope(raw: Raw<'_>) -> Option<ScopeView<'_>> {
    Some(ScopeView {
        offset: raw.offset,
        info: ScopeInfo::read(raw.bytes)?,
        path: raw.bytes.get(ScopeInfo::LENGTH..)?,
    })
}

fn owned_scopes(view: &View<'_>, raw: Raw<'_>, fixed: usize, findings: &mut Findings) -> Vec<Scope> {
    let mut walk = scopes(view, raw, fixed);
    let owned = walk
        .by_ref()
        .filter_map(scope)
        .map(|scope| {
            let hops = scope.path.chunks_exact(2);
            let odd_byte = hops.remainder().first().copied();
            let path = hops.map(|hop| (hop[0], hop[1])).collect();
            Scope { info: scope.info, path, odd_byte }
        })
        .collect();
    report(walk.problem, findings);
    owned
}

fn report(problem: Option<(usize, FindingKind)>, findings: &mut Findings) {
    if let Some((offset, kind)) = problem {
        findings.push(Source::table(Signature::DMAR, offset as u32), kind);
    }
}

impl Dmar {
    /// Reads what can be trusted of a table; `findings` says what cannot.
    pub(crate) fn read(view: &View<'_>, findings: &mut Findings) -> Option<Self> {
        let Some(platform) = view.bytes.get(Header::LENGTH..).and_then(PlatformInfo::read) else {
            findings.push(
                Source::table(Signature::DMAR, 0),
                FindingKind::TooShort { what: "DMAR", stated: view.bytes.len() as u64, needed: FIRST as u64 },
            );
            return None;
        };
        let mut structures = Vec::new();
        let mut walk = self::structures(view);
        for raw in walk.by_ref() {
            let part = match Part::read(raw) {
                Ok(part) => part,
                Err(kind) => {
                    report(Some((raw.offset, kind)), findings);
                    continue;
                }
            };
            let fixed = part.fixed_length();
            let scopes =
                if part.has_scopes() { owned_scopes(view, raw, fixed, findings) } else { Vec::new() };
            let rest = raw.bytes.get(fixed..).unwrap_or_default();
            structures.push(match part {
                Part::Drhd(drhd) => Structure::Drhd(drhd, scopes),
                Part::Rmrr(rmrr) => Structure::Rmrr(rmrr, scopes),
                Part::Atsr(atsr) => Structure::Atsr(atsr, scopes),
                Part::Rhsa(rhsa) => Structure::Rhsa(rhsa),
                Part::Andd(andd) => Structure::Andd(andd, rest.to_vec()),
                Part::Satc(satc) => Structure::Satc(satc, scopes),
                Part::Sidp(sidp) => Structure::Sidp(sidp, scopes),
                Part::Unknown(kind) => Structure::Unknown(kind, rest.to_vec()),
            });
        }
        report(walk.problem, findings);
        Some(Self { header: view.header, platform, structures })
    }

    /// The table's bytes, with lengths and checksum.
    ///
    /// # Errors
    ///
    /// A structure or path longer than its length field can say.
    pub fn write(&self) -> Result<Vec<u8>, WriteError> {
        let mut writer = Writer::new(Signature::DMAR, &self.header);
        self.platform.append(&mut writer.out);
        for structure in &self.structures {
            let start = writer.len();
            let (kind, scopes): (u16, &[Scope]) = match structure {
                Structure::Drhd(drhd, scopes) => (writer.append(0, drhd), scopes),
                Structure::Rmrr(rmrr, scopes) => (writer.append(1, rmrr), scopes),
                Structure::Atsr(atsr, scopes) => (writer.append(2, atsr), scopes),
                Structure::Rhsa(rhsa) => (writer.append(3, rhsa), &[]),
                Structure::Andd(andd, name) => {
                    let kind = writer.append(4, andd);
                    writer.out.extend_from_slice(name);
                    (kind, &[])
                }
                Structure::Satc(satc, scopes) => (writer.append(5, satc), scopes),
                Structure::Sidp(sidp, scopes) => (writer.append(6, sidp), scopes),
                Structure::Unknown(kind, rest) => {
                    writer.out.extend_from_slice(&[0; 4]);
                    writer.out.extend_from_slice(rest);
                    (*kind, &[])
                }
            };
            for scope in scopes {
                let start = writer.len();
                scope.info.append(&mut writer.out);
                writer.out.extend(scope.path.iter().flat_map(|(device, function)| [*device, *function]));
                writer.out.extend(scope.odd_byte);
                let length: u8 = writer.since(start, "device scope entry")?;
                patch(&mut writer.out, start + 1, length);
            }
            let length: u16 = writer.since(start, "remapping structure")?;
            patch(&mut writer.out, start, kind);
            patch(&mut writer.out, start + 2, length);
        }
        writer.finish()
    }
}

/// Every field of the table.
pub(crate) fn decode<'a>(view: &View<'a>) -> Vec<Block<'a>> {
    let mut decoder = Decoder::new(view.bytes);
    decoder.begin("DMA Remapping Reporting Structure", 0, 0, FIRST, Header::FIELDS);
    decoder.layout(PlatformInfo::FIELDS, Header::LENGTH);
    decoder.fill(FIRST);
    let mut walk = structures(view);
    let mut end = FIRST;
    for raw in walk.by_ref() {
        let (offset, length) = (raw.offset, raw.bytes.len());
        end = offset + length;
        let part = Part::read(raw).unwrap_or(Part::Unknown(0));
        let (name, fields) = part.describe();
        decoder.begin(name, 1, offset, length, fields);
        if let Part::Andd(_) = part {
            let name = raw.bytes.get(Andd::LENGTH..).unwrap_or_default();
            let text = name.iter().position(|byte| *byte == 0).map_or(name.len(), |end| end + 1);
            decoder.field("ACPI Object Name", offset + Andd::LENGTH, text, Show::Text);
        }
        if !part.has_scopes() {
            decoder.fill(end);
            continue;
        }
        let fixed_end = offset + part.fixed_length();
        decoder.fill(fixed_end);
        let mut scopes = scopes(view, raw, part.fixed_length());
        let mut scopes_end = fixed_end;
        for scope in scopes.by_ref() {
            scopes_end = scope.offset + scope.bytes.len();
            decoder.begin("Device Scope", 2, scope.offset, scope.bytes.len(), ScopeInfo::FIELDS);
            for hop in (scope.offset + ScopeInfo::LENGTH..scopes_end).step_by(2) {
                decoder.field("Path", hop, 2, Show::Bytes);
            }
            decoder.fill(scopes_end);
        }
        decoder.unreadable("Unreadable Device Scope", 2, scopes_end, end);
    }
    decoder.unreadable("Unreadable Remapping Structure", 1, end, view.bytes.len());
    decoder.finish()
}
