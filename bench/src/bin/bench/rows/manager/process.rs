//! The program in a process of its own: how much memory it takes, and whether it sleeps when nobody wants anything.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use portcullis_client::Client;

use portcullis_bench::result::{Goal, Row};

use crate::Effort;

/// A running service, ended with this.
pub(super) struct Service {
    child: Child,
    folder: PathBuf,
}

impl Service {
    /// Builds the program as it is released, and starts it on a simulated machine of so many devices.
    pub(super) fn start(devices: u32) -> Result<Self> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let built = Command::new(cargo)
            .args(["build", "--quiet", "--release", "--package", "portcullis"])
            .status()?;
        ensure!(built.success(), "building the program: {built}");
        let program = std::env::current_exe()?.with_file_name("portcullis");
        let folder = std::env::temp_dir().join(format!("portcullis-bench-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let quarter = devices / 4;
        let mut command = Command::new(program);
        command.args(["run", "--platform", "embedded", "--socket"]).arg(folder.join("socket"));
        for kind in ["network", "disk", "accelerator", "rogue"] {
            command.arg("--simulate").arg(format!("{kind}={quarter}"));
        }
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().context("portcullis run")?;
        let output = child.stdout.take().context("its output")?;
        let service = Self { child, folder };
        let listening =
            BufReader::new(output).lines().map_while(Result::ok).any(|line| line.starts_with("Listening"));
        ensure!(listening, "the service did not start");
        Ok(service)
    }

    pub(super) fn connect(&self) -> Result<Client> {
        Ok(Client::connect(Some(&self.folder.join("socket")))?)
    }

    fn resident(&self) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        Ok(number(&status, "VmRSS:")? * 1024.0 / f64::from(1 << 20))
    }

    /// Seconds on a processor (proc_pid_stat(5), utime and stime), and switches away from it of all threads.
    fn worked(&self) -> Result<(f64, f64)> {
        let process = Path::new("/proc").join(self.child.id().to_string());
        let stat = fs::read_to_string(process.join("stat"))?;
        let behind_name = stat.rsplit_once(')').context("the name")?.1;
        let fields: Vec<&str> = behind_name.split_whitespace().collect();
        let ticks: f64 =
            fields.get(11..13).context("times")?.iter().filter_map(|t| t.parse::<f64>().ok()).sum();
        let mut switches = 0.0;
        for thread in fs::read_dir(process.join("task"))? {
            let status = fs::read_to_string(thread?.path().join("status"))?;
            switches += number(&status, "voluntary_ctxt_switches:")?
                + number(&status, "nonvoluntary_ctxt_switches:")?;
        }
        let per_second = rustix::param::clock_ticks_per_second() as f64;
        Ok((ticks / per_second, switches))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// The number behind a field of `/proc/PID/status`.
fn number(status: &str, field: &str) -> Result<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field)).with_context(|| field.to_owned())?;
    Ok(line.split_whitespace().next().context("a number")?.parse()?)
}

/// Memory when it has started, and what it does while it is left alone: 32 seconds, or 5 in short.
pub(super) fn rows(service: &Service, effort: Effort) -> Result<Vec<Row>> {
    let resident = service.resident()?;
    // What starting left to do is done.
    thread::sleep(Duration::from_secs(1));
    let before = service.worked()?;
    thread::sleep(effort.contest * 8);
    let after = service.worked()?;
    Ok(vec![
        Row::new("manager/resident/1000-devices", "MiB", resident, Goal::AtMost(20.0)),
        Row::new("manager/idle/processor-time", "s", after.0 - before.0, Goal::AtMost(0.0)),
        Row::new("manager/idle/context-switches", "", after.1 - before.1, Goal::AtMost(0.0)),
    ])
}

/// Memory when everything was asked of it.
pub(super) fn after_all(service: &Service) -> Result<Row> {
    Ok(Row::new("manager/resident/after-all-requests", "MiB", service.resident()?, Goal::None))
}
