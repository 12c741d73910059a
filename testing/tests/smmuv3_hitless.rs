//! What an SMMUv3 may see while the driver moves a device from one domain to another.
//!
//! The driver works on our model; every store to memory and every command that it sends is written down. Then each moment is played
//! again: the unit reads an entry's words in any order and may keep each until it is told to forget the entry (3.21.3), so between two
//! commands any word may be any that stood there, and what only a new word leads to is at least as new as that word. Each such mixture is given to the
//! slow reference and to a fresh model, and every transaction must come to what it came to before, or to what it comes to after.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use portcullis_driver::platform::{Clock, Memory, Mmio, Platform};
use portcullis_driver::smmuv3::{Options, Smmuv3};
use portcullis_driver::{Device, Domain, DomainOptions, Unit};
use portcullis_model::Registers as _;
use portcullis_model::smmuv3::Smmuv3Unit;
use portcullis_model::smmuv3::config::{FlagUpdates, Smmuv3Config};
use portcullis_model::{NoInterrupts, VmMemory};
use portcullis_spec::{Access, Iova, PagingFormat, Pasid, PhysAddr, Requester};
use portcullis_testing::machine::Machine as _;
use portcullis_testing::machine::ram::Ram;
use portcullis_testing::machine::smmuv3::{Smmuv3Machine, model};
use portcullis_testing::reference::smmuv3::{Decision, Request, Unit as Registers, decide};

/// The stream, of a table of either kind.
const fn stream(config: &Smmuv3Config) -> u32 {
    if config.two_level_streams { 0x1234 } else { 0x34 }
}

const CMDQ_PROD: u64 = 0x98;

/// What the driver did.
#[derive(Clone, Copy, Debug)]
enum Happening {
    Store {
        address: u64,
        old: u64,
        new: u64,
    },
    /// It sent commands and waited for them.
    Forget,
}

/// The model's registers and memory, which note what the driver does.
struct Watched<'m> {
    machine: &'m Smmuv3Machine,
    log: RefCell<Vec<Happening>>,
}

impl Watched<'_> {
    fn ram(&self) -> &Ram {
        self.machine.ram()
    }
}

impl Mmio for Watched<'_> {
    fn read32(&self, offset: u64) -> u32 {
        self.machine.read32(offset)
    }
    fn read64(&self, offset: u64) -> u64 {
        self.machine.read64(offset)
    }
    fn write32(&self, offset: u64, value: u32) {
        if offset == CMDQ_PROD {
            self.log.borrow_mut().push(Happening::Forget);
        }
        self.machine.write32(offset, value);
    }
    fn write64(&self, offset: u64, value: u64) {
        self.machine.write64(offset, value);
    }
}

impl Memory for Watched<'_> {
    fn allocate(&self, size: u64, align: u64) -> Option<PhysAddr> {
        self.ram().allocate(size, align)
    }
    fn free(&self, address: PhysAddr, size: u64, align: u64) {
        self.ram().free(address, size, align);
    }
    fn load32(&self, address: PhysAddr) -> u32 {
        self.ram().load32(address)
    }
    fn store32(&self, address: PhysAddr, value: u32) {
        self.ram().store32(address, value);
    }
    fn load64(&self, address: PhysAddr) -> u64 {
        self.ram().load64(address)
    }
    fn store64(&self, address: PhysAddr, new: u64) {
        let old = self.ram().load64(address);
        self.log.borrow_mut().push(Happening::Store { address: address.0, old, new });
        self.ram().store64(address, new);
    }
    fn compare_exchange64(&self, address: PhysAddr, current: u64, new: u64) -> Result<u64, u64> {
        self.ram().compare_exchange64(address, current, new)
    }
    fn flush(&self, _address: PhysAddr, _length: u64) {}
}

impl Clock for Watched<'_> {
    fn now(&self) -> Duration {
        self.ram().now()
    }
    fn relax(&self) {}
}

impl Platform for Watched<'_> {
    type Lock<T> = RefCell<T>;
}

type Driven<'w> = Unit<Smmuv3<&'w Watched<'w>, &'w Watched<'w>>>;
type Space<'w> = Domain<Smmuv3<&'w Watched<'w>, &'w Watched<'w>>>;

/// Memory with some words replaced.
struct Mixture<'a> {
    ram: &'a Ram,
    words: BTreeMap<u64, u64>,
    loaded: RefCell<BTreeSet<u64>>,
}

impl Mixture<'_> {
    fn load(&self, address: u64) -> Option<u64> {
        self.loaded.borrow_mut().insert(address);
        let end = self.ram.base().0 + portcullis_testing::machine::ram::RAM_BYTES;
        let inside = (self.ram.base().0..end).contains(&address);
        inside
            .then(|| self.words.get(&address).copied().unwrap_or_else(|| self.ram.load64(PhysAddr(address))))
    }
}

/// What becomes of each of the requests.
type Answers = Vec<Decision>;

struct Judge<'m> {
    machine: &'m Smmuv3Machine,
    config: Smmuv3Config,
    registers: Registers,
    requests: Vec<Request>,
    mixtures: u64,
}

impl<'m> Judge<'m> {
    fn new(machine: &'m Smmuv3Machine, config: Smmuv3Config, pasid: Option<u32>) -> Self {
        let read = |offset| u64::from(machine.read32(offset));
        let registers = Registers {
            idr0: read(0x00),
            idr1: read(0x04),
            idr3: read(0x0c),
            idr5: read(0x14),
            cr0: read(0x20),
            cr2: read(0x2c),
            gbpa: read(0x44),
            strtab_base: machine.read64(0x80),
            strtab_base_cfg: read(0x88),
        };
        let mut requests = Vec::new();
        for substream in [None].into_iter().chain(pasid.map(Some)) {
            for address in ADDRESSES {
                for write in [false, true] {
                    let (privileged, instruction) = (false, false);
                    let (stream, address) = (stream(&config), address + 0x10);
                    requests.push(Request { stream, substream, privileged, instruction, write, address });
                }
            }
        }
        Self { machine, config, registers, requests, mixtures: 0 }
    }

    /// By the reference, and what it read for that.
    fn by_reference(&self, words: &BTreeMap<u64, u64>) -> (Answers, BTreeSet<u64>) {
        let memory = Mixture { ram: self.machine.ram(), words: words.clone(), loaded: RefCell::default() };
        let load = |address| memory.load(address);
        let answers = self.requests.iter().map(|request| decide(&self.registers, &load, request).0).collect();
        (answers, memory.loaded.into_inner())
    }

    /// By a model that has never seen another state: where each request leads, or its event. Nothing of one that is not recorded.
    fn by_model(&self, words: &BTreeMap<u64, u64>) -> Vec<Result<u64, u32>> {
        let ram = self.machine.ram();
        let now: Vec<_> = words.keys().map(|at| (*at, ram.load64(PhysAddr(*at)))).collect();
        for (address, word) in words {
            ram.store64(PhysAddr(*address), *word);
        }
        let memory = Arc::new(VmMemory(ram.guest().clone()));
        let unit = Smmuv3Unit::new(self.config.clone(), memory, Arc::new(NoInterrupts)).unwrap();
        unit.write64(0x80, self.registers.strtab_base);
        unit.write32(0x88, self.registers.strtab_base_cfg as u32);
        unit.write32(0x2c, self.registers.cr2 as u32);
        unit.write32(0x20, 1);
        let answers = self.requests.iter().map(|request| {
            let port = unit.port(request.stream, request.substream.and_then(Pasid::new));
            let access = if request.write { Access::WRITE } else { Access::READ };
            let answer = port.translate(&port.transaction(Iova(request.address), 1, access));
            answer.map(|translation| translation.address.0).map_err(|fault| fault.code)
        });
        let answers = answers.collect();
        for (address, word) in now {
            ram.store64(PhysAddr(address), word);
        }
        answers
    }

    /// Plays everything between two states. Whether the stream was invalid at some moment although neither state is.
    fn judge(&mut self, log: &[Happening], what: &str) -> bool {
        let mut words: BTreeMap<u64, u64> = BTreeMap::new();
        for happening in log {
            if let Happening::Store { address, old, .. } = happening {
                words.entry(*address).or_insert(*old);
            }
        }
        let mut last = words.clone();
        for happening in log {
            if let Happening::Store { address, new, .. } = happening {
                last.insert(*address, *new);
            }
        }
        let (before, _) = self.by_reference(&words);
        let (after, _) = self.by_reference(&last);
        let (model_before, model_after) = (self.by_model(&words), self.by_model(&last));
        let mut broken = false;
        for stretch in log.split(|happening| matches!(happening, Happening::Forget)) {
            let (_, reachable) = self.by_reference(&words);
            // Each word's values, and the store that made it so.
            let mut versions: BTreeMap<u64, Vec<(usize, u64)>> = BTreeMap::new();
            for (time, happening) in stretch.iter().enumerate() {
                if let Happening::Store { address, new, .. } = happening {
                    let first = || vec![(0, words[address])];
                    versions.entry(*address).or_insert_with(first).push((time + 1, *new));
                }
            }
            let (known, hidden): (Vec<_>, Vec<_>) =
                versions.iter().partition(|(address, _)| reachable.contains(address));
            mixtures(&known, &mut |chosen| {
                let since = chosen.iter().map(|(_, time, _)| *time).filter(|time| *time > 0).min();
                let still: Vec<(&u64, Vec<(usize, u64)>)> = hidden
                    .iter()
                    .map(|(address, values)| (*address, not_older(values, since.unwrap_or(usize::MAX))))
                    .collect();
                let still: Vec<_> = still.iter().map(|(address, values)| (*address, values)).collect();
                mixtures(&still, &mut |unseen| {
                    let mut mixed = words.clone();
                    mixed.extend(chosen.iter().chain(unseen).map(|(address, _, value)| (*address, *value)));
                    self.mixtures += 1;
                    let (answers, _) = self.by_reference(&mixed);
                    let seen = self.by_model(&mixed);
                    for (index, answer) in answers.iter().enumerate() {
                        let fits = [before[index], after[index]].contains(answer);
                        let model_fits = [model_before[index], model_after[index]].contains(&seen[index]);
                        // 7.3.5, 7.3.11: C_BAD_STE and C_BAD_CD.
                        let invalid = matches!(answer, Decision::Terminate { event: Some(event), .. }
                            if event.number == 0x04 || event.number == 0x0a);
                        let model_invalid = matches!(seen[index], Err(0x04 | 0x0a));
                        assert_eq!(
                            fits, model_fits,
                            "{what}: reference and model differ: {answer:?}, {:?}",
                            seen[index]
                        );
                        assert!(
                            fits || (invalid && model_invalid),
                            "{what}: {:?} came to {answer:?}, neither {:?} nor {:?}, with {mixed:x?}",
                            self.requests[index],
                            before[index],
                            after[index],
                        );
                        broken |= !fits;
                    }
                });
            });
            for (address, values) in versions {
                words.insert(address, values[values.len() - 1].1);
            }
        }
        assert_eq!(words, last);
        broken
    }
}

/// Of a word's values, those that stood there at `since` or later.
fn not_older(values: &[(usize, u64)], since: usize) -> Vec<(usize, u64)> {
    let current = values.iter().rposition(|(time, _)| *time <= since).unwrap_or(0);
    values[current..].to_vec()
}

/// A word's address, and its values, each with the store that made it so.
type Versions<'a> = (&'a u64, &'a Vec<(usize, u64)>);

/// What is called with a choice: of each word the address, the store and the value.
type Each<'a> = &'a mut dyn FnMut(&[(u64, usize, u64)]);

/// Calls `each` with every choice of one value a word.
fn mixtures(words: &[Versions<'_>], each: Each<'_>) {
    fn choose(words: &[Versions<'_>], chosen: &mut Vec<(u64, usize, u64)>, each: Each<'_>) {
        let Some((address, values)) = words.get(chosen.len()) else { return each(chosen) };
        for (time, value) in *values {
            chosen.push((**address, *time, *value));
            choose(words, chosen, each);
            chosen.pop();
        }
    }
    choose(words, &mut Vec::new(), each);
}

/// Mapped in one domain each, and in none; one that domains share, to different pages.
const ADDRESSES: [u64; 4] = [0x4000, 0x5000, 0x6000, 0x7000];

/// What a device can be attached to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Nothing,
    Silent,
    Identity,
    First(u64),
    Second(u64),
}

const KINDS: [Kind; 7] = [
    Kind::Nothing,
    Kind::Silent,
    Kind::Identity,
    Kind::First(0),
    Kind::First(1),
    Kind::Second(0),
    Kind::Second(1),
];

/// Between which there is no way without a break: word 2 (VMID) and another are used on both sides and differ (5.2), in linear tables as in
/// tables of two levels.
fn breaks(from: Kind, to: Kind) -> bool {
    let second = |kind| matches!(kind, Kind::Second(_));
    let first = |kind| matches!(kind, Kind::First(_));
    from != to && ((second(from) && (second(to) || first(to))) || (first(from) && second(to)))
}

struct Bench<'w> {
    watched: &'w Watched<'w>,
    unit: Driven<'w>,
    stream: Requester,
    spaces: Vec<(Kind, Space<'w>)>,
}

impl<'w> Bench<'w> {
    fn new(watched: &'w Watched<'w>, streamid: u32, pasid_bits: u8) -> Self {
        let unit = Unit::new(Smmuv3::start(watched, watched, Options::default()).unwrap());
        unit.enable().unwrap();
        unit.add_device(Device { pasid_bits, ..Device::new(Requester::Stream(streamid)) }).unwrap();
        // Another in the same table, which nothing here is about.
        unit.add_device(Device::new(Requester::Stream(streamid + 1))).unwrap();
        let mut spaces = vec![
            (Kind::Silent, unit.blocking_domain(true).unwrap()),
            (Kind::Identity, unit.identity_domain().unwrap()),
        ];
        for number in [0u64, 1] {
            for kind in [Kind::First(number), Kind::Second(number)] {
                let first = matches!(kind, Kind::First(_));
                let shape = |format: &portcullis_driver::common::architecture::TableFeatures| {
                    matches!(format.shape, PagingFormat::ArmStage1 { .. }) == first
                };
                let formats = &unit.features().formats;
                let Some(format) = formats.iter().find(|format| shape(format)) else { continue };
                let options = DomainOptions {
                    shape: Some(format.shape),
                    dirty_tracking: number == 1 && format.dirty,
                    ..DomainOptions::default()
                };
                let domain = unit.create_domain(options).unwrap();
                let own = 0x4000 + 0x1000 * number;
                let data = watched.ram().data().0 + 0x4000 * number + if first { 0 } else { 0x10000 };
                domain.map(Iova(own), PhysAddr(data), 0x1000, Access::READ_WRITE).unwrap();
                domain.map(Iova(0x6000), PhysAddr(data + 0x1000), 0x1000, Access::READ).unwrap();
                spaces.push((kind, domain));
            }
        }
        Self { watched, unit, stream: Requester::Stream(streamid), spaces }
    }

    fn space(&self, kind: Kind) -> Option<&Space<'w>> {
        self.spaces.iter().find(|(other, _)| *other == kind).map(|(_, space)| space)
    }

    /// Moves the stream, or one PASID of it.
    fn go(&self, pasid: Option<Pasid>, from: Kind, to: Kind) -> Result<(), portcullis_driver::Error> {
        let requester = self.stream;
        match (from, to) {
            (Kind::Nothing, Kind::Nothing) => Ok(()),
            (_, Kind::Nothing) => self.unit.detach(requester, pasid),
            (Kind::Nothing, to) => self.unit.attach(requester, pasid, self.space(to).unwrap()),
            (_, to) => self.unit.replace(requester, pasid, self.space(to).unwrap()),
        }
    }

    /// Moves it and judges every moment of that.
    fn watch(&self, judge: &mut Judge<'_>, pasid: Option<Pasid>, from: Kind, to: Kind) -> bool {
        self.watched.log.take();
        self.go(pasid, from, to).unwrap();
        let log = self.watched.log.take();
        judge.judge(&log, &format!("{from:?} to {to:?}, {pasid:?}"))
    }
}

/// 48 bits, so that both stages have tables of four levels.
fn config() -> Smmuv3Config {
    Smmuv3Config { output_bits: 48, stream_id_bits: 16, ..Smmuv3Config::full() }
}

fn on(config: &Smmuv3Config, pasid_bits: u8, test: impl Fn(&Bench<'_>, &mut Judge<'_>)) {
    let machine = model(config.clone()).unwrap();
    let watched = Watched { machine: &machine, log: RefCell::default() };
    let bench = Bench::new(&watched, stream(config), pasid_bits);
    let mut judge = Judge::new(&machine, config.clone(), (pasid_bits > 0).then_some(5));
    test(&bench, &mut judge);
    assert!(judge.mixtures > 50, "only {} mixtures", judge.mixtures);
    println!("{} mixtures, {pasid_bits} bits of PASID", judge.mixtures);
    let Bench { unit, spaces, .. } = bench;
    unit.shut_down().unwrap();
    drop(spaces);
    assert_eq!(machine.ram().bytes_in_use(), 0);
}

fn configs() -> Vec<Rc<Smmuv3Config>> {
    let linear =
        Smmuv3Config { two_level_streams: false, stream_id_bits: 6, two_level_contexts: false, ..config() };
    let plain = Smmuv3Config { flag_updates: FlagUpdates::None, messages: false, ..linear.clone() };
    [config(), linear, plain].map(Rc::new).to_vec()
}

#[test]
fn a_stream_goes_from_any_domain_to_any_other_without_a_torn_moment() {
    for config in &configs() {
        let several = if config.messages { &[0, 7][..] } else { &[0] };
        for pasid_bits in several.iter().copied() {
            on(config, pasid_bits, |bench, judge| {
                for from in KINDS {
                    for to in KINDS {
                        bench.go(None, Kind::Nothing, from).unwrap();
                        let broken = bench.watch(judge, None, from, to);
                        assert_eq!(broken, breaks(from, to), "{from:?} to {to:?}");
                        bench.go(None, to, Kind::Nothing).unwrap();
                    }
                }
            });
        }
    }
}

#[test]
fn pasids_come_go_and_move_without_a_torn_moment_for_any_other() {
    let pasid = Pasid::new(5);
    // One in the same second-level table, one in another.
    for config in &configs()[..2] {
        for (pasid_bits, other) in [(5, 6), (7, 0x45)] {
            on(config, pasid_bits, |bench, judge| {
                let numbered = [Kind::Nothing, Kind::Silent, Kind::First(0), Kind::First(1)];
                for (unnumbered, with_other) in
                    KINDS[..5].iter().flat_map(|kind| [(*kind, false), (*kind, true)])
                {
                    bench.go(None, Kind::Nothing, unnumbered).unwrap();
                    if with_other {
                        bench.go(Pasid::new(other), Kind::Nothing, Kind::First(1)).unwrap();
                    }
                    for from in numbered {
                        for to in numbered {
                            bench.go(pasid, Kind::Nothing, from).unwrap();
                            let broken = bench.watch(judge, pasid, from, to);
                            assert!(!broken, "{from:?} to {to:?} beside {unnumbered:?}");
                            bench.go(pasid, to, Kind::Nothing).unwrap();
                        }
                    }
                    if with_other {
                        bench.go(Pasid::new(other), Kind::First(1), Kind::Nothing).unwrap();
                    }
                    bench.go(None, unnumbered, Kind::Nothing).unwrap();
                }
            });
        }
    }
}

#[test]
fn a_stream_with_pasids_goes_from_any_domain_to_any_other_without_a_torn_moment() {
    for config in &configs()[..2] {
        for pasid_bits in [5, 7] {
            on(config, pasid_bits, |bench, judge| {
                let pasid = Pasid::new(5);
                bench.go(pasid, Kind::Nothing, Kind::First(1)).unwrap();
                for from in &KINDS[..5] {
                    for to in &KINDS[..5] {
                        bench.go(None, Kind::Nothing, *from).unwrap();
                        let broken = bench.watch(judge, None, *from, *to);
                        assert!(!broken, "{from:?} to {to:?}");
                        bench.go(None, *to, Kind::Nothing).unwrap();
                    }
                    // Second stages leave no room for PASIDs: refused, and everything is as it was.
                    bench.go(None, Kind::Nothing, *from).unwrap();
                    if *from != Kind::Nothing {
                        bench.watched.log.take();
                        bench.go(None, *from, Kind::Second(0)).unwrap_err();
                        let stores = bench.watched.log.take();
                        assert!(!stores.iter().any(|it| matches!(it, Happening::Store { .. })));
                    }
                    bench.go(None, *from, Kind::Nothing).unwrap();
                }
                bench.go(pasid, Kind::First(1), Kind::Nothing).unwrap();
            });
        }
    }
}
