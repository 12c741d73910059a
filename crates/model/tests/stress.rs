//! Devices that translate without pause while software unmaps, on every architecture and through its own command queue. A
//! shadow says which frames may be used; a use of another after the completion is stale, and there must be none.
//!
//! The test takes a second for each architecture; `STRESS_SECONDS` in the environment says another number.

mod common;
mod riscv_machine;
mod smmuv3_machine;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use portcullis_model::engine::Architecture;
use portcullis_model::riscv::config::RiscvConfig;
use portcullis_model::{GuestMemory, OwnedMemory, Port};
use portcullis_spec::{Access, Iova, PhysAddr};

const PAGE: u64 = 0x1000;
const IOVA: u64 = 0x4000_5000;
/// Frames that are mapped in turn, far from tables and queues.
const FRAMES: [u64; 4] = [0xc0_0000, 0xc0_1000, 0xc0_2000, 0xc0_3000];
/// What leaf tables lead to that are somebody else's by now.
const FOREIGN: u64 = 0xc0_8000;

/// A unit with one device and tables for it.
trait World {
    type Architecture: Architecture;

    fn memory(&self) -> &OwnedMemory;
    fn port(&self) -> Port<Self::Architecture>;
    /// The entry above the leaf table that `IOVA` goes through, and two leaf tables.
    fn link(&self) -> (u64, [u64; 2]);
    fn link_to(&self, table: u64) -> u64;
    fn leaf_to(&self, frame: u64) -> u64;
    /// Invalidates `IOVA` and returns once the unit says that it is done. `leaf` says that no table entry changed.
    fn forget(&mut self, leaf: bool);
}

/// Which frames devices may use.
#[derive(Default)]
struct Shadow {
    revoked: [AtomicBool; FRAMES.len()],
    uses: AtomicU64,
    stale: AtomicU64,
    stop: AtomicBool,
}

impl Shadow {
    fn is_stale(&self, address: PhysAddr) -> bool {
        let frame = address.0 & !(PAGE - 1);
        let known = FRAMES.iter().position(|known| *known == frame);
        known.is_none_or(|index| self.revoked[index].load(Ordering::SeqCst))
    }

    /// Guards of 32 translations, each looked at once it is there and once more before the guard ends.
    fn translate<A: Architecture>(&self, port: &Port<A>) {
        while !self.stop.load(Ordering::Relaxed) {
            let guard = port.enter();
            let mut found = [PhysAddr(FRAMES[0]); 32];
            let (mut count, mut stale) = (0, 0);
            for place in &mut found {
                if let Ok(translation) = guard.translate(Iova(IOVA + 8), 8, Access::READ_WRITE) {
                    stale += u64::from(self.is_stale(translation.address));
                    *place = translation.address;
                    count += 1;
                }
            }
            if count == 32 {
                stale += found.iter().filter(|address| self.is_stale(**address)).count() as u64;
            }
            drop(guard);
            self.uses.fetch_add(count, Ordering::Relaxed);
            self.stale.fetch_add(stale, Ordering::Relaxed);
        }
    }
}

fn stress<W: World>(mut world: W) {
    let seconds = std::env::var("STRESS_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let (link, tables) = world.link();
    let put = |world: &W, at: u64, value: u64| world.memory().store64(PhysAddr(at), value).unwrap();
    let slot = |table: u64| table + (IOVA >> 12 & 511) * 8;
    let (mut table, mut frame) = (0, 0);
    put(&world, slot(tables[0]), world.leaf_to(FRAMES[0]));
    put(&world, link, world.link_to(tables[0]));
    world.forget(false);
    let shadow = Shadow::default();
    for index in 1..FRAMES.len() {
        shadow.revoked[index].store(true, Ordering::SeqCst);
    }
    let ports = [world.port(), world.port()];
    std::thread::scope(|scope| {
        for port in &ports {
            scope.spawn(|| shadow.translate(port));
        }
        let end = Instant::now() + Duration::from_secs(seconds);
        let mut rounds = 0u64;
        // On a busy machine the devices are behind.
        while Instant::now() < end || rounds < 50 || shadow.uses.load(Ordering::Relaxed) < 1000 {
            rounds += 1;
            let next = (frame + 1) % FRAMES.len();
            shadow.revoked[next].store(false, Ordering::SeqCst);
            // Three times the page leads elsewhere, then the table above leads to another leaf table.
            let relink = rounds.is_multiple_of(4);
            if relink {
                put(&world, slot(tables[1 - table]), world.leaf_to(FRAMES[next]));
                put(&world, link, world.link_to(tables[1 - table]));
            } else {
                put(&world, slot(tables[table]), world.leaf_to(FRAMES[next]));
            }
            world.forget(!relink);
            // It is done: the old frame is somebody else's, and so is the old table.
            shadow.revoked[frame].store(true, Ordering::SeqCst);
            if relink {
                put(&world, slot(tables[table]), world.leaf_to(FOREIGN));
                table = 1 - table;
            }
            frame = next;
            if rounds.is_multiple_of(64) {
                // So that devices get on where processors are few.
                std::thread::yield_now();
            }
        }
        shadow.stop.store(true, Ordering::Relaxed);
    });
    let (uses, stale) = (shadow.uses.into_inner(), shadow.stale.into_inner());
    println!("{uses} uses, {stale} stale");
    assert_eq!(stale, 0, "stale uses of {uses}");
}

struct Vtd {
    machine: common::Machine,
    link: u64,
    tables: [u64; 2],
}

impl World for Vtd {
    type Architecture = portcullis_model::vtd::Vtd;

    fn memory(&self) -> &OwnedMemory {
        &self.machine.memory
    }
    fn port(&self) -> Port<Self::Architecture> {
        self.machine.port(common::DEVICE)
    }
    fn link(&self) -> (u64, [u64; 2]) {
        (self.link, self.tables)
    }
    fn link_to(&self, table: u64) -> u64 {
        table | 3
    }
    fn leaf_to(&self, frame: u64) -> u64 {
        frame | 3
    }
    fn forget(&mut self, leaf: bool) {
        // A page-selective invalidation; IH is bit 6 of the address word (VT-d 6.5.2.3).
        assert!(self.machine.submit(&[[2 | 3 << 4 | 7 << 16, IOVA | u64::from(leaf) << 6]]));
    }
}

#[test]
fn no_use_is_stale_on_vtd() {
    let mut machine = common::Machine::legacy();
    let root = machine.allocate();
    let tables = [machine.allocate(), machine.allocate()];
    machine.attach(common::DEVICE, root, 7);
    let link = machine.map_at(root, 4, 1, IOVA, 3, tables[0] | 3);
    stress(Vtd { machine, link, tables });
}

/// Nested translation: every table and page of the first stage lies behind a second that maps all memory as it is.
#[test]
fn no_use_is_stale_on_nested_vtd() {
    struct Nested(Vtd);

    impl World for Nested {
        type Architecture = portcullis_model::vtd::Vtd;

        fn memory(&self) -> &OwnedMemory {
            self.0.memory()
        }
        fn port(&self) -> Port<Self::Architecture> {
            self.0.port()
        }
        fn link(&self) -> (u64, [u64; 2]) {
            self.0.link()
        }
        fn link_to(&self, table: u64) -> u64 {
            table | 0x27
        }
        fn leaf_to(&self, frame: u64) -> u64 {
            frame | 0x67
        }
        fn forget(&mut self, leaf: bool) {
            // PASID-based, page-selective, of domain 7 and PASID 0 (VT-d 6.5.2.4).
            assert!(self.0.machine.submit(&[[6 | 3 << 4 | 7 << 16, IOVA | u64::from(leaf) << 6]]));
        }
    }
    let mut machine = common::Machine::scalable();
    let (first, second) = (machine.allocate(), machine.allocate());
    for block in (0..common::MEMORY).step_by(0x20_0000) {
        machine.map_at(second, 4, 1, block, 3, block | 3 | common::PS);
    }
    machine.pasid(common::DEVICE, 0, [second | 3 << 6 | 2 << 2 | 1, 1 << 23 | 7, first]);
    let tables = [machine.allocate(), machine.allocate()];
    let link = machine.map_at(first, 4, 1, IOVA, 0x27, tables[0] | 0x27);
    stress(Nested(Vtd { machine, link, tables }));
}

struct Smmu {
    machine: smmuv3_machine::Machine,
    link: u64,
    tables: [u64; 2],
}

impl World for Smmu {
    type Architecture = portcullis_model::smmuv3::Smmuv3;

    fn memory(&self) -> &OwnedMemory {
        &self.machine.memory
    }
    fn port(&self) -> Port<Self::Architecture> {
        self.machine.unit.port(smmuv3_machine::STREAM, None)
    }
    fn link(&self) -> (u64, [u64; 2]) {
        (self.link, self.tables)
    }
    fn link_to(&self, table: u64) -> u64 {
        table | 3
    }
    fn leaf_to(&self, frame: u64) -> u64 {
        frame | smmuv3_machine::S1 | smmuv3_machine::USER | 3
    }
    fn forget(&mut self, leaf: bool) {
        // CMD_TLBI_NH_VA of ASID 1 (SMMUv3 4.4.2.3).
        self.machine.command(&[[0x12 | 1 << 48, IOVA | u64::from(leaf)]]);
    }
}

#[test]
fn no_use_is_stale_on_smmuv3() {
    let mut machine = smmuv3_machine::Machine::new();
    let root = machine.attach(smmuv3_machine::STREAM, 1);
    let tables = [machine.allocate(), machine.allocate()];
    let link = machine.map_from(root, 1, 2, IOVA, tables[0] | 3);
    stress(Smmu { machine, link, tables });
}

struct Riscv {
    bench: riscv_machine::Bench,
    link: u64,
    tables: [u64; 2],
}

impl World for Riscv {
    type Architecture = portcullis_model::riscv::Riscv;

    fn memory(&self) -> &OwnedMemory {
        &self.bench.memory
    }
    fn port(&self) -> Port<Self::Architecture> {
        self.bench.port(riscv_machine::DEVICE, None)
    }
    fn link(&self) -> (u64, [u64; 2]) {
        (self.link, self.tables)
    }
    fn link_to(&self, table: u64) -> u64 {
        riscv_machine::pte(table, riscv_machine::V)
    }
    fn leaf_to(&self, frame: u64) -> u64 {
        riscv_machine::pte(frame, riscv_machine::LEAF)
    }
    fn forget(&mut self, leaf: bool) {
        // IOTINVAL.VMA, of one address where no table changed, and IOFENCE.C (RISC-V IOMMU 3.1.1, 3.1.2).
        let command = if leaf { [1 | 1 << 10, IOVA >> 12 << 10] } else { [1, 0] };
        assert_eq!(self.bench.commands(&[command, [2, 0]]), 1 << 16 | 1);
    }
}

#[test]
fn no_use_is_stale_on_riscv() {
    let bench = riscv_machine::Bench::on(RiscvConfig::default());
    let root = bench.first_stage(riscv_machine::DEVICE, 3, IOVA);
    let tables = [bench.page(), bench.page()];
    let link = bench.map(root, 3, 1, IOVA, riscv_machine::pte(tables[0], riscv_machine::V));
    stress(Riscv { bench, link, tables });
}
