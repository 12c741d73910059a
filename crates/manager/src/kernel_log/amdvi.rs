//! AMD-Vi: `[driver device: ]AMD-Vi: Event logged [NAME key=value …]`.
//!
//! The device stands in the message while the driver does not know it, and before it when it does. Releases before 4.17 wrote
//! no segment.

use portcullis_spec::{Access, ConfigTable, Fault, FaultReason, Iova, Pasid, PciAddress, RequestType};

use super::{KernelFault, KernelRecord, Line, Missing, Source, scan};

/// Flags of an event: bits 31:16 of its second word (AMD I/O Virtualization 2.5.3).
mod flag {
    /// The address is a guest's, and the domain field a PASID.
    pub(super) const GN: u32 = 0x001;
    /// The access asked for user rights only.
    pub(super) const US: u32 = 0x004;
    /// The request was an interrupt.
    pub(super) const I: u32 = 0x008;
    /// The page is present.
    pub(super) const PR: u32 = 0x010;
    /// The access was a write.
    pub(super) const RW: u32 = 0x020;
    /// A reserved bit of an entry is set.
    pub(super) const RZ: u32 = 0x080;
    /// The request was for a translation.
    pub(super) const TR: u32 = 0x100;
}

/// The event codes of AMD I/O Virtualization 2.5 under the names that the kernel writes.
fn code(name: &str) -> Option<u32> {
    Some(match name {
        "ILLEGAL_DEV_TABLE_ENTRY" => 0x1,
        "IO_PAGE_FAULT" => 0x2,
        "DEV_TAB_HARDWARE_ERROR" => 0x3,
        "PAGE_TAB_HARDWARE_ERROR" => 0x4,
        "ILLEGAL_COMMAND_ERROR" => 0x5,
        "COMMAND_HARDWARE_ERROR" => 0x6,
        "IOTLB_INV_TIMEOUT" => 0x7,
        "INVALID_DEVICE_REQUEST" => 0x8,
        "INVALID_PPR_REQUEST" => 0x9,
        "RMP_HW_ERROR" => 0xd,
        "RMP_PAGE_FAULT" => 0xe,
        "UNKNOWN" => 0,
        _ => return None,
    })
}

fn reason(code: u32, flags: u32) -> FaultReason {
    match code {
        0x1 => FaultReason::EntryInvalid(ConfigTable::Device),
        0x2 if flags & flag::I != 0 => FaultReason::InterruptBlocked,
        0x2 if flags & flag::RZ != 0 => FaultReason::PagingEntryInvalid,
        0x2 if flags & flag::PR == 0 => FaultReason::NotMapped,
        0x2 | 0xe => FaultReason::PermissionDenied,
        0x3 => FaultReason::TableUnreadable(ConfigTable::Device),
        0x4 | 0xd => FaultReason::PagingEntryUnreadable,
        0x8 | 0x9 => FaultReason::RequestBlocked,
        _ => FaultReason::Internal,
    }
}

pub(super) fn line(line: &Line<'_>) -> Option<KernelRecord> {
    let (prefix, body) = line.text.split_once("Event logged [")?;
    let body = body.split_once(']').map_or(body, |(body, _)| body);
    // UNKNOWN's words look like "event[0]=0x…": its body ends early, and is in `raw`.
    let name = body.split([' ', ',']).next()?;
    let code = code(name)?;
    let prefix = prefix.trim_end();
    let named = scan::driver_and_device(prefix.strip_suffix("AMD-Vi:").unwrap_or(prefix));
    let unit = named.map(|(_, device)| device).filter(|device| device.starts_with("ivhd"));
    let sender = named.filter(|_| unit.is_none());

    let stated =
        scan::field(body, "device=").or_else(|| scan::field(body, "device:")).and_then(scan::pci_address);
    let requester: Option<(PciAddress, bool)> =
        stated.or_else(|| sender.and_then(|(_, device)| scan::pci_address(device)));
    let value = |key| scan::field(body, key).and_then(scan::hex);
    let small = |key| value(key).and_then(|value| u32::try_from(value).ok());

    // Of these 5 to 7 are about the unit and its commands.
    let Some((requester, segment)) = requester.filter(|_| !matches!(code, 0 | 0x5..=0x7)) else {
        return Some(KernelRecord::Unit {
            source: Source::AmdVi,
            since_boot: line.since_boot,
            unit: unit.map(str::to_owned),
            event: name.to_owned(),
            lost: false,
            raw: line.text.to_owned(),
        });
    };
    let flags = small("flags=");
    let address = value("address=").or_else(|| value("gpa="));
    let mut missing = Vec::new();
    if !segment {
        missing.push(Missing::Segment);
    }
    if address.is_none() {
        missing.push(Missing::Address);
    }
    if flags.is_none() {
        missing.push(Missing::Access);
    }
    let flags = flags.unwrap_or(0);
    let domain = small("domain=");
    let guest = code == 0x2 && flags & flag::GN != 0;
    let pasid = if guest { domain } else { small("pasid=").filter(|_| flags & flag::GN != 0) };
    let access = if missing.contains(&Missing::Access) {
        Access::empty()
    } else if flags & flag::RW != 0 {
        Access::WRITE
    } else {
        Access::READ
    };
    Some(KernelRecord::Fault(Box::new(KernelFault {
        source: Source::AmdVi,
        since_boot: line.since_boot,
        unit: unit.map(str::to_owned),
        device: sender.map(|(_, device)| device.to_owned()),
        // The PCI core speaks for devices without a driver.
        driver: sender.map(|(driver, _)| driver.to_owned()).filter(|driver| driver != "pci"),
        fault: Fault {
            requester: requester.into(),
            pasid: pasid.and_then(Pasid::new),
            address: Iova(address.unwrap_or(0)),
            ipa: None,
            access,
            privileged: guest && flags & flag::US == 0,
            request_type: if flags & flag::TR != 0 {
                RequestType::TranslationRequest
            } else {
                RequestType::Untranslated
            },
            reason: reason(code, flags),
            stage: None,
            code,
        },
        missing,
        event: name.to_owned(),
        domain: domain.filter(|_| !guest),
        interrupt_index: None,
        raw: line.text.to_owned(),
    })))
}
