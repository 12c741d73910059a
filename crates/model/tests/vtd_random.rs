//! Bad input: random bits in every table entry, descriptor and register. Nothing panics or takes long, what is refused has
//! a code of VT-d's, and another requester notices nothing (invariant 6). `PORTCULLIS_RANDOM_ROUNDS` makes it longer.

mod common;
mod random;

use std::time::Instant;

use common::*;
use portcullis_model::AccessError;
use portcullis_model::GuestMemory;
use portcullis_model::Registers;
use portcullis_model::vtd::config::VtdConfig;
use portcullis_spec::vtd::VtdFaultReason;
use portcullis_spec::{Access, Iova, PhysAddr};
use random::{DEADLINE, Random, register_value, rounds, write_and_read};

fn check(result: Result<u64, AccessError>) {
    if let Err(AccessError::Refused(fault)) = result {
        let code = u8::try_from(fault.code).expect("a code has 8 bits");
        assert!(code == 0 || VtdFaultReason::from_code(code).is_some(), "{fault:?}");
    }
}

/// Disturbs the words at `words`, and does DMA with and without PASIDs, while `witness` must keep its page.
fn disturb(mut machine: Machine, words: &[u64], witness: (u16, u64), seed: u64) {
    let mut random = Random(seed);
    let good: Vec<u64> = words.iter().map(|at| machine.get(*at)).collect();
    machine.put(OTHER_PAGE, 0x1234_5678);
    for round in 0..rounds() {
        let begun = Instant::now();
        let chosen = random.below(words.len() as u64) as usize;
        machine.put(words[chosen], random.disturb(good[chosen]));
        if random.below(3) == 0 {
            let second = random.below(words.len() as u64) as usize;
            machine.put(words[second], random.disturb(good[second]));
        }
        machine.invalidate_all();
        let iova = if random.below(2) == 0 { 0x1000 } else { random.next() & random.next() };
        check(machine.read(DEVICE, iova));
        // Writes only where a disturbed table can't lead to the tables that the witness uses: translations alone.
        let port = machine.port(DEVICE);
        for pasid in [None, Some(random.below(4) as u32)] {
            let port = match pasid {
                None => port.clone(),
                Some(pasid) => machine.pasid_port(DEVICE, pasid),
            };
            let transaction = port.transaction(Iova(iova), 1 << random.below(13), Access::WRITE);
            check(port.translate(&transaction).map(|_| 0).map_err(AccessError::Refused));
        }
        assert_eq!(machine.read(witness.0, witness.1), Ok(0x1234_5678), "round {round}");
        machine.put(words[chosen], good[chosen]);
        for (at, value) in words.iter().zip(&good) {
            machine.put(*at, *value);
        }
        machine.take_faults();
        machine.unit.write32(FSTS, !0);
        assert!(begun.elapsed() < DEADLINE, "round {round}");
    }
}

#[test]
fn random_bits_in_legacy_tables() {
    let mut machine = Machine::legacy_with(VtdConfig { fault_records: 64, ..VtdConfig::default() });
    let (table, other) = (machine.allocate(), machine.allocate());
    // The witness is on another bus, so that it shares no entry with the victim.
    let witness = 0x0110;
    machine.attach(DEVICE, table, 1);
    machine.attach(witness, other, 2);
    let leaf = machine.map(table, 0x1000, PAGE, RW);
    machine.map(other, 0x1000, OTHER_PAGE, RW);
    let context = machine.context_entry(DEVICE);
    let pdpt = machine.get(table) & !0xfff;
    let directory = machine.get(pdpt) & !0xfff;
    let words = [machine.root, machine.root + 8, context, context + 8, table, pdpt, directory, leaf];
    disturb(machine, &words, (witness, 0x1000), 1);
}

#[test]
fn random_bits_in_scalable_tables() {
    let mut machine = Machine::scalable_with(VtdConfig { fault_records: 64, ..VtdConfig::full() });
    let (first, second, other) = (machine.allocate(), machine.allocate(), machine.allocate());
    let witness = 0x0110;
    const PWSNP: u64 = 1 << 23;
    let nested = machine.pasid(DEVICE, 0, [second | 1 << 9 | 3 << 6 | 2 << 2 | 1, PWSNP | 1, first]);
    let single = machine.pasid(DEVICE, 1, [1 << 6 | 1, PWSNP | 1, first]);
    machine.pasid(DEVICE, 2, [second | 2 << 6 | 2 << 2 | 1, 1, 0]);
    machine.pasid(DEVICE, 3, [4 << 6 | 1, 1, 0]);
    machine.pasid(witness, 0, [other | 2 << 6 | 2 << 2 | 1, 2, 0]);
    machine.map(other, 0x1000, OTHER_PAGE, RW);
    // The second stage maps everything to itself, in one page, for reading: the first stage's flags are set already, so
    // that disturbed tables write nothing but their own.
    machine.map_at(second, 4, 2, 0, RW | 1 << 8, R | PS | 1 << 8);
    let leaf = machine.map_at(first, 4, 0, 0x1000, 0b111 | 1 << 5, PAGE | 0b111 | 3 << 5);
    let context = machine.scalable_entry(DEVICE);
    let directory = machine.get(context) & !0xfff;
    let pdpt = machine.get(first) & 0x000f_ffff_ffff_f000;
    let mut words =
        vec![machine.root, machine.root + 8, context, context + 8, context + 16, context + 24, directory];
    words.extend((0..8).flat_map(|word| [nested + 8 * word, single + 8 * word]));
    words.extend([first, pdpt, leaf, second]);
    disturb(machine, &words, (witness, 0x1000), 2);
}

#[test]
fn random_descriptors() {
    for (seed, wide) in [(3, false), (4, true)] {
        let config = if wide { VtdConfig::full() } else { VtdConfig::default() };
        let mut random = Random(seed);
        let machine = Machine::new(config);
        machine.set_root(machine.root | u64::from(wide) << 10);
        machine.enable_queue(wide);
        machine.command(TE);
        let size = if wide { 32 } else { 16 };
        for round in 0..rounds() {
            let begun = Instant::now();
            for at in (QUEUE..QUEUE + 0x1000).step_by(8) {
                if round % 16 != 0 && random.below(16) != 0 {
                    continue;
                }
                let upper = (at - QUEUE) % size >= 16;
                let value = match random.below(3) {
                    _ if upper => 0,
                    0 => random.next(),
                    1 => random.below(16) | random.below(8) << 4 | random.below(4) << 16,
                    // Status writes go to one page alone.
                    _ => 5 | random.below(8) << 4 | random.next() << 32,
                };
                let is_address = (at - QUEUE) % size == 8;
                machine.put(at, if is_address { STATUS | value & 0x3f } else { value });
            }
            machine.unit.write64(0x88, random.below(0x200) * 16);
            machine.unit.write32(FSTS, !0);
            machine.unit.write32(0x9c, 1);
            assert!(machine.unit.read64(0x80) < 0x1000);
            assert!(begun.elapsed() < DEADLINE);
        }
    }
}

#[test]
fn random_registers() {
    for (seed, config) in [(5, VtdConfig::default()), (6, VtdConfig::full())] {
        let mut random = Random(seed);
        let machine = Machine::new(config);
        let size = machine.unit.mmio_size();
        for _ in 0..rounds() {
            let begun = Instant::now();
            let offset = random.below(size + 64);
            let offset = if random.below(8) == 0 { offset } else { random.below(0x240 / 4) * 4 };
            write_and_read(&mut random, &machine.unit, offset, |random| register_value(random, MEMORY));
            let iova = random.next() & random.next() & 0xff_ffff;
            check(machine.read(random.next() as u16, iova));
            check(read(&machine.pasid_port(DEVICE, random.next() as u32 & 0xf_ffff), iova));
            // Whatever state this is, it can be saved and restored.
            if random.below(64) == 0 {
                machine.unit.restore(&machine.unit.save()).unwrap();
            }
            assert!(begun.elapsed() < DEADLINE);
        }
        machine.unit.reset();
        machine.memory.store64(PhysAddr(PAGE), 9).unwrap();
        assert_eq!(machine.read(DEVICE, PAGE), Ok(9));
    }
}
