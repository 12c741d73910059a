//! `portcullis decode fault`.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, Write},
    path::PathBuf,
};

use anstyle::{AnsiColor, Style};
use portcullis_manager::{
    host::Host,
    inspect::{PciNames, Report},
    kernel_log::{KernelFault, KernelRecord, LogReader, Missing},
};
use portcullis_spec::{Access, FaultReason, PciAddress, Requester};
use serde::Serialize;

use crate::{
    exit::{Exit, Failure},
    output::Output,
};

/// Find refused DMA in the kernel's log, and say what it means.
///
/// Takes lines of VT-d, AMD-Vi, SMMUv2 and v3, virtio-iommu and RISC-V drivers, with whatever stands before them: dmesg, journalctl
/// (also -o json), /dev/kmsg, or a line from a mail. Ends with 3 where there was any.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Files to read instead of standard input.
    files: Vec<PathBuf>,
    /// Name devices as this host, or this copy of a host, has them.
    #[arg(long, value_name = "DIR", default_value = "/", hide_default_value = true)]
    root: PathBuf,
}

/// Longest line that is taken, in bytes; more of it is skipped.
const MAX_LINE: u64 = 64 << 10;

/// A record, and what this host knows of its sender.
#[derive(Serialize)]
struct Named {
    record: KernelRecord,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<Device>,
}

#[derive(Clone, Serialize)]
struct Device {
    address: PciAddress,
    description: String,
    driver: Option<String>,
    unit: Option<String>,
    group: Option<u32>,
}

pub(super) fn run(arguments: &Args, output: &mut Output) -> Result<Exit, Failure> {
    let mut known = Known { root: arguments.root.clone(), devices: None };
    let mut found = 0usize;
    let mut show = |output: &mut Output, record: KernelRecord| {
        found += usize::from(matches!(record, KernelRecord::Fault(_)));
        let device = known.device(&record);
        output.show(&Named { record, device }, write)
    };
    let mut reader = LogReader::new();
    if arguments.files.is_empty() {
        read(io::stdin().lock(), &mut reader, &mut |record| show(output, record))?;
    }
    for file in &arguments.files {
        let opened = std::fs::File::open(file)
            .map_err(|error| Failure::new(format!("cannot read {}: {error}", file.display())))?;
        read(io::BufReader::new(opened), &mut reader, &mut |record| show(output, record))?;
    }
    if let Some(record) = reader.flush() {
        show(output, record)?;
    }
    Ok(if found == 0 { Exit::Done } else { Exit::Findings })
}

fn read(
    mut input: impl BufRead,
    reader: &mut LogReader,
    show: &mut dyn FnMut(KernelRecord) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut line = Vec::new();
    loop {
        line.clear();
        let length = io::Read::take(&mut input, MAX_LINE).read_until(b'\n', &mut line)?;
        if length == 0 {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&line);
        for record in reader.push(&message(text.trim_end())) {
            show(record)?;
        }
    }
}

/// The message of a line of `journalctl -o json`, or the line itself.
fn message(line: &str) -> String {
    if line.starts_with('{')
        && let Ok(entry) = serde_json::from_str::<serde_json::Value>(line)
        && let Some(message) = entry["MESSAGE"].as_str()
    {
        return message.to_owned();
    }
    line.to_owned()
}

/// The host's devices, read when the first fault is met.
struct Known {
    root: PathBuf,
    devices: Option<BTreeMap<Requester, Device>>,
}

impl Known {
    fn device(&mut self, record: &KernelRecord) -> Option<Device> {
        let KernelRecord::Fault(fault) = record else { return None };
        let devices = self.devices.get_or_insert_with(|| devices(&self.root).unwrap_or_default());
        // The kernel's own name is surer than the number at a unit, which may not be the only one.
        let named = fault.device.as_deref().and_then(|name| name.parse().ok()).map(Requester::Pci);
        devices.get(&named.unwrap_or(fault.fault.requester)).cloned()
    }
}

fn devices(root: &std::path::Path) -> io::Result<BTreeMap<Requester, Device>> {
    let host = Host::read(root)?;
    let files = portcullis_manager::host::Root::open(root)?;
    let wanted = host.functions.iter().map(|function| (function.vendor, function.device));
    let report = Report::of(&host, &PciNames::read(&files, wanted));
    let mut devices = BTreeMap::new();
    for device in report.devices {
        let described = Device {
            address: device.address,
            description: device.description,
            driver: device.driver,
            unit: device.unit,
            group: host.device(device.address).and_then(|device| device.group),
        };
        if let Some(requester) = device.requester {
            devices.insert(requester, described.clone());
        }
        devices.insert(device.address.into(), described);
    }
    Ok(devices)
}

fn write(named: &Named, out: &mut dyn Write) -> io::Result<()> {
    match &named.record {
        KernelRecord::Fault(fault) => write_fault(fault, named.device.as_ref(), out),
        KernelRecord::Unit { unit, event, lost, .. } => {
            let unit = unit.as_deref().unwrap_or("a unit");
            writeln!(out, "{unit}: {event}{}", if *lost { "; reports were lost" } else { "" })
        }
        KernelRecord::Suppressed { count, .. } => {
            writeln!(out, "the kernel kept {count} more such lines back: what is shown is a lower bound")
        }
    }
}

fn write_fault(fault: &KernelFault, device: Option<&Device>, out: &mut dyn Write) -> io::Result<()> {
    let bold = Style::new().bold();
    let red = AnsiColor::Red.on_default().bold();
    let lacks = |missing| fault.missing.contains(&missing);
    let what = match fault.fault.access {
        access if access.contains(Access::EXECUTE) => "fetch instructions at",
        access if access.contains(Access::READ | Access::WRITE) => "read and write",
        access if access.contains(Access::WRITE) => "write",
        access if access.contains(Access::READ) => "read",
        _ => "access",
    };
    let target = match fault.interrupt_index {
        Some(index) => format!("send interrupt {index:#x}"),
        None if lacks(Missing::Address) => format!("{what} an address that the report does not tell"),
        None => format!("{what} {}", fault.fault.address),
    };
    writeln!(out, "{bold}{}{bold:#} tried to {target}: {red}refused{red:#}", fault.fault.requester)?;
    if let Some(device) = device {
        let mut facts = vec![device.description.clone()];
        facts.push(match &device.driver {
            Some(driver) => format!("driver {driver}"),
            None => "no driver".to_owned(),
        });
        facts.extend(device.group.map(|group| format!("group {group}")));
        facts.extend(device.unit.as_ref().map(|unit| format!("unit {unit}")));
        writeln!(out, "  device   {} {}", device.address, facts.join(", "))?;
    } else if let Some(name) = &fault.device {
        let driver = fault.driver.as_ref().map(|driver| format!(", driver {driver}")).unwrap_or_default();
        writeln!(out, "  device   {name}{driver}")?;
    }
    writeln!(out, "  reason   {}", explain(fault))?;
    let code = if fault.event.is_empty() { String::new() } else { format!(" ({})", fault.event) };
    writeln!(out, "  code     {:#04x}{code}", fault.fault.code)?;
    if let Some(pasid) = fault.fault.pasid {
        writeln!(out, "  PASID    {pasid}")?;
    }
    if let Some(ipa) = fault.fault.ipa {
        writeln!(out, "  between  the first stage's answer was {ipa}; the second refused")?;
    }
    if let Some(domain) = fault.domain {
        writeln!(out, "  domain   {domain:#x}")?;
    }
    if let Some(unit) = &fault.unit {
        writeln!(out, "  unit     {unit}")?;
    }
    if let Some(when) = fault.since_boot {
        writeln!(out, "  when     {:.6} s after boot", when.as_secs_f64())?;
    }
    if lacks(Missing::Segment) {
        writeln!(out, "  note     the kernel does not tell the PCI segment here; 0 is assumed")?;
    }
    Ok(())
}

fn explain(fault: &KernelFault) -> String {
    use FaultReason as R;
    let table = |table| format!("{table:?}").to_lowercase();
    match fault.fault.reason {
        _ if fault.missing.contains(&Missing::Reason) => {
            "the report was cut off before its reason".to_owned()
        }
        R::RequesterUnsupported => "no table speaks of this device".to_owned(),
        R::EntryNotPresent(which) => {
            format!("the {} table has no entry for it: nobody enabled DMA for this device", table(which))
        }
        R::EntryInvalid(which) => format!("its entry in the {} table is malformed", table(which)),
        R::TableUnreadable(which) => format!("the {} table could not be read", table(which)),
        R::RequestBlocked => "its entry blocks this kind of request".to_owned(),
        R::PasidUnsupported => "it may not use this PASID".to_owned(),
        R::AddressSize => "the address has more bits than the device may use".to_owned(),
        R::NotMapped => {
            "nothing is mapped there: unmapped too early, never mapped, or a wrong address".to_owned()
        }
        R::PermissionDenied => {
            "the mapping does not permit that (on VT-d: or nothing is mapped there)".to_owned()
        }
        R::PrivilegeDenied => "it lacks the privilege".to_owned(),
        R::AccessFlag => "the mapping was never accessed before, and the unit may not mark it".to_owned(),
        R::PagingEntryInvalid => "the page table has a malformed entry there".to_owned(),
        R::PagingEntryUnreadable => "the page table could not be read".to_owned(),
        R::ReservedRange => "the range is reserved for interrupts or protected".to_owned(),
        R::InterruptBlocked => "this interrupt is not permitted to it".to_owned(),
        R::TranslatedBlocked => "it may not use translations of its own".to_owned(),
        R::Internal => {
            "the unit met an error of its own, or the code is not one of the specification's".to_owned()
        }
    }
}
