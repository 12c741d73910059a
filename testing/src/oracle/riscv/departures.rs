//! Where QEMU 10.0.2's `riscv-iommu-pci` departs from the specification.

use super::judge::{Recorded, Riscv};
use super::tables::Shape;
use crate::oracle::tables::bench::Outcome;
use crate::oracle::tables::departures::{Departure, Evidence, never, nothing, with_faults};
use crate::oracle::tables::{Case, Change, Layout, Shape as _, Word, value};
use crate::reference::riscv as reference;

trait Known {
    /// Whether the specification asks for a record with this cause.
    fn expects(&self, cause: u16) -> bool;
    /// QEMU's outcome where its records pair with the specification's, each changed with its pair.
    fn with_pairs(&self, change: fn(Recorded, &Recorded) -> Recorded) -> Option<Outcome<Recorded>>;
    /// PDTV.
    fn has_processes(&self) -> bool;
    /// Whether some entry of the page tables is such.
    fn any_entry(&self, matches: fn(u64) -> bool) -> bool;
    /// Whether the specification asks for a page fault or a guest-page fault.
    fn refuses_a_page(&self) -> bool;
    /// Whether this second stage leads the process directory's guest addresses to the same physical ones.
    fn finds_processes_where_they_are(&self, iohgatp: u64) -> bool;
}

impl Known for Evidence<'_, Riscv> {
    fn expects(&self, cause: u16) -> bool {
        self.expected.faults.iter().any(|fault| fault.cause == cause)
    }
    fn with_pairs(&self, change: fn(Recorded, &Recorded) -> Recorded) -> Option<Outcome<Recorded>> {
        let (ours, theirs) = (&self.expected.faults, &self.observed.faults);
        let faults: Vec<_> = theirs.iter().zip(ours).map(|(theirs, ours)| change(*theirs, ours)).collect();
        (faults.len() == theirs.len() && faults != *theirs)
            .then(|| Outcome { faults, ..self.observed.clone() })
    }
    fn has_processes(&self) -> bool {
        self.word("device context, tc") >> 5 & 1 == 1
    }
    fn any_entry(&self, matches: fn(u64) -> bool) -> bool {
        let is_entry = |word: &&Word| word.name.contains("stage, level");
        self.words.iter().filter(is_entry).any(|word| matches(word.value))
    }
    fn refuses_a_page(&self) -> bool {
        [12, 13, 15, 20, 21, 23].iter().any(|cause| self.expects(*cause))
    }
    fn finds_processes_where_they_are(&self, iohgatp: u64) -> bool {
        let tc = self.word("device context, tc");
        let memory = |at: u64| Some(value(self.words, at));
        let root = (self.word("device context, fsc") & ((1 << 44) - 1)) << 12;
        let named = self.words.iter().filter(|word| word.name.starts_with("process"));
        let mut addresses = named.map(|word| word.at).chain([root]);
        addresses.all(|at| reference::guest_read(self.unit, &memory, tc, iohgatp, at) == Some(at))
    }
}

/// A mapping of 4 KiB pages at 1 GiB, of the device that touches.
const fn shape(first: u8, second: u8) -> Shape {
    Shape {
        directory: 2,
        device: 0xa8,
        process: None,
        processes: 0,
        first,
        second,
        leaf: 0,
        napot: false,
        flags: false,
        big_endian: false,
        first_big_endian: false,
        extended: false,
        files: false,
        privileged: false,
        address: 0x4000_0000,
    }
}

fn changed(stages: (u8, u8), layout: Layout, changes: &[(&str, u64)]) -> Case<Shape> {
    Case::changed(shape(stages.0, stages.1), layout, changes)
}

/// A case in which bits of the second stage's entry for this page are inverted.
fn second_stage_page(shape: Shape, layout: Layout, page: u64, flip: u64) -> Case<Shape> {
    let maps = |word: &Word| word.name == "second stage, level 0" && word.value >> 10 << 12 == page;
    let word = shape.words(layout).iter().position(maps).unwrap_or(usize::MAX);
    Case { changes: vec![Change { word, flip }], ..Case::changed(shape, layout, &[]) }
}

/// Every departure. Those that only translate come first.
pub const DEPARTURES: &[Departure<Riscv>] = &[
    Departure {
        what: "records a process_id 0 where the request carries none",
        section: "3.2 (PV)",
        translate: |evidence| {
            let none = evidence.case.shape.process.is_none();
            with_faults(evidence, |fault| Recorded {
                process: fault.process.filter(|process| !none || *process != 0),
                ..fault
            })
        },
        explains: never,
        example: |layout| changed((3, 0), layout, &[("first stage, level 1", 1)]),
    },
    Departure {
        what: "records neither address nor transaction type where the directories refuse",
        section: "3.2 (iotval, TTYP)",
        translate: |evidence| {
            evidence.with_pairs(|theirs, ours| {
                let nowhere = theirs.address == 0 && theirs.transaction == 2;
                if theirs.cause >= 256 && (nowhere || theirs.address == ours.address) {
                    Recorded { address: ours.address, transaction: ours.transaction, ..theirs }
                } else {
                    theirs
                }
            })
        },
        explains: never,
        example: |layout| changed((3, 0), layout, &[("device context, tc", 1)]),
    },
    Departure {
        what: "records reads that page tables refuse as writes",
        section: "3.2 (TTYP)",
        translate: |evidence| {
            with_faults(evidence, |fault| {
                let is_read = matches!(fault.cause, 5 | 13 | 21);
                Recorded { transaction: if is_read { 2 } else { fault.transaction }, ..fault }
            })
        },
        explains: never,
        example: |layout| changed((3, 0), layout, &[("first stage, level 1", 1)]),
    },
    Departure {
        what: "records no guest address where a second stage alone refuses",
        section: "3.2 (iotval2)",
        translate: |evidence| {
            evidence.with_pairs(|theirs, ours| {
                let guest = matches!(theirs.cause, 20 | 21 | 23) && theirs.second == 0;
                Recorded { second: if guest { ours.second } else { theirs.second }, ..theirs }
            })
        },
        explains: never,
        example: |layout| changed((0, 3), layout, &[("second stage, level 1", 1)]),
    },
    Departure {
        what: "records the access and guest-page faults of reads under both stages as writes', and a guest address with access faults",
        section: "3.2 (CAUSE 5, iotval2)",
        translate: |evidence| {
            evidence.with_pairs(|theirs, ours| match (theirs.cause, ours.cause) {
                (23, 21) => Recorded { cause: 21, transaction: 2, ..theirs },
                (7, 5) => Recorded { cause: 5, transaction: 2, second: 0, ..theirs },
                (7, 7) => Recorded { second: 0, ..theirs },
                _ => theirs,
            })
        },
        explains: never,
        example: |layout| changed((3, 3), layout, &[("second stage, level 1", 1 << 40)]),
    },
    Departure {
        what: "does not look at the reserved bits of tc, ta and fsc, nor at the alignment of iohgatp",
        section: "2.1.3, 2.1.4, 2.2",
        translate: nothing,
        explains: |evidence| {
            let reserved = evidence.word("device context, tc") & 0xffff_ffff_00ff_f000
                | evidence.word("device context, ta") & 0xffff_ffff_0000_0fff
                | evidence.word("device context, fsc") & 0x0fff_f000_0000_0000;
            let second = evidence.word("device context, iohgatp");
            let misaligned = second >> 60 != 0 && second & 3 != 0;
            let process = evidence.word("process context, ta") & 0xffff_ffff_0000_0ff8
                | evidence.word("process context, fsc") & 0x0fff_f000_0000_0000;
            (evidence.expects(259) && (reserved != 0 || misaligned))
                || (evidence.expects(267) && process != 0)
        },
        example: |layout| changed((3, 0), layout, &[("device context, ta", 1)]),
    },
    Departure {
        what: "does not look at the reserved bits of what extended device contexts add",
        section: "2.1.2, 2.1.3.5, 2.1.3.6, 2.1.4",
        translate: nothing,
        explains: |evidence| {
            let reserved = evidence.word("device context, msiptp") & 0x0fff_f000_0000_0000
                | evidence.word("device context, msi_addr_mask") & 0xfff0_0000_0000_0000
                | evidence.word("device context, msi_addr_pattern") & 0xfff0_0000_0000_0000
                | evidence.word("device context, reserved");
            evidence.expects(259) && reserved != 0
        },
        example: |layout| {
            let shape = Shape { extended: true, ..shape(3, 0) };
            Case::changed(shape, layout, &[("device context, reserved", 1)])
        },
    },
    Departure {
        what: "does not look at D, A and U of entries that lead to tables",
        section: "Privileged Specification, Sv39 (reserved for future standard use)",
        translate: nothing,
        explains: |evidence| {
            evidence.refuses_a_page() && evidence.any_entry(|entry| entry & 0xf == 1 && entry & 0xd0 != 0)
        },
        example: |layout| changed((3, 0), layout, &[("first stage, level 1", 1 << 7)]),
    },
    Departure {
        what: "takes bits 63:54 of page-table entries, reserved or N and PBMT, for bits of the address",
        section: "5.3 (Svnapot); Privileged Specification, Sv39, Svnapot, Svpbmt",
        translate: nothing,
        explains: |evidence| {
            // What is reserved must refuse; N must take bits of the request's address.
            let reserved = |entry: u64| entry & 1 == 1 && entry >> 54 != 0;
            let napot = |entry: u64| entry & 1 == 1 && entry >> 63 == 1;
            evidence.any_entry(if evidence.refuses_a_page() { reserved } else { napot })
        },
        example: |layout| changed((3, 0), layout, &[("first stage, level 1", 1 << 57)]),
    },
    Departure {
        what: "records no fault for a write through a cached translation that lacks the right",
        section: "2.3, 3.2",
        translate: nothing,
        explains: |evidence| {
            let writes = evidence.expected.faults.iter().all(|fault| matches!(fault.cause, 15 | 23));
            let silent = writes && evidence.observed.faults.is_empty();
            silent && evidence.expected.token != 0 && evidence.same_but_for_faults()
        },
        example: |layout| {
            changed((3, 0), layout, &[("first stage, level 0", 1 << 2)]).with_write_to_the_page_read()
        },
    },
    Departure {
        what: "does not look at U",
        section: "2.3; Privileged Specification, Sv39 (U)",
        translate: nothing,
        explains: |evidence| {
            let refused = [12, 13, 15, 20, 21, 23].iter().any(|cause| evidence.expects(*cause));
            refused && evidence.any_entry(|entry| entry & 1 == 1 && entry & 0xe != 0 && entry & 0x10 == 0)
        },
        example: |layout| changed((3, 0), layout, &[("first stage, level 0", 1 << 4)]),
    },
    Departure {
        what: "does not look at the mode of fsc before it uses it, and then finds an entry that is not valid or a process context misconfigured",
        section: "2.1.4, 2.2.4",
        translate: nothing,
        explains: |evidence| {
            let fsc = evidence.word("device context, fsc") >> 60;
            let known: &[u64] = if evidence.has_processes() { &[0, 1] } else { &[0, 8, 9, 10] };
            evidence.expects(259) && !known.contains(&fsc)
                || (evidence.expects(267) && evidence.observed.faults.iter().any(|fault| fault.cause == 266))
        },
        example: |layout| changed((3, 0), layout, &[("device context, fsc", 6 << 60)]),
    },
    Departure {
        what: "reads process directories at guest addresses as if these were physical",
        section: "2.3.2",
        translate: nothing,
        explains: |evidence| {
            let second = evidence.word("device context, iohgatp");
            evidence.has_processes() && second >> 60 != 0 && !evidence.finds_processes_where_they_are(second)
        },
        example: |layout| {
            let shape = Shape { processes: 1, ..shape(0, 3) };
            // The process directory lies behind two levels of the device directory.
            second_stage_page(shape, layout, layout.page(2), 1)
        },
    },
    Departure {
        what: "asks the second stage under a first for the right to write, and for D, whatever the access",
        section: "2.3; Privileged Specification, two-stage address translation",
        translate: nothing,
        explains: |evidence| {
            let nested = evidence.case.shape.first > 0 && evidence.case.shape.second > 0;
            let observed = evidence.observed.faults.iter().any(|fault| matches!(fault.cause, 21 | 23));
            let is_read_only = |entry: u64| entry & 1 == 1 && entry & 0xe != 0 && entry & 0x84 != 0x84;
            nested && observed && evidence.any_entry(is_read_only)
        },
        example: |layout| {
            let shape = shape(3, 3);
            let words = shape.words(layout);
            let entry =
                words.iter().find(|word| word.name == "first stage, level 0").map_or(0, |word| word.at);
            second_stage_page(shape, layout, entry & !0xfff, 1 << 2)
        },
    },
    Departure {
        what: "does not look at A where a write finds D",
        section: "2.3; Privileged Specification, Sv39 (A)",
        translate: nothing,
        explains: |evidence| {
            let refused = evidence.expects(15) || evidence.expects(23);
            refused && evidence.any_entry(|entry| entry & 1 == 1 && entry & 0xe != 0 && entry & 0xc0 == 0x80)
        },
        example: |layout| {
            changed((3, 0), layout, &[("first stage, level 0", 1 << 6)]).with_write_to_the_page_read()
        },
    },
    Departure {
        what: "accepts SADE and GADE, although it does not say that it updates flags",
        section: "2.1.4 (AMO_HWAD)",
        translate: nothing,
        explains: |evidence| evidence.expects(259) && evidence.word("device context, tc") & 0x180 != 0,
        example: |layout| changed((3, 0), layout, &[("device context, tc", 1 << 8)]),
    },
    Departure {
        what: "lets the second stage translate the first table's address before it looks at the sign-extension of the request's",
        section: "2.3; Privileged Specification, Sv39",
        translate: nothing,
        explains: |evidence| {
            let name = if evidence.has_processes() { "process context, fsc" } else { "device context, fsc" };
            let levels = (evidence.word(name) >> 60).saturating_sub(5);
            let top = 11 + 9 * levels;
            let Case { read, write, .. } = *evidence.case;
            let wide = [read, write].iter().any(|address| !matches!((*address as i64) >> top, 0 | -1));
            levels > 0 && evidence.word("device context, iohgatp") >> 60 != 0 && wide
        },
        example: |layout| {
            // The first table lies behind two levels of the device directory.
            let case = second_stage_page(shape(3, 3), layout, layout.page(2), 1);
            Case { read: case.read | 1 << 60, ..case }
        },
    },
    Departure {
        what: "takes addresses that differ above bit 55 for one another where one is cached",
        section: "2.3",
        translate: nothing,
        explains: |evidence| {
            let differ = evidence.case.read ^ evidence.case.write;
            differ >> 56 != 0 && differ & 0x00ff_ffff_ffff_f000 == 0
        },
        example: |layout| {
            let case = changed((0, 3), layout, &[]).with_write_to_the_page_read();
            Case { write: case.write | 1 << 60, ..case }
        },
    },
    Departure {
        what: "lets a write pass through a translation that a read has cached, although D is clear",
        section: "2.3; Privileged Specification, Sv39 (D)",
        translate: nothing,
        explains: |evidence| {
            let written = evidence.expects(15) || evidence.expects(23);
            let clean = |entry: u64| entry & 0x85 == 5;
            written && evidence.observed.faults.is_empty() && evidence.any_entry(clean)
        },
        example: |layout| {
            changed((3, 0), layout, &[("first stage, level 0", 1 << 7)]).with_write_to_the_page_read()
        },
    },
];
