//! The service: the core behind a socket.
//!
//! | file | is |
//! | --- | --- |
//! | `listen` | the socket, from systemd or of its own, and the loop that accepts |
//! | `connection` | one connection, from its first byte to the release of what its client had |
//! | `calls` | one call: from its text to its answer |
//! | `former` | violations of earlier processes, from the disk |
//! | `had` | who has what, for a restart that cannot keep it |
//! | `lists` | everything that can be listed |
//! | `message` | from the core's words to the interface's |
//! | `memory` | descriptors that clients bring |
//! | `policies` | from a peer's credentials to what it was given |
//! | `metrics` | counts over HTTP, where configured |
//! | `privileges` | what the process gives up |
//! | `budget` | what one user can occupy |
//! | `resume` | clients of a former process, until they come back |
//! | `watch` | waiting for a descriptor
//! | `systemd` | readiness, watchdog, descriptors that outlive the process |

mod budget;
mod calls;
mod connection;
mod former;
mod had;
mod listen;
mod lists;
mod memory;
mod message;
mod metrics;
mod policies;
pub mod privileges;
mod resume;
mod systemd;
mod watch;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use portcullis_client::api;
use tokio::sync::{Notify, broadcast};

use crate::{
    configuration::RESUME_WITHIN,
    core::{ClientId, Core, Event, Policy, Refusal, Restored},
    journal::{Attributions, Disk, Events, EventsOnDisk, Journal, Reader, Record, Seen},
};
use connection::Told;

pub(crate) use former::violation;
pub use listen::{Ended, serve, start};
pub use memory::{BadMemory, Sealed};
pub use message::{fault_message, reason};
pub use policies::{Peer, Policies, Who};
pub use systemd::Inherited;

/// Events that are kept.
const EVENTS: usize = 4096;

/// Events that wait for one who follows before some are left out.
const FOLLOWED: usize = 4096;

/// How the service runs.
#[derive(Debug)]
pub struct Settings {
    /// Where it listens, unless systemd passes a socket.
    pub socket: PathBuf,
    /// Permission bits of that socket.
    pub socket_mode: u32,
    /// Who is given what.
    pub policies: Policies,
    /// What a person should know; shown at start and in `status`.
    pub warnings: Vec<String>,
    /// Records of violations that are kept in memory.
    pub journal: usize,
    /// And on disk.
    pub disk: Option<Disk>,
    /// What happens, on disk.
    pub events: Option<EventsOnDisk>,
    /// Connections that one user may have.
    pub connections: usize,
    /// How long a client of a former process may take to come back.
    pub resume_within: Duration,
    /// File in which it stands who has which devices, for the next process.
    pub holders: Option<PathBuf>,
}

impl Settings {
    /// A service that only its own user can connect to, and that keeps nothing on disk: 16384 records of violations in memory
    /// (some 4 MiB), 1100 connections a user, and [`RESUME_WITHIN`] to come back.
    pub fn new(socket: impl Into<PathBuf>, policies: Policies) -> Self {
        Self {
            socket: socket.into(),
            socket_mode: 0o600,
            policies,
            warnings: Vec::new(),
            journal: 1 << 14,
            disk: None,
            events: None,
            connections: 1100,
            resume_within: RESUME_WITHIN,
            holders: None,
        }
    }
}

/// One connection's client.
#[derive(Debug)]
struct Session {
    peer: Peer,
    policy: Arc<Policy>,
    operator: bool,
    /// Its number in the core, from the first call that needs one.
    client: Option<ClientId>,
}

/// The service, on one thread; the core and the journal are shared with the thread that reads violations.
struct Service {
    core: Arc<Mutex<Core>>,
    journal: Arc<Mutex<Journal>>,
    attributions: Arc<RwLock<Arc<Attributions>>>,
    events: RefCell<Events>,
    /// For which state of the core the attributions were made.
    attributed: Cell<u64>,
    /// For which state of the core descriptors were left with systemd.
    left: Cell<u64>,
    /// Clients of a former process that have not come back yet.
    absent: RefCell<BTreeMap<ClientId, Restored>>,
    followers: broadcast::Sender<Told>,
    policies: Policies,
    warnings: Vec<String>,
    started: u64,
    calls: Cell<u64>,
    peers: RefCell<BTreeMap<ClientId, Peer>>,
    /// The descriptors that are left with systemd, by name.
    kept: RefCell<BTreeMap<String, systemd::File>>,
    budget: budget::Budget,
    resume_within: Duration,
    holders: had::Holders,
    /// Told when everything was blocked.
    blocked: Arc<Notify>,
}

pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

impl Service {
    /// Puts a core into service; its violations are read from now on.
    fn new(mut core: Core, settings: Settings) -> Self {
        let holders = had::Holders::take_up(settings.holders, &mut core);
        let source = core.violations();
        let mut journal = Journal::new(settings.journal);
        if let Some(disk) = &settings.disk {
            former::take_up(&mut journal, disk.former(settings.journal), &core);
        }
        let attributions = Arc::new(RwLock::new(Arc::new(Attributions::of(&core))));
        let service = Self {
            attributed: Cell::new(core.holders_changed()),
            left: Cell::new(u64::MAX),
            absent: RefCell::default(),
            core: Arc::new(Mutex::new(core)),
            journal: Arc::new(Mutex::new(journal)),
            attributions,
            events: RefCell::new(Events::new(EVENTS, settings.events)),
            followers: broadcast::channel(FOLLOWED).0,
            policies: settings.policies,
            warnings: settings.warnings,
            started: now(),
            calls: Cell::new(0),
            peers: RefCell::default(),
            kept: RefCell::default(),
            budget: budget::Budget::new(settings.connections),
            resume_within: settings.resume_within,
            holders,
            blocked: Arc::new(Notify::new()),
        };
        if let Some(source) = source {
            let reader = Reader {
                source,
                journal: service.journal.clone(),
                attributions: service.attributions.clone(),
                core: service.core.clone(),
                seen: Box::new(Teller { followers: service.followers.clone(), last: 0, told: 0 }),
                disk: settings.disk,
            };
            let (core, blocked) = (service.core.clone(), service.blocked.clone());
            let read = move || {
                if let Err(why) = reader.run() {
                    let why = format!("violations can no longer be read: {why}");
                    core.lock().unwrap_or_else(PoisonError::into_inner).enter_safe_state(why);
                    blocked.notify_one();
                }
            };
            let spawned = std::thread::Builder::new().name("violations".into()).spawn(read);
            if let Err(error) = spawned {
                service.core().enter_safe_state(format!("no thread for violations: {error}"));
            }
        }
        service
    }

    fn session(&self, peer: Peer) -> Session {
        Session {
            peer,
            policy: self.policies.of(&peer),
            operator: self.policies.is_operator(&peer),
            client: None,
        }
    }

    /// The connection's number in the core; those that only look need none.
    fn client(&self, session: &mut Session) -> Result<ClientId, Refusal> {
        if let Some(client) = session.client {
            return Ok(client);
        }
        let identity = resume::identity(&session.peer);
        let client = self.core().connect_as(session.policy.clone(), identity)?;
        session.client = Some(client);
        self.peers.borrow_mut().insert(client, session.peer);
        Ok(client)
    }

    fn introduce(&self, session: &mut Session, name: &str) -> Result<(), Refusal> {
        if session.client.is_some() {
            let what = "your name".into();
            return Err(Refusal::InUse {
                what,
                by: "what you already asked for; introduce yourself first".into(),
            });
        }
        let refused = || Refusal::NotPermitted {
            client: session.policy.name.clone(),
            what: format!("be {name}"),
            why: "no configuration of that name fits your user".into(),
        };
        session.policy = self.policies.named(&session.peer, name).ok_or_else(refused)?;
        Ok(())
    }

    /// Releases what a connection's client had.
    fn goodbye(&self, session: &Session) {
        if let Some(client) = session.client {
            self.core().disconnect(client);
            self.peers.borrow_mut().remove(&client);
            self.publish();
        }
    }

    /// Makes known what the core did since the last call.
    fn publish(&self) {
        let (events, changed, kept, attributions) = {
            let mut core = self.core();
            core.tidy_ledger();
            let changed = core.holders_changed();
            let kept = core.kept_changed();
            let attributions = (changed != self.attributed.get()).then(|| Attributions::of(&core));
            if attributions.is_some() || self.left.get() == u64::MAX {
                systemd::status(&core);
                self.holders.write(&core);
            }
            (core.take_events(), changed, kept, attributions)
        };
        if self.left.replace(kept) != kept {
            systemd::keep(self);
        }
        if let Some(attributions) = attributions {
            *self.attributions.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(attributions);
            self.attributed.set(changed);
        }
        let time = now();
        let follow = self.followers.receiver_count() > 0;
        let mut kept = self.events.borrow_mut();
        for event in events {
            log(&event);
            if matches!(event, Event::SafeState(_)) {
                self.blocked.notify_one();
            }
            // Of grants there are too many to keep each.
            let keep = !matches!(event, Event::Granted { .. } | Event::Revoked { .. });
            if !keep && !follow {
                continue;
            }
            let mut event = message::event(time, &event);
            if keep {
                kept.push(&mut event);
            }
            if follow {
                let client = event.client.as_deref().map(Into::into);
                let public = is_public(&event);
                let said = Arc::new(api::Followed { event: Some(event), ..api::Followed::default() });
                let _ = self.followers.send(Told { said, client, public });
            }
        }
        kept.flush();
    }
}

/// Who has what is the client's own affair; that a device comes or goes is everyone's.
fn is_public(event: &api::Event) -> bool {
    matches!(event.kind.as_str(), "appeared" | "disappeared" | "safe-state")
}

/// To the journal of the system, with its fields.
fn log(event: &Event) {
    match event {
        Event::ClientCame { client, name } => tracing::info!(CLIENT = name, ID = client.0, "client came"),
        Event::ClientLeft { client, name } => tracing::info!(CLIENT = name, ID = client.0, "client left"),
        Event::Claimed { client, devices } => {
            tracing::info!(CLIENT = client, DEVICES = devices.join(" "), "claimed");
        }
        Event::Released { client, devices } => {
            tracing::info!(CLIENT = client, DEVICES = devices.join(" "), "released");
        }
        Event::Interrupts { client, device, vectors } => {
            tracing::info!(CLIENT = client, DEVICES = device, VECTORS = vectors, "interrupts");
        }
        Event::Attached { client, space, devices } => {
            tracing::info!(CLIENT = client, SPACE = space, DEVICES = devices.join(" "), "attached");
        }
        Event::Detached { client, space, devices } => {
            tracing::info!(CLIENT = client, SPACE = space, DEVICES = devices.join(" "), "detached");
        }
        Event::Granted { client, space, mappings, bytes } => {
            tracing::debug!(CLIENT = client, SPACE = space, MAPPINGS = mappings, BYTES = bytes, "granted");
        }
        Event::Revoked { client, space, mappings, bytes } => {
            tracing::debug!(CLIENT = client, SPACE = space, MAPPINGS = mappings, BYTES = bytes, "revoked");
        }
        Event::Appeared { device } => tracing::info!(DEVICES = device, "device appeared, blocked"),
        Event::Disappeared { device, .. } => tracing::warn!(DEVICES = device, "device disappeared"),
        Event::Warning(text) => tracing::warn!("{text}"),
        Event::SafeState(why) => tracing::error!("everything is blocked: {why}"),
    }
}

/// Tells those who follow of violations, and the system's journal of some.
struct Teller {
    followers: broadcast::Sender<Told>,
    /// Second in which the last was logged, and how many were in it.
    last: u64,
    told: u32,
}

/// Violations a second that go to the system's journal; all are in ours.
const LOGGED: u32 = 10;

impl Seen for Teller {
    fn seen(&mut self, records: &[Record], more: u64) {
        let second = now() / 1_000_000_000;
        if second != self.last {
            (self.last, self.told) = (second, 0);
        }
        let follow = self.followers.receiver_count() > 0;
        for record in records {
            if self.told >= LOGGED && !follow {
                break;
            }
            let fault = fault_message(record);
            if self.told < LOGGED {
                self.told += 1;
                tracing::warn!(
                    DEVICES = fault.devices.join(" "),
                    CLIENT = fault.client.as_deref().unwrap_or(""),
                    ADDRESS = format!("{:#x}", fault.address),
                    ACCESS = fault.access.to_string(),
                    REASON = fault.reason,
                    REQUESTER = fault.requester,
                    "refused"
                );
            }
            if follow {
                let client = fault.client.as_deref().map(Into::into);
                let said = Arc::new(api::Followed { fault: Some(fault), ..api::Followed::default() });
                let _ = self.followers.send(Told { said, client, public: false });
            }
        }
        if more != 0 && follow {
            let said = Arc::new(api::Followed { missed: Some(more), ..api::Followed::default() });
            let _ = self.followers.send(Told { said, client: None, public: false });
        }
    }
}
