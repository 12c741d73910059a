//! Where QEMU 10.0.2's `arm-smmuv3` departs from the specification.

use super::judge::{Recorded, Smmuv3, Transaction};
use super::tables::{Config, Shape, Stage};
use crate::oracle::tables::bench::Outcome;
use crate::oracle::tables::departures::{Departure, Evidence, never, nothing, with_faults};
use crate::oracle::tables::{Case, Change, Layout, Shape as _, Word};

trait Known {
    /// The number of the first event that the specification asks for; 0 for none.
    fn expected_number(&self) -> u8;
    /// The number of QEMU's first event.
    fn observed_number(&self) -> u8;
    /// STE.Config.
    fn config(&self) -> u64;
    /// Whether QEMU does what the specification says, but for the events that `silent` picks, which it leaves out.
    fn leaves_out(&self, silent: fn(&Recorded) -> bool) -> bool;
    /// Whether the specification asks for an event of this number, of stage 1 or 2.
    fn expects(&self, number: u8, stage2: bool) -> bool;
    /// Whether some entry of the page tables is such.
    fn any_entry(&self, matches: impl Fn(&Entry) -> bool) -> bool;
    /// A stage's effective output size in bits.
    fn output(&self, second: bool) -> u32;
}

/// An entry of a page table.
struct Entry {
    stage2: bool,
    level: u8,
    value: u64,
}

impl Entry {
    fn new(word: &Word) -> Option<Self> {
        let (stage, level) = word.name.strip_prefix("stage ")?.split_once(", level ")?;
        Some(Self { stage2: stage == "2", level: level.parse().ok()?, value: word.value })
    }
    const fn is_table(&self) -> bool {
        self.level < 3 && self.value & 3 == 3
    }
    const fn is_block(&self) -> bool {
        self.level < 3 && self.value & 3 == 1
    }
    const fn is_leaf(&self) -> bool {
        self.is_block() || (self.level == 3 && self.value & 3 == 3)
    }
}

const fn size(field: u64) -> u32 {
    // QEMU's OAS is 44 bits.
    match field & 7 {
        0 => 32,
        1 => 36,
        2 => 40,
        3 => 42,
        _ => 44,
    }
}

impl Known for Evidence<'_, Smmuv3> {
    fn expected_number(&self) -> u8 {
        self.expected.faults.first().map_or(0, |fault| fault.number)
    }
    fn observed_number(&self) -> u8 {
        self.observed.faults.first().map_or(0, |fault| fault.number)
    }
    fn config(&self) -> u64 {
        self.word("STE, word 0") >> 1 & 7
    }
    fn leaves_out(&self, silent: fn(&Recorded) -> bool) -> bool {
        let kept = self.expected.faults.iter().filter(|fault| !silent(fault)).copied().collect();
        Outcome { faults: kept, ..self.expected.clone() } == *self.observed
    }
    fn expects(&self, number: u8, stage2: bool) -> bool {
        let is = |fault: &Recorded| {
            fault.number == number && fault.transaction.is_some_and(|it| it.stage2 == stage2)
        };
        self.expected.faults.iter().any(is)
    }
    fn any_entry(&self, matches: impl Fn(&Entry) -> bool) -> bool {
        self.words.iter().filter_map(Entry::new).any(|entry| matches(&entry))
    }
    fn output(&self, second: bool) -> u32 {
        if second { size(self.word("STE, word 2") >> 48) } else { size(self.word("CD, word 0") >> 32) }
    }
}

/// Whether granules and levels have no blocks there (VMSAv8-64).
const fn has_no_block(granule: u32, level: u8) -> bool {
    level == 0 || (level == 1 && granule != 12)
}

const STAGE: Stage = Stage { granule: 12, bits: 39, ha: false, hd: false, big_endian: false };

/// A mapping of 4 KiB pages at 1 GiB.
const fn shape(config: Config) -> Shape {
    Shape {
        config,
        stream: 0xa8,
        split: None,
        log2size: 8,
        substream: None,
        cdmax: 0,
        s1fmt: 0,
        s1dss: 2,
        first: STAGE,
        second: STAGE,
        upper: false,
        leaf: 0,
        size: 4,
        overrides: 0,
        privileged: false,
        address: 0x4000_0000,
    }
}

fn changed(config: Config, layout: Layout, changes: &[(&str, u64)]) -> Case<Shape> {
    Case::changed(shape(config), layout, changes)
}

/// Every departure. Those that only translate come first.
pub const DEPARTURES: &[Departure<Smmuv3>] = &[
    Departure {
        what: "says of a write that it read where its CD's or its first table's address is refused by stage 2",
        section: "7.3 (RnW)",
        translate: |evidence| {
            with_faults(evidence, |fault| {
                let transaction = fault.transaction.map(|it| {
                    let is_write = it.address == evidence.case.write || it.address == evidence.case.write + 4;
                    let at_configuration = it.stage2 && it.class != 2;
                    Transaction { is_write: it.is_write || (at_configuration && is_write), ..it }
                });
                Recorded { transaction, ..fault }
            })
        },
        explains: never,
        example: |layout| changed(Config::Nested, layout, &[("STE, word 0", 1 << 40)]),
    },
    Departure {
        what: "says that stage 1 refused where stage 2 refused the address of a table of stage 1",
        section: "7.3 (S2), 7.3.13",
        translate: |evidence| {
            with_faults(evidence, |fault| {
                let same = |expected: &&Recorded| {
                    let (ours, theirs) = (expected.transaction, fault.transaction);
                    expected.number == fault.number
                        && ours.zip(theirs).is_some_and(|(ours, theirs)| {
                            ours.address == theirs.address
                                && ours.stage2
                                && ours.class == 1
                                && theirs.class == 1
                        })
                };
                evidence.expected.faults.iter().find(same).copied().unwrap_or(fault)
            })
        },
        explains: never,
        example: |layout| changed(Config::Nested, layout, &[("stage 1, level 2", 1 << 35)]),
    },
    Departure {
        what: "records IPA 0 for a write through a cached translation of both stages that lacks the right of the second",
        section: "7.3.16 (IPA)",
        translate: |evidence| {
            with_faults(evidence, |fault| {
                let same = |expected: &&Recorded| {
                    Recorded { fetched: Some(0), ..**expected } == fault && fault.number == 0x13
                };
                evidence.expected.faults.iter().find(same).copied().unwrap_or(fault)
            })
        },
        explains: never,
        example: |layout| {
            let shape = shape(Config::Nested);
            let words = shape.words(layout);
            let page = |word: &Word| word.name == "stage 2, level 3" && word.value & !0xfff == layout.data;
            let word = words.iter().position(page).unwrap_or(usize::MAX);
            let case = Case::changed(shape, layout, &[]).with_write_to_the_page_read();
            Case { changes: vec![Change { word, flip: 1 << 7 }], ..case }
        },
    },
    Departure {
        what: "records CLASS TT for what stage 1 itself refuses under a stage 2",
        section: "7.3.13 (CLASS)",
        translate: |evidence| {
            with_faults(evidence, |fault| {
                let transaction = fault.transaction.map(|it| {
                    let class = if matches!(fault.number, 0x10..=0x13) && !it.stage2 { 2 } else { it.class };
                    Transaction { class, ..it }
                });
                Recorded { transaction, ..fault }
            })
        },
        explains: never,
        example: |layout| changed(Config::Nested, layout, &[("stage 1, level 2", 1 << 45)]),
    },
    Departure {
        what: "records the address of a CD that it could not read in no field that says so",
        section: "7.3.10 (FetchAddr)",
        translate: |evidence| {
            let at = evidence
                .expected
                .faults
                .iter()
                .find(|fault| fault.number == 9)
                .and_then(|fault| fault.fetched);
            with_faults(evidence, |fault| match fault {
                Recorded { number: 9, fetched: Some(0), .. } => Recorded { fetched: at, ..fault },
                _ => fault,
            })
        },
        explains: never,
        example: |layout| changed(Config::Stage1, layout, &[("STE, word 0", 1 << 40)]),
    },
    Departure {
        what: "does not compare the addresses of tables with the output size",
        section: "3.4",
        translate: nothing,
        explains: |evidence| {
            let beyond = |entry: &Entry| {
                entry.is_table()
                    && (entry.value & 0x0000_ffff_ffff_f000) >> evidence.output(entry.stage2) != 0
            };
            // A table may be read as one where it is none.
            let fetched = |fault: &Recorded| {
                let output = evidence.output(fault.transaction.is_some_and(|it| it.stage2));
                fault.number == 0x0b && fault.fetched.is_some_and(|address| address >> output != 0)
            };
            (evidence.expects(0x11, false) || evidence.expects(0x11, true))
                && (evidence.any_entry(beyond) || evidence.observed.faults.iter().any(fetched))
        },
        example: |layout| {
            let case = changed(Config::Stage1, layout, &[("stage 1, level 2", 1 << 36)]);
            Case { shape: Shape { size: 1, ..case.shape }, ..case }
        },
    },
    Departure {
        what: "lets addresses beyond the output size pass where the STE says bypass",
        section: "3.4",
        translate: nothing,
        explains: |evidence| evidence.config() == 4 && evidence.leaves_out(|fault| fault.number == 0x11),
        example: |layout| {
            let case = changed(Config::Bypass, layout, &[]);
            Case { read: case.read | 1 << 60, ..case }
        },
    },
    Departure {
        what: "records nothing of an address beyond the input size of a stage 2 without stage 1",
        section: "3.4",
        translate: nothing,
        explains: |evidence| {
            evidence.config() == 6
                && evidence.leaves_out(|fault| fault.number == 0x11 && fault.fetched.is_none())
        },
        example: |layout| {
            let case = changed(Config::Stage2, layout, &[]);
            Case { read: case.read | 1 << 60, ..case }
        },
    },
    Departure {
        what: "reads the first of stage 2's concatenated tables whatever the address",
        section: "3.13, 5.2 (S2SL0)",
        translate: nothing,
        explains: |evidence| {
            let second = evidence.word("STE, word 2");
            let bits = 64 - (second >> 32 & 63);
            let granule = [12, 16, 14, 12][(second >> 46 & 3) as usize];
            let levels = (second >> 38 & 3) + if granule == 12 { 2 } else { 1 };
            evidence.config() & 2 != 0 && bits > granule + levels * (granule - 3)
        },
        example: |layout| {
            let case = changed(Config::Stage2, layout, &[]);
            let second = Stage { bits: 32, ..STAGE };
            let address = 0x8000_0000;
            let shape = Shape { second, address, ..case.shape };
            Case::changed(shape, layout, &[])
        },
    },
    Departure {
        what: "takes the output size for the least S2T0SZ's limit",
        section: "5.2 (S2T0SZ)",
        translate: nothing,
        explains: |evidence| {
            let bits = 64 - (evidence.word("STE, word 2") >> 32 & 63);
            evidence.config() & 2 != 0
                && evidence.observed_number() == 4
                && bits > u64::from(evidence.output(true))
        },
        example: |layout| {
            let case = changed(Config::Stage2, layout, &[]);
            Case { shape: Shape { size: 1, ..case.shape }, ..case }
        },
    },
    Departure {
        what: "refuses any S1CDMax but 0, which counts for nothing without substreams",
        section: "5.2 (S1CDMax)",
        translate: nothing,
        explains: |evidence| evidence.word("STE, word 0") >> 59 != 0 && evidence.observed_number() == 4,
        example: |layout| changed(Config::Stage1, layout, &[("STE, word 0", 1 << 59)]),
    },
    Departure {
        what: "takes Span for one more than it is, and does not compare it with SPLIT",
        section: "5.1 (Span), 7.3.3",
        translate: nothing,
        explains: |evidence| {
            let span = evidence.word("level 1 stream table descriptor") & 31;
            let is_other = evidence.case.shape.split.is_some_and(|split| span != u64::from(split) + 1);
            is_other && evidence.expected_number() == 2
        },
        example: |layout| two_level(layout, 1),
    },
    Departure {
        what: "does not align a level 2 stream table to its size, nor leave bit 5 and bits above 55 of its address out",
        section: "5.1 (L2Ptr)",
        translate: nothing,
        explains: |evidence| {
            let descriptor = evidence.word("level 1 stream table descriptor");
            let size = 6 + (descriptor & 31).saturating_sub(1);
            descriptor >> 56 != 0
                || descriptor & 1 << 5 != 0
                || descriptor & ((1 << size.min(63)) - 1) & !63 != 0
        },
        example: |layout| two_level(layout, 1 << 8),
    },
    Departure {
        what: "does not compare S1ContextPtr with the output size",
        section: "5.2 (S1ContextPtr)",
        translate: nothing,
        explains: |evidence| {
            evidence.expected_number() == 4
                && (evidence.word("STE, word 0") & 0x00ff_ffff_ffff_ffc0) >> 44 != 0
        },
        example: |layout| changed(Config::Stage1, layout, &[("STE, word 0", 1 << 45)]),
    },
    Departure {
        what: "takes every request for a privileged one: AP[1] and APTable[0] do not count",
        section: "13.1, 5.4 (AP)",
        translate: nothing,
        explains: |evidence| {
            let refuses = |entry: &Entry| {
                let unprivileged = if entry.is_leaf() { 1 << 6 } else { 0 };
                !entry.stage2 && (entry.value & unprivileged != unprivileged || entry.value >> 61 & 1 == 1)
            };
            evidence.expects(0x13, false) && evidence.any_entry(refuses)
        },
        example: |layout| changed(Config::Stage1, layout, &[("stage 1, level 3", 1 << 6)]),
    },
    Departure {
        what: "does not keep APTable[1] with what it caches: a write through a translation that a read has cached passes",
        section: "VMSAv8-64 (APTable)",
        translate: nothing,
        explains: |evidence| {
            let read_only = |entry: &Entry| !entry.stage2 && entry.is_table() && entry.value >> 62 & 1 == 1;
            let silent = evidence.expected.token != 0 && evidence.observed.faults.is_empty();
            silent && evidence.expects(0x13, false) && evidence.any_entry(read_only)
        },
        example: |layout| {
            changed(Config::Stage1, layout, &[("stage 1, level 2", 1 << 62)]).with_write_to_the_page_read()
        },
    },
    Departure {
        what: "looks at S1STALLD where there is no stage 1",
        section: "5.2 (S1STALLD)",
        translate: nothing,
        explains: |evidence| {
            let stalled = evidence.word("STE, word 1") >> 27 & 1 == 1;
            stalled && evidence.config() & 1 == 0 && evidence.observed_number() == 4
        },
        example: |layout| changed(Config::Stage2, layout, &[("STE, word 1", 1 << 27)]),
    },
    Departure {
        what: "ignores S2HA and S2HD, although it sets no flags",
        section: "5.2 (S2HA, S2HD)",
        translate: nothing,
        explains: |evidence| {
            evidence.expected_number() == 4
                && evidence.config() & 2 != 0
                && evidence.word("STE, word 2") >> 55 & 3 != 0
        },
        example: |layout| changed(Config::Stage2, layout, &[("STE, word 2", 1 << 56)]),
    },
    Departure {
        what: "leaves out bits 51:48 of S2TTB, TTB0 and TTB1",
        section: "5.2 (S2TTB), 5.4 (TTB0)",
        translate: nothing,
        explains: |evidence| {
            let high = |name| evidence.word(name) >> 48 & 0xf != 0;
            (evidence.expected_number() == 4 && high("STE, word 3"))
                || (evidence.expected_number() == 0xa && (high("CD, word 1") || high("CD, word 2")))
        },
        example: |layout| changed(Config::Stage2, layout, &[("STE, word 3", 1 << 49)]),
    },
    Departure {
        what: "looks at the Access flag and the rights before the output size",
        section: "3.4, VMSAv8-64 (priority of faults)",
        translate: nothing,
        explains: |evidence| {
            let expected = evidence.expects(0x11, true) || evidence.expects(0x11, false);
            expected && evidence.observed.faults.iter().any(|fault| matches!(fault.number, 0x12 | 0x13))
        },
        example: |layout| changed(Config::Stage2, layout, &[("stage 2, level 3", 1 << 10 | 1 << 45)]),
    },
    Departure {
        what: "takes blocks where a granule has none",
        section: "VMSAv8-64 (block descriptors)",
        translate: nothing,
        explains: |evidence| {
            let Shape { first, second, .. } = evidence.case.shape;
            evidence.any_entry(|entry| {
                let granule = if entry.stage2 { second.granule } else { first.granule };
                entry.is_block() && has_no_block(granule, entry.level)
            })
        },
        example: |layout| {
            let first = Stage { bits: 48, ..STAGE };
            Case::changed(Shape { first, ..shape(Config::Stage1) }, layout, &[("stage 1, level 0", 2)])
        },
    },
    Departure {
        what: "accepts a start level of stage 2 for which S2T0SZ leaves no bit",
        section: "5.2 (S2SL0)",
        translate: nothing,
        explains: |evidence| {
            let second = evidence.word("STE, word 2");
            let granule = [12, 16, 14, 12][(second >> 46 & 3) as usize];
            let levels = (second >> 38 & 3) + if granule == 12 { 2 } else { 1 };
            let least = granule + (levels - 1) * (granule - 3) + 1;
            evidence.config() & 2 != 0 && evidence.expected_number() == 4 && 64 - (second >> 32 & 63) < least
        },
        example: |layout| changed(Config::Stage2, layout, &[("STE, word 2", 3 << 38)]),
    },
    Departure {
        what: "lets stage 2 translate the first address of a table of stage 1 alone, however many pages the table has",
        section: "3.3.2, 3.4.3",
        translate: nothing,
        explains: |evidence| {
            let Shape { first, second, .. } = evidence.case.shape;
            evidence.config() == 7 && first.granule > second.granule
        },
        example: |layout| {
            let first = Stage { granule: 16, ..STAGE };
            let shape = Shape { first, address: 0x3f_ffff_0000, ..shape(Config::Nested) };
            // The page of the last table of stage 1 that has the entry.
            let words = shape.words(layout);
            let entry = words.iter().find(|word| word.name == "stage 1, level 3").map_or(0, |word| word.at);
            let page = |word: &Word| word.name == "stage 2, level 3" && word.value & !0xfff == entry & !0xfff;
            let word = words.iter().position(page).unwrap_or(usize::MAX);
            Case { changes: vec![Change { word, flip: 1 }], ..Case::changed(shape, layout, &[]) }
        },
    },
    Departure {
        what: "translates both of a CD's tables through stage 2 when it reads the CD, whichever the address selects or none",
        section: "3.4, 7.3.13 (CLASS)",
        translate: nothing,
        explains: |evidence| {
            let roots = ["CD, word 1", "CD, word 2"].map(|name| evidence.word(name) & 0x000f_ffff_ffff_f000);
            let of_root = |fault: &Recorded| {
                let is_table = fault.transaction.is_some_and(|it| it.stage2 && it.class == 1);
                is_table && fault.fetched.is_some_and(|address| roots.contains(&address))
            };
            evidence.config() == 7 && evidence.observed.faults.iter().any(of_root)
        },
        example: |layout| {
            let case = changed(Config::Nested, layout, &[("CD, word 1", 1 << 35)]);
            Case { read: case.read | 1 << 45, ..case }
        },
    },
    Departure {
        what: "records nothing of a write through a cached translation of stage 2 that lacks the right",
        section: "7.3.16",
        translate: nothing,
        explains: |evidence| {
            let silent =
                |fault: &Recorded| fault.number == 0x13 && fault.transaction.is_some_and(|it| it.is_write);
            evidence.config() & 2 != 0 && evidence.expected.token != 0 && evidence.leaves_out(silent)
        },
        example: |layout| {
            changed(Config::Stage2, layout, &[("stage 2, level 3", 1 << 7)]).with_write_to_the_page_read()
        },
    },
];

/// A two-level stream table whose descriptor has these bits inverted.
fn two_level(layout: Layout, flip: u64) -> Case<Shape> {
    let split = Some(8);
    Case::changed(
        Shape { split, ..shape(Config::Stage1) },
        layout,
        &[("level 1 stream table descriptor", flip)],
    )
}
