//! A guest with tables of its own: two stages, each of four levels and 4 KiB pages.
#![allow(unsafe_code)]

use super::vtd::Scalable;
use super::{Kind as _, Machine, WORKS};
use crate::order::{FIRST, PAGE, scattered};
use crate::raw::{Tables, Walker, write_first, write_second};
use portcullis_driver::{Device, Domain};
use portcullis_model::Port;
use portcullis_spec::{Access, Iova, Ipa, PagingFormat, PhysAddr, Stage, StageRules};

/// Pages of the guest's memory; a multiple of two, and odd multiples scatter them all.
const GUEST_PAGES: u64 = 1 << 14;
/// Guest pages that the first stage leads to; its tables lie behind them.
const DATA_PAGES: u64 = 1 << 12;

type Driver = <Scalable as super::Kind>::Driver;

/// The guest.
pub struct Nested {
    /// The machine; its only device is number 0x10.
    pub machine: Machine<Scalable>,
    /// The device's port.
    pub port: Port<<Scalable as super::Kind>::Model>,
    /// The nested domain that the device is attached to.
    pub domain: Domain<Driver>,
    parent: Domain<Driver>,
    first_root: u64,
    second_root: u64,
}

fn place(guest_address: u64) -> u64 {
    let page = scattered(guest_address / PAGE, GUEST_PAGES);
    (1 << 32) + page * PAGE + guest_address % PAGE
}

impl Nested {
    /// A guest whose first stage maps `DATA_PAGES` pages, `stride` bytes apart from [`FIRST`] on.
    ///
    /// # Panics
    /// Where driver and model don't get along.
    #[must_use]
    pub fn new(stride: u64) -> Self {
        let machine = Machine::<Scalable>::new(GUEST_PAGES * PAGE, 256 << 20);
        let guest_pages = || (0..GUEST_PAGES).map(|page| (page * PAGE, place(page * PAGE)));
        let parent = machine.domain();
        for (guest, physical) in guest_pages() {
            parent.map(Iova(guest), PhysAddr(physical), PAGE, Access::READ_WRITE).expect(WORKS);
        }
        let tables = Tables::of_guest(machine.ram.clone(), DATA_PAGES * PAGE, place);
        let data = (0..DATA_PAGES).map(|index| (FIRST + index * stride, scattered(index, DATA_PAGES) * PAGE));
        let first_root = write_first(&tables, data);
        let second_root = write_second(&Tables::physical(machine.ram.clone()), guest_pages());
        let first = Stage {
            format: PagingFormat::X86 { levels: 4 },
            root: Ipa(first_root),
            rules: StageRules::SET_ACCESSED | StageRules::SET_DIRTY,
            input_bits: 48,
        };
        let domain = machine.unit.nested_domain(&parent, first).expect(WORKS);
        let requester = Scalable::requester(0x10);
        machine.unit.add_device(Device::new(requester)).expect(WORKS);
        machine.unit.attach(requester, None, &domain).expect(WORKS);
        let port = machine.kind.port(requester, None);
        Self { machine, port, domain, parent, first_root, second_root }
    }

    /// Pages that the first stage maps.
    #[must_use]
    pub const fn pages(&self) -> u64 {
        DATA_PAGES
    }

    /// The domain of the guest's memory.
    #[must_use]
    pub const fn parent(&self) -> &Domain<Driver> {
        &self.parent
    }

    /// What a walk that only loads says of `input`.
    #[inline]
    #[must_use]
    pub fn raw(&self, input: u64) -> u64 {
        // SAFETY: these tables were written by `new`, whole, into this memory, and nobody changes them.
        let walker = unsafe { Walker::new(&self.machine.ram) };
        walker.walk_nested(self.first_root, self.second_root, input)
    }
}
