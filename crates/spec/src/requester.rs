//! Who sends a transaction.

use core::fmt;
use core::str::FromStr;

/// A PCI function: segment, bus, device and function. Text, and serde's form, is Linux's: `0000:03:00.1`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    /// PCI segment group (the four hexadecimal digits that Linux prints first).
    pub segment: u16,
    /// Requester ID: bus in bits 15:8, device in 7:3, function in 2:0 (PCIe 2.2.6.2).
    pub requester_id: u16,
}

impl PciAddress {
    /// The function at `bus:device.function` of `segment`. `device` is below 32 and `function` below 8; higher bits
    /// are cut off.
    #[must_use]
    pub const fn new(segment: u16, bus: u8, device: u8, function: u8) -> Self {
        let low = ((device & 0x1f) << 3) | (function & 7);
        Self { segment, requester_id: ((bus as u16) << 8) | low as u16 }
    }

    /// Bus number.
    #[must_use]
    pub const fn bus(self) -> u8 {
        (self.requester_id >> 8) as u8
    }

    /// Device number, 0 to 31.
    #[must_use]
    pub const fn device(self) -> u8 {
        (self.requester_id as u8) >> 3
    }

    /// Function number, 0 to 7.
    #[must_use]
    pub const fn function(self) -> u8 {
        self.requester_id as u8 & 7
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{}", self.segment, self.bus(), self.device(), self.function())
    }
}

impl fmt::Debug for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is no PCI function as Linux writes it, or has a segment of more than 16 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotAPciAddress;

impl fmt::Display for NotAPciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a PCI function of the form ssss:bb:dd.f")
    }
}

impl core::error::Error for NotAPciAddress {}

impl FromStr for PciAddress {
    type Err = NotAPciAddress;

    /// Reads `ssss:bb:dd.f`, all digits there.
    fn from_str(text: &str) -> Result<Self, NotAPciAddress> {
        let [s0, s1, s2, s3, b':', b0, b1, b':', d0, d1, b'.', function] = *text.as_bytes() else {
            return Err(NotAPciAddress);
        };
        let mut value = 0u64;
        for digit in [s0, s1, s2, s3, b0, b1, d0, d1, function] {
            let digit = char::from(digit).to_digit(16).ok_or(NotAPciAddress)?;
            value = value << 4 | u64::from(digit);
        }
        let (segment, bus) = ((value >> 20) as u16, (value >> 12) as u8);
        let (device, function) = ((value >> 4) as u8, value as u8 & 0xf);
        if device >= 32 || function >= 8 {
            return Err(NotAPciAddress);
        }
        Ok(Self::new(segment, bus, device, function))
    }
}

impl serde::Serialize for PciAddress {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for PciAddress {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl serde::de::Visitor<'_> for Text {
            type Value = PciAddress;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a PCI function of the form ssss:bb:dd.f")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<PciAddress, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Text)
    }
}

/// Who sends a transaction, as the unit that checks it knows them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub enum Requester {
    /// A PCI function: VT-d and AMD-Vi.
    Pci(PciAddress),
    /// A StreamID: Arm SMMU. Unique only within one SMMU.
    Stream(u32),
    /// A device_id, at most 24 bits: RISC-V IOMMU.
    Device(u32),
    /// An endpoint: virtio-iommu.
    Endpoint(u32),
}

impl Requester {
    /// The bare number that indexes the unit's device tables: the requester ID without its segment on PCI.
    #[must_use]
    pub const fn index(self) -> u32 {
        match self {
            Self::Pci(address) => address.requester_id as u32,
            Self::Stream(id) | Self::Device(id) | Self::Endpoint(id) => id,
        }
    }
}

impl From<PciAddress> for Requester {
    fn from(address: PciAddress) -> Self {
        Self::Pci(address)
    }
}

impl fmt::Display for Requester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci(address) => write!(f, "{address}"),
            Self::Stream(id) => write!(f, "StreamID {id:#x}"),
            Self::Device(id) => write!(f, "device_id {id:#x}"),
            Self::Endpoint(id) => write!(f, "endpoint {id:#x}"),
        }
    }
}

impl FromStr for Requester {
    type Err = NotARequester;

    /// Reads what its text says.
    fn from_str(text: &str) -> Result<Self, NotARequester> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Pci(address));
        }
        let (kind, number) = text.split_once(" 0x").ok_or(NotARequester)?;
        let id = u32::from_str_radix(number, 16).map_err(|_| NotARequester)?;
        match kind {
            "StreamID" => Ok(Self::Stream(id)),
            "device_id" => Ok(Self::Device(id)),
            "endpoint" => Ok(Self::Endpoint(id)),
            _ => Err(NotARequester),
        }
    }
}

/// The text is not how a requester is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotARequester;

impl fmt::Display for NotARequester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a requester such as 0000:03:00.1 or StreamID 0x5")
    }
}

impl core::error::Error for NotARequester {}

/// A process address space within a requester, 20 bits: PASID on PCI, SubstreamID on Arm, process_id on RISC-V.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Pasid(u32);

impl Pasid {
    /// The largest PASID (PCIe 6.20.2.1: 20 bits).
    pub const MAX: Self = Self(0xf_ffff);

    /// A PASID, or `None` where `value` needs more than 20 bits.
    #[must_use]
    pub const fn new(value: u32) -> Option<Self> {
        if value <= Self::MAX.0 { Some(Self(value)) } else { None }
    }

    /// The number.
    #[must_use]
    pub const fn value(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for Pasid {
    type Error = &'static str;

    fn try_from(value: u32) -> Result<Self, Self::Error> {
        Self::new(value).ok_or("a PASID has 20 bits")
    }
}

impl From<Pasid> for u32 {
    fn from(pasid: Pasid) -> Self {
        pasid.0
    }
}

impl fmt::Display for Pasid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;

    #[test]
    fn a_pci_function_is_read_as_linux_writes_it() {
        assert_eq!("0001:3a:1f.7".parse(), Ok(PciAddress::new(1, 0x3a, 0x1f, 7)));
        for wrong in [
            "3a:1f.7",
            "0000:3a:20.0",
            "0000:3a:1f.8",
            "10000:3a:1f.0",
            "0000:3a:1f.",
            "0000:3a:1f:0",
            "+000:3a:1f.0",
        ] {
            assert_eq!(wrong.parse::<PciAddress>(), Err(NotAPciAddress), "{wrong}");
        }
        for wrong in ["", "StreamID", "StreamID 5", "stream 0x5", "endpoint 0x", "endpoint 0x100000000"] {
            assert_eq!(wrong.parse::<Requester>(), Err(NotARequester), "{wrong}");
        }
    }

    proptest::proptest! {
        #[test]
        fn text_gives_back_the_function(segment: u16, requester_id: u16) {
            let address = PciAddress { segment, requester_id };
            proptest::prop_assert_eq!(std::format!("{address}").parse(), Ok(address));
        }

        #[test]
        fn text_gives_back_the_requester(requester_id: u16, id: u32) {
            let pci = PciAddress { segment: 1, requester_id };
            for requester in [
                Requester::Pci(pci),
                Requester::Stream(id),
                Requester::Device(id),
                Requester::Endpoint(id),
            ] {
                proptest::prop_assert_eq!(std::format!("{requester}").parse(), Ok(requester));
            }
        }
    }
}
