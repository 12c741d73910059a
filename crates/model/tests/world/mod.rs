//! One device behind one unit, the same for every architecture: what is said of ports, slices and adapters is tried behind each by
//! one body. Tables are raw numbers, by the specification's layouts and without the crates under test.
#![allow(dead_code, unreachable_pub, unused_imports, reason = "each test binary uses a part of it")]

#[path = "../common/mod.rs"]
pub mod common;
#[path = "../riscv_machine/mod.rs"]
pub mod riscv_machine;
#[path = "../smmuv3_machine/mod.rs"]
pub mod smmuv3_machine;

pub mod two_stages;

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use common::hooked;
use portcullis_model::engine::Architecture;
use portcullis_model::riscv::config::RiscvConfig;
use portcullis_model::smmuv3::config::Smmuv3Config;
use portcullis_model::vtd::config::VtdConfig;
use portcullis_model::{GuestMemory, OwnedMemory, Port, Registers};
use portcullis_spec::{Access, PhysAddr};

/// The first page that devices reach; tables lie below it.
pub const DATA: u64 = 0x80_0000;
/// Bytes of all memory.
pub const MEMORY: u64 = 16 << 20;
pub const PAGE: u64 = 0x1000;
/// A page of level 1.
pub const BLOCK: u64 = 2 << 20;

/// Nothing recorded.
pub const QUIET: [u64; 0] = [];

/// What flags a leaf entry has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flags {
    pub accessed: bool,
    pub dirty: bool,
}

/// What one says of memory to the unit that looks at it.
pub type View = Box<dyn FnOnce(Arc<OwnedMemory>) -> Arc<dyn GuestMemory>>;

/// A unit with one device, to which nothing is mapped yet.
pub trait World: Sized + Send {
    type Architecture: Architecture;
    /// Whether tables reach the last page of 64 bits.
    const REACHES_TOP: bool;
    /// Whether 4 bytes at FEE0_0000h are an interrupt.
    const INTERRUPTS: bool;

    /// Whether a page may be written and not read.
    const WRITE_ONLY: bool = false;

    /// A unit that sees its memory through what `view` makes of it.
    fn over(view: View) -> Self;
    fn new() -> Self {
        Self::over(Box::new(|memory| memory))
    }
    fn memory(&self) -> &Arc<OwnedMemory>;
    /// A zeroed page for a table or a ring.
    fn allocate(&mut self) -> u64;
    fn port(&self) -> Port<Self::Architecture>;
    /// Maps a page of 4 KiB (level 0) or 2 MiB (level 1), its flags clear. Says where the leaf entry lies.
    fn map(&mut self, iova: u64, physical: u64, level: u64, access: Access) -> u64;
    /// The flags of a leaf entry, where the architecture's tables have some.
    fn flags(&self, leaf: u64) -> Option<Flags>;
    /// Invalidates everything and returns once the unit says that it is done.
    fn forget(&mut self);
    /// Invalidates a page and the table entries above it, and returns once the unit says that it is done.
    fn forget_page(&mut self, iova: u64);
    /// Leads the device to an empty table of another domain or address space, from now on that of [`map`](Self::map).
    fn move_device(&mut self);
    /// The pages of the faults that were recorded since the last call.
    fn recorded(&self) -> Vec<u64>;

    /// Takes a page away, as software does, and returns once the unit says that nobody uses it.
    fn unmap(&mut self, leaf: u64) {
        self.memory().store64(PhysAddr(leaf), 0).unwrap();
        self.forget();
    }
    fn read_memory(&self, physical: u64, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.memory().read(PhysAddr(physical), &mut bytes).unwrap();
        bytes
    }
    fn write_memory(&self, physical: u64, bytes: &[u8]) {
        self.memory().write(PhysAddr(physical), bytes).unwrap();
    }
}

/// How long whoever must wait is watched. One who does not wait is done in a fraction of it; one who does is not done at its
/// end, however slow the machine.
const WATCHED: Duration = Duration::from_millis(40);

/// Asserts that something does not end, for a while.
#[track_caller]
pub fn assert_waits(is_over: impl Fn() -> bool, what: &str) {
    let begun = Instant::now();
    while begun.elapsed() < WATCHED {
        assert!(!is_over(), "{what}");
        std::thread::yield_now();
    }
}

/// What VT-d's modes do each in its own way.
pub trait Mode: Send {
    const REACHES_TOP: bool;
    const WRITE_ONLY: bool;
    /// What an entry has that leads to another table.
    const LINK: u64;

    fn config() -> VtdConfig;
    /// Translates for the device through an empty table, which is returned.
    fn begin(machine: &mut common::Machine) -> u64;
    /// Translates through an empty table of another domain, and forgets the context that was. That table.
    fn begin_elsewhere(machine: &mut common::Machine) -> u64;
    /// An invalidation of a page of the first domain.
    fn page(iova: u64) -> [u64; 2];
    /// What a leaf entry has that allows this.
    fn rights(access: Access) -> u64;
    fn flags(leaf: u64) -> Option<Flags>;
}

/// VT-d in one of its modes.
pub struct Vtd<M> {
    machine: common::Machine,
    table: u64,
    mode: PhantomData<M>,
}

impl<M: Mode> World for Vtd<M> {
    type Architecture = portcullis_model::vtd::Vtd;
    const REACHES_TOP: bool = M::REACHES_TOP;
    const WRITE_ONLY: bool = M::WRITE_ONLY;
    const INTERRUPTS: bool = true;

    fn over(view: View) -> Self {
        let mut machine = common::Machine::over(M::config(), view);
        let table = M::begin(&mut machine);
        Self { machine, table, mode: PhantomData }
    }
    fn memory(&self) -> &Arc<OwnedMemory> {
        &self.machine.memory
    }
    fn allocate(&mut self) -> u64 {
        self.machine.allocate()
    }
    fn port(&self) -> Port<Self::Architecture> {
        self.machine.port(common::DEVICE)
    }
    fn map(&mut self, iova: u64, physical: u64, level: u64, access: Access) -> u64 {
        let size = if level > 0 { common::PS } else { 0 };
        self.machine.map_at(self.table, 4, level, iova, M::LINK, physical | M::rights(access) | size)
    }
    fn flags(&self, leaf: u64) -> Option<Flags> {
        M::flags(self.machine.get(leaf))
    }
    fn forget(&mut self) {
        self.machine.invalidate_all();
    }
    fn forget_page(&mut self, iova: u64) {
        assert!(self.machine.submit(&[M::page(iova)]));
    }
    fn move_device(&mut self) {
        self.table = M::begin_elsewhere(&mut self.machine);
    }
    fn recorded(&self) -> Vec<u64> {
        self.machine.take_faults().iter().map(|record| record[0] & !0xfff).collect()
    }
}

/// VT-d in legacy mode: a second stage, without flags.
pub type Legacy = Vtd<LegacyMode>;
pub struct LegacyMode;

impl Mode for LegacyMode {
    const REACHES_TOP: bool = false;
    const WRITE_ONLY: bool = true;
    const LINK: u64 = common::RW;

    fn config() -> VtdConfig {
        VtdConfig::default()
    }
    fn begin(machine: &mut common::Machine) -> u64 {
        machine.set_root(machine.root);
        machine.enable_queue(false);
        machine.command(common::TE);
        let table = machine.allocate();
        machine.attach(common::DEVICE, table, 7);
        table
    }
    fn begin_elsewhere(machine: &mut common::Machine) -> u64 {
        let table = machine.allocate();
        machine.attach(common::DEVICE, table, 8);
        // 6.5.2.1 and 6.5.2.3: the device's context, then the domain that it was in.
        let device = u64::from(common::DEVICE);
        assert!(machine.submit(&[[1 | 3 << 4 | 7 << 16 | device << 32, 0], [2 | 2 << 4 | 7 << 16, 0]]));
        table
    }
    fn page(iova: u64) -> [u64; 2] {
        [2 | 3 << 4 | 7 << 16, iova & !0xfff]
    }
    fn rights(access: Access) -> u64 {
        u64::from((access & Access::READ_WRITE).bits())
    }
    fn flags(_leaf: u64) -> Option<Flags> {
        None
    }
}

/// VT-d in scalable mode: a first stage, whose entries have flags (9.8: A is bit 5, D bit 6).
pub type Scalable = Vtd<ScalableMode>;
pub struct ScalableMode;

impl Mode for ScalableMode {
    const REACHES_TOP: bool = true;
    const WRITE_ONLY: bool = false;
    const LINK: u64 = 0b111;

    fn config() -> VtdConfig {
        VtdConfig::full()
    }
    fn begin(machine: &mut common::Machine) -> u64 {
        const PWSNP: u64 = 1 << 23;
        machine.set_root(machine.root | 1 << 10);
        machine.enable_queue(true);
        machine.command(common::TE);
        let table = machine.allocate();
        machine.pasid(common::DEVICE, 0, [1 << 6 | 1, PWSNP | 7, table]);
        table
    }
    fn begin_elsewhere(machine: &mut common::Machine) -> u64 {
        const PWSNP: u64 = 1 << 23;
        let table = machine.allocate();
        machine.pasid(common::DEVICE, 0, [1 << 6 | 1, PWSNP | 8, table]);
        // 6.5.2.2 and 6.5.2.4: the PASID's entry, then its translations.
        assert!(machine.submit(&[[7 | 1 << 4 | 7 << 16, 0], [6 | 2 << 4 | 7 << 16, 0]]));
        table
    }
    fn page(iova: u64) -> [u64; 2] {
        [6 | 3 << 4 | 7 << 16, iova & !0xfff]
    }
    fn rights(access: Access) -> u64 {
        if access.contains(Access::WRITE) { 0b111 } else { 0b101 }
    }
    fn flags(leaf: u64) -> Option<Flags> {
        Some(Flags { accessed: leaf >> 5 & 1 == 1, dirty: leaf >> 6 & 1 == 1 })
    }
}

/// SMMUv3: stage 1 in both halves, whose flags hardware sets (5.4 HA, HD; a page is dirty once AP[2] is clear).
pub struct Smmu {
    machine: smmuv3_machine::Machine,
    tables: [u64; 2],
}

impl Smmu {
    /// Leads the stream to empty tables.
    fn begin(&mut self, asid: u64) {
        let machine = &mut self.machine;
        self.tables = [machine.allocate(), machine.allocate()];
        let mut descriptor = smmuv3_machine::descriptor(self.tables[0], asid);
        // T1SZ 25, TG1 4 KiB, EPD1 clear, HA, HD.
        descriptor[0] = (descriptor[0] | 25 << 16 | 2 << 22 | 1 << 43 | 1 << 42) & !(1 << 30);
        descriptor[2] = self.tables[1];
        let at = machine.context(descriptor);
        machine.stream(smmuv3_machine::STREAM, smmuv3_machine::Entry::stage1(at));
    }
}

impl World for Smmu {
    type Architecture = portcullis_model::smmuv3::Smmuv3;
    const REACHES_TOP: bool = true;
    const INTERRUPTS: bool = false;

    fn over(view: View) -> Self {
        let machine = smmuv3_machine::Machine::over(Smmuv3Config::full(), view);
        machine.enable();
        let mut this = Self { machine, tables: [0; 2] };
        this.begin(1);
        this
    }
    fn memory(&self) -> &Arc<OwnedMemory> {
        &self.machine.memory
    }
    fn allocate(&mut self) -> u64 {
        self.machine.allocate()
    }
    fn port(&self) -> Port<Self::Architecture> {
        self.machine.port(smmuv3_machine::STREAM)
    }
    fn map(&mut self, iova: u64, physical: u64, level: u64, access: Access) -> u64 {
        const NOT_GLOBAL: u64 = 1 << 11;
        let kind = if level == 0 { 3 } else { 1 };
        let dirtied = if access.contains(Access::WRITE) { smmuv3_machine::DBM } else { 0 };
        let leaf = physical | NOT_GLOBAL | smmuv3_machine::USER | smmuv3_machine::READ_ONLY | dirtied | kind;
        let table = self.tables[(iova >> 63) as usize];
        self.machine.map_from(table, 1, 3 - level as u32, iova, leaf)
    }
    fn flags(&self, leaf: u64) -> Option<Flags> {
        let entry = self.machine.get(leaf);
        Some(Flags { accessed: entry >> 10 & 1 == 1, dirty: entry & smmuv3_machine::READ_ONLY == 0 })
    }
    fn forget(&mut self) {
        self.machine.forget();
    }
    fn forget_page(&mut self, iova: u64) {
        // CMD_TLBI_NH_VA of ASID 1, not only its leaf.
        self.machine.command(&[[0x12 | 1 << 48, iova & !0xfff]]);
    }
    fn move_device(&mut self) {
        self.begin(2);
        // CMD_CFGI_STE, and CMD_TLBI_NH_ASID of ASID 1.
        let stream = u64::from(smmuv3_machine::STREAM);
        self.machine.command(&[[0x03 | stream << 32, 1], [0x11 | 1 << 48, 0]]);
    }
    fn recorded(&self) -> Vec<u64> {
        self.machine.take_events().iter().map(|event| event[2] & !0xfff).collect()
    }
}

/// The RISC-V IOMMU: a first stage of Sv39, whose flags hardware sets (SADE).
pub struct Riscv {
    bench: riscv_machine::Bench,
    table: u64,
}

impl World for Riscv {
    type Architecture = portcullis_model::riscv::Riscv;
    const REACHES_TOP: bool = true;
    const INTERRUPTS: bool = false;

    fn over(view: View) -> Self {
        use riscv_machine::{DEVICE, SADE, V, sv};
        let bench = riscv_machine::Bench::over(RiscvConfig::default(), view);
        bench.queues_on();
        bench.set_levels(3);
        let table = bench.page();
        bench.device(DEVICE, [V | SADE, 0, 7 << 12, sv(3) | table >> 12]);
        Self { bench, table }
    }
    fn memory(&self) -> &Arc<OwnedMemory> {
        &self.bench.memory
    }
    fn allocate(&mut self) -> u64 {
        self.bench.page()
    }
    fn port(&self) -> Port<Self::Architecture> {
        self.bench.port(riscv_machine::DEVICE, None)
    }
    fn map(&mut self, iova: u64, physical: u64, level: u64, access: Access) -> u64 {
        use riscv_machine::{R, U, V, W, pte};
        let rights = if access.contains(Access::WRITE) { R | W } else { R };
        self.bench.map(self.table, 3, level, iova & ((1 << 39) - 1), pte(physical, V | U | rights))
    }
    fn flags(&self, leaf: u64) -> Option<Flags> {
        let entry = self.bench.get(leaf);
        Some(Flags { accessed: entry & riscv_machine::A != 0, dirty: entry & riscv_machine::D != 0 })
    }
    fn forget(&mut self) {
        self.bench.forget();
        // IOFENCE.C: what was invalidated is drained.
        assert_eq!(self.bench.commands(&[[2, 0]]) & 0x700, 0);
    }
    fn forget_page(&mut self, _iova: u64) {
        // IOTINVAL.VMA of PSCID 7 (PSCV): only without AV does it reach the entries above leaves, as there is no NL.
        assert_eq!(self.bench.commands(&[[1 | 7 << 12 | 1 << 32, 0], [2, 0]]) & 0x700, 0);
    }
    fn move_device(&mut self) {
        use riscv_machine::{DEVICE, SADE, V, sv};
        self.table = self.bench.page();
        self.bench.device(DEVICE, [V | SADE, 0, 8 << 12, sv(3) | self.table >> 12]);
        // IODIR.INVAL_DDT of the device (DV), and IOTINVAL.VMA as above.
        let device = u64::from(DEVICE) << 40 | 1 << 33;
        assert_eq!(self.bench.commands(&[[3 | device, 0], [1 | 7 << 12 | 1 << 32, 0], [2, 0]]) & 0x700, 0);
    }
    fn recorded(&self) -> Vec<u64> {
        self.bench.records().iter().map(|record| record[2] & !0xfff).collect()
    }
}

/// The tests named, behind each unit.
#[allow(unused_macros, reason = "each test binary uses a part of it")]
macro_rules! on_every_architecture {
    ($($test:ident),* $(,)?) => {
        on_every_architecture!(@each legacy: $crate::world::Legacy; $($test),*);
        on_every_architecture!(@each scalable: $crate::world::Scalable; $($test),*);
        on_every_architecture!(@each smmuv3: $crate::world::Smmu; $($test),*);
        on_every_architecture!(@each riscv: $crate::world::Riscv; $($test),*);
    };
    (@each $name:ident: $world:ty; $($test:ident),*) => {
        mod $name {
            $(#[test]
            fn $test() {
                super::$test::<$world>();
            })*
        }
    };
}
pub(crate) use on_every_architecture;
