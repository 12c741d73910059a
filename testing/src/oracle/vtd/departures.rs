//! Where QEMU 10.0.2's `intel-iommu` departs from the specification.
//!
//! Each departure has a case on which QEMU must show it (so that a QEMU that changes is noticed), and says which
//! differences between the specification's outcome and QEMU's it explains. Every other difference is one.

use super::judge::{Outcome, Recorded};
use super::tables::{Case, Change, Kind, Shape, Tables};
use crate::oracle::lockstep::Tolerance;
use crate::oracle::shadow::Why;
use crate::reference::vtd::Unit;
use portcullis_spec::{ConfigTable, FaultReason};

/// What is known of a difference.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// The case.
    pub case: &'a Case,
    /// Its tables, changes made.
    pub tables: &'a Tables,
    /// The unit.
    pub unit: &'a Unit,
    /// What the specification says.
    pub expected: &'a Outcome,
    /// What QEMU did, as far as no earlier departure explains it.
    pub observed: &'a Outcome,
}

impl Evidence<'_> {
    fn word(&self, name: &str) -> u64 {
        self.tables.words.iter().find(|word| word.name == name).map_or(0, |word| word.value)
    }
    fn expected_code(&self) -> u8 {
        self.expected.fault.map_or(0, |fault| fault.code)
    }
    fn observed_code(&self) -> u8 {
        self.observed.fault.map_or(0, |fault| fault.code)
    }
    /// Whether the specification refuses without a record, because of an FPD bit.
    fn is_hidden(&self) -> bool {
        self.expected.fault.is_none() && self.expected.token == 0 && self.expected.data.is_empty()
    }
    fn is_pass_through(&self) -> bool {
        if self.is_scalable() {
            self.word("PASID table entry, word 0") >> 6 & 7 == 4
        } else {
            self.word("context entry, low") >> 2 & 3 == 2
        }
    }
    const fn is_scalable(&self) -> bool {
        self.case.shape.kind.is_scalable()
    }
}

/// One departure.
#[derive(Clone, Copy, Debug)]
pub struct Departure {
    /// What QEMU does, in one sentence.
    pub what: &'static str,
    /// Section of the specification that says otherwise.
    pub section: &'static str,
    /// What QEMU did as the specification would say it, where this departure is only in how it is said; `None` where
    /// this has nothing to do with it.
    pub translate: fn(&Evidence<'_>) -> Option<Outcome>,
    /// Whether it explains that the outcomes differ.
    pub explains: fn(&Evidence<'_>) -> bool,
    /// A case that shows it.
    pub example: fn() -> Case,
}

const fn never(_: &Evidence<'_>) -> bool {
    false
}

fn nothing(_: &Evidence<'_>) -> Option<Outcome> {
    None
}

fn with_fault(evidence: &Evidence<'_>, change: impl FnOnce(Recorded) -> Recorded) -> Option<Outcome> {
    let fault = evidence.observed.fault?;
    let changed = change(fault);
    (changed != fault).then(|| Outcome { fault: Some(changed), ..evidence.observed.clone() })
}

/// A mapping of 4 KiB pages at 1 GiB.
fn shape(kind: Kind) -> Shape {
    Shape {
        kind,
        first_levels: 4,
        second_levels: 3,
        leaf: 0,
        flags: false,
        snoop: true,
        requester_id: 0xa8,
        pasid: None,
        address: 0x4000_0000,
    }
}

const DATA: u64 = 0x20_0000;

/// A case in which the words named are changed; it reads at the mapping's start and writes in its second page.
fn changed(kind: Kind, changes: &[(&str, u64)]) -> Case {
    let shape = shape(kind);
    let layout = super::tables::Layout { tables: 0x80_0000, data: DATA };
    let words = shape.tables(layout).words;
    let index = |name: &str| words.iter().position(|word| word.name == name).unwrap_or(usize::MAX);
    let changes = changes.iter().map(|(name, flip)| Change { word: index(name), flip: *flip }).collect();
    let start = match kind {
        Kind::LegacyPassThrough | Kind::PassThrough => DATA,
        _ => shape.address,
    };
    Case { shape, changes, read: start, write: start + 0x1008, privileged: false }
}

/// The first-stage faults that a walk finds in the entries themselves.
const fn is_first_stage_walk(code: u8) -> bool {
    matches!(code, 0x70..=0x73 | 0x81 | 0x85)
}

/// Every departure. Those that only translate come first.
pub const DEPARTURES: &[Departure] = &[
    Departure {
        what: "reports root and context entry faults with legacy mode's reasons in scalable mode",
        section: "7.1.3 (SRT, SCT)",
        translate: |evidence| {
            let scalable = evidence.is_scalable();
            with_fault(evidence, |fault| {
                let code = match fault.code {
                    0x8 => 0x38,
                    0x1 => 0x39,
                    0xa => 0x3a,
                    0x9 => 0x40,
                    0x2 => 0x41,
                    0xb => 0x42,
                    other => other,
                };
                Recorded { code: if scalable { code } else { fault.code }, ..fault }
            })
        },
        explains: never,
        example: || changed(Kind::First, &[("scalable-mode root entry half", 1)]),
    },
    Departure {
        what: "records RID_PASID as the PASID of a request that carries none",
        section: "11.4.14 (PP, PV)",
        translate: |evidence| {
            let none = evidence.is_scalable() && evidence.case.shape.pasid.is_none();
            with_fault(evidence, |fault| Recorded { pasid: if none { None } else { fault.pasid }, ..fault })
        },
        explains: never,
        example: || changed(Kind::First, &[("first-stage PDE", 1)]),
    },
    Departure {
        what: "sets neither Accessed nor Dirty in a first-stage entry where one of them is set, nor any on a write through a cached translation",
        section: "3.6.2",
        translate: |evidence| {
            const A_D: u64 = 1 << 5 | 1 << 6;
            let mut tables = evidence.observed.tables.clone();
            for (at, expected) in &evidence.expected.tables {
                let before = evidence.tables.value(*at);
                let after = tables.get(at).copied().unwrap_or(before);
                if after & A_D != 0 && after | A_D == *expected {
                    tables.insert(*at, *expected);
                }
            }
            (tables != evidence.observed.tables).then(|| Outcome { tables, ..evidence.observed.clone() })
        },
        explains: never,
        example: || changed(Kind::First, &[("first-stage PTE", 1 << 5)]).with_write_to_the_page_read(),
    },
    Departure {
        what: "records no fault for an access through a cached translation that lacks the right",
        section: "4.2.4, 7.1.3 (LGN.2, SGN.6)",
        translate: nothing,
        explains: |evidence| {
            let write =
                matches!(evidence.expected.fault, Some(Recorded { code: 0x5 | 0x85, is_write: true, .. }));
            let rest = Outcome { fault: None, ..evidence.expected.clone() };
            write && evidence.expected.token != 0 && rest == *evidence.observed
        },
        example: || changed(Kind::Legacy, &[("second-stage PTE", 2)]).with_write_to_the_page_read(),
    },
    Departure {
        what: "refuses at the first entry that lacks the right, before its reserved bits and what it leads to are looked at",
        section: "3.6, 3.7",
        translate: nothing,
        explains: |evidence| match evidence.observed_code() {
            0x5 | 0x6 => matches!(evidence.expected_code(), 0x7 | 0xc),
            0x81 | 0x85 => is_first_stage_walk(evidence.expected_code()),
            _ => false,
        },
        example: || changed(Kind::Legacy, &[("second-stage PDE", 1 << 0 | 1 << 11)]),
    },
    Departure {
        what: "passes any address through, however wide",
        section: "3.4.2 (AW), 3.9, 7.1.3 (LGN.1, SGN.4)",
        translate: nothing,
        explains: |evidence| {
            let rest = Outcome { fault: None, ..evidence.expected.clone() };
            matches!(evidence.expected_code(), 0x4 | 0x83)
                && evidence.is_pass_through()
                && rest == *evidence.observed
        },
        example: || {
            let case = changed(Kind::LegacyPassThrough, &[]);
            Case { write: case.write | 1 << 60, ..case }
        },
    },
    Departure {
        what: "records reserved bits of a context entry in spite of its FPD",
        section: "7.1.3 (LCT.3, SCT.3: qualified)",
        translate: nothing,
        explains: |evidence| {
            let names = ["context entry, low", "scalable-mode context entry, word 0"];
            evidence.expected.fault.is_none()
                && matches!(evidence.observed_code(), 0xb | 0x42)
                && names.iter().any(|name| evidence.word(name) & 2 != 0)
        },
        example: || changed(Kind::Legacy, &[("context entry, low", 2 | 1 << 4)]),
    },
    Departure {
        what: "records what it finds wrong in PASID directory and PASID table entries in spite of their FPD",
        section: "7.1.3 (SPD, SPT: qualified)",
        translate: nothing,
        explains: |evidence| evidence.is_hidden() && matches!(evidence.observed_code(), 0x50..=0x5f),
        example: || changed(Kind::First, &[("PASID directory entry", 3)]),
    },
    Departure {
        what: "does not look at the reserved bits of PASID directory and PASID table entries",
        section: "7.1.3 (SPD.3, SPT.3)",
        translate: nothing,
        explains: |evidence| {
            matches!(evidence.expected_code(), 0x52 | 0x5a)
                || (evidence.is_hidden() && evidence.is_scalable())
        },
        example: || changed(Kind::First, &[("PASID table entry, word 3", 1)]),
    },
    Departure {
        what: "looks at a PASID table entry's translation type before its present bit",
        section: "7.1.3 (SPT.2, SPT.4)",
        translate: nothing,
        explains: |evidence| evidence.expected_code() == 0x59 && evidence.observed_code() == 0x5b,
        example: || changed(Kind::First, &[("PASID table entry, word 0", 1 | 1 << 8)]),
    },
    Departure {
        what: "lets scalable-mode context entries use fields of features that it does not report",
        section: "9.4 (DTE, PASIDE, PRE, RID_PASID, RID_PRIV)",
        translate: nothing,
        explains: |evidence| {
            let word0 = evidence.word("scalable-mode context entry, word 0");
            let word1 = evidence.word("scalable-mode context entry, word 1");
            let fixed = word0 & (0x1e0 | u64::MAX << evidence.unit.haw) == 0 && word1 >> 21 == 0;
            let used = word0 & 0x1c != 0 || word1 & 0x1f_ffff != 0;
            let rest = evidence.word("scalable-mode context entry, word 2")
                | evidence.word("scalable-mode context entry, word 3");
            (evidence.expected_code() == 0x42 || evidence.is_hidden()) && fixed && used && rest == 0
        },
        example: || changed(Kind::First, &[("scalable-mode context entry, word 0", 1 << 4)]),
    },
    Departure {
        what: "sets flags in first-stage tables although its page walks don't snoop",
        section: "7.1.3 (SFS.9), 11.4.3 (SMPWCS)",
        translate: nothing,
        explains: |evidence| {
            let no_snoop = evidence.word("PASID table entry, word 1") & 1 << 23 == 0;
            evidence.expected_code() == 0x90 || (evidence.case.shape.kind == Kind::First && no_snoop)
        },
        example: || {
            let case = changed(Kind::First, &[]);
            Case { shape: Shape { snoop: false, ..case.shape }, ..case }
        },
    },
    Departure {
        what: "limits first-stage addresses by the entry's AW, which is the second stage's",
        section: "9.6 (AW), 3.6 (canonical addresses)",
        translate: nothing,
        explains: |evidence| {
            let width = 30 + 9 * (evidence.word("PASID table entry, word 0") >> 2 & 7);
            evidence.case.shape.kind == Kind::First && width != 48 && evidence.observed_code() != 0x83
        },
        example: || changed(Kind::First, &[("PASID table entry, word 0", 1 << 2)]),
    },
];

/// The departures as far as a driver's programs meet them.
pub const TOLERANCE: Tolerance = Tolerance {
    unrecorded: Why::is_right,
    also: |reason, why| why == Why::Detached && reason == FaultReason::EntryInvalid(ConfigTable::Pasid),
    invents_pasid: true,
};

impl Case {
    /// The case, with the write where it reads.
    #[must_use]
    pub fn with_write_to_the_page_read(self) -> Self {
        let write = (self.read & !0xfff) | 0x108;
        Self { write, ..self }
    }
}

/// Say QEMU's outcome as the specification would.
pub fn translate(evidence: &Evidence<'_>) -> Outcome {
    let mut outcome = evidence.observed.clone();
    for departure in DEPARTURES {
        let so_far = Evidence { observed: &outcome, ..*evidence };
        if let Some(translated) = (departure.translate)(&so_far) {
            outcome = translated;
        }
    }
    outcome
}

/// The departure that explains a difference that is left after [`translate`].
pub fn explanation(evidence: &Evidence<'_>) -> Option<&'static Departure> {
    DEPARTURES.iter().find(|departure| (departure.explains)(evidence))
}
