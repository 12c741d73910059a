//! Copies through a port out of scattered pages, against `memcpy` out of the same pages.
#![allow(unsafe_code)]

use crate::Effort;
use portcullis_bench::contest::Contest;
use portcullis_bench::machine::{Machine, vtd};
use portcullis_bench::order::{FIRST, PAGE};
use portcullis_bench::result::{Goal, Row};
use portcullis_spec::Iova;
use std::cell::RefCell;
use std::hint::black_box;

/// Pages that are copied out of, and in turn.
const PAGES: u64 = 1024;

pub(crate) fn rows(effort: Effort) -> Vec<Row> {
    let machine = Machine::<vtd::Legacy>::new(PAGES * PAGE, 64 << 20);
    let domain = machine.domain();
    machine.map_scattered(&domain, PAGES, PAGE);
    let port = machine.device(0x10, &domain);
    for page in 0..PAGES {
        port.write(Iova(FIRST + page * PAGE), &[page as u8 | 1; 4096]).expect("mapped");
    }
    let pointers: Vec<*const u8> =
        (0..PAGES).map(|page| machine.ram.pointer(machine.target(page, PAGES), PAGE).cast_const()).collect();
    let mut rows = Vec::new();
    for (name, bytes, target) in [
        ("4KiB", 4096, Goal::None),
        ("64KiB", 65536, Goal::AtLeast(95.0)),
        ("1MiB", 1 << 20, Goal::AtLeast(95.0)),
    ] {
        // As many copies as make 1 MiB.
        let copies = (1 << 20) / bytes as u64;
        let pages = bytes as u64 / PAGE;
        // The same for both, for it matters how a buffer lies in its cache lines.
        let buffer = RefCell::new(vec![0; bytes]);
        let (mut at, mut place) = (0, 0);
        let outcome = Contest::new()
            .with("ours", || {
                let buffer = &mut *buffer.borrow_mut();
                for _ in 0..copies {
                    port.read(Iova(FIRST + at * PAGE), buffer).expect("mapped");
                    black_box(&buffer);
                    at = (at + pages) % PAGES;
                }
                copies
            })
            .with("memcpy", || {
                let buffer = &mut *buffer.borrow_mut();
                for _ in 0..copies {
                    for (page, piece) in buffer.chunks_exact_mut(PAGE as usize).enumerate() {
                        let source = pointers[place as usize + page];
                        // SAFETY: a page of the machine's memory, which nobody writes at the moment, and a page's worth of our own.
                        unsafe { source.copy_to_nonoverlapping(piece.as_mut_ptr(), PAGE as usize) };
                    }
                    black_box(&buffer);
                    place = (place + pages) % PAGES;
                }
                copies
            })
            .run(effort.contest);
        let share = outcome.of("memcpy").best() / outcome.of("ours").best() * 100.0;
        rows.push(
            Row::new(format!("copy/{name}"), "ns", outcome.of("ours").best(), Goal::None)
                .beside(outcome.peers("ours")),
        );
        rows.push(Row::new(format!("copy/{name}/of-memcpy"), "%", share, target));
    }
    rows
}
