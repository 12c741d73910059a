//! The core: who has which device, what devices may reach, and who decides it.
//!
//! Synchronous and without I/O of its own: every method checks a request against what its client was given, asks the
//! [`Backend`] to carry it out, and only then believes it. A request that is refused changes nothing. When the back end no
//! longer knows the state of the hardware, the core goes to its safe state: everything is blocked and stays so.
//!
//! | word | is |
//! | --- | --- |
//! | client | one connection; its [`Policy`] is what it was given |
//! | claim | a client has a group's devices; nobody else can |
//! | space | mappings that several devices share (smmuman's object) |
//! | grant | one mapping of a space |
//! | static grant | a mapping that configuration gives to a device that no client claims (smmuman's `allow`) |

mod attach;
mod claim;
mod event;
mod free;
mod ledger;
mod map;
mod memory;
mod policy;
mod presence;
mod refusal;
mod restore;
mod space;
mod statics;
mod view;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    os::fd::{BorrowedFd, OwnedFd},
    sync::Arc,
};

use portcullis_spec::{Access, Pasid};
use serde::{Deserialize, Serialize};

use ledger::{Entry, Ledger};

use crate::{
    backend::{Backend, BackendError, Capabilities, MemoryId, Source, SpaceId, ViolationSource},
    inventory::{Device, DeviceId, Group, GroupId, Inventory, Unit, UnitId},
};

pub use attach::Joined;
pub use event::Event;
pub use ledger::{BadLedger, Former, Identity};
pub use map::{Asked, Granted, MapFrom, Removed};
pub use policy::{Limits, Pattern, Policy};
pub use refusal::Refusal;
pub use restore::{Kept, Restored};
pub use statics::StaticGrant;
pub use view::{DeviceView, GrantView};

/// Descriptors with their names.
pub type BorrowedFds<'a> = Vec<(String, BorrowedFd<'a>)>;

/// A client, by a number that is never given to another while the manager runs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClientId(pub u64);

impl ClientId {
    /// Whoever holds the devices of static grants.
    pub const STATIC: Self = Self(0);
}

/// What configuration accepts by name although it is less than safe.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Accepted {
    /// Devices or units whose interrupts are not remapped.
    pub unsafe_interrupts: Vec<Pattern>,
    /// Devices that keep access to regions of their firmware.
    pub direct_regions: Vec<Pattern>,
}

#[derive(Debug)]
struct DeviceState {
    device: Device,
    /// Space of the device itself (`None`) and of its PASIDs.
    attached: BTreeMap<Option<Pasid>, u64>,
    /// Interrupt vectors that it was granted.
    vectors: u32,
}

#[derive(Debug)]
struct GroupState {
    group: Group,
    members: Vec<DeviceId>,
    holder: Option<ClientId>,
    /// Why its devices stay blocked and can be claimed by nobody.
    quarantine: Option<String>,
}

#[derive(Debug)]
struct Client {
    policy: Arc<Policy>,
    /// Who it is; what it has is taken up again after a crash only where that is known.
    identity: Option<Identity>,
    spaces: BTreeSet<u64>,
    memories: BTreeSet<MemoryId>,
    /// Over all its spaces.
    bytes: u64,
    mappings: u64,
}

/// Who wants a mapping to stay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Keeper {
    /// The client; it can remove it.
    Client,
    /// Configuration, as long as the space lives.
    Policy,
    /// The firmware of attached devices.
    Firmware,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Held {
    last: u64,
    source: Source,
    access: Access,
    keeper: Keeper,
    grant: u64,
}

#[derive(Debug)]
struct Space {
    owner: ClientId,
    /// What the back end knows as the space, one for each unit that an attached device is behind.
    parts: BTreeMap<UnitId, SpaceId>,
    mappings: BTreeMap<u64, Held>,
    attached: BTreeSet<(DeviceId, Option<Pasid>)>,
    /// Built when the manager first chooses an address.
    free: Option<free::Free>,
    /// Reserved regions of the attached devices: first byte, last byte.
    reserved: Vec<(u64, u64)>,
}

#[derive(Debug)]
struct Memory {
    owner: ClientId,
    file: Arc<OwnedFd>,
    length: u64,
    writable: bool,
    /// Mappings that lead to it.
    uses: u64,
}

/// The core of the manager.
pub struct Core {
    backend: Box<dyn Backend>,
    capabilities: Capabilities,
    accepted: Accepted,
    units: Vec<Unit>,
    devices: BTreeMap<DeviceId, DeviceState>,
    names: HashMap<String, DeviceId>,
    groups: BTreeMap<GroupId, GroupState>,
    clients: BTreeMap<ClientId, Client>,
    spaces: BTreeMap<u64, Space>,
    memories: BTreeMap<MemoryId, Memory>,
    statics: Vec<StaticGrant>,
    events: Vec<Event>,
    safe_state: Option<String>,
    next_client: u64,
    next_space: u64,
    next_part: u64,
    next_memory: u64,
    next_grant: u64,
    /// Changes whenever a device gets another holder; readers of violations look at it.
    holders_changed: u64,
    /// Where it is written down who has what, if that is to outlive the process.
    ledger: Option<Ledger>,
    /// Changes whenever other descriptors than before have to outlive the process.
    kept_changed: u64,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core")
            .field("backend", &self.backend.name())
            .field("devices", &self.devices.len())
            .field("clients", &self.clients.len())
            .field("spaces", &self.spaces.len())
            .field("safe_state", &self.safe_state)
            .finish_non_exhaustive()
    }
}

impl Core {
    /// A core over a back end, with `adjust` applied to the inventory that the back end reports. All devices of a unit that
    /// cannot tell them apart are put into one group.
    ///
    /// # Errors
    ///
    /// What the back end could not read, or what `adjust` refuses.
    pub fn start<E: std::convert::From<BackendError>>(
        mut backend: Box<dyn Backend>,
        accepted: Accepted,
        adjust: impl FnOnce(Inventory) -> Result<Inventory, E>,
    ) -> Result<Self, E> {
        let inventory = adjust(backend.inventory()?)?;
        let mut core = Self {
            capabilities: backend.capabilities(),
            backend,
            accepted,
            units: inventory.units,
            devices: BTreeMap::new(),
            names: HashMap::new(),
            groups: BTreeMap::new(),
            clients: BTreeMap::new(),
            spaces: BTreeMap::new(),
            memories: BTreeMap::new(),
            statics: Vec::new(),
            events: Vec::new(),
            safe_state: None,
            next_client: 1,
            next_space: 1,
            next_part: 1,
            next_memory: 1,
            next_grant: 1,
            holders_changed: 0,
            ledger: None,
            kept_changed: 0,
        };
        for group in inventory.groups {
            core.groups
                .insert(group.id, GroupState { group, members: Vec::new(), holder: None, quarantine: None });
        }
        for (id, device) in inventory.devices {
            core.add_device(id, device);
        }
        let policy = Arc::new(Policy { name: "static grants".into(), ..Policy::default() });
        core.clients.insert(ClientId::STATIC, Client::new(policy, None));
        Ok(core)
    }

    /// A client came; `policy` is what it was given.
    ///
    /// # Errors
    ///
    /// [`Refusal::SafeState`].
    pub fn connect(&mut self, policy: Arc<Policy>) -> Result<ClientId, Refusal> {
        self.connect_as(policy, None)
    }

    /// As [`Core::connect`]; a client that is known by its process can have back what it had after a crash of this one.
    ///
    /// # Errors
    ///
    /// As [`Core::connect`].
    pub fn connect_as(
        &mut self,
        policy: Arc<Policy>,
        identity: Option<Identity>,
    ) -> Result<ClientId, Refusal> {
        self.alive()?;
        let client = ClientId(self.next_client);
        self.next_client += 1;
        self.events.push(Event::ClientCame { client, name: policy.name.clone() });
        if let Some(identity) = identity {
            self.note_down(&Entry::Client { client: client.0, name: policy.name.clone(), identity });
        }
        self.clients.insert(client, Client::new(policy, identity));
        Ok(client)
    }

    /// A client went: everything that it held is released, its devices stopped first.
    pub fn disconnect(&mut self, client: ClientId) {
        if client == ClientId::STATIC || !self.clients.contains_key(&client) {
            return;
        }
        self.note_down_of(client, || Entry::Gone { client: client.0 });
        let groups: Vec<GroupId> =
            self.groups.iter().filter(|(_, g)| g.holder == Some(client)).map(|(&id, _)| id).collect();
        for group in groups {
            self.release_group(group);
        }
        let Some(state) = self.clients.get(&client) else { return };
        let (spaces, memories) = (state.spaces.clone(), state.memories.clone());
        for space in spaces {
            self.drop_space(space);
        }
        for memory in memories {
            self.memories.remove(&memory);
            self.kept_changed += 1;
            self.finish(|backend| backend.remove_memory(memory));
        }
        if let Some(state) = self.clients.remove(&client) {
            self.events.push(Event::ClientLeft { client, name: state.policy.name.clone() });
        }
    }

    /// Blocks everything that was granted, for good.
    pub fn enter_safe_state(&mut self, why: impl Into<String>) {
        if self.safe_state.is_none() {
            self.forget_ledger();
            self.backend.block_everything();
            let why = why.into();
            self.events.push(Event::SafeState(why.clone()));
            self.safe_state = Some(why);
        }
    }

    /// Why everything is blocked, if it is.
    #[must_use]
    pub fn safe_state(&self) -> Option<&str> {
        self.safe_state.as_deref()
    }

    /// What happened since the last call.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// The back end.
    #[must_use]
    pub fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    /// The stream of violations, the first time it is asked for.
    pub fn violations(&mut self) -> Option<Box<dyn ViolationSource>> {
        self.backend.violations()
    }

    fn alive(&self) -> Result<(), Refusal> {
        match &self.safe_state {
            Some(why) => Err(Refusal::SafeState(why.clone())),
            None => Ok(()),
        }
    }

    /// Passes a back end's answer on; an unknown condition leads to the safe state.
    fn carried_out<T>(&mut self, answer: Result<T, BackendError>) -> Result<T, Refusal> {
        if let Err(BackendError::Unknown(why)) = &answer {
            let why = why.clone();
            self.enter_safe_state(why);
        }
        answer.map_err(Refusal::Backend)
    }

    /// Has the back end take something away, unless everything is blocked already.
    fn finish(&mut self, step: impl FnOnce(&mut dyn Backend) -> Result<(), BackendError>) {
        if self.safe_state.is_none() {
            let answer = step(&mut *self.backend);
            self.note(answer);
        }
    }

    /// Takes note of a back end's answer where nobody waits for it: what is not an unknown condition becomes a warning.
    fn note(&mut self, answer: Result<(), BackendError>) {
        match answer {
            Ok(()) | Err(BackendError::Gone) => {}
            Err(BackendError::Unknown(why)) => self.enter_safe_state(why),
            Err(other) => self.events.push(Event::Warning(other.to_string())),
        }
    }

    fn client_name(&self, client: ClientId) -> String {
        self.clients.get(&client).map_or_else(|| "nobody".into(), |c| c.policy.name.clone())
    }

    fn device_name(&self, device: DeviceId) -> String {
        self.devices.get(&device).map_or_else(|| format!("device {}", device.0), |d| d.device.name.clone())
    }

    fn unit(&self, unit: UnitId) -> Option<&Unit> {
        self.units.get(unit.0 as usize)
    }
}

impl Client {
    fn new(policy: Arc<Policy>, identity: Option<Identity>) -> Self {
        Self { policy, identity, spaces: BTreeSet::new(), memories: BTreeSet::new(), bytes: 0, mappings: 0 }
    }
}
