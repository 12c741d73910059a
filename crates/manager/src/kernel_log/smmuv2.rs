//! SMMUv1 and v2: `Unhandled context fault: fsr=0x402, iova=0x…, fsynr=0x…, cbfrsynra=0x…, cb=0`, and stream IDs that match nothing.
//!
//! Releases before 5.0 wrote no `cbfrsynra`, and so not whose fault it was.

use portcullis_spec::{Access, Fault, FaultReason, Iova, RequestType, Requester};

use super::{KernelFault, KernelRecord, Line, Missing, Source, scan};

/// `SMMU_CBn_FSR` (SMMUv2 16.5.4): the neutral reason for the bits, the most telling first.
fn reason(fsr: u32) -> (FaultReason, &'static str) {
    match fsr {
        _ if fsr & 1 << 1 != 0 => (FaultReason::NotMapped, "translation fault"),
        _ if fsr & 1 << 2 != 0 => (FaultReason::AccessFlag, "access flag fault"),
        _ if fsr & 1 << 3 != 0 => (FaultReason::PermissionDenied, "permission fault"),
        _ if fsr & 1 << 4 != 0 => (FaultReason::PagingEntryUnreadable, "external fault"),
        _ if fsr & 1 << 7 != 0 => (FaultReason::AddressSize, "address size fault"),
        _ if fsr & 1 << 8 != 0 => (FaultReason::RequestBlocked, "unsupported upstream transaction"),
        _ if fsr & (1 << 5 | 1 << 6) != 0 => (FaultReason::Internal, "TLB match or lock fault"),
        _ => (FaultReason::Internal, "context fault"),
    }
}

pub(super) fn line(line: &Line<'_>) -> Option<KernelRecord> {
    context_fault(line).or_else(|| unknown_stream(line)).or_else(|| global_fault(line))
}

/// The unit's name, before `marker`. The kernel's driver writes `arm-smmu NAME: `, the hypervisor Xen `smmu: NAME: `.
fn unit(line: &Line<'_>, marker: &str) -> Option<String> {
    let (prefix, _) = line.text.split_once(marker)?;
    scan::driver_and_device(prefix).map(|(_, unit)| unit.to_owned())
}

fn context_fault(line: &Line<'_>) -> Option<KernelRecord> {
    const MARKER: &str = "Unhandled context fault: ";
    let (_, body) = line.text.split_once(MARKER)?;
    let value = |key| scan::field(body, key).and_then(scan::hex);
    let small = |key| value(key).and_then(|value| u32::try_from(value).ok());
    let fsr = small("fsr=")?;
    let address = value("iova=")?;
    let fsynr = small("fsynr=")?;
    let (reason, event) = reason(fsr);
    let unit = unit(line, MARKER);
    let Some(cbfrsynra) = small("cbfrsynra=") else {
        return Some(KernelRecord::Unit {
            source: Source::Smmuv2,
            since_boot: line.since_boot,
            unit,
            event: event.to_owned(),
            lost: false,
            raw: line.text.to_owned(),
        });
    };
    // FSYNR0 (SMMUv2 16.5.6): WNR 4, PNU 5, IND 6.
    let access = match (fsynr & 1 << 4 != 0, fsynr & 1 << 6 != 0) {
        (true, _) => Access::WRITE,
        (false, true) => Access::EXECUTE,
        (false, false) => Access::READ,
    };
    Some(fault(
        line,
        unit,
        Fault {
            requester: Requester::Stream(cbfrsynra & 0xffff),
            pasid: None,
            address: Iova(address),
            ipa: None,
            access,
            privileged: fsynr & 1 << 5 != 0,
            request_type: RequestType::Untranslated,
            reason,
            stage: None,
            code: fsr,
        },
        Vec::new(),
        event,
    ))
}

/// `Blocked unknown Stream ID 0x…; boot with "arm-smmu.disable_bypass=0" to allow, …`
fn unknown_stream(line: &Line<'_>) -> Option<KernelRecord> {
    const MARKER: &str = "Blocked unknown Stream ID ";
    let (_, body) = line.text.split_once(MARKER)?;
    let stream = scan::hex32(body.split([';', ' ']).next()?)?;
    Some(fault(
        line,
        unit(line, MARKER),
        Fault {
            requester: Requester::Stream(stream),
            pasid: None,
            address: Iova(0),
            ipa: None,
            access: Access::empty(),
            privileged: false,
            request_type: RequestType::Untranslated,
            reason: FaultReason::RequesterUnsupported,
            stage: None,
            code: 0,
        },
        vec![Missing::Address, Missing::Access],
        "unidentified stream fault",
    ))
}

fn global_fault(line: &Line<'_>) -> Option<KernelRecord> {
    const MARKER: &str = "Unexpected global fault, this could be serious";
    let unit = unit(line, MARKER);
    line.text.contains(MARKER).then(|| KernelRecord::Unit {
        source: Source::Smmuv2,
        since_boot: line.since_boot,
        unit,
        event: "global fault".to_owned(),
        lost: false,
        raw: line.text.to_owned(),
    })
}

fn fault(
    line: &Line<'_>,
    unit: Option<String>,
    fault: Fault,
    missing: Vec<Missing>,
    event: &str,
) -> KernelRecord {
    KernelRecord::Fault(Box::new(KernelFault {
        source: Source::Smmuv2,
        since_boot: line.since_boot,
        unit,
        device: None,
        driver: None,
        fault,
        missing,
        event: event.to_owned(),
        domain: None,
        interrupt_index: None,
        raw: line.text.to_owned(),
    }))
}
