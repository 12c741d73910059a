//! Bad input: random bits in every table entry, command and register. Nothing panics or takes long, what is refused has an
//! event of SMMUv3's, and another requester notices nothing (invariant 6). `PORTCULLIS_RANDOM_ROUNDS` makes it longer.

mod random;
mod smmuv3_machine;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use portcullis_model::AccessError;
use portcullis_model::Registers;
use portcullis_model::smmuv3::config::{Smmuv3Config, StallModel};
use portcullis_spec::smmuv3::event::EventNumber;
use portcullis_spec::{Access, Iova};
use random::{DEADLINE, Random, register_value, rounds_or, write_and_read};
use smmuv3_machine::*;

/// A word that is likely to get somewhere: a valid one with a few bits changed, or all random.
fn disturbed(random: &mut Random, value: u64) -> u64 {
    match random.below(5) {
        0 => random.next(),
        1 | 2 => value ^ 1 << random.below(64),
        3 => value ^ 1 << random.below(64) ^ 1 << random.below(64),
        _ => value & random.next() | random.next() & random.next() & random.next() & 0xfff,
    }
}

fn rounds() -> u64 {
    rounds_or(4_000)
}

fn check<T>(result: Result<T, AccessError>) {
    if let Err(AccessError::Refused(fault)) = result {
        let code = u8::try_from(fault.code).expect("a number has 8 bits");
        assert!(code == 0 || EventNumber::decode(code).is_some(), "{fault:?}");
    }
}

/// The stream that is disturbed, and the one that must keep its page: in other second-level tables.
const VICTIM: u32 = 0x105;
const WITNESS: u32 = 0x209;

/// A unit with a two-level stream table; the witness reads 0x1234_5678 at 0x1000. Returns where the victim's entry and its
/// descriptor lie.
fn machine(config: Smmuv3Config) -> (Machine, u64, u64) {
    let mut machine = Machine::with(config);
    machine.unit.write32(CR0, CMDQEN | EVENTQEN);
    let first = machine.allocate();
    let (victims, others) = (machine.allocate_aligned(0x4000), machine.allocate_aligned(0x4000));
    machine.put(first + 8, victims | 9);
    machine.put(first + 16, others | 9);
    machine.unit.write64(0x80, first);
    machine.unit.write32(0x88, 16 | 8 << 6 | 1 << 16);
    machine.unit.write32(CR0, CMDQEN | EVENTQEN | SMMUEN);
    let (table, second) = (machine.allocate(), machine.allocate());
    let at = machine.context(descriptor(table, 7));
    machine.map(table, 0x1000, 0x1000, S1 | USER);
    // Read-only, so that nobody writes to it by way of the victim's tables.
    machine.map(second, 0x1000, OTHER_PAGE, S2 & !(1 << 7));
    for page in (TABLES..PAGE).step_by(0x1000).take(256) {
        machine.map(second, page, page, S2);
    }
    machine.put_words(others + 9 * 64, &Entry::stage1(at).stage2(second, 7).0);
    machine.put(OTHER_PAGE, 0x1234_5678);
    assert_eq!(machine.read(WITNESS, 0x1000), Ok(0x1234_5678));
    (machine, victims + 5 * 64, first + 8)
}

/// Disturbs the words at `words`, and does DMA with and without substreams. `commands` is held while commands are queued.
fn disturb(machine: &Machine, words: &[u64], seed: u64, commands: &Mutex<()>) {
    let mut random = Random(seed);
    let good: Vec<u64> = words.iter().map(|at| machine.get(*at)).collect();
    for round in 0..rounds() {
        let begun = Instant::now();
        for _ in 0..=random.below(3) {
            let chosen = random.below(words.len() as u64) as usize;
            machine.put(words[chosen], disturbed(&mut random, good[chosen]));
        }
        {
            let _turn = commands.lock().unwrap_or_else(PoisonError::into_inner);
            machine.forget();
        }
        let iova = match random.below(4) {
            0 => random.next(),
            1 => random.next() & random.next() & 0x7f_ffff_ffff,
            _ => 0x1000,
        };
        check(machine.read(VICTIM, iova));
        // Writes only where a disturbed table can't lead to the tables that the witness uses: translations alone.
        for substream in [None, Some(random.below(5) as u32)] {
            let port = match substream {
                None => machine.port(VICTIM).privileged(),
                Some(substream) => machine.substream_port(VICTIM, substream),
            };
            let access =
                [Access::READ, Access::WRITE, Access::READ | Access::EXECUTE][random.below(3) as usize];
            let transaction = port.transaction(Iova(iova), 1 << random.below(13), access);
            check(port.translate(&transaction).map_err(AccessError::Refused));
        }
        // An operation over the same tables.
        machine.unit.write64(0x108, u64::from(VICTIM) | random.below(8) << 32 | random.below(2) << 52);
        machine.unit.write64(0x110, iova & !0xfff | random.below(64) << 6);
        machine.unit.write32(0x100, 1);
        assert_eq!(machine.read(WITNESS, 0x1000), Ok(0x1234_5678), "round {round}");
        for (at, value) in words.iter().zip(&good) {
            machine.put(*at, *value);
        }
        for event in machine.take_events() {
            assert!(EventNumber::decode(event[0] as u8).is_some(), "{event:x?}");
        }
        machine.unit.write32(GERRORN, machine.unit.read32(GERROR));
        assert!(begun.elapsed() < DEADLINE, "round {round}");
    }
}

/// Nested stages of the victim with a two-level descriptor table, and all words on the way.
fn nested(machine: &mut Machine, entry: u64, first_level: u64) -> Vec<u64> {
    let (second, first) = (machine.allocate(), machine.allocate());
    let (directory, descriptors) = (machine.allocate(), machine.allocate());
    let mut words = descriptor(first, 1);
    // HA, HD.
    words[0] |= 3 << 42;
    for index in 0..4 {
        machine.put_words(descriptors + index * 64, &words);
    }
    machine.put(directory, descriptors | 1);
    let ste = Entry::stage1(directory).stage2(second, 3).with(0, 1 << 4 | 8 << 59).with(1, 2);
    machine.put_words(entry, &ste.0);
    // Everything below 1 GiB passes stage 2 unchanged.
    let block = machine.map_from(second, 1, 1, 0, S2 & !(1 << 7) | 1);
    let leaf = machine.map(first, 0x1000, PAGE, S1 | USER);
    let level2 = machine.get(first) & 0x0000_ffff_ffff_f000;
    let mut all = vec![first_level, directory, first, level2, leaf, block];
    all.extend((0..8).map(|word| entry + 8 * word));
    all.extend((0..8).flat_map(|word| [descriptors + 8 * word, descriptors + 64 + 8 * word]));
    all
}

#[test]
fn random_bits_in_tables() {
    let config = Smmuv3Config { stall_model: StallModel::Terminate, stall_max: 0, ..Smmuv3Config::full() };
    let (mut machine, entry, first_level) = machine(config);
    let words = nested(&mut machine, entry, first_level);
    disturb(&machine, &words, 1, &Mutex::new(()));
    // A unit of which little is there refuses more.
    let plain = Smmuv3Config {
        stage2: true,
        output_bits: 44,
        substream_id_bits: 8,
        two_level_contexts: true,
        vmid_16: true,
        ..Smmuv3Config::default()
    };
    let (mut machine, entry, first_level) = self::machine(plain);
    let words = nested(&mut machine, entry, first_level);
    disturb(&machine, &words, 2, &Mutex::new(()));
}

#[test]
fn random_bits_in_tables_of_streams_that_stall() {
    let (mut machine, entry, first_level) = machine(Smmuv3Config { stall_max: 4, ..Smmuv3Config::full() });
    let words = nested(&mut machine, entry, first_level);
    let (commands, done) = (Mutex::new(()), AtomicBool::new(false));
    std::thread::scope(|scope| {
        // Software that terminates whatever stalls.
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                {
                    let _turn = commands.lock().unwrap_or_else(PoisonError::into_inner);
                    machine.submit(&[[0x45 | u64::from(VICTIM) << 32, 0]]);
                }
                std::thread::yield_now();
            }
        });
        // If this fails, the other thread must end too.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            disturb(&machine, &words, 3, &commands);
        }));
        done.store(true, Ordering::Release);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
}

#[test]
fn random_commands() {
    for (seed, config) in [(4, Smmuv3Config::full()), (5, Smmuv3Config::default())] {
        let mut random = Random(seed);
        let mut machine = Machine::with(config);
        let table = machine.attach(STREAM, 1);
        machine.map(table, 0x1000, PAGE, S1 | USER);
        for round in 0..rounds() {
            let begun = Instant::now();
            for _ in 0..16 {
                let at = COMMANDS + random.below(256) * 16;
                let code =
                    [random.below(0x48), random.below(256), 0x12, 0x2a, 0x46][random.below(5) as usize];
                let low = code | random.next() & random.next() & !0xff;
                // Messages of CMD_SYNC go to one page alone.
                let high = match random.below(3) {
                    _ if code == 0x46 => OTHER_PAGE | random.below(0x1000),
                    0 => random.next(),
                    1 => random.below(1 << 39),
                    _ => random.below(64),
                };
                machine.put_words(at, &[low, high]);
            }
            machine.unit.write32(CMDQ_PROD, random.next() as u32);
            machine.unit.write32(GERRORN, machine.unit.read32(GERROR));
            assert_eq!(machine.unit.read32(CMDQ_CONS) & 0xf_ffff & !0x1ff, 0);
            check(machine.read(STREAM, 0x1000));
            assert_eq!(machine.read(STREAM, 0x1000), Ok(0), "round {round}");
            assert!(begun.elapsed() < DEADLINE);
        }
    }
}

#[test]
fn random_registers() {
    let full = Smmuv3Config { stall_model: StallModel::Terminate, stall_max: 0, ..Smmuv3Config::full() };
    for (seed, config) in [(6, Smmuv3Config::default()), (7, full)] {
        let mut random = Random(seed);
        let machine = Machine::reset(config);
        let size = machine.unit.mmio_size();
        for _ in 0..rounds() {
            let begun = Instant::now();
            let offset = match random.below(8) {
                0 => random.below(size + 64),
                1 => 0x1_00a0 + random.below(16),
                2 => CR0,
                _ => random.below(0x120 / 4) * 4,
            };
            write_and_read(&mut random, &machine.unit, offset, |random| register_value(random, MEMORY));
            let iova = random.next() & random.next() & 0xff_ffff;
            check(machine.read(random.next() as u32 & 0x1f, iova));
            check(read(&machine.substream_port(STREAM, random.next() as u32 & 0xf_ffff), iova));
            // Whatever state this is, it can be saved and restored.
            if random.below(64) == 0 {
                machine.unit.restore(&machine.unit.save()).unwrap();
            }
            assert!(begun.elapsed() < DEADLINE);
        }
        machine.unit.reset();
        machine.put(PAGE, 9);
        assert_eq!(machine.read(STREAM, PAGE), Ok(9));
    }
}
