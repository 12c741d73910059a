//! Translations that miss everything that is cached of them, against a walk that only loads.

use crate::Effort;
use portcullis_bench::contest::{Contest, Turn};
use portcullis_bench::machine::nested::Nested;
use portcullis_bench::machine::translate::{EACH, translate};
use portcullis_bench::machine::{Kind, Machine, vtd};
use portcullis_bench::order::{FIRST, PAGE, scrambled};
use portcullis_bench::raw::{One, Tables};
use portcullis_bench::result::{Goal, Row};
use portcullis_driver::Domain;
use portcullis_model::Port;
use std::hint::black_box;
use std::time::Instant;

/// Every page in a leaf table of its own, and at another place in it than its neighbours: entries at the same place of all tables would
/// share a few sets of the processor's caches, and everybody would measure how those are driven out.
const STRIDE: u64 = (2 << 20) + PAGE;
const PAGES: u64 = 4096;

/// A turn in which every page is new: the device leaves its domain and comes back, for which the driver invalidates the
/// domain; then page 0 fetches the context, and the rest is timed.
fn turn<K: Kind>(
    machine: &Machine<K>,
    domain: &Domain<K::Driver>,
    port: &Port<K::Model>,
    order: &[u64],
) -> Turn {
    let requester = port.requester();
    machine.unit.detach(requester, None).expect("it is attached");
    machine.unit.attach(requester, None, domain).expect("it is not attached");
    translate(port, &[0], STRIDE, EACH);
    let start = Instant::now();
    let done = translate(port, order, STRIDE, EACH);
    (start.elapsed(), done)
}

/// A turn of a walk that only loads.
fn raw(walk: impl Fn(u64) -> u64, order: &[u64]) -> u64 {
    for page in order {
        black_box(walk(FIRST + page * STRIDE + 0x120));
    }
    order.len() as u64
}

fn row(name: &str, contest: Contest<'_>, effort: Effort) -> [Row; 2] {
    let outcome = contest.run(effort.contest);
    let times = outcome.of("ours").best() / outcome.of("raw-walk").best();
    [
        Row::new(format!("miss/{name}"), "ns", outcome.of("ours").best(), Goal::None)
            .beside(outcome.peers("ours")),
        Row::new(format!("miss/{name}/of-raw-walk"), "x", times, Goal::AtMost(3.0)),
    ]
}

pub(crate) fn rows(effort: Effort) -> Vec<Row> {
    let order: Vec<u64> = scrambled(PAGES).into_iter().filter(|page| *page != 0).collect();
    let machine = Machine::<vtd::Legacy>::new(PAGES * PAGE, 256 << 20);
    let domain = machine.domain();
    machine.map_scattered(&domain, PAGES, STRIDE);
    let port = machine.device(0x10, &domain);
    let pages = (0..PAGES).map(|index| (FIRST + index * STRIDE, machine.target(index, PAGES).0));
    let one = One::new(Tables::physical(machine.ram.clone()), pages);
    let contest = Contest::new()
        .with_own_clock("ours", || turn(&machine, &domain, &port, &order))
        .with("raw-walk", || raw(|input| one.walk(input), &order));
    let one_stage = row("one-stage/4-level", contest, effort);
    let guest = Nested::new(STRIDE);
    let contest = Contest::new()
        .with_own_clock("ours", || turn(&guest.machine, &guest.domain, &guest.port, &order))
        .with("raw-walk", || raw(|input| guest.raw(input), &order));
    let nested = row("nested/4x4", contest, effort);
    one_stage.into_iter().chain(nested).collect()
}
