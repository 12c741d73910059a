//! The first process: mounts, loads modules, runs the cases one by one, and powers off. Where the guest brings a system of its own, it
//! hands over to that one's first process, which runs the cases as a service.

use crate::case::{Case, EVIDENCE, World};
use crate::cases;
use anyhow::{Context, Result};
use portcullis_guest::protocol::Message;
use rustix::mount::{MountFlags, mount, mount_bind, mount_move};
use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, wait as wait_any};
use rustix::system::{RebootCommand, finit_module, reboot};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// The serial line that is not the kernel's console.
const LINE: &str = "/dev/ttyS1";
/// The system that the guest brings, and its first process.
const SYSTEM: &str = "/system";
const SYSTEMD: &str = "/usr/lib/systemd/systemd";
/// finit_module(2): the kernel unpacks the module itself.
const MODULE_INIT_COMPRESSED_FILE: i32 = 4;
/// Lines of a case's output that are sent, from its end.
const DETAILS: usize = 60;

/// Does not return while the machine runs: what can't go on is told to the console, then the power goes off.
pub(crate) fn run() -> Result<()> {
    let outcome = if Path::new(SYSTEM).is_dir() { hand_over() } else { work() };
    if let Err(error) = outcome {
        eprintln!("portcullis-guest: {error:?}");
    }
    rustix::fs::sync();
    reboot(RebootCommand::PowerOff).context("power off")
}

/// Makes the system that the guest brings the root, with our programs in it, and becomes its first process.
fn hand_over() -> Result<()> {
    load_modules()?;
    for (ours, there) in [("/init", "init"), ("/bin/portcullis", "usr/bin/portcullis")] {
        fs::rename(ours, format!("{SYSTEM}/{there}")).context(ours)?;
    }
    // A mount of its own, so that a namespace can have another root: that cannot be the initial RAM file system itself.
    mount_bind(SYSTEM, SYSTEM)?;
    std::env::set_current_dir(SYSTEM)?;
    mount_move(".", "/")?;
    rustix::process::chroot(".")?;
    std::env::set_current_dir("/")?;
    Err(Command::new(SYSTEMD).exec()).context(SYSTEMD)
}

/// The cases, where another process is the first.
pub(crate) fn cases() -> Result<()> {
    report(open_line()?)
}

fn work() -> Result<()> {
    for (kind, place) in
        [("devtmpfs", "/dev"), ("proc", "/proc"), ("sysfs", "/sys"), ("tmpfs", "/tmp"), ("tmpfs", "/run")]
    {
        mount(kind, place, kind, MountFlags::empty(), None).with_context(|| format!("mount {place}"))?;
    }
    let line = open_line()?;
    load_modules()?;
    report(line)
}

fn open_line() -> Result<File> {
    let mut line = OpenOptions::new().read(true).write(true).open(LINE).context(LINE)?;
    // A fresh terminal turns newlines into pairs and echoes what it reads.
    let mut settings = rustix::termios::tcgetattr(&line)?;
    settings.make_raw();
    rustix::termios::tcsetattr(&line, rustix::termios::OptionalActions::Now, &settings)?;
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    say(&mut line, &Message::Hello { release })?;
    Ok(line)
}

fn report(mut line: File) -> Result<()> {
    let world = World::read()?;
    let cases = cases::suite(&world.suite).with_context(|| format!("no suite is named {}", world.suite))?;
    let (mut passed, mut failed) = (0, 0);
    for case in cases.iter().filter(|case| case.on.includes(&world.machine)) {
        say(&mut line, &Message::Run { name: case.name.to_owned(), seconds: case.seconds })?;
        let succeeded = run_case(&world, case, &mut line)?;
        let name = case.name.to_owned();
        *(if succeeded { &mut passed } else { &mut failed }) += 1;
        say(&mut line, &(if succeeded { Message::Passed(name) } else { Message::Failed(name) }))?;
    }
    // Who listens may switch the machine off on the last word.
    rustix::fs::sync();
    say(&mut line, &Message::Done { passed, failed })?;
    rustix::termios::tcdrain(&line)?;
    Ok(())
}

fn say(line: &mut File, message: &Message) -> Result<()> {
    line.write_all(format!("{message}\n").as_bytes()).context(LINE)
}

fn load_modules() -> Result<()> {
    let mut modules: Vec<PathBuf> =
        fs::read_dir("/modules")?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    modules.sort();
    for path in modules {
        let file = File::open(&path)?;
        finit_module(&file, c"", MODULE_INIT_COMPRESSED_FILE)
            .with_context(|| format!("loading {}", path.display()))?;
    }
    Ok(())
}

/// Run one case in a process (and process group) of its own; whether it succeeded.
fn run_case(world: &World, case: &Case, line: &mut File) -> Result<bool> {
    let output = "/tmp/case.output";
    let file = File::create(output)?;
    let child = Command::new("/init")
        .args(["case", &world.suite, case.name])
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .process_group(0)
        .spawn()
        .context("starting the case")?;
    let mut ending = wait(child, Duration::from_secs(case.seconds))?;
    let text = String::from_utf8_lossy(&fs::read(output)?).into_owned();
    let (evidence, details): (Vec<&str>, Vec<&str>) =
        text.lines().partition(|text| text.starts_with(EVIDENCE));
    for fact in evidence {
        let (key, value) = fact[EVIDENCE.len()..].split_once(' ').unwrap_or((fact, ""));
        say(line, &Message::Evidence { key: key.to_owned(), value: value.to_owned() })?;
    }
    let succeeded = ending.is_none();
    let shown = details.iter().skip(details.len().saturating_sub(DETAILS)).map(|text| (*text).to_owned());
    for text in shown.chain(ending.take()) {
        say(line, &Message::Detail(text))?;
    }
    Ok(succeeded)
}

/// Wait for a case, and for whatever else ends meanwhile (we are everyone's parent); then end its whole group. `None`
/// is success, otherwise how it ended.
fn wait(child: Child, limit: Duration) -> Result<Option<String>> {
    let pid = Pid::from_child(&child);
    let deadline = Instant::now() + limit;
    let ending = loop {
        match wait_any(WaitOptions::NOHANG)? {
            Some((ended, status)) if ended == pid => {
                break match (status.exit_status(), status.terminating_signal()) {
                    (Some(0), _) => None,
                    (Some(code), _) => Some(format!("the case exited with status {code}")),
                    (_, signal) => Some(format!("the case was ended by signal {}", signal.unwrap_or(0))),
                };
            }
            Some(_) => {}
            None if Instant::now() > deadline => {
                break Some(format!("the case was ended after {} s", limit.as_secs()));
            }
            None => thread::sleep(Duration::from_millis(2)),
        }
    };
    // Already empty in the usual case.
    let _ = kill_process_group(pid, Signal::KILL);
    Ok(ending)
}
