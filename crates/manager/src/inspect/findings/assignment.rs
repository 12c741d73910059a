//! Devices given to guests and user-space drivers through VFIO.

use super::{super::report::Report, Finding, FindingCode, Severity, count};
use crate::host::Host;

pub(super) fn find(host: &Host, report: &Report, findings: &mut Vec<Finding>) {
    no_iommu_mode(host, findings);
    reserved(host, report, findings);
    memlock(host, report, findings);
}

fn no_iommu_mode(host: &Host, findings: &mut Vec<Finding>) {
    let vfio = &host.vfio;
    if !vfio.no_iommu_mode && vfio.no_iommu_nodes.is_empty() {
        return;
    }
    let mut finding = Finding::new(
        FindingCode::NoIommuMode,
        Severity::High,
        "No-IOMMU mode: devices can be handed out with nothing to hold them back",
    )
    .meaning(
        "A program that opens such a device controls it entirely, and with it all memory of the host, whatever that program's \
         own rights are.",
    );
    if vfio.no_iommu_mode {
        finding = finding.evidence("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y");
    }
    for node in &vfio.no_iommu_nodes {
        finding = finding.evidence(format!("/dev/vfio/{node}"), "exists");
    }
    findings.push(
        finding
            .options(host, &["vfio.enable_unsafe_noiommu_mode"])
            .action("Set enable_unsafe_noiommu_mode to N and unbind these devices from vfio-pci; use a host with an IOMMU."),
    );
}

/// Regions that an assigned device keeps reaching.
fn reserved(host: &Host, report: &Report, findings: &mut Vec<Finding>) {
    let relaxed = host.kernel.has("intel_iommu", "relax_rmrr");
    if relaxed {
        findings.push(
            Finding::new(
                FindingCode::ReservedRegion,
                Severity::Medium,
                "The kernel is told to ignore firmware's reserved regions (RMRR)",
            )
            .meaning(
                "Firmware says that some devices must keep reaching parts of memory, for its own use beside the operating system. \
                 With this patch the kernel hands such devices out all the same: their guests share memory with the \
                 host's firmware, or break what firmware does there.",
            )
            .options(host, &["intel_iommu"])
            .action("Remove relax_rmrr; switch the firmware's use off for that slot (iLO, iDRAC: shared memory, HPSA), or use another."),
        );
    }
    for group in &report.groups {
        let Some(number) = group.number else { continue };
        let assigned: Vec<_> = report
            .members(group)
            .into_iter()
            .filter(|device| device.driver.as_deref().is_some_and(|driver| driver.contains("vfio")))
            .collect();
        for region in group.reserved.iter().filter(|_| !assigned.is_empty()) {
            let severity = match region.kind.as_str() {
                "direct" => Severity::Medium,
                "direct-relaxable" => Severity::Low,
                _ => continue,
            };
            findings.push(
                Finding::new(
                    FindingCode::ReservedRegion,
                    severity,
                    format!(
                        "Group {number}, assigned, has firmware's region {:#x} to {:#x}",
                        region.first, region.last
                    ),
                )
                .meaning(if severity == Severity::Medium {
                    "Firmware uses this memory through the device beside the operating system. A guest that has the device shares \
                     it; most kernels refuse to assign it."
                } else {
                    "Firmware used this memory through the device before the operating system started (USB keyboards, graphics). \
                     The kernel drops the region when the device is assigned; firmware that still uses it will fail."
                })
                .evidence(
                    format!("/sys/kernel/iommu_groups/{number}/reserved_regions"),
                    format!("{:#x} {:#x} {}", region.first, region.last, region.kind),
                )
                .action("Assign another device, or switch firmware's use of it off in the firmware's setup.")
                .about(assigned.iter().map(|device| device.address.to_string())),
            );
        }
    }
}

const MIB: u64 = 1 << 20;

fn memlock(host: &Host, report: &Report, findings: &mut Vec<Finding>) {
    let action = "Raise the limit for the process that holds the devices (systemd: LimitMEMLOCK=; shell: ulimit -l; libvirt: \
                  <memtune><hard_limit>) to the guest's memory and 1 GiB more.";
    let meaning = "VFIO pins all memory that a device may reach, and counts it against the process's limit of locked memory. \
                   With too low a limit, starting the guest, or adding memory to it later, fails.";
    for holder in &host.vfio.holders {
        let (Some(limit), Some(space)) = (holder.memlock, holder.address_space) else { continue };
        if limit < space {
            findings.push(
                Finding::new(
                    FindingCode::Memlock,
                    Severity::Low,
                    format!(
                        "Process {} ({}) may lock {} MiB, less than its {} MiB of addresses",
                        holder.process,
                        holder.name,
                        limit / MIB,
                        space / MIB
                    ),
                )
                .meaning(meaning)
                .evidence(format!("/proc/{}/limits", holder.process), format!("Max locked memory {limit}"))
                .evidence(
                    format!("/proc/{}/status", holder.process),
                    format!("VmSize {space}, VmPin {}", holder.pinned.unwrap_or(0)),
                )
                .action(action),
            );
        }
    }
    let waiting = report
        .devices
        .iter()
        .filter(|device| device.driver.as_deref().is_some_and(|driver| driver.contains("vfio")))
        .count();
    let (Some(limit), Some(memory)) = (host.vfio.own_memlock, host.kernel.memory) else { return };
    // Below 1 GiB hardly any guest fits.
    if waiting > 0 && host.vfio.holders.is_empty() && limit < memory.min(1024 * MIB) {
        findings.push(
            Finding::new(
                FindingCode::Memlock,
                Severity::Low,
                format!("A process started from here may lock {} MiB", limit / MIB),
            )
            .meaning(format!("{} wait for VFIO. {meaning}", count(waiting, "device")))
            .evidence("/proc/self/limits", format!("Max locked memory {limit}"))
            .action(action),
        );
    }
}
