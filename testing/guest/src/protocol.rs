//! What the guest says to the developer's machine: one line a message, words separated by single spaces, nothing else.
//!
//! ```text
//! portcullis-guest 1 6.12.95+deb12-cloud-amd64     first, once
//! run NAME SECONDS                                  a case starts, and will end within so many seconds
//! detail TEXT                                       of the running case
//! evidence KEY VALUE                                of the running case, for the host to judge after power-off
//! passed NAME | failed NAME                         the case's end
//! done PASSED FAILED                                last, before power-off
//! ```
//!
//! Anything else is an error, and so is a message out of order: the host's [`Ledger`] counts neither as a pass.

use std::fmt;

/// The version that the first line carries.
pub const VERSION: u32 = 1;

/// One message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// The guest is up.
    Hello {
        /// The running kernel's release.
        release: String,
    },
    /// A case starts.
    Run {
        /// Its name.
        name: String,
        /// It ends, or is ended, within this.
        seconds: u64,
    },
    /// A line that the running case printed.
    Detail(String),
    /// A fact for the host to judge.
    Evidence {
        /// What it is.
        key: String,
        /// Its value; may hold spaces.
        value: String,
    },
    /// The running case passed.
    Passed(String),
    /// The running case failed.
    Failed(String),
    /// All cases have run.
    Done {
        /// How many passed.
        passed: u32,
        /// How many failed.
        failed: u32,
    },
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hello { release } => write!(f, "portcullis-guest {VERSION} {release}"),
            Self::Run { name, seconds } => write!(f, "run {name} {seconds}"),
            Self::Detail(text) => write!(f, "detail {text}"),
            Self::Evidence { key, value } => write!(f, "evidence {key} {value}"),
            Self::Passed(name) => write!(f, "passed {name}"),
            Self::Failed(name) => write!(f, "failed {name}"),
            Self::Done { passed, failed } => write!(f, "done {passed} {failed}"),
        }
    }
}

impl Message {
    /// Read one line, without its end; `None` where it is no message.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let (word, rest) = line.split_once(' ')?;
        let name = || (!rest.is_empty() && !rest.contains(' ')).then(|| rest.to_owned());
        match word {
            "portcullis-guest" => {
                let (version, release) = rest.split_once(' ')?;
                (version.parse() == Ok(VERSION)).then(|| Self::Hello { release: release.to_owned() })
            }
            "run" => {
                let (name, seconds) = rest.split_once(' ')?;
                Some(Self::Run { name: name.to_owned(), seconds: seconds.parse().ok()? })
            }
            "detail" => Some(Self::Detail(rest.to_owned())),
            "evidence" => {
                let (key, value) = rest.split_once(' ')?;
                Some(Self::Evidence { key: key.to_owned(), value: value.to_owned() })
            }
            "passed" => name().map(Self::Passed),
            "failed" => name().map(Self::Failed),
            "done" => {
                let (passed, failed) = rest.split_once(' ')?;
                Some(Self::Done { passed: passed.parse().ok()?, failed: failed.parse().ok()? })
            }
            _ => None,
        }
    }
}

/// How one case ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// The case.
    pub name: String,
    /// Whether it passed.
    pub passed: bool,
    /// What it printed.
    pub details: Vec<String>,
}

/// What the guest has said so far, in order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ledger {
    /// The kernel's release, once the guest is up.
    pub release: Option<String>,
    /// The case that runs.
    running: Option<(String, Vec<String>)>,
    /// Cases that have ended.
    pub verdicts: Vec<Verdict>,
    /// Facts for the host, in order.
    pub evidence: Vec<(String, String)>,
    /// Whether the guest has said that it is done.
    pub done: bool,
}

/// A line that the protocol does not allow.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Violation {
    /// It is no message.
    Unreadable(String),
    /// It is a message that may not come now.
    OutOfOrder(Message),
    /// The guest counted otherwise than we did.
    Miscounted {
        /// What it said.
        said: (u32, u32),
        /// What we counted.
        counted: (u32, u32),
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(line) => write!(f, "the guest said what is no message: {line:?}"),
            Self::OutOfOrder(message) => write!(f, "the guest said out of order: {message}"),
            Self::Miscounted { said, counted } => {
                let ((p, q), (x, y)) = (said, counted);
                write!(f, "the guest counted {p} passed and {q} failed, the host saw {x} and {y}")
            }
        }
    }
}

impl std::error::Error for Violation {}

impl Ledger {
    /// Take one line.
    ///
    /// # Errors
    ///
    /// [`Violation`] where the line is no message, or may not come now; the ledger is then as before.
    pub fn take(&mut self, line: &str) -> Result<Message, Violation> {
        let message = Message::parse(line).ok_or_else(|| Violation::Unreadable(line.to_owned()))?;
        let late = self.done || (self.release.is_none() && !matches!(message, Message::Hello { .. }));
        if late {
            return Err(Violation::OutOfOrder(message));
        }
        match (&message, &mut self.running) {
            (Message::Hello { release }, None) if self.release.is_none() => {
                self.release = Some(release.clone());
            }
            (Message::Run { name, .. }, running @ None) => *running = Some((name.clone(), Vec::new())),
            (Message::Detail(text), Some((_, details))) => details.push(text.clone()),
            (Message::Evidence { key, value }, Some(_)) => self.evidence.push((key.clone(), value.clone())),
            (Message::Passed(ended) | Message::Failed(ended), running @ Some(_)) => match running.take() {
                Some((name, details)) if name == *ended => {
                    let passed = matches!(message, Message::Passed(_));
                    self.verdicts.push(Verdict { name, passed, details });
                }
                other => {
                    *running = other;
                    return Err(Violation::OutOfOrder(message));
                }
            },
            (Message::Done { passed, failed }, None) => {
                let counted = self.counted();
                if counted != (*passed, *failed) {
                    return Err(Violation::Miscounted { said: (*passed, *failed), counted });
                }
                self.done = true;
            }
            _ => return Err(Violation::OutOfOrder(message)),
        }
        Ok(message)
    }

    /// The case that runs now.
    #[must_use]
    pub fn running(&self) -> Option<&str> {
        self.running.as_ref().map(|(name, _)| name.as_str())
    }

    /// Passed and failed cases.
    #[must_use]
    pub fn counted(&self) -> (u32, u32) {
        let passed = self.verdicts.iter().filter(|verdict| verdict.passed).count();
        let failed = self.verdicts.len() - passed;
        (u32::try_from(passed).unwrap_or(u32::MAX), u32::try_from(failed).unwrap_or(u32::MAX))
    }

    /// The value of the last evidence under `key`.
    #[must_use]
    pub fn evidence(&self, key: &str) -> Option<&str> {
        self.evidence.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(lines: &[&str]) -> Ledger {
        let mut ledger = Ledger::default();
        for line in lines {
            ledger.take(line).unwrap_or_else(|violation| panic!("{line}: {violation}"));
        }
        ledger
    }

    const HELLO: &str = "portcullis-guest 1 6.12.0";

    #[test]
    fn whole_conversation_is_counted() {
        let ledger = after(&[
            HELLO,
            "run one 60",
            "evidence sum 12 ab",
            "passed one",
            "run two 60",
            "detail it said  this",
            "failed two",
            "done 1 1",
        ]);
        assert_eq!(ledger.counted(), (1, 1));
        assert_eq!(ledger.evidence("sum"), Some("12 ab"));
        assert_eq!(ledger.verdicts[1].details, ["it said  this"]);
        assert!(ledger.done);
    }

    #[test]
    fn every_message_reads_as_it_was_written() {
        for line in [HELLO, "run a 1", "detail x y", "evidence k v w", "passed a", "failed a", "done 3 0"] {
            assert_eq!(Message::parse(line).map(|message| message.to_string()).as_deref(), Some(line));
        }
    }

    #[test]
    fn end_of_another_case_is_no_pass() {
        let mut ledger = after(&[HELLO, "run one 60"]);
        assert!(matches!(ledger.take("passed two"), Err(Violation::OutOfOrder(_))));
        assert_eq!((ledger.running(), ledger.counted()), (Some("one"), (0, 0)));
    }

    #[test]
    fn done_amid_a_case_or_with_other_counts_is_refused() {
        let mut amid = after(&[HELLO, "run one 60"]);
        assert!(matches!(amid.take("done 0 0"), Err(Violation::OutOfOrder(_))));
        let mut miscounted = after(&[HELLO, "run one 60", "failed one"]);
        assert!(matches!(miscounted.take("done 1 0"), Err(Violation::Miscounted { .. })));
        assert!(!miscounted.done);
    }

    #[test]
    fn noise_and_another_version_are_refused() {
        for line in ["", "run", "run one", "hello", "portcullis-guest 2 6.12.0", "done 1", "passed a b"] {
            let mut ledger = Ledger::default();
            assert_eq!(ledger.take(line), Err(Violation::Unreadable(line.to_owned())), "{line:?}");
        }
    }
}
