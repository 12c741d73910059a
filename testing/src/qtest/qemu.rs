//! A QEMU process: started, supervised, and never left behind.

use super::{Client, QtestError};
use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Why there is no QEMU.
#[derive(Debug, thiserror::Error)]
pub enum QemuError {
    /// The program is not installed.
    #[error("{program} is not installed (`cargo xtask test` says how to get it)")]
    Absent {
        /// Its name.
        program: String,
    },
    /// It ended, or never opened its sockets.
    #[error("QEMU did not start: {reason}; it said:\n{stderr}")]
    NotStarted {
        /// What went wrong.
        reason: String,
        /// The end of its standard error.
        stderr: String,
    },
    /// A file or process could not be made.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The system's answer.
        source: std::io::Error,
    },
    /// It stopped answering.
    #[error("{source}; QEMU said:\n{stderr}")]
    Qtest {
        /// What failed.
        source: QtestError,
        /// The end of its standard error.
        stderr: String,
    },
}

/// A running QEMU, stopped before the first instruction. Killed when dropped.
#[derive(Debug)]
pub struct Qemu {
    /// The qtest connection.
    pub client: Client,
    child: Child,
    ram: File,
    folder: tempfile::TempDir,
}

/// How long a start may take.
const START: Duration = Duration::from_secs(30);

impl Qemu {
    /// Start `program` with `arguments` and `ram_bytes` of memory that we share.
    ///
    /// # Errors
    /// Where it isn't installed, ends at once, or does not open its sockets in time.
    pub fn start(program: &str, arguments: &[&str], ram_bytes: u64) -> Result<Self, QemuError> {
        let program_path = find(program).ok_or_else(|| QemuError::Absent { program: program.to_owned() })?;
        let system = |what| move |source| QemuError::System { what, source };
        let folder = tempfile::Builder::new().prefix("portcullis-qemu-").tempdir();
        let folder = folder.map_err(system("making a folder for QEMU's sockets"))?;
        let path = |name: &str| folder.path().join(name).display().to_string();

        let ram = File::options().read(true).write(true).create_new(true).open(path("ram"));
        let ram = ram.map_err(system("making QEMU's memory"))?;
        ram.set_len(ram_bytes).map_err(system("sizing QEMU's memory"))?;
        let stderr = File::create(path("stderr")).map_err(system("making QEMU's log"))?;

        let mut child = Command::new(program_path)
            .args(["-accel", "tcg", "-S", "-display", "none", "-nodefaults", "-no-user-config"])
            .args(["-qtest", &format!("unix:{},server=on,wait=off", path("qtest"))])
            .args(["-m", &format!("{ram_bytes}B")])
            .args([
                "-object",
                &format!("memory-backend-file,id=ram,size={ram_bytes}B,mem-path={},share=on", path("ram")),
            ])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .map_err(system("starting QEMU"))?;

        match connect(&mut child, folder.path()) {
            Ok(client) => Ok(Self { client, child, ram, folder }),
            Err(reason) => {
                // It may have ended already; either way it must not stay.
                let _ = child.kill();
                let _ = child.wait();
                Err(QemuError::NotStarted { reason, stderr: tail(folder.path()) })
            }
        }
    }

    /// The file that is the machine's memory, shared with QEMU.
    #[must_use]
    pub const fn ram(&self) -> &File {
        &self.ram
    }

    /// Say what QEMU wrote when something failed.
    #[must_use]
    pub fn explain(&self, source: QtestError) -> QemuError {
        QemuError::Qtest { source, stderr: tail(self.folder.path()) }
    }

    /// Whether the process has ended (QEMU aborts on some programs that the architecture allows).
    pub fn has_ended(&mut self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(2);
        loop {
            match self.child.try_wait() {
                Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
                Ok(None) => return false,
                Ok(Some(_)) | Err(_) => return true,
            }
        }
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // Already ended is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn connect(child: &mut Child, folder: &Path) -> Result<Client, String> {
    let deadline = Instant::now() + START;
    let stream = loop {
        match UnixStream::connect(folder.join("qtest")) {
            Ok(stream) => break stream,
            Err(error) if Instant::now() > deadline => return Err(format!("its socket: {error}")),
            Err(_) => {}
        }
        if let Ok(Some(status)) = child.try_wait() {
            return Err(format!("it ended with {status}"));
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    Client::new(stream).map_err(|error| error.to_string())
}

/// The last lines of its standard error.
fn tail(folder: &Path) -> String {
    let text = std::fs::read(folder.join("stderr")).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

/// Where a program is, if it is installed.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// The version that a QEMU program prints, such as `10.0.2`.
#[must_use]
pub fn version(program: &str) -> Option<String> {
    let output = Command::new(find(program)?).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let after = text.split_once("version ")?.1;
    let end = after.find(|character: char| !character.is_ascii_digit() && character != '.');
    Some(after[..end.unwrap_or(after.len())].to_owned())
}
