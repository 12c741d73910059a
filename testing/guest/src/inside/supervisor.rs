//! What systemd does for the service: it waits until the service is ready, keeps descriptors for it, and passes them on when it
//! starts the service again (sd_notify(3), sd_listen_fds(3)).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

const NOTIFY: &str = "/run/notify";
/// What the service printed.
pub(crate) const LOG: &str = "/tmp/service.log";
/// The first descriptor that is passed on (SD_LISTEN_FDS_START).
const FIRST: i32 = 3;
/// Descriptors that can be passed on.
const MOST: usize = 64;
const PATIENCE: Duration = Duration::from_secs(60);

/// What the service said and gave.
#[derive(Default)]
struct Said {
    ready: bool,
    kept: BTreeMap<String, OwnedFd>,
}

/// Who starts the service, and keeps its descriptors.
pub(crate) trait Starter {
    /// Starts the service and waits until it is ready; what is kept is passed on to it.
    fn start(&mut self) -> Result<()>;

    /// The service's process.
    fn process(&self) -> Result<u32>;

    /// Names of the descriptors that are kept.
    fn kept(&self) -> Result<Vec<String>>;

    /// Ends the service with SIGKILL; it does not run again until it is started.
    fn kill(&mut self) -> Result<()>;

    /// Asks the service to end, and waits until it has.
    fn stop(&mut self) -> Result<()>;
}

/// The service, and what is kept for it.
pub(crate) struct Supervisor {
    said: Arc<Mutex<Said>>,
    child: Option<Child>,
    program: &'static [&'static str],
}

impl Supervisor {
    /// A supervisor that listens; nothing runs yet.
    pub(crate) fn new(program: &'static [&'static str]) -> Result<Self> {
        let _ = fs::remove_file(NOTIFY);
        let socket = UnixDatagram::bind(NOTIFY).context(NOTIFY)?;
        let said = Arc::<Mutex<Said>>::default();
        let heard = said.clone();
        thread::spawn(move || {
            while let Ok((text, descriptors)) = receive(socket.as_fd()) {
                take(&mut heard.lock().unwrap_or_else(PoisonError::into_inner), &text, descriptors);
            }
        });
        Ok(Self { said, child: None, program })
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Starter for Supervisor {
    fn start(&mut self) -> Result<()> {
        self.said().ready = false;
        let (ours, its) = UnixStream::pair()?;
        let log = File::options().create(true).append(true).open(LOG)?;
        let mut child = Command::new("/init")
            .arg("launch")
            .args(self.program)
            .env("NOTIFY_SOCKET", NOTIFY)
            // The service looks for changes of the hardware whenever it tells that it is alive.
            .env("WATCHDOG_USEC", "1000000")
            .stdin(Stdio::from(OwnedFd::from(its)))
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        {
            let said = self.said();
            let names: Vec<&str> = said.kept.keys().map(String::as_str).collect();
            let descriptors: Vec<BorrowedFd<'_>> = said.kept.values().map(OwnedFd::as_fd).collect();
            println!("the service is started with {names:?}");
            send(ours.as_fd(), &names.join(":"), &descriptors)?;
        }
        let deadline = Instant::now() + PATIENCE;
        while !self.said().ready {
            if let Some(status) = child.try_wait()? {
                bail!("the service ended: {status}\n{}", fs::read_to_string(LOG)?);
            }
            ensure!(Instant::now() < deadline, "the service is not ready\n{}", fs::read_to_string(LOG)?);
            thread::sleep(Duration::from_millis(5));
        }
        self.child = Some(child);
        Ok(())
    }

    fn process(&self) -> Result<u32> {
        Ok(self.child.as_ref().context("the service does not run")?.id())
    }

    fn kept(&self) -> Result<Vec<String>> {
        Ok(self.said().kept.keys().cloned().collect())
    }

    fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("the service does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        let mut child = self.child.take().context("the service does not run")?;
        rustix::process::kill_process(
            rustix::process::Pid::from_child(&child),
            rustix::process::Signal::TERM,
        )?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait()? {
                ensure!(status.success(), "the service ended with {status}\n{}", fs::read_to_string(LOG)?);
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the service does not end");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn take(said: &mut Said, text: &str, descriptors: Vec<OwnedFd>) {
    let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    said.ready |= value("READY") == Some("1");
    let Some(name) = value("FDNAME") else { return };
    if value("FDSTOREREMOVE") == Some("1") {
        said.kept.remove(name);
    } else if value("FDSTORE") == Some("1") {
        said.kept.extend(descriptors.into_iter().map(|descriptor| (name.to_owned(), descriptor)));
    }
}

fn send(socket: BorrowedFd<'_>, text: &str, descriptors: &[BorrowedFd<'_>]) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        ensure!(control.push(SendAncillaryMessage::ScmRights(descriptors)), "too many descriptors");
    }
    sendmsg(socket, &[IoSlice::new(format!("{text}\n").as_bytes())], &mut control, SendFlags::empty())?;
    Ok(())
}

fn receive(socket: BorrowedFd<'_>) -> Result<(String, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 4096];
    let got = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    ensure!(got.bytes != 0, "the other end is closed");
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    Ok((String::from_utf8_lossy(&bytes[..got.bytes]).trim_end().to_owned(), descriptors))
}

/// Runs in the service's process before it is the service: puts the descriptors that come through standard input where the
/// service looks for them, and becomes it.
pub(crate) fn launch(program: &[&str]) -> Result<()> {
    let (names, received) = receive(std::io::stdin().as_fd())?;
    // Out of the way first, so that the lowest numbers are free.
    let high: Vec<OwnedFd> =
        received.iter().map(|descriptor| fcntl_dupfd_cloexec(descriptor, 200)).collect::<Result<_, _>>()?;
    drop(received);
    let mut placed = Vec::new();
    for descriptor in &high {
        let low = fcntl_dupfd_cloexec(descriptor, FIRST)?;
        fcntl_setfd(&low, FdFlags::empty())?;
        placed.push(low);
    }
    let (name, arguments) = program.split_first().context("no program")?;
    let mut command = Command::new(name);
    command.args(arguments).stdin(Stdio::null());
    if !placed.is_empty() {
        command.env("LISTEN_PID", std::process::id().to_string());
        command.env("LISTEN_FDS", placed.len().to_string());
        command.env("LISTEN_FDNAMES", names);
    }
    Err(command.exec().into())
}
