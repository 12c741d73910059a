//! QEMU as hardware: the engines work before an IOMMU stands in their way.

use portcullis_testing::qtest::{Qemu, QemuError, hda, lsi, pci};
use std::os::unix::fs::FileExt as _;

const ARGUMENTS: &[&str] = &[
    "-machine",
    "q35,kernel-irqchip=split,memory-backend=ram",
    "-device",
    "intel-iommu",
    "-device",
    "lsi53c895a,addr=2",
    "-device",
    "lsi53c895a,addr=3.0,multifunction=on",
    "-device",
    "lsi53c895a,addr=3.1",
    "-device",
    "pcie-root-port,id=below,addr=4,chassis=1",
    "-device",
    "lsi53c895a,bus=below",
    "-audiodev",
    "none,id=none",
    "-device",
    "intel-hda,addr=5",
    "-device",
    "hda-output,cad=0,audiodev=none",
];

#[test]
fn engines_copy_without_an_iommu_in_the_way() -> Result<(), Box<dyn std::error::Error>> {
    let mut qemu = match Qemu::start("qemu-system-x86_64", ARGUMENTS, 64 << 20) {
        Err(QemuError::Absent { program }) => {
            println!("skipped: {program} is not installed");
            return Ok(());
        }
        other => other?,
    };
    let mut buses = pci::Buses::new(pci::ConfigAccess::Ports, 0xc000_0000);
    let functions = buses.enumerate(&mut qemu.client)?;
    let engines: Vec<_> = functions.iter().filter(|function| function.identity == lsi::IDENTITY).collect();
    assert_eq!(engines.len(), 4);
    for function in engines {
        let engine = lsi::Lsi::new(function, 0x20_0000);
        qemu.ram().write_all_at(b"portcullis", 0x30_0ffc)?;
        qemu.ram().write_all_at(&[0; 16], 0x40_0ffa)?;
        qemu.ram().write_all_at(&lsi::Lsi::script(0x30_0ffc, 0x40_0ffa, 10), 0x20_0000)?;
        assert!(engine.run(&mut qemu.client)?);
        let mut found = [0; 12];
        qemu.ram().read_exact_at(&mut found, 0x40_0ffa)?;
        assert_eq!(&found, b"portcullis\0\0");
    }
    let function =
        functions.iter().find(|function| function.identity == hda::IDENTITY).ok_or("no intel-hda")?;
    let engine = hda::Hda::new(function);
    for value in [0x5a, 0x17] {
        qemu.ram().write_all_at(&hda::Hda::verb(value), 0x30_0ffc)?;
        qemu.ram().write_all_at(&[0xee; 10], 0x40_0008)?;
        assert_eq!(engine.run(&mut qemu.client, 0x30_0ffc, 0x40_0008)?, value);
        let mut found = [0; 10];
        qemu.ram().read_exact_at(&mut found, 0x40_0008)?;
        assert_eq!(found, [0, 0, 0, 0, 0, 0, 0, 0, 0xee, 0xee]);
    }
    Ok(())
}
