//! The same shape of tables on every architecture: one stage, four levels, 4 KiB pages.

use crate::Effort;
use portcullis_bench::contest::Contest;
use portcullis_bench::machine::translate::{EACH, translate_pages};
use portcullis_bench::machine::{Kind, Machine, riscv, smmuv3, vtd};
use portcullis_bench::order::{PAGE, Rounds, scrambled};
use portcullis_bench::result::{Goal, Row};

const PAGES: u64 = 4096;

fn enter<K: Kind>(contest: Contest<'_>) -> Contest<'_> {
    let machine = Machine::<K>::new(PAGES * PAGE, 64 << 20);
    let domain = machine.domain();
    machine.map_scattered(&domain, PAGES, PAGE);
    let port = machine.device(0x10, &domain);
    let order = scrambled(PAGES);
    translate_pages(&port, &order, EACH);
    let mut rounds = Rounds::new(order);
    contest.with(K::NAME, move || {
        // The domain lives as long as the contest.
        let _ = (&machine, &domain);
        translate_pages(&port, rounds.turn(), EACH)
    })
}

pub(crate) fn rows(effort: Effort) -> Vec<Row> {
    let contest = enter::<vtd::Legacy>(Contest::new().sitting(4));
    let contest = enter::<vtd::Scalable>(contest);
    let contest = enter::<smmuv3::Smmuv3>(contest);
    let contest = enter::<riscv::Riscv>(contest);
    let all = contest.run(effort.contest).peers("");
    let best = all.iter().map(|(_, ns)| *ns).fold(f64::INFINITY, f64::min);
    let row = |(name, ns): &(&str, f64)| {
        Row::new(format!("architectures/{name}/of-the-best"), "x", ns / best, Goal::AtMost(1.3))
            .beside([("ns", *ns)])
    };
    all.iter().map(row).collect()
}
