//! Configuration: who is given what, where firmware is believed, and what less than safe is accepted by name.
//!
//! Two ways to say it, one result: a TOML file ([`from_toml`]), or the options of QNX's smmuman ([`from_smmuman`]). Both name every
//! problem they find, each with its place and what would mend it; [`Configuration::check`] names every contradiction.

mod check;
mod number;
mod smmuman;
mod tolerant;
mod toml;
pub mod topology;

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use portcullis_firmware::user::{Mode, UserInput};
use portcullis_spec::Access;

use crate::core::{Limits, Pattern};

pub use self::smmuman::from_smmuman;
pub use self::toml::from_toml;

/// A problem, and where.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{file}:{line}:{column}: {message}")]
pub struct Problem {
    /// File as the user named it.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Bytes of the file that it is about.
    pub span: std::ops::Range<usize>,
    /// What is wrong.
    pub message: String,
    /// What would mend it.
    pub help: Option<String>,
}

/// A place in a configuration file.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Place {
    /// File as the user named it.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// Bytes of the file.
    pub span: std::ops::Range<usize>,
}

impl Place {
    /// The place of `span` in `text`.
    fn of(file: &str, text: &str, span: std::ops::Range<usize>) -> Self {
        let start = span.start.min(text.len());
        let before = text.get(..start).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = before.matches('\n').count() + 1;
        let column = before[line_start..].chars().count() + 1;
        Self { file: file.to_owned(), line, column, span }
    }

    /// A problem here.
    fn problem(&self, message: impl Into<String>, help: impl Into<Option<String>>) -> Problem {
        Problem {
            file: self.file.clone(),
            line: self.line,
            column: self.column,
            span: self.span.clone(),
            message: message.into(),
            help: help.into(),
        }
    }
}

/// Which back end drives the hardware.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum BackendChoice {
    /// VFIO where this host has an IOMMU in use, the embedded platform otherwise.
    #[default]
    Auto,
    /// The host through VFIO.
    Vfio,
    /// Simulated units and devices in the service itself; protects nothing real.
    Embedded,
    /// Another manager, of which this one is a client.
    Upstream,
}

/// A user or group, by name or number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Account {
    /// By name, to be looked up when the service starts.
    Name(String),
    /// By number.
    Number(u32),
}

/// Users and groups as the configuration names them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Accounts {
    /// Users.
    pub users: Vec<Account>,
    /// Groups.
    pub groups: Vec<Account>,
    /// Where each name stands.
    pub places: Vec<(String, Place)>,
}

/// What a client is given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Client {
    /// Name.
    pub name: String,
    /// Who may be it.
    pub who: Accounts,
    /// Devices that it may claim.
    pub devices: Vec<Pattern>,
    /// Addresses that its devices may use, first and last byte; `None` is all that the unit has.
    pub windows: Option<Vec<RangeInclusive<u64>>>,
    /// Physical ranges, first and last byte, that its devices reach unchanged.
    pub unity: Vec<RangeInclusive<u64>>,
    /// Physical ranges, first and last byte, that it may map.
    pub physical: Vec<RangeInclusive<u64>>,
    /// Bounds.
    pub limits: Limits,
    /// Where it stands.
    pub place: Place,
}

/// Memory that a device without a client reaches.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Allow {
    /// Name of the device, or a pattern.
    pub device: String,
    /// First byte.
    pub first: u64,
    /// Bytes, not 0.
    pub length: u64,
    /// What it may do.
    pub access: Access,
    /// Where it stands.
    pub place: Place,
}

/// Another name for a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Alias {
    /// The name that other options use.
    pub name: String,
    /// The device as the inventory calls it: `0000:03:00.0`, `mmio:BASE`, or the number under which its unit sees it.
    pub device: String,
    /// Where it stands.
    pub place: Place,
}

/// How long a client may take to come back after a crash of the service, unless configuration says.
pub const RESUME_WITHIN: Duration = Duration::from_secs(60);

/// Records of violations.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JournalSettings {
    /// Kept in memory.
    pub records: usize,
    /// Directory of those on disk, where they are to be kept there.
    pub directory: Option<PathBuf>,
    /// Bytes on disk at most.
    pub size: u64,
}

impl Default for JournalSettings {
    /// 65536 records in memory, none on disk, and 64 MiB once a directory is named.
    fn default() -> Self {
        Self { records: 1 << 16, directory: None, size: 64 << 20 }
    }
}

/// Where keys of the service stand that may contradict each other.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ServicePlaces {
    /// [`Configuration::backend`].
    pub backend: Option<Place>,
    /// [`Configuration::iommu`].
    pub iommu: Option<Place>,
    /// [`Configuration::upstream`].
    pub upstream: Option<Place>,
}

/// All that configuration says.
#[derive(Clone, Debug, Default)]
pub struct Configuration {
    /// Where the service listens, unless systemd passes a socket.
    pub socket: Option<PathBuf>,
    /// Permission bits of that socket.
    pub socket_mode: Option<u32>,
    /// Connections that one user may have.
    pub connections: Option<usize>,
    /// How long a client may take to come back after a crash of the service; [`RESUME_WITHIN`] where it is not said.
    pub resume_within: Option<Duration>,
    /// Which back end.
    pub backend: BackendChoice,
    /// Architecture of the embedded platform.
    pub iommu: Option<String>,
    /// Socket of the manager above, for [`BackendChoice::Upstream`].
    pub upstream: Option<PathBuf>,
    /// Where the last three stand.
    pub places: ServicePlaces,
    /// Whether firmware is believed, and what the user says of units, devices and regions.
    pub firmware: UserInput,
    /// Names for devices.
    pub aliases: Vec<Alias>,
    /// Clients, in the order in which they are tried.
    pub clients: Vec<Client>,
    /// Who may act on others.
    pub operators: Accounts,
    /// Static grants.
    pub allows: Vec<Allow>,
    /// Devices or units whose interrupts are accepted although they are not remapped.
    pub unsafe_interrupts: Vec<Pattern>,
    /// Devices that keep access to regions of their firmware.
    pub direct_regions: Vec<Pattern>,
    /// Violations.
    pub journal: JournalSettings,
    /// Address and port of the metrics page, loopback only.
    pub metrics: Option<std::net::SocketAddr>,
    /// What a person should know.
    pub warnings: Vec<String>,
}

impl Configuration {
    /// The device that `name` stands for: an alias's, or the name itself.
    #[must_use]
    pub fn device<'a>(&'a self, name: &'a str) -> &'a str {
        self.aliases.iter().find(|alias| alias.name == name).map_or(name, |alias| &alias.device)
    }

    /// Whether firmware must be there, is ignored, merged or overridden.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.firmware.mode
    }
}
