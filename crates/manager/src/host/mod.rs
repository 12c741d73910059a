//! The host, as its kernel describes it: read from the running host, or from a directory that holds a copy of its `/sys`,
//! `/proc` and `/dev`.
//!
//! Reading changes nothing on the host. What cannot be read is left out and said ([`Host::unread`]).

mod firmware;
mod iommu;
mod kernel;
mod pci;
mod root;
mod thunderbolt;
mod vfio;

use std::{io, path::Path};

use portcullis_firmware::groups::{Functions, Group, groups};

pub use firmware::Firmware;
pub use iommu::{DomainType, KernelGroup, KernelReserved, KernelUnit, UnitRegisters};
pub use kernel::{Kernel, Processor};
pub use pci::PciDevice;
pub use root::{Directory, Root, Unread};
pub use thunderbolt::ThunderboltDomain;
pub use vfio::{Holder, Vfio};

/// A host.
#[derive(Clone, Debug)]
pub struct Host {
    /// The kernel and the processors.
    pub kernel: Kernel,
    /// What firmware says.
    pub firmware: Firmware,
    /// Units that the kernel drives.
    pub units: Vec<KernelUnit>,
    /// PCI functions, as their configuration spaces describe them.
    pub functions: Functions,
    /// PCI functions, as the kernel describes them, in the order of their addresses.
    pub devices: Vec<PciDevice>,
    /// The kernel's groups, in the order of their numbers.
    pub groups: Vec<KernelGroup>,
    /// Groups that follow from the configuration spaces and firmware, with their reasons.
    pub computed: Vec<Group>,
    /// VFIO.
    pub vfio: Vfio,
    /// Thunderbolt.
    pub thunderbolt: Vec<ThunderboltDomain>,
    /// What could not be read.
    pub unread: Vec<Unread>,
}

impl Host {
    /// Reads the host below `root`: `/` for the running one.
    ///
    /// # Errors
    /// Where `root` is not a directory that can be opened; nothing else is fatal.
    pub fn read(root: &Path) -> io::Result<Self> {
        let root = Root::open(root)?;
        let kernel = kernel::read(&root);
        let firmware = firmware::read(&root);
        let (functions, devices) = pci::read(&root);
        let computed = groups(&functions, Some(&firmware.topology));
        let vfio = vfio::read(&root, &devices);
        Ok(Self {
            units: iommu::units(&root),
            groups: iommu::groups(&root),
            thunderbolt: thunderbolt::read(&root),
            kernel,
            firmware,
            functions,
            devices,
            computed,
            vfio,
            unread: root.unread(),
        })
    }

    /// The kernel's description of the PCI function at `address`.
    #[must_use]
    pub fn device(&self, address: portcullis_spec::PciAddress) -> Option<&PciDevice> {
        let place = self.devices.binary_search_by_key(&address, |device| device.address).ok()?;
        self.devices.get(place)
    }

    /// The kernel's group with this number.
    #[must_use]
    pub fn group(&self, number: u32) -> Option<&KernelGroup> {
        let place = self.groups.binary_search_by_key(&number, |group| group.number).ok()?;
        self.groups.get(place)
    }
}
