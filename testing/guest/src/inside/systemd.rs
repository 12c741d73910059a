//! Debian's systemd as the starter of the service, and what its tools say.

use std::fs;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::supervisor::Starter;

/// The service's unit.
pub(crate) const UNIT: &str = "portcullis.service";
/// Where a drop-in of the cases' lies.
const DROP_IN: &str = "/run/systemd/system/portcullis.service.d";

/// Runs a program of the guest's; its outcome, whatever it is.
pub(crate) fn output(program: &str, arguments: &[&str]) -> Result<Output> {
    Command::new(program).args(arguments).output().with_context(|| format!("{program} {arguments:?}"))
}

/// Runs a program of the guest's that should succeed; what it printed.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = output(program, arguments)?;
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{program} {arguments:?}: {}\n{said}{complained}", output.status);
    Ok(said.into_owned())
}

/// A property of the service's unit.
pub(crate) fn property(name: &str) -> Result<String> {
    Ok(run("systemctl", &["show", "--value", "--property", name, UNIT])?.trim_end().to_owned())
}

/// Entries of the system's journal that match, as it has them: oldest first.
pub(crate) fn journal(matches: &[&str]) -> Result<Vec<Value>> {
    // What was sent is in the journal once journald has read it.
    run("journalctl", &["--sync"])?;
    let mut arguments = vec!["--output=json", "--all"];
    arguments.extend(matches);
    let text = run("journalctl", &arguments)?;
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// The service as its unit runs it; it is stopped when this is dropped.
pub(crate) struct Unit;

impl Unit {
    /// The unit as it is installed, stopped.
    pub(crate) fn new() -> Result<Self> {
        let unit = Self;
        unit.drop_in("")?;
        Ok(unit)
    }

    /// Adds these lines to the unit.
    pub(crate) fn drop_in(&self, lines: &str) -> Result<()> {
        let file = format!("{DROP_IN}/cases.conf");
        if lines.is_empty() {
            let _ = fs::remove_file(file);
        } else {
            fs::create_dir_all(DROP_IN)?;
            fs::write(file, lines)?;
        }
        run("systemctl", &["daemon-reload"])?;
        Ok(())
    }
}

impl Starter for Unit {
    /// `start` would not hurry a restart that is to come later; `restart` does.
    fn start(&mut self) -> Result<()> {
        run("systemctl", &["reset-failed", UNIT])?;
        run("systemctl", &["restart", UNIT]).map(|_| ())
    }

    fn process(&self) -> Result<u32> {
        Ok(property("MainPID")?.parse()?)
    }

    fn kept(&self) -> Result<Vec<String>> {
        let text = run("systemd-analyze", &["fdstore", "--json=short", UNIT])?;
        let rows: Vec<Value> = serde_json::from_str(&text)?;
        let name = |row: &Value| row["fdname"].as_str().map(str::to_owned).context("fdname");
        rows.iter().map(name).collect()
    }

    fn kill(&mut self) -> Result<()> {
        let process = self.process()?;
        ensure!(process != 0, "the service does not run");
        self.drop_in("[Service]\nRestartSec=1h\n")?;
        run("systemctl", &["kill", "--signal=KILL", "--kill-whom=main", UNIT])?;
        while self.process()? == process {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        self.drop_in("")
    }

    fn stop(&mut self) -> Result<()> {
        run("systemctl", &["stop", UNIT]).map(|_| ())
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        let _ = self.stop();
        let _ = run("systemctl", &["reset-failed", UNIT]);
    }
}
