//! Performance monitoring (RISC-V IOMMU 5.19 to 5.23): the cycle counter and the event counters.
//!
//! A cycle is a nanosecond of the machine that the model runs on. A walk of the first or second stage is counted once for each translation
//! that needed one.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use portcullis_spec::riscv::registers::{HpmEvent, Iohpmcycles, Iohpmevt, offset};
use portcullis_spec::{DomainTag, Pasid, SpaceTag, Tags};

use super::lookup::HOST;
use crate::registers::{half, put_half};
use crate::state::locked;

/// Event counters that there can be.
const MOST: usize = 31;
const COUNTER_BITS: u64 = u64::MAX >> 1;

/// Who caused an event.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ids {
    device_id: u32,
    process_id: Option<u32>,
    gscid: Option<u32>,
    pscid: Option<u32>,
}

impl Ids {
    /// A device_id and process_id.
    pub(super) fn of(device_id: u32, pasid: Option<Pasid>) -> Self {
        Self { device_id, process_id: pasid.map(Pasid::value), gscid: None, pscid: None }
    }

    /// The same with the soft-context IDs of the stages, where there are stages.
    pub(super) fn with_tags(self, tags: Option<Tags>) -> Self {
        let Some(Tags { domain: DomainTag(gscid), space }) = tags else { return self };
        let gscid = (gscid != HOST.0).then_some(gscid);
        Self { gscid, pscid: space.map(|SpaceTag(pscid)| pscid), ..self }
    }
}

/// The registers.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct CounterRegisters {
    /// `iocountinh`.
    inhibit: u32,
    /// `iohpmcycles` as it stood at `since`.
    cycles: u64,
    /// `iohpmctr1` to `31`.
    values: Vec<u64>,
    /// `iohpmevt1` to `31`.
    events: Vec<u64>,
    /// From when on cycles are counted that are not in `cycles`.
    #[serde(skip, default = "Instant::now")]
    since: Instant,
}

impl CounterRegisters {
    fn new(count: usize) -> Self {
        Self { inhibit: 0, cycles: 0, values: vec![0; count], events: vec![0; count], since: Instant::now() }
    }

    /// Whether the registers are those of a unit with `count` event counters.
    pub(super) fn fits(&self, count: Option<u8>) -> bool {
        let count = usize::from(count.unwrap_or(0));
        self.values.len() == count
            && self.events.len() == count
            && self
                .events
                .iter()
                .all(|event| HpmEvent::decode(Iohpmevt::from_bits(*event).event_id()).is_some())
            && (self.inhibit & !inhibits(count)) == 0
    }

    /// Brings `iohpmcycles` up to date. Whether it overflowed while OF was clear.
    fn tick(&mut self) -> bool {
        let now = Instant::now();
        let elapsed = u64::try_from(now.duration_since(self.since).as_nanos()).unwrap_or(u64::MAX);
        self.since = now;
        if self.inhibit & 1 != 0 {
            return false;
        }
        let register = Iohpmcycles::from_bits(self.cycles);
        let sum = register.counter().saturating_add(elapsed.min(COUNTER_BITS));
        let overflow = sum > COUNTER_BITS;
        self.cycles = Iohpmcycles::new()
            .with_counter(sum & COUNTER_BITS)
            .with_of(register.of() || overflow)
            .into_bits();
        overflow && !register.of()
    }

    /// `iocountovf` (5.19).
    fn overflows(&self) -> u32 {
        let mut bits = u32::from(Iohpmcycles::from_bits(self.cycles).of());
        for (index, event) in self.events.iter().enumerate() {
            bits |= u32::from(Iohpmevt::from_bits(*event).of()) << (index + 1);
        }
        bits
    }
}

/// Bits of `iocountinh` that there are.
const fn inhibits(count: usize) -> u32 {
    ((1u64 << (count + 1)) - 1) as u32
}

/// Whether the event's filter lets these pass (5.23, filtering options).
fn matches(selector: Iohpmevt, event: HpmEvent, ids: Ids) -> bool {
    if HpmEvent::decode(selector.event_id()) != Some(event) {
        return false;
    }
    let by_soft_context =
        matches!(event, HpmEvent::TlbMiss | HpmEvent::FirstStageWalks | HpmEvent::SecondStageWalks);
    if selector.idt() && !by_soft_context {
        return false;
    }
    let (large, small) =
        if selector.idt() { (ids.gscid, ids.pscid) } else { (Some(ids.device_id), ids.process_id) };
    let wanted = selector.did_gscid();
    let ignored = if selector.dmask() { wanted ^ wanted.wrapping_add(1) } else { 0 };
    let large_matches =
        !selector.dv_gscv() || large.is_some_and(|id| (id ^ wanted) & 0xff_ffff & !ignored == 0);
    let small_matches = !selector.pv_pscv() || small == Some(selector.pid_pscid());
    large_matches && small_matches
}

/// The counters of one unit.
pub(super) struct Counters {
    /// Whether any event is counted, so that nobody need lock to find that none is.
    counting: AtomicBool,
    registers: Mutex<CounterRegisters>,
    count: Option<u8>,
}

impl Counters {
    /// After reset, with this many event counters.
    pub(super) fn new(count: Option<u8>) -> Self {
        let registers = CounterRegisters::new(usize::from(count.unwrap_or(0)).min(MOST));
        Self { counting: AtomicBool::new(false), registers: Mutex::new(registers), count }
    }

    /// The registers as they are now.
    pub(super) fn save(&self) -> CounterRegisters {
        let mut registers = locked(&self.registers);
        registers.tick();
        registers.clone()
    }

    /// The registers after reset.
    pub(super) fn initial(&self) -> CounterRegisters {
        CounterRegisters::new(usize::from(self.count.unwrap_or(0)))
    }

    /// Puts registers back; cycles are counted from now on.
    pub(super) fn put(&self, saved: CounterRegisters) {
        let mut registers = locked(&self.registers);
        *registers = saved;
        registers.since = Instant::now();
        self.update(&registers);
    }

    fn update(&self, registers: &CounterRegisters) {
        let counting = registers.events.iter().enumerate().any(|(index, event)| {
            Iohpmevt::from_bits(*event).event_id() != 0 && registers.inhibit >> (index + 1) & 1 == 0
        });
        self.counting.store(counting, Ordering::Relaxed);
    }

    /// Whether some counter counts anything.
    #[inline]
    pub(super) fn are_counting(&self) -> bool {
        self.counting.load(Ordering::Relaxed)
    }

    /// Counts an event. Whether a counter overflowed whose OF was clear (5.23).
    pub(super) fn count(&self, event: HpmEvent, ids: Ids) -> bool {
        if !self.are_counting() {
            return false;
        }
        let mut registers = locked(&self.registers);
        let registers = &mut *registers;
        let mut overflowed = false;
        for (index, (value, selector)) in registers.values.iter_mut().zip(&mut registers.events).enumerate() {
            let register = Iohpmevt::from_bits(*selector);
            if registers.inhibit >> (index + 1) & 1 != 0 || !matches(register, event, ids) {
                continue;
            }
            *value = value.wrapping_add(1);
            if *value == 0 {
                overflowed |= !register.of();
                *selector = register.with_of(true).into_bits();
            }
        }
        overflowed
    }

    /// Whether the cycle counter has overflowed since the last look, while OF was clear.
    pub(super) fn poll(&self) -> bool {
        self.count.is_some() && locked(&self.registers).tick()
    }

    /// Reads the doubleword at `offset`; `poll` was called before.
    pub(super) fn read32(&self, offset: u64) -> u32 {
        let registers = locked(&self.registers);
        match offset {
            _ if self.count.is_none() => 0,
            offset::IOCOUNTOVF => registers.overflows(),
            offset::IOCOUNTINH => registers.inhibit,
            offset::IOHPMCYCLES..offset::IOHPMCTR => half(registers.cycles, offset),
            offset::IOHPMCTR..offset::IOHPMEVT => {
                registers.values.get(index(offset, offset::IOHPMCTR)).map_or(0, |value| half(*value, offset))
            }
            _ => {
                registers.events.get(index(offset, offset::IOHPMEVT)).map_or(0, |value| half(*value, offset))
            }
        }
    }

    /// Writes the doubleword at `offset`; `poll` was called before.
    pub(super) fn write32(&self, offset: u64, value: u32) {
        let mut registers = locked(&self.registers);
        match offset {
            _ if self.count.is_none() => {}
            offset::IOCOUNTINH => registers.inhibit = value & inhibits(registers.events.len()),
            offset::IOHPMCYCLES..offset::IOHPMCTR => put_half(&mut registers.cycles, offset, value),
            offset::IOHPMCTR..offset::IOHPMEVT => {
                if let Some(counter) = registers.values.get_mut(index(offset, offset::IOHPMCTR)) {
                    put_half(counter, offset, value);
                }
            }
            offset::IOHPMEVT..offset::TR_REQ_IOVA => {
                if let Some(event) = registers.events.get_mut(index(offset, offset::IOHPMEVT)) {
                    put_half(event, offset, value);
                    // 5.23: WARL. What is no event counts nothing.
                    let selector = Iohpmevt::from_bits(*event);
                    if HpmEvent::decode(selector.event_id()).is_none() {
                        *event = selector.with_event_id(0).into_bits();
                    }
                }
            }
            // `iocountovf` is read-only.
            _ => {}
        }
        self.update(&registers);
    }
}

fn index(offset: u64, first: u64) -> usize {
    ((offset - first) / 8) as usize
}
