//! A guest under stress: its first stage leads every address to the same guest address, which the driver's domain maps and unmaps;
//! and it moves its own leaf tables from one place to another.

use super::{PAGES, REGION, SLOTS, Stress, TOGETHER};
use crate::machine::ram::Ram;
use crate::machine::vtd::Scalable;
use crate::machine::{Kind, Machine};
use crate::order::{FIRST, PAGE};
use portcullis_driver::Domain;
use portcullis_driver::platform::Memory as _;
use portcullis_spec::{Access, Iova, Ipa, PagingFormat, PhysAddr, Stage, StageRules};
use std::sync::Arc;

type Driver = <Scalable as Kind>::Driver;

/// Where the guest's tables lie for the guest: three that lead on, and two leaf tables for each stretch.
const TABLES: u64 = 1 << 31;
const REGIONS: u64 = SLOTS / TOGETHER;
const TABLE_PAGES: u64 = 3 + 2 * REGIONS;
/// A guest address that leads to the page that is nobody's.
const NOBODYS: u64 = TABLES + TABLE_PAGES * PAGE;

/// First-stage entries (VT-d 9.8): P, R/W and U/S, and of leaves A and D.
const LINK: u64 = 7;
const LEAF: u64 = 0x67;

/// The guest's side.
pub(super) struct Guest {
    ram: Arc<Ram>,
    domain: Domain<Driver>,
}

/// A guest and the stress of its devices.
pub(super) fn new() -> (Guest, Stress<Scalable>) {
    let machine = Machine::<Scalable>::new((PAGES + 1 + TABLE_PAGES) * PAGE, 64 << 20);
    let parent = machine.domain();
    let nobodys = machine.ram.data().0 + PAGES * PAGE;
    let map = |guest, physical| {
        parent.map(Iova(guest), PhysAddr(physical), PAGE, Access::READ_WRITE).expect("a free page");
    };
    for page in 0..TABLE_PAGES {
        map(TABLES + page * PAGE, nobodys + (page + 1) * PAGE);
    }
    map(NOBODYS, nobodys);
    let first = Stage {
        format: PagingFormat::X86 { levels: 4 },
        root: Ipa(TABLES),
        rules: StageRules::SET_ACCESSED | StageRules::SET_DIRTY,
        input_bits: 48,
    };
    let domain = machine.unit.nested_domain(&parent, first).expect("a unit with two stages");
    let guest = Guest { ram: Arc::clone(&machine.ram), domain: domain.clone() };
    guest.put(TABLES, (TABLES + PAGE) | LINK);
    guest.put(TABLES + PAGE + (FIRST >> 30) * 8, (TABLES + 2 * PAGE) | LINK);
    for region in 0..REGIONS {
        guest.fill(region, 0);
        guest.link(region, 0);
    }
    (guest, Stress::new(machine, parent, domain))
}

/// Where the leaf tables of a stretch lie.
const fn leaf_table(region: u64, which: u64) -> u64 {
    TABLES + (3 + 2 * region + which) * PAGE
}

impl Guest {
    /// Stores at an address of the guest's tables.
    fn put(&self, guest: u64, value: u64) {
        self.ram.store64(PhysAddr(self.ram.data().0 + (PAGES + 1) * PAGE + (guest - TABLES)), value);
    }

    fn fill(&self, region: u64, which: u64) {
        for page in 0..TOGETHER {
            let address = FIRST + region * REGION + page * PAGE;
            self.put(leaf_table(region, which) + page * 8, address | LEAF);
        }
    }

    fn link(&self, region: u64, which: u64) {
        self.put(TABLES + 2 * PAGE + region * 8, leaf_table(region, which) | LINK);
    }

    /// Moves a leaf table, says so to the unit, and uses the old one for something else.
    pub(super) fn disturb(&self, round: u64) {
        let (region, new) = (round % REGIONS, round / REGIONS % 2);
        self.fill(region, new);
        self.link(region, new);
        let first = FIRST + region * REGION;
        let range = Some((Iova(first), Iova(first + REGION - 1)));
        self.domain.invalidate_first_stage(None, range).expect("the unit is well");
        for page in 0..TOGETHER {
            self.put(leaf_table(region, 1 - new) + page * 8, NOBODYS | LEAF);
        }
    }
}
