//! The manager's VFIO back end by itself: what it finds, what devices reach through it, and what it leaves behind.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use portcullis_client::device::{InterruptKind, SharedMemory};
use portcullis_guest::content;
use portcullis_manager::vfio::Vfio;
use portcullis_manager::{Backend, BackendError, Change, DeviceId, Mapping, MemoryId, Source};
use portcullis_spec::{Access, FaultReason, Iova};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::bench::{Bench, E1000E, EDU, LENGTH, NVME, RUNTIME, SPACE};
use crate::case::{Case, On, World};
use crate::edu::{Edu, HIGHEST};
use crate::nvme::{self, Nvme};

const fn case(name: &'static str, run: fn(&World) -> Result<()>) -> Case {
    Case { name, seconds: 180, on: On::Every, run }
}

pub(crate) const CASES: &[Case] = &[
    case("inventory_is_what_sysfs_says", inventory_is_what_sysfs_says),
    case("dma_inside_a_grant_arrives", dma_inside_a_grant_arrives),
    case("dma_outside_grants_is_refused_and_told", dma_outside_grants_is_refused_and_told),
    Case {
        on: On::Except("amd"),
        ..case("what_the_kernel_keeps_back_is_counted", what_the_kernel_keeps_back_is_counted)
    },
    case("grant_to_read_is_not_one_to_write", grant_to_read_is_not_one_to_write),
    case("unmapped_is_gone_at_once", unmapped_is_gone_at_once),
    case("interrupt_reaches_who_has_the_device", interrupt_reaches_who_has_the_device),
    case("disk_is_driven_through_its_descriptor", disk_is_driven_through_its_descriptor),
    case("disk_reads_nowhere_else", disk_reads_nowhere_else),
    case("driver_is_back_after_release", driver_is_back_after_release),
    case("driver_is_back_after_a_crash", driver_is_back_after_a_crash),
    case("group_of_two_goes_and_comes_together", group_of_two_goes_and_comes_together),
    Case {
        on: On::Except("amd"),
        ..case("group_behind_a_bridge_is_known_by_its_name", group_behind_a_bridge_is_known_by_its_name)
    },
    case("kept_descriptor_keeps_the_device_blocked", kept_descriptor_keeps_the_device_blocked),
    case("adopted_group_is_blocked_and_claimed_again", adopted_group_is_blocked_and_claimed_again),
    case("memlock_is_predicted", memlock_is_predicted),
    case("entry_limit_is_predicted", entry_limit_is_predicted),
    case("shrinking_memory_harms_nobody", shrinking_memory_harms_nobody),
    case("held_group_names_its_holder", held_group_names_its_holder),
    case("unsafe_interrupts_are_allowed_for_one_call_only", unsafe_interrupts_are_allowed_for_one_call_only),
];

/// The kernel's driver for VT-d writes ten lines in five seconds (DEFAULT_RATELIMIT_BURST and _INTERVAL), two for each refusal, and
/// the disk is refused twice before it gives up.
const CALM: Duration = Duration::from_millis(2500);

/// The driver that has the function with these IDs now, by its folder's own files.
fn driver_of(name: &str) -> Option<String> {
    let link = fs::read_link(format!("/sys/bus/pci/devices/{name}/driver")).ok()?;
    Some(link.file_name()?.to_string_lossy().into_owned())
}

fn inventory_is_what_sysfs_says(world: &World) -> Result<()> {
    let bench = Bench::open()?;
    let inventory = &bench.inventory;
    let units: Vec<&str> = inventory.units.iter().map(|unit| unit.name.as_str()).collect();
    ensure!(units == if world.machine == "amd" { ["ivhd0"] } else { ["dmar0"] }, "units {units:?}");
    let isolated = inventory.units[0].capabilities.interrupts_isolated;
    ensure!(isolated == world.machine.starts_with("intel"), "interrupts isolated: {isolated}");
    let mut groups: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for entry in fs::read_dir("/sys/kernel/iommu_groups")? {
        let group = entry?.path();
        let number = group.file_name().and_then(|name| name.to_str()).context("a name")?.parse()?;
        for member in fs::read_dir(group.join("devices"))? {
            groups.entry(number).or_default().push(member?.file_name().to_string_lossy().into_owned());
        }
    }
    for (_, device) in &inventory.devices {
        if device.unit.is_none() {
            // AMD's unit shows itself as a PCI function, and guards everything but itself.
            ensure!(device.description.starts_with("system peripheral"), "unit of {}", device.name);
            continue;
        }
        let members = groups.get(&device.group.0).with_context(|| format!("group of {}", device.name))?;
        ensure!(members.contains(&device.name), "{} in group {}", device.name, device.group.0);
        ensure!(device.driver == driver_of(&device.name), "driver of {}", device.name);
        println!("{} {} {:?} {:?}", device.name, device.description, device.driver, device.reserved.len());
    }
    for ids in [EDU, E1000E, NVME] {
        bench.only(ids)?;
    }
    let twins = bench.find(NVME, 2);
    ensure!(twins.len() == 2);
    let twin = &inventory.devices.iter().find(|(id, _)| *id == twins[0]).context("a twin")?.1;
    let group = inventory.groups.iter().find(|group| group.id == twin.group).context("its group")?;
    ensure!(group.reasons.len() == 1 && group.reasons[0].contains("ACS"), "{:?}", group.reasons);
    ensure!(twin.reserved.iter().any(|region| *region.range.start() == Iova(0xfee0_0000)), "the MSI window");
    Ok(())
}

/// `edu`, attached to a space with all of one memory at `iova`.
fn edu_with(bench: &mut Bench, iova: u64, access: Access) -> Result<(DeviceId, Edu, MemoryId, SharedMemory)> {
    let (device, file) = bench.claim(EDU)?;
    let (id, memory) = bench.memory()?;
    bench.backend.map(SPACE, &Bench::whole(id, iova, access))?;
    Ok((device, Edu::start(file)?, id, memory))
}

const PATTERN: [u8; 16] = *b"inside the grant";

fn holds(memory: &SharedMemory, offset: u64) -> Result<[u8; 16]> {
    let mut bytes = [0; 16];
    memory.read_bytes(offset, &mut bytes)?;
    Ok(bytes)
}

fn dma_inside_a_grant_arrives(_: &World) -> Result<()> {
    let mut bench = Bench::open()?;
    let base = 0x10_0000;
    let (device, edu, _, memory) = edu_with(&mut bench, base, Access::READ_WRITE)?;
    memory.write_bytes(0x1000, &PATTERN)?;
    edu.read_memory(base + 0x1000, 16)?;
    edu.write_memory(base + LENGTH - 16, 16)?;
    ensure!(holds(&memory, LENGTH - 16)? == PATTERN, "the last bytes of the grant");
    ensure!(bench.drain()?.is_empty(), "nothing was refused");
    drop(edu);
    Ok(bench.release(device)?)
}

fn dma_outside_grants_is_refused_and_told(_: &World) -> Result<()> {
    let mut bench = Bench::open()?;
    let base = 0x10_0000;
    let (device, edu, _, memory) = edu_with(&mut bench, base, Access::READ_WRITE)?;
    memory.write_bytes(0, &PATTERN)?;
    edu.read_memory(base, 16)?;
    for (outside, write) in
        [(base + LENGTH, true), (base - 0x1000, true), (0, false), (HIGHEST & !0xfff, false)]
    {
        println!("at {outside:#x}, write {write}");
        if write {
            edu.write_memory(outside, 16)?;
        } else {
            edu.read_memory(outside, 16)?;
        }
        let violations = bench.violations_of(device)?;
        let wanted = if write { Access::WRITE } else { Access::READ };
        for violation in &violations {
            println!("{violation:?}");
            ensure!(violation.fault.address.0 & !0xfff == outside, "{:?}", violation.fault.address);
            ensure!(violation.fault.access == wanted, "{:?}", violation.fault.access);
            ensure!(violation.unit.is_some());
        }
        if bench.reports {
            std::thread::sleep(CALM);
        }
    }
    let mut all = vec![0; LENGTH as usize];
    memory.read_bytes(0, &mut all)?;
    ensure!(all[..16] == PATTERN && all[16..].iter().all(|byte| *byte == 0), "memory was changed");
    drop(edu);
    Ok(bench.release(device)?)
}

fn what_the_kernel_keeps_back_is_counted(_: &World) -> Result<()> {
    let mut bench = Bench::open()?;
    let (device, edu, ..) = edu_with(&mut bench, 0x10_0000, Access::READ)?;
    let (told, lost) = bench.violations_while(device, 21, || {
        for _ in 0..20 {
            edu.read_memory(0, 16)?;
        }
        std::thread::sleep(Duration::from_secs(6));
        Ok(edu.read_memory(0, 16)?)
    })?;
    println!("{told} told, {lost} kept back");
    ensure!(told < 21 && told + lost >= 21, "of 21 violations {told} were told and {lost} counted");
    drop(edu);
    Ok(bench.release(device)?)
}

fn grant_to_read_is_not_one_to_write(_: &World) -> Result<()> {
    let mut bench = Bench::open()?;
    let base = 0x20_0000;
    let (device, edu, id, memory) = edu_with(&mut bench, base, Access::READ)?;
    memory.write_bytes(0, &PATTERN)?;
    edu.read_memory(base, 16)?;
    edu.write_memory(base + 0x2000, 16)?;
    ensure!(holds(&memory, 0x2000)? == [0; 16], "it wrote where it may only read");
    let violations = bench.violations_of(device)?;
    for fault in violations.iter().map(|violation| violation.fault) {
        ensure!(fault.access == Access::WRITE, "{fault:?}");
        let refused = matches!(fault.reason, FaultReason::PermissionDenied | FaultReason::NotMapped);
        ensure!(refused, "{fault:?}");
    }
    bench.backend.unmap(SPACE, &Bench::whole(id, base, Access::READ))?;
    bench.backend.map(SPACE, &Bench::whole(id, base, Access::READ_WRITE))?;
    edu.write_memory(base + 0x2000, 16)?;
    ensure!(holds(&memory, 0x2000)? == PATTERN, "now it may");
    drop(edu);
    Ok(bench.release(device)?)
}

fn unmapped_is_gone_at_once(_: &World) -> Result<()> {
    let mut bench = Bench::open()?;
    let base = 0x40_0000;
    let (device, file) = bench.claim(EDU)?;
    let (id, memory) = bench.memory()?;
    let pages: Vec<Mapping> = (0..4)
        .map(|page| Mapping {
            iova: Iova(base + page * 0x1000),
            length: 0x1000,
            source: Source::Memory(id, page * 0x1000),
            access: Access::READ_WRITE,
        })
        .collect();
    bench.backend.map_batch(SPACE, &pages).map_err(|(_, error)| error)?;
    let edu = Edu::start(file)?;
    memory.write_bytes(0, &PATTERN)?;
    edu.read_memory(base, 16)?;
    for page in 1..4 {
        edu.write_memory(base + page * 0x1000, 16)?;
        ensure!(
            holds(&memory, page * 0x1000)? == PATTERN,
            "page {page} is mapped, so the unit may have cached it"
        );
        memory.write_bytes(page * 0x1000, &[0; 16])?;
    }
    bench.backend.unmap_batch(SPACE, &[pages[2], pages[1]])?;
    for page in 1..4 {
        edu.write_memory(base + page * 0x1000, 16)?;
        let wanted = if page == 3 { PATTERN } else { [0; 16] };
        ensure!(holds(&memory, page * 0x1000)? == wanted, "page {page}");
    }
    // The neighbour of what was unmapped can be unmapped and mapped again, and means something else then.
    bench.backend.unmap(SPACE, &pages[3])?;
    bench.backend.map(SPACE, &Mapping { source: Source::Memory(id, 0x8000), ..pages[3] })?;
    memory.write_bytes(0x3000, &[0; 16])?;
    edu.write_memory(base + 0x3000, 16)?;
    ensure!(holds(&memory, 0x3000)? == [0; 16] && holds(&memory, 0x8000)? == PATTERN);
    drop(edu);
    Ok(bench.release(device)?)
}

fn interrupt_reaches_who_has_the_device(world: &World) -> Result<()> {
    let mut bench = Bench::open()?;
    let (device, file) = bench.claim(EDU)?;
    let edu = Edu::start(file)?;
    let event = eventfd(0, EventfdFlags::NONBLOCK)?;
    edu.device.set_interrupts(InterruptKind::Msi, &[event.as_fd()])?;
    edu.raise()?;
    let signalled = |limit: Duration| -> Result<bool> {
        let limit = Timespec::try_from(limit)?;
        Ok(poll(&mut [PollFd::new(&event, PollFlags::IN)], Some(&limit))? == 1)
    };
    ensure!(signalled(Duration::from_secs(30))?, "no interrupt");
    edu.acknowledge()?;
    let mut count = [0; 8];
    rustix::io::read(&event, &mut count)?;
    // What the manager does before the next client comes.
    bench.backend.quiesce(device)?;
    match bench.backend.reset(device) {
        Ok(()) => {}
        Err(BackendError::Unsupported { .. }) if world.machine == "amd" => {}
        Err(error) => bail!("{error}"),
    }
    edu.device.enable()?;
    edu.raise()?;
    ensure!(!signalled(Duration::from_millis(300))?, "an interrupt after the reset");
    drop(edu);
    Ok(bench.release(device)?)
}

const DISK: u64 = 0x100_0000;

fn disk(bench: &mut Bench) -> Result<(DeviceId, Nvme)> {
    let (device, file) = bench.claim(NVME)?;
    let (id, memory) = bench.memory()?;
    let mapping = Mapping {
        iova: Iova(DISK),
        length: nvme::MEMORY,
        source: Source::Memory(id, 0),
        access: Access::READ_WRITE,
    };
    bench.backend.map(SPACE, &mapping)?;
    Ok((device, Nvme::start(file, memory, DISK)?))
}

fn disk_is_driven_through_its_descriptor(_: &World) -> Result<()> {
    let mut bench = Bench::open()?;
    let (device, mut disk) = disk(&mut bench)?;
    println!("{}: {} blocks of {}", disk.name, disk.blocks, disk.block);
    ensure!(disk.name.starts_with("portcullis"), "its serial number");
    ensure!((disk.blocks, disk.block) == (content::BLOCKS, content::BLOCK));
    let step = nvme::MOST / content::BLOCK;
    let mut read = Vec::new();
    for first in (0..content::PROBED).step_by(step) {
        let mut bytes = [0; nvme::MOST];
        disk.read(first, &mut bytes)?;
        read.extend_from_slice(bytes.as_chunks().0);
    }
    println!("evidence {} {}", content::READ, content::sum(read));
    let written = 4096;
    for first in (written..written + content::PROBED).step_by(step) {
        let blocks: Vec<u8> = (first..first + step as u64).flat_map(content::changed).collect();
        disk.write(first, &blocks)?;
        let mut back = [0; nvme::MOST];
        disk.read(first, &mut back)?;
        ensure!(back[..] == blocks[..], "block {first} reads otherwise than it was written");
    }
    println!("evidence {} {written}", content::WRITTEN);
    ensure!(bench.drain()?.is_empty(), "nothing was refused");
    drop(disk);
    Ok(bench.release(device)?)
}

fn disk_reads_nowhere_else(_: &World) -> Result<()> {
    let mut bench = Bench::open()?;
    if bench.reports {
        std::thread::sleep(2 * CALM);
    }
    let (device, mut disk) = disk(&mut bench)?;
    // Behind its grant, and where the host has the registers of its timer.
    for outside in [DISK + nvme::MEMORY, 0xfed0_0000] {
        let answer = disk.read_to(0, content::BLOCK, outside);
        println!("{outside:#x}: {answer:?}");
        let violations = bench.violations_of(device)?;
        if bench.reports {
            let there = violations.iter().any(|violation| violation.fault.address.0 & !0xfff == outside);
            ensure!(there, "{violations:?}");
            std::thread::sleep(CALM);
        }
    }
    drop(disk);
    Ok(bench.release(device)?)
}

fn driver_is_back_after_release(_: &World) -> Result<()> {
    let mut bench = Bench::open()?;
    for ids in [NVME, EDU] {
        let name = bench.name(bench.only(ids)?).to_owned();
        let before = driver_of(&name);
        let (device, file) = bench.claim(ids)?;
        ensure!(driver_of(&name).as_deref() == Some("vfio-pci"));
        drop(file);
        bench.release(device)?;
        ensure!(driver_of(&name) == before, "{name} has {:?}, not {before:?}", driver_of(&name));
        let overridden = fs::read_to_string(format!("/sys/bus/pci/devices/{name}/driver_override"))?;
        ensure!(overridden.trim() == "(null)", "driver_override is {overridden:?}");
    }
    let record = fs::read_to_string(Path::new(RUNTIME).join("drivers.json"))?;
    ensure!(record.trim() == "{}", "the record says {record}");
    // And the driver works.
    let deadline = Instant::now() + Duration::from_secs(60);
    while !fs::exists("/sys/block/nvme0n1")? && !fs::exists("/sys/block/nvme2n1")? {
        ensure!(Instant::now() < deadline, "the disk did not come back");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Runs in a process of its own: claims the disk, says so, and waits to be killed.
pub(crate) fn hold(ids: &str) -> Result<()> {
    let mut bench = Bench::open()?;
    let (_, file) = bench.claim(ids)?;
    println!("holding");
    loop {
        std::thread::sleep(Duration::from_secs(1));
        let _ = &file;
    }
}

/// A process that holds a device, until it is killed.
struct Holding(std::process::Child);

impl Holding {
    fn start(ids: &str) -> Result<Self> {
        let mut child = Command::new("/init").args(["hold", ids]).stdout(Stdio::piped()).spawn()?;
        let mut word = [0; 7];
        child
            .stdout
            .as_mut()
            .context("its output")?
            .read_exact(&mut word)
            .context("it never held the device")?;
        Ok(Self(child))
    }

    fn kill(mut self) -> Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

fn driver_is_back_after_a_crash(_: &World) -> Result<()> {
    let bench = Bench::open()?;
    let name = bench.name(bench.only(NVME)?).to_owned();
    let before = driver_of(&name);
    drop(bench);
    let holding = Holding::start(NVME)?;
    ensure!(driver_of(&name).as_deref() == Some("vfio-pci"));
    holding.kill()?;
    ensure!(driver_of(&name).as_deref() == Some("vfio-pci"), "nobody has given it back yet");
    let bench = Bench::open()?;
    ensure!(driver_of(&name) == before, "{name} has {:?}, not {before:?}", driver_of(&name));
    let device = bench.only(NVME)?;
    let known = &bench.inventory.devices.iter().find(|(id, _)| *id == device).context("the disk")?.1;
    ensure!(known.driver == before);
    Ok(())
}

fn group_of_two_goes_and_comes_together(_: &World) -> Result<()> {
    let mut bench = Bench::open()?;
    let twins = bench.find(NVME, 2);
    let names: Vec<String> = twins.iter().map(|id| bench.name(*id).to_owned()).collect();
    let before: Vec<_> = names.iter().map(|name| driver_of(name)).collect();
    let refused = bench.backend.claim(&twins[..1]).err().context("half a group was claimed")?;
    println!("{refused}");
    ensure!(matches!(refused, BackendError::Unsupported { .. }) && refused.to_string().contains(&names[1]));
    ensure!(
        names.iter().map(|name| driver_of(name)).collect::<Vec<_>>() == before,
        "a driver lost its device"
    );
    bench.backend.claim(&twins)?;
    for (&twin, name) in twins.iter().zip(&names) {
        ensure!(driver_of(name).as_deref() == Some("vfio-pci"), "{name}");
        ensure!(bench.backend.device_descriptor(twin)?.is_some());
        bench.backend.quiesce(twin)?;
    }
    bench.backend.release(&twins)?;
    ensure!(
        names.iter().map(|name| driver_of(name)).collect::<Vec<_>>() == before,
        "the drivers are not back"
    );
    Ok(())
}

fn group_behind_a_bridge_is_known_by_its_name(world: &World) -> Result<()> {
    let mut bench = Bench::open()?;
    let edu = *bench.find(EDU, 2).first().context("an edu behind a bridge")?;
    let about = |id| bench.inventory.devices.iter().find(|(other, _)| *other == id).map(|(_, device)| device);
    let device = about(edu).context("the edu")?;
    let group: Vec<DeviceId> = bench
        .inventory
        .devices
        .iter()
        .filter(|(_, other)| other.group == device.group)
        .map(|(id, _)| *id)
        .collect();
    let reasons =
        bench.inventory.groups.iter().find(|other| other.id == device.group).context("its group")?;
    println!("{:?} {:?}", device.requesters, reasons.reasons);
    ensure!(reasons.reasons.iter().all(|reason| reason.contains("conventional PCI")));
    ensure!(device.requesters.len() == 2, "its own name and the bridge's");
    let (_, file) =
        bench.claim_group(&[edu, *group.iter().find(|id| **id != edu).context("its sibling")?])?;
    let (id, memory) = bench.memory()?;
    bench.backend.map(SPACE, &Bench::whole(id, 0, Access::READ_WRITE))?;
    let device = Edu::start(file)?;
    memory.write_bytes(0, &PATTERN)?;
    device.read_memory(0, 16)?;
    device.write_memory(0x1000, 16)?;
    // In scalable mode Linux gives no context entry to a name that another function sends in: intel_pasid_setup_sm_context goes through
    // the device's aliases, and pci_pasid_table_setup leaves out those that are not its own (drivers/iommu/intel/pasid.c).
    // In legacy mode domain_context_mapping_cb sets up all of them. So there such devices reach nothing, granted or not ("Present
    // bit in context entry is clear"), and no back end can change it.
    let reaches = world.machine != "intel-scalable";
    ensure!((holds(&memory, 0x1000)? == PATTERN) == reaches, "inside the grant");
    std::thread::sleep(2 * CALM);
    bench.drain()?;
    device.write_memory(LENGTH, 16)?;
    // Who of them it was, the unit cannot see: the first of the group stands for all.
    let violations = bench.violations_of(group[0])?;
    ensure!(violations[0].fault.address == Iova(LENGTH), "{violations:?}");
    drop(device);
    for id in &group {
        bench.backend.quiesce(*id)?;
    }
    bench.backend.release(&group)?;
    Ok(())
}

fn kept_descriptor_keeps_the_device_blocked(_: &World) -> Result<()> {
    let mut bench = Bench::open()?;
    let base = 0x10_0000;
    let (device, edu, _, memory) = edu_with(&mut bench, base, Access::READ_WRITE)?;
    let name = bench.name(device).to_owned();
    memory.write_bytes(0, &PATTERN)?;
    edu.read_memory(base, 16)?;
    // The client keeps its descriptor, and with it the registers.
    let refused = bench.release(device).err().context("it was released")?;
    println!("{refused}");
    ensure!(matches!(refused, BackendError::Busy { .. }), "{refused}");
    edu.device.enable()?;
    edu.write_memory(base + 0x1000, 16)?;
    ensure!(holds(&memory, 0x1000)? == [0; 16], "it still reaches the memory");
    ensure!(driver_of(&name).as_deref() == Some("vfio-pci"));
    ensure!(bench.backend.changes().is_empty());
    ensure!(driver_of(&name).as_deref() == Some("vfio-pci"), "given back under a client's hands");
    drop(edu);
    bench.backend.changes();
    ensure!(driver_of(&name).is_none(), "it had no driver, and has {:?}", driver_of(&name));
    Ok(())
}

fn adopted_group_is_blocked_and_claimed_again(_: &World) -> Result<()> {
    let mut bench = Bench::open()?;
    let base = 0x10_0000;
    let (device, edu, _, memory) = edu_with(&mut bench, base, Access::READ_WRITE)?;
    memory.write_bytes(0, &PATTERN)?;
    edu.read_memory(base, 16)?;
    let kept: Vec<(String, OwnedFd)> = bench
        .backend
        .keep()
        .into_iter()
        .map(|(name, descriptor)| Ok((name, descriptor.try_clone_to_owned()?)))
        .collect::<Result<_>>()?;
    let name = bench.name(device).to_owned();
    drop(bench);
    edu.write_memory(base + 0x1000, 16)?;
    ensure!(holds(&memory, 0x1000)? == PATTERN, "until the next manager comes, the client goes on");
    let mut next = Vfio::open(Path::new(RUNTIME))?;
    next.adopt(kept);
    let mut bench = Bench::over(next)?;
    edu.write_memory(base + 0x2000, 16)?;
    ensure!(holds(&memory, 0x2000)? == PATTERN, "until the next manager has settled, the client goes on");
    bench.backend.settle()?;
    edu.device.enable()?;
    edu.write_memory(base + 0x3000, 16)?;
    ensure!(holds(&memory, 0x3000)? == [0; 16], "it reaches what the new manager has not granted");
    ensure!(driver_of(&name).as_deref() == Some("vfio-pci"));
    // The same client claims again, while it still has its old descriptor.
    let (device, file) = bench.claim(EDU)?;
    let (id, memory) = bench.memory()?;
    bench.backend.map(SPACE, &Bench::whole(id, base, Access::READ_WRITE))?;
    let again = Edu::start(file)?;
    again.write_memory(base + 0x3000, 16)?;
    ensure!(holds(&memory, 0x3000)? == PATTERN, "the new grant");
    drop((edu, again));
    Ok(bench.release(device)?)
}

fn memlock_is_predicted(_: &World) -> Result<()> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
    let mut bench = Bench::open()?;
    let (device, file) = bench.claim(EDU)?;
    let (id, _memory) = bench.memory()?;
    let all = capabilities(None)?;
    let mut fewer = all;
    fewer.effective &= !CapabilitySet::IPC_LOCK;
    set_capabilities(None, fewer)?;
    setrlimit(Resource::Memlock, Rlimit { current: Some(LENGTH / 2), maximum: None })?;
    let refused =
        bench.backend.map(SPACE, &Bench::whole(id, 0, Access::READ_WRITE)).err().context("it was mapped")?;
    println!("{refused}");
    let BackendError::Limit { what, needed, available, remedy } = &refused else { bail!("{refused}") };
    ensure!(*what == "bytes of locked memory" && *needed == LENGTH && *available == LENGTH / 2);
    let enough: u64 = remedy
        .split_once("LimitMEMLOCK=")
        .and_then(|(_, rest)| rest.split(' ').next()?.parse().ok())
        .context("the remedy names no limit")?;
    // What it advises is enough, and a page less would not be.
    setrlimit(Resource::Memlock, Rlimit { current: Some(enough - 4096), maximum: None })?;
    ensure!(bench.backend.map(SPACE, &Bench::whole(id, 0, Access::READ_WRITE)).is_err());
    setrlimit(Resource::Memlock, Rlimit { current: Some(enough), maximum: None })?;
    bench.backend.map(SPACE, &Bench::whole(id, 0, Access::READ_WRITE))?;
    set_capabilities(None, all)?;
    drop(file);
    Ok(bench.release(device)?)
}

fn entry_limit_is_predicted(_: &World) -> Result<()> {
    let parameter = "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit";
    let before = fs::read_to_string(parameter)?;
    fs::write(parameter, "3")?;
    let mut bench = Bench::open()?;
    let (device, file) = bench.claim(EDU)?;
    fs::write(parameter, before.trim())?;
    let (id, _memory) = bench.memory()?;
    let page = |number: u64| Mapping {
        iova: Iova(number * 0x1000),
        length: 0x1000,
        source: Source::Memory(id, 0),
        access: Access::READ,
    };
    for number in 0..3 {
        bench.backend.map(SPACE, &page(number))?;
    }
    let refused = bench.backend.map(SPACE, &page(3)).err().context("a fourth mapping")?;
    println!("{refused}");
    ensure!(matches!(refused, BackendError::Limit { what: "mappings of one space", available: 3, .. }));
    bench.backend.unmap_batch(SPACE, &[page(0), page(1)])?;
    bench.backend.map(SPACE, &page(3))?;
    drop(file);
    Ok(bench.release(device)?)
}

fn shrinking_memory_harms_nobody(_: &World) -> Result<()> {
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    let mut bench = Bench::open()?;
    let (device, file) = bench.claim(EDU)?;
    let edu = Edu::start(file)?;
    let memfd = memfd_create("shrinks", MemfdFlags::CLOEXEC)?;
    ftruncate(&memfd, LENGTH)?;
    let id = MemoryId(77);
    bench.backend.add_memory(id, std::sync::Arc::new(memfd.try_clone()?), LENGTH, true)?;
    let half = |iova, offset| Mapping {
        iova: Iova(iova),
        length: LENGTH / 2,
        source: Source::Memory(id, offset),
        access: Access::READ_WRITE,
    };
    bench.backend.map(SPACE, &half(0x10_0000, 0))?;
    ftruncate(&memfd, 0)?;
    // What was pinned stays where it was, and belongs to nobody else.
    edu.write_memory(0x10_0000, 16)?;
    let refused = bench.backend.map(SPACE, &half(0x20_0000, LENGTH / 2)).err().context("it was mapped")?;
    println!("{refused}");
    ensure!(matches!(refused, BackendError::System { .. }), "{refused}");
    bench.backend.unmap(SPACE, &half(0x10_0000, 0))?;
    drop(edu);
    Ok(bench.release(device)?)
}

fn held_group_names_its_holder(_: &World) -> Result<()> {
    let holding = Holding::start(EDU)?;
    let process = holding.0.id();
    // Another manager: it has no record of the first one's.
    let mut bench = Bench::over(Vfio::open(Path::new("/run/another"))?)?;
    let refused = bench.backend.claim(&[bench.only(EDU)?]).err().context("it was claimed twice")?;
    println!("{refused}");
    let BackendError::Busy { holder, .. } = &refused else { bail!("{refused}") };
    ensure!(holder.contains(&format!("process {process}")), "{holder}");
    holding.kill()?;
    Bench::open().map(drop)
}

fn unsafe_interrupts_are_allowed_for_one_call_only(world: &World) -> Result<()> {
    let parameter = "/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts";
    ensure!(fs::read_to_string(parameter)?.trim() == "N");
    let mut bench = Bench::open()?;
    let isolated = bench.inventory.units[0].capabilities.interrupts_isolated;
    ensure!(isolated == (world.machine != "amd"));
    let (device, file) = bench.claim(EDU)?;
    ensure!(fs::read_to_string(parameter)?.trim() == "N", "it stayed allowed");
    drop(file);
    bench.release(device)?;
    // A manager that crashed while it was allowed is cleaned up after.
    fs::write(parameter, "Y")?;
    fs::write(Path::new(RUNTIME).join("allow_unsafe_interrupts"), "N\n")?;
    let mut bench = Bench::open()?;
    ensure!(fs::read_to_string(parameter)?.trim() == "N", "it stayed allowed after a crash");
    let nothing: Vec<Change> = bench.backend.changes();
    ensure!(nothing.is_empty());
    Ok(())
}
