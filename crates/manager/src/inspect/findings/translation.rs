//! Units that are missing, off, hidden or told to let everything pass.

use super::{super::report::Report, Finding, FindingCode, Severity, count};
use crate::host::{DomainType, Host, KernelGroup, UnitRegisters};

pub(super) fn find(host: &Host, report: &Report, findings: &mut Vec<Finding>) {
    if host.units.is_empty() && !host.groups.iter().any(|group| group.domain.is_some()) {
        findings.push(none(host));
    } else {
        domains(host, findings);
        hidden(host, report, findings);
        unguarded(host, report, findings);
    }
    broken_tables(host, findings);
    pre_boot(host, findings);
}

fn is_amd(host: &Host) -> bool {
    host.kernel.processor.vendor.as_deref() == Some("AuthenticAMD")
        || host.units.iter().any(|unit| matches!(unit.registers, UnitRegisters::AmdVi { .. }))
}

/// No unit runs: because there is none, or because it is off.
fn none(host: &Host) -> Finding {
    let meaning = "Every device that can do DMA reaches all memory: a defective or malicious device, its firmware, or \
                   whoever controls it, can read and change everything. No device can be given to a guest safely.";
    let stated = &host.firmware.topology.units;
    let empty = "empty: the kernel drives no unit";
    let unread = host.firmware.unreadable.iter().any(|table| table != "devicetree");
    if !stated.is_empty() || unread {
        let amd = host.firmware.tables.iter().any(|table| table.starts_with("IVRS"));
        let mut finding = Finding::new(
            FindingCode::IommuOff,
            Severity::High,
            "The IOMMU is there but off: devices reach all memory",
        )
        .meaning(meaning)
        .evidence("/sys/class/iommu", empty);
        finding = if stated.is_empty() {
            finding.evidence(
                "/sys/firmware/acpi/tables",
                format!("{} is there but may not be read", host.firmware.unreadable.join(", ")),
            )
        } else {
            finding.evidence(
                host.firmware.tables.join(", "),
                format!("firmware describes {}", count(stated.len(), "unit")),
            )
        };
        let finding = finding.options(host, &["iommu", "intel_iommu", "amd_iommu", "iommu.passthrough"]);
        let off = host.kernel.has("iommu", "off")
            || host.kernel.has("intel_iommu", "off")
            || host.kernel.has("amd_iommu", "off");
        return finding.action(match (off, amd) {
            (true, _) => {
                "Remove the option that switches it off from the kernel's command line, and reboot.".to_owned()
            }
            (false, true) => {
                "Look at what the kernel says of AMD-Vi at boot (dmesg | grep AMD-Vi): its driver may not be built in, or \
                 it rejects the table."
                    .to_owned()
            }
            (false, false) => {
                "Boot with intel_iommu=on (or build the kernel with CONFIG_INTEL_IOMMU_DEFAULT_ON); on other \
                 architectures see whether the unit's driver is built in."
                    .to_owned()
            }
        });
    }
    let finding = Finding::new(FindingCode::NoIommu, Severity::High, "No IOMMU: devices reach all memory")
        .meaning(meaning)
        .evidence("/sys/class/iommu", empty)
        .evidence(
            "/sys/firmware/acpi/tables",
            if host.firmware.acpi {
                "no DMAR, IVRS, IORT, VIOT or RIMT: firmware describes no unit"
            } else {
                "not there: no firmware table describes a unit"
            },
        );
    finding.action(if host.kernel.processor.hypervisor {
        "This is a virtual machine. Whether its devices are held back is its host's affair; to have a unit inside as well, give \
         it a virtual one (QEMU: -device intel-iommu,intremap=on or -device virtio-iommu-pci)."
            .to_owned()
    } else if is_amd(host) {
        "Enable IOMMU (often under AMD CBS, NBIO) in the firmware's setup: Enabled, not Auto.".to_owned()
    } else {
        "Enable VT-d (Intel), IOMMU (AMD) or SMMU (Arm) in the firmware's setup. Where it is enabled already, ask the vendor for \
         firmware that describes it."
            .to_owned()
    })
}

fn names(groups: &[&KernelGroup]) -> Vec<String> {
    groups.iter().map(|group| format!("group {}", group.number)).collect()
}

fn domains(host: &Host, findings: &mut Vec<Finding>) {
    let of = |domain| -> Vec<&KernelGroup> {
        host.groups.iter().filter(|group| group.domain == Some(domain)).collect()
    };
    let identity = of(DomainType::Identity);
    let translated = host.groups.len() - identity.len();
    let options = ["iommu", "iommu.passthrough", "iommu.strict", "intel_iommu", "amd_iommu"];
    if !identity.is_empty() {
        let all = translated == 0;
        let title = if all {
            "Pass-through mode: devices that the host uses reach all memory".to_owned()
        } else {
            format!("{} in pass-through mode: their devices reach all memory", count(identity.len(), "group"))
        };
        findings.push(
            Finding::new(FindingCode::PassThrough, if all { Severity::High } else { Severity::Medium }, title)
                .meaning(
                    "The units are on, but for these groups they let addresses pass unchanged. Devices given to guests through \
                     VFIO are still held back; devices with a driver of the host are not, and nothing stops a \
                     defective or malicious one.",
                )
                .evidence(
                    "/sys/kernel/iommu_groups/*/type",
                    format!("identity in {} of {}", identity.len(), host.groups.len()),
                )
                .options(host, &options)
                .action(
                    "Remove iommu=pt and iommu.passthrough=1 from the kernel's command line, or write DMA-FQ or DMA to the group's \
                     type while its devices have no driver. The price is the cost of mapping: measure it before \
                     accepting the risk.",
                )
                .about(names(&identity)),
        );
    }
    let lazy = of(DomainType::Lazy);
    if !lazy.is_empty() {
        findings.push(
            Finding::new(
                FindingCode::LazyInvalidation,
                Severity::Low,
                format!("Lazy invalidation in {}", count(lazy.len(), "group")),
            )
            .meaning(
                "When a driver unmaps a buffer, its device can reach that memory for up to 10 ms more, while the memory may \
                 already be in use for something else. That is the kernel's default and faster; a malicious device can \
                 use the time.",
            )
            .evidence(
                "/sys/kernel/iommu_groups/*/type",
                format!("DMA-FQ in {} of {}", lazy.len(), host.groups.len()),
            )
            .options(host, &options)
            .action(
                "Boot with iommu.strict=1, or write DMA to the type of the groups that matter. Accept it where all devices are \
                 trusted.",
            )
            .about(names(&lazy)),
        );
    }
}

/// Units of firmware that the kernel does not drive, and units that firmware does not mention.
fn hidden(host: &Host, report: &Report, findings: &mut Vec<Finding>) {
    for unit in report.units.iter().filter(|unit| !unit.active) {
        let source = unit.firmware.clone().unwrap_or_default();
        let place = unit.registers.map(|base| format!(" at {base:#x}")).unwrap_or_default();
        findings.push(
            Finding::new(
                FindingCode::UnitHidden,
                Severity::Medium,
                format!("Unit {}{place} is not driven: devices behind it reach all memory", unit.name),
            )
            .meaning("Firmware describes this unit, and the kernel drives others, but not this one.")
            .evidence(source, "describes it")
            .evidence("/sys/class/iommu", "does not list it")
            .options(host, &["intel_iommu", "amd_iommu"])
            .action(
                "See what the kernel says of it at boot (dmesg | grep -e DMAR -e AMD-Vi -e smmu). intel_iommu=igfx_off switches off \
                 the graphics unit on purpose.",
            ),
        );
    }
    let stated: Vec<_> = host
        .firmware
        .topology
        .units
        .iter()
        .filter_map(|unit| unit.function.as_ref().map(|function| function.value))
        .collect();
    for function in host.functions.iter().filter(|function| function.is_iommu()) {
        let unknown = !stated.contains(&function.address) && host.firmware.unreadable.is_empty();
        // A virtio-iommu or RISC-V unit on PCI has a driver of its own.
        let driven = host.device(function.address).is_some_and(|device| device.driver.is_some());
        if unknown && !driven {
            findings.push(
                Finding::new(
                    FindingCode::UnitHidden,
                    Severity::Medium,
                    format!("{} is an IOMMU that firmware hides", function.address),
                )
                .meaning("The function says that it is an IOMMU (class 0806), but no table of firmware describes it.")
                .evidence(
                    format!("/sys/bus/pci/devices/{}/config", function.address),
                    format!("class {:06x}", function.class),
                )
                .evidence(host.firmware.tables.join(", "), "names no unit there")
                .action("Enable the IOMMU in the firmware's setup, or ask the vendor for firmware that describes it.")
                .about([function.address.to_string()]),
            );
        }
    }
}

/// Devices that no unit guards, where units run. Host bridges and IOMMUs send no requests of their own.
fn unguarded(host: &Host, report: &Report, findings: &mut Vec<Finding>) {
    let without: Vec<_> = report
        .devices
        .iter()
        .filter(|device| device.class >> 8 != 0x0600 && device.class >> 8 != 0x0806)
        .filter(|device| host.device(device.address).is_some_and(|device| device.group.is_none()))
        .collect();
    if without.is_empty() {
        return;
    }
    let active = without.iter().any(|device| device.driver.is_some());
    findings.push(
        Finding::new(
            FindingCode::Unguarded,
            if active { Severity::Medium } else { Severity::Low },
            format!("No unit guards {}", count(without.len(), "device")),
        )
        .meaning("These devices have no group: their requests pass no unit that the kernel drives, and reach all memory.")
        .evidence("/sys/bus/pci/devices/*/iommu_group", "not there")
        .action(
            "Take them off the machine, unbind their drivers, or see why no unit takes them: firmware must name a unit for every \
             device.",
        )
        .about(without.iter().map(|device| format!("{} ({})", device.address, device.description))),
    );
}

fn broken_tables(host: &Host, findings: &mut Vec<Finding>) {
    let errors: Vec<_> = host
        .firmware
        .topology
        .findings
        .iter()
        .filter(|finding| finding.severity() >= portcullis_firmware::Severity::Error)
        .collect();
    if errors.is_empty() {
        return;
    }
    let mut finding = Finding::new(
        FindingCode::BrokenTable,
        Severity::Low,
        format!("Firmware's tables have {}", count(errors.len(), "error")),
    )
    .meaning("Something that a table states could not be used. The kernel may have given up the same part, or more.")
    .action("Update the firmware. portcullis decode acpi shows the whole table.");
    for error in errors.iter().take(8) {
        finding = finding.evidence(error.source.to_string(), error.kind.to_string());
    }
    findings.push(finding);
}

fn pre_boot(host: &Host, findings: &mut Vec<Finding>) {
    let Some(opt_in) = &host.firmware.topology.platform.dma_opt_in else { return };
    let (title, text) = if opt_in.value {
        (
            "Firmware asks that DMA protection is kept on (opt-in flag set)",
            "The flag tells the operating system to use the units for external devices. It does not prove that memory was \
             protected before the operating system started: whether firmware itself switched the units on is not \
             recorded anywhere that can be read afterwards.",
        )
    } else {
        (
            "Firmware does not ask for DMA protection (opt-in flag clear)",
            "Before the operating system switches the units on, a device that is plugged in can most likely reach all memory. \
             The flag is a request, not a proof, in either direction.",
        )
    };
    findings.push(
        Finding::new(FindingCode::PreBoot, Severity::Note, title)
            .meaning(text)
            .evidence(opt_in.source.to_string(), format!("DMA opt-in {}", u8::from(opt_in.value)))
            .action(
                "Where physical access matters, enable pre-boot DMA protection (often \"Kernel DMA Protection\" or \"VT-d pre-boot \
                 protection\") in the firmware's setup, and keep external ports off until the system has booted.",
            ),
    );
}
