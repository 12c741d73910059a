//! What is said over the socket: parameters and replies of `org.portcullis.Manager`, as its interface file describes them.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The interface's name.
pub const INTERFACE: &str = "org.portcullis.Manager";

/// The interface's description in varlink's language.
pub const DESCRIPTION: &str = include_str!("../org.portcullis.Manager.varlink");

/// Where the service listens unless told otherwise.
pub const SOCKET: &str = "/run/portcullis/org.portcullis.Manager";

/// Bytes of one message, in either direction; longer ones are refused.
pub const MESSAGE_LIMIT: usize = 4 << 20;

/// Descriptors that come with one message.
pub const DESCRIPTOR_LIMIT: usize = 16;

/// What devices may do: `r`, `w`, `x`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Access {
    /// Read.
    pub read: bool,
    /// Write.
    pub write: bool,
    /// Execute.
    pub execute: bool,
}

impl Access {
    /// Read.
    pub const READ: Self = Self { read: true, write: false, execute: false };
    /// Write.
    pub const WRITE: Self = Self { read: false, write: true, execute: false };
    /// Read and write.
    pub const READ_WRITE: Self = Self { read: true, write: true, execute: false };
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.read, self.write, self.execute) {
            (false, false, false) => "",
            (true, false, false) => "r",
            (false, true, false) => "w",
            (true, true, false) => "rw",
            (false, false, true) => "x",
            (true, false, true) => "rx",
            (false, true, true) => "wx",
            (true, true, true) => "rwx",
        })
    }
}

impl std::str::FromStr for Access {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut access = Self::default();
        for letter in text.chars() {
            let right = match letter {
                'r' => &mut access.read,
                'w' => &mut access.write,
                'x' => &mut access.execute,
                other => return Err(format!("`{other}` is not an access; r, w and x are")),
            };
            if std::mem::replace(right, true) {
                return Err(format!("`{letter}` stands twice in the access `{text}`"));
            }
        }
        Ok(access)
    }
}

impl Serialize for Access {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Access {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Letters;
        impl de::Visitor<'_> for Letters {
            type Value = Access;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an access such as \"rw\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Access, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Letters)
    }
}

/// Requests refuse fields that they do not know; replies ignore them, so that an older client understands a newer service.
macro_rules! message {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* })*) => {
        $(
            #[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
            #[serde(rename_all = "camelCase")]
            $(#[$doc])*
            pub struct $name {
                $(
                    $(#[$field_doc])*
                    #[serde(skip_serializing_if = "Skip::skip")]
                    pub $field: $type,
                )*
            }
        )*
    };
}

/// Which fields are left out of a message: options without a value.
trait Skip {
    fn skip(&self) -> bool {
        false
    }
}

impl<T> Skip for Option<T> {
    fn skip(&self) -> bool {
        self.is_none()
    }
}

impl Skip for u64 {}
impl Skip for u32 {}
impl Skip for bool {}
impl Skip for String {}
impl Skip for Access {}
impl<T> Skip for Vec<T> {}

message! {
    /// An IOMMU.
    Unit {
        /// Name.
        name: String,
        /// Kind: `vtd`, `amdvi`, `smmuv3`, `smmuv2`, `riscv`, `virtio`, `upstream`.
        kind: String,
        /// Address of its registers.
        address: Option<u64>,
        /// Bytes of the pages that it maps, ascending.
        page_sizes: Vec<u64>,
        /// First address that devices may use.
        first: u64,
        /// Last address.
        last: u64,
        /// Writing can be granted without reading.
        write_only: bool,
        /// Execute permission is checked.
        execute: bool,
        /// Interrupts are remapped.
        interrupts_isolated: bool,
        /// It sees which device sends a request.
        tells_devices_apart: bool,
        /// It has PASIDs.
        pasid: bool,
        /// Devices behind it.
        devices: u64,
        /// Where the knowledge of it comes from.
        source: String,
    }
    /// Addresses that a device cannot use for grants.
    Region {
        /// First address.
        first: u64,
        /// Last address.
        last: u64,
        /// `direct`, `direct-relaxable`, `reserved`, `msi`.
        kind: String,
        /// What a direct region permits.
        access: Access,
        /// Where the knowledge of it comes from.
        source: String,
    }
    /// A device that can do DMA.
    Device {
        /// Name.
        name: String,
        /// `pci`, `mmio`, `generic`.
        kind: String,
        /// What it is.
        description: String,
        /// Under which names its requests reach the unit.
        requesters: Vec<String>,
        /// The unit that guards it.
        unit: Option<String>,
        /// Its group.
        group: u32,
        /// The driver that has it while no client does.
        driver: Option<String>,
        /// The client that has it.
        holder: Option<String>,
        /// Why nobody can have it.
        quarantine: Option<String>,
        /// Addresses that it cannot use.
        reserved: Vec<Region>,
        /// Bits of its PASIDs, 0 for none.
        pasid_bits: u32,
        /// Where the knowledge of it comes from.
        source: String,
    }
    /// Devices that can only be claimed together.
    Group {
        /// Number.
        id: u32,
        /// Names of its devices.
        devices: Vec<String>,
        /// Why they stand together.
        reasons: Vec<String>,
        /// The client that has them.
        holder: Option<String>,
    }
    /// A client's space.
    Space {
        /// Number.
        space: u64,
        /// What is attached to it, with `/PASID` where only that is.
        devices: Vec<String>,
    }
    /// A client.
    ClientInfo {
        /// Number.
        id: u64,
        /// Name of its configuration.
        name: String,
        /// Its process.
        pid: Option<u64>,
        /// Its user.
        uid: Option<u64>,
        /// Devices that it has.
        devices: Vec<String>,
        /// Its spaces.
        spaces: Vec<Space>,
        /// Grants that it has.
        mappings: u64,
        /// Their bytes.
        bytes: u64,
        /// Accesses of its devices that were refused.
        faults: u64,
        /// Its devices reach some physical memory unchanged, by configuration.
        unity: bool,
    }
    /// One grant.
    Grant {
        /// Number.
        grant: u64,
        /// Whose it is.
        client: String,
        /// Its space.
        space: u64,
        /// Devices that have it now.
        devices: Vec<String>,
        /// First address.
        iova: u64,
        /// Bytes.
        length: u64,
        /// What devices may do.
        access: Access,
        /// The memory that it leads to, physical addresses where there is none.
        memory: Option<u64>,
        /// First byte of the memory, or physical address.
        offset: u64,
        /// The client cannot remove it.
        fixed: bool,
    }
    /// One refused access.
    Fault {
        /// Number, ascending.
        number: u64,
        /// Nanoseconds since the Unix epoch.
        time: u64,
        /// The unit that refused.
        unit: Option<String>,
        /// Who sent it, as the unit knows it.
        requester: String,
        /// The devices that this can have been.
        devices: Vec<String>,
        /// The client that had them.
        client: Option<String>,
        /// Its PASID.
        pasid: Option<u32>,
        /// Its address.
        address: u64,
        /// What it wanted.
        access: Access,
        /// Why it was refused.
        reason: String,
        /// The architecture's own code.
        code: u32,
        /// The grant that holds the address but does not permit the access.
        grant: Option<u64>,
        /// Hexadecimal words of the hardware's record.
        raw: Vec<String>,
        /// Refusals that this record stands for.
        count: u64,
    }
    /// Counts of one device.
    DeviceStatistics {
        /// Name.
        device: String,
        /// Who has it.
        client: Option<String>,
        /// Requests that arrived, where that can be counted.
        requests: Option<u64>,
        /// Accesses that were refused.
        faults: u64,
    }
    /// How often accesses were refused for a reason.
    ReasonCount {
        /// The reason.
        reason: String,
        /// How often.
        count: u64,
    }
    /// Something that happened.
    Event {
        /// Nanoseconds since the Unix epoch.
        time: u64,
        /// What: `claimed`, `granted`, …
        kind: String,
        /// To whom.
        client: Option<String>,
        /// Which devices.
        devices: Vec<String>,
        /// Which space.
        space: Option<u64>,
        /// How many grants.
        mappings: Option<u64>,
        /// How many bytes.
        bytes: Option<u64>,
        /// In words.
        text: Option<String>,
    }
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
        /// Calls that the service answered.
        calls: u64,
    }
}

#[cfg(test)]
mod tests {
    use super::Access;

    #[test]
    fn access_is_written_in_letters() {
        for text in ["", "r", "w", "rw", "x", "rx", "wx", "rwx"] {
            assert_eq!(text.parse::<Access>().unwrap().to_string(), text);
        }
        assert_eq!("wr".parse::<Access>(), Ok(Access::READ_WRITE));
        assert!("rr".parse::<Access>().is_err());
        assert!("q".parse::<Access>().is_err());
    }
}
