//! What Linux makes of the tables that we wrote, beside what we make of them.

use crate::case::{Case, On, World};
use anyhow::{Context, Result, ensure};
use portcullis_firmware::Topology;
use portcullis_firmware::acpi;
use portcullis_firmware::topology::PciBridges;
use portcullis_spec::PciAddress;
use rustix::fs::OFlags;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

pub(crate) const CASES: &[Case] = &[
    Case { name: "the_kernel_has_the_table_that_we_wrote", seconds: 120, on: On::Every, run: table_is_ours },
    Case { name: "the_kernel_has_our_units", seconds: 120, on: On::Every, run: units },
    Case { name: "every_device_goes_to_the_unit_that_we_say", seconds: 120, on: On::Every, run: devices },
    Case { name: "groups_have_the_regions_that_we_say", seconds: 120, on: On::Every, run: regions },
    Case { name: "the_log_names_units_and_regions", seconds: 120, on: On::Only("intel"), run: log },
];

fn name(world: &World) -> &'static str {
    if world.machine.starts_with("amd") { "IVRS" } else { "DMAR" }
}

/// The table as the kernel has it.
fn table(world: &World) -> Result<Vec<u8>> {
    fs::read(Path::new("/sys/firmware/acpi/tables").join(name(world))).context("the kernel's table")
}

fn topology(world: &World) -> Result<Topology> {
    let topology = acpi::topology(&table(world)?);
    for finding in &topology.findings {
        println!("{finding}");
    }
    ensure!(topology.findings.is_empty());
    Ok(topology)
}

/// All PCI functions and where sysfs shows them.
fn functions() -> Result<Vec<(PciAddress, PathBuf)>> {
    let mut functions = Vec::new();
    for entry in fs::read_dir("/sys/bus/pci/devices")? {
        let entry = entry?;
        let text = entry.file_name().to_string_lossy().into_owned();
        functions.push((portcullis_firmware::user::function(&text)?, entry.path()));
    }
    functions.sort();
    ensure!(functions.len() > 4, "only {} PCI functions", functions.len());
    Ok(functions)
}

/// The bridges as sysfs shows them.
struct Bridges;

impl PciBridges for Bridges {
    fn buses_behind(&self, address: PciAddress) -> Option<(u8, u8)> {
        let path = PathBuf::from(format!("/sys/bus/pci/devices/{address}"));
        let number = |file: &str| fs::read_to_string(path.join(file)).ok()?.trim().parse().ok();
        Some((number("secondary_bus_number")?, number("subordinate_bus_number")?))
    }
}

fn table_is_ours(world: &World) -> Result<()> {
    let written = fs::read(Path::new("/tables").join(name(world)))?;
    let read = table(world)?;
    ensure!(read == written, "the kernel has {read:02x?}, we wrote {written:02x?}");
    Ok(())
}

fn units(world: &World) -> Result<()> {
    let topology = topology(world)?;
    let ours: BTreeSet<String> = topology.units.iter().map(|unit| unit.name.value.clone()).collect();
    let mut theirs = BTreeSet::new();
    for entry in fs::read_dir("/sys/class/iommu")? {
        theirs.insert(entry?.file_name().to_string_lossy().into_owned());
    }
    ensure!(ours == theirs, "ours are {ours:?}, the kernel's {theirs:?}");
    for unit in topology.units.iter().filter(|unit| unit.name.value.starts_with("dmar")) {
        let path = format!("/sys/class/iommu/{}/intel-iommu/address", unit.name.value);
        let theirs = u64::from_str_radix(fs::read_to_string(&path).context(path)?.trim(), 16)?;
        let ours = unit.registers.as_ref().map(|window| window.base.0);
        ensure!(ours == Some(theirs), "ours is at {ours:x?}, the kernel's at {theirs:#x}");
    }
    Ok(())
}

fn devices(world: &World) -> Result<()> {
    let topology = topology(world)?;
    let mut checked = 0;
    for (address, path) in functions()? {
        let resolved = topology.resolve(address, &Bridges).and_then(|resolved| resolved.unit);
        let ours = resolved.and_then(|unit| topology.unit(unit)).map(|unit| unit.name.value.clone());
        // What the kernel gives no group (an IOMMU's own function) goes nowhere.
        let Ok(link) = fs::read_link(path.join("iommu")) else {
            println!("{address} has no unit in the kernel");
            continue;
        };
        let theirs = link.file_name().map(|name| name.to_string_lossy().into_owned());
        ensure!(ours == theirs, "{address}: ours is {ours:?}, the kernel's {theirs:?}");
        checked += 1;
    }
    ensure!(checked >= 4, "only {checked} devices have a unit");
    Ok(())
}

fn regions(world: &World) -> Result<()> {
    let topology = topology(world)?;
    let mut found = 0;
    for group in fs::read_dir("/sys/kernel/iommu_groups")? {
        let group = group?.path();
        let mut theirs = BTreeSet::new();
        let text = fs::read_to_string(group.join("reserved_regions"))?;
        // "direct-relaxable" is also what Linux itself reserves for old drivers behind an ISA bridge.
        for line in text.lines().filter(|line| line.ends_with(" direct")) {
            let mut words = line.split_whitespace();
            let mut number = || -> Result<u64> {
                let word = words.next().context("a number")?;
                Ok(u64::from_str_radix(word.trim_start_matches("0x"), 16)?)
            };
            theirs.insert((number()?, number()?));
        }
        let mut ours = BTreeSet::new();
        for device in fs::read_dir(group.join("devices"))? {
            let address = portcullis_firmware::user::function(&device?.file_name().to_string_lossy())?;
            let regions = topology.reserved_for(address, &Bridges);
            ours.extend(regions.map(|region| (region.range.first, region.range.last)));
        }
        ensure!(ours == theirs, "{}: ours are {ours:x?}, the kernel's {theirs:x?}", group.display());
        found += ours.len();
    }
    let expected = topology.reserved.len();
    ensure!(found == expected && found > 0, "{found} regions are some group's, the table has {expected}");
    Ok(())
}

fn log(world: &World) -> Result<()> {
    let topology = topology(world)?;
    let mut log = fs::OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open("/dev/kmsg")?;
    let text = super::inspect::records(&mut log);
    let text = String::from_utf8_lossy(&text);
    let mut wanted = vec!["ACPI: DMAR ACPI table found in initrd".to_owned()];
    for unit in &topology.units {
        let base = unit.registers.as_ref().context("registers")?.base.0;
        wanted.push(format!("DMAR: DRHD base: {base:#016x} flags: 0x1"));
    }
    for region in &topology.reserved {
        wanted
            .push(format!("DMAR: RMRR base: {:#016x} end: {:#016x}", region.range.first, region.range.last));
    }
    for line in &wanted {
        ensure!(text.contains(line), "the log lacks `{line}`");
    }
    Ok(())
}
