//! Where QEMU 10.0.2's `intel-iommu` departs from the specification.

use super::judge::{Recorded, Vtd};
use super::tables::{Kind, Shape};
use crate::oracle::lockstep::Tolerance;
use crate::oracle::shadow::Why;
use crate::oracle::tables::bench::Outcome;
use crate::oracle::tables::departures::{Departure, Evidence, never, nothing, with_faults};
use crate::oracle::tables::{Case, Layout, value};
use portcullis_spec::{ConfigTable, FaultReason};

trait Known {
    fn expected_code(&self) -> u8;
    fn observed_code(&self) -> u8;
    fn is_hidden(&self) -> bool;
    fn is_pass_through(&self) -> bool;
    fn is_scalable(&self) -> bool;
}

impl Known for Evidence<'_, Vtd> {
    fn expected_code(&self) -> u8 {
        self.expected.faults.first().map_or(0, |fault| fault.code)
    }
    fn observed_code(&self) -> u8 {
        self.observed.faults.first().map_or(0, |fault| fault.code)
    }
    /// Whether the specification refuses without a record, because of an FPD bit.
    fn is_hidden(&self) -> bool {
        self.expected.faults.is_empty() && self.expected.token == 0 && self.expected.data.is_empty()
    }
    fn is_pass_through(&self) -> bool {
        if self.is_scalable() {
            self.word("PASID table entry, word 0") >> 6 & 7 == 4
        } else {
            self.word("context entry, low") >> 2 & 3 == 2
        }
    }
    fn is_scalable(&self) -> bool {
        self.case.shape.kind.is_scalable()
    }
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
        privileged: false,
        address: 0x4000_0000,
    }
}

/// A case in which the words named are changed.
fn changed(kind: Kind, layout: Layout, changes: &[(&str, u64)]) -> Case<Shape> {
    Case::changed(shape(kind), layout, changes)
}

/// The first-stage faults that a walk finds in the entries themselves.
const fn is_first_stage_walk(code: u8) -> bool {
    matches!(code, 0x70..=0x73 | 0x81 | 0x85)
}

/// Every departure. Those that only translate come first.
pub const DEPARTURES: &[Departure<Vtd>] = &[
    Departure {
        what: "reports root and context entry faults with legacy mode's reasons in scalable mode",
        section: "7.1.3 (SRT, SCT)",
        translate: |evidence| {
            let scalable = evidence.is_scalable();
            with_faults(evidence, |fault| {
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
        example: |layout| changed(Kind::First, layout, &[("scalable-mode root entry half", 1)]),
    },
    Departure {
        what: "records RID_PASID as the PASID of a request that carries none",
        section: "11.4.14 (PP, PV)",
        translate: |evidence| {
            let none = evidence.is_scalable() && evidence.case.shape.pasid.is_none();
            with_faults(evidence, |fault| Recorded { pasid: if none { None } else { fault.pasid }, ..fault })
        },
        explains: never,
        example: |layout| changed(Kind::First, layout, &[("first-stage PDE", 1)]),
    },
    Departure {
        what: "sets neither Accessed nor Dirty in a first-stage entry where one of them is set, nor any on a write through a cached translation",
        section: "3.6.2",
        translate: |evidence| {
            const A_D: u64 = 1 << 5 | 1 << 6;
            let mut tables = evidence.observed.tables.clone();
            for (at, expected) in &evidence.expected.tables {
                let before = value(evidence.words, *at);
                let after = tables.get(at).copied().unwrap_or(before);
                if after & A_D != 0 && after | A_D == *expected {
                    tables.insert(*at, *expected);
                }
            }
            (tables != evidence.observed.tables).then(|| Outcome { tables, ..evidence.observed.clone() })
        },
        explains: never,
        example: |layout| {
            changed(Kind::First, layout, &[("first-stage PTE", 1 << 5)]).with_write_to_the_page_read()
        },
    },
    Departure {
        what: "records no fault for an access through a cached translation that lacks the right",
        section: "4.2.4, 7.1.3 (LGN.2, SGN.6)",
        translate: nothing,
        explains: |evidence| {
            let expected = &evidence.expected.faults[..];
            let write = matches!(expected, [Recorded { code: 0x5 | 0x85, is_write: true, .. }]);
            let silent = evidence.observed.faults.is_empty();
            write && silent && evidence.expected.token != 0 && evidence.same_but_for_faults()
        },
        example: |layout| {
            changed(Kind::Legacy, layout, &[("second-stage PTE", 2)]).with_write_to_the_page_read()
        },
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
        example: |layout| changed(Kind::Legacy, layout, &[("second-stage PDE", 1 << 0 | 1 << 11)]),
    },
    Departure {
        what: "passes any address through, however wide",
        section: "3.4.2 (AW), 3.9, 7.1.3 (LGN.1, SGN.4)",
        translate: nothing,
        explains: |evidence| {
            matches!(evidence.expected_code(), 0x4 | 0x83)
                && evidence.is_pass_through()
                && evidence.observed.faults.is_empty()
                && evidence.same_but_for_faults()
        },
        example: |layout| {
            let case = changed(Kind::LegacyPassThrough, layout, &[]);
            Case { write: case.write | 1 << 60, ..case }
        },
    },
    Departure {
        what: "records reserved bits of a context entry in spite of its FPD",
        section: "7.1.3 (LCT.3, SCT.3: qualified)",
        translate: nothing,
        explains: |evidence| {
            let names = ["context entry, low", "scalable-mode context entry, word 0"];
            evidence.expected.faults.is_empty()
                && matches!(evidence.observed_code(), 0xb | 0x42)
                && names.iter().any(|name| evidence.word(name) & 2 != 0)
        },
        example: |layout| changed(Kind::Legacy, layout, &[("context entry, low", 2 | 1 << 4)]),
    },
    Departure {
        what: "records what it finds wrong in PASID directory and PASID table entries in spite of their FPD",
        section: "7.1.3 (SPD, SPT: qualified)",
        translate: nothing,
        explains: |evidence| evidence.is_hidden() && matches!(evidence.observed_code(), 0x50..=0x5f),
        example: |layout| changed(Kind::First, layout, &[("PASID directory entry", 3)]),
    },
    Departure {
        what: "does not look at the reserved bits of PASID directory and PASID table entries",
        section: "7.1.3 (SPD.3, SPT.3)",
        translate: nothing,
        explains: |evidence| {
            matches!(evidence.expected_code(), 0x52 | 0x5a)
                || (evidence.is_hidden() && evidence.is_scalable())
        },
        example: |layout| changed(Kind::First, layout, &[("PASID table entry, word 3", 1)]),
    },
    Departure {
        what: "looks at a PASID table entry's translation type before its present bit",
        section: "7.1.3 (SPT.2, SPT.4)",
        translate: nothing,
        explains: |evidence| evidence.expected_code() == 0x59 && evidence.observed_code() == 0x5b,
        example: |layout| changed(Kind::First, layout, &[("PASID table entry, word 0", 1 | 1 << 8)]),
    },
    Departure {
        what: "lets scalable-mode context entries use fields of features that it does not report",
        section: "9.4 (DTE, PASIDE, PRE, RID_PASID, RID_PRIV)",
        translate: nothing,
        explains: |evidence| {
            let word0 = evidence.word("scalable-mode context entry, word 0");
            let word1 = evidence.word("scalable-mode context entry, word 1");
            let fixed = word0 & (0x1e0 | u64::MAX << evidence.unit.registers.haw) == 0 && word1 >> 21 == 0;
            let used = word0 & 0x1c != 0 || word1 & 0x1f_ffff != 0;
            let rest = evidence.word("scalable-mode context entry, word 2")
                | evidence.word("scalable-mode context entry, word 3");
            (evidence.expected_code() == 0x42 || evidence.is_hidden()) && fixed && used && rest == 0
        },
        example: |layout| changed(Kind::First, layout, &[("scalable-mode context entry, word 0", 1 << 4)]),
    },
    Departure {
        what: "sets flags in first-stage tables although its page walks don't snoop",
        section: "7.1.3 (SFS.9), 11.4.3 (SMPWCS)",
        translate: nothing,
        explains: |evidence| {
            let no_snoop = evidence.word("PASID table entry, word 1") & 1 << 23 == 0;
            evidence.expected_code() == 0x90 || (evidence.case.shape.kind == Kind::First && no_snoop)
        },
        example: |layout| {
            let case = changed(Kind::First, layout, &[]);
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
        example: |layout| changed(Kind::First, layout, &[("PASID table entry, word 0", 1 << 2)]),
    },
];

/// The departures as far as a driver's programs meet them.
pub const TOLERANCE: Tolerance = Tolerance {
    unrecorded: |refusal| refusal.why.is_right(),
    also: |reason, why| why == Why::Detached && reason == FaultReason::EntryInvalid(ConfigTable::Pasid),
    invents_pasid: true,
    stands_for: |_, _| false,
};
