//! Why a request was refused.

use std::ops::RangeInclusive;

use portcullis_spec::Iova;

use crate::{backend::BackendError, inventory::ReservedKind};

fn range(range: &RangeInclusive<Iova>) -> String {
    format!("{}-{}", range.start(), range.end())
}

/// Why a request was refused. Nothing was changed, unless the core is in its safe state since.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// No device is meant by the words of the request.
    #[error("no device is called `{0}`")]
    NoSuchDevice(String),
    /// The client does not exist (any more).
    #[error("the client is gone")]
    NoSuchClient,
    /// The process had devices that could not be kept over a restart of the service. They are blocked.
    #[error(
        "what you had could not be kept over the restart of the service: {} blocked; close the descriptors that you have of \
         it, connect anew and claim it again", are(.0)
    )]
    Lost(Vec<String>),
    /// The client has no space of that number.
    #[error("you have no space {0}")]
    NoSuchSpace(u64),
    /// The client has no memory of that number.
    #[error("you have no memory {0}")]
    NoSuchMemory(u64),
    /// There is no grant of that number.
    #[error("there is no grant {0}")]
    NoSuchGrant(u64),
    /// Configuration does not give this to the client.
    #[error("{client} may not {what}: {why}")]
    NotPermitted {
        /// The client.
        client: String,
        /// What it asked for: a verb and what follows.
        what: String,
        /// The rule that is missing.
        why: String,
    },
    /// Another client, or a static grant, has the device.
    #[error("{device} is held by {holder}")]
    Held {
        /// The device asked for.
        device: String,
        /// Who has it.
        holder: String,
    },
    /// The words mean none, or more than one device.
    #[error("`{0}` does not mean one device")]
    NotOneDevice(String),
    /// The device cannot have so many interrupt vectors.
    #[error("{device} can have {most} interrupt vectors, not {asked}")]
    Vectors {
        /// The device.
        device: String,
        /// Vectors asked for.
        asked: u32,
        /// How many it can have.
        most: u32,
    },
    /// The client has not claimed the device.
    #[error("you have not claimed {0}")]
    NotClaimed(String),
    /// No unit guards the device, so nothing could be refused to it.
    #[error("no IOMMU guards {0}, so it cannot be granted anything less than everything")]
    Unguarded(String),
    /// The unit does not remap interrupts, so the device could send any.
    #[error(
        "{device} could forge interrupts: {unit} does not remap them; to accept that, name the device or the unit under \
         `accept.unsafe-interrupts`"
    )]
    UnsafeInterrupts {
        /// The device.
        device: String,
        /// The unit.
        unit: String,
    },
    /// Firmware wants the device to keep access to memory of its own.
    #[error(
        "{device} keeps access to {} for its firmware; to accept that, name it under `accept.direct-regions`",
        range(.region)
    )]
    DirectRegion {
        /// The device.
        device: String,
        /// The memory.
        region: RangeInclusive<Iova>,
    },
    /// A device is already attached elsewhere.
    #[error("{device} is attached to space {space}{}", .group.as_ref().map(|why| format!(", and {why}")).unwrap_or_default())]
    Attached {
        /// The device.
        device: String,
        /// The space.
        space: u64,
        /// Why it cannot be in two, where a group is the reason.
        group: Option<String>,
    },
    /// A device is not attached to the space.
    #[error("{device} is not attached to space {space}")]
    NotAttached {
        /// The device.
        device: String,
        /// The space.
        space: u64,
    },
    /// The unit, device or group does not allow PASIDs, or not this one.
    #[error("{device} has no PASID {pasid}: {why}")]
    NoPasid {
        /// The device.
        device: String,
        /// The PASID.
        pasid: u32,
        /// Why.
        why: String,
    },
    /// A number is not a multiple of the granularity.
    #[error("{what} {value:#x} is not a multiple of {granularity:#x}, the smallest page here")]
    Misaligned {
        /// Which number.
        what: &'static str,
        /// Its value.
        value: u64,
        /// What it must be a multiple of.
        granularity: u64,
    },
    /// A length is 0, or no permission is asked for.
    #[error("{0} is empty")]
    Empty(&'static str),
    /// First byte plus length passes the end of 64 bits.
    #[error("{first:#x} plus {length:#x} bytes wraps around")]
    Wraps {
        /// First byte.
        first: u64,
        /// Bytes.
        length: u64,
    },
    /// The range passes the end of the memory.
    #[error("the range ends at {end:#x} of a memory of {length:#x} bytes")]
    BeyondMemory {
        /// One past the range's last byte.
        end: u64,
        /// Bytes of the memory.
        length: u64,
    },
    /// The memory's descriptor does not allow writing.
    #[error("memory {0} was registered through a descriptor that cannot write")]
    ReadOnlyMemory(u64),
    /// The unit has no such addresses.
    #[error("{} is outside {}, the addresses that {unit} translates", range(.asked), range(.usable))]
    OutsideUnit {
        /// What was asked for.
        asked: RangeInclusive<Iova>,
        /// What there is.
        usable: RangeInclusive<Iova>,
        /// The unit.
        unit: String,
    },
    /// The client was not given those addresses.
    #[error("{} is outside the addresses that {client} was given", range(.asked))]
    OutsideWindow {
        /// What was asked for.
        asked: RangeInclusive<Iova>,
        /// The client.
        client: String,
    },
    /// A reserved region is in the way.
    #[error("{} overlaps {}, {} for {device}", range(.asked), range(.region), kind_name(*.kind))]
    Reserved {
        /// What was asked for.
        asked: RangeInclusive<Iova>,
        /// The region.
        region: RangeInclusive<Iova>,
        /// What it is for.
        kind: ReservedKind,
        /// Whose it is.
        device: String,
    },
    /// Another mapping is in the way.
    #[error("{} overlaps the grant at {}", range(.asked), range(.existing))]
    Overlap {
        /// What was asked for.
        asked: RangeInclusive<Iova>,
        /// The mapping that is there.
        existing: RangeInclusive<Iova>,
    },
    /// Nothing is mapped there.
    #[error("nothing is granted at {}", range(.0))]
    NotMapped(RangeInclusive<Iova>),
    /// The range cuts through a mapping.
    #[error("{} would split the grant at {}; revoke it whole", range(.asked), range(.existing))]
    WouldSplit {
        /// What was asked for.
        asked: RangeInclusive<Iova>,
        /// The mapping that it cuts.
        existing: RangeInclusive<Iova>,
    },
    /// No addresses of that length are free.
    #[error("no {0:#x} bytes of addresses are free in one piece")]
    NoRoom(u64),
    /// The client has used up what it was given.
    #[error("{client} would pass its limit of {limit} {what}")]
    TooMuch {
        /// The client.
        client: String,
        /// Of what.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// What stands in the way is still in use.
    #[error("{what} is in use: {by}")]
    InUse {
        /// What.
        what: String,
        /// By whom.
        by: String,
    },
    /// What this back end cannot do.
    #[error("{what} is not possible here: {why}")]
    Unsupported {
        /// What.
        what: &'static str,
        /// Why.
        why: String,
    },
    /// The back end did not do it.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The core is in its safe state and does nothing any more.
    #[error("everything is blocked since {0}")]
    SafeState(String),
}

fn kind_name(kind: ReservedKind) -> &'static str {
    match kind {
        ReservedKind::Direct | ReservedKind::DirectRelaxable => "kept for firmware",
        ReservedKind::Reserved => "reserved",
        ReservedKind::Msi => "where interrupts go",
    }
}

/// Names with their verb.
fn are(names: &[String]) -> String {
    format!("{} {}", names.join(", "), if names.len() == 1 { "is" } else { "are" })
}

impl Refusal {
    /// The name that the service's interface gives to this refusal: the same for every case that a program handles alike.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::NoSuchDevice(_) | Self::NotOneDevice(_) => "NoSuchDevice",
            Self::NoSuchClient => "NoSuchClient",
            Self::Lost(_) => "Lost",
            Self::NoSuchSpace(_) => "NoSuchSpace",
            Self::NoSuchMemory(_) => "NoSuchMemory",
            Self::NoSuchGrant(_) => "NoSuchGrant",
            Self::NotPermitted { .. } | Self::ReadOnlyMemory(_) => "NotPermitted",
            Self::Held { .. } | Self::Backend(BackendError::Busy { .. }) => "Held",
            Self::NotClaimed(_) => "NotClaimed",
            Self::Unguarded(_) | Self::UnsafeInterrupts { .. } | Self::DirectRegion { .. } => "Unsafe",
            Self::Attached { .. } => "Attached",
            Self::NotAttached { .. } => "NotAttached",
            Self::Misaligned { .. } | Self::Empty(_) | Self::Wraps { .. } => "BadRange",
            Self::BeyondMemory { .. } | Self::OutsideUnit { .. } | Self::OutsideWindow { .. } => "OutOfRange",
            Self::Reserved { .. } => "Reserved",
            Self::Overlap { .. } => "Overlap",
            Self::NotMapped(_) => "NotMapped",
            Self::WouldSplit { .. } => "WouldSplit",
            Self::NoRoom(_)
            | Self::TooMuch { .. }
            | Self::Vectors { .. }
            | Self::Backend(BackendError::Limit { .. }) => "Limit",
            Self::InUse { .. } => "InUse",
            Self::NoPasid { .. }
            | Self::Unsupported { .. }
            | Self::Backend(BackendError::Unsupported { .. }) => "Unsupported",
            Self::Backend(BackendError::Gone) => "NoSuchDevice",
            Self::Backend(BackendError::System { .. }) => "System",
            Self::Backend(BackendError::Unknown(_)) | Self::SafeState(_) => "SafeState",
        }
    }
}
