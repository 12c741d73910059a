//! Records that wait to be fetched, and the event that tells of them.

use std::{
    collections::VecDeque,
    net::Shutdown,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use portcullis_client::{
    Client,
    api::{Fault, ListFaults},
};
use rustix::event::{EventfdFlags, eventfd};

use crate::{connection::connect, failure::Failure};

/// Records that one call to the service asks for.
const BATCH: u64 = 64;

/// What was refused to this client's devices, from some moment on.
pub(crate) struct Faults {
    socket: Option<PathBuf>,
    name: Option<String>,
    which: ListFaults,
    waiting: VecDeque<Fault>,
    /// Refusals without a record: as the service counts them, and as far as the caller was told.
    lost: u64,
    told: u64,
    follower: Option<Follower>,
    /// When the newest that was fetched happened.
    fetched: u64,
}

/// Tells of refusals through an event.
struct Follower {
    event: Arc<OwnedFd>,
    /// Closing it ends the thread that reads it.
    stream: UnixStream,
}

impl Drop for Follower {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

impl Faults {
    pub(crate) fn from_now(
        client: &mut Client,
        socket: Option<PathBuf>,
        name: Option<String>,
    ) -> Result<Self, Failure> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut which = ListFaults {
            client: Some(client.status()?.you),
            since: Some(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)),
            limit: Some(0),
            ..ListFaults::default()
        };
        let lost = client.faults(&which)?.lost;
        which.limit = Some(BATCH);
        Ok(Self {
            socket,
            name,
            which,
            waiting: VecDeque::new(),
            lost,
            told: lost,
            follower: None,
            fetched: 0,
        })
    }

    /// The next record, and how many were lost since the last.
    pub(crate) fn next(&mut self, client: &mut Client) -> Result<Option<(Fault, u64)>, Failure> {
        if self.waiting.is_empty() {
            let found = client.faults(&self.which)?;
            if let Some(last) = found.faults.last() {
                self.which.after = Some(last.number);
                self.fetched = last.time;
            }
            self.lost = found.lost;
            self.waiting = found.faults.into();
        }
        Ok(self.waiting.pop_front().map(|fault| {
            let lost = self.lost.saturating_sub(self.told);
            self.told = self.lost;
            (fault, lost)
        }))
    }

    /// Another process of the service answers from now on: its numbers and counts are its own.
    pub(crate) fn go_on(&mut self, client: &mut Client) -> Result<(), Failure> {
        if self.fetched != 0 {
            self.which.since = Some(self.fetched + 1);
        }
        self.which.after = None;
        let probe = ListFaults { limit: Some(0), ..self.which.clone() };
        self.lost = client.faults(&probe)?.lost;
        self.told = self.lost;
        if let Some(former) = self.follower.take() {
            self.follower = Some(self.follow(former.event.clone())?);
        }
        Ok(())
    }

    /// An event that is raised at every refusal, and when the service ends.
    pub(crate) fn event(&mut self) -> Result<OwnedFd, Failure> {
        if self.follower.is_none() {
            let event = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
            self.follower = Some(self.follow(event)?);
        }
        let event = self.follower.as_ref().map(|follower| follower.event.as_fd().try_clone_to_owned());
        event.unwrap_or_else(|| Err(rustix::io::Errno::IO.into())).map_err(Failure::from)
    }

    fn follow(&self, event: Arc<OwnedFd>) -> Result<Follower, Failure> {
        let client = connect(self.socket.as_deref(), self.name.as_deref())?;
        let stream = UnixStream::from(client.as_fd().try_clone_to_owned()?);
        // Before the thread runs: from here on nothing is missed.
        let followed = client.follow(false, true)?;
        let raised = event.clone();
        let tell = move || {
            for one in followed {
                // A full counter is raised already.
                let _ = rustix::io::write(&*raised, &1u64.to_ne_bytes());
                if one.is_err() {
                    break;
                }
            }
            let _ = rustix::io::write(&*raised, &1u64.to_ne_bytes());
        };
        std::thread::Builder::new().name("portcullis faults".into()).spawn(tell)?;
        Ok(Follower { event, stream })
    }
}
