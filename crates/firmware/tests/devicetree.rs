//! Devicetrees: what QEMU describes, what the bindings say, and any bytes at all.

mod common;

use std::{path::PathBuf, process::Command};

use portcullis_firmware::{
    devicetree::{Blob, BlobError, Node, topology},
    groups::Functions,
    topology::{Architecture, Declared, DeviceName, Devices, ReservedKind, Topology, UnitId, WirePurpose},
};
use portcullis_spec::{PciAddress, PhysAddr, Requester};

/// The blob of one of QEMU's machines, or `None` (said) where that QEMU is not there.
fn qemu(architecture: &str, machine: &str, more: &[&str]) -> Option<Vec<u8>> {
    let folder = tempfile::tempdir().expect("a folder");
    let file: PathBuf = folder.path().join("machine.dtb");
    let status = Command::new(format!("qemu-system-{architecture}"))
        .args(["-M", &format!("{machine},dumpdtb={}", file.display()), "-display", "none"])
        .args(more)
        .output();
    match status {
        Ok(output) if output.status.success() => Some(std::fs::read(file).expect("the blob")),
        Ok(output) => panic!("{}", String::from_utf8_lossy(&output.stderr)),
        Err(_) => {
            println!("skipped: no qemu-system-{architecture}");
            None
        }
    }
}

fn clean(bytes: &[u8]) -> Topology {
    let topology = topology(bytes);
    assert!(topology.findings.is_empty(), "{:?}", topology.findings);
    topology
}

/// Under which number, and whether at all, a function reaches the only unit.
fn way(topology: &Topology, bus: u8, device: u8, function: u8) -> Option<Requester> {
    let way = topology.resolve(PciAddress::new(0, bus, device, function), &Functions::default())?;
    assert_eq!(way.unit, Some(UnitId(0)));
    Some(way.requester)
}

#[test]
fn smmuv3_of_qemu() {
    let Some(bytes) = qemu("aarch64", "virt,iommu=smmuv3", &["-cpu", "cortex-a57"]) else { return };
    let topology = clean(&bytes);
    let [unit] = topology.units.as_slice() else { panic!("{:?}", topology.units) };
    assert_eq!(unit.architecture.value, Architecture::SmmuV3);
    let window = unit.registers.as_ref().expect("registers");
    assert_eq!((window.base, window.size), (PhysAddr(0x905_0000), Some(0x2_0000)));
    assert!(matches!(unit.declared.value, Declared::SmmuV3 { coherent_override: true, .. }));
    // QEMU's virt machine: SMMU_IRQ is SPI 74 to 77, edge (hw/arm/virt.c).
    let wires: Vec<_> = unit.wires.iter().map(|wire| (wire.purpose, wire.gsi, wire.edge)).collect();
    assert_eq!(
        wires,
        [
            (WirePurpose::Event, 106, Some(true)),
            (WirePurpose::PageRequest, 107, Some(true)),
            (WirePurpose::CommandSync, 108, Some(true)),
            (WirePurpose::GlobalError, 109, Some(true)),
        ]
    );
    assert_eq!(way(&topology, 3, 0, 1), Some(Requester::Stream(0x301)));
    assert_eq!(way(&topology, 0xff, 0x1f, 7), Some(Requester::Stream(0xffff)));
}

#[test]
fn riscv_of_qemu() {
    // With the PLIC, whose interrupts have one cell, QEMU 10.0 writes two all the same.
    let Some(bytes) = qemu("riscv64", "virt,aia=aplic,iommu-sys=on", &[]) else { return };
    let topology = clean(&bytes);
    let [unit] = topology.units.as_slice() else { panic!("{:?}", topology.units) };
    assert_eq!(unit.architecture.value, Architecture::Riscv);
    // Below /soc, whose ranges are empty: addresses pass as they are.
    assert_eq!(unit.registers.as_ref().map(|window| window.base), Some(PhysAddr(0x301_0000)));
    assert_eq!(unit.wires.iter().map(|wire| wire.gsi).collect::<Vec<_>>(), [0x24, 0x25, 0x26, 0x27]);
    assert_eq!(way(&topology, 0, 1, 0), Some(Requester::Device(8)));

    let Some(bytes) = qemu("riscv64", "virt", &["-device", "riscv-iommu-pci"]) else { return };
    let topology = clean(&bytes);
    let function = topology.units[0].function.as_ref().map(|function| function.value);
    assert_eq!(function, Some(PciAddress::new(0, 0, 1, 0)));
    assert_eq!(way(&topology, 0, 2, 0), Some(Requester::Device(0x10)));
    // The map leaves the unit itself out.
    assert_eq!(way(&topology, 0, 1, 0), None);
}

#[test]
fn virtio_of_qemu() {
    let Some(bytes) = qemu("aarch64", "virt", &["-cpu", "cortex-a57", "-device", "virtio-iommu-pci"]) else {
        return;
    };
    let topology = clean(&bytes);
    assert_eq!(topology.units[0].architecture.value, Architecture::Virtio);
    let function = topology.units[0].function.as_ref().map(|function| function.value);
    let function = function.expect("the unit's function");
    assert_eq!(way(&topology, 1, 0, 0), Some(Requester::Endpoint(0x100)));
    assert_eq!(topology.resolve(function, &Functions::default()), None, "the unit itself is left out");
}

/// What was read of QEMU's blob and written again says the same to dtc.
#[test]
fn dtc_reads_what_we_write() {
    let Some(bytes) = qemu("aarch64", "virt,iommu=smmuv3", &["-cpu", "cortex-a57"]) else { return };
    let written = Blob::read(&bytes).expect("QEMU's blob").write();
    assert_eq!(Blob::read(&written), Blob::read(&bytes));
    let source = |bytes: &[u8]| {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), bytes).expect("written");
        Command::new("dtc").args(["-q", "-I", "dtb", "-O", "dts"]).arg(file.path()).output().ok()
    };
    let (Some(ours), Some(theirs)) = (source(&written), source(&bytes)) else {
        println!("skipped: no dtc");
        return;
    };
    assert!(ours.status.success() && ours.stderr.is_empty(), "{}", String::from_utf8_lossy(&ours.stderr));
    assert_eq!(String::from_utf8_lossy(&ours.stdout), String::from_utf8_lossy(&theirs.stdout));
}

fn board(children: Vec<Node<'static>>) -> Vec<u8> {
    let mut root = Node::new("").with_cells("#address-cells", &[2]).with_cells("#size-cells", &[2]);
    root.children = children;
    Blob { root, ..Blob::default() }.write()
}

fn mmu500(phandle: u32, cells: u32) -> Node<'static> {
    Node::new("iommu@5000000")
        .with_texts("compatible", &["vendor,own", "arm,mmu-500"])
        .with_cells("reg", &[0, 0x500_0000, 0, 0x8_0000])
        .with_cells("#iommu-cells", &[cells])
        .with_cells("#global-interrupts", &[1])
        .with_cells("phandle", &[phandle])
}

#[test]
fn devices_name_their_streams() {
    let device =
        Node::new("dma@1000").with_cells("iommus", &[1, 0x42, 1, 0x43]).with_cells("pasid-num-bits", &[16]);
    let topology = clean(&board(vec![mmu500(1, 1), device]));
    assert_eq!(topology.units[0].architecture.value, Architecture::SmmuV2);
    let name = DeviceName::Node("/dma@1000".into());
    let streams: Vec<_> = topology.resolve_named(&name).map(|route| route.ids.apply(0)).collect();
    assert_eq!(streams, [Some(0x42), Some(0x43)]);
    assert!(topology.routes.iter().all(|route| route.attributes.pasid_bits == Some(16)));
}

#[test]
fn masked_streams_are_said() {
    // Binding arm,smmu: with two cells the second is a mask, with one the upper half of it.
    for (cells, iommus) in [(2, vec![1, 0x400, 0x7f]), (1, vec![1, 0x7f << 16 | 0x400])] {
        let device = Node::new("gpu").with_cells("iommus", &iommus);
        let topology = topology(&board(vec![mmu500(1, cells), device]));
        assert_eq!(topology.routes[0].ids.apply(0), Some(0x400));
        assert!(topology.findings.list[0].to_string().contains("0x7f"), "{:?}", topology.findings);
    }
}

#[test]
fn addresses_are_translated_upwards() {
    let soc = Node::new("soc")
        .with_cells("#address-cells", &[1])
        .with_cells("#size-cells", &[1])
        .with_cells("ranges", &[0x1000, 0x8, 0x0, 0x10_0000])
        .with_child(
            Node::new("iommu@3000")
                .with_texts("compatible", &["riscv,iommu"])
                .with_cells("reg", &[0x3000, 0x1000]),
        );
    let topology = clean(&board(vec![soc]));
    // 3000h lies 2000h behind the range's start, which the root has at 8_0000_0000h.
    assert_eq!(topology.units[0].registers.as_ref().map(|window| window.base.0), Some(0x8_0000_2000));
}

#[test]
fn maps_and_masks() {
    let host = Node::new("pcie@10000000")
        .with("device_type", &b"pci\0"[..])
        .with_cells("linux,pci-domain", &[3])
        .with_cells("iommu-map", &[0, 1, 0x1000, 0x8])
        .with_cells("iommu-map-mask", &[0xf8])
        .with("ats-supported", &b""[..]);
    let topology = clean(&board(vec![mmu500(1, 1), host]));
    // All functions of a device, and all buses, are one: the mask leaves bits 7:3.
    let requester = |bus, device, function| {
        topology
            .resolve(PciAddress::new(3, bus, device, function), &Functions::default())
            .map(|way| way.requester)
    };
    assert_eq!(requester(0, 0, 5), Some(Requester::Stream(0x1000)));
    assert_eq!(requester(7, 0, 0), Some(Requester::Stream(0x1000)));
    assert_eq!(requester(0, 1, 0), None, "08h is not below the length");
    assert_eq!(topology.routes[0].attributes.ats, Some(true));
}

#[test]
fn reserved_memory() {
    let memory = Node::new("reserved-memory")
        .with_cells("#address-cells", &[2])
        .with_cells("#size-cells", &[2])
        .with("ranges", &b""[..])
        .with_child(
            Node::new("framebuffer@80000000")
                .with_cells("reg", &[0, 0x8000_0000, 0, 0x80_0000])
                .with_cells("iommu-addresses", &[9, 0, 0x8000_0000, 0, 0x80_0000]),
        )
        .with_child(Node::new("hole").with_cells("iommu-addresses", &[9, 0, 0, 0, 0x1000]));
    let display = Node::new("display@2000").with_cells("iommus", &[1, 5]).with_cells("phandle", &[9]);
    let topology = clean(&board(vec![mmu500(1, 1), display, memory]));
    let regions: Vec<_> = topology
        .reserved
        .iter()
        .map(|region| {
            (region.range.first, region.range.last, region.kind.value, region.devices[0].value.clone())
        })
        .collect();
    let device = Devices::Named(DeviceName::Node("/display@2000".into()));
    let direct = ReservedKind::Rmr { remapping_permitted: false, privileged: false, attributes: 5 };
    assert_eq!(
        regions,
        [(0x8000_0000, 0x807f_ffff, direct, device.clone()), (0, 0xfff, ReservedKind::NoMap, device)]
    );
}

#[test]
fn disabled_units_and_dangling_references_are_no_units() {
    let off = mmu500(1, 1).with_texts("status", &["disabled"]);
    let host =
        Node::new("pcie").with("device_type", &b"pci\0"[..]).with_cells("iommu-map", &[0, 1, 0, 0x1_0000]);
    let lost = Node::new("dma").with_cells("iommus", &[77, 1]);
    let topology = topology(&board(vec![off, host, lost]));
    assert_eq!((topology.units.len(), topology.routes.len()), (0, 0));
    let findings: Vec<String> = topology.findings.iter().map(ToString::to_string).collect();
    assert!(findings.iter().any(|finding| finding.starts_with("/pcie:iommu-map: ")), "{findings:?}");
    assert!(findings.iter().any(|finding| finding.starts_with("/dma:iommus: ")), "{findings:?}");
}

#[test]
fn blobs_that_are_none() {
    assert_eq!(Blob::read(&[]), Err(BlobError::TooShort { needed: 40, available: 0 }));
    assert_eq!(Blob::read(&[0; 64]), Err(BlobError::Magic(0)));
    let mut blob = board(Vec::new());
    blob[23] = 99;
    blob[27] = 99;
    assert_eq!(Blob::read(&blob), Err(BlobError::Version { version: 99, compatible: 99 }));
}

/// Every truncation, and many mutations, of a tree that uses everything: no panic, no loop, bounded memory.
#[test]
fn any_bytes_end() {
    let host =
        Node::new("pcie").with("device_type", &b"pci\0"[..]).with_cells("iommu-map", &[0, 1, 0, 0x1_0000]);
    let device = Node::new("dma@1000").with_cells("iommus", &[1, 0x42]).with_cells("phandle", &[9]);
    let memory = Node::new("reserved-memory")
        .with_child(Node::new("hole").with_cells("iommu-addresses", &[9, 0, 0, 0, 0x1000]));
    let whole = board(vec![mmu500(1, 1), host, device, memory]);
    for end in 0..whole.len() {
        let _ = topology(&whole[..end]);
    }
    let mut random = common::random();
    let mut read = 0u32;
    for _ in 0..50_000 {
        let mut bytes = whole.clone();
        for _ in 0..1 + random() % 6 {
            let at = random() as usize % bytes.len();
            bytes[at] = match random() % 3 {
                0 => random() as u8,
                1 => 0xff,
                _ => bytes[at].wrapping_add(1),
            };
        }
        read += u32::from(Blob::read(&bytes).is_ok());
        let _ = topology(&bytes);
    }
    assert!(read > 5_000, "many mutations still read, so that what is behind the reader is reached: {read}");
}

fn tree() -> impl proptest::strategy::Strategy<Value = Node<'static>> {
    use proptest::prelude::*;
    let property = ("[a-z,#-]{1,20}", proptest::collection::vec(any::<u8>(), 0..20));
    let node =
        ("[a-z0-9@,-]{1,20}", proptest::collection::vec(property, 0..6)).prop_map(|(name, properties)| {
            properties.into_iter().fold(Node::new(name), |node, (name, value)| node.with(name, value))
        });
    node.prop_recursive(4, 40, 5, |inner| {
        ("[a-z0-9@]{1,8}", proptest::collection::vec(inner, 0..5))
            .prop_map(|(name, children)| children.into_iter().fold(Node::new(name), Node::with_child))
    })
}

proptest::proptest! {
    #[test]
    fn what_is_written_reads_back(root in tree(), boot_cpu: u32, reservations: Vec<(u64, u64)>) {
        let reservations: Vec<_> = reservations.into_iter().filter(|pair| *pair != (0, 0)).collect();
        let blob = Blob { boot_cpu, reservations, root };
        let bytes = blob.write();
        proptest::prop_assert_eq!(Blob::read(&bytes), Ok(blob));
    }
}
