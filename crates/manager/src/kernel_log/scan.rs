//! Pieces of text that several drivers write the same way.

use portcullis_spec::PciAddress;

/// The value after `key`, up to a space or a closing character. `key` must stand at the beginning or behind something that
/// is not part of a name.
pub(super) fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let mut rest = text;
    loop {
        let at = rest.find(key)?;
        let bounded =
            rest[..at].chars().next_back().is_none_or(|before| !before.is_alphanumeric() && before != '_');
        let value = &rest[at + key.len()..];
        if bounded {
            let value = value.trim_start();
            let end = value.find([' ', ',', ']', ';', '\t']).unwrap_or(value.len());
            return Some(&value[..end]);
        }
        rest = value;
    }
}

/// A number written in hexadecimal, with or without `0x`.
pub(super) fn hex(text: &str) -> Option<u64> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    // from_str_radix accepts a sign.
    if digits.starts_with(['+', '-']) { None } else { u64::from_str_radix(digits, 16).ok() }
}

/// A number written in hexadecimal with `0x`, or in decimal without.
pub(super) fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(_) => hex(text),
        None => text.parse().ok(),
    }
}

/// A number that fits 32 bits.
pub(super) fn hex32(text: &str) -> Option<u32> {
    hex(text)?.try_into().ok()
}

/// A PCI function, `[ssss:]bb:dd.f`, each part with or without `0x`; and whether the segment was there.
pub(super) fn pci_address(text: &str) -> Option<(PciAddress, bool)> {
    let (rest, function) = text.rsplit_once('.')?;
    let (rest, device) = rest.rsplit_once(':')?;
    let (segment, bus) = match rest.rsplit_once(':') {
        Some((segment, bus)) => (Some(segment), bus),
        None => (None, rest),
    };
    let device = u8::try_from(hex(device)?).ok().filter(|device| *device < 32)?;
    let function = u8::try_from(hex(function)?).ok().filter(|function| *function < 8)?;
    let bus = u8::try_from(hex(bus)?).ok()?;
    let number = match segment {
        Some(segment) => u16::try_from(hex(segment)?).ok()?,
        None => 0,
    };
    Some((PciAddress::new(number, bus, device, function), segment.is_some()))
}

/// What `dev_err` writes before a message: `driver device: `. `None` where `prefix` is not of that form.
pub(super) fn driver_and_device(prefix: &str) -> Option<(&str, &str)> {
    let prefix = prefix.trim_end().strip_suffix(':')?;
    let (before, device) = prefix.rsplit_once(' ')?;
    let driver = before.rsplit(' ').next()?;
    (!driver.is_empty() && !device.is_empty()).then_some((driver, device))
}
