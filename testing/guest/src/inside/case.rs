//! What a case is, and what it knows of its machine.

use anyhow::{Context, Result};
use std::fs;

/// One case of a suite.
pub(crate) struct Case {
    /// Its name: words joined by underscores that say what is true.
    pub(crate) name: &'static str,
    /// It is ended after so many seconds.
    pub(crate) seconds: u64,
    /// The machines it runs on, by name.
    pub(crate) on: On,
    /// Does it. A panic or an error is a failure; what it prints is shown then.
    pub(crate) run: fn(&World) -> Result<()>,
}

/// Which machines a case runs on.
#[derive(Clone, Copy)]
pub(crate) enum On {
    /// All of the suite's.
    Every,
    /// Those whose name starts so.
    Only(&'static str),
    /// All but those whose name starts so.
    Except(&'static str),
}

impl On {
    /// Whether a case with this runs on the machine of that name.
    pub(crate) fn includes(self, machine: &str) -> bool {
        match self {
            Self::Every => true,
            Self::Only(start) => machine.starts_with(start),
            Self::Except(start) => !machine.starts_with(start),
        }
    }
}

/// What a case knows of its machine.
pub(crate) struct World {
    /// The suite.
    pub(crate) suite: String,
    /// The machine's name.
    pub(crate) machine: String,
}

/// A line that starts so on standard output becomes evidence for the host.
pub(crate) const EVIDENCE: &str = "evidence ";

impl World {
    /// As the kernel's command line says.
    pub(crate) fn read() -> Result<Self> {
        let line = fs::read_to_string("/proc/cmdline").context("/proc/cmdline")?;
        let value = |key: &str| {
            let found = line.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
            found.map(ToOwned::to_owned).with_context(|| format!("the kernel's command line lacks {key}"))
        };
        Ok(Self { suite: value("portcullis.suite")?, machine: value("portcullis.machine")? })
    }
}
