//! What can go wrong, with the facts.

use core::time::Duration;

use portcullis_spec::{DirectoryFormat, InterruptRoute, Iova, PagingFormat, Pasid, Requester};

use crate::common::iova::IovaError;

/// Something that a unit cannot do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Feature {
    /// Translation of this format.
    #[error("page tables of format {0:?}")]
    Format(PagingFormat),
    /// Translation of any kind that this driver writes tables for.
    #[error("any page-table format")]
    AnyFormat,
    /// Addresses passing unchanged.
    #[error("pass-through")]
    Identity,
    /// Two stages.
    #[error("nested translation")]
    Nested,
    /// A guest's directory of this shape, or with what it asks for.
    #[error("a guest's directory of shape {0:?}")]
    Directory(DirectoryFormat),
    /// Requests with a PASID.
    #[error("requests with a PASID")]
    Pasid,
    /// Accessed and dirty bits in the tables that the driver writes.
    #[error("dirty tracking")]
    DirtyTracking,
    /// Refusing without a fault record.
    #[error("blocking without fault records")]
    SilentBlocking,
    /// Either way to invalidate.
    #[error("queued or register-based invalidation")]
    Invalidation,
    /// Tables that say which interrupts of devices reach whom.
    #[error("interrupt remapping")]
    Interrupts,
    /// x2APIC destinations of interrupts (VT-d extended interrupt mode).
    #[error("x2APIC destinations of interrupts")]
    X2apic,
    /// An interrupt going this way.
    #[error("the interrupt route {0:?}")]
    Route(InterruptRoute),
    /// A requester of this architecture, or of this unit's segment.
    #[error("requests from {0}")]
    Requester(Requester),
}

/// Trouble with the unit itself. Whatever was being invalidated may still be in use by devices.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UnitError {
    /// A register did not come to the expected state.
    #[error("register {register} did not answer within {waited:?}")]
    RegisterTimeout {
        /// Its name in the specification.
        register: &'static str,
        /// How long the driver waited.
        waited: Duration,
    },
    /// A command given through a register was not carried out at any granularity.
    #[error("register {register} refused the command {value:#x}")]
    CommandRefused {
        /// Its name in the specification.
        register: &'static str,
        /// What was written.
        value: u64,
    },
    /// The unit reports that it failed, and serves nobody any more.
    #[error("the unit failed: register {register} reads {value:#x}")]
    Failed {
        /// Its name in the specification.
        register: &'static str,
        /// What it reads.
        value: u64,
    },
    /// The queue made no progress.
    #[error("the invalidation queue did not answer within {waited:?}")]
    QueueTimeout {
        /// How long the driver waited.
        waited: Duration,
    },
    /// The unit could not read or understand a command, and stopped.
    #[error("the invalidation queue stopped at entry {entry}: {detail:#x}")]
    QueueCommand {
        /// Index of the entry at which it stopped.
        entry: u32,
        /// The architecture's own word on it: VT-d IQERCD, Arm CERROR.
        detail: u64,
    },
    /// A device did not confirm the invalidation of its own cache in time.
    #[error("a device did not confirm the invalidation of its cache in time: {detail:#x}")]
    DeviceTimeout {
        /// The architecture's own word on it.
        detail: u64,
    },
    /// An earlier error stopped the unit's invalidations; [`crate::Unit::recover`] starts them again.
    #[error("invalidation stands still after an earlier error")]
    Stopped,
    /// The unit answered with all bits set: it is gone, or was never there.
    #[error("no unit answers at this address")]
    Absent,
}

/// Why a request was refused. Nothing has changed, except where [`Error::NotInvalidated`] says otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Error {
    /// The unit cannot do this.
    #[error("this unit does not support {0}")]
    Unsupported(Feature),
    /// The platform has no memory for a table.
    #[error("no memory for a table")]
    OutOfMemory,
    /// All domain tags are in use, or wait for an invalidation.
    #[error("all {count} domain tags are in use")]
    NoDomainTags {
        /// How many there are.
        count: u32,
    },
    /// The domain is of a kind that has no mappings of its own.
    #[error("this kind of domain has no mappings")]
    NoMappings,
    /// The page tables refuse.
    #[error(transparent)]
    Table(#[from] crate::common::table::TableError),
    /// The IOVA allocator refuses.
    #[error(transparent)]
    Iova(#[from] IovaError),
    /// The range touches addresses that may not be mapped.
    #[error("{first} to {last} is reserved")]
    Reserved {
        /// First byte of the reserved region.
        first: Iova,
        /// Last byte of the reserved region.
        last: Iova,
    },
    /// The range touches the addresses that the domain's allocator hands out, so it can't be chosen by hand.
    #[error("{first} to {last} belongs to the allocator")]
    Governed {
        /// First byte.
        first: Iova,
        /// Last byte.
        last: Iova,
    },
    /// No such device was added.
    #[error("{0} is not known")]
    UnknownDevice(Requester),
    /// The requester belongs to a device already.
    #[error("{0} is known already")]
    DeviceExists(Requester),
    /// The device, or that PASID of it, is attached already, or is being attached or detached by another thread.
    #[error("{0} is attached, or changing")]
    Attached(Requester),
    /// The device, or that PASID of it, is not attached.
    #[error("{0} is not attached")]
    NotAttached(Requester),
    /// The device has interrupt vectors already, or another thread is changing them.
    #[error("{0} has interrupt vectors, or they are changing")]
    InterruptsGranted(Requester),
    /// The device has no interrupt vectors.
    #[error("{0} has no interrupt vectors")]
    NoInterrupts(Requester),
    /// No run of interrupt table entries is long enough.
    #[error("no room for {asked} interrupt vectors in a table of {entries}")]
    NoInterruptEntries {
        /// Vectors asked for.
        asked: u32,
        /// Entries of the table.
        entries: u32,
    },
    /// The device has fewer vectors.
    #[error("vector {vector} of {count}")]
    NoSuchVector {
        /// The vector asked for, from 0.
        vector: u32,
        /// How many it has.
        count: u32,
    },
    /// The PASID is beyond what the device's table holds.
    #[error("PASID {0} is out of the device's reach")]
    PasidOutOfReach(Pasid),
    /// The domain belongs to another unit.
    #[error("the domain belongs to another unit")]
    ForeignDomain,
    /// A nested domain's first stage does not fit the unit, or its parent has no second stage.
    #[error("the parent of a nested domain must be a domain with second-stage tables")]
    NotAParent,
    /// The unit is in trouble, and nothing was changed.
    #[error(transparent)]
    Unit(UnitError),
    /// The change is in the tables, but the unit has not confirmed that it forgot what was there before: nothing that
    /// was reachable may be used for anything else. The driver holds on to its own pages; they are released, and the
    /// ticket completes, once [`crate::Unit::recover`] and then [`crate::Domain::flush`] succeed.
    #[error("not yet invalidated: {0}")]
    NotInvalidated(UnitError),
}
