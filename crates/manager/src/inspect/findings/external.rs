//! Ports through which a stranger can plug in a device that does DMA.

use super::{super::report::Report, Finding, FindingCode, Severity, count};
use crate::host::{DomainType, Host};

pub(super) fn find(host: &Host, report: &Report, findings: &mut Vec<Finding>) {
    thunderbolt(host, findings);
    removable(host, report, findings);
    slots(host, findings);
}

fn thunderbolt(host: &Host, findings: &mut Vec<Finding>) {
    for domain in &host.thunderbolt {
        let path = format!("/sys/bus/thunderbolt/devices/{}", domain.name);
        let security = domain.security.as_deref().unwrap_or("unknown");
        let closed = matches!(security, "dponly" | "usbonly" | "nopcie");
        let protected = domain.dma_protection;
        let mut finding = match (protected, closed) {
            (Some(true), _) => Finding::new(
                FindingCode::Thunderbolt,
                Severity::Note,
                format!("Thunderbolt {}: devices are behind an IOMMU", domain.name),
            )
            .meaning("What is plugged in there is translated strictly and reaches only what its driver mapped.")
            .action("None."),
            (_, true) => Finding::new(
                FindingCode::Thunderbolt,
                Severity::Note,
                format!("Thunderbolt {}: PCIe is not tunnelled", domain.name),
            )
            .meaning("Devices that do DMA cannot be reached through this port.")
            .action("None."),
            _ => Finding::new(
                FindingCode::Thunderbolt,
                if security == "none" { Severity::High } else { Severity::Medium },
                format!("Thunderbolt {}: no DMA protection, security level {security}", domain.name),
            )
            .meaning(
                "Whoever plugs in a device that is let in reaches all memory. Level none lets in everything; user and secure ask \
                 first, and a device can lie about what it is (user).",
            )
            .action(
                "Enable the IOMMU and Kernel DMA Protection in the firmware's setup; until then set the security level to secure or \
                 dponly.",
            ),
        };
        finding = finding.evidence(
            format!("{path}/iommu_dma_protection"),
            match protected {
                Some(true) => "1",
                Some(false) => "0",
                None => "not there (older kernel)",
            },
        );
        findings.push(finding.evidence(format!("{path}/security"), security.to_owned()));
    }
}

/// Devices that a user can pull out, and that are not held back strictly.
fn removable(host: &Host, report: &Report, findings: &mut Vec<Finding>) {
    let mut loose = Vec::new();
    let mut lazy = Vec::new();
    for device in report.devices.iter().filter(|device| device.removable && !device.bridge) {
        let group =
            host.device(device.address).and_then(|device| device.group).and_then(|number| host.group(number));
        match group.and_then(|group| group.domain) {
            Some(DomainType::Strict) => {}
            Some(DomainType::Lazy) => lazy.push(device),
            _ => loose.push(device),
        }
    }
    let names = |list: &[&super::super::DeviceReport]| -> Vec<String> {
        list.iter().map(|device| format!("{} ({})", device.address, device.description)).collect()
    };
    if !loose.is_empty() {
        findings.push(
            Finding::new(
                FindingCode::ExternalPort,
                Severity::High,
                format!("{} on external ports reach all memory", count(loose.len(), "device")),
            )
            .meaning("They can be plugged in by anyone who stands before the machine, and nothing holds them back.")
            .evidence("/sys/bus/pci/devices/*/removable", "removable")
            .evidence("/sys/kernel/iommu_groups/*/type", "identity, or no group")
            .action("Enable the IOMMU without pass-through, or keep the port off.")
            .about(names(&loose)),
        );
    }
    if !lazy.is_empty() {
        findings.push(
            Finding::new(
                FindingCode::ExternalPort,
                Severity::Low,
                format!("{} on external ports with lazy invalidation", count(lazy.len(), "device")),
            )
            .meaning("Memory that was unmapped stays reachable for up to 10 ms to a device that a stranger can plug in.")
            .evidence("/sys/kernel/iommu_groups/*/type", "DMA-FQ")
            .action("Boot with iommu.strict=1. Kernels since 5.14 do so for ports that firmware marks as external.")
            .about(names(&lazy)),
        );
    }
}

/// Hot-plug slots whose port no unit guards: what is plugged in there will not be held back either.
fn slots(host: &Host, findings: &mut Vec<Finding>) {
    let open: Vec<String> = host
        .functions
        .iter()
        .filter(|function| function.express.is_some_and(|express| express.hot_plug))
        .filter(|function| {
            let group = host.device(function.address).and_then(|device| device.group);
            let domain = group.and_then(|number| host.group(number)).and_then(|group| group.domain);
            !matches!(domain, Some(DomainType::Strict | DomainType::Lazy))
        })
        .map(|function| function.address.to_string())
        .collect();
    if open.is_empty() {
        return;
    }
    findings.push(
        Finding::new(
            FindingCode::ExternalPort,
            Severity::Low,
            format!("{} without DMA protection", count(open.len(), "hot-plug slot")),
        )
        .meaning("A device plugged into these slots while the machine runs reaches all memory.")
        .evidence("PCI Express capability", "hot-plug capable slot")
        .evidence("/sys/kernel/iommu_groups", "the port has no translated group")
        .action("Enable the IOMMU without pass-through, or lock the chassis.")
        .about(open),
    );
}
