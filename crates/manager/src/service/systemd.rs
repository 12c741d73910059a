//! What systemd passes and is told: the socket, readiness, the watchdog, descriptors that outlive the process.
//!
//! Without systemd all of it does nothing.
#![allow(unsafe_code)]

use std::{
    collections::BTreeMap,
    os::{
        fd::{AsFd, FromRawFd, OwnedFd},
        unix::net::UnixListener,
    },
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sd_notify::NotifyState;

use super::Service;
use crate::core::Kept;

/// Name of the socket in a unit file's `FileDescriptorName=`, and what systemd calls it without one.
const SOCKET_NAMES: [&str; 2] = ["varlink", "portcullis.socket"];

/// What an earlier process or systemd left for this one.
#[derive(Debug, Default)]
pub struct Inherited {
    /// The socket to listen on.
    pub socket: Option<UnixListener>,
    /// Descriptors that a former process kept.
    pub kept: Kept,
    /// Where the metrics page is served, opened while the process still may.
    pub metrics: Option<std::net::TcpListener>,
    /// Those descriptors by name, which systemd has until it is told to forget them.
    names: BTreeMap<String, File>,
}

/// What tells descriptors of one name apart: the file that they lead to.
pub(super) type File = Option<(u64, u64)>;

fn file(descriptor: impl AsFd) -> File {
    rustix::fs::fstat(descriptor).ok().map(|stat| (stat.st_dev, stat.st_ino))
}

impl Inherited {
    /// Opens the metrics page, on loopback.
    ///
    /// # Errors
    ///
    /// The address is not on loopback, or is taken.
    pub fn open_metrics(&mut self, address: std::net::SocketAddr) -> std::io::Result<()> {
        self.metrics = Some(super::metrics::bind(address)?);
        Ok(())
    }

    /// Takes what was passed to this process. To be called once, before anything else opens descriptors by number.
    #[must_use]
    pub fn take() -> Self {
        let mut inherited = Self::default();
        let Ok(descriptors) = sd_notify::listen_fds_with_names() else { return inherited };
        let mut kept = Vec::new();
        for (raw, name) in descriptors {
            // SAFETY: systemd passed this descriptor to this process alone (`listen_fds` compared the process number), and
            // nobody else takes it: this runs once, at start.
            let descriptor = unsafe { OwnedFd::from_raw_fd(raw) };
            if SOCKET_NAMES.contains(&name.as_str()) || name == "unknown" {
                inherited.socket.get_or_insert_with(|| descriptor.into());
            } else {
                inherited.names.insert(name.clone(), file(&descriptor));
                kept.push((name, descriptor));
            }
        }
        inherited.kept = Kept::sort(kept);
        inherited
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd was not told");
    }
}

pub(super) fn ready() {
    tell(&[NotifyState::Ready, NotifyState::MainPid(std::process::id())]);
}

/// What a person reads in `systemctl status`.
pub(super) fn status(core: &crate::core::Core) {
    if !keeps() {
        return;
    }
    let devices = core.devices().count();
    let claimed = core.devices().filter(|view| view.holder.is_some()).count();
    let text = match core.safe_state() {
        Some(why) => format!("Everything is blocked: {why}"),
        None => format!("Guarding {devices} devices, {claimed} of them claimed"),
    };
    tell(&[NotifyState::Status(&text)]);
}

pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// What systemd has for us from an earlier process.
pub(super) fn remember(service: &Service, inherited: &mut Inherited) {
    *service.kept.borrow_mut() = std::mem::take(&mut inherited.names);
}

/// Whether there is anyone to leave descriptors with.
pub(super) fn keeps() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// Leaves with systemd what must outlive a crash for devices to stay as they are, and takes back what is not needed any more: a
/// group of VFIO's that somebody keeps open cannot be claimed again.
///
/// Returns once systemd has all of it: until then a crash could lose what a client was told it has.
pub(super) fn keep(service: &Service) {
    if !keeps() {
        return;
    }
    let mut kept = service.kept.borrow_mut();
    let core = service.core();
    let before = kept.clone();
    let now = core.kept();
    let mut gone = std::mem::take(&mut *kept);
    for (name, descriptor) in now {
        let leads_to = file(descriptor);
        let before = gone.remove(&name);
        if before.is_some_and(|before| before != leads_to) {
            tell(&[NotifyState::FdStoreRemove, NotifyState::FdName(&name)]);
        }
        if before != Some(leads_to) {
            let states = [NotifyState::FdStore, NotifyState::FdName(&name)];
            if let Err(error) = sd_notify::notify_with_fds(&states, &[descriptor]) {
                tracing::warn!(%error, name, "not kept over a restart");
            }
        }
        kept.insert(name, leads_to);
    }
    for name in gone.into_keys() {
        tell(&[NotifyState::FdStoreRemove, NotifyState::FdName(&name)]);
    }
    if *kept != before
        && let Err(error) = wait_until_taken()
    {
        tracing::debug!(%error, "systemd does not say that it has what was left with it");
    }
}

/// Waits until everything that was sent before has been received (sd_notify_barrier(3)): the descriptor is closed then.
fn wait_until_taken() -> std::io::Result<()> {
    let (ours, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    sd_notify::notify_with_fds(&[NotifyState::Custom("BARRIER=1")], &[theirs.as_fd()])?;
    drop(theirs);
    let patience = Timespec { tv_sec: 5, tv_nsec: 0 };
    match poll(&mut [PollFd::new(&ours, PollFlags::empty())], Some(&patience))? {
        0 => Err(std::io::ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}

/// The watchdog's clock; never due where nobody watches and the back end has nothing to report by itself.
pub(super) struct Watchdog(Option<tokio::time::Interval>);

pub(super) fn watchdog() -> Watchdog {
    // Half the time, as sd_watchdog_enabled(3) says.
    Watchdog(
        sd_notify::watchdog_enabled()
            .map(|time| tokio::time::interval((time / 2).max(Duration::from_millis(1)))),
    )
}

impl Watchdog {
    pub(super) async fn due(&mut self) {
        match &mut self.0 {
            Some(interval) => _ = interval.tick().await,
            None => std::future::pending().await,
        }
    }

    pub(super) fn alive(&self) {
        tell(&[NotifyState::Watchdog]);
    }
}
