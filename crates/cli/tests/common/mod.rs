//! `portcullis run` as a process, on a socket of its own.
#![allow(dead_code, reason = "every test uses a part of it")]

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use portcullis_client::Client;

/// The service; killed when dropped.
pub(crate) struct Running {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) child: Child,
}

impl Running {
    /// Runs it with these arguments besides the socket.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::within(tempfile::tempdir().expect("a directory"), arguments)
    }

    /// The same, with its socket in a directory that is there.
    pub(crate) fn within(directory: tempfile::TempDir, arguments: &[&str]) -> Self {
        let socket = directory.path().join("socket");
        let mut child = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .arg("run")
            .args(arguments)
            .arg("--socket")
            .arg(&socket)
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
        Self { directory, child }
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
        let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        command.args(arguments).arg("--socket").arg(self.socket()).output().expect("the command runs")
    }
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
