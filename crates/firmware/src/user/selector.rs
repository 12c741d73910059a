//! How people write which devices they mean.

use alloc::string::String;
use alloc::string::ToString;
use alloc::vec::Vec;

use portcullis_spec::{PciAddress, PhysAddr};

use crate::topology::{DeviceName, Devices, PciPath};

/// Why a text names no devices.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SelectorError {
    /// Not one of the forms that there are.
    #[error(
        "devices are written as 0000:00:02.0 (a function), 0000:00:1c.0/00.0 (a path), 0000:00:1c.0/* (a bridge and all \
         behind it), 0000:02:00.0-0000:03:1f.7 (a range), 0000:* (a segment), \\_SB.PCI0.I2C0 (an ACPI path), \
         hid:AMDI0020 or hid:AMDI0020:0 (an ACPI ID), /soc/ethernet@0 (a devicetree node), or mmio@0xfeb00000"
    )]
    Form,
    /// A part that is no hexadecimal number of its size, a device above 1f or a function above 7.
    #[error(
        "a PCI address is segment:bus:device.function in hexadecimal, with a device up to 1f and a function up to 7"
    )]
    Address,
    /// A range that ends before it starts, or in another segment.
    #[error("a range lies in one segment and does not end before it starts")]
    Range,
}

fn hexadecimal(text: &str, most: usize) -> Option<u32> {
    let digits = !text.is_empty() && text.len() <= most && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    digits.then(|| u32::from_str_radix(text, 16).ok()).flatten()
}

fn hop(text: &str) -> Option<(u8, u8)> {
    let (device, function) = text.split_once('.')?;
    let (device, function) = (hexadecimal(device, 2)? as u8, hexadecimal(function, 1)? as u8);
    (device < 32 && function < 8).then_some((device, function))
}

/// Segment, bus and what follows them.
fn place(text: &str) -> Option<(u16, u8, &str)> {
    let (segment, rest) = text.split_once(':')?;
    let (bus, rest) = rest.split_once(':')?;
    Some((hexadecimal(segment, 4)? as u16, hexadecimal(bus, 2)? as u8, rest))
}

/// A PCI function, as `0000:00:02.0`.
///
/// # Errors
///
/// [`SelectorError::Address`].
pub fn function(text: &str) -> Result<PciAddress, SelectorError> {
    let (segment, bus, rest) = place(text).ok_or(SelectorError::Address)?;
    let (device, function) = hop(rest).ok_or(SelectorError::Address)?;
    Ok(PciAddress::new(segment, bus, device, function))
}

fn path(text: &str) -> Result<PciPath, SelectorError> {
    let (segment, start_bus, rest) = place(text).ok_or(SelectorError::Address)?;
    let hops: Option<Vec<_>> = rest.split('/').map(hop).collect();
    Ok(PciPath { segment, start_bus, hops: hops.ok_or(SelectorError::Address)? })
}

/// The devices that `text` names; the text of [`SelectorError::Form`] shows all forms.
///
/// # Errors
///
/// The text has no such form, or names no possible device.
pub fn devices(text: &str) -> Result<Devices, SelectorError> {
    if text.starts_with('\\') {
        return Ok(Devices::Named(DeviceName::AcpiPath(text.to_string())));
    }
    if text.starts_with('/') {
        return Ok(Devices::Named(DeviceName::Node(text.to_string())));
    }
    if let Some(name) = text.strip_prefix("hid:") {
        let (hid, uid) = match name.split_once(':') {
            Some((hid, uid)) => (hid, Some(String::from(uid))),
            None => (name, None),
        };
        return Ok(Devices::Named(DeviceName::AcpiId { hid: hid.to_string(), cid: None, uid }));
    }
    if let Some(base) = text.strip_prefix("mmio@0x") {
        let base = u64::from_str_radix(base, 16).map_err(|_| SelectorError::Form)?;
        return Ok(Devices::Named(DeviceName::Mmio(PhysAddr(base))));
    }
    if let Some(segment) = text.strip_suffix(":*") {
        let segment = hexadecimal(segment, 4).ok_or(SelectorError::Address)?;
        return Ok(Devices::Segment(segment as u16));
    }
    if let Some((first, last)) = text.split_once('-') {
        let (first, last) = (function(first.trim())?, function(last.trim())?);
        if first.segment != last.segment || first.requester_id > last.requester_id {
            return Err(SelectorError::Range);
        }
        return Ok(Devices::requesters(first.segment, first.requester_id, last.requester_id));
    }
    if !text.contains(':') {
        return Err(SelectorError::Form);
    }
    match text.strip_suffix("/*") {
        Some(bridge) => path(bridge).map(Devices::Hierarchy),
        None => path(text).map(Devices::Function),
    }
}
