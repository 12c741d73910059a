//! What one device's invalidations cost another device.

use crate::Effort;
use portcullis_bench::contest::Contest;
use portcullis_bench::machine::translate::{EACH, translate_pages};
use portcullis_bench::machine::{Machine, vtd};
use portcullis_bench::order::{FIRST, PAGE, Rounds, scrambled};
use portcullis_bench::result::{Goal, Row};
use portcullis_spec::{Access, Iova};
use std::time::Instant;

const PAGES: u64 = 4096;

/// Device B's translations in turns before each of which device A's domain lost one page, or everybody was left alone. One
/// thread does both, so that what is measured is what B has to look up again, and not who has the processor.
pub(crate) fn rows(effort: Effort) -> Vec<Row> {
    let machine = Machine::<vtd::Legacy>::new(2 * PAGES * PAGE, 64 << 20);
    let (a, b) = (machine.domain(), machine.domain());
    for domain in [&a, &b] {
        machine.map_scattered(domain, PAGES, PAGE);
    }
    let (ours, theirs) = (machine.device(0x10, &b), machine.device(0x18, &a));
    let order = scrambled(PAGES);
    for port in [&ours, &theirs] {
        translate_pages(port, &order, EACH);
    }
    let page = Iova(FIRST + PAGES * PAGE * 2);
    let turn = |rounds: &mut Rounds, invalidate: bool| {
        let mut took = std::time::Duration::ZERO;
        let pages = rounds.turn();
        for some in pages.chunks(256) {
            // What surrounds the clock is the same in both; alone, the page is of nobody's use.
            a.map(page, machine.target(0, PAGES), PAGE, Access::READ_WRITE).expect("maps");
            if invalidate {
                a.unmap(page, PAGE).expect("unmaps");
            }
            let start = Instant::now();
            translate_pages(&ours, some, EACH);
            took += start.elapsed();
            if !invalidate {
                a.unmap(page, PAGE).expect("unmaps");
                translate_pages(&ours, some, EACH);
            }
        }
        (took, pages.len() as u64)
    };
    let (mut alone, mut disturbed) = (Rounds::new(order.clone()), Rounds::new(order));
    let outcome = Contest::new()
        .sitting(4)
        .with_own_clock("alone", || turn(&mut alone, false))
        .with_own_clock("disturbed", || turn(&mut disturbed, true))
        .run(effort.contest);
    let times = outcome.of("disturbed").best() / outcome.of("alone").best();
    vec![Row::new("invalidate/page/time-of-another-device", "x", times, Goal::AtMost(1.05))]
}
