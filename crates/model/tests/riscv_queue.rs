//! The command queue (RISC-V IOMMU 3.1, 5.6 to 5.8, 5.15, and the extensions of chapter 7).

mod riscv_machine;

use portcullis_model::Registers;
use portcullis_model::riscv::config::{Interrupts, RiscvConfig};
use portcullis_spec::Access;
use riscv_machine::*;

/// `IOTINVAL`: AV, PSCV, GV; NL.
const AV: u64 = 1 << 10;
const PSCV: u64 = 1 << 32;
const GV: u64 = 1 << 33;
const NL: u64 = 1 << 34;
/// Second word: S.
const S: u64 = 1 << 9;

const CMD_ILL: u32 = 1 << 10;
const CQMF: u32 = 1 << 8;
const FENCE_W_IP: u32 = 1 << 11;
const ON: u32 = 1 << 16 | 1;

const fn vma(operands: u64, pscid: u64, gscid: u64, address: u64) -> [u64; 2] {
    [1 | operands | pscid << 12 | gscid << 44, address >> 12 << 10]
}

const fn gvma(operands: u64, gscid: u64, address: u64) -> [u64; 2] {
    [1 | 1 << 7 | operands | gscid << 44, address >> 12 << 10]
}

const fn napot(command: [u64; 2]) -> [u64; 2] {
    [command[0], command[1] | S]
}

const FENCE: [u64; 2] = [2, 0];

#[test]
fn the_head_follows_the_tail_around_the_ring() {
    let bench = Bench::on(RiscvConfig::default());
    for round in 1..600u32 {
        assert_eq!(bench.commands(&[FENCE]), ON);
        assert_eq!(bench.unit.read32(CQH), round & 0xff);
    }
    // Turned off, nothing is taken; turned on, the head is 0 again.
    bench.unit.write32(CQCSR, 0);
    assert_eq!(bench.unit.read32(CQCSR), 0);
    let head = bench.unit.read32(CQH);
    bench.commands(&[FENCE]);
    assert_eq!(bench.unit.read32(CQH), head);
    bench.unit.write32(CQT, 0);
    bench.unit.write32(CQCSR, 1);
    assert_eq!((bench.unit.read32(CQH), bench.unit.read32(CQCSR)), (0, ON));
}

#[test]
fn a_queue_of_two_entries_and_the_largest_that_there_is() {
    let bench = Bench::new(RiscvConfig { queue_entries_log2: 9, ..RiscvConfig::default() });
    for (written, log2szm1, mask) in [(0, 0, 1), (8, 8, 0x1ff), (31, 8, 0x1ff)] {
        bench.unit.write32(CQCSR, 0);
        bench.unit.write64(CQB, TARGET >> 2 | written);
        assert_eq!(bench.unit.read64(CQB), TARGET >> 2 | log2szm1);
        bench.unit.write32(CQT, !0);
        assert_eq!(bench.unit.read32(CQT), mask);
        for entry in 0..=u64::from(mask) {
            bench.put(TARGET + entry * 16, 2);
        }
        bench.unit.write32(CQCSR, 1);
        assert_eq!(bench.unit.read32(CQH), mask);
    }
    // 5.6: the base is fixed while the queue is on.
    bench.unit.write64(CQB, 0);
    assert_ne!(bench.unit.read64(CQB), 0);
}

#[test]
fn a_fence_writes_where_it_is_told() {
    let bench = Bench::on(RiscvConfig::default());
    bench.put(TARGET, !0);
    // AV, PR, PW.
    let fence = |data: u64, address: u64| [2 | 1 << 10 | 1 << 12 | 1 << 13 | data << 32, address >> 2];
    assert_eq!(bench.commands(&[fence(0x1234_5678, TARGET + 4)]), ON);
    assert_eq!(bench.get(TARGET), 0x1234_5678_ffff_ffff);
    // Nothing is written without AV.
    bench.commands(&[[2 | 7 << 32, TARGET >> 2]]);
    assert_eq!(bench.get(TARGET), 0x1234_5678_ffff_ffff);
    // 3.1.2: a fault of that write stops the queue on the fence.
    let head = bench.unit.read32(CQH);
    assert_eq!(bench.commands(&[fence(1, MEMORY), fence(2, TARGET)]), ON | CQMF);
    assert_eq!(bench.unit.read32(CQH), head);
    assert_eq!(bench.get(TARGET) >> 32, 0x1234_5678);
    // Mended, it goes on there when the error is cleared.
    bench.put(QUEUE + u64::from(head) * 16 + 8, (TARGET + 8) >> 2);
    bench.unit.write32(CQCSR, 1 | CQMF);
    assert_eq!(bench.unit.read32(CQCSR), ON);
    assert_eq!((bench.get(TARGET) as u32, bench.get(TARGET + 8) as u32), (2, 1));
}

#[test]
fn a_queue_outside_of_memory_is_a_memory_fault() {
    let bench = Bench::on(RiscvConfig::default());
    bench.unit.write32(CQCSR, 0);
    bench.unit.write64(CQB, MEMORY >> 2 | 7);
    bench.unit.write32(CQT, 1);
    bench.unit.write32(CQCSR, 1);
    assert_eq!(bench.unit.read32(CQCSR), ON | CQMF);
    assert_eq!(bench.unit.read32(CQH), 0);
    // 5.15: turning it on again clears the errors.
    bench.unit.write32(CQCSR, 0);
    bench.unit.write64(CQB, QUEUE >> 2 | 7);
    bench.put(QUEUE, 2);
    bench.unit.write32(CQCSR, 1);
    assert_eq!((bench.unit.read32(CQCSR), bench.unit.read32(CQH)), (ON, 1));
}

#[test]
fn illegal_commands_stop_the_queue() {
    let bench =
        Bench::on(RiscvConfig { interrupts: Interrupts::Messages, pd20: false, ..RiscvConfig::default() });
    bench.set_levels(2);
    let mut illegal = vec![
        // Opcodes and functions that are reserved or for custom use.
        [0, 0],
        [5, 0],
        [64, 0],
        [127, 0],
        [1 | 2 << 7, 0],
        [2 | 1 << 7, 0],
        [3 | 2 << 7, 0],
        // PSCV with GVMA; bit 34 without NL and bit 73 without S, also where AV is 0.
        gvma(GV | PSCV, 5, 0),
        vma(NL, 0, 0, 0),
        gvma(GV | NL, 5, 0),
        napot(vma(AV, 0, 0, 0)),
        napot(vma(0, 0, 0, 0)),
        napot(gvma(GV, 5, 0)),
        // WSI where no wires are enabled.
        [2 | 1 << 11, 0],
        // INVAL_DDT with a PID; INVAL_PDT without DV; device_ids and process_ids that are too wide.
        [3 | 1 << 12, 0],
        [3 | 1 << 7, 0],
        [3 | 1 << 33 | 0x1_0000 << 40, 0],
        [3 | 1 << 7 | 1 << 33 | 0x1_0000 << 40, 0],
        [3 | 1 << 7 | 1 << 33 | 0x2_0000 << 12, 0],
        // ATS is not there.
        [4, 0],
        [4 | 1 << 7, 0],
    ];
    illegal.extend((14..32).map(|bit| [2 | 1 << bit, 0]));
    illegal.extend((62..64).map(|bit| [2, 1 << bit]));
    illegal.extend([11].into_iter().chain(35..44).chain(60..64).map(|bit| [1 | 1 << bit, 0]));
    illegal.extend((0..9).chain(62..64).map(|bit| [1, 1 << bit]));
    illegal.extend([10, 11, 32].into_iter().chain(34..40).map(|bit| [3 | 1 << bit, 0]));
    illegal.extend((0..64).map(|bit| [3, 1 << bit]));
    for command in illegal {
        let head = bench.unit.read32(CQH);
        assert_eq!(bench.commands(&[command, FENCE]), ON | CMD_ILL, "{command:x?}");
        assert_eq!(bench.unit.read32(CQH), head);
        // Software replaces it and clears the error.
        bench.put(QUEUE + u64::from(head) * 16, 2);
        bench.put(QUEUE + u64::from(head) * 16 + 8, 0);
        bench.unit.write32(CQCSR, 1 | CMD_ILL);
        assert_eq!(bench.unit.read32(CQCSR), ON);
        assert_eq!(bench.unit.read32(CQH), (head + 2) & 0xff);
    }
}

/// What is cached of whom: two host spaces (PSCID 7 and 8), two guests (GSCID 5 and 6) with a second stage alone, and two spaces of guest
/// 5 (PSCID 7 and 8) with both. Each has pages at 0x5000 and 0x6000, and 2 MiB at 0x400000.
struct Cached {
    bench: Bench,
    leaves: Vec<u64>,
}

const DEVICES: [u32; 6] = [0, 1, 2, 3, 4, 5];
const PAGES: [u64; 3] = [0x5000, 0x6000, 0x40_0000];
const HOST_7: usize = 0;
const HOST_8: usize = 1;
const GUEST_5: usize = 2;
const GUEST_6: usize = 3;
const NESTED_7: usize = 4;
const NESTED_8: usize = 5;

impl Cached {
    fn new(config: RiscvConfig) -> Self {
        let bench = Bench::on(config);
        bench.unit.retain_translations();
        let mut leaves = Vec::new();
        let identity = bench.pages(4);
        for block in (0..MEMORY).step_by(0x20_0000) {
            bench.map_guest(identity, 3, 1, block, pte(block, LEAF));
        }
        for (device, (gscid, pscid)) in
            DEVICES.into_iter().zip([(0, 7), (0, 8), (5, 0), (6, 0), (5, 7), (5, 8)])
        {
            let root = bench.pages(4);
            let (first, second) = match (gscid, pscid) {
                (0, _) => (sv(3) | root >> 12, 0),
                (_, 0) => (0, sv(3) | gscid << 44 | root >> 12),
                _ => (sv(3) | root >> 12, sv(3) | gscid << 44 | identity >> 12),
            };
            bench.device(device, [V, second, pscid << 12, first]);
            for page in PAGES {
                let level = u64::from(page == 0x40_0000);
                let target = if level == 1 { 0x20_0000 } else { TARGET };
                leaves.push(bench.map_guest(root, 3, level, page, pte(target, LEAF)));
            }
        }
        Self { bench, leaves }
    }

    /// Caches everything, takes every page away, does `command`, and says what of which device was forgotten.
    fn forgotten(&self, command: [u64; 2]) -> [[bool; 3]; 6] {
        let bench = &self.bench;
        bench.forget_all();
        for device in DEVICES {
            for page in PAGES {
                assert!(bench.read(device, page).is_ok());
            }
        }
        let entries: Vec<_> = self.leaves.iter().map(|at| bench.get(*at)).collect();
        for at in &self.leaves {
            bench.put(*at, 0);
        }
        assert_eq!(bench.commands(&[command, FENCE]), ON, "{command:x?}");
        let seen = DEVICES.map(|device| PAGES.map(|page| bench.read(device, page).is_err()));
        for (at, entry) in self.leaves.iter().zip(entries) {
            bench.put(*at, entry);
        }
        seen
    }

    /// Expects that exactly these pages of these devices are forgotten: too much would be allowed, and is not what this model does, but
    /// for what `also` names.
    fn expect(&self, command: [u64; 2], devices: &[usize], pages: &[usize], also: &[usize]) {
        let seen = self.forgotten(command);
        for (device, seen) in seen.into_iter().enumerate() {
            let expected = [0, 1, 2]
                .map(|page| (devices.contains(&device) && pages.contains(&page)) || also.contains(&device));
            assert_eq!(seen, expected, "{command:x?}: device {device}");
        }
    }
}

trait ForgetAll {
    fn forget_all(&self);
}

impl ForgetAll for Bench {
    /// All that is cached, of guests' first stages too.
    fn forget_all(&self) {
        self.forget();
        self.commands(&[vma(GV, 0, 5, 0), vma(GV, 0, 6, 0)]);
    }
}

const ALL_PAGES: &[usize] = &[0, 1, 2];

#[test]
fn iotinval_vma_forgets_what_its_operands_name() {
    let cached = Cached::new(RiscvConfig::default());
    // 3.1.1, table of IOTINVAL.VMA, row by row.
    cached.expect(vma(0, 0, 0, 0), &[HOST_7, HOST_8], ALL_PAGES, &[]);
    cached.expect(vma(PSCV, 7, 0, 0), &[HOST_7], ALL_PAGES, &[]);
    cached.expect(vma(AV, 0, 0, 0x5000), &[HOST_7, HOST_8], &[0], &[]);
    cached.expect(vma(AV | PSCV, 8, 0, 0x6000), &[HOST_8], &[1], &[]);
    cached.expect(vma(GV, 0, 5, 0), &[NESTED_7, NESTED_8], ALL_PAGES, &[]);
    cached.expect(vma(GV | PSCV, 8, 5, 0), &[NESTED_8], ALL_PAGES, &[]);
    cached.expect(vma(GV | AV, 0, 5, 0x6000), &[NESTED_7, NESTED_8], &[1], &[]);
    cached.expect(vma(GV | AV | PSCV, 7, 5, 0x5000), &[NESTED_7], &[0], &[]);
    cached.expect(vma(GV, 0, 6, 0), &[], &[], &[]);
    // Operands whose valid bit is 0 do not matter.
    cached.expect(vma(0, 99, 5, 0x5000), &[HOST_7, HOST_8], ALL_PAGES, &[]);
    // Any address of a large page names it whole.
    cached.expect(vma(AV | PSCV, 7, 0, 0x5f_f000), &[HOST_7], &[2], &[]);
}

#[test]
fn iotinval_gvma_forgets_what_its_operands_name() {
    let cached = Cached::new(RiscvConfig::default());
    // 3.1.1, table of IOTINVAL.GVMA. What both stages gave does not know its guest address: all of the guest goes.
    let nested = &[NESTED_7, NESTED_8];
    cached.expect(gvma(0, 0, 0), &[GUEST_5, GUEST_6], ALL_PAGES, nested);
    cached.expect(gvma(AV, 6, 0x5000), &[GUEST_5, GUEST_6], ALL_PAGES, nested);
    cached.expect(gvma(GV, 6, 0), &[GUEST_6], ALL_PAGES, &[]);
    cached.expect(gvma(GV, 5, 0), &[GUEST_5], ALL_PAGES, nested);
    cached.expect(gvma(GV | AV, 6, 0x5000), &[GUEST_6], &[0], &[]);
    cached.expect(gvma(GV | AV, 5, 0x6000), &[GUEST_5], &[1], nested);
}

#[test]
fn ranges_and_non_leaf_entries_where_they_are_supported() {
    let cached = Cached::new(RiscvConfig { non_leaf: true, ranges: true, ..RiscvConfig::default() });
    cached.expect(vma(AV | PSCV | NL, 7, 0, 0x5000), &[HOST_7], &[0], &[]);
    cached.expect(gvma(GV | AV | NL, 6, 0x5000), &[GUEST_6], &[0], &[]);
    // Chapter 7: ADDR …0011 is 8 pages from 0, …0 is two, and all ones but the highest bit is everything.
    cached.expect(napot(vma(AV | PSCV, 7, 0, 0x3000)), &[HOST_7], &[0, 1], &[]);
    cached.expect(napot(vma(AV, 0, 0, 0x6000)), &[HOST_7, HOST_8], &[1], &[]);
    cached.expect(napot(vma(AV | GV, 0, 5, !0 >> 1)), &[NESTED_7, NESTED_8], ALL_PAGES, &[]);
    cached.expect(napot(gvma(AV | GV, 6, 0x3f_f000)), &[GUEST_6], ALL_PAGES, &[]);
}

#[test]
fn iodir_forgets_what_its_operands_name() {
    let bench = Bench::on(RiscvConfig::default());
    // Two devices with processes 1 and 2 of their own.
    let contexts: Vec<_> = [0x100u32, 0x10_0001]
        .into_iter()
        .map(|device| {
            let directory = bench.page();
            let at = bench.device(device, [V | PDTV | DPE, 0, 0, 1 << 60 | directory >> 12]);
            for process in 0..3 {
                bench.put(directory + process * 16, V);
            }
            (device, at, directory)
        })
        .collect();
    let who = [(0, None), (0, Some(1)), (0, Some(2)), (1, None), (1, Some(1))];
    let reach = |(index, pasid): (usize, Option<u32>)| {
        bench.access(&bench.port(contexts[index].0, pasid), 0x5000, Access::READ).is_ok()
    };
    let forgotten = |command: [u64; 2], devices: bool| {
        assert!(who.into_iter().all(reach));
        for (_, at, directory) in &contexts {
            bench.put(*at, if devices { 0 } else { V | PDTV | DPE });
            for process in 0..3 {
                bench.put(directory + process * 16, 0);
            }
        }
        assert_eq!(bench.commands(&[command, FENCE]), ON);
        let seen = who.map(|who| !reach(who));
        for (_, at, directory) in &contexts {
            bench.put(*at, V | PDTV | DPE);
            for process in 0..3 {
                bench.put(directory + process * 16, V);
            }
        }
        bench.forget();
        seen
    };
    const DV: u64 = 1 << 33;
    assert_eq!(forgotten([3, 0], true), [true; 5]);
    // A device with all of its processes; the operand counts with DV only.
    assert_eq!(forgotten([3 | DV | 0x100 << 40, 0], true), [true, true, true, false, false]);
    assert_eq!(forgotten([3 | 0x100 << 40, 0], true), [true; 5]);
    let pdt = |device: u64, process: u64| [3 | 1 << 7 | DV | process << 12 | device << 40, 0];
    assert_eq!(forgotten(pdt(0x100, 2), false), [false, false, true, false, false]);
    // What has no process_id is process 0's under DPE.
    assert_eq!(forgotten(pdt(0x100, 0), false), [true, false, false, false, false]);
    assert_eq!(forgotten(pdt(0x10_0001, 1), false), [false, false, false, false, true]);
}

#[test]
fn a_fence_can_raise_a_wire() {
    let bench = Bench::on(RiscvConfig { interrupts: Interrupts::Both, ..RiscvConfig::default() });
    let fence = [2 | 1 << 11, 0];
    assert_eq!(bench.commands(&[fence]), ON | CMD_ILL);
    bench.unit.write32(CQCSR, 0);
    bench.unit.write32(FCTL, 2);
    bench.unit.write32(CQT, 0);
    bench.unit.write32(CQCSR, 3);
    // civ 9.
    bench.unit.write64(ICVEC, 9);
    assert_eq!(bench.commands(&[fence]), ON | 2 | FENCE_W_IP);
    assert_eq!(bench.wires(), [9]);
    // It tells, and stops nothing.
    assert_eq!(bench.commands(&[fence]), ON | 2 | FENCE_W_IP);
    assert_eq!(bench.unit.read32(CQH), 2);
    bench.unit.write32(IPSR, 1);
    assert_eq!(bench.wires(), [9], "the condition stands");
    bench.unit.write32(CQCSR, 3 | FENCE_W_IP);
    bench.unit.write32(IPSR, 1);
    assert_eq!((bench.wires(), bench.unit.read32(IPSR)), (vec![], 0));
}
