//! Ours as it is used: the driver of an architecture over its model, in the memory of a machine, with devices that do DMA.

pub mod nested;
pub mod ram;
pub mod riscv;
pub mod smmuv3;
pub mod translate;
pub mod vtd;

use portcullis_driver::common::architecture::Architecture as Driver;
use portcullis_driver::{Device, Domain, DomainOptions, Unit};
use portcullis_model::engine::Architecture as Model;
use portcullis_model::{GuestMemory, Port};
use portcullis_spec::{Access, Iova, PagingFormat, Pasid, PhysAddr, Requester};
use ram::Ram;
use std::sync::Arc;

use crate::order::{FIRST, PAGE, scattered};

/// An architecture that has both sides.
pub trait Kind: Sized + Send + Sync + 'static {
    /// What it is called in rows: `vtd`.
    const NAME: &'static str;
    /// The model's part.
    type Model: Model;
    /// The driver's part.
    type Driver: Driver<Platform = Arc<Ram>> + Send + Sync;

    /// A unit over `memory`, and its driver on `ram`.
    fn build(memory: Arc<dyn GuestMemory>, ram: Arc<Ram>) -> (Self, Self::Driver);

    /// Whether these are its tables of one stage with four levels and 4 KiB pages.
    fn is_shape(format: PagingFormat) -> bool;

    /// A leaf entry of those tables that leads to `page`, for everything.
    fn leaf(page: PhysAddr) -> u64;

    /// The requester that the unit sees for the device with this number.
    fn requester(number: u16) -> Requester;

    /// A port of the model.
    fn port(&self, requester: Requester, pasid: Option<Pasid>) -> Port<Self::Model>;
}

/// A machine with one unit.
pub struct Machine<K: Kind> {
    /// Its memory.
    pub ram: Arc<Ram>,
    /// The model.
    pub kind: K,
    /// The driver.
    pub unit: Unit<K::Driver>,
}

const WORKS: &str = "the unit does what it is asked";

impl<K: Kind> Machine<K> {
    /// A machine with `data` bytes that devices may reach, and `blocks` bytes for the driver.
    ///
    /// # Panics
    /// Where there is no memory, or driver and model don't get along.
    #[must_use]
    pub fn new(data: u64, blocks: u64) -> Self {
        let ram = Arc::new(Ram::new(data, blocks));
        let (kind, driver) = K::build(ram.memory(), ram.clone());
        let unit = Unit::new(driver);
        unit.enable().expect(WORKS);
        Self { ram, kind, unit }
    }

    /// A domain of one stage, four levels and 4 KiB pages.
    ///
    /// # Panics
    /// Where the driver has none.
    #[must_use]
    pub fn domain(&self) -> Domain<K::Driver> {
        let formats = &self.unit.features().formats;
        let shape = formats.iter().map(|format| format.shape).find(|shape| K::is_shape(*shape));
        assert!(shape.is_some(), "{} has tables of four levels", K::NAME);
        let options = DomainOptions { shape, ..DomainOptions::default() };
        self.unit.create_domain(options).expect(WORKS)
    }

    /// A new device with this number, attached to `domain`.
    ///
    /// # Panics
    /// Where the driver refuses.
    #[must_use]
    pub fn device(&self, number: u16, domain: &Domain<K::Driver>) -> Port<K::Model> {
        let requester = K::requester(number);
        self.unit.add_device(Device::new(requester)).expect(WORKS);
        self.unit.attach(requester, None, domain).expect(WORKS);
        self.kind.port(requester, None)
    }

    /// Where page `index` of `pages` scattered ones lies.
    #[must_use]
    pub fn target(&self, index: u64, pages: u64) -> PhysAddr {
        PhysAddr(self.ram.data().0 + scattered(index, pages) * PAGE)
    }

    /// Maps `pages` pages, `stride` bytes apart from [`FIRST`] on, to scattered ones.
    ///
    /// # Panics
    /// Where the driver refuses.
    pub fn map_scattered(&self, domain: &Domain<K::Driver>, pages: u64, stride: u64) {
        for index in 0..pages {
            let iova = Iova(FIRST + index * stride);
            domain.map(iova, self.target(index, pages), PAGE, Access::READ_WRITE).expect(WORKS);
        }
    }
}
