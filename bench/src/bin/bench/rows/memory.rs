//! What is kept on the heap beside the tables, by model and driver together. Of a device or a domain nothing is cached here but its
//! context: what caching its pages takes is a row of its own.

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
    let (_domains, domains) = kept(|| {
        let domains = (1..=DOMAINS).map(|number| {
            let domain = machine.domain();
            domain.map(Iova(FIRST), machine.ram.data(), PAGE, Access::READ_WRITE).expect("maps");
            let port = machine.device(DEVICES + number, &domain);
            translate(&port, &[0], PAGE, 1);
            (domain, port)
        });
        domains.collect::<Vec<_>>()
    });
    let each_device = devices / f64::from(DEVICES);
    let each_domain = (domains / f64::from(DOMAINS) - each_device).max(0.0);
    vec![
        Row::new("memory/attached-requester", "B", each_device, Goal::AtMost(4096.0)),
        Row::new("memory/cached-2MiB", "B", stretches / (STRETCHES - 1) as f64, Goal::AtMost(32.0)),
        Row::new("memory/domain", "B", each_domain, Goal::AtMost(1024.0)),
    ]
}
