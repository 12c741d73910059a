//! virtio-iommu and the RISC-V IOMMU.

use portcullis_spec::{
    Access, ConfigTable, Fault, FaultReason, Iova, Ipa, RequestType, Requester, StageNumber,
};

use super::{KernelFault, KernelRecord, Line, Missing, Source, scan};

pub(super) fn line(line: &Line<'_>) -> Option<KernelRecord> {
    virtio(line).or_else(|| riscv(line))
}

/// `virtio_iommu virtio0: page fault from EP 8 at 0x… [R W]`; the address and rights only where the device tells them.
fn virtio(line: &Line<'_>) -> Option<KernelRecord> {
    let (before, after) = line.text.split_once(" fault from EP ")?;
    let (prefix, word) = before.rsplit_once(' ')?;
    let mut parts = after.split(' ');
    let endpoint = parts.next()?.parse().ok()?;
    let address = (parts.next() == Some("at")).then(|| parts.next().and_then(scan::hex)).flatten();
    // virtio 1.3, 5.13.6.9: reason 1 is the domain, 2 a mapping.
    let (reason, code) = match word {
        "domain" => (FaultReason::EntryNotPresent(ConfigTable::Device), 1),
        "page" => (FaultReason::NotMapped, 2),
        _ => (FaultReason::Internal, 0),
    };
    let rights = after.split_once('[').map_or("", |(_, rights)| rights);
    let mut access = Access::empty();
    for (letter, right) in [('R', Access::READ), ('W', Access::WRITE), ('X', Access::EXECUTE)] {
        if rights.contains(letter) {
            access |= right;
        }
    }
    let mut missing = Vec::new();
    if address.is_none() {
        missing.push(Missing::Address);
    }
    if access.is_empty() {
        missing.push(Missing::Access);
    }
    let fault = Fault {
        requester: Requester::Endpoint(endpoint),
        pasid: None,
        address: Iova(address.unwrap_or(0)),
        ipa: None,
        access,
        privileged: false,
        request_type: RequestType::Untranslated,
        reason,
        stage: None,
        code,
    };
    Some(record(line, Source::Virtio, prefix, fault, missing, format!("{word} fault")))
}

/// `riscv,iommu …: Fault 12 devid: 0x8 iotval: … iotval2: …`
fn riscv(line: &Line<'_>) -> Option<KernelRecord> {
    let (prefix, after) = line.text.split_once("Fault ")?;
    let code: u32 = after.split(' ').next()?.parse().ok()?;
    let device = scan::hex32(scan::field(after, "devid:")?)?;
    let iotval = scan::hex(scan::field(after, "iotval:")?)?;
    let iotval2 = scan::hex(scan::field(after, "iotval2:")?)?;
    let (reason, access, stage) = cause(code);
    let fault = Fault {
        requester: Requester::Device(device),
        pasid: None,
        address: Iova(iotval),
        ipa: (stage == Some(StageNumber::Second)).then_some(Ipa(iotval2 & !3)),
        access,
        privileged: false,
        request_type: RequestType::Untranslated,
        reason,
        stage,
        code,
    };
    let missing = if access.is_empty() { vec![Missing::Access] } else { Vec::new() };
    Some(record(line, Source::Riscv, prefix, fault, missing, format!("cause {code}")))
}

/// CAUSE of a fault record (RISC-V IOMMU 1.0, table of fault causes in chapter 3.2).
fn cause(code: u32) -> (FaultReason, Access, Option<StageNumber>) {
    use FaultReason as R;
    let first = Some(StageNumber::First);
    let second = Some(StageNumber::Second);
    match code {
        1 => (R::PagingEntryUnreadable, Access::EXECUTE, None),
        4 | 5 => (R::PagingEntryUnreadable, Access::READ, None),
        6 | 7 => (R::PagingEntryUnreadable, Access::WRITE, None),
        12 => (R::NotMapped, Access::EXECUTE, first),
        13 => (R::NotMapped, Access::READ, first),
        15 => (R::NotMapped, Access::WRITE, first),
        20 => (R::NotMapped, Access::EXECUTE, second),
        21 => (R::NotMapped, Access::READ, second),
        23 => (R::NotMapped, Access::WRITE, second),
        256 => (R::RequestBlocked, Access::empty(), None),
        257 => (R::TableUnreadable(ConfigTable::Device), Access::empty(), None),
        258 => (R::EntryNotPresent(ConfigTable::Device), Access::empty(), None),
        259 => (R::EntryInvalid(ConfigTable::Device), Access::empty(), None),
        260 => (R::RequestBlocked, Access::empty(), None),
        261..=264 => (R::InterruptBlocked, Access::WRITE, None),
        265 => (R::TableUnreadable(ConfigTable::Pasid), Access::empty(), None),
        266 => (R::EntryNotPresent(ConfigTable::Pasid), Access::empty(), None),
        267 => (R::EntryInvalid(ConfigTable::Pasid), Access::empty(), None),
        _ => (R::Internal, Access::empty(), None),
    }
}

fn record(
    line: &Line<'_>,
    source: Source,
    prefix: &str,
    fault: Fault,
    missing: Vec<Missing>,
    event: String,
) -> KernelRecord {
    KernelRecord::Fault(Box::new(KernelFault {
        source,
        since_boot: line.since_boot,
        unit: scan::driver_and_device(prefix).map(|(_, unit)| unit.to_owned()),
        device: None,
        driver: None,
        fault,
        missing,
        event,
        domain: None,
        interrupt_index: None,
        raw: line.text.to_owned(),
    }))
}
