//! `portcullis demo`.

use std::io::{self, Write};

use portcullis_driver::{Device, DomainOptions};
use portcullis_manager::embedded::{Embedded, EmbeddedOptions, Engine};
use portcullis_spec::vtd::VtdFaultReason;
use portcullis_spec::{Access, Fault, Iova, PciAddress, PhysAddr};
use serde::Serialize;

use crate::{
    exit::{Exit, Failure},
    output::{Output, table},
};

/// Show what a VT-d unit does to two devices, one of them hostile: our driver over our model, in this process. Nothing of
/// this host is touched.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// What is said before anything else.
const SIMULATED: &str = "This is a simulation: it protects memory of this process, and nothing of this host.";

const CARD: PciAddress = PciAddress::new(0, 0, 3, 0);
const HOSTILE: PciAddress = PciAddress::new(0, 0, 4, 0);
const PAGE: u64 = 4096;
const SECRET: &[u8] = b"the network card's own bytes";

/// One DMA.
#[derive(Serialize)]
struct Step {
    device: String,
    does: &'static str,
    address: Iova,
    /// Whether it is to succeed.
    allowed: bool,
    /// Whether it did.
    succeeded: bool,
    /// What the unit recorded, decoded.
    fault: Option<Fault>,
}

#[derive(Serialize)]
struct Report {
    simulated: bool,
    mode: String,
    steps: Vec<Step>,
    /// Whether the network card's memory still holds what it wrote.
    intact: bool,
    /// Whether every DMA came to what it should.
    as_expected: bool,
}

/// The platform, with a record of what was done on it.
struct Stage {
    platform: Embedded,
    steps: Vec<Step>,
}

impl Stage {
    fn engine(&self, device: PciAddress) -> Engine {
        self.platform.engine(device, None)
    }

    fn step(&mut self, device: PciAddress, does: &'static str, address: u64, write: bool, allowed: bool) {
        let address = Iova(address);
        let engine = self.engine(device);
        let mut bytes = [0u8; 8];
        let outcome =
            if write { engine.write(address, &[0x66; 8]) } else { engine.read(address, &mut bytes) };
        let mut fault = None;
        self.platform.unit().read_faults(|record| fault = Some(record.fault));
        self.steps.push(Step {
            device: device.to_string(),
            does,
            address,
            allowed,
            succeeded: outcome.is_ok(),
            fault,
        });
    }
}

pub(crate) fn run(_arguments: &Args, output: &mut Output) -> Result<Exit, Failure> {
    let report = play()?;
    output.show(&report, print)?;
    Ok(if report.as_expected { Exit::Done } else { Exit::Failed })
}

fn play() -> Result<Report, Failure> {
    let platform = Embedded::new(EmbeddedOptions::default())?;
    let memory = platform.add_memory(16 * PAGE)?;
    let mode = format!("{:?}", platform.unit().architecture().mode()).to_lowercase();
    let mut stage = Stage { platform, steps: Vec::new() };
    let unit = stage.platform.unit().clone();
    for device in [CARD, HOSTILE] {
        unit.add_device(Device::new(device))?;
    }

    stage.step(CARD, "reads before anyone has let it", 0x1_0000, false, false);
    stage.step(HOSTILE, "reads physical memory before anyone has let it", memory.0, false, false);

    let card = unit.create_domain(DomainOptions::default())?;
    card.map(Iova(0x1_0000), memory, 4 * PAGE, Access::READ_WRITE)?;
    card.map(Iova(0x2_0000), PhysAddr(memory.0 + 4 * PAGE), PAGE, Access::READ)?;
    unit.attach(CARD, None, &card)?;
    stage.step(CARD, "writes its receive buffer", 0x1_0000, true, true);
    stage.step(CARD, "reads its transmit buffer", 0x2_0000, false, true);
    stage.step(CARD, "writes its transmit buffer, which it may only read", 0x2_0000, true, false);
    stage.engine(CARD).write(Iova(0x1_0000), SECRET)?;

    let hostile = unit.create_domain(DomainOptions::default())?;
    hostile.map(Iova(0x4_0000), PhysAddr(memory.0 + 8 * PAGE), PAGE, Access::READ_WRITE)?;
    unit.attach(HOSTILE, None, &hostile)?;
    stage.step(HOSTILE, "writes the one page it was given", 0x4_0000, true, true);
    stage.step(HOSTILE, "writes past the end of it", 0x4_1000, true, false);
    stage.step(HOSTILE, "reads where the card's buffer is for the card", 0x1_0000, false, false);
    stage.step(HOSTILE, "reads where the card's buffer is in memory", memory.0, false, false);
    stage.step(HOSTILE, "writes the unit's own tables", 0x1_0000, true, false);
    stage.step(HOSTILE, "writes beyond the address width", 1 << 60, true, false);

    card.unmap(Iova(0x2_0000), PAGE)?;
    stage.step(CARD, "reads its transmit buffer after it was taken back", 0x2_0000, false, false);
    unit.detach(HOSTILE, None)?;
    stage.step(HOSTILE, "writes its page after it was detached", 0x4_0000, true, false);

    let mut now = [0; SECRET.len()];
    let intact = stage.engine(CARD).read(Iova(0x1_0000), &mut now).is_ok() && now == SECRET;
    let as_expected = intact
        && stage
            .steps
            .iter()
            .all(|step| step.allowed == step.succeeded && step.fault.is_some() != step.succeeded);
    Ok(Report { simulated: true, mode, steps: stage.steps, intact, as_expected })
}

fn print(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{SIMULATED}\n")?;
    writeln!(out, "Intel VT-d, {} mode: {CARD} is a network card, {HOSTILE} is hostile.\n", report.mode)?;
    let mut rows = table(["DEVICE", "DOES", "ADDRESS", "CAME TO", "RECORDED"]);
    for step in &report.steps {
        let recorded = step.fault.map_or_else(String::new, |fault| {
            let reason = u8::try_from(fault.code).ok().and_then(VtdFaultReason::from_code);
            let why = reason.map_or("unknown reason", VtdFaultReason::description);
            format!("{:#04x} at {}: {why}", fault.code, fault.address)
        });
        let came_to = match (step.succeeded, step.succeeded == step.allowed) {
            (true, true) => "done",
            (false, true) => "refused",
            (true, false) => "DONE, AND SHOULD NOT",
            (false, false) => "REFUSED, AND SHOULD NOT",
        };
        rows.add_row([&step.device, step.does, &step.address.to_string(), came_to, &recorded]);
    }
    writeln!(out, "{rows}\n")?;
    let memory = if report.intact { "is untouched" } else { "HAS CHANGED" };
    writeln!(out, "What the card wrote {memory}.")
}
