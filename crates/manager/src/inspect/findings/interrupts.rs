//! Interrupts: a device that may write anywhere in the interrupt window can forge any.

use super::{super::report::Report, Finding, FindingCode, Severity};
use crate::host::{Host, UnitRegisters};

pub(super) fn find(host: &Host, report: &Report, findings: &mut Vec<Finding>) {
    let remapped = report.interrupts.remapped;
    if !host.vfio.unsafe_interrupts.is_empty() {
        let mut finding = Finding::new(
            FindingCode::UnsafeInterrupts,
            if remapped == Some(true) { Severity::Medium } else { Severity::High },
            "Unsafe interrupts are allowed for assigned devices",
        )
        .meaning(if remapped == Some(true) {
            "VFIO would hand out devices though their interrupts were not remapped. They are remapped on this host, so the \
             permission only waits for the day when they are not."
        } else {
            "A guest that has a device can make it send any interrupt to any processor of the host: enough to crash \
             the host, and known to be usable to take it over."
        });
        for parameter in &host.vfio.unsafe_interrupts {
            finding = finding.evidence(parameter.clone(), "Y");
        }
        findings.push(
            finding
                .options(
                    host,
                    &["vfio_iommu_type1.allow_unsafe_interrupts", "iommufd.allow_unsafe_interrupts"],
                )
                .action("Set allow_unsafe_interrupts to N, and enable interrupt remapping where it is off."),
        );
    }
    let x86 = host
        .units
        .iter()
        .any(|unit| matches!(unit.registers, UnitRegisters::Vtd { .. } | UnitRegisters::AmdVi { .. }));
    if x86 && remapped == Some(false) {
        findings.push(
            Finding::new(
                FindingCode::InterruptsNotRemapped,
                Severity::Medium,
                "Interrupts are not remapped: devices can forge them",
            )
            .meaning(
                "An interrupt is a memory write that the unit lets pass as it is. A device can send any interrupt to any \
                 processor. VFIO refuses to hand out devices unless it is told to accept that.",
            )
            .evidence("/proc/interrupts", format!("controllers {}", host.kernel.interrupt_chips.join(", ")))
            .options(host, &["intremap", "nox2apic", "amd_iommu_intr"])
            .action(
                "Remove intremap=off from the kernel's command line; enable interrupt remapping (or x2APIC) in the firmware's \
                 setup. In a virtual machine: -device intel-iommu,intremap=on with kernel-irqchip=split.",
            ),
        );
    }
    if let Some(opt_out) = host.firmware.topology.platform.x2apic_opt_out.as_ref().filter(|fact| fact.value) {
        findings.push(
            Finding::new(FindingCode::X2apicOptOut, Severity::Note, "Firmware asks not to use x2APIC")
                .meaning(
                    "The kernel then leaves x2APIC off unless told otherwise, and with it processors beyond 255. Interrupts are \
                     remapped all the same.",
                )
                .evidence(opt_out.source.to_string(), "X2APIC_OPT_OUT 1")
                .action("Boot with intremap=no_x2apic_optout where x2APIC is wanted."),
        );
    }
}
