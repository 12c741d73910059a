//! 64 K requesters with 16 PASIDs each, all attached and all used.

use crate::Effort;
use portcullis_bench::contest::{Contest, Samples};
use portcullis_bench::machine::translate::{EACH, translate_pages};
use portcullis_bench::machine::{Kind as _, Machine, vtd};
use portcullis_bench::order::{PAGE, Rounds, scrambled};
use portcullis_bench::result::{Goal, Row};
use portcullis_driver::Device;
use portcullis_spec::Pasid;
use std::time::Instant;

const PAGES: u64 = 4096;
const PASIDS: u32 = 16;
/// Queues that are busy at the moment: requesters and PASIDs from all over the place.
const BUSY: usize = 1024;

pub(crate) fn rows(effort: Effort) -> Vec<Row> {
    let machine = Machine::<vtd::Scalable>::new(PAGES * PAGE, 3 << 30);
    let domain = machine.domain();
    machine.map_scattered(&domain, PAGES, PAGE);
    let requesters = || (0..=u16::MAX).map(vtd::Scalable::requester);
    let pasids = || (1..=PASIDS).filter_map(Pasid::new);
    let mut attaches = Vec::new();
    for requester in requesters() {
        machine.unit.add_device(Device { pasid_bits: 5, ..Device::new(requester) }).expect("memory for it");
        let start = Instant::now();
        for pasid in pasids() {
            machine.unit.attach(requester, Some(pasid), &domain).expect("attaches");
        }
        attaches.push(start.elapsed().as_secs_f64() * 1e9 / f64::from(PASIDS));
    }
    let all: Vec<_> =
        requesters().flat_map(|requester| pasids().map(move |pasid| (requester, Some(pasid)))).collect();
    for (requester, pasid) in &all {
        translate_pages(&machine.kind.port(*requester, *pasid), &[7], 1);
    }
    let chosen = scrambled(all.len() as u64).into_iter().take(BUSY);
    let busy: Vec<_> = chosen
        .map(|index| all[index as usize])
        .map(|(requester, pasid)| machine.kind.port(requester, pasid))
        .collect();
    let order = scrambled(PAGES);
    for port in &busy {
        translate_pages(port, &order, EACH);
    }
    let mut rounds = Rounds::new(order);
    let mut next = 0;
    let outcome = Contest::new()
        .with("ours", || {
            let pages = rounds.turn();
            for some in pages.chunks(EACH) {
                translate_pages(&busy[next], some, EACH);
                next = (next + 1) % busy.len();
            }
            pages.len() as u64
        })
        .run(effort.contest);
    vec![
        Row::new(
            "many/64K-requesters-x-16-PASIDs/translate/4096",
            "ns",
            outcome.of("ours").best(),
            Goal::AtMost(5.0),
        ),
        Row::new(
            "many/64K-requesters-x-16-PASIDs/attach",
            "ns",
            Samples::new(attaches).median(),
            Goal::AtMost(5000.0),
        ),
    ]
}
