//! VT-d: `DMAR: [DMA Read NO_PASID] Request device [00:02.0] fault addr 0x… [fault reason 0x06] …`, and its older forms.
//!
//! Until 2015 the reason came on a second line and was decimal, as it was until 5.14; addresses had no `0x` until then. No
//! release tells the segment.

use std::time::Duration;

use portcullis_spec::{
    Access, Fault, FaultReason, Iova, Pasid, PciAddress, RequestType, StageNumber, vtd::VtdFaultReason,
};

use super::{KernelFault, KernelRecord, Line, Missing, Source, scan};

/// A report that may lack its reason.
pub(super) struct Half {
    since_boot: Option<Duration>,
    requester: PciAddress,
    segment: bool,
    pasid: Option<Pasid>,
    access: Access,
    address: u64,
    interrupt_index: Option<u32>,
    reason: Option<(u32, String)>,
    raw: String,
}

/// The report that begins with `line`.
pub(super) fn first_line(line: &Line<'_>) -> Option<Half> {
    let (before, after) = line.text.split_once("Request device [")?;
    // An interrupt is a write.
    let access = if before.contains("DMA Read") {
        Access::READ
    } else if before.contains("DMA Write") || before.contains("INTR-REMAP") {
        Access::WRITE
    } else {
        return None;
    };
    // Some releases wrote "[[" for interrupts.
    let (device, after) = after.trim_start_matches('[').split_once(']')?;
    let (requester, segment) = scan::pci_address(device)?;
    let pasid = before
        .split_once(" PASID ")
        .map(|(_, pasid)| pasid.trim_end_matches([']', ' ']))
        // 5.10 to 5.14 wrote it behind the device, and all ones for none.
        .or_else(|| scan::field(after, "PASID "))
        .and_then(scan::hex32)
        .and_then(Pasid::new);
    let index = scan::field(after, "fault index ").and_then(scan::hex32);
    let address = match index {
        Some(_) => 0,
        None => scan::hex(scan::field(after, "fault addr ")?)?,
    };
    Some(Half {
        since_boot: line.since_boot,
        requester,
        segment,
        pasid,
        access,
        address,
        interrupt_index: index,
        reason: reason(after),
        raw: line.text.to_owned(),
    })
}

/// `[fault reason 0x06] text`; decimal without `0x`.
fn reason(text: &str) -> Option<(u32, String)> {
    let (_, after) = text.split_once("[fault reason ").or_else(|| text.split_once("fault reason "))?;
    let end = after.find(|letter: char| !letter.is_ascii_alphanumeric()).unwrap_or(after.len());
    let code = u32::try_from(scan::number(&after[..end])?).ok()?;
    let words = after[end..].trim_start_matches([']', ' ']).trim_end();
    Some((code, words.to_owned()))
}

impl Half {
    /// Whether `line` belongs to this report, and is taken into it.
    pub(super) fn take(&mut self, line: &Line<'_>) -> bool {
        if self.reason.is_some() || line.text.contains("Request device") {
            return false;
        }
        self.reason = reason(line.text);
        if self.reason.is_some() {
            self.raw.push('\n');
            self.raw.push_str(line.text);
        }
        self.reason.is_some()
    }

    pub(super) fn is_complete(&self) -> bool {
        self.reason.is_some()
    }

    pub(super) fn finish(self) -> KernelRecord {
        let mut missing = Vec::new();
        if !self.segment {
            missing.push(Missing::Segment);
        }
        if self.interrupt_index.is_some() {
            missing.push(Missing::Address);
        }
        let (code, event) = self.reason.unwrap_or_else(|| {
            missing.push(Missing::Reason);
            (0, String::new())
        });
        let (reason, stage) = neutral_reason(code);
        KernelRecord::Fault(Box::new(KernelFault {
            source: Source::Vtd,
            since_boot: self.since_boot,
            unit: None,
            device: None,
            driver: None,
            fault: Fault {
                requester: self.requester.into(),
                pasid: self.pasid,
                address: Iova(self.address),
                ipa: None,
                access: self.access,
                privileged: false,
                request_type: RequestType::Untranslated,
                reason,
                stage,
                code,
            },
            missing,
            event,
            domain: None,
            interrupt_index: self.interrupt_index,
            raw: self.raw,
        }))
    }
}

/// The neutral class of a fault reason, and the stage that refused.
fn neutral_reason(code: u32) -> (FaultReason, Option<StageNumber>) {
    match u8::try_from(code).ok().and_then(VtdFaultReason::from_code) {
        Some(reason) => (reason.neutral(), reason.stage()),
        None => (FaultReason::Internal, None),
    }
}
