//! Parameters and replies of each method.

use serde::{Deserialize, Serialize};

use super::{
    Access, ClientInfo, Device, DeviceStatistics, Event, Fault, Grant, Group, InterruptGrant, ReasonCount,
    Region, Skip, Unit, message,
};

message! {
    /// A device that was claimed.
    ClaimedDevice {
        /// Name.
        name: String,
        /// Which of the message's descriptors is the device's.
        descriptor: Option<u64>,
    }
    /// One mapping that is asked for.
    #[serde(deny_unknown_fields)]
    MapRequest {
        /// First byte of the memory, or physical address.
        offset: u64,
        /// First address; the manager chooses where there is none.
        iova: Option<u64>,
        /// Bytes.
        length: u64,
        /// What devices may do.
        access: Access,
    }
    /// One mapping that was made.
    Granted {
        /// Number of the grant.
        grant: u64,
        /// First address.
        iova: u64,
        /// What devices may do.
        access: Access,
    }
    /// Addresses.
    Range {
        /// First address.
        iova: u64,
        /// Bytes.
        length: u64,
    }
    /// Parameters of a method that has none, and reply of one that says nothing but yes.
    #[serde(deny_unknown_fields)]
    Nothing {}
    /// Reply of `GetStatus`.
    Status {
        /// Version of the service.
        version: String,
        /// What it programs.
        backend: String,
        /// What it guards is simulated.
        simulated: bool,
        /// Why everything is blocked, if it is.
        safe_state: Option<String>,
        /// Process of the service.
        pid: u64,
        /// When it started, in nanoseconds since the Unix epoch.
        started: u64,
        /// Units.
        units: u64,
        /// Devices.
        devices: u64,
        /// Devices that a client has.
        claimed: u64,
        /// Clients.
        clients: u64,
        /// Grants.
        mappings: u64,
        /// Their bytes.
        bytes: u64,
        /// Accesses that were refused.
        faults: u64,
        /// There may have been more: what guards does not say how many it kept back.
        #[serde(default)]
        at_least: bool,
        /// What a person should know.
        warnings: Vec<String>,
        /// Name of the asker's configuration.
        you: String,
        /// The asker may act on others.
        operator: bool,
    }
    /// Reply of `ListUnits`.
    Units {
        /// All.
        units: Vec<Unit>,
    }
    /// Names devices, or all where there is no name.
    #[serde(deny_unknown_fields)]
    Selection {
        /// Name, pattern, or `mmio:BASE`.
        device: Option<String>,
    }
    /// Reply of `ListDevices`.
    Devices {
        /// Those meant.
        devices: Vec<Device>,
    }
    /// Reply of `ListGroups`.
    Groups {
        /// All.
        groups: Vec<Group>,
    }
    /// Reply of `ListClients`.
    Clients {
        /// All.
        clients: Vec<ClientInfo>,
    }
    /// Parameters of `ListGrants`.
    #[serde(deny_unknown_fields)]
    ListGrants {
        /// Only this client's.
        client: Option<String>,
        /// Only those that these devices have.
        device: Option<String>,
        /// An earlier answer's `next`.
        after: Option<Range>,
        /// At most so many.
        limit: Option<u64>,
    }
    /// Reply of `ListGrants` and `Allow`.
    Grants {
        /// In order of space and address.
        grants: Vec<Grant>,
        /// The interrupt vectors that devices have; not repeated where the list goes on.
        #[serde(default)]
        interrupts: Vec<InterruptGrant>,
        /// Where to go on, if there are more: space (in `length`) and address.
        next: Option<Range>,
    }
    /// Names devices.
    #[serde(deny_unknown_fields)]
    Named {
        /// Name, pattern, or `mmio:BASE`.
        device: String,
    }
    /// Reply of `ListReserved`.
    Regions {
        /// In order of address.
        regions: Vec<Region>,
    }
    /// Reply of `Claim`.
    Claimed {
        /// With the siblings that had to come along.
        devices: Vec<ClaimedDevice>,
    }
    /// Parameters of `Release`.
    #[serde(deny_unknown_fields)]
    Release {
        /// Name, pattern, or `mmio:BASE`.
        device: String,
        /// From whoever has them.
        force: Option<bool>,
    }
    /// Reply of `SetInterrupts`.
    Vectors {
        /// How many the device has now.
        vectors: u32,
    }
    /// Names of devices.
    Names {
        /// With the siblings that had to come along.
        devices: Vec<String>,
    }
    /// A space, alone.
    #[serde(deny_unknown_fields)]
    SpaceNumber {
        /// Its number.
        space: u64,
    }
    /// Parameters of `Attach` and `Detach`.
    #[serde(deny_unknown_fields)]
    Attach {
        /// The space.
        space: u64,
        /// Name, pattern, or `mmio:BASE`.
        device: String,
        /// Only requests with this PASID.
        pasid: Option<u32>,
    }
    /// Reply of `Attach`.
    Attached {
        /// With the siblings that had to come along.
        devices: Vec<String>,
        /// Mappings that were made again behind another unit.
        replayed: u64,
    }
    /// Reply of `AddMemory`.
    Memory {
        /// Its number.
        memory: u64,
        /// Bytes.
        length: u64,
        /// Devices may be allowed to write.
        writable: bool,
    }
    /// Parameters of `RemoveMemory`.
    #[serde(deny_unknown_fields)]
    MemoryNumber {
        /// Its number.
        memory: u64,
    }
    /// Parameters of `Map`.
    #[serde(deny_unknown_fields)]
    Map {
        /// The space.
        space: u64,
        /// The memory; physical addresses where there is none.
        memory: Option<u64>,
        /// What is asked for.
        mappings: Vec<MapRequest>,
    }
    /// Reply of `Map`.
    MapReply {
        /// In the order of the requests; empty in a reply that only tells progress.
        granted: Vec<Granted>,
        /// Bytes done so far, in a reply that only tells progress.
        done: Option<u64>,
    }
    /// Parameters of `Unmap`.
    #[serde(deny_unknown_fields)]
    Unmap {
        /// The space.
        space: u64,
        /// The ranges.
        ranges: Vec<Range>,
    }
    /// Reply of `Unmap` and `Revoke`.
    Removed {
        /// Grants.
        mappings: u64,
        /// Their bytes.
        bytes: u64,
    }
    /// Parameters of `Introduce`.
    #[serde(deny_unknown_fields)]
    Introduce {
        /// Name of a configuration.
        client: String,
    }
    /// Parameters of `Resume`.
    #[serde(deny_unknown_fields)]
    Resume {
        /// Number of the client, for a process that was several.
        client: Option<u64>,
    }
    /// Reply of `Resume`.
    Resumed {
        /// Its number, as before.
        client: u64,
        /// Its name.
        name: String,
        /// Devices that it has.
        devices: Vec<String>,
        /// Its spaces.
        spaces: Vec<u64>,
        /// Its memories.
        memories: Vec<Memory>,
        /// Devices that it had and that could not be kept: blocked, until they are claimed again.
        #[serde(default)]
        lost: Vec<String>,
    }
    /// Parameters of `Allow`.
    #[serde(deny_unknown_fields)]
    Allow {
        /// Name, pattern, or `mmio:BASE`.
        device: String,
        /// First physical address.
        first: u64,
        /// Bytes.
        length: u64,
        /// What the devices may do.
        access: Access,
    }
    /// Parameters of `Revoke`.
    #[serde(deny_unknown_fields)]
    Revoke {
        /// Number of the grant.
        grant: u64,
    }
    /// Parameters of `ListFaults`.
    #[serde(deny_unknown_fields)]
    ListFaults {
        /// Only of these devices.
        device: Option<String>,
        /// Only of this client.
        client: Option<String>,
        /// Not before, in nanoseconds since the Unix epoch.
        since: Option<u64>,
        /// Not after.
        until: Option<u64>,
        /// Only those with a higher number.
        after: Option<u64>,
        /// Only those with a lower number.
        before: Option<u64>,
        /// The newest that fit, newest first.
        newest: Option<bool>,
        /// At most so many: the oldest that fit, unless the newest are asked for.
        limit: Option<u64>,
    }
    /// Reply of `ListFaults`.
    Faults {
        /// Oldest first, unless the newest were asked for.
        faults: Vec<Fault>,
        /// Refused accesses, all of them.
        total: u64,
        /// Of those, how many have no record.
        lost: u64,
        /// There may have been more: what guards does not say how many it kept back.
        #[serde(default)]
        at_least: bool,
    }
    /// Parameters of `ListEvents`.
    #[serde(deny_unknown_fields)]
    ListEvents {
        /// Only of the device of this name.
        device: Option<String>,
        /// Only of this client.
        client: Option<String>,
        /// Not before, in nanoseconds since the Unix epoch.
        since: Option<u64>,
        /// Not after.
        until: Option<u64>,
        /// Only those with a higher number.
        after: Option<u64>,
        /// Only those with a lower number.
        before: Option<u64>,
        /// The newest that fit, newest first.
        newest: Option<bool>,
        /// At most so many: the oldest that fit, unless the newest are asked for.
        limit: Option<u64>,
    }
    /// Reply of `ListEvents`.
    Events {
        /// Oldest first, unless the newest were asked for.
        events: Vec<Event>,
    }
    /// Parameters of `Follow`; both where neither is set.
    #[serde(deny_unknown_fields)]
    Follow {
        /// Claims, grants and the like.
        events: Option<bool>,
        /// Refused accesses.
        faults: Option<bool>,
    }
    /// One reply of `Follow`.
    Followed {
        /// Something happened.
        event: Option<Event>,
        /// An access was refused.
        fault: Option<Fault>,
        /// So many were left out because the reader was too slow.
        missed: Option<u64>,
    }
    /// Reply of `GetStatistics`.
    Statistics {
        /// Every device.
        devices: Vec<DeviceStatistics>,
        /// Every reason that occurred.
        reasons: Vec<ReasonCount>,
        /// Refused accesses.
        faults: u64,
        /// Of those, how many have no record.
        lost: u64,
        /// There may have been more: what guards does not say how many it kept back.
        #[serde(default)]
        at_least: bool,
        /// Calls that the service answered.
        calls: u64,
    }
}
