//! Where another machine is known to depart from the specification.
//!
//! Each departure has a case on which the machine must show it (so that one that changes is noticed), and says which
//! differences between the specification's outcome and the machine's it explains. Every other difference is one.

use super::bench::{Judged, Outcome};
use super::{Case, Layout, Subject, Word};

/// What is known of a difference.
#[derive(Debug)]
pub struct Evidence<'a, S: Subject> {
    /// The case.
    pub case: &'a Case<S::Shape>,
    /// Its tables, changes made.
    pub words: &'a [Word],
    /// The unit.
    pub unit: &'a S::Unit,
    /// What the specification says.
    pub expected: &'a Outcome<S::Recorded>,
    /// What the machine did, as far as no earlier departure explains it.
    pub observed: &'a Outcome<S::Recorded>,
}

impl<S: Subject> Evidence<'_, S> {
    /// What the first word of this name holds; 0 where there is none.
    #[must_use]
    pub fn word(&self, name: &str) -> u64 {
        self.words.iter().find(|word| word.name == name).map_or(0, |word| word.value)
    }

    /// Whether the machine lets everything pass as the specification says, but for faults.
    #[must_use]
    pub fn same_but_for_faults(&self) -> bool {
        let faults = self.observed.faults.clone();
        Outcome { faults, ..self.expected.clone() } == *self.observed
    }
}

/// One departure.
#[derive(Debug)]
pub struct Departure<S: Subject> {
    /// What the machine does, in one sentence.
    pub what: &'static str,
    /// Section of the specification that says otherwise.
    pub section: &'static str,
    /// What the machine did as the specification would say it, where this departure is only in how it is said; `None` where
    /// this has nothing to do with it.
    pub translate: fn(&Evidence<'_, S>) -> Option<Outcome<S::Recorded>>,
    /// Whether it explains that the outcomes differ.
    pub explains: fn(&Evidence<'_, S>) -> bool,
    /// A case that shows it.
    pub example: fn(Layout) -> Case<S::Shape>,
}

/// For a departure that only translates.
pub const fn never<S: Subject>(_: &Evidence<'_, S>) -> bool {
    false
}

/// For a departure that only explains.
pub fn nothing<S: Subject>(_: &Evidence<'_, S>) -> Option<Outcome<S::Recorded>> {
    None
}

/// The machine's outcome with its faults changed; `None` where nothing changes.
pub fn with_faults<S: Subject>(
    evidence: &Evidence<'_, S>,
    change: impl Fn(S::Recorded) -> S::Recorded,
) -> Option<Outcome<S::Recorded>> {
    let faults: Vec<_> = evidence.observed.faults.iter().map(|fault| change(*fault)).collect();
    (faults != evidence.observed.faults).then(|| Outcome { faults, ..evidence.observed.clone() })
}

/// How a case ended.
#[derive(Debug)]
pub enum Verdict<S: Subject + 'static> {
    /// As the specification says.
    Same,
    /// As a known departure says.
    Departs(&'static Departure<S>),
    /// As nothing says.
    Differs,
}

impl<'a, S: Subject> Evidence<'a, S> {
    /// What is known of a case that was run.
    #[must_use]
    pub fn new(case: &'a Case<S::Shape>, judged: &'a Judged<S>) -> Self {
        let Judged { unit, words, expected, observed } = judged;
        Self { case, words, unit, expected, observed }
    }

    fn seeing<'b>(&'b self, observed: &'b Outcome<S::Recorded>) -> Evidence<'b, S> {
        Evidence { case: self.case, words: self.words, unit: self.unit, expected: self.expected, observed }
    }

    fn translated(&self, departures: &[Departure<S>]) -> Outcome<S::Recorded> {
        let mut outcome = self.observed.clone();
        for departure in departures {
            if let Some(translated) = (departure.translate)(&self.seeing(&outcome)) {
                outcome = translated;
            }
        }
        outcome
    }

    /// How the case ended.
    #[must_use]
    pub fn verdict(&self, departures: &'static [Departure<S>]) -> Verdict<S> {
        if self.expected == self.observed {
            return Verdict::Same;
        }
        let translated = self.translated(departures);
        if translated == *self.expected {
            return Verdict::Same;
        }
        let rest = self.seeing(&translated);
        let found = departures.iter().find(|departure| (departure.explains)(&rest));
        found.map_or(Verdict::Differs, Verdict::Departs)
    }

    /// Whether the case shows this departure.
    #[must_use]
    pub fn shows(&self, departure: &Departure<S>, departures: &[Departure<S>]) -> bool {
        let translated = self.translated(departures);
        (departure.translate)(self).is_some()
            || (translated != *self.expected && (departure.explains)(&self.seeing(&translated)))
    }
}
