//! `portcullis demo`.

use std::{
    io::{self, Write},
    os::fd::{AsFd, OwnedFd},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use portcullis_client::{
    Client,
    api::{Access, Fault, ListFaults, MapRequest},
    device::SharedMemory,
};
use portcullis_manager::{
    core::{Accepted, Core, Policy},
    embedded::{
        ARCHITECTURES,
        backend::DEVICES,
        device::{Command, Operation, Outcome},
        simulate,
    },
    service::{self, Inherited, Policies, Settings},
};
use portcullis_spec::Pasid;
use rustix::event::{EventfdFlags, eventfd};
use serde::Serialize;

use crate::{
    exit::{Exit, Failure},
    output::{Output, table},
};

/// Run the service on a simulated machine with two guests and four devices, one of them hostile, for a few seconds, and report.
///
/// Nothing of this host is touched or protected. Exit code 0: every DMA came to what it should.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long the guests run.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// The simulated machine's IOMMU.
    #[arg(long, value_parser = ARCHITECTURES, default_value = ARCHITECTURES[0])]
    iommu: String,
}

const SIMULATED: &str =
    "This protects nothing real: the machine, its devices and their memory are simulated in this process.";
const PAGE: u64 = 4096;
/// Where each guest's memory is for its devices.
const BASE: u64 = 0x10_0000;
/// Pages of it; the last is granted to nobody and must keep what the guest wrote there.
const PAGES: u64 = 64;
const CANARY: u64 = 0x0102_0304_0506_0708;

/// One device at the end.
#[derive(Serialize)]
struct Device {
    device: String,
    guest: String,
    does: &'static str,
    arrived: u64,
    /// How often its guest was interrupted; not where the machine grants no interrupts.
    interrupts: Option<u64>,
    refused: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    simulated: bool,
    backend: String,
    seconds: u64,
    devices: Vec<Device>,
    faults: Vec<Fault>,
    /// What did not come out as it should.
    wrong: Vec<String>,
}

/// A guest: a client of the service with two devices and memory of its own.
struct Guest {
    client: Client,
    devices: Vec<(String, OwnedFd)>,
    /// Where each device's interrupts are counted, where it has any.
    events: Vec<(String, OwnedFd)>,
    memory: SharedMemory,
}

/// Has a device's interrupt counted, where it can have one.
fn interrupts(client: &mut Client, device: &str) -> Result<Option<OwnedFd>, Failure> {
    if client.devices(Some(device))?.iter().all(|device| device.vectors == 0) {
        return Ok(None);
    }
    let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(io::Error::from)?;
    client.set_interrupts(device, &[event.as_fd()])?;
    Ok(Some(event))
}

/// How often an event descriptor was signalled; 0 where it was not.
fn count(event: &OwnedFd) -> u64 {
    let mut count = [0; 8];
    match rustix::io::read(event, &mut count) {
        Ok(8) => u64::from_ne_bytes(count),
        _ => 0,
    }
}

impl Guest {
    /// Claims its devices and lets them reach all of its memory but the last page.
    fn new(socket: &Path, name: &str, devices: [&str; 2], granted: u64) -> Result<Self, Failure> {
        let mut client = Client::connect(Some(socket))?;
        client.introduce(name)?;
        let memory = SharedMemory::new(name, PAGES * PAGE)?;
        memory.write::<u64>((PAGES - 1) * PAGE, CANARY)?;
        let number = client.add_memory(&memory)?.memory;
        let space = client.create_space()?;
        let mut claimed = Vec::new();
        let mut granted_events = Vec::new();
        for device in devices {
            for (name, descriptor) in client.claim(device)? {
                let none = || Failure::new(format!("{name} has no descriptor"));
                claimed.push((name.clone(), descriptor.ok_or_else(none)?));
            }
            client.attach(space, device, None)?;
            // The rogue is granted none, so that each that it sends is forged.
            if device != "rogue0" {
                let events = interrupts(&mut client, device)?;
                granted_events.extend(events.map(|event| (device.to_owned(), event)));
            }
        }
        let access = Access::READ_WRITE;
        client.map(
            space,
            Some(number),
            vec![MapRequest { offset: 0, iova: Some(BASE), length: granted * PAGE, access }],
        )?;
        Ok(Self { client, devices: claimed, events: granted_events, memory })
    }
}

pub(crate) fn run(arguments: &Args, output: &mut Output) -> Result<Exit, Failure> {
    if !output.json() {
        output.raw(format!("{SIMULATED}\n").as_bytes())?;
    }
    let report = play(arguments.seconds, &arguments.iommu)?;
    output.show(&report, print)?;
    Ok(if report.wrong.is_empty() { Exit::Done } else { Exit::Failed })
}

/// Starts the service in a thread; it ends with this process.
fn start(socket: &Path, iommu: &str) -> Result<String, Failure> {
    let backend = simulate(iommu, &DEVICES).ok_or_else(|| Failure::new("nothing simulates that"))??;
    let core = Core::start::<Failure>(backend, Accepted::default(), Ok)?;
    let backend = core.backend().name();
    let clients = [Policy::new("alice", ["nic0", "disk0"]), Policy::new("mallory", ["accel0", "rogue0"])];
    let settings = Settings::new(socket, Policies::for_own_user(clients));
    service::start(core, settings, Inherited::default())?;
    Ok(backend)
}

fn play(seconds: u64, iommu: &str) -> Result<Report, Failure> {
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("socket");
    let backend = start(&socket, iommu)?;
    let alice = Guest::new(&socket, "alice", ["nic0", "disk0"], PAGES - 1)?;
    // Mallory's devices get one page.
    let mut mallory = Guest::new(&socket, "mallory", ["accel0", "rogue0"], 1)?;
    let mut wrong = Vec::new();

    // The network card's ring: eight buffers of a page from the second page on.
    for entry in 0..8 {
        alice.memory.write::<u64>(entry * 16, BASE + (1 + entry) * PAGE)?;
        alice.memory.write::<u64>(entry * 16 + 8, 1500)?;
    }
    Command::new(Operation::Stream, BASE, 8, 20_000).send(&alice.devices[0].1)?;
    // Rounds that it will not come to the end of.
    Command::new(Operation::Attack, BASE, 1 << 20, 2_000).send(&mallory.devices[1].1)?;
    let shared = mallory.client.create_space()?;
    mallory.client.attach(shared, "accel0", Some(7))?;

    let end = Instant::now() + Duration::from_secs(seconds);
    let mut round = 0;
    while Instant::now() < end {
        // The disk: a block is written, read back elsewhere, and compared.
        let (from, to) = (32 * PAGE, 40 * PAGE);
        alice.memory.write::<u64>(from, round)?;
        let disk = &alice.devices[1].1;
        let written = Command::new(Operation::WriteBlocks, BASE + from, 512, round % 1000).send(disk)?;
        let read = Command::new(Operation::ReadBlocks, BASE + to, 512, round % 1000).send(disk)?;
        if written.outcome != Outcome::Done
            || read.outcome != Outcome::Done
            || alice.memory.read::<u64>(to)? != round
        {
            wrong.push(format!("alice's disk lost block {round}"));
        }
        // The accelerator adds up what it was granted, and finds nothing under a PASID that was granted nothing.
        let accelerator = &mallory.devices[0].1;
        if Command::new(Operation::Sum, BASE, PAGE, 0).send(accelerator)?.outcome != Outcome::Done {
            wrong.push("mallory's accelerator was refused its own page".into());
        }
        let empty = Command { pasid: Pasid::new(7), ..Command::new(Operation::Read, BASE, 8, 0) };
        if empty.send(accelerator)?.outcome != Outcome::Refused {
            wrong.push("a PASID reached memory that was not granted to it".into());
        }
        round += 1;
        thread::sleep(Duration::from_millis(5));
    }
    let streamed = Command::new(Operation::Stop, 0, 0, 0).send(&alice.devices[0].1)?.value;
    Command::new(Operation::Stop, 0, 0, 0).send(&mallory.devices[1].1)?;
    if streamed == 0 {
        wrong.push("alice's network card filled no buffer".into());
    }
    for (name, guest) in [("alice", &alice), ("mallory", &mallory)] {
        if guest.memory.read::<u64>((PAGES - 1) * PAGE)? != CANARY {
            wrong.push(format!("the page that {name} granted to nobody has changed"));
        }
    }
    let events: Vec<(String, u64)> = [&alice, &mallory]
        .iter()
        .flat_map(|guest| &guest.events)
        .map(|(device, event)| (device.clone(), count(event)))
        .collect();
    // One for each buffer, each command of the disk and each sum: none is missing, and none was forged.
    let due = [("nic0", streamed), ("disk0", 2 * round), ("accel0", round)];
    for (device, count) in &events {
        let due = due.iter().find(|(name, _)| name == device).map_or(0, |(_, due)| *due);
        if *count != due {
            wrong.push(format!("{device} interrupted {count} times, not {due}"));
        }
    }
    report(&socket, backend, seconds, &events, wrong)
}

fn report(
    socket: &Path,
    backend: String,
    seconds: u64,
    events: &[(String, u64)],
    mut wrong: Vec<String>,
) -> Result<Report, Failure> {
    let mut looker = Client::connect(Some(socket))?;
    let devices: Vec<Device> = looker
        .statistics()?
        .devices
        .into_iter()
        .map(|counts| Device {
            does: match counts.device.as_str() {
                "nic0" => "streams into a ring of buffers",
                "disk0" => "writes blocks and reads them back",
                "accel0" => "adds up; under a PASID that was granted nothing, too",
                _ => "tries everything around its one page, and forges interrupts",
            },
            interrupts: events.iter().find(|(device, _)| *device == counts.device).map(|(_, count)| *count),
            device: counts.device,
            guest: counts.client.unwrap_or_default(),
            arrived: counts.requests.unwrap_or(0),
            refused: counts.faults,
        })
        .collect();
    for device in &devices {
        let hostile = matches!(device.device.as_str(), "rogue0" | "accel0");
        if hostile != (device.refused > 0) {
            wrong.push(format!("{} of {} was refused {} times", device.device, device.guest, device.refused));
        }
    }
    let of_rogue = ListFaults { device: Some("rogue0".into()), limit: Some(8), ..ListFaults::default() };
    let faults = looker.faults(&of_rogue)?.faults;
    Ok(Report { simulated: true, backend, seconds, devices, faults, wrong })
}

fn print(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    writeln!(
        out,
        "\nTwo guests ran for {} s on {}; mallory's rogue0 was hostile.\n",
        report.seconds, report.backend
    )?;
    let mut rows = table(["DEVICE", "GUEST", "DOES", "ARRIVED", "INTERRUPTS", "REFUSED"]);
    for device in &report.devices {
        let (arrived, refused) = (device.arrived.to_string(), device.refused.to_string());
        let interrupts = device.interrupts.map_or_else(|| "-".into(), |count| count.to_string());
        rows.add_row([&device.device, &device.guest, device.does, &arrived, &interrupts, &refused]);
    }
    writeln!(out, "{}\n\nThe first that rogue0 was refused:\n", rows.trim_fmt())?;
    let mut rows = table(["TIME", "CLIENT", "ADDRESS", "ACCESS", "WHY"]);
    for fault in &report.faults {
        rows.add_row([
            crate::service::time(fault.time),
            fault.client.clone().unwrap_or_default(),
            format!("{:#x}", fault.address),
            fault.access.to_string(),
            fault.reason.clone(),
        ]);
    }
    writeln!(out, "{}\n", rows.trim_fmt())?;
    if report.wrong.is_empty() {
        return writeln!(
            out,
            "Every DMA came to what it should: all that was granted arrived, and nothing else did."
        );
    }
    writeln!(out, "NOT AS IT SHOULD BE:")?;
    report.wrong.iter().try_for_each(|what| writeln!(out, "  {what}"))
}
