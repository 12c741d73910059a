//! What the service lists, and what happens to it.

use serde::{Deserialize, Serialize};

use super::{Access, Skip, message};

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
        /// Interrupt vectors that it can be granted, 0 where the service grants none.
        #[serde(default)]
        vectors: u32,
        /// Interrupt vectors that it has.
        #[serde(default)]
        vectors_granted: u32,
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
    /// The interrupt vectors of a device.
    InterruptGrant {
        /// Whose they are.
        client: String,
        /// The device.
        device: String,
        /// How many.
        vectors: u32,
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
        /// Number, ascending, of those that are kept: all but grants and what is revoked.
        number: Option<u64>,
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
}
