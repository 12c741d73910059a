//! `portcullis claim`.

use std::{
    os::fd::{AsFd, AsRawFd, OwnedFd},
    process::Command,
    sync::mpsc,
    thread,
};

use portcullis_client::{Error, api, device::SharedMemory};
use rustix::event::{EventfdFlags, eventfd};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;

use super::{At, bytes, size};
use crate::{
    exit::{Exit, Failure},
    output::Output,
};

/// Have a device for as long as this command runs; with COMMAND, for as long as that runs. Ends, and COMMAND with it, when the
/// device is taken away or unplugged. Exit code 0: COMMAND succeeded.
///
/// The device is blocked until something is granted: with --memory, that much fresh memory. COMMAND finds the device's
/// descriptor, where it has one, at the number in $PORTCULLIS_DEVICE_FD, and the memory's at $PORTCULLIS_MEMORY_FD with the
/// device's address of it in $PORTCULLIS_MEMORY_IOVA.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Name, pattern, or mmio:BASE. Everything in their groups comes along.
    device: String,
    /// Act under the configuration of this name.
    #[arg(long = "as", value_name = "CLIENT")]
    client: Option<String>,
    /// Grant so many bytes of fresh memory.
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    memory: Option<u64>,
    /// The device's address of that memory; chosen where not given.
    #[arg(long, value_name = "ADDRESS", value_parser = bytes, requires = "memory")]
    iova: Option<u64>,
    /// What the device may do with it.
    #[arg(long, default_value = "rw", requires = "memory")]
    access: api::Access,
    /// Have so many of the device's interrupt vectors signal event descriptors (eventfd(2)), whose numbers COMMAND finds in
    /// $PORTCULLIS_INTERRUPT_FDS, with spaces between them.
    #[arg(long, value_name = "VECTORS", value_parser = clap::value_parser!(u32).range(1..=DESCRIPTOR_LIMIT))]
    interrupts: Option<u32>,
    /// What to run meanwhile.
    #[arg(last = true)]
    command: Vec<String>,
    #[command(flatten)]
    at: At,
}

/// Descriptors that come with one message.
const DESCRIPTOR_LIMIT: i64 = api::DESCRIPTOR_LIMIT as i64;

#[derive(Serialize)]
struct Claimed {
    devices: Vec<String>,
    memory: Option<u64>,
    iova: Option<u64>,
}

pub(crate) fn run(arguments: &Args, output: &mut Output) -> Result<Exit, Failure> {
    let mut client = arguments.at.connect()?;
    if let Some(name) = &arguments.client {
        client.introduce(name)?;
    }
    let devices = client.claim(&arguments.device)?;
    let mut claimed =
        Claimed { devices: devices.iter().map(|(name, _)| name.clone()).collect(), memory: None, iova: None };
    let memory = match arguments.memory {
        Some(0) => return Err(Failure::usage("--memory 0: no memory at all; leave it out instead")),
        Some(length) => Some(
            SharedMemory::new("portcullis claim", length)
                .map_err(|error| Failure::new(format!("no {} of fresh memory: {error}", size(length))))?,
        ),
        None => None,
    };
    if let (Some(memory), Some(length)) = (&memory, arguments.memory) {
        let space = client.create_space()?;
        client.attach(space, &arguments.device, None)?;
        let number = client.add_memory(memory)?.memory;
        let asked = api::MapRequest { offset: 0, iova: arguments.iova, length, access: arguments.access };
        let granted = client.map_with_progress(space, Some(number), vec![asked], |done| {
            // Where a person waits; nobody is left to complain to when standard error is closed.
            use std::io::{IsTerminal, Write};
            let mut err = std::io::stderr();
            if err.is_terminal() {
                let _ = write!(err, "\rmapped {} of {}   ", size(done), size(length));
            }
        })?;
        claimed.memory = Some(number);
        claimed.iova = granted.first().map(|granted| granted.iova);
    }
    output.show(&claimed, |claimed, out| {
        writeln!(out, "claimed {}", claimed.devices.join(" "))?;
        if let (Some(iova), Some(length)) = (claimed.iova, arguments.memory) {
            writeln!(out, "granted {} at {iova:#x}, {}", size(length), arguments.access)?;
        }
        Ok(())
    })?;
    let events = (0..arguments.interrupts.unwrap_or(0))
        .map(|_| eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(std::io::Error::from))
        .collect::<Result<Vec<_>, _>>()?;
    if !events.is_empty() {
        let events: Vec<_> = events.iter().map(AsFd::as_fd).collect();
        client.set_interrupts(&arguments.device, &events)?;
    }
    let taken = Taken::watch(arguments, &claimed.devices)?;
    let Some((program, rest)) = arguments.command.split_first() else {
        return Err(taken.wait());
    };
    let mut command = Command::new(program);
    command.args(rest);
    if let Some(descriptor) = devices.iter().find_map(|(_, descriptor)| descriptor.as_ref()) {
        command.env("PORTCULLIS_DEVICE_FD", pass(descriptor)?);
    }
    let memory = match &memory {
        Some(memory) => Some(memory.as_fd().try_clone_to_owned()?),
        None => None,
    };
    if let (Some(memory), Some(iova)) = (&memory, claimed.iova) {
        command
            .env("PORTCULLIS_MEMORY_FD", pass(memory)?)
            .env("PORTCULLIS_MEMORY_IOVA", format!("{iova:#x}"));
    }
    if !events.is_empty() {
        let numbers = events.iter().map(pass).collect::<Result<Vec<_>, _>>()?;
        command.env("PORTCULLIS_INTERRUPT_FDS", numbers.join(" "));
    }
    let mut child =
        command.spawn().map_err(|error| Failure::new(format!("cannot run {program}: {error}")))?;
    let process = Pid::from_child(&child);
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let why = taken.wait();
        let _ = tell.send(why);
        // It works with a device that is no longer there; this program still holds it as its child, so the number is its own.
        let _ = kill_process(process, Signal::TERM);
    });
    let status = child.wait()?;
    if let Ok(why) = told.try_recv() {
        return Err(why);
    }
    if !status.success() {
        return Err(Failure::new(format!("{program}: {status}")));
    }
    Ok(Exit::Done)
}

/// Notices when what was claimed is ours no longer.
struct Taken {
    events: Box<dyn Iterator<Item = Result<api::Followed, Error>> + Send>,
    devices: Vec<String>,
    /// Taken before anyone looked.
    already: Option<String>,
}

impl Taken {
    fn watch(arguments: &Args, devices: &[String]) -> Result<Self, Failure> {
        let mut follower = arguments.at.connect()?;
        if let Some(name) = &arguments.client {
            follower.introduce(name)?;
        }
        let events = Box::new(follower.follow(true, false)?);
        // What happened before that is seen in how things are now.
        let held = arguments.at.connect()?.devices(None)?;
        let held = |name: &String| held.iter().any(|device| device.name == *name && device.holder.is_some());
        let already = devices.iter().find(|name| !held(name)).cloned();
        Ok(Self { events, devices: devices.to_vec(), already })
    }

    /// Waits for it.
    fn wait(self) -> Failure {
        let Self { mut events, devices, already } = self;
        let lost = |name: &str| Failure::new(format!("{name} was taken away"));
        if let Some(name) = already {
            return lost(&name);
        }
        let gone = events.find_map(|followed| match followed {
            Ok(api::Followed { event: Some(event), .. })
                if matches!(event.kind.as_str(), "released" | "disappeared") =>
            {
                event.devices.iter().find(|name| devices.contains(name)).map(|name| lost(name))
            }
            Ok(_) => None,
            Err(error) => Some(error.into()),
        });
        gone.unwrap_or_else(|| Failure::new("the service ended"))
    }
}

/// Lets a descriptor survive into the command; its number.
fn pass(descriptor: &OwnedFd) -> Result<String, Failure> {
    rustix::io::fcntl_setfd(descriptor, rustix::io::FdFlags::empty()).map_err(std::io::Error::from)?;
    Ok(descriptor.as_raw_fd().to_string())
}
