//! The page-table engine beside the `x86_64` crate's mapper: map, unmap and walk, in tables of this process.
//!
//! Every figure is for one operation. Tables exist before the clock starts, as they do in a domain that has been used.
#![allow(unsafe_code, missing_docs)]

use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use portcullis_bench::host_memory::HostMemory;
use portcullis_pagetable::format::{AmdV1, VtdSecondStage, X86};
use portcullis_pagetable::{Attributes, Format, Gather, Map, PageTable, Rights, Split, TableAllocator};
use portcullis_spec::{Access, Iova, PhysAddr};
use std::cell::Cell;
use std::hint::black_box;
use std::time::{Duration, Instant};
use x86_64::structures::paging::mapper::{Mapper, TranslateResult};
use x86_64::structures::paging::{
    FrameAllocator, OffsetPageTable, Page, PageTable as X86Table, PageTableFlags, PhysFrame, Size4KiB,
    Translate,
};
use x86_64::{PhysAddr as X86Phys, VirtAddr};

const PAGE: u64 = 4096;
const SIZES: [u64; 3] = [64, 4096, 262_144];

/// Order and physical addresses, scrambled the same way for everybody.
fn scrambled(pages: u64) -> Vec<u64> {
    let mut order: Vec<u64> = (0..pages).collect();
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for index in (1..order.len()).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        order.swap(index, (state % (index as u64 + 1)) as usize);
    }
    order
}

/// Where page `index` of `pages` leads.
fn target(index: u64, pages: u64) -> u64 {
    (index.wrapping_mul(0x9e37_79b1) % pages) * PAGE + (1 << 34)
}

fn memory() -> HostMemory {
    // SAFETY: only the tables allocated from it are reached through it: by `PageTable`s, and by the other mapper in its own.
    unsafe { HostMemory::new(64 << 20) }
}

/// The time of `iterations` of something that `batch` does `each` times, by the fastest of the rounds that this takes: on a machine
/// that others use too, slower rounds measure the others. `undo` is not timed.
fn timed(iterations: u64, each: u64, mut batch: impl FnMut(), mut undo: impl FnMut()) -> Duration {
    let mut fastest = Duration::MAX;
    let mut done = 0;
    while done < iterations {
        let start = Instant::now();
        batch();
        fastest = fastest.min(start.elapsed());
        undo();
        done += each;
    }
    fastest.mul_f64(iterations as f64 / each as f64)
}

/// An order in rounds of at most 4096, short enough to be over before somebody else wants the processor.
struct Rounds<'a> {
    order: &'a [u64],
    at: Cell<usize>,
}

impl<'a> Rounds<'a> {
    const fn new(order: &'a [u64]) -> Self {
        Self { order, at: Cell::new(0) }
    }

    fn each(&self) -> u64 {
        self.order.len().min(4096) as u64
    }

    fn next(&self) -> &'a [u64] {
        let start = self.at.get();
        let end = start + self.each() as usize;
        self.at.set(end % self.order.len());
        &self.order[start..end]
    }
}

fn attributes() -> Attributes {
    Attributes::new(Rights::from_access(Access::READ_WRITE | Access::EXECUTE))
}

struct Ours<'a, F>(PageTable<F, &'a HostMemory>);

impl<'a, F: Format> Ours<'a, F> {
    fn new(format: F, memory: &'a HostMemory) -> Self {
        Self(PageTable::new(format, memory).expect("memory for a root"))
    }

    fn map(&self, iova: u64, address: u64, size: u64) {
        let mut gather = Gather::new();
        self.0.map(&Map::new(Iova(iova), PhysAddr(address), size, attributes()), &mut gather).expect("maps");
        debug_assert!(gather.is_empty());
    }

    fn unmap(&self, iova: u64, size: u64) {
        let mut gather = Gather::new();
        self.0.unmap(Iova(iova), size, &mut Split::Refuse, &mut gather).expect("unmaps");
    }
}

struct Frames<'a>(&'a HostMemory);

// SAFETY: frames come from the allocator, which gives none out twice.
unsafe impl FrameAllocator<Size4KiB> for Frames<'_> {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        let frame = self.0.allocate(12)?;
        Some(PhysFrame::containing_address(X86Phys::new(frame.0)))
    }
}

struct Theirs<'a> {
    table: OffsetPageTable<'a>,
    frames: Frames<'a>,
}

impl<'a> Theirs<'a> {
    fn new(memory: &'a HostMemory) -> Self {
        let root = memory.allocate(12).expect("memory for a root");
        let root = std::ptr::with_exposed_provenance_mut::<X86Table>(root.0 as usize);
        // SAFETY: a zeroed table of our own that nobody else uses, and frames that lie where their addresses say.
        let table = unsafe { OffsetPageTable::new(&mut *root, VirtAddr::new(0)) };
        Self { table, frames: Frames(memory) }
    }

    fn map(&mut self, iova: u64, address: u64) {
        let page = Page::<Size4KiB>::containing_address(VirtAddr::new(iova));
        let frame = PhysFrame::containing_address(X86Phys::new(address));
        let flags = PageTableFlags::PRESENT | PageTableFlags::WRITABLE;
        // SAFETY: nothing runs on these tables.
        unsafe { self.table.map_to(page, frame, flags, &mut self.frames) }.expect("maps").ignore();
    }

    fn unmap(&mut self, iova: u64) {
        let page = Page::<Size4KiB>::containing_address(VirtAddr::new(iova));
        self.table.unmap(page).expect("unmaps").1.ignore();
    }
}

fn map_ours<F: Format>(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, format: F, order: &[u64]) {
    let memory = memory();
    let ours = Ours::new(format, &memory);
    let pages = order.len() as u64;
    let all =
        || order.iter().for_each(|index| ours.map(black_box(index * PAGE), target(*index, pages), PAGE));
    let none = || order.iter().for_each(|index| ours.unmap(black_box(index * PAGE), PAGE));
    all();
    none();
    group.bench_function(format!("map/{name}"), |b| b.iter_custom(|n| timed(n, pages, all, none)));
    all();
    group.bench_function(format!("unmap/{name}"), |b| b.iter_custom(|n| timed(n, pages, none, all)));
}

fn map_theirs(group: &mut BenchmarkGroup<'_, WallTime>, order: &[u64]) {
    let memory = memory();
    let theirs = std::cell::RefCell::new(Theirs::new(&memory));
    let pages = order.len() as u64;
    let all = || {
        let mut theirs = theirs.borrow_mut();
        order.iter().for_each(|index| theirs.map(black_box(index * PAGE), target(*index, pages)));
    };
    let none = || {
        let mut theirs = theirs.borrow_mut();
        order.iter().for_each(|index| theirs.unmap(black_box(index * PAGE)));
    };
    all();
    none();
    group.bench_function("map/x86_64 crate", |b| b.iter_custom(|n| timed(n, pages, all, none)));
    all();
    group.bench_function("unmap/x86_64 crate", |b| b.iter_custom(|n| timed(n, pages, none, all)));
}

fn single_pages(criterion: &mut Criterion) {
    for (order_name, order) in [("sequential", (0..4096).collect()), ("random", scrambled(4096))] {
        let mut group = criterion.benchmark_group(format!("one 4 KiB page, {order_name}"));
        group.throughput(Throughput::Elements(1));
        map_ours(&mut group, "VT-d second stage", VtdSecondStage::new(4), &order);
        map_ours(&mut group, "x86", X86::new(4), &order);
        map_ours(&mut group, "AMD v1", AmdV1::new(4), &order);
        map_theirs(&mut group, &order);
        group.finish();
    }
}

fn runs<F: Format>(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, format: F) {
    const RUN: u64 = 256 * PAGE;
    let memory = memory();
    let ours = Ours::new(format, &memory);
    // Each in the first half of a leaf table, and not congruent with what it leads to, so that 4 KiB is all that fits.
    let starts: Vec<u64> = (0..16).map(|index| index * 2 * RUN).collect();
    let all = || starts.iter().for_each(|start| ours.map(black_box(*start), *start + (1 << 34) + PAGE, RUN));
    let none = || starts.iter().for_each(|start| ours.unmap(black_box(*start), RUN));
    all();
    none();
    let each = starts.len() as u64;
    group.bench_function(format!("map/{name}"), |b| b.iter_custom(|n| timed(n, each, all, none)));
    all();
    group.bench_function(format!("unmap/{name}"), |b| b.iter_custom(|n| timed(n, each, none, all)));
}

fn runs_of_256(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("256 pages of 4 KiB in one call");
    runs(&mut group, "VT-d second stage", VtdSecondStage::new(4));
    runs(&mut group, "x86", X86::new(4));
    runs(&mut group, "AMD v1", AmdV1::new(4));
    group.finish();
}

fn walk_ours<F: Format>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    format: F,
    order: &[u64],
    pages: u64,
) {
    let memory = memory();
    let ours = Ours::new(format, &memory);
    (0..pages).for_each(|index| ours.map(index * PAGE, target(index, pages), PAGE));
    let rounds = Rounds::new(order);
    let all = || {
        for index in rounds.next() {
            let walk = ours.0.walk(Iova(index * PAGE + 0x123));
            match walk.end {
                Ok(found) => {
                    debug_assert_eq!(found.address.0, target(*index, pages) + 0x123);
                    black_box(found.address.0);
                    black_box(walk.rights.bits());
                }
                Err(_) => unreachable!("mapped"),
            }
        }
    };
    group.bench_function(format!("{name}/{pages}"), |b| {
        b.iter_custom(|n| timed(n, rounds.each(), all, || ()));
    });
}

fn walks(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("walk");
    group.throughput(Throughput::Elements(1));
    for pages in SIZES {
        let order = scrambled(pages);
        walk_ours(&mut group, "VT-d second stage", VtdSecondStage::new(4), &order, pages);
        walk_ours(&mut group, "x86", X86::new(4), &order, pages);
        walk_ours(&mut group, "AMD v1", AmdV1::new(4), &order, pages);
        let memory = memory();
        let mut theirs = Theirs::new(&memory);
        (0..pages).for_each(|index| theirs.map(index * PAGE, target(index, pages)));
        let rounds = Rounds::new(&order);
        let all = || {
            for index in rounds.next() {
                match theirs.table.translate(VirtAddr::new(index * PAGE + 0x123)) {
                    TranslateResult::Mapped { frame, offset, flags } => {
                        black_box((frame.start_address() + offset).as_u64());
                        black_box(flags.bits());
                    }
                    _ => unreachable!("mapped"),
                }
            }
        };
        group.bench_function(format!("x86_64 crate/{pages}"), |b| {
            b.iter_custom(|n| timed(n, rounds.each(), all, || ()));
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .without_plots()
        .nresamples(1000)
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(500));
    targets = single_pages, runs_of_256, walks
}
criterion_main!(benches);
