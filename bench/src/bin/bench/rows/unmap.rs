//! Unmaps as the driver does them on the model, which has forgotten when they return.

use crate::Effort;
use portcullis_bench::contest::{Contest, Samples};
use portcullis_bench::machine::translate::{EACH, translate_pages};
use portcullis_bench::machine::{Machine, vtd};
use portcullis_bench::order::{FIRST, PAGE, scrambled};
use portcullis_bench::result::{Goal, Row};
use portcullis_spec::{Access, Iova};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

/// Pages that the device uses meanwhile.
const USED: u64 = 512;
/// Unmaps of which one p99 is taken: few enough to be over before somebody else wants the processor.
const ROUND: usize = 500;

/// The quietest round: that with the lowest p99, and its median. On a machine that others use too the rest measures the others.
fn quietest(rounds: &[Samples]) -> (f64, f64) {
    let quiet = |one: &&Samples, other: &&Samples| one.quantile(0.99).total_cmp(&other.quantile(0.99));
    let p99 = rounds.iter().min_by(quiet).map_or(0.0, |round| round.quantile(0.99));
    let median = rounds.iter().map(Samples::median).min_by(f64::total_cmp).unwrap_or(0.0);
    (median, p99)
}

fn with_device(effort: Effort) -> [Row; 2] {
    let machine = Machine::<vtd::Legacy>::new(2 * USED * PAGE, 64 << 20);
    let domain = machine.domain();
    machine.map_scattered(&domain, USED, PAGE);
    let port = machine.device(0x10, &domain);
    let order = scrambled(USED);
    let (stop, laps) = (AtomicBool::new(false), AtomicU64::new(0));
    let page = Iova(FIRST + USED * PAGE * 2);
    let rounds: Vec<Samples> = std::thread::scope(|scope| {
        let (port, order, stop, laps) = (port, &order, &stop, &laps);
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                translate_pages(&port, order, EACH);
                laps.fetch_add(1, Ordering::Relaxed);
            }
        });
        let rounds = (0..effort.singles / ROUND).map(|_| {
            // The device runs while the round does.
            let seen = laps.load(Ordering::Relaxed);
            while laps.load(Ordering::Relaxed) == seen {
                std::hint::spin_loop();
            }
            let each = (0..ROUND).map(|_| {
                domain.map(page, machine.target(0, USED), PAGE, Access::READ_WRITE).expect("maps");
                let start = Instant::now();
                domain.unmap(page, PAGE).expect("unmaps");
                start.elapsed().as_secs_f64() * 1e9
            });
            Samples::new(each.collect())
        });
        let rounds = rounds.collect();
        stop.store(true, Ordering::Relaxed);
        rounds
    });
    let (median, p99) = quietest(&rounds);
    [
        Row::new("unmap/strict/device-running/median", "ns", median, Goal::AtMost(1500.0)),
        Row::new("unmap/strict/device-running/p99", "ns", p99, Goal::AtMost(5000.0)),
    ]
}

fn alone(effort: Effort) -> [Row; 2] {
    [(1, 500.0), (256, 1000.0)].map(|(pages, target)| {
        let machine = Machine::<vtd::Legacy>::new(4 << 20, 64 << 20);
        let domain = machine.domain();
        let port = machine.device(0x10, &domain);
        // A neighbour keeps the tables in place; the first page not congruent with what it leads to, so that 4 KiB is all that fits.
        domain.map(Iova(FIRST), machine.ram.data(), PAGE, Access::READ_WRITE).expect("maps");
        translate_pages(&port, &[0], 1);
        let physical = machine.ram.data().checked_add(PAGE).expect("far from the end");
        let outcome = Contest::new()
            .with("ours", || {
                for _ in 0..100 {
                    domain
                        .map(Iova(FIRST + (1 << 20)), physical, pages * PAGE, Access::READ_WRITE)
                        .expect("maps");
                    domain.unmap(Iova(FIRST + (1 << 20)), pages * PAGE).expect("unmaps");
                }
                100
            })
            .run(effort.contest);
        let name = format!("map-and-strict-unmap/{pages}-pages");
        Row::new(name, "ns", outcome.of("ours").best(), Goal::AtMost(target))
    })
}

pub(crate) fn rows(effort: Effort) -> Vec<Row> {
    with_device(effort).into_iter().chain(alone(effort)).collect()
}
