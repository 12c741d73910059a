//! One PCI function, as its configuration space describes it.

use portcullis_spec::PciAddress;

use super::Acs;

/// Where capabilities may lie, and how many there can be at most: a list with more has a loop.
const FIRST_CAPABILITY: u8 = 0x40;
const MAX_CAPABILITIES: usize = (256 - 64) / 4;
const FIRST_EXTENDED: u16 = 0x100;
const MAX_EXTENDED: usize = (4096 - 256) / 8;

/// Why a configuration space says nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error, serde::Serialize)]
pub enum ConfigError {
    /// The header has 64 bytes.
    #[error("{0} bytes of configuration space are too few, the header has 64")]
    TooShort(usize),
    /// Everything reads as ones: the device does not answer.
    #[error("the function does not answer: every byte is ff")]
    Gone,
}

/// How much of a configuration space was there to read. Linux shows users other than root the header alone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConfigReach {
    /// The 64 bytes of the header.
    Header,
    /// The 256 bytes of conventional PCI.
    Conventional,
    /// The 4096 bytes of PCI Express.
    Extended,
}

impl ConfigReach {
    /// Whether extended capabilities would have been seen.
    #[must_use]
    pub fn whole(self) -> bool {
        self == Self::Extended
    }
}

/// What a PCI Express function is (PCIe 7.5.3.2, Device/Port Type).
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PortType {
    /// Endpoint.
    Endpoint,
    /// Legacy endpoint.
    LegacyEndpoint,
    /// Root port of a root complex.
    RootPort,
    /// Upstream port of a switch.
    UpstreamPort,
    /// Downstream port of a switch.
    DownstreamPort,
    /// Bridge from PCI Express to conventional PCI.
    BridgeToPci,
    /// Bridge from conventional PCI to PCI Express.
    BridgeToPciExpress,
    /// Endpoint integrated into the root complex.
    IntegratedEndpoint,
    /// Event collector of the root complex.
    EventCollector,
    /// An encoding that the specification reserves.
    Reserved(u8),
}

impl PortType {
    const fn decode(bits: u8) -> Self {
        match bits {
            0x0 => Self::Endpoint,
            0x1 => Self::LegacyEndpoint,
            0x4 => Self::RootPort,
            0x5 => Self::UpstreamPort,
            0x6 => Self::DownstreamPort,
            0x7 => Self::BridgeToPci,
            0x8 => Self::BridgeToPciExpress,
            0x9 => Self::IntegratedEndpoint,
            0xa => Self::EventCollector,
            other => Self::Reserved(other),
        }
    }
}

/// The PCI Express capability, as far as it is needed here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub struct PciExpress {
    /// What it is.
    pub port_type: PortType,
    /// A slot is behind the port (PCIe 7.5.3.2, Slot Implemented).
    pub slot: bool,
    /// The slot can change while the machine runs (PCIe 7.5.3.9, Hot-Plug Capable).
    pub hot_plug: bool,
}

/// Address translation services of an endpoint (PCIe 10.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct TranslationServices {
    /// ATS: there, and whether it is on.
    pub ats: Option<bool>,
    /// Page requests: there, and whether they are on.
    pub pri: Option<bool>,
    /// PASID: bits of it, and whether it is on.
    pub pasid: Option<(u8, bool)>,
}

/// One PCI function.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Function {
    /// Where it is.
    pub address: PciAddress,
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Class code: base class, subclass and programming interface in bits 23:0.
    pub class: u32,
    /// The device has several functions (header type bit 7).
    pub multifunction: bool,
    /// Secondary and subordinate bus, of a bridge.
    pub buses: Option<(u8, u8)>,
    /// PCI Express capability.
    pub express: Option<PciExpress>,
    /// ACS capability and control register.
    pub acs: Option<(Acs, Acs)>,
    /// ATS, PRI and PASID.
    pub services: TranslationServices,
    /// The physical function of a virtual one.
    pub physical: Option<PciAddress>,
    /// How much of the configuration space was there.
    pub reach: ConfigReach,
}

/// Base class and subclass (PCI Code and ID Assignment) that this crate asks for.
mod class {
    pub(super) const IOMMU: u32 = 0x0806;
    pub(super) const BRIDGE: u32 = 0x06;
}

impl Function {
    /// Reads a configuration space: 64 bytes at least, up to 4096. Bytes are not trusted: lists of capabilities that loop or
    /// leave the space end where they do.
    ///
    /// # Errors
    /// [`ConfigError`] where there is no header.
    pub fn from_config(address: PciAddress, config: &[u8]) -> Result<Self, ConfigError> {
        let header = config.get(..64).ok_or(ConfigError::TooShort(config.len()))?;
        if header.iter().all(|byte| *byte == 0xff) {
            return Err(ConfigError::Gone);
        }
        let config = Config(config);
        let header_type = config.byte(0x0e);
        let reach = match config.0.len() {
            0..256 => ConfigReach::Header,
            256..512 => ConfigReach::Conventional,
            _ => ConfigReach::Extended,
        };
        let express = config.capability(0x10).map(|at| {
            let flags = config.word(at + 2);
            let slot = flags & 1 << 8 != 0;
            PciExpress {
                port_type: PortType::decode((flags >> 4 & 0xf) as u8),
                slot,
                hot_plug: slot && config.word(at + 0x14) & 1 << 6 != 0,
            }
        });
        let acs = config.extended(0x000d).map(|at| {
            let control = quirks_control_offset(config.word(0), config.word(2), express);
            (Acs::from_bits_truncate(config.word(at + 4)), Acs::from_bits_truncate(config.word(at + control)))
        });
        Ok(Self {
            address,
            vendor: config.word(0),
            device: config.word(2),
            class: u32::from(config.word(0x0a)) << 8 | u32::from(config.byte(0x09)),
            multifunction: header_type & 0x80 != 0,
            buses: (header_type & 0x7f == 1).then(|| (config.byte(0x19), config.byte(0x1a))),
            express,
            acs,
            services: TranslationServices {
                ats: config.extended(0x000f).map(|at| config.word(at + 6) & 1 << 15 != 0),
                pri: config.extended(0x0013).map(|at| config.word(at + 4) & 1 != 0),
                pasid: config
                    .extended(0x001b)
                    .map(|at| ((config.word(at + 4) >> 8 & 0x1f) as u8, config.word(at + 6) & 1 != 0)),
            },
            physical: None,
            reach,
        })
    }

    /// Whether it is a bridge of any kind, to another bus or to none.
    #[must_use]
    pub fn is_bridge(&self) -> bool {
        self.class >> 16 == class::BRIDGE
    }

    /// Whether it is itself an IOMMU (class 0806h).
    #[must_use]
    pub fn is_iommu(&self) -> bool {
        self.class >> 8 == class::IOMMU
    }

    /// Whether requests from behind it arrive under its own ID, or that of its secondary bus: it leads to a conventional PCI bus
    /// (Linux `pci_for_each_dma_alias`).
    #[must_use]
    pub fn takes_requests_over(&self) -> bool {
        self.buses.is_some()
            && match self.express {
                None => true,
                Some(express) => {
                    matches!(express.port_type, PortType::BridgeToPci | PortType::BridgeToPciExpress)
                }
            }
    }
}

/// Where the ACS control register lies. Intel's 100 and 200 series chipsets have it at 8 instead of 6 (their specification
/// updates, errata 23 and 22).
fn quirks_control_offset(vendor: u16, device: u16, express: Option<PciExpress>) -> u16 {
    let root_port = express.is_some_and(|express| express.port_type == PortType::RootPort);
    match device {
        0xa110..=0xa11f | 0xa167..=0xa16a | 0xa290..=0xa29f | 0xa2e7..=0xa2ee
            if vendor == 0x8086 && root_port =>
        {
            8
        }
        _ => 6,
    }
}

/// A configuration space; what lies beyond its end reads as 0.
#[derive(Clone, Copy)]
struct Config<'a>(&'a [u8]);

impl Config<'_> {
    fn byte(self, at: u16) -> u8 {
        self.0.get(usize::from(at)).copied().unwrap_or(0)
    }

    fn word(self, at: u16) -> u16 {
        u16::from_le_bytes([self.byte(at), self.byte(at.saturating_add(1))])
    }

    /// The capability with this ID (PCI 6.7).
    fn capability(self, id: u8) -> Option<u16> {
        if self.word(0x06) & 1 << 4 == 0 {
            return None;
        }
        let mut at = self.byte(0x34) & !3;
        for _ in 0..MAX_CAPABILITIES {
            if at < FIRST_CAPABILITY || usize::from(at) + 4 > self.0.len() {
                return None;
            }
            if self.byte(at.into()) == id {
                return Some(at.into());
            }
            at = self.byte(u16::from(at) + 1) & !3;
        }
        None
    }

    /// The extended capability with this ID (PCIe 7.6.3).
    fn extended(self, id: u16) -> Option<u16> {
        let mut at = FIRST_EXTENDED;
        for _ in 0..MAX_EXTENDED {
            if at < FIRST_EXTENDED || usize::from(at) + 4 > self.0.len() {
                return None;
            }
            let (found, next) = (self.word(at), self.word(at + 2) >> 4 & 0xffc);
            if found == id {
                return Some(at);
            }
            if found == 0 && next == 0 {
                return None;
            }
            at = next;
        }
        None
    }
}
