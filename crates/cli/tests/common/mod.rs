//! `portcullis run` as a process, on a socket of its own.
#![allow(dead_code, reason = "every test uses a part of it")]

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

pub(crate) mod store;

use portcullis_client::Client;
use store::Store;

/// The service; killed when dropped.
pub(crate) struct Running {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) child: Child,
    /// Who keeps its descriptors.
    store: Option<Store>,
}

impl Running {
    /// Runs it with these arguments besides the socket.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::within(tempfile::tempdir().expect("a directory"), arguments)
    }

    /// The same, with somebody who keeps its descriptors.
    pub(crate) fn kept(arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Store::new(directory.path().join("notify"));
        let child = spawn(&directory.path().join("socket"), Some(&store), arguments);
        Self { directory, child, store: Some(store) }
    }

    /// The same, with its socket in a directory that is there.
    pub(crate) fn within(directory: tempfile::TempDir, arguments: &[&str]) -> Self {
        let child = spawn(&directory.path().join("socket"), None, arguments);
        Self { directory, child, store: None }
    }

    /// Kills it, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        kill(&mut self.child);
    }

    /// Starts it again after it ended.
    pub(crate) fn again(&mut self, arguments: &[&str]) {
        self.child = spawn(&self.socket(), self.store.as_ref(), arguments);
    }

    /// Names of what is kept for it.
    pub(crate) fn names(&self) -> Vec<String> {
        self.store.as_ref().map(Store::names).unwrap_or_default()
    }

    /// Cuts the last bytes off the ledger that is kept for it.
    pub(crate) fn cut_ledger(&self, bytes: u64) {
        self.store.as_ref().expect("somebody keeps it").cut("state-", bytes);
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("socket")
    }

    pub(crate) fn client(&self) -> Client {
        let mut client = Client::connect(Some(&self.socket())).expect("a connection");
        client.set_timeout(Some(Duration::from_secs(60))).expect("a time");
        client
    }

    /// Runs a command of ours against it.
    pub(crate) fn command(&self, arguments: &[&str]) -> Output {
        self.prepare(arguments).output().expect("the command runs")
    }

    /// A command of ours that is to run against it.
    pub(crate) fn prepare(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.args(arguments).arg("--socket").arg(self.socket());
        command
    }
}

/// Kills a process, and waits until it is gone.
pub(crate) fn kill(child: &mut Child) {
    child.kill().expect("killed");
    child.wait().expect("gone");
}

fn spawn(socket: &Path, store: Option<&Store>, arguments: &[&str]) -> Child {
    let program = env!("CARGO_BIN_EXE_portcullis");
    let mut command = store.map_or_else(|| Command::new(program), |store| store.command(program));
    let mut child = command
        .arg("run")
        .args(arguments)
        .arg("--socket")
        .arg(socket)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the service runs");
    let out = child.stdout.take().expect("its standard output");
    // It says that it listens once it does; the pipe stays open until it ends.
    let mut lines = BufReader::new(out).lines().map_while(Result::ok);
    let said: Vec<String> = lines.by_ref().take_while(|line| !line.starts_with("Listening")).collect();
    assert!(child.try_wait().expect("its state").is_none(), "the service ended: {said:?}");
    thread::spawn(move || lines.for_each(drop));
    child
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits with patience for what a loaded machine does late.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < Duration::from_secs(60), "{what}");
        thread::sleep(Duration::from_millis(10));
    }
}
