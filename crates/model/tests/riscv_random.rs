//! Bad input: random bits in every directory entry, context, page-table entry, command and register. Nothing panics or takes long, what
//! is refused has a cause of the specification's, and another requester notices nothing (invariant 6). `PORTCULLIS_RANDOM_ROUNDS` makes it
//! longer.

mod random;
mod riscv_machine;

use std::time::Instant;

use portcullis_model::AccessError;
use portcullis_model::Registers;
use portcullis_model::riscv::config::{Interrupts, RiscvConfig};
use portcullis_spec::riscv::Cause;
use portcullis_spec::{Access, Iova};
use random::{DEADLINE, Random, pieces, write_and_read};
use riscv_machine::*;

fn check<T>(result: Result<T, AccessError>) {
    if let Err(AccessError::Refused(fault)) = result {
        let cause = u16::try_from(fault.code).ok().and_then(Cause::decode);
        assert!(cause.is_some_and(|cause| cause != Cause::InternalDatapathError), "{fault:?}");
    }
}

/// A configuration, for each piece of the run.
fn each_piece((seed, config): (u64, RiscvConfig)) -> impl Iterator<Item = (RiscvConfig, (u64, u64))> {
    pieces(seed).map(move |piece| (config.clone(), piece))
}

const ACCESSES: [Access; 4] = [Access::READ, Access::WRITE, Access::EXECUTE, Access::READ_WRITE];

/// Disturbs the words at `words`, and does DMA with and without process_ids, while `witness` must keep its page.
fn disturb(bench: &Bench, words: &[u64], witness: u32, (seed, rounds): (u64, u64)) {
    let mut random = Random(seed);
    let good: Vec<u64> = words.iter().map(|at| bench.get(*at)).collect();
    bench.put(TARGET + PAGE, 0x1234_5678);
    for round in 0..rounds {
        let begun = Instant::now();
        for _ in 0..=random.below(2) {
            let chosen = random.below(words.len() as u64) as usize;
            bench.put(words[chosen], random.disturb(good[chosen]));
        }
        bench.forget();
        let iova = if random.below(2) == 0 { 0x5000 } else { random.next() & random.next() };
        check(bench.load(DEVICE, iova));
        // Writes only where a disturbed table can't lead to the tables that the witness uses: translations alone.
        for pasid in [None, Some(random.below(4) as u32)] {
            let port = bench.port(DEVICE, pasid);
            let port = if random.below(2) == 0 { port.privileged() } else { port };
            let access = ACCESSES[random.below(4) as usize];
            let transaction = port.transaction(Iova(iova), 1 << random.below(13), access);
            check(port.translate(&transaction).map_err(AccessError::Refused));
        }
        for record in bench.records() {
            // 3.2: a cause that there is, of this device, and iotval2 for guest-page faults alone.
            let cause = Cause::decode(record[0] as u16 & 0xfff).unwrap();
            assert!(matches!(cause.encode(), 20 | 21 | 23) || record[3] == 0, "{record:x?}");
            assert_eq!(record[0] >> 40, u64::from(DEVICE));
        }
        assert_eq!(bench.load(witness, 0x5000), Ok(0x1234_5678), "round {round}");
        for (at, value) in words.iter().zip(&good) {
            bench.put(*at, *value);
        }
        assert!(begun.elapsed() < DEADLINE, "round {round}");
    }
}

/// A witness that shares only the directory's root with the victim.
fn witness(bench: &Bench) -> u32 {
    let witness = 0xff_0001;
    let root = bench.first_stage(witness, 3, 0x6000);
    bench.map(root, 3, 0, 0x5000, pte(TARGET + PAGE, LEAF));
    bench.map(root, 3, 0, 0x6000, 0);
    witness
}

/// The entries of the directory that lead to a device.
fn directory(bench: &Bench, device: u32) -> Vec<u64> {
    let (context, mut words) = bench.way_to(device);
    let count = if bench.unit.config().msi_tables { 8 } else { 4 };
    words.extend((0..count).map(|word| context + word * 8));
    words
}

fn tables(bench: &Bench, root: u64) -> [u64; 3] {
    let middle = bench.get(root) >> 10 << 12;
    let leaf = (bench.get(middle) >> 10 << 12) + 5 * 8;
    [root, middle, leaf]
}

#[test]
fn random_bits_in_first_stages_and_contexts() {
    let configs = [(1, RiscvConfig::default()), (2, RiscvConfig::full())];
    for (config, piece) in configs.into_iter().flat_map(each_piece) {
        let bench = Bench::on(config);
        let root = bench.first_stage(DEVICE, 3, 0x5000);
        let witness = witness(&bench);
        let mut words = directory(&bench, DEVICE);
        words.extend(tables(&bench, root));
        disturb(&bench, &words, witness, piece);
    }
}

#[test]
fn random_bits_in_process_directories_and_nested_tables() {
    pieces(3).for_each(nested);
}

fn nested(piece: (u64, u64)) {
    let bench = Bench::on(RiscvConfig::full());
    let (pdt, leaf, first, second) = (bench.page(), bench.page(), bench.page(), bench.pages(4));
    // The second stage maps everything to itself, for reading alone: disturbed flags are written nowhere but here.
    for block in (0..MEMORY).step_by(0x20_0000) {
        bench.map_guest(second, 3, 1, block, pte(block, V | R | X | U | A | D));
    }
    bench.device(DEVICE, [V | PDTV | DPE, sv(3) | 5 << 44 | second >> 12, 0, 2 << 60 | pdt >> 12]);
    bench.put(pdt, pte(leaf, V));
    for process in 0..3 {
        bench.put(leaf + process * 16, V | 6 | process << 12);
        bench.put(leaf + process * 16 + 8, sv(3) | first >> 12);
    }
    bench.map(first, 3, 0, 0x5000, pte(TARGET, LEAF));
    let witness = witness(&bench);
    let mut words = directory(&bench, DEVICE);
    words.extend(tables(&bench, first));
    words.extend((0..6).map(|word| leaf + word * 8));
    words.extend([pdt, second, bench.get(second) >> 10 << 12]);
    disturb(&bench, &words, witness, piece);
}

#[test]
fn random_commands() {
    let configs = [(4, RiscvConfig::default()), (5, RiscvConfig::full())];
    for (config, (seed, rounds)) in configs.into_iter().flat_map(each_piece) {
        let wires = RiscvConfig { interrupts: Interrupts::Wires, ..config };
        let bench = Bench::on(wires);
        let witness = witness(&bench);
        bench.put(TARGET + PAGE, 0x1234_5678);
        let mut random = Random(seed);
        for round in 0..rounds {
            let begun = Instant::now();
            for entry in 0..256 {
                if round % 16 != 0 && random.below(16) != 0 {
                    continue;
                }
                let at = QUEUE + entry * 16;
                // Fences write to one page alone.
                let opcode = random.below(5) | random.below(4) << 7;
                let low = match random.below(3) {
                    0 => random.next(),
                    1 => opcode | random.next() & random.next() & !0x7f,
                    _ => opcode | random.next() & random.next() & random.next() & !0x3ff,
                };
                let high = match random.below(2) {
                    0 if low & 0x7f != 2 => random.next() & random.next(),
                    _ => (TARGET | random.below(0x1000)) >> 2,
                };
                bench.put(at, low);
                bench.put(at + 8, if low & 0x7f == 3 && random.below(4) != 0 { 0 } else { high });
            }
            bench.unit.write32(CQT, random.next() as u32);
            bench.unit.write32(CQCSR, 3 | 0xf00);
            assert!(bench.unit.read32(CQH) < 0x100);
            assert_eq!(bench.load(witness, 0x5000), Ok(0x1234_5678));
            assert!(begun.elapsed() < DEADLINE);
        }
    }
}

#[test]
fn random_registers() {
    let configs = [(6, RiscvConfig::default()), (7, RiscvConfig::full()), (8, RiscvConfig::least())];
    for (config, (seed, rounds)) in configs.into_iter().flat_map(each_piece) {
        let mut random = Random(seed);
        let bench = Bench::new(config);
        bench.sink.dead.lock().unwrap().insert(0);
        for _ in 0..rounds {
            let begun = Instant::now();
            let offset = match random.below(8) {
                0 => random.below(0x1000 + 64),
                1..=4 => random.below(0x60 / 4) * 4,
                _ => random.below(0x400 / 4) * 4,
            };
            write_and_read(&mut random, &bench.unit, offset, |random| match random.below(4) {
                0 => random.next(),
                1 => random.next() & random.next() & random.next(),
                2 => random.below(32),
                // Something that lies in memory: a page number, and low bits.
                _ => (random.below(MEMORY) & !0xfff) >> 2 | random.below(16),
            });
            let iova = random.next() & random.next() & 0xff_ffff;
            check(bench.load(random.next() as u32, iova));
            let port = bench.port(random.next() as u32, Some(random.next() as u32 & 0xf_ffff));
            check(port.read(Iova(iova), &mut [0; 8]));
            // Whatever state this is, it can be saved and restored.
            if random.below(64) == 0 {
                bench.unit.restore(&bench.unit.save()).unwrap();
                bench.messages();
            }
            assert!(begun.elapsed() < DEADLINE);
        }
        bench.unit.reset();
        bench.unit.write64(DDTP, BARE);
        bench.put(PAGE, 9);
        assert_eq!(bench.load(DEVICE, PAGE), Ok(9));
    }
}
