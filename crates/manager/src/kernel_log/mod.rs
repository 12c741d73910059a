//! What the kernel's log says about refused DMA.
//!
//! On most hosts the kernel's log is the only place where a violation by a device of the host's own shows up: VT-d and AMD-Vi
//! drivers write a line and keep nothing else. [`LogReader`] takes the log line by line, in any of the forms it comes in
//! (`/dev/kmsg`, `dmesg`, `journalctl`), and yields [`KernelRecord`]s.
//!
//! Every driver limits the rate of these lines, so their number is a lower bound; where the kernel says how many it kept
//! back, that is a [`KernelRecord::Suppressed`].
//!
//! Lines are untrusted: they are cut at [`MAX_LINE`] bytes, at most one half-read report is kept, and nothing panics.

mod amdvi;
mod line;
mod others;
mod scan;
mod smmuv2;
mod smmuv3;
mod vtd;

use std::time::Duration;

use portcullis_spec::Fault;
use serde::Serialize;

use line::Line;

/// Longest line that is read, in bytes; the rest of a longer one is cut off. The kernel's own limit is 1024.
pub const MAX_LINE: usize = 4096;

/// Lines of others after which a report that waits for its next line is taken as it is.
const MAX_WAIT: u8 = 16;

/// Which driver wrote the line.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
pub enum Source {
    /// Intel VT-d.
    Vtd,
    /// AMD-Vi.
    AmdVi,
    /// Arm SMMUv3.
    Smmuv3,
    /// Arm SMMUv1 and v2.
    Smmuv2,
    /// RISC-V IOMMU.
    Riscv,
    /// virtio-iommu.
    Virtio,
}

/// What a report does not tell, though the [`Fault`] has a field for it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
pub enum Missing {
    /// The PCI segment; the fault says 0.
    Segment,
    /// The address; the fault says 0.
    Address,
    /// Whether it was a read or a write; the fault says neither.
    Access,
    /// The reason; the fault says `Internal`.
    Reason,
}

/// A refused transaction, as the kernel's log reports it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct KernelFault {
    /// Which driver.
    pub source: Source,
    /// When, since boot, where the line says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since_boot: Option<Duration>,
    /// The unit's name in the kernel (`arm-smmu-v3.0.auto`, `ivhd0`). VT-d does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// The device's name in the kernel, where the line gives one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The device's driver, where the line gives one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// The fault in the vocabulary's words.
    pub fault: Fault,
    /// The fields of `fault` that the report does not tell.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
    /// The event's name in its specification or, for VT-d, the kernel's words for the reason.
    pub event: String,
    /// The domain, where the line gives one (AMD-Vi).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<u32>,
    /// Index in the interrupt remapping table, for refused interrupts (VT-d).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interrupt_index: Option<u32>,
    /// The lines, as written, without the prefixes of the log.
    pub raw: String,
}

/// What a line of the log, or several, come to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub enum KernelRecord {
    /// A refused transaction.
    Fault(Box<KernelFault>),
    /// A report by a unit that is about no single transaction: a command error, a full queue, a fault whose sender is not told.
    Unit {
        /// Which driver.
        source: Source,
        /// When, since boot, where the line says so.
        #[serde(skip_serializing_if = "Option::is_none")]
        since_boot: Option<Duration>,
        /// The unit's name in the kernel, where the line gives one.
        #[serde(skip_serializing_if = "Option::is_none")]
        unit: Option<String>,
        /// What happened.
        event: String,
        /// Whether reports were lost by it.
        lost: bool,
        /// The lines as written.
        raw: String,
    },
    /// The kernel kept lines back to limit their rate.
    Suppressed {
        /// Which driver.
        source: Source,
        /// How many.
        count: u64,
        /// The line as written.
        raw: String,
    },
}

/// A report of which not every line has come yet.
enum Pending {
    Vtd(vtd::Half),
    Smmuv3(smmuv3::Half),
}

impl Pending {
    fn finish(self) -> Option<KernelRecord> {
        match self {
            Self::Vtd(half) => Some(half.finish()),
            Self::Smmuv3(half) => half.finish(),
        }
    }
}

/// Reads a kernel's log line by line.
#[derive(Default)]
pub struct LogReader {
    pending: Option<Pending>,
    waited: u8,
}

impl LogReader {
    /// A reader that has read nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next line, or the next record of `/dev/kmsg`, and returns what is complete with it.
    pub fn push(&mut self, text: &str) -> Vec<KernelRecord> {
        let mut records = Vec::new();
        for line in line::split(text) {
            self.push_line(&line, &mut records);
        }
        records
    }

    /// Returns the report that still waits for another line. To be called at the end, and when no line comes for a while.
    pub fn flush(&mut self) -> Option<KernelRecord> {
        self.waited = 0;
        self.pending.take().and_then(Pending::finish)
    }

    fn push_line(&mut self, line: &Line<'_>, records: &mut Vec<KernelRecord>) {
        let taken = match &mut self.pending {
            Some(Pending::Vtd(half)) => half.take(line),
            Some(Pending::Smmuv3(half)) => half.take(line),
            None => false,
        };
        if taken {
            let complete = match &self.pending {
                Some(Pending::Vtd(half)) => half.is_complete(),
                Some(Pending::Smmuv3(half)) => half.is_complete(),
                None => false,
            };
            if complete {
                records.extend(self.flush());
            }
            return;
        }
        if let Some(half) = vtd::first_line(line) {
            records.extend(self.flush());
            if half.is_complete() {
                records.push(half.finish());
            } else {
                self.pending = Some(Pending::Vtd(half));
            }
            return;
        }
        if let Some(half) = smmuv3::first_line(line) {
            records.extend(self.flush());
            self.pending = Some(Pending::Smmuv3(half));
            return;
        }
        let whole = amdvi::line(line)
            .or_else(|| smmuv2::line(line))
            .or_else(|| smmuv3::unit_line(line))
            .or_else(|| others::line(line))
            .or_else(|| suppressed(line));
        if let Some(record) = whole {
            records.extend(self.flush());
            records.push(record);
        } else if self.pending.is_some() {
            self.waited += 1;
            if self.waited >= MAX_WAIT {
                records.extend(self.flush());
            }
        }
    }
}

/// `dmar_fault: 12 callbacks suppressed` (the kernel's lib/ratelimit.c).
fn suppressed(line: &Line<'_>) -> Option<KernelRecord> {
    let (before, _) = line.text.split_once(" callbacks suppressed")?;
    let (function, count) = before.rsplit_once(": ")?;
    let function = function.rsplit([' ', ':']).next()?;
    let source = if function.starts_with("dmar_") {
        Source::Vtd
    } else if function.starts_with("amd_iommu_") || function == "iommu_print_event" {
        Source::AmdVi
    } else if function.starts_with("arm_smmu_context_fault")
        || function.starts_with("arm_smmu_global_fault")
        || function.starts_with("qcom_smmu_context_fault")
    {
        Source::Smmuv2
    } else if function.starts_with("arm_smmu_") {
        Source::Smmuv3
    } else if function.starts_with("riscv_iommu_") {
        Source::Riscv
    } else if function.starts_with("viommu_") {
        Source::Virtio
    } else {
        return None;
    };
    Some(KernelRecord::Suppressed { source, count: count.trim().parse().ok()?, raw: line.text.to_owned() })
}
