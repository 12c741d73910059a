//! The socket, and the loop that accepts.

use std::{
    io,
    os::fd::OwnedFd,
    os::unix::{
        fs::{DirBuilderExt, PermissionsExt},
        net::UnixListener as StdListener,
    },
    path::{Path, PathBuf},
    rc::Rc,
    sync::mpsc,
    thread,
    time::Duration,
};

use tokio::{
    io::unix::AsyncFd,
    net::UnixListener,
    signal::unix::{SignalKind, signal},
};

use super::{Inherited, Peer, Service, Settings, calls::Failure, connection, systemd, watch::watch};
use crate::core::Core;

/// Why the service ended, other than being told to.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// Someone else already listens.
    #[error("another service listens at {0}")]
    Running(PathBuf),
    /// The socket cannot be made.
    #[error("cannot listen at {path}: {source}")]
    Socket {
        /// Where.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The system refused something else.
    #[error("{what}: {source}")]
    System {
        /// What.
        what: &'static str,
        /// Its answer.
        source: io::Error,
    },
    /// Everything is blocked.
    #[error("everything that was granted is blocked: {0}")]
    SafeState(String),
}

/// Serves until told to end by a signal, or until everything had to be blocked. `ready` is called when clients can connect.
///
/// # Errors
///
/// Why it ended.
pub fn serve(
    mut core: Core,
    settings: Settings,
    mut inherited: Inherited,
    ready: impl FnOnce(&Path) -> io::Result<()>,
) -> Result<(), Ended> {
    let system = |what| move |source| Ended::System { what, source };
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(system("cannot start"))?;
    let path = settings.socket.clone();
    let own = inherited.socket.is_none();
    let listener = match inherited.socket.take() {
        Some(listener) => listener,
        None => bind(&path, settings.socket_mode)?,
    };
    listener.set_nonblocking(true).map_err(system("cannot listen"))?;
    let ended = tokio::task::LocalSet::new().block_on(&runtime, async {
        let listener = UnixListener::from_std(listener).map_err(system("cannot listen"))?;
        let metrics = inherited.metrics.take();
        let kept = std::mem::take(&mut inherited.kept);
        let restored = super::resume::take_up(&mut core, &settings.policies, kept);
        let service = Rc::new(Service::new(core, settings));
        if let Some(metrics) = metrics {
            let metrics =
                tokio::net::TcpListener::from_std(metrics).map_err(system("cannot serve metrics"))?;
            tokio::task::spawn_local(super::metrics::serve(service.clone(), metrics));
        }
        systemd::remember(&service, &mut inherited);
        service.publish();
        super::resume::wait_for(&service, restored);
        ready(&path).map_err(system("cannot finish starting"))?;
        service.publish();
        systemd::ready();
        let ended = accept(&service, &listener).await;
        systemd::stopping();
        ended
    });
    if own {
        // Whoever comes now is told that nobody listens rather than left waiting.
        let _ = std::fs::remove_file(&path);
    }
    // Threads that wait in the kernel for violations end with the process.
    runtime.shutdown_background();
    ended
}

/// Serves on a thread of its own, which ends with the process, and returns once clients can connect.
///
/// # Errors
///
/// Why it ended before that.
pub fn start(core: Core, settings: Settings, inherited: Inherited) -> Result<(), Ended> {
    let (ready, is_ready) = mpsc::channel();
    let run = move || {
        serve(core, settings, inherited, move |_| {
            // Whoever starts it waits for nothing else.
            let _ = ready.send(());
            Ok(())
        })
    };
    let thread = thread::Builder::new().name("service".into()).spawn(run);
    let thread = thread.map_err(|source| Ended::System { what: "cannot start", source })?;
    match is_ready.recv() {
        Ok(()) => Ok(()),
        Err(mpsc::RecvError) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
    }
}

/// Every connection and memory takes a descriptor; as many as the system lets us have.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of descriptors stays as it is");
    }
}

async fn accept(service: &Rc<Service>, listener: &UnixListener) -> Result<(), Ended> {
    let system = |what| move |source| Ended::System { what, source };
    let mut terminate = signal(SignalKind::terminate()).map_err(system("cannot wait for signals"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(system("cannot wait for signals"))?;
    let mut watchdog = systemd::watchdog();
    let signal = service.core().change_signal();
    let changes = signal.map(watch).transpose().map_err(system("cannot wait for changes"))?;
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => greet(service, stream),
                Err(error) => {
                    // Out of descriptors or memory: those who are connected are served on.
                    tracing::warn!(%error, "cannot accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            () = service.blocked.notified() => {
                service.publish();
                let why = service.core().safe_state().unwrap_or("unknown").to_owned();
                // Those who follow are told before they are left.
                tokio::time::sleep(Duration::from_millis(200)).await;
                return Err(Ended::SafeState(why));
            }
            () = readable(changes.as_ref()) => {
                service.core().take_changes();
                service.publish();
            }
            () = watchdog.due() => {
                // Alive is who can still reach the core.
                service.core().take_changes();
                service.publish();
                watchdog.alive();
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    tracing::info!("ending: everything is released");
    let clients: Vec<_> = service.peers.borrow().keys().copied().collect();
    for client in clients {
        service.core().disconnect(client);
    }
    service.publish();
    service.holders.forget();
    match service.core().safe_state() {
        Some(why) => Err(Ended::SafeState(why.to_owned())),
        None => Ok(()),
    }
}

/// Waits until a descriptor can be read; where there is none, for ever.
async fn readable(descriptor: Option<&AsyncFd<OwnedFd>>) {
    match descriptor {
        Some(descriptor) => match descriptor.readable().await {
            // Cleared before it is read, so that nothing is missed that comes meanwhile.
            Ok(mut guard) => guard.clear_ready(),
            Err(_) => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

fn greet(service: &Rc<Service>, stream: tokio::net::UnixStream) {
    let Ok(credentials) = stream.peer_cred() else { return };
    let peer = Peer { pid: credentials.pid().unwrap_or(0), uid: credentials.uid(), gid: credentials.gid() };
    let Some(place) = service.budget.place(peer.uid) else {
        let why = format!("user {} has too many connections", peer.uid);
        tracing::warn!(PEER_PID = peer.pid, "refused a connection: {why}");
        connection::last_words(&stream, &Failure::Limit(why));
        return;
    };
    let session = service.session(peer);
    let service = service.clone();
    tokio::task::spawn_local(async move {
        connection::serve(service, stream, session).await;
        drop(place);
    });
}

fn bind(path: &Path, mode: u32) -> Result<StdListener, Ended> {
    let fail = |source| Ended::Socket { path: path.into(), source };
    if let Some(directory) = path.parent()
        && !directory.as_os_str().is_empty()
        && !directory.exists()
    {
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(fail)?;
    }
    if path.exists() {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(Ended::Running(path.into()));
        }
        std::fs::remove_file(path).map_err(fail)?;
    }
    let listener = StdListener::bind(path).map_err(fail)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(fail)?;
    Ok(listener)
}
