//! Interrupt requests before QEMU's unit and before our model: entries and messages with random bits, judged by the reference. QEMU's
//! processors stand still, so of a message that passes it shows only that nothing was recorded; what it came to, our model alone shows.

use super::judge::{FSTS, GCMD};
use crate::machine::qemu::QemuMachine;
use crate::machine::vtd::{Mode, board_with_interrupts, like_qemu, model_into, requester};
use crate::machine::{Copy, Machine};
use crate::oracle::{Failure, Tally};
use crate::reference::vtd_interrupts::{Decision, Message, Unit, decide};
use portcullis_driver::platform::Memory as _;
use portcullis_model::vtd::config::{InterruptConfig, VtdConfig};
use portcullis_model::{InterruptSink, Undelivered};
use portcullis_spec::PhysAddr;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::sync::{Arc, Mutex, PoisonError};

const IRTA: u64 = 0xb8;
const EIME: u64 = 1 << 11;
const IQT: u64 = 0x88;
const IQA: u64 = 0x90;
const QIE: u32 = 1 << 26;
const IRE: u32 = 1 << 25;
const SIRTP: u32 = 1 << 24;
/// The table, of 256 entries, and the queue.
const TABLE: u64 = 24 << 20;
const SIZE: u64 = 7;
const QUEUE: u64 = 25 << 20;
const FRCD: u64 = 0x220;

/// Messages that were delivered.
#[derive(Default)]
struct Delivered(Mutex<Vec<(u64, u32)>>);

impl Delivered {
    fn take(&self) -> Vec<(u64, u32)> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl InterruptSink for Delivered {
    fn send(&self, message: portcullis_model::Message) -> Result<(), Undelivered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((message.address, message.data));
        Ok(())
    }
}

/// A machine whose unit remaps interrupts, and translates nothing.
struct Bench<M> {
    machine: M,
    tail: u64,
}

impl<M: Machine> Bench<M> {
    fn new(machine: M, irta: u64) -> Self {
        machine.write64(IQA, machine.ram().base().0 + QUEUE);
        machine.write64(IQT, 0);
        machine.write32(GCMD, QIE);
        machine.write64(IRTA, irta + machine.ram().base().0);
        machine.write32(GCMD, QIE | SIRTP);
        machine.write32(GCMD, QIE | IRE);
        Self { machine, tail: 0 }
    }

    fn at(&self, offset: u64) -> PhysAddr {
        PhysAddr(self.machine.ram().base().0 + offset)
    }

    /// Writes an entry, and makes the unit forget `2^mask` around it, or all.
    fn set(&mut self, index: u64, words: [u64; 2], mask: Option<u64>) {
        let entry = self.at(TABLE + 16 * index);
        self.machine.ram().store64(PhysAddr(entry.0 + 8), words[1]);
        self.machine.ram().store64(entry, words[0]);
        let descriptor = mask.map_or(4, |mask| 4 | 1 << 4 | mask << 27 | index << 32);
        self.machine.ram().store64(self.at(QUEUE + self.tail), descriptor);
        self.machine.ram().store64(self.at(QUEUE + self.tail + 8), 0);
        self.tail = (self.tail + 16) % 4096;
        self.machine.write64(IQT, self.tail);
    }

    /// Has an engine send a message. The record that it left: code, source and index.
    fn send(&self, engine: usize, message: Message) -> Option<(u8, u16, u16)> {
        let data = self.machine.ram().data();
        self.machine.ram().write(data, &message.data.to_le_bytes());
        let copy = Copy { source: data.0 as u32, destination: message.address as u32, length: 4 };
        self.machine.copy(engine, copy);
        let high = self.machine.read64(FRCD + 8);
        if high >> 63 == 0 {
            return None;
        }
        let low = self.machine.read64(FRCD);
        self.machine.write32(FRCD + 12, 1 << 31);
        self.machine.write32(FSTS, 1);
        Some(((high >> 32) as u8, high as u16, (low >> 48) as u16))
    }
}

/// What QEMU does that departs from the specification, if this is that.
fn departure(words: [u64; 2], expected: Decision, theirs: Option<(u8, u16, u16)>) -> Option<&'static str> {
    let Decision::Refuse { code, .. } = expected else { return None };
    let [low, high] = words;
    let theirs = theirs.map(|(code, ..)| code);
    match (code, theirs) {
        (0x24, None | Some(0x26)) => Some(RESERVED),
        (0x20, Some(_) | None) if low & 1 == 0 || high != 0 || low != 0 => Some(ORDER),
        (0x26, None) => Some(SOURCE),
        (0x25, None) => Some(COMPATIBILITY),
        _ => None,
    }
}

/// 9.9: fields that are reserved, or hold reserved values.
const RESERVED: &str =
    "does not look at the reserved bits and values of DLM, DST, SVT and bit 15 of interrupt entries";
/// 9.9 (SVT).
const SOURCE: &str =
    "does not validate the source of messages that a device writes itself, not by its MSI capability";
/// 5.1.4.
const COMPATIBILITY: &str = "lets interrupt requests in compatibility format pass while CFIS is clear";
/// 5.1.3, 5.1.4: the request first, then the entry.
const ORDER: &str = "looks at the interrupt entry before the reserved bits of the request";

fn random_message(random: &mut ChaCha8Rng, requester_id: u16) -> Message {
    let index = u64::from(random.random_range(0..260u32));
    let request = 0xfee0_0010 | (index & 0x7fff) << 5;
    let (address, data) = match random.random_range(0..8) {
        0 => (0xfee0_0000 | u64::from(random.next_u32()) & 0xf_fffc, random.next_u32()),
        1 => (request | 8, random.next_u32() & 0x8000_00ff),
        2 => (request | 8, random.random_range(0..8)),
        _ => (request, random.next_u32()),
    };
    Message { requester_id, address, data }
}

fn random_entry(random: &mut ChaCha8Rng, requester_id: u16) -> [u64; 2] {
    let exact = 1u64 << 18;
    let high = match random.random_range(0..6) {
        0 => 0,
        1 => exact | u64::from(random.next_u32()) & 0x3_ffff,
        2 => 2 << 18 | u64::from(random.next_u32()) & 0x0303,
        _ => {
            exact
                | u64::from(random.next_u32()) & 0x3_0000
                | u64::from(requester_id ^ (random.next_u32() as u16 & 7))
        }
    };
    let mut words =
        [1 | u64::from(random.next_u32()) & 0xff_001e | u64::from(random.next_u32() & 0xff) << 40, high];
    if random.random_range(0..3) == 0 {
        words[random.random_range(0..2)] ^= 1 << random.random_range(0..64);
    }
    words
}

/// Compare.
///
/// # Errors
/// The first difference, or a machine that failed.
pub fn run(cases: u64, seed: u64) -> Result<Tally, Failure> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let config = VtdConfig {
        interrupts: Some(InterruptConfig { extended: false, index_mask_bits: 15, enhanced_set_table: false }),
        ..like_qemu(Mode::Legacy48)
    };
    let delivered = Arc::new(Delivered::default());
    let mut qemu = Bench::new(QemuMachine::start(&board_with_interrupts(), requester)?, TABLE | SIZE);
    let mut ours = Bench::new(model_into(config.clone(), delivered.clone())?, TABLE | SIZE);
    let extended = VtdConfig { interrupts: Some(InterruptConfig::default()), ..config };
    let mut far = Bench::new(model_into(extended, delivered.clone())?, TABLE | SIZE | EIME);
    let mut tally = Tally::default();
    let requesters: Vec<u16> =
        ours.machine.requesters().iter().map(|requester| requester.index() as u16).collect();
    for case in 0..cases {
        let engine = random.random_range(0..4);
        let message = random_message(&mut random, requesters[engine]);
        let index = message.address >> 5 & 0xff;
        let mask = (random.random_range(0..2) == 0).then(|| random.random_range(0..8));
        let words = random_entry(&mut random, requesters[engine]);
        for (bench, irta) in [(&mut ours, TABLE | SIZE), (&mut far, TABLE | SIZE | EIME)] {
            bench.set(index, words, mask);
            let unit = Unit { irta, compatibility: false, haw: 48 };
            let memory = |address: u64| Some(bench.machine.ram().load64(PhysAddr(address)));
            let expected = decide(&unit, &memory, message);
            let record = bench.send(engine, message);
            compare(case, words, message, expected, record, Some(delivered.take()))?;
            tally.by_reference += 1;
            tally.checks += 1;
        }
        qemu.set(index, words, mask);
        let unit = Unit { irta: TABLE | SIZE, compatibility: false, haw: 48 };
        let memory = |address: u64| Some(qemu.machine.ram().load64(PhysAddr(address)));
        let expected = decide(&unit, &memory, message);
        // A write that is no capability's has no source there.
        let record = qemu.send(engine, message).map(|(code, _, index)| (code, message.requester_id, index));
        tally.checks += 1;
        let entry = entry_of(&qemu.machine, message);
        if let Err(failure) = compare(case, words, message, expected, record, None) {
            match departure(entry, expected, record) {
                Some(what) => *tally.departures.entry(what).or_default() += 1,
                None => return Err(failure),
            }
        }
    }
    qemu.machine.health().map_err(Failure::Difference)?;
    // Each is to be seen, or QEMU has changed.
    match [RESERVED, ORDER, SOURCE, COMPATIBILITY]
        .iter()
        .find(|what| cases > 500 && !tally.departures.contains_key(*what))
    {
        Some(gone) => Err(Failure::Difference(format!("QEMU no longer {gone}"))),
        None => Ok(tally),
    }
}

/// The entry that a message names, whatever is wrong with its data.
fn entry_of(machine: &impl Machine, message: Message) -> [u64; 2] {
    let sub = if message.address & 8 == 0 { 0 } else { u64::from(message.data & 0xffff) };
    let index = (message.address >> 5 & 0x7fff) + (message.address >> 2 & 1) * 0x8000 + sub;
    if index > 255 {
        return [0; 2];
    }
    let at = machine.ram().base().0 + TABLE + 16 * index;
    [0, 8].map(|word| machine.ram().load64(PhysAddr(at + word)))
}

fn compare(
    case: u64,
    words: [u64; 2],
    message: Message,
    expected: Decision,
    record: Option<(u8, u16, u16)>,
    delivered: Option<Vec<(u64, u32)>>,
) -> Result<(), Failure> {
    let (expected_record, expected_delivery) = match expected {
        Decision::Pass(address, data) => (None, vec![(address, data)]),
        Decision::Refuse { code, index, recorded } => {
            (recorded.then_some((code, message.requester_id, index)), Vec::new())
        }
    };
    if record == expected_record && delivered.as_ref().is_none_or(|delivered| *delivered == expected_delivery)
    {
        return Ok(());
    }
    let who = if delivered.is_some() { "our model" } else { "QEMU" };
    Err(Failure::Difference(format!(
        "interrupt {case}: entry {words:#x?}, {message:#x?}\nexpected {expected:#x?}\n{who}: record {record:#x?}, delivered \
         {delivered:#x?}"
    )))
}
