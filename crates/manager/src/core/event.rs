//! What happened, for those who follow.

use crate::core::ClientId;

/// Something that the core did or met.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A client came.
    ClientCame {
        /// Its number.
        client: ClientId,
        /// Its name.
        name: String,
    },
    /// A client went, and all that it held was released.
    ClientLeft {
        /// Its number.
        client: ClientId,
        /// Its name.
        name: String,
    },
    /// Devices were given to a client.
    Claimed {
        /// To whom.
        client: String,
        /// Their names.
        devices: Vec<String>,
    },
    /// Devices were taken back.
    Released {
        /// From whom.
        client: String,
        /// Their names.
        devices: Vec<String>,
    },
    /// A device's interrupts signal its client's event descriptors, in place of those before.
    Interrupts {
        /// To whom.
        client: String,
        /// Its name.
        device: String,
        /// How many vectors; with none, they reach nobody.
        vectors: u32,
    },
    /// Devices reach what a space maps.
    Attached {
        /// Whose space.
        client: String,
        /// The space.
        space: u64,
        /// Their names.
        devices: Vec<String>,
    },
    /// Devices no longer reach what a space maps.
    Detached {
        /// Whose space.
        client: String,
        /// The space.
        space: u64,
        /// Their names.
        devices: Vec<String>,
    },
    /// Mappings were added to a space, by one request.
    Granted {
        /// Whose space.
        client: String,
        /// The space.
        space: u64,
        /// How many.
        mappings: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// Mappings were removed from a space, by one request.
    Revoked {
        /// Whose space.
        client: String,
        /// The space.
        space: u64,
        /// How many.
        mappings: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// A device appeared. It is blocked.
    Appeared {
        /// Its name.
        device: String,
    },
    /// A device disappeared.
    Disappeared {
        /// Its name.
        device: String,
        /// Who had it.
        client: Option<String>,
    },
    /// Something that a person should know.
    Warning(String),
    /// Everything was blocked, and why.
    SafeState(String),
}
