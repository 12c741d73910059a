//! Groups: isolation that is only believed in, and devices of different masters in one group.

use std::collections::BTreeSet;

use super::{super::report::Report, Finding, FindingCode, Severity, count};
use crate::host::Host;

pub(super) fn find(host: &Host, report: &Report, findings: &mut Vec<Finding>) {
    acs_override(host, report, findings);
    mixed(host, report, findings);
}

/// Groups of the kernel that are smaller than what the hardware's own words lead to.
fn acs_override(host: &Host, report: &Report, findings: &mut Vec<Finding>) {
    let split: Vec<_> = host
        .computed
        .iter()
        .filter(|computed| {
            let groups: BTreeSet<_> = computed
                .members
                .iter()
                .filter_map(|member| host.device(*member).and_then(|device| device.group))
                .collect();
            groups.len() > 1
        })
        .collect();
    let assigned = split.iter().any(|computed| {
        computed.members.iter().any(|member| {
            host.device(*member)
                .and_then(|device| device.driver.as_deref())
                .is_some_and(|driver| driver.contains("vfio"))
        })
    });
    let told = host.kernel.option("pcie_acs_override");
    if let Some(value) = told {
        let mut finding = Finding::new(
            FindingCode::AcsOverride,
            if assigned { Severity::High } else { Severity::Medium },
            "ACS override: groups are smaller than the hardware isolates",
        )
        .meaning(
            "The kernel is told to believe that devices cannot reach each other directly, though they do not say so. A device \
             given to a guest may read and write a neighbour's memory and registers past the unit; whether it can depends on \
             the chipset, and nobody has checked.",
        )
        .evidence("/proc/cmdline", format!("pcie_acs_override={value}"));
        for computed in split.iter().take(16) {
            for membership in &computed.memberships {
                finding = finding.evidence("configuration space", membership.to_string());
            }
        }
        findings.push(
            finding
                .action(
                    "Remove pcie_acs_override. Where the devices must be apart, put them into slots whose root ports have ACS, and \
                     let only masters who trust each other share what stays together.",
                )
                .about(split.iter().flat_map(|computed| computed.members.iter().map(ToString::to_string))),
        );
        return;
    }
    let differing: Vec<_> = report
        .groups
        .iter()
        .filter(|group| group.as_computed == Some(false))
        .filter_map(|group| group.number)
        .collect();
    if !differing.is_empty() && headers_complete(host) {
        findings.push(
            Finding::new(
                FindingCode::GroupsDiffer,
                Severity::Note,
                format!("{} differ from what configuration spaces lead to", count(differing.len(), "group")),
            )
            .meaning(
                "The kernel knows more of these devices than they say themselves (a defect, or isolation that they do not \
                 announce), or it was changed to believe so. What the kernel made counts for VFIO.",
            )
            .evidence("/sys/kernel/iommu_groups", "compared with ACS and bridges in configuration spaces")
            .action("None, where the kernel is your distribution's. Otherwise see what was changed in drivers/pci/quirks.c.")
            .about(differing.iter().map(|number| format!("group {number}"))),
        );
    }
}

/// Whether configuration spaces were given whole, so that a comparison means something.
fn headers_complete(host: &Host) -> bool {
    host.functions.iter().any(|function| function.reach.whole())
}

/// Groups in which devices of different masters stand together.
fn mixed(host: &Host, report: &Report, findings: &mut Vec<Finding>) {
    for group in report.groups.iter().filter(|group| group.number.is_some()) {
        let number = group.number.unwrap_or_default();
        let members = report.members(group);
        let assigned = |driver: &str| driver.contains("vfio") || driver == "pci-stub";
        // Bridges pass requests on and have no master of their own.
        let (of_vfio, of_host): (Vec<_>, Vec<_>) = members
            .iter()
            .copied()
            .filter(|device| !device.bridge && device.driver.is_some())
            .partition(|device| device.driver.as_deref().is_some_and(assigned));
        let removable = members.iter().filter(|device| device.removable).count();
        let named = |device: &super::super::DeviceReport| {
            format!("{} ({})", device.address, device.driver.as_deref().unwrap_or("no driver"))
        };
        if !of_vfio.is_empty() && !of_host.is_empty() {
            let mut finding = Finding::new(
                FindingCode::MixedGroup,
                Severity::Medium,
                format!("Group {number} holds devices of the host beside devices for guests"),
            )
            .meaning(
                "The unit, or the way to it, does not keep these devices apart: whoever has one can reach the other's memory. \
                 VFIO refuses the group until all its devices are its own or have no driver.",
            )
            .action(
                "Bind the other devices of the group to vfio-pci too or leave them without driver, or move the device to a slot \
                 whose port has ACS.",
            )
            .about(of_vfio.iter().chain(&of_host).copied().map(named));
            for reason in &group.reasons {
                finding = finding.evidence("configuration space", reason.clone());
            }
            if finding.evidence.is_empty() {
                finding =
                    finding.evidence(format!("/sys/kernel/iommu_groups/{number}/devices"), "lists both");
            }
            findings.push(finding);
        }
        if group.holders.len() > 1 {
            let names = host
                .vfio
                .holders
                .iter()
                .filter(|holder| group.holders.contains(&holder.process))
                .map(|holder| format!("process {} ({})", holder.process, holder.name));
            findings.push(
                Finding::new(
                    FindingCode::MixedGroup,
                    Severity::Medium,
                    format!("Group {number} is shared by {}", count(group.holders.len(), "process")),
                )
                .meaning(
                    "Processes that hold devices of one group can reach each other's memory through them.",
                )
                .evidence("/proc/*/fd", "both hold the group or a device of it")
                .action("Give devices of one group to one master.")
                .about(names),
            );
        }
        if removable > 0 && removable < members.iter().filter(|device| !device.bridge).count() {
            findings.push(
                Finding::new(
                    FindingCode::MixedGroup,
                    Severity::Medium,
                    format!("Group {number} holds devices that can be plugged in beside built-in ones"),
                )
                .meaning("What a stranger plugs in shares its isolation with a built-in device, and can reach its memory.")
                .evidence("/sys/bus/pci/devices/*/removable", "differs within the group")
                .action("Keep the external port off, or move the built-in device to another port.")
                .about(members.iter().copied().map(named)),
            );
        }
    }
}
