//! Findings: what is wrong with a host's protection from DMA, what it means, how one knows, and what to do.

mod assignment;
mod external;
mod groups;
mod interrupts;
mod translation;

use serde::Serialize;

use super::report::Report;
use crate::host::Host;

/// How much a finding matters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Worth knowing; nothing needs to change.
    Note,
    /// Weakens protection in a way that may well be wanted.
    Low,
    /// Leaves a device more than it should have.
    Medium,
    /// Devices can reach what they must not.
    High,
}

/// What was found. The words of the JSON form are part of the interface.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingCode {
    /// Firmware describes no unit.
    NoIommu,
    /// Firmware describes units, but the kernel drives none.
    IommuOff,
    /// Devices' addresses pass unchanged.
    PassThrough,
    /// What was unmapped stays reachable for a while.
    LazyInvalidation,
    /// A unit that is there is hidden, or not driven.
    UnitHidden,
    /// No unit guards the device.
    Unguarded,
    /// Firmware's tables are broken.
    BrokenTable,
    /// Firmware asks that protection is kept on, or does not.
    PreBoot,
    /// Interrupts that are not remapped are allowed for assigned devices.
    UnsafeInterrupts,
    /// Interrupts are not remapped.
    InterruptsNotRemapped,
    /// Firmware asks not to use x2APIC.
    X2apicOptOut,
    /// Devices can be handed out with no unit at all.
    NoIommuMode,
    /// The kernel is told to believe in isolation that is not there.
    AcsOverride,
    /// The kernel's groups differ from what the hardware's own words lead to.
    GroupsDiffer,
    /// A group holds devices of different masters.
    MixedGroup,
    /// An assigned device keeps reaching memory that firmware uses.
    ReservedRegion,
    /// A device that a user can plug in is not held back.
    ExternalPort,
    /// Thunderbolt.
    Thunderbolt,
    /// Less memory may be locked than VFIO may have to pin.
    Memlock,
}

/// How one knows.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Evidence {
    /// A file, a table and offset, or a kernel option.
    pub source: String,
    /// What stands there.
    pub text: String,
}

/// One finding.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// What.
    pub code: FindingCode,
    /// How much it matters.
    pub severity: Severity,
    /// In one sentence.
    pub title: String,
    /// What it means.
    pub meaning: String,
    /// How one knows.
    pub evidence: Vec<Evidence>,
    /// What to do.
    pub action: String,
    /// Devices and groups that it is about.
    pub about: Vec<String>,
}

impl Finding {
    fn new(code: FindingCode, severity: Severity, title: impl Into<String>) -> Self {
        Self {
            code,
            severity,
            title: title.into(),
            meaning: String::new(),
            evidence: Vec::new(),
            action: String::new(),
            about: Vec::new(),
        }
    }

    fn meaning(mut self, text: impl Into<String>) -> Self {
        self.meaning = text.into();
        self
    }

    fn evidence(mut self, source: impl Into<String>, text: impl Into<String>) -> Self {
        self.evidence.push(Evidence { source: source.into(), text: text.into() });
        self
    }

    fn action(mut self, text: impl Into<String>) -> Self {
        self.action = text.into();
        self
    }

    fn about(mut self, names: impl IntoIterator<Item = String>) -> Self {
        self.about.extend(names);
        self
    }

    /// The kernel's options with these names, as evidence.
    fn options(mut self, host: &Host, names: &[&str]) -> Self {
        for option in &host.kernel.options {
            let name = option.split_once('=').map_or(option.as_str(), |(name, _)| name);
            if names.contains(&name) {
                self.evidence.push(Evidence { source: "/proc/cmdline".to_owned(), text: option.clone() });
            }
        }
        self
    }
}

/// All findings, the gravest first, and all notes.
pub(super) fn all(host: &Host, report: &Report) -> (Vec<Finding>, Vec<Finding>) {
    let mut findings = Vec::new();
    translation::find(host, report, &mut findings);
    interrupts::find(host, report, &mut findings);
    groups::find(host, report, &mut findings);
    assignment::find(host, report, &mut findings);
    external::find(host, report, &mut findings);
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings.into_iter().partition(|finding| finding.severity > Severity::Note)
}

/// `3 groups`, `1 group`.
fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}
