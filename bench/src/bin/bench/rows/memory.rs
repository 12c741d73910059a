//! What is kept on the heap beside the tables, by model and driver together. Of a device or a domain nothing is cached in the rows with
//! targets but its context: what caching its pages takes is a row of its own, and what both come to where a domain uses one page is another.

use crate::{Effort, allocations};
use portcullis_bench::machine::translate::translate;
use portcullis_bench::machine::{Machine, vtd};
use portcullis_bench::order::{FIRST, PAGE};
use portcullis_bench::result::{Goal, Row};
use portcullis_spec::{Access, Iova};

const DEVICES: u16 = 2048;
const DOMAINS: u16 = 2048;
/// Stretches of 2 MiB in which one page each was used.
const STRETCHES: u64 = 1024;
const STRIDE: u64 = 2 << 20;

/// What `work` leaves allocated.
fn kept<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let before = allocations::live();
    let kept = work();
    (kept, allocations::live().saturating_sub(before) as f64)
}

pub(crate) fn rows(_: Effort) -> Vec<Row> {
    let machine = Machine::<vtd::Legacy>::new(STRETCHES * PAGE, 256 << 20);
    let domain = machine.domain();
    machine.map_scattered(&domain, STRETCHES, STRIDE);
    let port = machine.device(0, &domain);
    translate(&port, &[0], STRIDE, 1);
    // What is used once is not kept.
    let order: Vec<u64> = (0..STRETCHES).collect();
    let ((), stretches) = kept(|| {
        for _ in 0..8 {
            translate(&port, &order, STRIDE, 32);
        }
    });
    let (_ports, devices) = kept(|| {
        let ports = (1..=DEVICES).map(|number| {
            let port = machine.device(number, &domain);
            translate(&port, &[u64::from(number) % STRETCHES], STRIDE, 1);
            port
        });
        ports.collect::<Vec<_>>()
    });
    let domains_of = |first: u16, turns| {
        let (domains, bytes) = kept(|| {
            let domains = (first..first + DOMAINS).map(|number| {
                let domain = machine.domain();
                domain.map(Iova(FIRST), machine.ram.data(), PAGE, Access::READ_WRITE).expect("maps");
                let port = machine.device(number, &domain);
                for _ in 0..turns {
                    translate(&port, &[0], PAGE, 1);
                }
                (domain, port)
            });
            domains.collect::<Vec<_>>()
        });
        (domains, bytes / f64::from(DOMAINS))
    };
    let (_domains, domains) = domains_of(DEVICES + 1, 1);
    let (_used, used) = domains_of(DEVICES + DOMAINS + 1, 8);
    let each_device = devices / f64::from(DEVICES);
    vec![
        Row::new("memory/attached-requester", "B", each_device, Goal::AtMost(4096.0)),
        Row::new("memory/cached-2MiB", "B", stretches / (STRETCHES - 1) as f64, Goal::AtMost(32.0)),
        Row::new("memory/domain", "B", (domains - each_device).max(0.0), Goal::AtMost(1024.0)),
        Row::new("memory/domain/with-a-page-cached", "B", (used - each_device).max(0.0), Goal::None),
    ]
}
