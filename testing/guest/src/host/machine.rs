//! The machine that a guest boots on.

use crate::kernel::Flavour;
use std::path::{Path, PathBuf};

/// The machine's IOMMU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Iommu {
    /// None.
    None,
    /// Intel VT-d with interrupt remapping.
    Intel {
        /// Scalable mode, with first-stage translation.
        scalable: bool,
    },
    /// AMD-Vi without interrupt remapping, which QEMU 10.0 can't do under TCG ("timer doesn't work through
    /// Interrupt-remapped IO-APIC").
    Amd,
}

impl Iommu {
    /// All of them.
    pub(crate) const ALL: [Self; 4] =
        [Self::Intel { scalable: false }, Self::Intel { scalable: true }, Self::Amd, Self::None];

    /// The name that `--machine` takes and that the guest sees.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Intel { scalable: false } => "intel",
            Self::Intel { scalable: true } => "intel-scalable",
            Self::Amd => "amd",
        }
    }

    fn qemu(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Intel { scalable: false } => Some("intel-iommu,intremap=on"),
            Self::Intel { scalable: true } => Some("intel-iommu,intremap=on,x-scalable-mode=on,x-flts=on"),
            // With pt=on, its default, QEMU 10.0 lets all DMA pass untranslated.
            Self::Amd => Some("amd-iommu,intremap=off,pt=off"),
        }
    }

    fn kernel_options(self) -> &'static str {
        match self {
            Self::Intel { scalable: true } => "intel_iommu=on,sm_on",
            Self::Intel { scalable: false } => "intel_iommu=on,sm_off",
            // QEMU 10.0's I/O APIC reaches nobody under TCG beside amd-iommu ("8254 timer not connected to IO-APIC").
            Self::Amd => "noapic",
            Self::None => "",
        }
    }
}

/// A machine.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// Its IOMMU.
    pub(crate) iommu: Iommu,
    /// QEMU's own arguments for what else it has: `-device`, `-drive`, `-acpitable` and the like.
    pub(crate) devices: Vec<String>,
    /// More for the kernel's command line.
    pub(crate) kernel_options: String,
    /// Which of the suite's machines with this IOMMU, where there are several; empty otherwise.
    pub(crate) variant: &'static str,
}

/// RAM in MiB.
const MEMORY: u32 = 768;

impl Machine {
    /// A machine with this IOMMU and nothing else.
    pub(crate) fn new(iommu: Iommu) -> Self {
        Self { iommu, devices: Vec::new(), kernel_options: String::new(), variant: "" }
    }

    /// Add arguments for QEMU, separated by spaces.
    pub(crate) fn with(mut self, arguments: &str) -> Self {
        self.devices.extend(arguments.split_whitespace().map(ToOwned::to_owned));
        self
    }

    /// The name of this machine among the suite's.
    pub(crate) fn name(&self) -> String {
        match self.variant {
            "" => self.iommu.name().to_owned(),
            variant => format!("{}-{variant}", self.iommu.name()),
        }
    }

    /// The kernel that drives it: the cloud flavour lacks AMD's IOMMU.
    pub(crate) fn flavour(&self) -> Flavour {
        match self.iommu {
            Iommu::Amd => Flavour::Plain,
            Iommu::Intel { .. } | Iommu::None => Flavour::Cloud,
        }
    }

    /// QEMU's arguments. The kernel's console goes to `log`, the protocol to standard output.
    pub(crate) fn qemu(&self, suite: &str, image: &Path, initramfs: &Path, log: &Path) -> Vec<String> {
        // A split interrupt controller is what lets VT-d remap interrupts.
        let mut arguments: Vec<String> = "-M q35,kernel-irqchip=split -accel tcg -cpu max -nodefaults"
            .split(' ')
            .chain(["-display", "none", "-no-reboot"])
            .map(ToOwned::to_owned)
            .collect();
        let mut put = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
        put("-m", MEMORY.to_string());
        if let Some(device) = self.iommu.qemu() {
            put("-device", device.to_owned());
        }
        put("-kernel", image.display().to_string());
        put("-initrd", initramfs.display().to_string());
        let command_line = [
            // On a busy host the virtual timer may miss the moment in which the kernel tests it, and it panics.
            "console=ttyS0 panic=-1 no_timer_check",
            self.iommu.kernel_options(),
            &self.kernel_options,
            &format!("portcullis.suite={suite} portcullis.machine={}", self.name()),
        ];
        put("-append", command_line.join(" "));
        put("-serial", format!("file:{}", log.display()));
        put("-serial", "stdio".to_owned());
        arguments.extend(self.devices.iter().cloned());
        arguments
    }
}

/// Where a run keeps its files: the kernel's log, disks, the initial RAM file system.
pub(crate) fn folder(target: &Path, suite: &str, machine: &Machine) -> PathBuf {
    target.join("runs").join(format!("{suite}-{}", machine.name()))
}
