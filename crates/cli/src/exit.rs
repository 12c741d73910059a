//! How a command ends: its exit code, and the error that it failed with.

use std::{error::Error, process::ExitCode};

/// What `--help` says about exit codes.
pub(crate) const HELP: &str = "\
Exit codes:
  0  done; nothing found
  1  failed
  2  wrong usage
  3  done, and there are findings
  4  the service is not running";

/// How a command ended. The numbers are part of the interface.
#[allow(dead_code, reason = "the codes are one documented set, whichever commands are built in")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exit {
    /// Done, and nothing that needs attention was found.
    Done = 0,
    /// Failed; the reason is on standard error.
    Failed = 1,
    /// The arguments make no sense. The parser of the command line ends with the same code.
    Usage = 2,
    /// Done, and something that needs attention was found.
    Findings = 3,
    /// The service that the command talks to is not running.
    NoService = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command failed, and the code it ends with.
///
/// Any error becomes one with `?` and ends with [`Exit::Failed`].
#[derive(Debug)]
pub(crate) struct Failure {
    /// The code to end with.
    pub(crate) exit: Exit,
    /// What went wrong, with its causes as sources.
    pub(crate) error: Box<dyn Error + Send + Sync>,
}

impl Failure {
    /// An argument that parses but makes no sense.
    pub(crate) fn usage(message: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { exit: Exit::Usage, error: message.into() }
    }

    /// A failure described in words.
    pub(crate) fn new(message: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { exit: Exit::Failed, error: message.into() }
    }
}

impl<E: Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { exit: Exit::Failed, error: Box::new(error) }
    }
}
