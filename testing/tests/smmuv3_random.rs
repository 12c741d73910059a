//! Random bits in stream table entries, context descriptors and paging descriptors, before our SMMUv3 and before the slow
//! reference: both must come to the same address, the same flags in memory, or the same event.
//! `PORTCULLIS_RANDOM_ROUNDS` makes it longer.

use std::collections::BTreeMap;
use std::sync::Arc;

use portcullis_model::Registers;
use portcullis_model::smmuv3::Smmuv3Unit;
use portcullis_model::smmuv3::config::{FlagUpdates, Smmuv3Config, StallModel};
use portcullis_model::{GuestMemory, NoInterrupts, OwnedMemory};
use portcullis_spec::{Access, Iova, Pasid, PhysAddr};
use portcullis_testing::reference::smmuv3::{Decision, Event, Request, Unit, decide};
use rand::seq::IndexedRandom as _;
use rand::{Rng, RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

const MEMORY: u64 = 4 << 20;
const COMMANDS: u64 = 0x1000;
const EVENTS: u64 = 0x2000;
const STREAMS: u64 = 0x1_0000;
const STREAM: u32 = 5;
const PAGE: u64 = 0x10_0000;

const CR0: u64 = 0x20;
const CR2: u64 = 0x2c;

struct Bench {
    memory: Arc<OwnedMemory>,
    unit: Smmuv3Unit,
    next: u64,
    producer: u32,
}

impl Bench {
    fn new(config: Smmuv3Config, e2h: bool) -> Self {
        let memory = Arc::new(OwnedMemory::new(MEMORY as usize));
        let unit = Smmuv3Unit::new(config, memory.clone(), Arc::new(NoInterrupts)).unwrap();
        unit.write64(0x80, STREAMS);
        unit.write32(0x88, 4);
        unit.write32(CR2, 2 | u32::from(e2h));
        unit.write64(0x90, COMMANDS | 6);
        unit.write64(0xa0, EVENTS | 6);
        unit.write32(CR0, 0xd);
        Self { memory, unit, next: 0x2_0000, producer: 0 }
    }

    fn allocate(&mut self, size: u64) -> u64 {
        let at = self.next.next_multiple_of(size);
        self.next = at + size;
        assert!(self.next <= PAGE);
        at
    }

    fn get(&self, at: u64) -> u64 {
        self.memory.load64(PhysAddr(at)).unwrap()
    }

    fn put(&self, at: u64, value: u64) {
        self.memory.store64(PhysAddr(at), value).unwrap();
    }

    /// CMD_CFGI_ALL and CMD_TLBI_NSNH_ALL.
    fn forget(&mut self) {
        for command in [[0x04, 31], [0x30, 0]] {
            let at = COMMANDS + u64::from(self.producer & 0x3f) * 16;
            self.put(at, command[0]);
            self.put(at + 8, command[1]);
            self.producer = (self.producer + 1) & 0x7f;
        }
        self.unit.write32(0x98, self.producer);
        assert_eq!(self.unit.read32(0x9c) & 0x7f, self.producer);
    }

    /// The record that stands in the queue, if any.
    fn take_event(&self) -> Option<[u64; 4]> {
        let (producer, consumer) = (self.unit.read32(0x1_00a8), self.unit.read32(0x1_00ac));
        if producer == consumer {
            return None;
        }
        let at = EVENTS + u64::from(consumer & 0x3f) * 32;
        self.unit.write32(0x1_00ac, producer);
        Some([0, 8, 16, 24].map(|word| self.get(at + word)))
    }

    /// The unit as the reference sees it.
    fn registers(&self) -> Unit {
        let read = |at| u64::from(self.unit.read32(at));
        Unit {
            idr0: read(0),
            idr1: read(4),
            idr3: read(0xc),
            idr5: read(0x14),
            cr0: read(CR0),
            cr2: read(CR2),
            gbpa: read(0x44),
            strtab_base: self.unit.read64(0x80),
            strtab_base_cfg: read(0x88),
        }
    }

    /// Tables with 4 KiB granules from level 1, in which some addresses are mapped. Returns all words that count.
    fn tables(&mut self, root: u64, bits: u64, identity: bool) -> Vec<u64> {
        let (middle, last) = (self.allocate(0x1000), self.allocate(0x1000));
        self.put(root, middle | 3);
        self.put(middle, last | 3);
        let mut words = vec![root, middle];
        for page in 0..512 {
            if identity {
                self.put(last + page * 8, page << 12 | bits | 3);
            }
        }
        for page in [0, 1, 2, 3, 7] {
            if !identity {
                self.put(last + page * 8, (PAGE + page * 0x1000) | bits | 3);
            }
            words.push(last + page * 8);
        }
        // Blocks of 2 MiB and 1 GiB.
        self.put(middle + 8, bits | 1);
        self.put(root + 8, bits | 1);
        words.extend([middle + 8, root + 8]);
        words
    }
}

fn disturbed(value: u64, random: &mut impl Rng) -> u64 {
    match random.random_range(0..8) {
        0 => random.random(),
        1..5 => value ^ 1 << random.random_range(0..64),
        5 => value ^ 1 << random.random_range(0..64) ^ 1 << random.random_range(0..64),
        6 => value ^ random.random::<u64>() & random.random::<u64>() & random.random::<u64>(),
        _ => value | 1 << random.random_range(0..64),
    }
}

/// What the model came to, in the reference's words. Whether a termination aborts is not compared: translations only.
fn outcome(done: Result<u64, ()>, event: Option<[u64; 4]>, abort: bool) -> Decision {
    match done {
        Ok(address) => Decision::Pass(address),
        Err(()) => Decision::Terminate {
            abort,
            event: event.map(|[header, syndrome, _, address]| {
                let number = header as u8;
                let stage2 = syndrome >> 39 & 1 == 1;
                let class = (syndrome >> 40 & 3) as u8;
                let has_address = matches!(number, 3 | 9 | 0x0b) || (number >= 0x10 && stage2);
                Event { number, stage2, class, address: has_address.then_some(address) }
            }),
        },
    }
}

/// The translation regime of stage 1.
#[derive(Clone, Copy, PartialEq)]
enum Regime {
    El1,
    El2,
    El2And0,
}

fn compare(config: Smmuv3Config, kind: u64, regime: Regime, seed: u64) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let rounds: u64 =
        std::env::var("PORTCULLIS_RANDOM_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(3_000);
    let substreams = config.substream_id_bits != 0;
    let mut bench = Bench::new(config, regime == Regime::El2And0);
    let ste = STREAMS + u64::from(STREAM) * 64;
    let (first, second) = (bench.allocate(0x1000), bench.allocate(0x1000));
    let cds = bench.allocate(0x1000);
    let mut words: Vec<u64> = (0..4).map(|word| ste + word * 8).collect();
    words.extend(bench.tables(first, 1 << 10 | 1 << 6, kind == 7));
    words.extend(bench.tables(second, 1 << 10 | 3 << 6 | 0xf << 2, kind == 7));
    for index in 0..2 {
        let cd = cds + index * 64;
        bench.put(cd, 25 | 25 << 16 | 2 << 22 | 5 << 32 | 1 << 31 | 1 << 41 | 1 << 45 | 1 << 46 | 1 << 48);
        bench.put(cd + 8, first);
        bench.put(cd + 16, first);
        words.extend((0..3).map(|word| cd + word * 8));
    }
    let mut w0 = 1 | kind << 1 | cds;
    if substreams {
        w0 |= 4 << 59;
    }
    bench.put(ste, w0);
    let strw = if regime == Regime::El1 { 0 } else { 2 << 30 };
    bench.put(ste + 8, strw | if substreams { 2 } else { 0 });
    bench.put(ste + 16, 3 | 25 << 32 | 1 << 38 | 4 << 48 | 1 << 51 | 1 << 58);
    bench.put(ste + 24, second);
    let good: BTreeMap<u64, u64> = words.iter().map(|at| (*at, bench.get(*at))).collect();
    let registers = bench.registers();
    for round in 0..rounds {
        for _ in 0..random.random_range(0..4) {
            let at = *words.choose(&mut random).unwrap();
            bench.put(at, disturbed(bench.get(at), &mut random));
        }
        bench.forget();
        let page =
            *[0, 0x1000, 0x2000, 0x3000, 0x7000, 0x8000, 0x20_1000, 1 << 30].choose(&mut random).unwrap();
        let address = match random.random_range(0..10) {
            0 => random.random(),
            1 => page | 0xffff_ff80_0000_0000,
            2 => page | 1 << random.random_range(0..64),
            _ => page,
        };
        let substream = (substreams && random.random_ratio(1, 2)).then(|| random.random_range(0..18));
        let (instruction, write) = (random.random_ratio(1, 4), random.random_ratio(1, 2));
        let request =
            Request { stream: STREAM, substream, privileged: random.random(), instruction, write, address };
        let view = |at: u64| bench.memory.load64(PhysAddr(at)).ok();
        let (expected, updates) = decide(&registers, &view, &request);
        let port = bench.unit.port(STREAM, substream.and_then(Pasid::new));
        let port = if request.privileged { port.privileged() } else { port };
        let mut access = if write { Access::WRITE } else { Access::READ };
        access.set(Access::EXECUTE, instruction);
        let changed: BTreeMap<u64, u64> = updates.iter().copied().collect();
        let before: Vec<_> = changed.keys().map(|at| (*at, bench.get(*at))).collect();
        let done = port.translate(&port.transaction(Iova(address), 1, access)).map(|page| page.address.0);
        let event = bench.take_event();
        let abort = !matches!(expected, Decision::Terminate { abort: false, .. });
        let found = outcome(done.map_err(drop), event, abort);
        let context = || {
            let entries: Vec<_> = good
                .iter()
                .filter(|(at, value)| bench.get(**at) != **value)
                .map(|(at, value)| format!("{at:#x}: {value:#x} is {:#x}", bench.get(*at)))
                .collect();
            format!("seed {seed}, round {round}: {request:x?}, {entries:#?}, event {event:x?}")
        };
        assert_eq!(found, expected, "{}", context());
        if matches!(expected, Decision::Pass(_)) {
            for (at, value) in &changed {
                assert_eq!(bench.get(*at), *value, "flags at {at:#x}, {}", context());
            }
        }
        for (at, value) in before.into_iter().chain(good.iter().map(|(at, value)| (*at, *value))) {
            bench.put(at, value);
        }
    }
}

fn full() -> Smmuv3Config {
    Smmuv3Config { stall_model: StallModel::Terminate, stall_max: 0, ..Smmuv3Config::full() }
}

#[test]
fn stage_1_as_the_reference_reads_it() {
    compare(Smmuv3Config { substream_id_bits: 0, two_level_contexts: false, ..full() }, 5, Regime::El1, 1);
    compare(full(), 5, Regime::El1, 2);
    compare(Smmuv3Config::default(), 5, Regime::El1, 3);
    let accessed = Smmuv3Config { flag_updates: FlagUpdates::Accessed, output_bits: 44, ..full() };
    compare(accessed, 5, Regime::El1, 4);
}

#[test]
fn stage_2_as_the_reference_reads_it() {
    compare(full(), 6, Regime::El1, 5);
    compare(Smmuv3Config { stage2: true, ..Smmuv3Config::default() }, 6, Regime::El1, 6);
}

#[test]
fn nested_stages_as_the_reference_reads_them() {
    compare(full(), 7, Regime::El1, 7);
    compare(Smmuv3Config { stage2: true, ..Smmuv3Config::default() }, 7, Regime::El1, 8);
}

#[test]
fn el2_as_the_reference_reads_it() {
    compare(full(), 5, Regime::El2, 9);
    compare(full(), 5, Regime::El2And0, 10);
    compare(full(), 7, Regime::El2, 11);
}
