//! `portcullis inspect` and `portcullis decode fault` on a real kernel.

use super::Suite;
use crate::machine::{Iommu, Machine};

/// The suite `inspect`.
pub(crate) struct Inspect;

/// One of each reason to stand in a group: a port with ACS and one without, a device of two functions, a switch, and conventional
/// PCI behind a bridge. The SCSI controller is for faults: it does DMA as soon as it is told an address.
const DEVICES: &str = "\
    -device pcie-root-port,id=alone,chassis=1 -device virtio-rng-pci,bus=alone \
    -device pcie-root-port,id=open,chassis=2,disable-acs=true -device virtio-rng-pci,bus=open \
    -device pcie-root-port,id=functions,chassis=3 \
    -device virtio-rng-pci,bus=functions,addr=0.0,multifunction=on -device virtio-rng-pci,bus=functions,addr=0.1 \
    -device pcie-root-port,id=switched,chassis=4 -device x3130-upstream,id=switch,bus=switched \
    -device xio3130-downstream,id=down1,bus=switch,chassis=5 -device virtio-rng-pci,bus=down1 \
    -device xio3130-downstream,id=down2,bus=switch,chassis=6 -device virtio-rng-pci,bus=down2 \
    -device pcie-root-port,id=old,chassis=7 -device pcie-pci-bridge,id=bridge,bus=old \
    -device edu,bus=bridge,addr=1 -device edu,bus=bridge,addr=2 \
    -device edu -device lsi53c895a";

impl Suite for Inspect {
    fn name(&self) -> &'static str {
        "inspect"
    }

    fn about(&self) -> &'static str {
        "inspect and decode say what the kernel, sysfs and QEMU's command line say"
    }

    fn machines(&self) -> Vec<Machine> {
        let variant = |variant, options: &str| {
            let mut machine = Machine::new(Iommu::Intel { scalable: false });
            machine.variant = variant;
            machine.kernel_options = options.to_owned();
            machine
        };
        let mut machines: Vec<Machine> = Iommu::ALL.map(Machine::new).into();
        machines.push(variant("passthrough", "iommu=pt"));
        machines.push(variant("strict", "iommu.strict=1"));
        machines.into_iter().map(|machine| machine.with(DEVICES)).collect()
    }
}
