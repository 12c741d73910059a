//! The service as its units run it, under Debian's systemd: the machine's first process is the real one.
//!
//! Expectations come from systemd's manual and its own tools (systemctl, journalctl, systemd-analyze, varlinkctl), from the kernel, and
//! from the devices. varlinkctl is a client that shares no code with ours.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use portcullis_client::Client;
use serde_json::Value;

use super::manager::{
    EDU_CLIENT, EDU_IOVA, EDU_USER, PATTERN, Stage, eventually, log, nothing_ungranted_is_reached, transfers,
    widens_nothing_and_takes_up_again,
};
use crate::canary::Canary;
use crate::case::{Case, On, World};
use crate::probe;
use crate::systemd::{UNIT, Unit, journal, output, property, run};

const fn case(name: &'static str, run: fn(&World) -> Result<()>) -> Case {
    Case { name, seconds: 300, on: On::Every, run }
}

pub(crate) const CASES: &[Case] = &[
    case("units_are_in_order", units_are_in_order),
    case("first_connection_starts_the_service", first_connection_starts_the_service),
    case("varlinkctl_speaks_with_the_service", varlinkctl_speaks_with_the_service),
    case("unit_confines_what_runs_under_it", unit_confines_what_runs_under_it),
    case("service_works_confined_with_both_back_ends", service_works_confined_with_both_back_ends),
    case("journal_has_the_fields_of_what_was_refused", journal_has_the_fields_of_what_was_refused),
    case("hung_service_is_killed_and_takes_up_again", hung_service_is_killed_and_takes_up_again),
    case("killed_service_widens_nothing_and_takes_up_again", |world| {
        widens_nothing_and_takes_up_again(&mut stage(world)?)
    }),
    case("nothing_ungranted_is_reached_over_a_crash", |world| {
        nothing_ungranted_is_reached(&mut stage(world)?)
    }),
];

/// Where the page for operators puts the configuration, and the number of the group that it makes.
const CONFIGURATION: &str = "/etc/portcullis/portcullis.toml";
const GROUP: u32 = 900;
const SOCKET: &str = "/run/portcullis/org.portcullis.Manager";
const INTERFACE: &str = "org.portcullis.Manager";
const METRICS: &str = "127.0.0.1:9475";

/// Beside who may have what.
const MORE: &str =
    "[journal]\ndirectory = \"/var/log/portcullis\"\n\n[metrics]\nlisten = \"127.0.0.1:9475\"\n";

/// The units enabled and the configuration written; nothing runs but the socket.
fn installed(world: &World) -> Result<Stage> {
    fs::create_dir_all("/etc/portcullis")?;
    let stage = Stage::with(world, Box::new(Unit::new()?), CONFIGURATION, MORE.to_owned(), Some(GROUP))?;
    stage.configure(true)?;
    run("portcullis", &["check", CONFIGURATION])?;
    run("systemctl", &["enable", "--now", "portcullis.socket"])?;
    run("systemctl", &["enable", UNIT])?;
    Ok(stage)
}

fn stage(world: &World) -> Result<Stage> {
    let mut stage = installed(world)?;
    stage.start(true)?;
    Ok(stage)
}

fn units_are_in_order(world: &World) -> Result<()> {
    let _stage = installed(world)?;
    for unit in ["portcullis.service", "portcullis.socket"] {
        let path = format!("/etc/systemd/system/{unit}");
        let verified = output("systemd-analyze", &["verify", "--man=no", &path])?;
        let said = String::from_utf8_lossy(&verified.stderr).into_owned();
        ensure!(verified.status.success() && !said.contains("portcullis"), "{said}");
        ensure!(run("systemctl", &["is-enabled", unit])?.trim() == "enabled");
    }
    println!("{}", run("systemd-analyze", &["security", "--no-pager", UNIT])?);
    Ok(())
}

fn first_connection_starts_the_service(world: &World) -> Result<()> {
    let stage = installed(world)?;
    let state = || property("ActiveState");
    ensure!(state()? == "inactive", "{}", state()?);
    let socket = fs::metadata(SOCKET)?;
    ensure!((socket.uid(), socket.gid(), socket.permissions().mode() & 0o777) == (0, GROUP, 0o660));
    // Who is not in the group is not let in, and starts nothing.
    ensure!(crate::client::Remote::start(EDU_USER, EDU_USER).is_err(), "a stranger was let in");
    ensure!(state()? == "inactive", "a stranger started the service");
    let mut client = stage.remote(EDU_USER)?;
    let claimed = client.ask(&format!("claim {}", stage.edu))?;
    ensure!(claimed == stage.edu, "{claimed}");
    ensure!(state()? == "active", "{}", state()?);
    // Type=notify: it is active because it said so; and what it says of itself.
    ensure!((property("Type")?.as_str(), property("NotifyAccess")?.as_str()) == ("notify", "main"));
    let wanted = ", 1 of them claimed";
    eventually("its status is told", || Ok(property("StatusText")?.ends_with(wanted)))?;
    eventually("its descriptors are kept", || {
        Ok(property("NFileDescriptorStore")?.parse::<u32>()? == stage.supervisor.kept()?.len() as u32)
    })?;
    println!("{}", run("systemctl", &["status", "--no-pager", "--lines=20", UNIT])?);
    // It listens on the socket that it was passed, and made none of its own.
    ensure!(fs::metadata(SOCKET)?.ino() == socket.ino(), "another socket is there");
    Ok(())
}

/// Runs a program as a user who may connect, and that should succeed; what it printed.
fn run_as(user: u32, program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).uid(user).gid(GROUP).output()?;
    let complained = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {arguments:?}: {}\n{complained}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A call by varlinkctl, and its answer.
fn call(method: &str, parameters: &str) -> Result<Value> {
    let method = format!("{INTERFACE}.{method}");
    let text = run("varlinkctl", &["call", "--json=short", SOCKET, &method, parameters])?;
    Ok(serde_json::from_str(&text)?)
}

/// A command as a person types it, and what comes of it, for the page that shows them.
fn show(arguments: &[&str]) -> Result<String> {
    let text = run("varlinkctl", arguments)?;
    println!("$ varlinkctl {}\n{text}", arguments.join(" "));
    Ok(text)
}

fn varlinkctl_speaks_with_the_service(world: &World) -> Result<()> {
    let stage = stage(world)?;
    println!("{}", run("varlinkctl", &["--version"])?.lines().next().unwrap_or_default());
    let info = show(&["info", SOCKET])?;
    for word in ["Portcullis manager", INTERFACE, "org.varlink.service"] {
        ensure!(info.contains(word), "{word} is not in\n{info}");
    }
    let interfaces = show(&["list-interfaces", SOCKET])?;
    ensure!(interfaces.lines().collect::<Vec<_>>() == [INTERFACE, "org.varlink.service"], "{interfaces}");
    // systemd's own parser reads what the service says of itself, and finds nothing wrong with it.
    for interface in [INTERFACE, "org.varlink.service"] {
        let text = run("varlinkctl", &["introspect", SOCKET, interface])?;
        let file = format!("/tmp/{interface}.varlink");
        fs::write(&file, &text)?;
        let judged = output("varlinkctl", &["validate-idl", &file])?;
        ensure!(judged.status.success(), "{}\n{text}", String::from_utf8_lossy(&judged.stderr));
    }
    let methods = run("varlinkctl", &["list-methods", SOCKET])?;
    for method in ["Claim", "Map", "Follow", "Resume", "ListEvents"] {
        ensure!(methods.lines().any(|line| line == format!("{INTERFACE}.{method}")), "{methods}");
    }

    let status = call("GetStatus", "{}")?;
    ensure!(status["backend"] == "vfio" && status["simulated"] == false, "{status}");
    show(&["call", SOCKET, "org.portcullis.Manager.GetStatus", "{}"])?;
    let device = format!("{{\"device\":\"{}\"}}", stage.edu);
    let listed = call("ListDevices", &device)?;
    ensure!(listed["devices"][0]["name"] == stage.edu.as_str(), "{listed}");
    show(&["call", SOCKET, "org.portcullis.Manager.ListReserved", &device])?;
    // The user who may have it; what it has ends with the call.
    let claim = format!("{INTERFACE}.Claim");
    let claimed = run_as(EDU_USER, "varlinkctl", &["call", "--json=short", SOCKET, &claim, &device])?;
    println!("$ varlinkctl call {SOCKET} {claim} '{device}'\n{claimed}");
    let claimed: Value = serde_json::from_str(&claimed)?;
    ensure!(claimed["devices"][0]["name"] == stage.edu.as_str(), "{claimed}");

    // Refusals come with their names, and so do calls that are none.
    for (method, parameters, name) in [
        ("Claim", device.as_str(), "org.portcullis.Manager.NotPermitted"),
        ("Claim", "{\"device\":\"nothing\"}", "org.portcullis.Manager.NoSuchDevice"),
        ("Resume", "{}", "org.portcullis.Manager.NoSuchClient"),
        ("Claim", "{}", "org.varlink.service.InvalidParameter"),
        ("Nonsense", "{}", "org.varlink.service.MethodNotFound"),
        ("Follow", "{}", "org.varlink.service.ExpectedMore"),
    ] {
        let refused = output("varlinkctl", &["call", SOCKET, &format!("{INTERFACE}.{method}"), parameters])?;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        println!("$ varlinkctl call {SOCKET} {INTERFACE}.{method} '{parameters}'\n{said}");
        ensure!(!refused.status.success() && said.contains(name), "{method}: {said}");
    }

    // A stream of what happens: claims, and what is refused.
    let mut stream = Command::new("varlinkctl")
        .args(["call", "--more", "--json=short", SOCKET, "org.portcullis.Manager.Follow"])
        .arg("{\"events\":true,\"faults\":true}")
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(stream.stdout.take().context("its output")?).lines();
    let mut next = || -> Result<Value> {
        let line = lines.next().context("the stream ended")??;
        println!("{line}");
        // Records of a sequence begin with RS (RFC 7464).
        Ok(serde_json::from_str(line.trim_start_matches('\u{1e}'))?)
    };
    let first = next()?;
    ensure!(
        first.as_object().is_some_and(serde_json::Map::is_empty),
        "the first says that it begins: {first}"
    );
    let (mut lab, ..) = stage.lab()?;
    while next()?["event"]["kind"] != "attached" {}
    let outside = EDU_IOVA + (1 << 20);
    lab.ask(&format!("edu write {outside:#x}"))?;
    loop {
        let fault = next()?["fault"].take();
        if !fault.is_null() {
            ensure!(fault["client"] == EDU_CLIENT && fault["address"] == outside, "{fault}");
            break;
        }
    }
    stream.kill()?;
    stream.wait()?;
    show(&["call", SOCKET, "org.portcullis.Manager.ListFaults", "{\"client\":\"lab\",\"limit\":1}"])?;
    show(&["call", SOCKET, "org.portcullis.Manager.ListGrants", &device])?;
    show(&["call", SOCKET, "org.portcullis.Manager.ListEvents", "{\"client\":\"lab\",\"limit\":2}"])?;
    Ok(())
}

/// The lines of the unit's `[Service]` that confine, for another program.
fn confinement() -> Result<String> {
    let unit = fs::read_to_string("/etc/systemd/system/portcullis.service")?;
    let service = unit.split("[Service]\n").nth(1).and_then(|rest| rest.split("[Install]").next());
    let own =
        ["Type=", "NotifyAccess=", "Exec", "Restart=", "RestartSec=", "WatchdogSec=", "FileDescriptorStore"];
    let lines =
        service.context("no [Service]")?.lines().filter(|line| !own.iter().any(|key| line.starts_with(key)));
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

fn unit_confines_what_runs_under_it(world: &World) -> Result<()> {
    let _stage = installed(world)?;
    let free = {
        let output = output("/init", &["probe"])?;
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let unit = format!("[Service]\nType=oneshot\nExecStart=/init probe\n{}\n", confinement()?);
    fs::write("/run/systemd/system/portcullis-probe.service", unit)?;
    run("systemctl", &["daemon-reload"])?;
    run("systemctl", &["start", "portcullis-probe.service"])?;
    let entries = journal(&["_SYSTEMD_UNIT=portcullis-probe.service"])?;
    let confined: Vec<&str> = entries.iter().filter_map(|entry| entry["MESSAGE"].as_str()).collect();
    let answers = |lines: &[&str]| -> BTreeMap<String, bool> {
        let split = |line: &&str| {
            let mut words = line.split(' ');
            Some((words.next()?.to_owned(), words.next()? == "yes"))
        };
        lines.iter().filter_map(split).collect()
    };
    let (free, confined) = (answers(&free.lines().collect::<Vec<_>>()), answers(&confined));
    let mut wrong = Vec::new();
    for deed in probe::DEEDS {
        // What cannot be done without the unit says nothing of it.
        if free.get(deed.name) != Some(&true) {
            wrong.push(format!("{} cannot be done even without the unit", deed.name));
        }
        if confined.get(deed.name) != Some(&deed.left) {
            wrong.push(format!("{}: {:?}, and should be {}", deed.name, confined.get(deed.name), deed.left));
        }
    }
    ensure!(wrong.is_empty(), "{wrong:#?}\n{entries:?}");
    Ok(())
}

/// A field of the service's `/proc/PID/status`.
fn status_of(process: u32, field: &str) -> Result<String> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    Ok(line.with_context(|| field.to_owned())?.trim().to_owned())
}

/// What the page of metrics says.
fn metrics() -> Result<String> {
    let mut stream = TcpStream::connect(METRICS)?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    Ok(page)
}

/// Capabilities by their bits (linux/capability.h): IPC_LOCK, SYS_ADMIN, SYSLOG.
const IPC_LOCK: u64 = 1 << 14;
const SYS_ADMIN: u64 = 1 << 21;
const SYSLOG: u64 = 1 << 34;

fn service_works_confined_with_both_back_ends(world: &World) -> Result<()> {
    let mut stage = stage(world)?;
    let confined = |process: u32, capabilities: u64| -> Result<()> {
        let bits = |field| -> Result<u64> { Ok(u64::from_str_radix(&status_of(process, field)?, 16)?) };
        ensure!(bits("CapBnd")? == IPC_LOCK | SYS_ADMIN | SYSLOG, "{:#x}", bits("CapBnd")?);
        ensure!(bits("CapEff")? == capabilities, "{:#x}", bits("CapEff")?);
        ensure!(status_of(process, "NoNewPrivs")? == "1" && status_of(process, "Seccomp")? == "2");
        Ok(())
    };
    confined(stage.supervisor.process()?, IPC_LOCK | SYS_ADMIN)?;
    {
        let (mut lab, _, memory) = stage.lab()?;
        lab.ask(&format!("put {memory} 0 {PATTERN}"))?;
        lab.ask(&format!("edu read {EDU_IOVA:#x}"))?;
        lab.ask(&format!("edu write {:#x}", EDU_IOVA + 0x1000))?;
        ensure!(lab.ask(&format!("get {memory} 0x1000 16"))? == PATTERN, "DMA under the unit");
        let page = metrics()?;
        ensure!(page.contains("# EOF") && page.contains(&format!("device=\"{}\"", stage.edu)), "{page}");
    }
    // The same unit, and a configuration that simulates.
    let text = fs::read_to_string(CONFIGURATION)?.replace("backend = \"vfio\"", "backend = \"embedded\"");
    let text = text.replace(&stage.edu, "nic0").replace(&stage.disk, "disk0");
    fs::write(CONFIGURATION, text)?;
    stage.supervisor.start()?;
    confined(stage.supervisor.process()?, 0)?;
    let mut client = stage.remote(EDU_USER)?;
    ensure!(client.ask("claim nic0")? == "nic0");
    ensure!(Client::connect(None)?.status()?.simulated);
    for entry in journal(&["--unit=portcullis"])? {
        let message = entry["MESSAGE"].as_str().unwrap_or_default();
        ensure!(!message.contains("not given up") && !message.contains("panicked"), "{message}");
    }
    Ok(())
}

fn journal_has_the_fields_of_what_was_refused(world: &World) -> Result<()> {
    let mut stage = stage(world)?;
    let outside = EDU_IOVA + (1 << 20);
    {
        let (mut lab, ..) = stage.lab()?;
        stage.refused_dma(&mut lab, &format!("edu write {outside:#x}"), EDU_CLIENT, &stage.edu, outside)?;
    }
    // As the page for operators says it. QEMU's unit calls an entry that is not there one that permits nothing (VT-d 7.1.3, reason 5).
    let address = format!("ADDRESS={outside:#x}");
    let found = journal(&["--unit=portcullis", "REASON=permission-denied", &address])?;
    let entry = found.last().context("journalctl finds no refusal by its reason and address")?;
    println!("{entry:#}");
    for (field, value) in [
        ("MESSAGE", "refused"),
        ("CLIENT", EDU_CLIENT),
        ("DEVICES", &stage.edu),
        ("REQUESTER", &stage.edu),
        ("ACCESS", "w"),
        ("PRIORITY", "4"),
        ("SYSLOG_IDENTIFIER", "portcullis"),
    ] {
        ensure!(entry[field] == value, "{field}: {entry}");
    }
    ensure!(!journal(&["--unit=portcullis", "CLIENT=lab", "MESSAGE=claimed"])?.is_empty());
    // What happened before the service was stopped is listed by the next one.
    let before = run("portcullis", &["faults", "--client", EDU_CLIENT, "-j"])?;
    stage.supervisor.stop()?;
    stage.supervisor.start()?;
    let after = run("portcullis", &["faults", "--client", EDU_CLIENT, "-j"])?;
    let list = |text: &str| -> Result<Value> { Ok(serde_json::from_str::<Value>(text)?["faults"].take()) };
    ensure!(list(&before)? == list(&after)?, "{before}\n{after}");
    let events = run("portcullis", &["events", "--client", EDU_CLIENT, "-j"])?;
    ensure!(events.contains("claimed") && events.contains("released"), "{events}");
    Ok(())
}

fn hung_service_is_killed_and_takes_up_again(world: &World) -> Result<()> {
    let stage = stage(world)?;
    let canary = Canary::new()?;
    let mut storage = stage.busy_storage()?;
    let (mut lab, _, memory) = stage.lab()?;
    let hung = stage.supervisor.process()?;
    let pid = i32::try_from(hung).ok().and_then(rustix::process::Pid::from_raw).context("its process")?;
    rustix::process::kill_process(pid, rustix::process::Signal::STOP)?;
    let before = transfers(&mut storage)?;
    stage.reach_past_grants(&mut lab, &memory, &canary)?;
    eventually("what was granted is reached on", || Ok(transfers(&mut storage)? > before + 10))?;
    eventually("systemd starts it again", || {
        let now = stage.supervisor.process()?;
        Ok(now != hung && now != 0 && property("ActiveState")? == "active")
    })?;
    ensure!(property("NRestarts")? == "1", "{}", property("NRestarts")?);
    let told = journal(&["_PID=1", "UNIT=portcullis.service"])?;
    let watchdog =
        |entry: &&Value| entry["MESSAGE"].as_str().is_some_and(|text| text.contains("Watchdog timeout"));
    let why = told.iter().find(watchdog).context("systemd does not say that it was the watchdog")?;
    println!("{}", why["MESSAGE"]);
    let after = transfers(&mut storage)?;
    eventually("what was granted is reached on", || Ok(transfers(&mut storage)? > after + 10))?;
    stage.reach_past_grants(&mut lab, &memory, &canary)?;
    ensure!(lab.ask("resume")?.starts_with(&stage.edu), "it has it again");
    storage.ask("resume")?;
    storage.ask("disk traffic stop")?;
    if log().contains("panicked") {
        bail!("the service panicked");
    }
    canary.look()
}
