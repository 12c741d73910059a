//! A disk whose content both sides can work out, and the other devices of the machines that hand them out.

use crate::machine::{Iommu, Machine};
use anyhow::{Context, Result};
use portcullis_guest::content;
use portcullis_guest::protocol::{Ledger, Verdict};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

const NAME: &str = "disk.img";

/// Adds what the cases drive:
/// - an NVMe disk, filled with [`content::original`];
/// - `edu`, where that works on a root port of its own, so that it can be reset by its bus;
/// - an e1000e, with QEMU's own network behind it, where a file can be fetched;
/// - two NVMe functions of one device, which nothing keeps apart: a group of two;
/// - another `edu` behind a bridge to conventional PCI, together with a device that does nothing: a group that sends in the bridge's
///   name.
pub(super) fn add_devices(machine: &mut Machine, folder: &Path) -> Result<()> {
    let path = folder.join(NAME);
    let mut file = BufWriter::new(File::create(&path).with_context(|| path.display().to_string())?);
    for block in 0..content::BLOCKS {
        file.write_all(&content::original(block))?;
    }
    file.into_inner().context("the disk")?.sync_all()?;
    let drive = |name: &str, what: String| ["-drive".to_owned(), format!("if=none,id={name},{what}")];
    machine.devices.extend(drive("disk", format!("format=raw,file={}", path.display())));
    for name in ["twin0", "twin1"] {
        machine.devices.extend(drive(name, "driver=null-co,size=1M".to_owned()));
    }
    let edu = match machine.iommu {
        // QEMU 10.0's amd-iommu takes a device's bus number before the firmware has given it: behind a bridge it is always 0.
        Iommu::Amd => "edu",
        _ => "edu,bus=port1",
    };
    let devices = [
        "nvme,drive=disk,serial=portcullis",
        "pcie-root-port,id=port1,chassis=1,slot=1",
        edu,
        "e1000e,romfile=,netdev=net",
        "nvme,drive=twin0,serial=twin0,addr=0x10.0,multifunction=on",
        "nvme,drive=twin1,serial=twin1,addr=0x10.1",
        "pcie-pci-bridge,id=bridge1",
        "edu,bus=bridge1,addr=1",
        "pci-testdev,bus=bridge1,addr=2",
    ];
    for device in devices {
        machine.devices.extend(["-device".to_owned(), device.to_owned()]);
    }
    let files = folder.join("files");
    fs::create_dir_all(&files)?;
    fs::write(files.join(content::FILE), content::FILE_TEXT)?;
    let network = format!("user,id=net,ipv4=off,tftp={}", files.display());
    machine.devices.extend(["-netdev".to_owned(), network]);
    Ok(())
}

/// Whether what the guest says it read is what the image held.
pub(super) fn judge_read(ledger: &Ledger, _: &Path) -> Verdict {
    let mut details = Vec::new();
    let said = ledger.evidence(content::READ);
    let sum = content::sum((0..content::PROBED).map(content::original));
    if said != Some(sum.as_str()) {
        details.push(format!("the image's first blocks sum to {sum}, the guest says {said:?}"));
    }
    Verdict { name: "blocks_read_are_the_images".to_owned(), passed: details.is_empty(), details }
}

/// Whether what the guest wrote, and nothing else, is in the image.
pub(super) fn judge_written(ledger: &Ledger, folder: &Path) -> Verdict {
    let mut details = Vec::new();
    let image = fs::read(folder.join(NAME)).unwrap_or_default();
    let (blocks, rest) = image.as_chunks::<{ content::BLOCK }>();
    if blocks.len() as u64 != content::BLOCKS || !rest.is_empty() {
        details.push(format!("the image has {} blocks", blocks.len()));
    }
    let first: u64 = ledger.evidence(content::WRITTEN).and_then(|text| text.parse().ok()).unwrap_or(u64::MAX);
    if first == u64::MAX {
        details.push("the guest does not say where it wrote".to_owned());
    }
    let written = first..first.saturating_add(content::PROBED);
    for (index, block) in (0..).zip(blocks) {
        let wanted =
            if written.contains(&index) { content::changed(index) } else { content::original(index) };
        if *block != wanted {
            details.push(format!("block {index} is not as it should be"));
        }
    }
    details.truncate(20);
    Verdict { name: "blocks_written_are_in_the_image".to_owned(), passed: details.is_empty(), details }
}
