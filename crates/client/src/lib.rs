//! A client of the Portcullis manager: small and blocking.
//!
//! ```no_run
//! use portcullis_client::{Client, api::{Access, MapRequest}, device::SharedMemory};
//!
//! let mut client = Client::connect(None)?;
//! let devices = client.claim("nic0")?;
//! let space = client.create_space()?;
//! client.attach(space, "nic0", None)?;
//! let memory = client.add_memory(&SharedMemory::new("ring", 1 << 20)?)?;
//! let asked = MapRequest { offset: 0, iova: None, length: 1 << 20, access: Access::READ_WRITE };
//! let granted = client.map(space, Some(memory.memory), vec![asked])?;
//! println!("{} reaches the ring at {:#x}", devices[0].0, granted[0].iova);
//! # Ok::<(), portcullis_client::Error>(())
//! ```
//!
//! Whatever a client has ends with its connection: its devices are stopped, cut off and reset.
#![deny(unsafe_code)]

pub mod api;
pub mod device;
pub mod frame;

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use api::{
    Allow, Attach, Attached, Claimed, ClientInfo, Clients, Device, Devices, Event, Events, Faults, Follow,
    Followed, Granted, Grants, Group, Groups, INTERFACE, Introduce, ListEvents, ListFaults, ListGrants,
    MESSAGE_LIMIT, Map, MapReply, MapRequest, Memory, MemoryNumber, Named, Names, Nothing, Range, Region,
    Regions, Release, Removed, Resume, Resumed, Revoke, Selection, SpaceNumber, Statistics, Status, Unit,
    Units, Unmap,
};
use frame::{FrameError, Frames};

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens there.
    #[error("the service is not running (nothing listens at {path}); start it with `portcullis run`")]
    NotRunning {
        /// Where it was looked for.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The socket's permissions leave us out.
    #[error("you may not connect to {path}: its group and mode say who may")]
    Forbidden {
        /// Where the service listens.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The service said no.
    #[error("{message}")]
    Refused {
        /// Name of the error without its interface: `Held`, `NotPermitted`, …
        name: String,
        /// Why, in words.
        message: String,
    },
    /// The answer makes no sense.
    #[error("the service answered {0}")]
    Protocol(String),
    /// The connection ended.
    #[error("the connection to the service ended")]
    Closed,
    /// The system's.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Error {
    /// Name of the refusal, if it is one.
    #[must_use]
    pub fn refusal(&self) -> Option<&str> {
        match self {
            Self::Refused { name, .. } => Some(name),
            _ => None,
        }
    }
}

impl From<FrameError> for Error {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Closed => Self::Closed,
            FrameError::Io(error) => Self::Io(error),
            other => Self::Protocol(other.to_string()),
        }
    }
}

#[derive(Serialize)]
struct Call<'a, P> {
    method: &'a str,
    parameters: &'a P,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    more: bool,
}

#[derive(Deserialize)]
struct Reply<'a> {
    error: Option<String>,
    #[serde(borrow)]
    parameters: Option<&'a serde_json::value::RawValue>,
    #[serde(default)]
    continues: bool,
}

#[derive(Deserialize, Default)]
struct Why {
    #[serde(default)]
    message: String,
    /// Of the errors that every varlink service has.
    parameter: Option<String>,
    method: Option<String>,
}

/// One answer, with whether more follow and its descriptors.
type Answer<R> = (R, bool, Vec<OwnedFd>);

/// A connection to the service.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    frames: Frames,
    out: Vec<u8>,
}

impl Client {
    /// Connects to the service at `socket`, or where `PORTCULLIS_SOCKET` says, or at the usual place.
    ///
    /// # Errors
    ///
    /// [`Error::NotRunning`], [`Error::Forbidden`].
    pub fn connect(socket: Option<&Path>) -> Result<Self, Error> {
        let path = socket_path(socket);
        match UnixStream::connect(&path) {
            Ok(stream) => Ok(Self::over(stream)),
            Err(source) if source.kind() == io::ErrorKind::PermissionDenied => {
                Err(Error::Forbidden { path, source })
            }
            Err(source) => Err(Error::NotRunning { path, source }),
        }
    }

    /// A client over a socket that is connected already.
    #[must_use]
    pub fn over(stream: UnixStream) -> Self {
        Self { stream, frames: Frames::default(), out: Vec::new() }
    }

    /// How long to wait for an answer; without a time for ever.
    ///
    /// # Errors
    ///
    /// The system's; a time of zero.
    pub fn set_timeout(&mut self, timeout: Option<Duration>) -> Result<(), Error> {
        Ok(self.stream.set_read_timeout(timeout)?)
    }

    /// Sends a call without waiting for its answer; answers come in the order of calls.
    ///
    /// # Errors
    ///
    /// The connection's.
    pub fn send<P: Serialize>(
        &mut self,
        method: &str,
        parameters: &P,
        more: bool,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), Error> {
        let mut name = String::with_capacity(INTERFACE.len() + 1 + method.len());
        if !method.contains('.') {
            name.push_str(INTERFACE);
            name.push('.');
        }
        name.push_str(method);
        self.out.clear();
        serde_json::to_writer(&mut self.out, &Call { method: &name, parameters, more })
            .map_err(io::Error::from)?;
        self.out.push(0);
        let mut sent = 0;
        while sent < self.out.len() {
            let beside = if sent == 0 { descriptors } else { &[] };
            match frame::send(&self.stream, &self.out[sent..], beside) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Waits for the next answer.
    ///
    /// # Errors
    ///
    /// The service's refusal, or the connection's end.
    pub fn receive<R: DeserializeOwned>(&mut self) -> Result<Answer<R>, Error> {
        // Replies may be longer than requests: lists are not cut.
        const LIMIT: usize = 16 * MESSAGE_LIMIT;
        let garbled = |error: serde_json::Error| Error::Protocol(error.to_string());
        loop {
            if let Some((message, descriptors)) = self.frames.next_message() {
                let reply: Reply<'_> = serde_json::from_slice(message).map_err(garbled)?;
                let parameters = reply.parameters.map_or("{}", serde_json::value::RawValue::get);
                if let Some(error) = reply.error {
                    let why: Why = serde_json::from_str(parameters).unwrap_or_default();
                    let name = error.rsplit('.').next().unwrap_or_default().to_owned();
                    let message = match (why.parameter, why.method) {
                        (Some(parameter), _) => format!("{name}: {parameter}"),
                        (_, Some(method)) => format!("{name}: {method}"),
                        _ if why.message.is_empty() => name.clone(),
                        _ => why.message,
                    };
                    return Err(Error::Refused { name, message });
                }
                let parameters = serde_json::from_str(parameters).map_err(garbled)?;
                return Ok((parameters, reply.continues, descriptors));
            }
            match self.frames.read(&self.stream, LIMIT) {
                Err(FrameError::Io(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
                Ok(_) => {}
            }
        }
    }

    /// Calls a method and waits for its answer.
    ///
    /// # Errors
    ///
    /// The service's refusal, or the connection's end.
    pub fn call<P: Serialize, R: DeserializeOwned>(
        &mut self,
        method: &str,
        parameters: &P,
    ) -> Result<R, Error> {
        self.send(method, parameters, false, &[])?;
        Ok(self.receive()?.0)
    }

    /// What runs.
    ///
    /// # Errors
    ///
    /// As [`Client::call`]; so have all below.
    pub fn status(&mut self) -> Result<Status, Error> {
        self.call("GetStatus", &Nothing {})
    }

    /// All units.
    #[allow(clippy::missing_errors_doc)]
    pub fn units(&mut self) -> Result<Vec<Unit>, Error> {
        Ok(self.call::<_, Units>("ListUnits", &Nothing {})?.units)
    }

    /// The devices that `device` means, or all.
    #[allow(clippy::missing_errors_doc)]
    pub fn devices(&mut self, device: Option<&str>) -> Result<Vec<Device>, Error> {
        Ok(self.call::<_, Devices>("ListDevices", &Selection { device: device.map(Into::into) })?.devices)
    }

    /// All groups.
    #[allow(clippy::missing_errors_doc)]
    pub fn groups(&mut self) -> Result<Vec<Group>, Error> {
        Ok(self.call::<_, Groups>("ListGroups", &Nothing {})?.groups)
    }

    /// All clients.
    #[allow(clippy::missing_errors_doc)]
    pub fn clients(&mut self) -> Result<Vec<ClientInfo>, Error> {
        Ok(self.call::<_, Clients>("ListClients", &Nothing {})?.clients)
    }

    /// Some grants, and where to go on.
    #[allow(clippy::missing_errors_doc)]
    pub fn grants(&mut self, which: &ListGrants) -> Result<Grants, Error> {
        self.call("ListGrants", which)
    }

    /// Addresses that devices cannot use.
    #[allow(clippy::missing_errors_doc)]
    pub fn reserved(&mut self, device: &str) -> Result<Vec<Region>, Error> {
        Ok(self.call::<_, Regions>("ListReserved", &Named { device: device.into() })?.regions)
    }

    /// Acts under the configuration of that name, if it fits; before anything else.
    #[allow(clippy::missing_errors_doc)]
    pub fn introduce(&mut self, client: &str) -> Result<(), Error> {
        self.call("Introduce", &Introduce { client: client.into() }).map(|Nothing {}| ())
    }

    /// After a crash of the service: has back, over this new connection, what this process had; before anything else. Of several
    /// clients that the process was, the one of that number.
    #[allow(clippy::missing_errors_doc)]
    pub fn resume(&mut self, client: Option<u64>) -> Result<Resumed, Error> {
        self.call("Resume", &Resume { client })
    }

    /// Has devices, with everything in their groups; each with its descriptor where it has one.
    #[allow(clippy::missing_errors_doc)]
    pub fn claim(&mut self, device: &str) -> Result<Vec<(String, Option<OwnedFd>)>, Error> {
        self.claimed("Claim", device)
    }

    /// Stops devices that the client has, cuts them off from all spaces and resets them; they stay the client's. Their new
    /// descriptors replace those that [`Client::claim`] gave.
    #[allow(clippy::missing_errors_doc)]
    pub fn quiesce(&mut self, device: &str) -> Result<Vec<(String, Option<OwnedFd>)>, Error> {
        self.claimed("Quiesce", device)
    }

    /// Has the interrupts of a device that the client has signal these event descriptors (eventfd(2), nonblocking), the first for
    /// vector 0, in place of those before; with none they reach nobody. At most [`api::DESCRIPTOR_LIMIT`].
    #[allow(clippy::missing_errors_doc)]
    pub fn set_interrupts(&mut self, device: &str, events: &[BorrowedFd<'_>]) -> Result<(), Error> {
        self.send("SetInterrupts", &Named { device: device.into() }, false, events)?;
        let (api::Vectors { .. }, ..): Answer<api::Vectors> = self.receive()?;
        Ok(())
    }

    fn claimed(&mut self, method: &str, device: &str) -> Result<Vec<(String, Option<OwnedFd>)>, Error> {
        self.send(method, &Named { device: device.into() }, false, &[])?;
        let (claimed, _, descriptors): Answer<Claimed> = self.receive()?;
        let mut descriptors: Vec<Option<OwnedFd>> = descriptors.into_iter().map(Some).collect();
        let mut take = |index: u64| descriptors.get_mut(usize::try_from(index).ok()?)?.take();
        Ok(claimed.devices.into_iter().map(|d| (d.name, d.descriptor.and_then(&mut take))).collect())
    }

    /// Gives devices back; with `force` an operator takes them from whoever has them.
    #[allow(clippy::missing_errors_doc)]
    pub fn release(&mut self, device: &str, force: bool) -> Result<Vec<String>, Error> {
        let release = Release { device: device.into(), force: force.then_some(true) };
        Ok(self.call::<_, Names>("Release", &release)?.devices)
    }

    /// Makes an empty space.
    #[allow(clippy::missing_errors_doc)]
    pub fn create_space(&mut self) -> Result<u64, Error> {
        Ok(self.call::<_, SpaceNumber>("CreateSpace", &Nothing {})?.space)
    }

    /// Removes a space and its grants.
    #[allow(clippy::missing_errors_doc)]
    pub fn destroy_space(&mut self, space: u64) -> Result<(), Error> {
        self.call("DestroySpace", &SpaceNumber { space }).map(|Nothing {}| ())
    }

    /// Lets devices reach what a space maps.
    #[allow(clippy::missing_errors_doc)]
    pub fn attach(&mut self, space: u64, device: &str, pasid: Option<u32>) -> Result<Attached, Error> {
        self.call("Attach", &Attach { space, device: device.into(), pasid })
    }

    /// Takes a space away from devices.
    #[allow(clippy::missing_errors_doc)]
    pub fn detach(&mut self, space: u64, device: &str, pasid: Option<u32>) -> Result<Vec<String>, Error> {
        Ok(self.call::<_, Names>("Detach", &Attach { space, device: device.into(), pasid })?.devices)
    }

    /// Registers a memfd. The service seals it against shrinking.
    #[allow(clippy::missing_errors_doc)]
    pub fn add_memory(&mut self, memfd: impl AsFd) -> Result<Memory, Error> {
        self.send("AddMemory", &Nothing {}, false, &[memfd.as_fd()])?;
        Ok(self.receive()?.0)
    }

    /// Forgets memory that no grant leads to.
    #[allow(clippy::missing_errors_doc)]
    pub fn remove_memory(&mut self, memory: u64) -> Result<(), Error> {
        self.call("RemoveMemory", &MemoryNumber { memory }).map(|Nothing {}| ())
    }

    /// Grants ranges of a memory, or of physical addresses where `memory` is `None`; all or none.
    #[allow(clippy::missing_errors_doc)]
    pub fn map(
        &mut self,
        space: u64,
        memory: Option<u64>,
        mappings: Vec<MapRequest>,
    ) -> Result<Vec<Granted>, Error> {
        Ok(self.call::<_, MapReply>("Map", &Map { space, memory, mappings })?.granted)
    }

    /// As [`Client::map`], telling `progress` how many bytes are done while it lasts.
    #[allow(clippy::missing_errors_doc)]
    pub fn map_with_progress(
        &mut self,
        space: u64,
        memory: Option<u64>,
        mappings: Vec<MapRequest>,
        mut progress: impl FnMut(u64),
    ) -> Result<Vec<Granted>, Error> {
        self.send("Map", &Map { space, memory, mappings }, true, &[])?;
        loop {
            let (reply, continues, _): Answer<MapReply> = self.receive()?;
            if !continues {
                return Ok(reply.granted);
            }
            progress(reply.done.unwrap_or(0));
        }
    }

    /// Revokes the grants that lie in the ranges; all or none.
    #[allow(clippy::missing_errors_doc)]
    pub fn unmap(&mut self, space: u64, ranges: Vec<Range>) -> Result<Removed, Error> {
        self.call("Unmap", &Unmap { space, ranges })
    }

    /// For operators: grants physical addresses to devices that no client claims.
    #[allow(clippy::missing_errors_doc)]
    pub fn allow(&mut self, allow: &Allow) -> Result<Grants, Error> {
        self.call("Allow", allow)
    }

    /// For operators: revokes one grant.
    #[allow(clippy::missing_errors_doc)]
    pub fn revoke(&mut self, grant: u64) -> Result<Removed, Error> {
        self.call("Revoke", &Revoke { grant })
    }

    /// Refused accesses.
    #[allow(clippy::missing_errors_doc)]
    pub fn faults(&mut self, which: &ListFaults) -> Result<Faults, Error> {
        self.call("ListFaults", which)
    }

    /// What happened.
    #[allow(clippy::missing_errors_doc)]
    pub fn events(&mut self, which: &ListEvents) -> Result<Vec<Event>, Error> {
        Ok(self.call::<_, Events>("ListEvents", which)?.events)
    }

    /// Counts.
    #[allow(clippy::missing_errors_doc)]
    pub fn statistics(&mut self) -> Result<Statistics, Error> {
        self.call("GetStatistics", &Nothing {})
    }

    /// Turns the connection into a stream of what happens; it ends with the service.
    #[allow(clippy::missing_errors_doc)]
    pub fn follow(
        mut self,
        events: bool,
        faults: bool,
    ) -> Result<impl Iterator<Item = Result<Followed, Error>>, Error> {
        let which = Follow { events: Some(events), faults: Some(faults) };
        self.send("Follow", &which, true, &[])?;
        // The first reply is empty: it says that nothing is missed from now on.
        self.receive::<Followed>()?;
        let mut over = false;
        Ok(std::iter::from_fn(move || {
            if over {
                return None;
            }
            let next = match self.receive() {
                Err(Error::Closed) => None,
                Err(error) => Some(Err(error)),
                Ok((followed, continues, _)) => {
                    over = !continues;
                    return Some(Ok(followed));
                }
            };
            over = true;
            next
        }))
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Where the service is looked for: at `socket`, or where `PORTCULLIS_SOCKET` says, or where the system's is, or where the
/// user's own would be.
#[must_use]
pub fn socket_path(socket: Option<&Path>) -> PathBuf {
    if let Some(path) = socket {
        return path.into();
    }
    if let Some(path) = std::env::var_os("PORTCULLIS_SOCKET") {
        return path.into();
    }
    let system = PathBuf::from(api::SOCKET);
    if rustix::process::geteuid().is_root() || system.exists() { system } else { user_socket() }
}

/// Where the service of a user who is not root listens.
#[must_use]
pub fn user_socket() -> PathBuf {
    let directory = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(
        || std::env::temp_dir().join(format!("portcullis-{}", rustix::process::geteuid().as_raw())),
        |runtime| PathBuf::from(runtime).join("portcullis"),
    );
    directory.join(INTERFACE)
}
