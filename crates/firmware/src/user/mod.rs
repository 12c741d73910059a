//! What a user says of units, devices and reserved regions, and how that joins with what firmware says.
//!
//! Here are the words and the rules; [`toml`] reads the words from a file.

mod merge;
mod selector;
#[cfg(feature = "toml")]
pub mod toml;

use alloc::string::String;
use alloc::vec::Vec;

use portcullis_spec::{Access, PciAddress, PhysAddr};

use crate::topology::{AddressRange, Architecture, Devices, Fact, IdMap, ReservedKind, Source};

pub use merge::{MergeError, merge};
pub use selector::{SelectorError, devices, function};

/// How firmware and user join.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Mode {
    /// As [`Mode::Override`], and firmware must describe at least one unit.
    Require,
    /// Firmware is not used.
    Ignore,
    /// What the user states of a unit, device or region replaces what firmware states of that; all else stays.
    Merge,
    /// Where the user speaks of a unit, device or region, nothing that firmware says of it counts.
    #[default]
    Override,
}

/// How one statement joins with what firmware says of the same thing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum How {
    /// Field by field.
    Merge,
    /// As a whole.
    Override,
    /// What firmware says of it is dropped, and nothing put in its place.
    Remove,
}

/// What a user says of a unit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UserUnit {
    /// Its name: that of a unit that firmware describes, or a new one. A unit of another name whose registers or PCI
    /// function are those of one that firmware describes is that one, and gets the user's name.
    pub name: Fact<String>,
    /// How it joins; as the mode says where this does not.
    pub how: Option<How>,
    /// Architecture. Must be given for a unit that firmware does not describe, or that is overridden.
    pub architecture: Option<Fact<Architecture>>,
    /// First register.
    pub registers: Option<Fact<PhysAddr>>,
    /// Bytes of registers.
    pub size: Option<Fact<u64>>,
    /// PCI segment that it serves.
    pub segment: Option<Fact<u16>>,
    /// Its own PCI function.
    pub function: Option<Fact<PciAddress>>,
    /// NUMA proximity domain.
    pub proximity: Option<Fact<u32>>,
    /// Where it begins.
    pub source: Source,
}

/// Which unit a device goes to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum UnitName {
    /// None: its DMA is not translated.
    None,
    /// The unit of this name.
    Named(String),
}

/// What a user says of devices.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UserDevice {
    /// Which.
    pub devices: Fact<Devices>,
    /// How it joins; as the mode says where this does not.
    pub how: Option<How>,
    /// Their unit. Must be given unless firmware has a route for the same devices and this one is merged.
    pub unit: Option<Fact<UnitName>>,
    /// Under which number; the same number where neither this nor a merged route says.
    pub ids: Option<Fact<IdMap>>,
    /// Where it begins.
    pub source: Source,
}

/// What a user says of a reserved region.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UserRegion {
    /// Addresses. Firmware's statement about exactly these addresses is the one that it joins with.
    pub range: Fact<AddressRange>,
    /// How it joins; as the mode says where this does not.
    pub how: Option<How>,
    /// Why it is reserved; must be given unless merged with one of firmware's.
    pub kind: Option<Fact<ReservedKind>>,
    /// What devices do there; reading and writing where neither this nor a merged region says.
    pub access: Option<Fact<Access>>,
    /// For whom.
    pub devices: Vec<Fact<Devices>>,
    /// Where it begins.
    pub source: Source,
}

/// All that a user says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UserInput {
    /// How firmware and user join.
    pub mode: Mode,
    /// Where the mode is given.
    pub mode_source: Option<Source>,
    /// Units.
    pub units: Vec<UserUnit>,
    /// Devices, strongest first.
    pub devices: Vec<UserDevice>,
    /// Reserved regions.
    pub reserved: Vec<UserRegion>,
}
