//! Contradictions: what each part of a configuration may say, and all of them together may not.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use portcullis_spec::Access;

use super::{Accounts, BackendChoice, Client, Configuration, Place, Problem, ServicePlaces};
use crate::embedded::ARCHITECTURES;

/// The smallest page: ranges are rounded outward to it.
const PAGE: u64 = 4096;

/// How much of a configuration could be read: of a part, nothing can be said to be missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Known {
    Whole,
    InPart,
}

impl Configuration {
    /// Every contradiction.
    ///
    /// # Errors
    /// What they are. None of it may be put in force.
    pub fn check(&self) -> Result<(), Vec<Problem>> {
        let problems = self.contradictions(Known::Whole);
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// Every contradiction in what is known.
    pub(super) fn contradictions(&self, known: Known) -> Vec<Problem> {
        let mut problems = Vec::new();
        self.check_names(&mut problems);
        for client in &self.clients {
            check_client(client, known, &mut problems);
        }
        self.check_allows(&mut problems);
        self.check_claims(&mut problems);
        self.check_unity(&mut problems);
        self.check_back_end(known, &mut problems);
        if known == Known::Whole {
            self.check_topology(&mut problems);
        }
        problems
    }

    fn check_names(&self, problems: &mut Vec<Problem>) {
        let mut clients: BTreeMap<&str, &Place> = BTreeMap::new();
        for client in &self.clients {
            if let Some(first) = clients.insert(&client.name, &client.place) {
                let message =
                    format!("client `{}` is there twice, first in line {}", client.name, first.line);
                problems.push(client.place.problem(message, "give one of them another name".to_owned()));
            }
        }
        let mut aliases: BTreeMap<&str, (&str, &Place)> = BTreeMap::new();
        for alias in &self.aliases {
            if let Some((device, first)) = aliases.insert(&alias.name, (&alias.device, &alias.place))
                && device != alias.device
            {
                let message =
                    format!("`{}` is {device} in line {} and {} here", alias.name, first.line, alias.device);
                problems.push(alias.place.problem(message, "a name stands for one device".to_owned()));
            }
        }
    }

    fn check_allows(&self, problems: &mut Vec<Problem>) {
        for (index, allow) in self.allows.iter().enumerate() {
            let device = self.device(&allow.device);
            let last = allow.first.saturating_add(allow.length - 1);
            for region in &self.firmware.reserved {
                let range = region.range.value;
                if range.first <= last && allow.first <= range.last {
                    let message = format!("{:#x} to {last:#x} is reserved in part", allow.first);
                    problems.push(
                        allow
                            .place
                            .problem(message, "allow what lies outside of the reserved range".to_owned()),
                    );
                }
            }
            for earlier in &self.allows[..index] {
                let earlier_last = earlier.first.saturating_add(earlier.length - 1);
                let same = self.device(&earlier.device) == device;
                let overlap =
                    earlier.first / PAGE <= last / PAGE && allow.first / PAGE <= earlier_last / PAGE;
                if same && overlap && earlier.access != allow.access {
                    let message = format!(
                        "`{}` may {} here, and {} in line {}, in the same page",
                        allow.device,
                        rights(allow.access),
                        rights(earlier.access),
                        earlier.place.line
                    );
                    let help = "say once what it may do there; grants are whole pages".to_owned();
                    problems.push(allow.place.problem(message, help));
                }
            }
        }
    }

    /// A device with a static grant belongs to no client; one that two clients may claim goes to whoever comes first, which is
    /// no contradiction.
    fn check_claims(&self, problems: &mut Vec<Problem>) {
        for allow in &self.allows {
            let device = self.device(&allow.device);
            for client in &self.clients {
                let named = client
                    .devices
                    .iter()
                    .any(|pattern| pattern.is_literal() && self.device(pattern.as_str()) == device);
                if named {
                    let message = format!(
                        "`{}` has a static grant, and client `{}` (line {}) may claim it",
                        allow.device, client.name, client.place.line
                    );
                    let help = "a device is either allowed memory here, or claimed by a client: remove one"
                        .to_owned();
                    problems.push(allow.place.problem(message, help));
                }
            }
        }
    }

    fn check_unity(&self, problems: &mut Vec<Problem>) {
        for (index, client) in self.clients.iter().enumerate() {
            for other in &self.clients[..index] {
                let shared =
                    client.unity.iter().find(|mine| other.unity.iter().any(|its| overlap(mine, its)));
                if let Some(range) = shared {
                    let message = format!(
                        "{:#x} to {:#x} belongs in part to client `{}` too",
                        range.start(),
                        range.end(),
                        other.name
                    );
                    let help = "memory that a guest is mapped to itself in is that guest's alone".to_owned();
                    problems.push(client.place.problem(message, help));
                }
            }
        }
    }

    fn check_back_end(&self, known: Known, problems: &mut Vec<Problem>) {
        let ServicePlaces { backend, iommu, upstream } = &self.places;
        let mut contradiction = |place: &Option<Place>, message: &str, help: &str| {
            let start = || Place { line: 1, column: 1, ..Place::default() };
            problems.push(place.clone().unwrap_or_else(start).problem(message, help.to_owned()));
        };
        if self.backend == BackendChoice::Upstream && self.upstream.is_none() && known == Known::Whole {
            contradiction(
                backend,
                "back end `upstream` without the socket of the manager above",
                "set service.upstream to its path",
            );
        }
        let chosen = known == Known::Whole || backend.is_some();
        if self.backend != BackendChoice::Upstream && self.upstream.is_some() && chosen {
            contradiction(
                upstream,
                "service.upstream is set, and the back end is another",
                "set service.backend = \"upstream\", or remove the socket",
            );
        }
        if let Some(named) = self.iommu.as_deref().filter(|named| !ARCHITECTURES.contains(named)) {
            let help = format!("use one of: {}", ARCHITECTURES.join(", "));
            contradiction(iommu, &format!("service.iommu: nothing simulates `{named}`"), &help);
        }
        if self.iommu.is_some() && matches!(self.backend, BackendChoice::Vfio | BackendChoice::Upstream) {
            contradiction(
                iommu,
                "service.iommu chooses what the embedded platform simulates, and the back end is another",
                "remove it, or set service.backend = \"embedded\"",
            );
        }
    }

    /// Where firmware is ignored, all that is said of the machine stands here, and must make sense by itself.
    fn check_topology(&self, problems: &mut Vec<Problem>) {
        if let Err(error) = super::topology::check(self) {
            let text = error.to_string();
            // Its place stands before what is wrong.
            let mut parts = text.splitn(4, ':');
            let (file, line, column) = (parts.next(), parts.next(), parts.next());
            let number = |text: Option<&str>| text.and_then(|text| text.trim().parse().ok()).unwrap_or(1);
            let place = Place {
                file: file.unwrap_or_default().to_owned(),
                line: number(line),
                column: number(column),
                span: 0..0,
            };
            let message = parts.next().unwrap_or(&text).trim().to_owned();
            problems.push(place.problem(message, "firmware is ignored: say it here".to_owned()));
        }
    }

    /// What a person should know although it is no contradiction: shown at start, and in `status`.
    #[must_use]
    pub fn remarks(&self) -> Vec<String> {
        let mut remarks = self.warnings.clone();
        for client in self.clients.iter().filter(|client| !client.unity.is_empty()) {
            remarks.push(format!(
                "client `{}` is mapped to itself: its devices reach {} of physical memory without asking",
                client.name,
                client.unity.iter().map(range).collect::<Vec<_>>().join(", ")
            ));
        }
        for pattern in &self.unsafe_interrupts {
            remarks.push(format!(
                "`{}` is accepted although its interrupts are not remapped: whoever has it can send any interrupt to the host",
                pattern.as_str()
            ));
        }
        for pattern in &self.direct_regions {
            remarks.push(format!(
                "`{}` keeps access to memory of its firmware, whoever has it",
                pattern.as_str()
            ));
        }
        remarks
    }
}

fn check_client(client: &Client, known: Known, problems: &mut Vec<Problem>) {
    let Accounts { users, groups, .. } = &client.who;
    if users.is_empty() && groups.is_empty() && known == Known::Whole {
        let message = format!("nobody may be client `{}`", client.name);
        problems.push(client.place.problem(message, "name users or groups".to_owned()));
    }
    if client.name.is_empty() {
        let message = "a client without a name".to_owned();
        problems.push(client.place.problem(message, "records name it: give it one".to_owned()));
    }
    if let Some(windows) = &client.windows
        && known == Known::Whole
    {
        let outside = client.unity.iter().find(|unity| {
            !windows.iter().any(|window| window.start() <= unity.start() && unity.end() <= window.end())
        });
        if let Some(unity) = outside {
            let message = format!(
                "client `{}` is mapped to itself at {}, outside of its windows",
                client.name,
                range(unity)
            );
            problems.push(
                client.place.problem(message, "widen the windows, or narrow the unity range".to_owned()),
            );
        }
    }
    let unaligned = client.unity.iter().find(|unity| {
        !unity.start().is_multiple_of(PAGE) || !unity.end().wrapping_add(1).is_multiple_of(PAGE)
    });
    if let Some(unity) = unaligned {
        let message = format!(
            "client `{}` is mapped to itself at {}, which is not whole pages",
            client.name,
            range(unity)
        );
        problems.push(client.place.problem(message, "use multiples of 4096".to_owned()));
    }
}

fn overlap(one: &RangeInclusive<u64>, other: &RangeInclusive<u64>) -> bool {
    one.start() <= other.end() && other.start() <= one.end()
}

fn range(range: &RangeInclusive<u64>) -> String {
    format!("{:#x}-{:#x}", range.start(), range.end())
}

fn rights(access: Access) -> &'static str {
    match (access.contains(Access::READ), access.contains(Access::WRITE)) {
        (true, true) => "read and write",
        (true, false) => "only read",
        (false, true) => "only write",
        (false, false) => "do nothing",
    }
}
