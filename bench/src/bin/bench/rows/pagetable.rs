//! The page-table engine alone beside the `x86_64` crate's mapper, in tables of this process.
//!
//! Tables exist before the clock starts, as they do in a domain that has been used.
#![allow(unsafe_code)]

use crate::Effort;
use portcullis_bench::contest::{Contest, Turn};
use portcullis_bench::host_memory::HostMemory;
use portcullis_bench::order::{PAGE, Rounds, scattered, scrambled};
use portcullis_bench::peers::{Translator as _, X86Crate};
use portcullis_bench::result::{Goal, Row};
use portcullis_pagetable::format::{AmdV1, VtdSecondStage, X86};
use portcullis_pagetable::{Attributes, Format, Gather, Map, PageTable, Rights, Split};
use portcullis_spec::{Access, Iova, PhysAddr};
use std::cell::RefCell;
use std::hint::black_box;
use std::time::Instant;

/// Where page `index` of `pages` leads.
fn target(index: u64, pages: u64) -> u64 {
    scattered(index, pages) * PAGE + (1 << 34)
}

struct Ours<F>(PageTable<F, Box<Memory>>);

/// Tables' memory that can be owned.
struct Memory(HostMemory);

impl portcullis_pagetable::TableMemory for Box<Memory> {
    type Error = std::convert::Infallible;

    #[inline]
    fn load(&self, at: PhysAddr) -> Result<u64, Self::Error> {
        self.0.load(at)
    }
    #[inline]
    fn store(&self, at: PhysAddr, entry: u64) -> Result<(), Self::Error> {
        self.0.store(at, entry)
    }
    #[inline]
    fn compare_exchange(&self, at: PhysAddr, expected: u64, new: u64) -> Result<u64, Self::Error> {
        self.0.compare_exchange(at, expected, new)
    }
    #[inline]
    fn store_run(
        &self,
        at: PhysAddr,
        count: usize,
        entry: impl FnMut(usize) -> u64,
    ) -> Result<(), Self::Error> {
        self.0.store_run(at, count, entry)
    }
    #[inline]
    fn find_used(&self, at: PhysAddr, count: usize) -> Result<Option<usize>, Self::Error> {
        self.0.find_used(at, count)
    }
}

impl portcullis_pagetable::TableAllocator for Box<Memory> {
    fn allocate(&self, size_log2: u8) -> Option<PhysAddr> {
        self.0.allocate(size_log2)
    }
    fn free(&self, table: PhysAddr, size_log2: u8) {
        self.0.free(table, size_log2);
    }
}

impl<F: Format> Ours<F> {
    fn new(format: F) -> Self {
        // SAFETY: only the tables allocated from it are reached through it, by this `PageTable`, on this thread.
        let memory = Box::new(Memory(unsafe { HostMemory::new(64 << 20) }));
        Self(PageTable::new(format, memory).expect("memory for a root"))
    }

    fn map(&self, iova: u64, address: u64, size: u64) {
        let attributes = Attributes::new(Rights::from_access(Access::READ_WRITE | Access::EXECUTE));
        let mut gather = Gather::new();
        self.0.map(&Map::new(Iova(iova), PhysAddr(address), size, attributes), &mut gather).expect("maps");
        debug_assert!(gather.is_empty());
    }

    fn unmap(&self, iova: u64, size: u64) {
        let mut gather = Gather::new();
        self.0.unmap(Iova(iova), size, &mut Split::Refuse, &mut gather).expect("unmaps");
    }
}

/// Turns that map everything and turns that unmap it again; each times its own half.
fn there_and_back<'a>(
    contest: Contest<'a>,
    names: [&'static str; 2],
    operations: u64,
    map: impl Fn() + Clone + 'a,
    unmap: impl Fn() + Clone + 'a,
) -> Contest<'a> {
    map();
    unmap();
    let timed = move |work: &dyn Fn()| -> Turn {
        let start = Instant::now();
        work();
        (start.elapsed(), operations)
    };
    let (map_too, unmap_too) = (map.clone(), unmap.clone());
    contest
        .with_own_clock(names[0], move || {
            let turn = timed(&map);
            unmap();
            turn
        })
        .with_own_clock(names[1], move || {
            map_too();
            timed(&unmap_too)
        })
}

fn single_pages(effort: Effort) -> Vec<Row> {
    const PAGES: u64 = 4096;
    let mut rows = Vec::new();
    for (name, order) in [("sequential", (0..PAGES).collect()), ("random", scrambled(PAGES))] {
        fn enter<'a, F: Format>(
            contest: Contest<'a>,
            names: [&'static str; 2],
            ours: &'a Ours<F>,
            order: &'a [u64],
        ) -> Contest<'a> {
            let map =
                || order.iter().for_each(|page| ours.map(black_box(page * PAGE), target(*page, PAGES), PAGE));
            let unmap = || order.iter().for_each(|page| ours.unmap(black_box(page * PAGE), PAGE));
            there_and_back(contest, names, PAGES, map, unmap)
        }
        let (vtd, x86, amd) =
            (Ours::new(VtdSecondStage::new(4)), Ours::new(X86::new(4)), Ours::new(AmdV1::new(4)));
        let theirs = RefCell::new(X86Crate::new());
        let map = || {
            let mut theirs = theirs.borrow_mut();
            order.iter().for_each(|page| theirs.map(black_box(page * PAGE), target(*page, PAGES)));
        };
        let unmap = || {
            let mut theirs = theirs.borrow_mut();
            order.iter().for_each(|page| theirs.unmap(black_box(page * PAGE)));
        };
        let contest = enter(Contest::new().sitting(4), ["vtd/map", "vtd/unmap"], &vtd, &order);
        let contest = enter(contest, ["x86/map", "x86/unmap"], &x86, &order);
        let contest = enter(contest, ["amd-v1/map", "amd-v1/unmap"], &amd, &order);
        let contest = there_and_back(contest, ["crate/map", "crate/unmap"], PAGES, map, unmap);
        let outcome = contest.run(effort.contest);
        for half in ["map", "unmap"] {
            let of = |who: &str| outcome.of(&format!("{who}/{half}")).best();
            let row = format!("pagetable/{half}/4KiB/{name}");
            let peers =
                [("x86_64-crate", of("crate")), ("ours-x86", of("x86")), ("ours-amd-v1", of("amd-v1"))];
            rows.push(Row::new(row, "ns", of("vtd"), Goal::AtMost(10.0)).beside(peers));
        }
    }
    rows
}

fn runs(effort: Effort) -> Vec<Row> {
    const RUN: u64 = 256 * PAGE;
    // Each in the first half of a leaf table, and not congruent with what it leads to, so that 4 KiB is all that fits.
    let starts: Vec<u64> = (0..16).map(|index| index * 2 * RUN).collect();
    fn enter<'a, F: Format>(
        contest: Contest<'a>,
        names: [&'static str; 2],
        ours: &'a Ours<F>,
        starts: &'a [u64],
    ) -> Contest<'a> {
        let map =
            || starts.iter().for_each(|start| ours.map(black_box(*start), *start + (1 << 34) + PAGE, RUN));
        let unmap = || starts.iter().for_each(|start| ours.unmap(black_box(*start), RUN));
        there_and_back(contest, names, starts.len() as u64, map, unmap)
    }
    let (vtd, x86, amd) =
        (Ours::new(VtdSecondStage::new(4)), Ours::new(X86::new(4)), Ours::new(AmdV1::new(4)));
    let contest = enter(Contest::new().sitting(16), ["vtd/map", "vtd/unmap"], &vtd, &starts);
    let contest = enter(contest, ["x86/map", "x86/unmap"], &x86, &starts);
    let outcome = enter(contest, ["amd-v1/map", "amd-v1/unmap"], &amd, &starts).run(effort.contest);
    let rows = [("map", Goal::AtMost(100.0)), ("unmap", Goal::None)].map(|(half, goal)| {
        let of = |who: &str| outcome.of(&format!("{who}/{half}")).best();
        let others = [("ours-x86", of("x86")), ("ours-amd-v1", of("amd-v1"))];
        Row::new(format!("pagetable/{half}/256x4KiB"), "ns", of("vtd"), goal).beside(others)
    });
    rows.into()
}

fn walks(effort: Effort) -> Vec<Row> {
    let mut rows = Vec::new();
    for pages in [64, 4096, 262_144] {
        let order = scrambled(pages);
        fn enter<'a, F: Format + 'a>(
            contest: Contest<'a>,
            name: &'static str,
            format: F,
            order: &[u64],
        ) -> Contest<'a> {
            let ours = Ours::new(format);
            let pages = order.len() as u64;
            (0..pages).for_each(|index| ours.map(index * PAGE, target(index, pages), PAGE));
            let mut rounds = Rounds::new(order.to_vec());
            contest.with(name, move || {
                let some = rounds.turn();
                for page in some {
                    let walk = ours.0.walk(Iova(page * PAGE + 0x123));
                    let Ok(found) = walk.end else { unreachable!("mapped") };
                    black_box(found.address.0);
                    black_box(walk.rights.bits());
                }
                some.len() as u64
            })
        }
        let mut theirs = X86Crate::new();
        (0..pages).for_each(|index| theirs.map(index * PAGE, target(index, pages)));
        let mut rounds = Rounds::new(order.clone());
        let contest =
            enter(Contest::new().sitting(Rounds::sitting(pages)), "vtd", VtdSecondStage::new(4), &order);
        let contest = enter(contest, "ours-x86", X86::new(4), &order);
        let contest = enter(contest, "ours-amd-v1", AmdV1::new(4), &order);
        let outcome = contest
            .with("x86_64-crate", || {
                let some = rounds.turn();
                for page in some {
                    black_box(theirs.translate(page * PAGE + 0x123));
                }
                some.len() as u64
            })
            .run(effort.contest);
        let vtd = outcome.of("vtd").best();
        let name = format!("pagetable/walk/{pages}");
        rows.push(Row::new(&name, "ns", vtd, Goal::None).beside(outcome.peers("vtd")));
        let times = vtd / outcome.of("x86_64-crate").best();
        rows.push(Row::new(format!("{name}/of-x86_64-crate"), "x", times, Goal::AtMost(1.5)));
    }
    rows
}

pub(crate) fn rows(effort: Effort) -> Vec<Row> {
    single_pages(effort).into_iter().chain(runs(effort)).chain(walks(effort)).collect()
}
