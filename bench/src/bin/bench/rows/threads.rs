//! Two threads on two cores, against one.

use crate::Effort;
use portcullis_bench::contest::{Contest, Turn};
use portcullis_bench::machine::translate::{EACH, translate_pages};
use portcullis_bench::machine::{Machine, vtd};
use portcullis_bench::order::{PAGE, scrambled};
use portcullis_bench::peers::{Peers, Translator};
use portcullis_bench::result::{Goal, Row};
use portcullis_model::Port;
use portcullis_model::engine::Architecture;
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

const PAGES: u64 = 4096;
/// Rounds through all pages in a turn: long enough that starting together does not count.
const LAPS: u64 = 64;

/// What one thread does in a turn. How many operations that was.
type Work<'a> = Box<dyn Fn() -> u64 + Send + 'a>;

fn laps<'a>(lap: impl Fn() -> u64 + Send + 'a) -> Work<'a> {
    Box::new(move || (0..LAPS).map(|_| lap()).sum())
}

/// Lets all of `work` run at once, each in a thread of its own. How long from the first start to the last end, and what they did
/// together.
fn together(work: &mut [Work<'_>]) -> Turn {
    let (ready, all) = (&AtomicUsize::new(0), work.len());
    std::thread::scope(|scope| {
        let threads = work.iter_mut().map(|each| {
            scope.spawn(move || {
                ready.fetch_add(1, Ordering::SeqCst);
                while ready.load(Ordering::SeqCst) < all {
                    std::thread::yield_now();
                }
                let start = Instant::now();
                let done = each();
                (start, Instant::now(), done)
            })
        });
        let threads: Vec<_> = threads.collect();
        let results: Vec<_> =
            threads.into_iter().map(|thread| thread.join().expect("does not panic")).collect();
        let start = results.iter().map(|(start, ..)| *start).min().expect("somebody works");
        let end = results.iter().map(|(_, end, _)| *end).max().expect("somebody works");
        (end - start, results.iter().map(|(.., done)| done).sum())
    })
}

pub(crate) fn rows(effort: Effort) -> Vec<Row> {
    let machine = Machine::<vtd::Legacy>::new(2 * PAGES * PAGE, 64 << 20);
    let domains = [machine.domain(), machine.domain()];
    for domain in &domains {
        machine.map_scattered(domain, PAGES, PAGE);
    }
    let ports = [machine.device(0x10, &domains[0]), machine.device(0x18, &domains[1])];
    let peers = Peers::new(PAGES, |index| machine.target(index, PAGES).0);
    let order = scrambled(PAGES);
    fn through<'a, A: Architecture>(port: &Port<A>, order: &'a [u64]) -> Work<'a> {
        let queue = port.clone();
        laps(move || translate_pages(&queue, order, EACH))
    }
    fn peer<'a>(peer: &'a impl Translator, order: &'a [u64]) -> Work<'a> {
        laps(move || {
            for page in order {
                black_box(peer.translate(page * PAGE + 0x120));
            }
            order.len() as u64
        })
    }
    let mut one = [through(&ports[0], &order)];
    let mut different = [through(&ports[0], &order), through(&ports[1], &order)];
    let mut same = [through(&ports[0], &order), through(&ports[0], &order)];
    let tree = || peer(&peers.trees, &order);
    let lock = || peer(&peers.vm_memory_locked, &order);
    let outcome = Contest::new()
        .with_own_clock("one", || together(&mut one))
        .with_own_clock("different", || together(&mut different))
        .with_own_clock("same", || together(&mut same))
        .with_own_clock("btreemap", || together(&mut [tree()]))
        .with_own_clock("btreemaps", || together(&mut [tree(), tree()]))
        .with_own_clock("vm-memory-rwlock", || together(&mut [lock()]))
        .with_own_clock("vm-memory-rwlocks", || together(&mut [lock(), lock()]))
        .run(effort.contest * 3);
    let times = |one, two| outcome.of(one).best() / outcome.of(two).best();
    let peers = || {
        [
            ("btreemap", times("btreemap", "btreemaps")),
            ("vm-memory-rwlock", times("vm-memory-rwlock", "vm-memory-rwlocks")),
        ]
    };
    let row = |name: &str, times| {
        Row::new(format!("threads/2/{name}"), "x", times, Goal::AtLeast(1.8)).beside(peers())
    };
    vec![row("different-devices", times("one", "different")), row("same-device", times("one", "same"))]
}
