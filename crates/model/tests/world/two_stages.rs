//! One device behind both stages, the same for every architecture that has two. Guest addresses lie [`GUEST`] above the memory behind
//! them, so that nothing works that mixes the two up.

use std::sync::Arc;

use portcullis_model::engine::Architecture;
use portcullis_model::riscv::config::RiscvConfig;
use portcullis_model::smmuv3::config::Smmuv3Config;
use portcullis_model::{GuestMemory, OwnedMemory, Port};
use portcullis_spec::{Access, PhysAddr};

use super::{PAGE, common, riscv_machine, smmuv3_machine};

/// The guest address of the first byte of memory.
pub const GUEST: u64 = 0x1_0000_0000;

/// A unit with one device, for which the first stage maps nothing yet, and the second the first's root alone.
pub trait TwoStages: Sized {
    type Architecture: Architecture;
    /// Levels of the first stage, 9 bits each.
    const LEVELS: u64;

    fn new() -> Self;
    fn memory(&self) -> &Arc<OwnedMemory>;
    /// Zeroed memory of a power of two of bytes, aligned to that.
    fn allocate(&mut self, bytes: u64) -> u64;
    fn port(&self) -> Port<Self::Architecture>;
    /// Where the first stage's root lies.
    fn first(&self) -> u64;
    /// An entry of the first stage, its table entries and leaves accessed, and not dirty.
    fn link(table: u64) -> u64;
    fn leaf(page: u64, level: u64, access: Access) -> u64;
    fn target(entry: u64) -> u64;
    /// Whether a leaf entry of the first stage and one of the second are dirty.
    fn are_dirty(&self, first: u64, second: u64) -> [bool; 2];
    /// Maps in the second stage: accessed, and not dirty. Says where the leaf entry lies.
    fn back(&mut self, guest: u64, physical: u64, level: u64, access: Access) -> u64;
    /// Invalidates what the first stage's leaf entry of a page of this level says, and returns once that is done.
    fn forget_first(&mut self, iova: u64, level: u64);
    /// The same of the second stage's, with all that the architecture demands beside.
    fn forget_second(&mut self, guest: u64, level: u64);

    fn put(&self, at: u64, value: u64) {
        self.memory().store64(PhysAddr(at), value).unwrap();
    }
    fn get(&self, at: u64) -> u64 {
        self.memory().load64(PhysAddr(at)).unwrap()
    }

    /// Maps a guest's page in the first stage, whose tables the second backs. The entries' places, the root's first.
    fn map(&mut self, iova: u64, guest: u64, level: u64, access: Access) -> Vec<u64> {
        let (mut table, mut entries) = (self.first(), Vec::new());
        for at in (level..Self::LEVELS).rev() {
            let slot = table + (iova >> (12 + 9 * at) & 511) * 8;
            entries.push(slot);
            if at == level {
                self.put(slot, Self::leaf(guest, level, access));
            } else {
                if self.get(slot) == 0 {
                    let next = self.allocate(PAGE);
                    self.back(next + GUEST, next, 0, Access::READ_WRITE);
                    self.put(slot, Self::link(next + GUEST));
                }
                table = Self::target(self.get(slot)) - GUEST;
            }
        }
        entries
    }

    /// Maps a page of memory in both stages. The places of the leaf entries.
    fn map_through(&mut self, iova: u64, physical: u64) -> [u64; 2] {
        let entries = self.map(iova, physical + GUEST, 0, Access::READ_WRITE);
        [entries[entries.len() - 1], self.back(physical + GUEST, physical, 0, Access::READ_WRITE)]
    }
}

/// VT-d, scalable mode (9.6: PGTT 011b), flags kept in both stages.
pub struct VtdNested {
    machine: common::Machine,
    first: u64,
    second: u64,
}

/// The second word of an invalidation of a page of this level: its address, IH and AM (6.5.2.3, 6.5.2.4).
const fn only_leaves(address: u64, level: u64) -> u64 {
    let am = 9 * level;
    address & !((PAGE << am) - 1) | 1 << 6 | am
}

impl TwoStages for VtdNested {
    type Architecture = portcullis_model::vtd::Vtd;
    const LEVELS: u64 = 4;

    fn new() -> Self {
        const NESTED: u64 = 3 << 6 | 2 << 2 | 1;
        const SSADE: u64 = 1 << 9;
        const PWSNP: u64 = 1 << 23;
        let mut machine = common::Machine::scalable();
        let (first, second) = (machine.allocate(), machine.allocate());
        machine.pasid(common::DEVICE, 0, [second | NESTED | SSADE, PWSNP | 7, first + GUEST]);
        let mut this = Self { machine, first, second };
        this.back(first + GUEST, first, 0, Access::READ_WRITE);
        this
    }
    fn memory(&self) -> &Arc<OwnedMemory> {
        &self.machine.memory
    }
    fn allocate(&mut self, bytes: u64) -> u64 {
        let mut at = self.machine.allocate();
        while !at.is_multiple_of(bytes) {
            at = self.machine.allocate();
        }
        for _ in 1..bytes / PAGE {
            self.machine.allocate();
        }
        at
    }
    fn port(&self) -> Port<Self::Architecture> {
        self.machine.port(common::DEVICE)
    }
    fn first(&self) -> u64 {
        self.first
    }
    // 9.7: P, R/W, U/S, A (bit 5), D (bit 6), PS.
    fn link(table: u64) -> u64 {
        table | 0b10_0111
    }
    fn leaf(page: u64, level: u64, access: Access) -> u64 {
        page | 0b10_0101 | u64::from(access.contains(Access::WRITE)) << 1 | level << 7
    }
    fn target(entry: u64) -> u64 {
        entry & 0x000f_ffff_ffff_f000
    }
    fn are_dirty(&self, first: u64, second: u64) -> [bool; 2] {
        // 9.8: D is bit 9.
        [self.get(first) >> 6 & 1 == 1, self.get(second) >> 9 & 1 == 1]
    }
    fn back(&mut self, guest: u64, physical: u64, level: u64, access: Access) -> u64 {
        let rights = u64::from((access & Access::READ_WRITE).bits());
        let leaf = physical | rights | level << 7 | 1 << 8;
        self.machine.map_at(self.second, 4, level, guest, common::RW, leaf)
    }
    fn forget_first(&mut self, iova: u64, level: u64) {
        // 6.5.2.4: G 11b, the hint IH that only leaf entries changed, and AM.
        assert!(self.machine.submit(&[[6 | 3 << 4 | 7 << 16, only_leaves(iova, level)]]));
    }
    fn forget_second(&mut self, guest: u64, level: u64) {
        // 6.5.2.3: the same by the domain.
        assert!(self.machine.submit(&[[2 | 3 << 4 | 7 << 16, only_leaves(guest, level)]]));
    }
}

/// SMMUv3, 4 KiB granules and 39 bits in both stages, flags kept in both (5.2 S2HA, S2HD; 5.4 HA, HD).
pub struct SmmuNested {
    machine: smmuv3_machine::Machine,
    first: u64,
    second: u64,
}

impl TwoStages for SmmuNested {
    type Architecture = portcullis_model::smmuv3::Smmuv3;
    const LEVELS: u64 = 3;

    fn new() -> Self {
        use smmuv3_machine::{Entry, Machine, STREAM, descriptor};
        let mut machine = Machine::with(Smmuv3Config::full());
        let (first, second) = (machine.allocate(), machine.allocate());
        let mut words = descriptor(first + GUEST, 1);
        words[0] |= 3 << 42;
        let at = machine.context(words);
        machine.stream(STREAM, Entry::stage1(at + GUEST).stage2(second, 3).with(0, 2 << 1).with(2, 3 << 55));
        let mut this = Self { machine, first, second };
        for page in [at, first] {
            this.back(page + GUEST, page, 0, Access::READ_WRITE);
        }
        this
    }
    fn memory(&self) -> &Arc<OwnedMemory> {
        &self.machine.memory
    }
    fn allocate(&mut self, bytes: u64) -> u64 {
        self.machine.allocate_aligned(bytes)
    }
    fn port(&self) -> Port<Self::Architecture> {
        self.machine.port(smmuv3_machine::STREAM)
    }
    fn first(&self) -> u64 {
        self.first
    }
    fn link(table: u64) -> u64 {
        table | 3
    }
    fn leaf(page: u64, level: u64, access: Access) -> u64 {
        use smmuv3_machine::{DBM, READ_ONLY, S1, USER};
        let writable = if access.contains(Access::WRITE) { DBM } else { 0 };
        page | S1 | USER | READ_ONLY | writable | if level == 0 { 3 } else { 1 }
    }
    fn target(entry: u64) -> u64 {
        entry & 0x0000_ffff_ffff_f000
    }
    fn are_dirty(&self, first: u64, second: u64) -> [bool; 2] {
        // AP[2] clear, and S2AP[1] set.
        [self.get(first) >> 7 & 1 == 0, self.get(second) >> 7 & 1 == 1]
    }
    fn back(&mut self, guest: u64, physical: u64, level: u64, access: Access) -> u64 {
        let writable = if access.contains(Access::WRITE) { smmuv3_machine::DBM } else { 0 };
        let readable = smmuv3_machine::S2 & !(1 << 7);
        let leaf = physical | readable | writable | if level == 0 { 3 } else { 1 };
        self.machine.map_from(self.second, 1, 3 - level as u32, guest, leaf)
    }
    fn forget_first(&mut self, iova: u64, _level: u64) {
        // CMD_TLBI_NH_VA, leaf (4.4.2): entries that translate this address.
        self.machine.command(&[[0x12 | 3 << 32 | 1 << 48, iova & !0xfff | 1]]);
    }
    fn forget_second(&mut self, guest: u64, _level: u64) {
        // CMD_TLBI_S2_IPA, leaf, and CMD_TLBI_NH_ALL for what both stages came to together (4.4.3).
        self.machine.command(&[[0x2a | 3 << 32, guest & !0xfff | 1], [0x10 | 3 << 32, 0]]);
    }
}

/// The RISC-V IOMMU, Sv39 on Sv39x4, flags kept in both stages (SADE, GADE).
pub struct RiscvNested {
    bench: riscv_machine::Bench,
    first: u64,
    second: u64,
}

impl RiscvNested {
    fn submit(&self, command: [u64; 2]) {
        // And an IOFENCE.C.
        assert_eq!(self.bench.commands(&[command, [2, 0]]) & 0x700, 0);
    }
}

impl TwoStages for RiscvNested {
    type Architecture = portcullis_model::riscv::Riscv;
    const LEVELS: u64 = 3;

    fn new() -> Self {
        use riscv_machine::{Bench, DEVICE, GADE, SADE, V, sv};
        let bench = Bench::on(RiscvConfig::full());
        let (first, second) = (bench.page(), bench.pages(4));
        let fsc = sv(3) | (first + GUEST) >> 12;
        bench.device(DEVICE, [V | SADE | GADE, sv(3) | 5 << 44 | second >> 12, 7 << 12, fsc]);
        let mut this = Self { bench, first, second };
        this.back(first + GUEST, first, 0, Access::READ_WRITE);
        this
    }
    fn memory(&self) -> &Arc<OwnedMemory> {
        &self.bench.memory
    }
    fn allocate(&mut self, bytes: u64) -> u64 {
        self.bench.pages(bytes / PAGE)
    }
    fn port(&self) -> Port<Self::Architecture> {
        self.bench.port(riscv_machine::DEVICE, None)
    }
    fn first(&self) -> u64 {
        self.first
    }
    fn link(table: u64) -> u64 {
        riscv_machine::pte(table, riscv_machine::V)
    }
    fn leaf(page: u64, _level: u64, access: Access) -> u64 {
        use riscv_machine::{A, R, U, V, W, pte};
        pte(page, V | U | A | R | if access.contains(Access::WRITE) { W } else { 0 })
    }
    fn target(entry: u64) -> u64 {
        entry >> 10 << 12
    }
    fn are_dirty(&self, first: u64, second: u64) -> [bool; 2] {
        [first, second].map(|at| self.get(at) & riscv_machine::D != 0)
    }
    fn back(&mut self, guest: u64, physical: u64, level: u64, access: Access) -> u64 {
        self.bench.map_guest(self.second, 3, level, guest, Self::leaf(physical, level, access))
    }
    fn forget_first(&mut self, iova: u64, _level: u64) {
        // IOTINVAL.VMA with AV, PSCV and GV (3.1.1): the leaf entry of this address.
        self.submit([1 | 1 << 10 | 7 << 12 | 1 << 32 | 1 << 33 | 5 << 44, iova >> 12 << 10]);
    }
    fn forget_second(&mut self, guest: u64, _level: u64) {
        // IOTINVAL.GVMA with AV and GV.
        self.submit([1 | 1 << 7 | 1 << 10 | 1 << 33 | 5 << 44, guest >> 12 << 10]);
    }
}
