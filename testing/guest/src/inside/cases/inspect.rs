//! `portcullis inspect` against what the kernel says in sysfs, and `portcullis decode fault` against a fault that was just made.

use crate::case::{Case, On, World};
use anyhow::{Context, Result, bail, ensure};
use rustix::fs::OFlags;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) const CASES: &[Case] = &[
    Case { name: "the_report_for_people", seconds: 180, on: On::Every, run: the_report_for_people },
    Case { name: "protection_is_named", seconds: 180, on: On::Every, run: protection_is_named },
    Case {
        name: "groups_are_the_kernels",
        seconds: 180,
        on: On::Except("none"),
        run: groups_are_the_kernels,
    },
    Case {
        name: "groups_computed_are_the_kernels",
        seconds: 180,
        on: On::Except("none"),
        run: groups_computed_are_the_kernels,
    },
    Case { name: "reasons_are_named", seconds: 180, on: On::Except("none"), run: reasons_are_named },
    Case { name: "units_are_what_qemu_was_told", seconds: 180, on: On::Except("none"), run: units_are_told },
    Case { name: "dangers_are_found", seconds: 180, on: On::Only("intel"), run: dangers_are_found },
    Case { name: "holders_are_named", seconds: 180, on: On::Only("intel"), run: holders_are_named },
    // QEMU's AMD-Vi does not interrupt for its event log here, so the kernel says nothing of faults.
    Case { name: "a_fault_is_decoded", seconds: 180, on: On::Only("intel"), run: a_fault_is_decoded },
];

fn portcullis(arguments: &[&str], input: Option<&[u8]>) -> Result<(String, Option<i32>)> {
    let mut child = Command::new("/bin/portcullis")
        .args(arguments)
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .spawn()
        .context("portcullis")?;
    if let (Some(bytes), Some(mut pipe)) = (input, child.stdin.take()) {
        pipe.write_all(bytes)?;
    }
    let output = child.wait_with_output()?;
    Ok((String::from_utf8(output.stdout)?, output.status.code()))
}

fn report() -> Result<Value> {
    let (text, code) = portcullis(&["inspect", "--json"], None)?;
    ensure!(code == Some(0) || code == Some(3), "inspect ended with {code:?}");
    Ok(serde_json::from_str(&text)?)
}

fn list<'a>(value: &'a Value, name: &str) -> Result<&'a Vec<Value>> {
    value[name].as_array().with_context(|| format!("{name} is not a list"))
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn codes(report: &Value) -> Result<BTreeSet<String>> {
    Ok(list(report, "findings")?.iter().map(|finding| text(&finding["code"])).collect())
}

fn the_report_for_people(world: &World) -> Result<()> {
    let (shown, code) = portcullis(&["inspect"], None)?;
    println!("{shown}");
    // Only where everything is strict and remapped there is nothing to do.
    let expected = if world.machine == "intel-strict" { 0 } else { 3 };
    ensure!(code == Some(expected), "ended with {code:?} instead of {expected}");
    ensure!(!shown.contains('\u{1b}'), "no colour when piped");
    ensure!(shown.contains("Findings"));
    Ok(())
}

/// What the kernel runs, read here without the program under test.
fn types() -> Result<BTreeSet<String>> {
    let mut types = BTreeSet::new();
    for entry in fs::read_dir("/sys/kernel/iommu_groups")? {
        types.insert(fs::read_to_string(entry?.path().join("type"))?.trim().to_owned());
    }
    Ok(types)
}

fn protection_is_named(world: &World) -> Result<()> {
    let report = report()?;
    let codes = codes(&report)?;
    println!("{codes:?}");
    let kernel = types().unwrap_or_default();
    let kernel: Vec<&str> = kernel.iter().map(String::as_str).collect();
    let (expected, finding) = match (kernel.as_slice(), world.machine.as_str()) {
        ([], "none") => ("none", Some("no-iommu")),
        (["identity"], "intel-passthrough") => ("pass-through", Some("pass-through")),
        (["DMA"], "intel-strict" | "amd") => ("strict", None),
        (["DMA-FQ"], "intel" | "intel-scalable") => ("lazy", Some("lazy-invalidation")),
        (types, machine) => bail!("{machine} has {types:?}"),
    };
    ensure!(report["protection"] == expected, "{} instead of {expected}", report["protection"]);
    ensure!(finding.is_none_or(|finding| codes.contains(finding)), "{finding:?} is missing");
    let remapped = world.machine.starts_with("intel");
    ensure!(report["interrupts"]["remapped"] == remapped, "interrupts: {}", report["interrupts"]);
    ensure!(codes.contains("interrupts-not-remapped") == (world.machine == "amd"));
    Ok(())
}

/// The kernel's groups, read here without the program under test.
fn kernel_groups() -> Result<BTreeMap<u64, BTreeSet<String>>> {
    let mut groups = BTreeMap::new();
    for entry in fs::read_dir("/sys/kernel/iommu_groups")? {
        let path = entry?.path();
        let number = path.file_name().and_then(|name| name.to_str()).context("a name")?.parse()?;
        let mut members = BTreeSet::new();
        for member in fs::read_dir(path.join("devices"))? {
            members.insert(member?.file_name().to_string_lossy().into_owned());
        }
        groups.insert(number, members);
    }
    Ok(groups)
}

fn groups_are_the_kernels(_: &World) -> Result<()> {
    let report = report()?;
    let mut shown = BTreeMap::new();
    for group in list(&report, "groups")? {
        let mut members: BTreeSet<String> = list(group, "functions")?.iter().map(text).collect();
        members.extend(list(group, "others")?.iter().map(text));
        shown.insert(group["number"].as_u64().context("a number")?, members);
    }
    let kernel = kernel_groups()?;
    println!("{kernel:?}");
    ensure!(shown == kernel, "inspect says {shown:?}");
    ensure!(kernel.values().any(|members| members.len() > 1), "the machine has groups of several");
    Ok(())
}

fn groups_computed_are_the_kernels(_: &World) -> Result<()> {
    for group in list(&report()?, "groups")? {
        ensure!(group["as_computed"] == true, "computed otherwise: {group}");
        let (members, reasons) = (list(group, "functions")?.len(), list(group, "reasons")?.len());
        ensure!(reasons + 1 == members, "{members} members have {reasons} reasons: {group}");
    }
    Ok(())
}

fn reasons_are_named(_: &World) -> Result<()> {
    let report = report()?;
    let mut all = Vec::new();
    for group in list(&report, "groups")? {
        all.extend(list(group, "reasons")?.iter().map(text));
    }
    println!("{all:#?}");
    for wanted in ["multifunction without ACS", "has no ACS", "behind a bridge to conventional PCI"] {
        ensure!(all.iter().any(|reason| reason.contains(wanted)), "no reason says {wanted:?}");
    }
    Ok(())
}

fn units_are_told(world: &World) -> Result<()> {
    let report = report()?;
    let units = list(&report, "units")?;
    println!("{units:#?}");
    let [unit] = units.as_slice() else { bail!("{} units", units.len()) };
    ensure!(unit["active"] == true);
    let amd = world.machine == "amd";
    ensure!(unit["name"] == if amd { "ivhd0" } else { "dmar0" });
    ensure!(unit["architecture"] == if amd { "AMD-Vi" } else { "Intel VT-d" });
    // Firmware and kernel speak of the same unit.
    ensure!(text(&unit["firmware"]).starts_with(if amd { "IVRS+" } else { "DMAR+" }));
    if amd {
        return Ok(());
    }
    ensure!(unit["registers"] == 0xfed9_0000u64, "QEMU's unit is at fed90000");
    let has = |name: &str| -> Result<bool> {
        let found = list(unit, "capabilities")?.iter().find(|capability| capability["field"] == name);
        Ok(found.with_context(|| name.to_owned())?["value"] == 1)
    };
    let scalable = world.machine == "intel-scalable";
    ensure!(has("ir")?, "intremap=on");
    ensure!(has("smts")? == scalable && has("fsts")? == scalable, "x-scalable-mode, x-flts");
    Ok(())
}

fn dangers_are_found(_: &World) -> Result<()> {
    let file = "/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts";
    ensure!(!codes(&report()?)?.contains("unsafe-interrupts"));
    fs::write(file, "Y")?;
    let allowed = codes(&report()?)?.contains("unsafe-interrupts");
    fs::write(file, "N")?;
    ensure!(allowed, "unsafe interrupts are allowed and not found");
    let file = "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode";
    if fs::exists(file)? {
        fs::write(file, "Y")?;
        let enabled = codes(&report()?)?.contains("no-iommu-mode");
        fs::write(file, "N")?;
        ensure!(enabled, "no-IOMMU mode is on and not found");
    }
    Ok(())
}

/// PCI functions with this vendor and device.
fn functions(vendor: &str, device: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/bus/pci/devices")? {
        let path = entry?.path();
        let is = |file, value| Ok::<_, std::io::Error>(fs::read_to_string(path.join(file))?.trim() == value);
        if is("vendor", vendor)? && is("device", device)? {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn holders_are_named(_: &World) -> Result<()> {
    // The one on the root bus, in a group of its own.
    let edu = functions("0x1234", "0x11e8")?.into_iter().find(|path| name(path).starts_with("0000:00:"));
    let edu = edu.context("an edu device on the root bus")?;
    fs::write(edu.join("driver_override"), "vfio-pci")?;
    fs::write("/sys/bus/pci/drivers_probe", name(&edu))?;
    let group: u64 = name(&fs::read_link(edu.join("iommu_group"))?).parse()?;
    ensure!(list(&report()?, "holders")?.is_empty(), "nobody holds anything yet");
    let file = OpenOptions::new().read(true).write(true).open(format!("/dev/vfio/{group}"))?;
    let report = report()?;
    drop(file);
    let [holder] = list(&report, "holders")?.as_slice() else { bail!("holders: {}", report["holders"]) };
    println!("{holder}");
    ensure!(holder["process"] == std::process::id(), "the wrong process");
    ensure!(holder["groups"] == serde_json::json!([group]), "the wrong group");
    let shown =
        list(&report, "groups")?.iter().find(|shown| shown["number"] == group).context("the group")?;
    ensure!(shown["holders"] == serde_json::json!([std::process::id()]));
    let device = list(&report, "devices")?.iter().find(|device| device["address"] == name(&edu));
    ensure!(device.context("the device")?["driver"] == "vfio-pci");
    Ok(())
}

/// Lets the SCSI controller fetch its program from where nothing is mapped, and decodes what the kernel writes.
fn a_fault_is_decoded(world: &World) -> Result<()> {
    const ADDRESS: u32 = 0x1234_5000;
    // In pass-through mode nothing is refused.
    if world.machine == "intel-passthrough" {
        return Ok(());
    }
    let lsi = functions("0x1000", "0x0012")?.pop().context("an lsi53c895a")?;
    fs::write(lsi.join("enable"), "1")?;
    let config = OpenOptions::new().read(true).write(true).open(lsi.join("config"))?;
    let mut command = [0; 2];
    config.read_exact_at(&mut command, 4)?;
    // I/O and bus master enable.
    config.write_all_at(&[command[0] | 0x05, command[1]], 4)?;
    let mut log = OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open("/dev/kmsg")?;
    let _ = records(&mut log);
    // DSP: fetch the program there.
    let registers = OpenOptions::new().read(true).write(true).open(lsi.join("resource0"))?;
    registers.write_all_at(&ADDRESS.to_le_bytes(), 0x2c)?;
    // The kernel tells of it at once, or when a busy host lets it.
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut written = Vec::new();
    while !String::from_utf8_lossy(&written).contains("fault addr") && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
        written.extend(records(&mut log));
    }
    println!("{}", String::from_utf8_lossy(&written));
    let (decoded, code) = portcullis(&["decode", "fault", "--json"], Some(&written))?;
    println!("{decoded}");
    ensure!(code == Some(3), "no fault was found");
    let mut faults = decoded.lines().map(serde_json::from_str::<Value>);
    let first = faults.find_map(|fault| fault.ok().filter(|fault| fault["record"]["Fault"].is_object()));
    let first = first.context("a fault")?;
    let fault = &first["record"]["Fault"];
    ensure!(fault["fault"]["requester"]["Pci"] == name(&lsi), "another device");
    ensure!(fault["fault"]["address"] == ADDRESS, "another address");
    ensure!(fault["fault"]["access"] == "READ", "another access");
    ensure!(first["device"]["address"] == name(&lsi), "the host's device is not named");
    Ok(())
}

/// What can be read of `/dev/kmsg` without waiting.
pub(super) fn records(log: &mut File) -> Vec<u8> {
    let mut all = Vec::new();
    let mut record = [0; 8192];
    // An error that is not "nothing more" tells of records that were overwritten; the next read goes on behind them.
    loop {
        match log.read(&mut record) {
            Ok(0) => return all,
            Ok(length) => all.extend(&record[..length]),
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
            Err(_) => return all,
        }
    }
}
