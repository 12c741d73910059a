//! Violations: how fast they are journalled, and what a flood of them costs a device that does nothing wrong.
//!
//! The flood and the thread that reads violations have one processor, the device that does nothing wrong the other. What two processors
//! share beyond the program (a core of two threads, a cache, a power budget) makes whatever runs on one slow whatever runs on the other.
//! So the flood is compared with another neighbour that keeps that processor busy: a third device that reads what it may. Compared
//! is the processor time that one access takes beside each, so that what is seen is what a flood shares inside the program: locks
//! and cache lines. What the busy neighbour costs over an idle one stands beside it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use portcullis_manager::backend::Backend;
use portcullis_manager::core::{Accepted, Asked, Core, MapFrom, Policy};
use portcullis_manager::embedded::backend::EmbeddedBackend;
use portcullis_manager::embedded::device::Kind;
use portcullis_manager::embedded::{Embedded, EmbeddedOptions, Engine};
use portcullis_manager::journal::{Attributions, Journal, Reader, Record, Seen};
use portcullis_manager::{BackendError, DeviceId};
use portcullis_spec::{Access, Iova, Requester};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

use portcullis_bench::result::{Goal, Row};

use super::DEVICES;
use crate::Effort;

/// Pages that the well-behaved device uses.
const PAGES: u64 = 64;
const BASE: u64 = 1 << 20;
/// Refused accesses a second, somewhat more than the half million that is wanted; how many come at once at most, and the pause
/// after them.
const FLOOD: f64 = 600e3;
const BURST: u64 = 160;
const PAUSE: Duration = Duration::from_micros(100);
/// One stretch of quiet, or of flood.
const STRETCH: Duration = Duration::from_millis(20);

/// Nobody follows.
struct Nobody;

impl Seen for Nobody {
    fn seen(&mut self, _: &[Record], _: u64) {}
}

/// A machine with a journal; devices 0 and 2 reach some pages each, device 1 is attached to a space that is empty.
struct Scene {
    platform: Arc<Embedded>,
    journal: Arc<Mutex<Journal>>,
    core: Arc<Mutex<Core>>,
}

impl Scene {
    fn set() -> Result<Self> {
        let names: Vec<String> = (0..DEVICES).map(|number| format!("device{number}")).collect();
        let devices: Vec<_> = names.iter().map(|name| (name.as_str(), Kind::Rogue)).collect();
        let backend = EmbeddedBackend::new(EmbeddedOptions::default(), &devices)?;
        let platform = backend.platform().clone();
        let accepted = Accepted::default();
        let mut core = Core::start::<BackendError>(Box::new(backend) as Box<dyn Backend>, accepted, Ok)?;
        let policy = Policy::new("bench", ["*"]);
        let client = core.connect(Arc::new(policy))?;
        for (device, mapped) in [("device0", true), ("device1", false), ("device2", true)] {
            core.claim(client, device)?;
            let space = core.create_space(client)?;
            core.attach(client, space, device, None)?;
            if mapped {
                let file = memfd_create("bench", MemfdFlags::CLOEXEC)?;
                ftruncate(&file, PAGES << 12)?;
                let memory = core.add_memory(client, Arc::new(file), PAGES << 12, true)?;
                let page = |number| Asked {
                    offset: number << 12,
                    iova: Some(Iova(BASE + (number << 12))),
                    length: 1 << 12,
                    access: Access::READ_WRITE,
                };
                let pages: Vec<_> = (0..PAGES).map(page).collect();
                core.map(client, space, MapFrom::Memory(memory), &pages)?;
            }
        }
        let source = core.violations().context("violations")?;
        let attributions = Arc::new(RwLock::new(Arc::new(Attributions::of(&core))));
        let journal = Arc::new(Mutex::new(Journal::new(1 << 16)));
        let core = Arc::new(Mutex::new(core));
        let seen = Box::new(Nobody);
        let reader =
            Reader { source, journal: journal.clone(), attributions, core: core.clone(), seen, disk: None };
        // It ends with the process.
        thread::Builder::new().name("violations".into()).spawn(move || drop(reader.run()))?;
        Ok(Self { platform, journal, core })
    }

    fn engine(&self, device: u32) -> Result<Engine> {
        let core = self.core.lock().unwrap_or_else(PoisonError::into_inner);
        let view = core.device(DeviceId(device)).context("the device")?;
        match view.device.requesters.first() {
            Some(Requester::Pci(address)) => Ok(self.platform.engine(Requester::Pci(*address), None)),
            other => anyhow::bail!("{other:?}"),
        }
    }

    /// Violations that were recorded, and that were counted.
    fn journalled(&self) -> (u64, u64) {
        let journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        (journal.recorded(), journal.total())
    }
}

/// Keeps this thread, and those that it starts from now on, on one of the processors that it has.
fn stay_on(which: usize) -> Result<()> {
    let all = sched_getaffinity(None)?;
    let mine: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&cpu| all.is_set(cpu)).collect();
    let mut only = CpuSet::new();
    only.set(mine[which % mine.len()]);
    Ok(sched_setaffinity(None, &only)?)
}

/// One read of each page that a well-behaved device has, 16 times over.
fn reads(engine: &Engine) -> Result<()> {
    let mut bytes = [0; 8];
    for number in 0..16 * PAGES {
        engine.read(Iova(BASE + ((number % PAGES) << 12)), &mut bytes).context("what it may read")?;
    }
    Ok(())
}

/// Processor time of an access of the well-behaved device over one stretch, in nanoseconds.
fn well_behaved(engine: &Engine) -> Result<f64> {
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
    };
    let (started, before) = (Instant::now(), now());
    let mut done = 0;
    while started.elapsed() < STRETCH {
        reads(engine)?;
        done += 16 * PAGES;
    }
    Ok((now() - before) / done as f64)
}

/// What the threads on the other processor do.
#[derive(Default)]
struct Neighbours {
    busy: AtomicBool,
    flooding: AtomicBool,
    over: AtomicBool,
}

impl Neighbours {
    fn until_over(&self, mut step: impl FnMut() -> Result<()>) -> Result<()> {
        while !self.over.load(Ordering::Relaxed) {
            step()?;
        }
        Ok(())
    }

    /// Refused accesses at a steady rate, whenever there is to be a flood. How many.
    fn flood(&self, bad: &Engine) -> Result<u64> {
        let mut sent = 0;
        let mut last = Instant::now();
        self.until_over(|| {
            thread::sleep(PAUSE);
            let due = (last.elapsed().as_secs_f64() * FLOOD) as u64;
            last = Instant::now();
            if self.flooding.load(Ordering::Relaxed) {
                for number in 0..due.min(BURST) {
                    sent += u64::from(bad.read(Iova(number << 12), &mut [0; 8]).is_err());
                }
            }
            Ok(())
        })?;
        Ok(sent)
    }

    /// Accesses that are granted, whenever there is to be a busy neighbour.
    fn fill(&self, engine: &Engine) -> Result<()> {
        self.until_over(|| {
            if !self.busy.load(Ordering::Relaxed) {
                thread::sleep(PAUSE);
                return Ok(());
            }
            reads(engine)
        })
    }
}

/// Whatever becomes of the measurement, the neighbours end.
struct EndWith<'a>(&'a Neighbours);

impl Drop for EndWith<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
    }
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

pub(super) fn rows(effort: Effort) -> Result<Vec<Row>> {
    let everywhere = sched_getaffinity(None)?;
    stay_on(1)?;
    let scene = Scene::set()?;
    let (good, bad, third) = (scene.engine(0)?, scene.engine(1)?, scene.engine(2)?);
    let neighbours = &Neighbours::default();
    let before = scene.journalled();
    let (sent, beside_a_flood, beside_a_neighbour, flooded) = thread::scope(|threads| -> Result<_> {
        let end = EndWith(neighbours);
        let flood = threads.spawn(move || neighbours.flood(&bad));
        let filler = threads.spawn(move || neighbours.fill(&third));
        sched_setaffinity(None, &everywhere)?;
        stay_on(0)?;
        let (mut beside_a_flood, mut beside_a_neighbour) = (Vec::new(), Vec::new());
        let mut flooded = Duration::ZERO;
        well_behaved(&good)?;
        let begun = Instant::now();
        while begun.elapsed() < effort.contest {
            let alone = well_behaved(&good)?;
            neighbours.busy.store(true, Ordering::Relaxed);
            let quiet = well_behaved(&good)?;
            neighbours.busy.store(false, Ordering::Relaxed);
            neighbours.flooding.store(true, Ordering::Relaxed);
            let started = Instant::now();
            let beside = well_behaved(&good)?;
            neighbours.flooding.store(false, Ordering::Relaxed);
            flooded += started.elapsed();
            thread::sleep(Duration::from_millis(2));
            beside_a_flood.push(beside / quiet);
            beside_a_neighbour.push(quiet / alone);
        }
        drop(end);
        let sent = flood.join().map_err(|_| anyhow::anyhow!("the flood panicked"))??;
        filler.join().map_err(|_| anyhow::anyhow!("the neighbour panicked"))??;
        Ok((sent, beside_a_flood, beside_a_neighbour, flooded))
    })?;
    sched_setaffinity(None, &everywhere)?;
    // What is still in the unit's registers is read.
    thread::sleep(Duration::from_millis(100));
    let after = scene.journalled();
    let seconds = flooded.as_secs_f64();
    ensure!(sent > 0, "nothing was refused");
    let (recorded, counted) = (after.0 - before.0, after.1 - before.1);
    let slower = |ratios| (median(ratios) - 1.0) * 100.0;
    let a_second = recorded as f64 / seconds / 1e3;
    let uncounted = sent as f64 - counted as f64;
    Ok(vec![
        Row::new("manager/violations/recorded", "k/s", a_second, Goal::AtLeast(500.0)),
        Row::new("manager/violations/not-recorded-but-counted", "", (counted - recorded) as f64, Goal::None),
        Row::new("manager/violations/not-counted", "", uncounted, Goal::AtMost(0.0)),
        Row::new("manager/violations/others-slower-by", "%", slower(beside_a_flood), Goal::AtMost(5.0)),
        Row::new("manager/violations/busy-neighbour-slows-by", "%", slower(beside_a_neighbour), Goal::None),
    ])
}
