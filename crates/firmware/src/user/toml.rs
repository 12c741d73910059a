//! The user's input as TOML.
//!
//! ```toml
//! mode = "override"             # or "require", "ignore", "merge"
//!
//! [[unit]]
//! name = "dmar0"
//! mode = "merge"                # or "override", "remove"; otherwise as above
//! architecture = "vtd"          # "amd-vi", "smmu-v1", "smmu-v2", "smmu-v3", "riscv", "virtio"
//! registers = 0xfed90000
//! size = 0x1000
//! segment = 0
//! function = "0000:00:00.2"     # the unit's own PCI function
//! proximity = 0
//!
//! [[device]]
//! device = "0000:00:02.0"       # all forms: see `SelectorError::Form`
//! unit = "dmar0"                # or "none": its DMA is not translated
//! id = 0x10                     # or ids = { input = 0, output = 0x100, count = 8 }
//!
//! [[reserved]]
//! first = 0x7a000000
//! last = 0x7a0fffff             # or length = 0x100000
//! kind = "rmrr"                 # "unity", "exclusion", "no-map", "msi", "rmr", "rmr-relocatable"
//! access = "rw"                 # "r", "w"
//! devices = ["0000:00:14.0"]
//! ```

use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use portcullis_spec::{Access, PhysAddr};
use serde::Deserialize;
use toml::Spanned;

use super::selector::{devices, function};
use super::{How, Mode, UnitName, UserDevice, UserInput, UserRegion, UserUnit};
use crate::topology::{AddressRange, Architecture, Devices, Fact, IdMap, ReservedKind, Source};

/// Why a file is not understood, and where.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{file}:{line}:{column}: {problem}")]
pub struct InputError {
    /// File as the user named it.
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// Bytes of the file that it is about.
    pub span: Range<usize>,
    /// What is wrong.
    pub problem: String,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ModeWord {
    Require,
    Ignore,
    Merge,
    Override,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum HowWord {
    Merge,
    Override,
    Remove,
}

impl From<HowWord> for How {
    fn from(word: HowWord) -> Self {
        match word {
            HowWord::Merge => Self::Merge,
            HowWord::Override => Self::Override,
            HowWord::Remove => Self::Remove,
        }
    }
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ArchitectureWord {
    Vtd,
    AmdVi,
    SmmuV1,
    SmmuV2,
    SmmuV3,
    Riscv,
    Virtio,
}

impl From<ArchitectureWord> for Architecture {
    fn from(word: ArchitectureWord) -> Self {
        match word {
            ArchitectureWord::Vtd => Self::Vtd,
            ArchitectureWord::AmdVi => Self::AmdVi,
            ArchitectureWord::SmmuV1 => Self::SmmuV1,
            ArchitectureWord::SmmuV2 => Self::SmmuV2,
            ArchitectureWord::SmmuV3 => Self::SmmuV3,
            ArchitectureWord::Riscv => Self::Riscv,
            ArchitectureWord::Virtio => Self::Virtio,
        }
    }
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum KindWord {
    Rmrr,
    Unity,
    Exclusion,
    NoMap,
    Msi,
    Rmr,
    RmrRelocatable,
}

impl From<KindWord> for ReservedKind {
    fn from(word: KindWord) -> Self {
        let rmr = |remapping_permitted| Self::Rmr { remapping_permitted, privileged: false, attributes: 5 };
        match word {
            KindWord::Rmrr => Self::Rmrr,
            KindWord::Unity => Self::Unity,
            KindWord::Exclusion => Self::Exclusion,
            KindWord::NoMap => Self::NoMap,
            KindWord::Msi => Self::Msi,
            KindWord::Rmr => rmr(false),
            KindWord::RmrRelocatable => rmr(true),
        }
    }
}

#[derive(Clone, Copy, Deserialize)]
enum AccessWord {
    #[serde(rename = "r")]
    Read,
    #[serde(rename = "w")]
    Write,
    #[serde(rename = "rw")]
    ReadWrite,
}

impl From<AccessWord> for Access {
    fn from(word: AccessWord) -> Self {
        match word {
            AccessWord::Read => Self::READ,
            AccessWord::Write => Self::WRITE,
            AccessWord::ReadWrite => Self::READ_WRITE,
        }
    }
}

#[derive(Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct IdsWord {
    input: u32,
    output: u32,
    count: u64,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct UnitEntry {
    name: Spanned<String>,
    mode: Option<HowWord>,
    architecture: Option<Spanned<ArchitectureWord>>,
    registers: Option<Spanned<u64>>,
    size: Option<Spanned<u64>>,
    segment: Option<Spanned<u16>>,
    function: Option<Spanned<String>>,
    proximity: Option<Spanned<u32>>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct DeviceEntry {
    device: Spanned<String>,
    mode: Option<HowWord>,
    unit: Option<Spanned<String>>,
    id: Option<Spanned<u32>>,
    ids: Option<Spanned<IdsWord>>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct RegionEntry {
    first: Spanned<u64>,
    last: Option<Spanned<u64>>,
    length: Option<Spanned<u64>>,
    mode: Option<HowWord>,
    kind: Option<Spanned<KindWord>>,
    access: Option<Spanned<AccessWord>>,
    #[serde(default)]
    devices: Vec<Spanned<String>>,
}

/// The tables of this module's documentation, as a document or as part of a larger one.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Section {
    mode: Option<Spanned<ModeWord>>,
    #[serde(default)]
    unit: Vec<Spanned<UnitEntry>>,
    #[serde(default)]
    device: Vec<Spanned<DeviceEntry>>,
    #[serde(default)]
    reserved: Vec<Spanned<RegionEntry>>,
}

/// Reads a file of its own.
///
/// # Errors
///
/// The first thing that is not understood.
pub fn read(file: &str, text: &str) -> Result<UserInput, InputError> {
    let place = Place { file: file.into(), text };
    let section: Section = toml::from_str(text)
        .map_err(|error| place.error(error.span().unwrap_or(0..0), error.message().to_string()))?;
    section.read(file, text)
}

/// Turns spans into lines and columns.
struct Place<'t> {
    file: Arc<str>,
    text: &'t str,
}

impl Place<'_> {
    fn position(&self, offset: usize) -> (u32, u32) {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let column = before.get(start..).unwrap_or_default().chars().count() + 1;
        (u32::try_from(line).unwrap_or(u32::MAX), u32::try_from(column).unwrap_or(u32::MAX))
    }

    fn source(&self, span: Range<usize>) -> Source {
        let (line, column) = self.position(span.start);
        Source::User { file: Arc::clone(&self.file), line, column }
    }

    fn fact<A, B>(&self, spanned: &Spanned<A>, value: B) -> Fact<B> {
        Fact::new(value, self.source(spanned.span()))
    }

    fn word<A: Copy + Into<B>, B>(&self, spanned: Option<&Spanned<A>>) -> Option<Fact<B>> {
        spanned.map(|spanned| self.fact(spanned, (*spanned.get_ref()).into()))
    }

    fn error(&self, span: Range<usize>, problem: String) -> InputError {
        let (line, column) = self.position(span.start);
        InputError { file: Arc::clone(&self.file), line, column, span, problem }
    }

    fn devices(&self, text: &Spanned<String>) -> Result<Fact<Devices>, InputError> {
        devices(text.get_ref())
            .map(|devices| self.fact(text, devices))
            .map_err(|error| self.error(text.span(), error.to_string()))
    }
}

impl Section {
    /// The input, for a section of `text`, which is the whole file called `file`.
    ///
    /// # Errors
    ///
    /// The first thing that is not understood.
    pub fn read(&self, file: &str, text: &str) -> Result<UserInput, InputError> {
        let place = Place { file: file.into(), text };
        let mode = self.mode.as_ref().map_or(Mode::default(), |mode| match mode.get_ref() {
            ModeWord::Require => Mode::Require,
            ModeWord::Ignore => Mode::Ignore,
            ModeWord::Merge => Mode::Merge,
            ModeWord::Override => Mode::Override,
        });
        Ok(UserInput {
            mode,
            mode_source: self.mode.as_ref().map(|mode| place.source(mode.span())),
            units: self.unit.iter().map(|unit| read_unit(&place, unit)).collect::<Result<_, _>>()?,
            devices: self
                .device
                .iter()
                .map(|device| read_device(&place, device))
                .collect::<Result<_, _>>()?,
            reserved: self
                .reserved
                .iter()
                .map(|region| read_region(&place, region))
                .collect::<Result<_, _>>()?,
        })
    }
}

fn read_unit(place: &Place<'_>, entry: &Spanned<UnitEntry>) -> Result<UserUnit, InputError> {
    let unit = entry.get_ref();
    let own = match &unit.function {
        Some(text) => match function(text.get_ref()) {
            Ok(address) => Some(place.fact(text, address)),
            Err(error) => return Err(place.error(text.span(), error.to_string())),
        },
        None => None,
    };
    if unit.name.get_ref() == "none" || unit.name.get_ref().is_empty() {
        return Err(place.error(unit.name.span(), "a unit cannot have this name".to_string()));
    }
    Ok(UserUnit {
        name: place.fact(&unit.name, unit.name.get_ref().clone()),
        how: unit.mode.map(How::from),
        architecture: place.word(unit.architecture.as_ref()),
        registers: unit.registers.as_ref().map(|base| place.fact(base, PhysAddr(*base.get_ref()))),
        size: place.word(unit.size.as_ref()),
        segment: place.word(unit.segment.as_ref()),
        function: own,
        proximity: place.word(unit.proximity.as_ref()),
        source: place.source(entry.span()),
    })
}

fn read_device(place: &Place<'_>, entry: &Spanned<DeviceEntry>) -> Result<UserDevice, InputError> {
    let device = entry.get_ref();
    let ids = match (&device.id, &device.ids) {
        (Some(_), Some(ids)) => {
            return Err(place.error(ids.span(), "give `id` or `ids`, not both".to_string()));
        }
        (Some(id), None) => Some(place.fact(id, IdMap::One(*id.get_ref()))),
        (None, Some(ids)) => {
            let IdsWord { input, output, count } = *ids.get_ref();
            let room = (1u64 << 32) - u64::from(input.max(output));
            if count == 0 || count > room {
                let problem = alloc::format!("a count from 1 to {room:#x} keeps the IDs within 32 bits");
                return Err(place.error(ids.span(), problem));
            }
            Some(place.fact(ids, IdMap::Offset { input, output, count }))
        }
        (None, None) => None,
    };
    let unit = device.unit.as_ref().map(|unit| {
        let name = match unit.get_ref().as_str() {
            "none" => UnitName::None,
            name => UnitName::Named(name.to_string()),
        };
        place.fact(unit, name)
    });
    Ok(UserDevice {
        devices: place.devices(&device.device)?,
        how: device.mode.map(How::from),
        unit,
        ids,
        source: place.source(entry.span()),
    })
}

fn read_region(place: &Place<'_>, entry: &Spanned<RegionEntry>) -> Result<UserRegion, InputError> {
    let region = entry.get_ref();
    let first = *region.first.get_ref();
    let range = match (&region.last, &region.length) {
        (Some(last), None) => {
            (first <= *last.get_ref()).then(|| AddressRange { first, last: *last.get_ref() })
        }
        (None, Some(length)) => AddressRange::from_length(first, *length.get_ref()),
        _ => return Err(place.error(entry.span(), "give either `last` or `length`".to_string())),
    };
    let Some(range) = range else {
        let problem = "the region is empty, ends before it starts, or passes 64 bits";
        return Err(place.error(region.first.span(), problem.to_string()));
    };
    Ok(UserRegion {
        range: place.fact(&region.first, range),
        how: region.mode.map(How::from),
        kind: place.word(region.kind.as_ref()),
        access: place.word(region.access.as_ref()),
        devices: region.devices.iter().map(|text| place.devices(text)).collect::<Result<_, _>>()?,
        source: place.source(entry.span()),
    })
}
