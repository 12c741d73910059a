//! Translations that hit, by one thread.

use crate::Effort;
use portcullis_bench::contest::Contest;
use portcullis_bench::machine::nested::Nested;
use portcullis_bench::machine::translate::{EACH, translate_pages};
use portcullis_bench::machine::{Machine, vtd};
use portcullis_bench::order::{FIRST, PAGE, Rounds, scrambled};
use portcullis_bench::peers::{Peers, Translator};
use portcullis_bench::result::{Goal, Row};
use std::hint::black_box;

/// Pages, and what a translation may take.
const SIZES: [(u64, f64); 3] = [(64, 4.0), (4096, 5.0), (262_144, 10.0)];

fn turn<'a>(peer: &'a impl Translator, order: &[u64]) -> impl FnMut() -> u64 + 'a {
    let mut rounds = Rounds::new(order.to_vec());
    move || {
        let pages = rounds.turn();
        for page in pages {
            black_box(peer.translate(page * PAGE + 0x120));
        }
        pages.len() as u64
    }
}

pub(crate) fn one_stage(effort: Effort) -> Vec<Row> {
    let mut rows = Vec::new();
    for (pages, target) in SIZES {
        let machine = Machine::<vtd::Legacy>::new(pages * PAGE, 64 << 20);
        let domain = machine.domain();
        machine.map_scattered(&domain, pages, PAGE);
        let port = machine.device(0x10, &domain);
        let peers = Peers::new(pages, |index| machine.target(index, pages).0);
        let order = scrambled(pages);
        let (mut ours, mut single) = (Rounds::new(order.clone()), Rounds::new(order.clone()));
        // Everything is looked up once before it counts.
        translate_pages(&port, &order, EACH);
        let outcome = Contest::new()
            .sitting(Rounds::sitting(pages))
            .with("ours", || translate_pages(&port, ours.turn(), EACH))
            .with("one to a guard", || translate_pages(&port, single.turn(), 1))
            .with("vm-memory", turn(&peers.vm_memory, &order))
            .with("vm-memory-rwlock", turn(&peers.vm_memory_locked, &order))
            .with("rangemap", turn(&peers.ranges, &order))
            .with("btreemap", turn(&peers.trees, &order))
            .with("x86_64-crate", turn(&peers.x86, &order))
            .run(effort.contest);
        let best = |name| outcome.of(name).best();
        let others = || outcome.peers("ours").into_iter().filter(|(name, _)| *name != "one to a guard");
        let name = format!("translate/one-stage/{pages}");
        rows.push(Row::new(&name, "ns", best("ours"), Goal::AtMost(target)).beside(others()));
        if pages == 4096 {
            let times = best("vm-memory-rwlock") / best("ours");
            let name = format!("{name}/times-faster-than-vm-memory-rwlock");
            rows.push(Row::new(name, "x", times, Goal::AtLeast(20.0)));
        }
        let floor = best("ours") / best("x86_64-crate");
        rows.push(Row::new(format!("{name}/of-x86_64-crate"), "x", floor, Goal::AtMost(2.0)));
        let single = format!("{name}/one-to-a-guard");
        rows.push(Row::new(single, "ns", best("one to a guard"), Goal::AtMost(15.0)));
    }
    rows
}

pub(crate) fn nested(effort: Effort) -> Vec<Row> {
    let guest = Nested::new(PAGE);
    let order = scrambled(guest.pages());
    let (mut ours, mut raw) = (Rounds::new(order.clone()), Rounds::new(order.clone()));
    translate_pages(&guest.port, &order, EACH);
    let outcome = Contest::new()
        .sitting(4)
        .with("ours", || translate_pages(&guest.port, ours.turn(), EACH))
        .with("raw-walk-4x4", || {
            let pages = raw.turn();
            for page in pages {
                black_box(guest.raw(FIRST + page * PAGE + 0x120));
            }
            pages.len() as u64
        })
        .run(effort.contest);
    let best = outcome.of("ours").best();
    vec![Row::new("translate/nested/4096", "ns", best, Goal::AtMost(8.0)).beside(outcome.peers("ours"))]
}
