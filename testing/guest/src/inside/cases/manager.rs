//! The service on a real kernel: root's process and two unprivileged clients, one that drives the disk and one that drives `edu`.
//!
//! Expectations come from the kernel (sysfs, its log, `/proc`), from the devices themselves, and from the disk's image outside.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use portcullis_client::Client;
use portcullis_client::api::{Fault, Faults};
use portcullis_guest::{TOLD_AFTER, content};

use crate::canary::Canary;
use crate::case::{Case, On, World};
use crate::client::Remote;
use crate::network;
use crate::supervisor::{LOG, Starter, Supervisor};

const fn case(name: &'static str, run: fn(&World) -> Result<()>) -> Case {
    Case { name, seconds: 300, on: On::Every, run }
}

pub(crate) const CASES: &[Case] = &[
    Case {
        on: On::Only("amd"),
        ..case("unsafe_interrupts_are_refused_until_accepted", unsafe_interrupts_are_refused_until_accepted)
    },
    case("service_says_what_it_guards", service_says_what_it_guards),
    case("disk_is_read_and_written_through_grants", disk_is_read_and_written_through_grants),
    case("edu_reaches_its_grants_and_nothing_else", edu_reaches_its_grants_and_nothing_else),
    case("clients_reach_nothing_of_each_other", clients_reach_nothing_of_each_other),
    case("memory_that_is_not_a_clients_is_refused", memory_that_is_not_a_clients_is_refused),
    case("unmapped_is_gone_at_once", unmapped_is_gone_at_once),
    case("killed_client_leaves_nothing_behind", killed_client_leaves_nothing_behind),
    case(
        "killed_service_widens_nothing_and_takes_up_again",
        killed_service_widens_nothing_and_takes_up_again,
    ),
    case("nothing_ungranted_is_reached_over_a_crash", nothing_ungranted_is_reached_over_a_crash),
    case(
        "network_card_is_taken_from_its_driver_and_works_again_after",
        network_card_is_taken_from_its_driver_and_works_again_after,
    ),
];

/// The program, and the configuration of the service.
const PROGRAM: &str = "/bin/portcullis";
const CONFIGURATION: &str = "/etc/portcullis.toml";
const SERVICE: [&str; 4] = [PROGRAM, "run", "--config", CONFIGURATION];

/// Users of the clients; the third is nobody's.
pub(super) const DISK_USER: u32 = 1001;
pub(super) const EDU_USER: u32 = 1002;
const STRANGER: u32 = 1003;
/// Their names in the configuration.
pub(super) const DISK_CLIENT: &str = "storage";
pub(super) const EDU_CLIENT: &str = "lab";

/// What one case needs: devices by name, and the service.
pub(super) struct Stage {
    pub(super) disk: String,
    pub(super) edu: String,
    nic: String,
    amd: bool,
    /// The configuration gives the network card to the client that drives `edu`.
    nic_is_given: bool,
    pub(super) supervisor: Box<dyn Starter>,
    /// The file of its configuration, and what stands there beside who may have what.
    configuration: &'static str,
    more: String,
    /// Of users who may connect; their own where everyone may.
    group: Option<u32>,
}

/// What takes a moment may take as long on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(60);

/// The kernel's driver for VT-d writes ten lines in five seconds, two for each refusal.
const CALM: Duration = Duration::from_secs(5);

impl Stage {
    fn set(world: &World) -> Result<Self> {
        let mut stage = Self::without_service(world)?;
        stage.start(true)?;
        Ok(stage)
    }

    fn without_service(world: &World) -> Result<Self> {
        Self::with(world, Box::new(Supervisor::new(&SERVICE)?), CONFIGURATION, String::new(), None)
    }

    /// One whose service somebody else starts.
    pub(super) fn with(
        world: &World,
        supervisor: Box<dyn Starter>,
        configuration: &'static str,
        more: String,
        group: Option<u32>,
    ) -> Result<Self> {
        Ok(Self {
            disk: function(0x1b36, 0x0010)?,
            edu: function(0x1234, 0x11e8)?,
            nic: function(0x8086, 0x10d3)?,
            amd: world.machine.starts_with("amd"),
            nic_is_given: false,
            supervisor,
            configuration,
            more,
            group,
        })
    }

    /// Starts the service; `accept` says whether its configuration accepts interrupts that are not isolated, where that is needed.
    pub(super) fn start(&mut self, accept: bool) -> Result<()> {
        self.configure(accept)?;
        self.supervisor.start()
    }

    pub(super) fn configure(&self, accept: bool) -> Result<()> {
        let accepted = if accept && self.amd { "\"ivhd0\"" } else { "" };
        let (disk, edu) = (&self.disk, &self.edu);
        let nic = if self.nic_is_given { format!(", \"{}\"", self.nic) } else { String::new() };
        let text = format!(
            "[service]\nbackend = \"vfio\"\n\n[accept]\nunsafe-interrupts = [{accepted}]\n\n\
             [[client]]\nname = \"{DISK_CLIENT}\"\nusers = [{DISK_USER}]\ndevices = [\"{disk}\"]\n\n\
             [[client]]\nname = \"{EDU_CLIENT}\"\nusers = [{EDU_USER}]\ndevices = [\"{edu}\"{nic}]\n\n{}",
            self.more
        );
        Ok(fs::write(self.configuration, text)?)
    }

    /// A client of this user, connected to the service.
    pub(super) fn remote(&self, user: u32) -> Result<Remote> {
        Remote::start(user, self.group.unwrap_or(user))
    }

    /// The client that drives the disk: claimed, started, with a buffer of its own at `DISK_IOVA`.
    pub(super) fn storage(&self) -> Result<Remote> {
        let mut client = self.remote(DISK_USER)?;
        client.ask(&format!("claim {}", self.disk))?;
        self.start_disk(&mut client)?;
        Ok(client)
    }

    /// The same, with traffic on the disk from now on.
    pub(super) fn busy_storage(&self) -> Result<Remote> {
        let mut client = self.storage()?;
        client.ask("disk traffic start")?;
        eventually("traffic", || Ok(transfers(&mut client)? > 10))?;
        Ok(client)
    }

    pub(super) fn start_disk(&self, client: &mut Remote) -> Result<()> {
        let space = client.ask("space")?;
        client.ask(&format!("attach {space} {}", self.disk))?;
        let memory = client.ask(&format!("memory {}", crate::nvme::MEMORY))?;
        client.ask(&format!("map {space} {memory} 0 {DISK_IOVA:#x} {} rw", crate::nvme::MEMORY))?;
        let about = client.ask(&format!("disk start {} {memory} {DISK_IOVA:#x}", self.disk))?;
        println!("{about}");
        Ok(())
    }

    /// The client that drives `edu`, with a megabyte at `EDU_IOVA`: the client, its space, its memory.
    pub(super) fn lab(&self) -> Result<(Remote, String, String)> {
        let mut client = self.remote(EDU_USER)?;
        let (space, memory) = self.claim_edu(&mut client)?;
        Ok((client, space, memory))
    }

    fn claim_edu(&self, client: &mut Remote) -> Result<(String, String)> {
        client.ask(&format!("claim {}", self.edu))?;
        let space = client.ask("space")?;
        client.ask(&format!("attach {space} {}", self.edu))?;
        let memory = client.ask("memory 1048576")?;
        client.ask(&format!("map {space} {memory} 0 {EDU_IOVA:#x} 1048576 rw"))?;
        client.ask(&format!("edu start {}", self.edu))?;
        Ok((space, memory))
    }

    /// Violations of a client after violation `after`, as `portcullis faults` lists them. How long they took the host judges: on a
    /// busy machine a single one may take long for other reasons than ours.
    pub(super) fn faults(&self, client: &str, after: u64) -> Result<Vec<Fault>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let listed = list_faults(&["--client", client])?;
            let found: Vec<Fault> = listed.into_iter().filter(|fault| fault.number > after).collect();
            if !found.is_empty() || Instant::now() > deadline {
                return Ok(found);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The number of the last violation.
    pub(super) fn last_fault(&self) -> Result<u64> {
        Ok(list_faults(&[])?.iter().map(|fault| fault.number).max().unwrap_or(0))
    }

    /// Has `client`'s device do what should be refused, and looks for it among the violations. QEMU 10.0's amd-iommu reports none.
    pub(super) fn refused_dma(
        &self,
        remote: &mut Remote,
        command: &str,
        client: &str,
        device: &str,
        address: u64,
    ) -> Result<()> {
        if !self.amd {
            thread::sleep(CALM);
        }
        let before = self.last_fault()?;
        println!("{command}: {:?}", remote.ask(command)?);
        if self.amd {
            return Ok(());
        }
        let refused = Instant::now();
        let faults = self.faults(client, before)?;
        let there = faults.iter().find(|fault| fault.address & !0xfff == address);
        let fault = there.with_context(|| format!("{command} is not among {faults:?}"))?;
        ensure!(fault.devices == [device], "{fault:?}");
        println!("{fault:?}");
        println!("evidence {TOLD_AFTER} {}", refused.elapsed().as_millis());
        Ok(())
    }

    /// Has `edu` write to memory that nobody granted, and read from there: nothing arrives either way. `memory` is mapped at
    /// `EDU_IOVA`, or was.
    pub(super) fn reach_past_grants(&self, lab: &mut Remote, memory: &str, canary: &Canary) -> Result<()> {
        lab.ask(&format!("put {memory} 0 {PATTERN}"))?;
        lab.ask(&format!("edu read {EDU_IOVA:#x}"))?;
        lab.ask(&format!("edu write {:#x}", canary.physical))?;
        canary.look()?;
        lab.ask(&format!("edu read {:#x}", canary.physical))?;
        lab.ask(&format!("edu write {:#x}", EDU_IOVA + 0x6000))?;
        let found = lab.ask(&format!("get {memory} 0x6000 16"))?;
        ensure!(found != Canary::secret(), "a device read what nobody granted");
        Ok(())
    }
}

/// How often the disk's traffic has moved something.
pub(super) fn transfers(storage: &mut Remote) -> Result<u64> {
    Ok(storage.ask("disk traffic count")?.parse()?)
}

/// What `portcullis faults` lists.
fn list_faults(arguments: &[&str]) -> Result<Vec<Fault>> {
    let output = Command::new(PROGRAM).args(["faults", "--json"]).args(arguments).output()?;
    ensure!(output.status.success(), "portcullis faults: {}", String::from_utf8_lossy(&output.stderr));
    let faults: Faults = serde_json::from_slice(&output.stdout)?;
    Ok(faults.faults)
}

const DISK_IOVA: u64 = 0x100_0000;
pub(super) const EDU_IOVA: u64 = 0x10_0000;

/// The first function with these IDs, by its name in sysfs.
fn function(vendor: u16, device: u16) -> Result<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/bus/pci/devices")? {
        let path = entry?.path();
        let id = |file: &str| -> Result<u16> {
            let text = fs::read_to_string(path.join(file))?;
            Ok(u16::from_str_radix(text.trim().trim_start_matches("0x"), 16)?)
        };
        let alone = fs::read_dir(path.join("iommu_group/devices")).is_ok_and(|members| members.count() == 1);
        if alone && id("vendor")? == vendor && id("device")? == device {
            found.extend(path.file_name().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    found.sort();
    found.into_iter().next().with_context(|| format!("no {vendor:04x}:{device:04x} stands alone"))
}

pub(super) fn driver(name: &str) -> Option<String> {
    let link = fs::read_link(format!("/sys/bus/pci/devices/{name}/driver")).ok()?;
    Some(link.file_name()?.to_string_lossy().into_owned())
}

/// Bytes that are pinned for a process, in KiB.
fn locked(process: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmLck:")).context("VmLck")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// What the service said.
pub(super) fn log() -> String {
    if let Ok(said) = fs::read_to_string(LOG) {
        return said;
    }
    let journal =
        Command::new("journalctl").args(["--unit=portcullis", "--lines=60", "--output=cat"]).output();
    journal.map(|said| String::from_utf8_lossy(&said.stdout).into_owned()).unwrap_or_default()
}

pub(super) fn eventually(what: &str, mut true_now: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !true_now()? {
        ensure!(Instant::now() < deadline, "{what} did not become true; the service said\n{}", log());
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn unsafe_interrupts_are_refused_until_accepted(world: &World) -> Result<()> {
    let mut stage = Stage::without_service(world)?;
    stage.start(false)?;
    let mut client = stage.remote(EDU_USER)?;
    let refused = client.refused(&format!("claim {}", stage.edu))?;
    ensure!(refused.name == "Unsafe" && refused.message.contains("ivhd0"), "{refused:?}");
    ensure!(driver(&stage.edu).is_none(), "it was taken all the same");
    drop(client);
    stage.supervisor.stop()?;
    stage.start(true)?;
    let (mut client, ..) = stage.lab()?;
    client.ask(&format!("edu write {EDU_IOVA:#x}"))?;
    Ok(())
}

fn service_says_what_it_guards(world: &World) -> Result<()> {
    let stage = Stage::set(world)?;
    let mut operator = Client::connect(None)?;
    let status = operator.status()?;
    ensure!(status.backend == "vfio" && !status.simulated && status.operator, "{status:?}");
    let devices = operator.devices(None)?;
    for name in [&stage.disk, &stage.edu, &stage.nic] {
        let device = devices.iter().find(|device| device.name == *name).with_context(|| name.clone())?;
        ensure!(device.driver == driver(name) && device.holder.is_none(), "{device:?}");
        let group = fs::read_link(format!("/sys/bus/pci/devices/{name}/iommu_group"))?;
        ensure!(group.ends_with(device.group.to_string()), "{device:?}");
    }
    let _client = stage.storage()?;
    let devices = operator.devices(Some(&stage.disk))?;
    ensure!(devices[0].holder.as_deref() == Some(DISK_CLIENT), "{devices:?}");
    ensure!(
        devices[0].driver.as_deref() == Some("nvme"),
        "the driver that has it while no client does: {devices:?}"
    );
    Ok(())
}

fn disk_is_read_and_written_through_grants(world: &World) -> Result<()> {
    let stage = Stage::set(world)?;
    let mut client = stage.storage()?;
    let sum = client.ask(&format!("disk sum 0 {}", content::PROBED))?;
    println!("evidence {} {sum}", content::READ);
    let written = 4096;
    client.ask(&format!("disk change {written} {}", content::PROBED))?;
    let sum = client.ask(&format!("disk sum {written} {}", content::PROBED))?;
    let wanted = content::sum((written..written + content::PROBED).map(content::changed));
    ensure!(sum == wanted, "what was written reads as {sum}");
    println!("evidence {} {written}", content::WRITTEN);
    let outside = DISK_IOVA + crate::nvme::MEMORY;
    stage.refused_dma(&mut client, &format!("disk read-to {outside:#x}"), DISK_CLIENT, &stage.disk, outside)
}

/// Sixteen bytes that are put into a memory and brought elsewhere by DMA.
pub(super) const PATTERN: &str = "inside-the-grant";
const NOTHING: &str = "................";

fn edu_reaches_its_grants_and_nothing_else(world: &World) -> Result<()> {
    let stage = Stage::set(world)?;
    let (mut client, _, memory) = stage.lab()?;
    client.ask(&format!("put {memory} 0x1000 {PATTERN}"))?;
    client.ask(&format!("edu read {:#x}", EDU_IOVA + 0x1000))?;
    client.ask(&format!("edu write {:#x}", EDU_IOVA + 0x2000))?;
    ensure!(client.ask(&format!("get {memory} 0x2000 16"))? == PATTERN, "inside the grant");
    stage.reach_past_grants(&mut client, &memory, &Canary::new()?)?;
    for outside in [EDU_IOVA + (1 << 20), EDU_IOVA - 0x1000] {
        stage.refused_dma(
            &mut client,
            &format!("edu write {outside:#x}"),
            EDU_CLIENT,
            &stage.edu,
            outside,
        )?;
    }
    Ok(())
}

fn clients_reach_nothing_of_each_other(world: &World) -> Result<()> {
    let stage = Stage::set(world)?;
    let mut storage = stage.storage()?;
    let (mut lab, space, memory) = stage.lab()?;
    // Devices: another's, one that is nobody's, and one that somebody has.
    for (client, device) in [(&mut lab, &stage.disk), (&mut storage, &stage.edu)] {
        let refused = client.refused(&format!("claim {device}"))?;
        ensure!(["NotPermitted", "Held"].contains(&refused.name.as_str()), "{refused:?}");
    }
    let refused = lab.refused(&format!("claim {}", stage.nic))?;
    ensure!(refused.name == "NotPermitted", "{refused:?}");
    // Spaces and memories, by the numbers that the other has.
    let own = storage.ask("space")?;
    let own_memory = storage.ask("memory 4096")?;
    for command in [
        format!("map {own} {memory} 0 0x5000000 4096 rw"),
        format!("map {space} {memory} 0 0x5000000 4096 rw"),
        format!("map {space} {own_memory} 0 0x5000000 4096 rw"),
        format!("unmap {space} {EDU_IOVA:#x} 1048576"),
        format!("attach {space} {}", stage.disk),
    ] {
        storage.refused(&command)?;
    }
    // And the address that the other uses means something else here.
    let outside = EDU_IOVA;
    stage.refused_dma(
        &mut storage,
        &format!("disk read-to {outside:#x}"),
        DISK_CLIENT,
        &stage.disk,
        outside,
    )?;
    ensure!(lab.ask(&format!("get {memory} 0 16"))? == NOTHING, "the disk wrote into the other's memory");
    // Who is in no configuration has nothing.
    let mut stranger = stage.remote(STRANGER)?;
    for device in [&stage.disk, &stage.edu, &stage.nic] {
        ensure!(stranger.refused(&format!("claim {device}"))?.name == "NotPermitted");
    }
    Ok(())
}

fn memory_that_is_not_a_clients_is_refused(world: &World) -> Result<()> {
    let stage = Stage::set(world)?;
    let (mut client, space, memory) = stage.lab()?;
    for path in ["/dev/zero", "/proc/self/exe", "/dev/null"] {
        client.refused(&format!("offer {path}"))?;
    }
    for command in [
        format!("map {space} physical 0x1000000 0x4000000 4096 rw"),
        format!("map {space} {memory} 1048576 0x4000000 4096 rw"),
        format!("map {space} {memory} 0xfffffffffffff000 0x4000000 8192 rw"),
        format!("map {space} {memory} 0 0xfffffffffffff000 8192 rw"),
        format!("map {space} {memory} 0 0xfee00000 4096 rw"),
        format!("map {space} {memory} 0 {EDU_IOVA:#x} 4096 rw"),
        format!("map {space} {memory} 0 0x4000001 4096 rw"),
        format!("map {space} {memory} 0 0x4000000 0 rw"),
    ] {
        client.refused(&command)?;
    }
    client.ask(&format!("map {space} {memory} 0 0x4000000 4096 rw"))?;
    Ok(())
}

fn unmapped_is_gone_at_once(world: &World) -> Result<()> {
    let stage = Stage::set(world)?;
    let (mut client, space, memory) = stage.lab()?;
    client.ask(&format!("map {space} {memory} 0x8000 0x4000000 4096 rw"))?;
    client.ask(&format!("put {memory} 0 {PATTERN}"))?;
    client.ask(&format!("edu read {EDU_IOVA:#x}"))?;
    client.ask("edu write 0x4000000")?;
    ensure!(client.ask(&format!("get {memory} 0x8000 16"))? == PATTERN, "so the unit may have cached it");
    client.ask(&format!("put {memory} 0x8000 {}", "-".repeat(16)))?;
    client.ask(&format!("unmap {space} 0x4000000 4096"))?;
    client.ask("edu write 0x4000000")?;
    ensure!(client.ask(&format!("get {memory} 0x8000 16"))? == "-".repeat(16), "after it was unmapped");
    client.ask(&format!("edu write {:#x}", EDU_IOVA + 0x9000))?;
    ensure!(client.ask(&format!("get {memory} 0x9000 16"))? == PATTERN, "the other grant stands");
    Ok(())
}

fn killed_client_leaves_nothing_behind(world: &World) -> Result<()> {
    let stage = Stage::set(world)?;
    let service = stage.supervisor.process()?;
    let before = (driver(&stage.disk), locked(service)?);
    ensure!(before.0.as_deref() == Some("nvme"));
    let client = stage.busy_storage()?;
    ensure!(locked(service)? > before.1, "its memory is pinned");
    ensure!(driver(&stage.disk).as_deref() == Some("vfio-pci"));
    client.kill()?;
    eventually("the driver is back", || Ok(driver(&stage.disk) == before.0))?;
    eventually("its memory is not pinned", || Ok(locked(service)? == before.1))?;
    // The kernel's driver finds a disk that was reset, and reads it.
    let block = format!("/sys/bus/pci/devices/{}/nvme", stage.disk);
    eventually("the disk is back", || Ok(fs::read_dir(&block).is_ok_and(|names| names.count() == 1)))?;
    let mut next = stage.remote(DISK_USER)?;
    next.ask(&format!("claim {}", stage.disk))?;
    // As after power-on: the former client's settings are gone, and the kernel's driver leaves others (CC.SHN).
    let registers = next.ask(&format!("disk registers {}", stage.disk))?;
    ensure!(registers == "CC 0x0, CSTS 0x0", "the disk was not reset: {registers}");
    stage.start_disk(&mut next)?;
    let sum = next.ask(&format!("disk sum 0 {}", content::PROBED))?;
    ensure!(
        sum == content::sum((0..content::PROBED).map(content::original)),
        "the next client reads the disk"
    );
    Ok(())
}

fn killed_service_widens_nothing_and_takes_up_again(world: &World) -> Result<()> {
    widens_nothing_and_takes_up_again(&mut Stage::set(world)?)
}

/// The service is killed twice, and whoever starts it keeps what it left.
pub(super) fn widens_nothing_and_takes_up_again(stage: &mut Stage) -> Result<()> {
    let mut storage = stage.busy_storage()?;
    let (mut lab, space, memory) = stage.lab()?;
    lab.ask(&format!("put {memory} 0 {PATTERN}"))?;
    lab.ask(&format!("edu read {EDU_IOVA:#x}"))?;
    eventually("its groups are kept", || Ok(stage.supervisor.kept()?.len() >= 4))?;
    stage.supervisor.kill()?;
    lab.refused("space")?;
    // Nothing new is reached, while nobody is there to grant it.
    for outside in [EDU_IOVA + (1 << 20), EDU_IOVA - 0x1000, DISK_IOVA] {
        lab.ask(&format!("edu write {outside:#x}"))?;
    }
    // The disk's memory is at DISK_IOVA: had `edu` reached it, the queues there would be destroyed and the traffic would end.
    let mut count = transfers(&mut storage)?;
    stage.start(true)?;
    println!("{count} transfers when the service came back");
    // What was granted holds all along, and nothing else: the disk's traffic has not stopped for a moment.
    count = transfers(&mut storage)?;
    eventually("traffic goes on", || Ok(transfers(&mut storage)? > count + 10))?;
    lab.ask(&format!("edu write {:#x}", EDU_IOVA + 0x3000))?;
    ensure!(lab.ask(&format!("get {memory} 0x3000 16"))? == PATTERN, "the grant of before");
    let outside = EDU_IOVA + (1 << 20);
    stage.refused_dma(&mut lab, &format!("edu write {outside:#x}"), EDU_CLIENT, &stage.edu, outside)?;
    // Nobody else can have it, and its client has it again by asking.
    let mut stranger = stage.remote(EDU_USER)?;
    ensure!(stranger.refused(&format!("claim {}", stage.edu))?.name == "Held", "it was taken up");
    ensure!(stranger.refused("resume")?.name == "NoSuchClient", "another process");
    ensure!(lab.ask("resume")?.starts_with(&stage.edu), "the same process");
    lab.ask(&format!("unmap {space} {EDU_IOVA:#x} 1048576"))?;
    lab.ask(&format!("edu write {:#x}", EDU_IOVA + 0x4000))?;
    ensure!(lab.ask(&format!("get {memory} 0x4000 16"))? == NOTHING, "unmapped is gone at once");
    lab.ask(&format!("map {space} {memory} 0 {EDU_IOVA:#x} 1048576 rw"))?;
    lab.ask(&format!("edu write {:#x}", EDU_IOVA + 0x4000))?;
    ensure!(lab.ask(&format!("get {memory} 0x4000 16"))? == PATTERN, "the new grant");
    // Killed once more; meanwhile a client dies, and the other lives.
    eventually("what it has now is kept", || Ok(!stage.supervisor.kept()?.is_empty()))?;
    stage.supervisor.kill()?;
    drop(lab);
    stage.start(true)?;
    eventually("its device is free", || Ok(driver(&stage.edu).is_none()))?;
    storage.ask("resume")?;
    storage.ask("disk traffic stop")?;
    let sum = storage.ask(&format!("disk sum 0 {}", content::PROBED))?;
    ensure!(sum == content::sum((0..content::PROBED).map(content::original)), "the disk is read again");
    // And everything goes back to the kernel in the end.
    drop((storage, stranger));
    eventually("the drivers are back", || {
        Ok(driver(&stage.disk).as_deref() == Some("nvme") && driver(&stage.edu).is_none())
    })?;
    eventually("nothing but the ledger is kept", || {
        Ok(stage.supervisor.kept()?.iter().all(|name| name.starts_with("state-")))
    })?;
    if log().contains("panicked") {
        bail!("the service panicked\n{}", log());
    }
    Ok(())
}

fn nothing_ungranted_is_reached_over_a_crash(world: &World) -> Result<()> {
    nothing_ungranted_is_reached(&mut Stage::set(world)?)
}

/// A page of memory that nobody granted, before the service is killed, while it is gone, and after.
pub(super) fn nothing_ungranted_is_reached(stage: &mut Stage) -> Result<()> {
    let canary = Canary::new()?;
    let mut storage = stage.busy_storage()?;
    let (mut lab, _, memory) = stage.lab()?;
    stage.reach_past_grants(&mut lab, &memory, &canary)?;
    eventually("groups are kept", || Ok(stage.supervisor.kept()?.len() >= 4))?;
    stage.supervisor.kill()?;
    let before = transfers(&mut storage)?;
    stage.reach_past_grants(&mut lab, &memory, &canary)?;
    eventually("what was granted is reached on", || Ok(transfers(&mut storage)? > before + 10))?;
    stage.start(true)?;
    lab.ask("edu enable")?;
    stage.reach_past_grants(&mut lab, &memory, &canary)?;
    drop(lab);
    eventually("the device is given back", || Ok(driver(&stage.edu).is_none()))?;
    canary.look()
}

/// The card of a host's network: left alone unless the configuration gives it away, then taken from its driver, and working again once
/// it is let go. The kernel of Intel's machines has no driver for it.
fn network_card_is_taken_from_its_driver_and_works_again_after(world: &World) -> Result<()> {
    let mut stage = Stage::without_service(world)?;
    let before = driver(&stage.nic);
    ensure!(!stage.amd || before.as_deref() == Some("e1000e"), "{before:?}");
    let works = |when: &str, nic: &str| match before {
        Some(_) => network::fetches(nic).with_context(|| format!("the network {when}")),
        None => Ok(()),
    };
    works("before", &stage.nic)?;
    stage.start(true)?;
    let mut client = stage.remote(EDU_USER)?;
    let refused = client.refused(&format!("claim {}", stage.nic))?;
    ensure!(refused.name == "NotPermitted", "{refused:?}");
    ensure!(driver(&stage.nic) == before, "it was taken all the same");
    works("beside a refusal", &stage.nic)?;
    drop(client);
    stage.supervisor.stop()?;
    stage.nic_is_given = true;
    stage.start(true)?;
    let mut client = stage.remote(EDU_USER)?;
    client.ask(&format!("claim {}", stage.nic))?;
    ensure!(driver(&stage.nic).as_deref() == Some("vfio-pci"), "{:?}", driver(&stage.nic));
    ensure!(network::interface(&stage.nic).is_none(), "the host still has its interface");
    let devices = Client::connect(None)?.devices(Some(&stage.nic))?;
    ensure!(devices[0].holder.as_deref() == Some(EDU_CLIENT) && devices[0].driver == before, "{devices:?}");
    // While the client has the card's descriptor, the driver cannot have it back.
    drop(client);
    eventually("the driver is back", || Ok(driver(&stage.nic) == before))?;
    works("after its client went", &stage.nic)?;
    let mut client = stage.remote(EDU_USER)?;
    client.ask(&format!("claim {}", stage.nic))?;
    client.kill()?;
    eventually("the driver is back", || Ok(driver(&stage.nic) == before))?;
    works("after its client was killed", &stage.nic)
}
