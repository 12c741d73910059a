//! One boot: from the start of QEMU to the guest's last word.

use anyhow::{Context, Result, bail};
use portcullis_guest::protocol::{Ledger, Message};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// How long a guest may take to its first word, and between cases. It needs 4 seconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(180);
/// What a case gets beyond the time after which the guest itself ends it.
const MARGIN: Duration = Duration::from_secs(60);
/// A line of the protocol is cut off here.
const LONGEST_LINE: usize = 64 << 10;

/// Boot, listen until the guest is done, and return what it said.
///
/// # Errors
///
/// QEMU can't start, the guest breaks the protocol, falls silent, or ends without its last word. What it had said by
/// then is in `ledger`.
pub(crate) fn run(arguments: &[String], log: &Path, ledger: &mut Ledger) -> Result<()> {
    let child = Command::new("qemu-system-x86_64")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("qemu-system-x86_64")?;
    let mut child = Ended(child);
    let output = child.0.stdout.take().context("QEMU's standard output")?;
    let (sender, lines) = mpsc::channel();
    let reader = thread::spawn(move || {
        let mut output = BufReader::new(output);
        while let Some(line) = next_line(&mut output) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let outcome = listen(&lines, ledger).with_context(|| last_words(log));
    if outcome.is_ok() {
        // The guest synced its disks before its last word, and QEMU completes its own writes when it is asked to end.
        // Under emulation a guest has been seen that never came to power off.
        let pid = Pid::from_child(&child.0);
        kill_process(pid, Signal::TERM).context("ending QEMU")?;
        let deadline = Instant::now() + PATIENCE;
        while child.0.try_wait()?.is_none() {
            if Instant::now() > deadline {
                bail!("QEMU did not end when it was asked to\n{}", last_words(log));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
    drop(child);
    drop(lines);
    let _ = reader.join();
    outcome
}

fn listen(lines: &mpsc::Receiver<String>, ledger: &mut Ledger) -> Result<()> {
    let mut deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let line = match lines.recv_timeout(left) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => match ledger.running() {
                Some(name) => bail!("case {name} went on past its time"),
                None => bail!("the guest fell silent"),
            },
            Err(RecvTimeoutError::Disconnected) => match ledger.running() {
                Some(name) => bail!("the guest ended amid case {name}"),
                None => bail!("the guest ended without its last word"),
            },
        };
        match ledger.take(&line)? {
            Message::Run { seconds, .. } => deadline = Instant::now() + Duration::from_secs(seconds) + MARGIN,
            Message::Detail(_) | Message::Evidence { .. } => {}
            Message::Hello { .. } | Message::Passed(_) | Message::Failed(_) => {
                deadline = Instant::now() + PATIENCE;
            }
            Message::Done { .. } => return Ok(()),
        }
    }
}

/// The next line without its end, cut off at [`LONGEST_LINE`]; `None` at the end of the stream.
fn next_line(stream: &mut impl BufRead) -> Option<String> {
    let mut line = Vec::new();
    loop {
        let buffer = stream.fill_buf().ok()?;
        if buffer.is_empty() {
            return None;
        }
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let taken = end.unwrap_or(buffer.len());
        let room = LONGEST_LINE.saturating_sub(line.len());
        line.extend_from_slice(&buffer[..taken.min(room)]);
        stream.consume(end.map_or(taken, |at| at + 1));
        if end.is_some() {
            let text = String::from_utf8_lossy(&line);
            return Some(text.trim_end_matches('\r').to_owned());
        }
    }
}

/// The end of the kernel's log, for a message.
fn last_words(log: &Path) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let tail = &lines[lines.len().saturating_sub(25)..];
    format!("the kernel's last words ({}):\n{}", log.display(), tail.join("\n"))
}

/// A process that does not outlive us.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_lose_their_ends_and_long_ones_are_cut() {
        let text = format!("one\r\ntwo\n{}\nlast", "x".repeat(LONGEST_LINE + 10));
        let mut stream = text.as_bytes();
        assert_eq!(next_line(&mut stream).as_deref(), Some("one"));
        assert_eq!(next_line(&mut stream).as_deref(), Some("two"));
        assert_eq!(next_line(&mut stream).map(|line| line.len()), Some(LONGEST_LINE));
        assert_eq!(next_line(&mut stream), None, "a line without an end was never finished");
    }

    #[test]
    fn silence_and_early_end_are_failures() {
        let (sender, lines) = mpsc::channel();
        for line in ["portcullis-guest 1 6.12.0", "run one 1", "passed one", "run two 1"] {
            sender.send(line.to_owned()).expect("the other end is here");
        }
        drop(sender);
        let mut ledger = Ledger::default();
        let error = listen(&lines, &mut ledger).expect_err("the guest never said done");
        assert_eq!(error.to_string(), "the guest ended amid case two");
        assert_eq!(ledger.counted(), (1, 0));
    }
}
