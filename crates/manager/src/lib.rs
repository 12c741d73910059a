//! The manager: it alone holds the keys to the IOMMUs, gives each client exactly the device and the memory that it was
//! granted, blocks all else, and records it.
//!
//! [`inventory`] says what there is, [`core`] decides, [`backend`] says what the hardware is asked to do, [`violation`] what it
//! refuses, [`journal`] records that; [`vfio`] is a Linux host's back end, [`embedded`] a simulated
//! machine's, [`upstream`] a guest's; [`embedded`] a simulated one's platform, and [`service`] is the core behind a socket.
//! [`kernel_log`] reads what the kernel's own drivers refused, [`host`] what there is on a host, and [`inspect`] judges it.
#![deny(unsafe_code)]

pub mod backend;
pub mod configuration;
pub mod core;
pub mod embedded;
pub mod host;
pub mod inspect;
pub mod inventory;
pub mod journal;
pub mod kernel_log;
pub mod service;
pub mod upstream;
pub mod vfio;
pub mod violation;

pub use backend::{
    Backend, BackendError, Capabilities, Change, Mapping, MemoryId, Source, SpaceId, ViolationSource,
};
pub use inventory::{
    Device, DeviceId, DeviceKind, Group, GroupId, Inventory, ReservedKind, ReservedRegion, Unit,
    UnitCapabilities, UnitId, UnitKind,
};
pub use violation::{RawRecord, Violation};
