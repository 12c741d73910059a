//! The configuration as TOML.

use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};
use std::time::Duration;

use portcullis_firmware::user::{Mode, toml as firmware};
use portcullis_spec::Access;
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use super::check::Known;
use super::number::number;
use super::tolerant::{self, NumberOrText};
use super::{
    Account, Accounts, Alias, Allow, BackendChoice, Client, Configuration, JournalSettings, Place, Problem,
    ServicePlaces,
};
use crate::core::{Limits, Pattern};

/// A number, or a string that spells one with a unit.
#[derive(Clone, Debug)]
enum Number {
    Plain(u64),
    Text(String),
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expected = "a number of bytes, or one in quotes such as \"64M\"";
        deserializer.deserialize_any(NumberOrText { expected, number: Number::Plain, text: Number::Text })
    }
}

/// A name or a number.
#[derive(Clone, Debug)]
enum AccountWord {
    Number(u32),
    Name(String),
}

impl<'de> Deserialize<'de> for AccountWord {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expected = "a name in quotes, or a number";
        deserializer.deserialize_any(NumberOrText { expected, number: Self::Number, text: Self::Name })
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    #[serde(default)]
    service: ServiceTable,
    #[serde(default)]
    journal: JournalTable,
    #[serde(default)]
    metrics: MetricsTable,
    #[serde(default)]
    firmware: FirmwareTable,
    #[serde(default)]
    accept: AcceptTable,
    #[serde(default)]
    operators: AccountsTable,
    #[serde(default)]
    alias: Vec<Spanned<AliasTable>>,
    #[serde(default)]
    client: Vec<Spanned<ClientTable>>,
    #[serde(default)]
    allow: Vec<Spanned<AllowTable>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct ServiceTable {
    socket: Option<PathBuf>,
    socket_mode: Option<Spanned<String>>,
    connections: Option<usize>,
    resume_within: Option<Spanned<u64>>,
    backend: Option<Spanned<BackendWord>>,
    iommu: Option<Spanned<String>>,
    upstream: Option<Spanned<PathBuf>>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum BackendWord {
    Auto,
    Vfio,
    Embedded,
    Upstream,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct JournalTable {
    records: Option<usize>,
    directory: Option<PathBuf>,
    size: Option<Spanned<Number>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct MetricsTable {
    listen: Option<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct FirmwareTable {
    mode: Option<ModeWord>,
    topology: Option<Spanned<PathBuf>>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ModeWord {
    Require,
    Ignore,
    Merge,
    Override,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct AcceptTable {
    #[serde(default)]
    unsafe_interrupts: Vec<String>,
    #[serde(default)]
    direct_regions: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct AccountsTable {
    #[serde(default)]
    users: Vec<Spanned<AccountWord>>,
    #[serde(default)]
    groups: Vec<Spanned<AccountWord>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct AliasTable {
    name: String,
    device: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct ClientTable {
    name: Spanned<String>,
    #[serde(default)]
    users: Vec<Spanned<AccountWord>>,
    #[serde(default)]
    groups: Vec<Spanned<AccountWord>>,
    #[serde(default)]
    devices: Vec<String>,
    windows: Option<Vec<Spanned<String>>>,
    #[serde(default)]
    unity: Vec<Spanned<String>>,
    #[serde(default)]
    physical: Vec<Spanned<String>>,
    #[serde(default)]
    limits: LimitsTable,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct LimitsTable {
    bytes: Option<Spanned<Number>>,
    mappings: Option<u64>,
    spaces: Option<u64>,
    memories: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct AllowTable {
    device: String,
    range: Spanned<String>,
    access: Option<Spanned<String>>,
}

/// Reads a configuration. `read` gives the text of a file that it names, relative to its own folder.
///
/// # Errors
/// Every problem that was found.
pub fn from_toml(
    file: &str,
    text: &str,
    read: impl Fn(&Path) -> std::io::Result<String>,
) -> Result<Configuration, Vec<Problem>> {
    let (parsed, errors) = tolerant::read::<File>(text);
    let problem = |error: toml::de::Error| {
        let place = Place::of(file, text, error.span().unwrap_or(0..0));
        place.problem(error.message().trim_end(), hint(error.message()))
    };
    let mut reader = Reader { file, text, problems: errors.into_iter().map(problem).collect() };
    let configuration = parsed.map(|parsed| reader.configuration(parsed, read)).unwrap_or_default();
    let mut problems = reader.problems;
    if problems.is_empty() {
        return Ok(configuration);
    }
    // What could be read contradicts itself all the same.
    problems.extend(configuration.contradictions(Known::InPart));
    problems.sort_by_key(|problem| (problem.file != file, problem.line, problem.column));
    Err(problems)
}

/// What would mend a problem that the TOML reader found.
fn hint(message: &str) -> String {
    let help = if message.starts_with("unknown field") {
        "remove it, or use one of those that are listed; docs/operators.md shows them all"
    } else if message.starts_with("missing field") {
        "add it: this table means nothing without"
    } else if message.starts_with("unknown variant") {
        "use one of the words that are listed"
    } else if message.starts_with("duplicate key") {
        "keep one of the two"
    } else if message.starts_with("invalid") {
        "write what is expected; docs/operators.md shows an example of every key"
    } else {
        "mend the TOML: KEY = VALUE on a line of its own, text in quotes, tables in [brackets]"
    };
    help.to_owned()
}

struct Reader<'a> {
    file: &'a str,
    text: &'a str,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn place(&self, span: Range<usize>) -> Place {
        Place::of(self.file, self.text, span)
    }

    fn problem(&mut self, span: Range<usize>, message: impl Into<String>, help: &str) {
        let problem = self.place(span).problem(message, help.to_owned());
        self.problems.push(problem);
    }

    fn configuration(
        &mut self,
        file: File,
        read: impl Fn(&Path) -> std::io::Result<String>,
    ) -> Configuration {
        let service = file.service;
        let mut configuration = Configuration {
            socket: service.socket,
            connections: service.connections,
            places: ServicePlaces {
                backend: service.backend.as_ref().map(|word| self.place(word.span())),
                iommu: service.iommu.as_ref().map(|word| self.place(word.span())),
                upstream: service.upstream.as_ref().map(|word| self.place(word.span())),
            },
            iommu: service.iommu.map(Spanned::into_inner),
            upstream: service.upstream.map(Spanned::into_inner),
            backend: match service.backend.map(Spanned::into_inner) {
                None | Some(BackendWord::Auto) => BackendChoice::Auto,
                Some(BackendWord::Vfio) => BackendChoice::Vfio,
                Some(BackendWord::Embedded) => BackendChoice::Embedded,
                Some(BackendWord::Upstream) => BackendChoice::Upstream,
            },
            operators: self.accounts(file.operators.users, file.operators.groups),
            unsafe_interrupts: file.accept.unsafe_interrupts.into_iter().map(Pattern::new).collect(),
            direct_regions: file.accept.direct_regions.into_iter().map(Pattern::new).collect(),
            ..Configuration::default()
        };
        if let Some(within) = service.resume_within {
            configuration.resume_within = self.resume_within(&within);
        }
        if let Some(mode) = service.socket_mode {
            configuration.socket_mode = self.socket_mode(&mode);
        }
        let defaults = JournalSettings::default();
        configuration.journal = JournalSettings {
            records: file.journal.records.unwrap_or(defaults.records),
            directory: file.journal.directory,
            size: file.journal.size.map_or(defaults.size, |size| self.number(&size)),
        };
        if let Some(listen) = file.metrics.listen {
            configuration.metrics = self.listen(&listen);
        }
        self.firmware(file.firmware, read, &mut configuration);
        for alias in file.alias {
            let place = self.place(alias.span());
            let AliasTable { name, device } = alias.into_inner();
            configuration.aliases.push(Alias { name, device, place });
        }
        for client in file.client {
            let client = self.client(client);
            configuration.clients.push(client);
        }
        for allow in file.allow {
            let allow = self.allow(allow);
            configuration.allows.extend(allow);
        }
        configuration
    }

    fn firmware(
        &mut self,
        table: FirmwareTable,
        read: impl Fn(&Path) -> std::io::Result<String>,
        configuration: &mut Configuration,
    ) {
        if let Some(topology) = table.topology {
            let name = topology.get_ref().display().to_string();
            match read(topology.get_ref()) {
                Err(error) => self.problem(
                    topology.span(),
                    format!("{name} cannot be read: {error}"),
                    "the path counts from the folder of this file",
                ),
                Ok(text) => match firmware::read(&name, &text) {
                    Ok(input) => configuration.firmware = input,
                    Err(error) => self.problems.push(Problem {
                        file: error.file.to_string(),
                        line: error.line as usize,
                        column: error.column as usize,
                        span: error.span,
                        message: error.problem,
                        help: None,
                    }),
                },
            }
        }
        if let Some(mode) = table.mode {
            configuration.firmware.mode = match mode {
                ModeWord::Require => Mode::Require,
                ModeWord::Ignore => Mode::Ignore,
                ModeWord::Merge => Mode::Merge,
                ModeWord::Override => Mode::Override,
            };
        }
    }

    fn client(&mut self, client: Spanned<ClientTable>) -> Client {
        let table = client.into_inner();
        let limits = Limits::default();
        let mut ranges = |texts: Vec<Spanned<String>>| -> Vec<RangeInclusive<u64>> {
            texts.into_iter().filter_map(|text| self.range(&text)).collect()
        };
        let windows = table.windows.map(&mut ranges);
        let unity = ranges(table.unity);
        let physical = ranges(table.physical);
        Client {
            place: self.place(table.name.span()),
            name: table.name.into_inner(),
            who: self.accounts(table.users, table.groups),
            devices: table.devices.into_iter().map(Pattern::new).collect(),
            windows,
            unity,
            physical,
            limits: Limits {
                bytes: table.limits.bytes.map_or(limits.bytes, |bytes| self.number(&bytes)),
                mappings: table.limits.mappings.unwrap_or(limits.mappings),
                spaces: table.limits.spaces.unwrap_or(limits.spaces),
                memories: table.limits.memories.unwrap_or(limits.memories),
            },
        }
    }

    fn allow(&mut self, allow: Spanned<AllowTable>) -> Option<Allow> {
        let place = self.place(allow.span());
        let table = allow.into_inner();
        let range = self.range(&table.range);
        let access = match table.access {
            None => Access::READ_WRITE,
            Some(word) => self.access(&word)?,
        };
        let range = range?;
        let length = (range.end() - range.start()).checked_add(1);
        let Some(length) = length else {
            self.problem(
                table.range.span(),
                "all 64 bits of addresses are too many",
                "name the part that is meant",
            );
            return None;
        };
        Some(Allow { device: table.device, first: *range.start(), length, access, place })
    }

    fn accounts(&self, users: Vec<Spanned<AccountWord>>, groups: Vec<Spanned<AccountWord>>) -> Accounts {
        let mut places = Vec::new();
        let mut account = |word: Spanned<AccountWord>| {
            let span = word.span();
            match word.into_inner() {
                AccountWord::Number(number) => Account::Number(number),
                AccountWord::Name(name) => {
                    places.push((name.clone(), self.place(span)));
                    Account::Name(name)
                }
            }
        };
        let users = users.into_iter().map(&mut account).collect();
        let groups = groups.into_iter().map(&mut account).collect();
        Accounts { users, groups, places }
    }

    fn access(&mut self, word: &Spanned<String>) -> Option<Access> {
        let mut access = Access::empty();
        for letter in word.get_ref().chars() {
            match letter {
                'r' => access |= Access::READ,
                'w' => access |= Access::WRITE,
                'x' => access |= Access::EXECUTE,
                _ => {
                    self.problem(
                        word.span(),
                        format!("`{letter}` is no right"),
                        "use r for read, w for write and x for execute, such as \"rw\"",
                    );
                    return None;
                }
            }
        }
        if access.is_empty() {
            self.problem(word.span(), "no right at all", "leave the whole table out instead");
            return None;
        }
        Some(access)
    }

    /// `FIRST-LAST`, or `FIRST,LENGTH`.
    fn range(&mut self, text: &Spanned<String>) -> Option<RangeInclusive<u64>> {
        const FORM: &str = "write FIRST-LAST or FIRST,LENGTH, such as \"0x80000000,256M\"";
        let value = text.get_ref();
        let spell = |part: &str| number(part, 10).map_err(|error| error.to_string());
        let range = match (value.split_once('-'), value.split_once(',')) {
            (Some((first, last)), None) => {
                spell(first).and_then(|first| spell(last).map(|last| (first, last)))
            }
            (None, Some((first, length))) => spell(first).and_then(|first| {
                let length = spell(length)?;
                let last = length.checked_sub(1).and_then(|rest| first.checked_add(rest));
                last.map(|last| (first, last)).ok_or_else(|| "the range is empty, or wraps around".to_owned())
            }),
            _ => Err(format!("`{value}` is not a range")),
        };
        match range {
            Ok((first, last)) if first <= last => Some(first..=last),
            Ok(_) => {
                self.problem(text.span(), "the range ends before it begins", FORM);
                None
            }
            Err(message) => {
                self.problem(text.span(), message, FORM);
                None
            }
        }
    }

    fn number(&mut self, value: &Spanned<Number>) -> u64 {
        match value.get_ref() {
            Number::Plain(value) => *value,
            Number::Text(text) => match number(text, 10) {
                Ok(value) => value,
                Err(error) => {
                    let message = error.to_string();
                    self.problem(value.span(), message, "write bytes, or a number with K, M, G or T");
                    0
                }
            },
        }
    }

    fn socket_mode(&mut self, mode: &Spanned<String>) -> Option<u32> {
        match u32::from_str_radix(mode.get_ref(), 8) {
            Ok(bits) if bits <= 0o777 => Some(bits),
            _ => {
                let message = format!("`{}` is not a file mode", mode.get_ref());
                self.problem(mode.span(), message, "write three octal digits, such as \"0660\"");
                None
            }
        }
    }

    /// While it is waited, a client's devices can be had by nobody else: a day is more than any restart takes.
    fn resume_within(&mut self, within: &Spanned<u64>) -> Option<Duration> {
        let seconds = *within.get_ref();
        if (1..=86_400).contains(&seconds) {
            return Some(Duration::from_secs(seconds));
        }
        let message = format!("a client cannot come back within {seconds} seconds");
        self.problem(within.span(), message, "write seconds, from 1 to 86400 (a day)");
        None
    }

    fn listen(&mut self, listen: &Spanned<String>) -> Option<std::net::SocketAddr> {
        match listen.get_ref().parse::<std::net::SocketAddr>() {
            Ok(address) if address.ip().is_loopback() => Some(address),
            Ok(address) => {
                let message = format!("{address} can be reached from elsewhere");
                let help = "metrics are served on loopback only: use 127.0.0.1 or [::1], and a proxy that authenticates";
                self.problem(listen.span(), message, help);
                None
            }
            Err(_) => {
                let message = format!("`{}` is not an address and port", listen.get_ref());
                self.problem(listen.span(), message, "write such as \"127.0.0.1:9475\"");
                None
            }
        }
    }
}
