//! The kernel itself: how it was started, on which processors, and how interrupts go.

use serde::Serialize;

use super::root::Root;

/// Processors, as `/proc/cpuinfo` tells of the first.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Processor {
    /// `vendor_id`, or `CPU implementer` on Arm, or `isa` on RISC-V.
    pub vendor: Option<String>,
    /// x2APIC is supported.
    pub x2apic: bool,
    /// A hypervisor is beneath.
    pub hypervisor: bool,
}

/// The kernel.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Kernel {
    /// Release.
    pub release: Option<String>,
    /// Options that concern IOMMUs, as they stand on its command line.
    pub options: Vec<String>,
    /// Whether the command line could be read.
    pub command_line_read: bool,
    /// Processors.
    pub processor: Processor,
    /// Names of the interrupt controllers that interrupts of devices go through.
    pub interrupt_chips: Vec<String>,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// What the machine calls itself.
    pub product: Option<String>,
}

/// Options that concern IOMMUs; those of modules begin with the module's name.
const OPTIONS: [&str; 18] = [
    "iommu",
    "iommu.passthrough",
    "iommu.strict",
    "iommu.forcedac",
    "intel_iommu",
    "amd_iommu",
    "amd_iommu_intr",
    "amd_iommu_dump",
    "intremap",
    "nox2apic",
    "x2apic_phys",
    "pcie_acs_override",
    "pci",
    "ivrs_ioapic",
    "ivrs_hpet",
    "ivrs_acpihid",
    "iomem",
    "efi",
];
const OPTION_MODULES: [&str; 5] = ["vfio", "iommufd.", "arm-smmu", "arm_smmu", "kvm."];

impl Kernel {
    /// The value of the option `name`, the last where it is given more than once; `""` for one without value.
    #[must_use]
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().rev().find_map(|option| match option.split_once('=') {
            Some((found, value)) => (found == name).then_some(value),
            None => (option == name).then_some(""),
        })
    }

    /// Whether one of the option's values, which commas separate, is `value`; every occurrence counts.
    #[must_use]
    pub fn has(&self, name: &str, value: &str) -> bool {
        self.options.iter().any(|option| {
            option
                .split_once('=')
                .is_some_and(|(found, values)| found == name && values.split(',').any(|given| given == value))
        })
    }

    /// Whether interrupts of devices are remapped: the kernel names the controllers so.
    #[must_use]
    pub fn interrupts_remapped(&self) -> Option<bool> {
        if self.interrupt_chips.is_empty() {
            return None;
        }
        Some(self.interrupt_chips.iter().any(|chip| chip.starts_with("IR-")))
    }
}

pub(super) fn read(root: &Root) -> Kernel {
    let command_line = root.text("/proc/cmdline");
    if command_line.is_none() {
        root.note("/proc/cmdline", "not read: the options that the kernel was started with are not known");
    }
    let cpuinfo = root.text("/proc/cpuinfo").unwrap_or_default();
    Kernel {
        release: root.text("/proc/sys/kernel/osrelease"),
        command_line_read: command_line.is_some(),
        options: command_line.as_deref().map(options).unwrap_or_default(),
        processor: processor(&cpuinfo),
        interrupt_chips: root.text("/proc/interrupts").as_deref().map(interrupt_chips).unwrap_or_default(),
        memory: root.text("/proc/meminfo").and_then(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
            line.trim().trim_end_matches(" kB").parse::<u64>().ok()?.checked_mul(1024)
        }),
        product: product(root),
    }
}

fn product(root: &Root) -> Option<String> {
    let part = |name| {
        root.directory("/sys/class/dmi/id")?.text(name).filter(|text| !text.is_empty() && text != "None")
    };
    match (part("sys_vendor"), part("product_name")) {
        (Some(vendor), Some(product)) => Some(format!("{vendor} {product}")),
        (vendor, product) => vendor.or(product).or_else(|| {
            let model = root.text("/proc/device-tree/model")?;
            Some(model.trim_end_matches('\0').to_owned())
        }),
    }
}

/// The options of `command_line` that concern IOMMUs. Others may be secrets and are left where they are.
fn options(command_line: &str) -> Vec<String> {
    command_line
        .split_whitespace()
        .take_while(|option| *option != "--")
        .filter(|option| {
            let name = option.split_once('=').map_or(*option, |(name, _)| name);
            OPTIONS.contains(&name) || OPTION_MODULES.iter().any(|module| name.starts_with(module))
        })
        .map(str::to_owned)
        .collect()
}

fn processor(cpuinfo: &str) -> Processor {
    let first = cpuinfo.split("\n\n").next().unwrap_or_default();
    let field = |names: &[&str]| {
        first.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            names.contains(&name.trim()).then(|| value.trim())
        })
    };
    let flags = field(&["flags"]).unwrap_or_default();
    let flag = |name| flags.split(' ').any(|flag| flag == name);
    Processor {
        vendor: field(&["vendor_id", "CPU implementer", "isa"]).map(str::to_owned),
        x2apic: flag("x2apic"),
        hypervisor: flag("hypervisor"),
    }
}

/// The column behind the counts: ` 28:  0  0 IR-PCI-MSIX-0000:00:01.0  0-edge  virtio0`.
fn interrupt_chips(text: &str) -> Vec<String> {
    let mut lines = text.lines();
    let columns = lines.next().unwrap_or_default().split_whitespace().count();
    let mut chips: Vec<String> = lines
        .filter_map(|line| {
            let (number, rest) = line.split_once(':')?;
            number.trim().parse::<u32>().ok()?;
            let chip = rest.split_whitespace().nth(columns)?;
            // Since 6.2 the chip's name may hold the device's.
            let chip = match chip.split_once("-0000:").or_else(|| chip.split_once("-0001:")) {
                Some((chip, _)) => chip,
                None => chip,
            };
            Some(chip.to_owned())
        })
        .collect();
    chips.sort_unstable();
    chips.dedup();
    chips
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_option_counts_and_others_stay_secret() {
        let kernel = Kernel {
            options: options("iommu=pt password=hunter2 intel_iommu=on,sm_on iommu=nopt quiet -- iommu=off"),
            ..Kernel::default()
        };
        assert_eq!(kernel.options, ["iommu=pt", "intel_iommu=on,sm_on", "iommu=nopt"]);
        assert_eq!(kernel.option("iommu"), Some("nopt"));
        assert!(kernel.has("intel_iommu", "sm_on") && !kernel.has("intel_iommu", "off"));
    }

    #[test]
    fn interrupt_controllers_are_named() {
        let text = "           CPU0       CPU1\n  0:  23  0  IR-IO-APIC   2-edge  timer\n 24:  0  0  DMAR-MSI  0-edge  dmar0\n \
                    29: 0 7 IR-PCI-MSIX-0000:03:00.0 1-edge nvme0q1\nNMI:  0  0  Non-maskable interrupts\n";
        let kernel = Kernel { interrupt_chips: interrupt_chips(text), ..Kernel::default() };
        assert_eq!(kernel.interrupt_chips, ["DMAR-MSI", "IR-IO-APIC", "IR-PCI-MSIX"]);
        assert_eq!(kernel.interrupts_remapped(), Some(true));
        assert_eq!(Kernel::default().interrupts_remapped(), None);
    }
}
