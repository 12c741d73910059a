//! What an SMMUv3 does with a transaction (Arm System MMU Architecture, IHI 0070; sections are cited where they say it).
//!
//! One untranslated, non-secure transaction that stays in one 4 KiB page. VMSAv8-64 tables only, without FEAT_LPA2, 128-bit
//! descriptors, permission indirection or MPAM; stage 2 forced write-back is not decided here.

mod configuration;
mod stages;

use super::{Update, Words, bit, bits};

/// The unit as its registers read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unit {
    /// SMMU_IDR0.
    pub idr0: u64,
    /// SMMU_IDR1.
    pub idr1: u64,
    /// SMMU_IDR3.
    pub idr3: u64,
    /// SMMU_IDR5.
    pub idr5: u64,
    /// SMMU_CR0.
    pub cr0: u64,
    /// SMMU_CR2.
    pub cr2: u64,
    /// SMMU_GBPA.
    pub gbpa: u64,
    /// SMMU_STRTAB_BASE.
    pub strtab_base: u64,
    /// SMMU_STRTAB_BASE_CFG.
    pub strtab_base_cfg: u64,
}

/// A transaction.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// StreamID.
    pub stream: u32,
    /// SubstreamID, where it carries one.
    pub substream: Option<u32>,
    /// Whether it asks for privileged rights.
    pub privileged: bool,
    /// Whether it fetches instructions.
    pub instruction: bool,
    /// Whether it writes; otherwise it reads.
    pub write: bool,
    /// First byte.
    pub address: u64,
}

/// What becomes of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// It goes on to this physical address.
    Pass(u64),
    /// It is terminated.
    Terminate {
        /// With an abort; otherwise it reads zero and writes nothing.
        abort: bool,
        /// The event that is recorded.
        event: Option<Event>,
    },
    /// It is held until software resumes it.
    Stall(Event),
}

/// What an event record says beyond the transaction itself (7.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// Event number.
    pub number: u8,
    /// Stage 2 refused.
    pub stage2: bool,
    /// CLASS: 0 CD, 1 TT, 2 IN; 0 where the event has none.
    pub class: u8,
    /// The address given to stage 2, or the address of a failed fetch, where the event has one.
    pub address: Option<u64>,
}

/// What stage 2 translates (CLASS).
#[derive(Clone, Copy, PartialEq)]
enum Purpose {
    Cd,
    Table { write: bool },
    Input,
}

struct Ste([u64; 8]);
struct Cd([u64; 8]);

/// One stage's tables.
struct Tables {
    base: u64,
    granule: u32,
    input_bits: u32,
    start: u32,
    output_bits: u32,
    big_endian: bool,
    set_accessed: bool,
    set_dirty: bool,
    ignore_accessed: bool,
}

/// The four translation-related faults (5.5), and walk aborts, which no flag governs.
enum Refusal {
    Configurable(Event),
    Always(Event),
}

type Step<T> = Result<T, Refusal>;

fn always<T>(number: u8) -> Step<T> {
    Err(Refusal::Always(Event { number, stage2: false, class: 0, address: None }))
}

fn fetch<T>(number: u8, address: u64) -> Step<T> {
    Err(Refusal::Always(Event { number, stage2: false, class: 0, address: Some(address) }))
}

struct Walk<'a, M> {
    unit: &'a Unit,
    memory: &'a M,
    request: Request,
    updates: Vec<Update>,
}

/// Decide about `request`. The words that change in memory come with it, whatever the decision.
pub fn decide(unit: &Unit, memory: &impl Words, request: &Request) -> (Decision, Vec<Update>) {
    let mut walk = Walk { unit, memory, request: *request, updates: Vec::new() };
    let decision = walk.transaction();
    (decision, walk.updates)
}

const SILENT: Decision = Decision::Terminate { abort: true, event: None };

impl Unit {
    fn oas(&self) -> u32 {
        size(bits(self.idr5, 2, 0))
    }
    fn has_granule(&self, shift: u32) -> bool {
        bit(
            self.idr5,
            match shift {
                12 => 4,
                14 => 5,
                _ => 6,
            },
        )
    }
    fn stall_model(&self) -> u64 {
        bits(self.idr0, 25, 24)
    }
    fn substream_bits(&self) -> u64 {
        bits(self.idr1, 10, 6)
    }
    /// 5.2, 5.4: TxSZ out of range (SMMUv3.1 and later).
    fn size_is_invalid(&self, field: u64, granule: u32, wide: bool) -> bool {
        let most = match (bit(self.idr3, 9), granule) {
            (true, 16) => 47,
            (true, _) => 48,
            (false, _) => 39,
        };
        let least = if granule == 16 && wide { 12 } else { 16 };
        field < least || field > most
    }
}

/// An address size field (5.2, S2PS).
fn size(field: u64) -> u32 {
    [32, 36, 40, 42, 44, 48, 52, 52][field as usize]
}

fn beyond(address: u64, width: u32) -> bool {
    width < 64 && address >> width != 0
}

impl Ste {
    fn stage1(&self) -> bool {
        bit(self.0[0], 1)
    }
    fn stage2(&self) -> bool {
        bit(self.0[0], 2)
    }
    fn s2_granule(&self) -> Option<u32> {
        [Some(12), Some(16), Some(14), None][bits(self.0[2], 47, 46) as usize]
    }
}

impl<M: Words> Walk<'_, M> {
    fn load(&self, address: u64) -> Option<u64> {
        if beyond(address, self.unit.oas()) {
            return None;
        }
        let written = self.updates.iter().rev().find(|update| update.0 == address);
        written.map(|update| update.1).or_else(|| self.memory.load(address))
    }

    fn transaction(&mut self) -> Decision {
        let unit = *self.unit;
        // 6.3.14, 3.4.
        if !bit(unit.cr0, 0) {
            return if bit(unit.gbpa, 20) || beyond(self.request.address, unit.oas()) {
                SILENT
            } else {
                Decision::Pass(self.request.address)
            };
        }
        let ste = match self.stream_table_entry() {
            Ok(Some(ste)) => ste,
            Ok(None) => return SILENT,
            Err(Refusal::Always(event) | Refusal::Configurable(event)) => {
                // 7.3.3.
                let recorded = event.number != 0x02 || bit(unit.cr2, 1);
                return Decision::Terminate { abort: true, event: recorded.then_some(event) };
            }
        };
        let mut fault_flags = None;
        match self.translate(&ste, &mut fault_flags) {
            Ok(address) => Decision::Pass(address),
            Err(Refusal::Always(event)) => Decision::Terminate { abort: true, event: Some(event) },
            // 5.5.
            Err(Refusal::Configurable(event)) => {
                let (abort, record, stall) = match (event.stage2, fault_flags) {
                    (true, _) => (true, bit(ste.0[2], 58), bit(ste.0[2], 57)),
                    (false, Some(flags)) => flags,
                    // Stage 1 bypass: nothing to configure it by.
                    (false, None) => (true, true, false),
                };
                if stall {
                    Decision::Stall(event)
                } else {
                    Decision::Terminate { abort, event: record.then_some(event) }
                }
            }
        }
    }

    fn translate(&mut self, ste: &Ste, fault_flags: &mut Option<(bool, bool, bool)>) -> Step<u64> {
        let unit = *self.unit;
        let [w0, w1, ..] = ste.0;
        let cdmax = if unit.substream_bits() == 0 { 0 } else { bits(w0, 63, 59) };
        // 7.3.7, 7.3.9, 5.2 S1DSS.
        let mut stage1 = ste.stage1();
        let mut index = 0;
        match self.request.substream {
            Some(_) if !stage1 || cdmax == 0 => return always(0x08),
            Some(substream) if u64::from(substream) >> cdmax != 0 => return always(0x08),
            Some(0) if bits(w1, 1, 0) == 2 => return always(0x06),
            Some(substream) => index = u64::from(substream),
            None if stage1 && cdmax != 0 => match bits(w1, 1, 0) {
                1 => stage1 = false,
                2 => {}
                _ => return always(0x06),
            },
            None => {}
        }
        // 13.1.2, 5.2 PRIVCFG and INSTCFG.
        if bit(unit.idr1, 26) {
            match bits(w1, 49, 48) {
                2 => self.request.privileged = false,
                3 => self.request.privileged = true,
                _ => {}
            }
            match bits(w1, 51, 50) {
                2 => self.request.instruction = false,
                3 => self.request.instruction = true,
                _ => {}
            }
        }
        if self.request.write {
            self.request.instruction = false;
        }
        let address = if stage1 {
            let cd = self.context_descriptor(ste, cdmax, index)?;
            // 6.3.12: EL2 with E2H has two privileges, two halves and ASIDs, as EL1.
            let el2 = self.is_el2(ste) && !bit(unit.cr2, 0);
            if self.cd_is_illegal(ste, &cd, el2) {
                return always(0x0a);
            }
            *fault_flags = Some((bit(cd.0[0], 46), bit(cd.0[0], 45), bit(cd.0[0], 44)));
            self.stage1(ste, &cd, el2)?
        } else {
            // 3.4: a bypassed stage 1 checks the output size.
            if beyond(self.request.address, unit.oas()) {
                let event = Event { number: 0x11, stage2: false, class: 2, address: None };
                return Err(Refusal::Always(event));
            }
            self.request.address
        };
        if ste.stage2() { self.stage2(ste, address, Purpose::Input) } else { Ok(address) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// Both stages, AArch64, little-endian, ASID16, VMID16, two-level stream and CD tables; 4, 16 and 64 KiB; 44 bits.
    fn unit() -> Unit {
        Unit {
            idr0: 3 | 2 << 2 | 1 << 12 | 1 << 18 | 1 << 19 | 2 << 21 | 1 << 27,
            idr1: 16 | 8 << 6,
            idr3: 0,
            idr5: 4 | 7 << 4,
            cr0: 1,
            cr2: 2,
            gbpa: 0,
            strtab_base: 0x1000,
            strtab_base_cfg: 4,
        }
    }

    fn run(unit: &Unit, words: &[(u64, u64)], request: &Request) -> Decision {
        let memory: HashMap<u64, u64> = words.iter().copied().collect();
        decide(unit, &|at: u64| (at < 1 << 20).then(|| memory.get(&at).copied().unwrap_or(0)), request).0
    }

    fn read(address: u64) -> Request {
        Request { stream: 1, substream: None, privileged: false, instruction: false, write: false, address }
    }

    fn event(number: u8) -> Decision {
        let event = Event { number, stage2: false, class: 0, address: None };
        Decision::Terminate { abort: true, event: Some(event) }
    }

    // Stream 1's entry.
    const STE: u64 = 0x1040;

    #[test]
    fn the_stream_table_decides_first() {
        let unit = unit();
        assert_eq!(run(&unit, &[], &read(0x10)), event(0x04));
        assert_eq!(run(&unit, &[(STE, 1)], &read(0x10)), SILENT);
        assert_eq!(run(&unit, &[(STE, 1 | 4 << 1)], &read(0x10)), Decision::Pass(0x10));
        assert_eq!(run(&unit, &[], &Request { stream: 16, ..read(0) }), event(0x02));
        let quiet = Unit { cr2: 0, ..unit };
        assert_eq!(run(&quiet, &[], &Request { stream: 16, ..read(0) }), SILENT);
        let disabled = Unit { cr0: 0, ..unit };
        assert_eq!(run(&disabled, &[], &read(0x10)), Decision::Pass(0x10));
        assert_eq!(run(&Unit { gbpa: 1 << 20, ..disabled }, &[], &read(0x10)), SILENT);
    }

    /// One CD at 0x2000, 4 KiB, T0SZ 25 (39 bits, from level 1), TTB0 0x3000; 0x5000 is readable by EL0.
    fn stage1(descriptor: u64) -> Vec<(u64, u64)> {
        let cd = 25 | 1 << 30 | 1 << 31 | 5 << 32 | 1 << 41 | 1 << 45 | 1 << 46;
        vec![
            (STE, 1 | 5 << 1 | 0x2000),
            (0x2000, cd),
            (0x2008, 0x3000),
            (0x3000, 0x4003),
            (0x4000, 0x6003),
            (0x6000 + 8, descriptor),
        ]
    }

    #[test]
    fn a_stage_1_page_and_its_rights() {
        let unit = unit();
        let readable = stage1(0x5003 | 1 << 6 | 1 << 7 | 1 << 10);
        assert_eq!(run(&unit, &readable, &read(0x1010)), Decision::Pass(0x5010));
        let at = |number: u8| {
            let event = Event { number, stage2: false, class: 2, address: None };
            Decision::Terminate { abort: true, event: Some(event) }
        };
        assert_eq!(run(&unit, &readable, &Request { write: true, ..read(0x1010) }), at(0x13));
        assert_eq!(run(&unit, &readable, &read(0x2010)), at(0x10));
        assert_eq!(run(&unit, &readable, &read(1 << 39)), at(0x10));
        assert_eq!(run(&unit, &stage1(0x5003 | 1 << 6), &read(0x1010)), at(0x12));
        assert_eq!(run(&unit, &stage1(0x5003 | 1 << 10), &read(0x1010)), at(0x13));
        assert_eq!(run(&unit, &stage1(0x1000_0000_5003 | 1 << 10), &read(0x1010)), at(0x11));
    }

    #[test]
    fn a_stage_2_page_and_its_rights() {
        let unit = unit();
        // 4 KiB, T0SZ 30 (34 bits), starting at level 1 with 16 entries, S2PS 44 bits, recorded.
        let w2 = 30 << 32 | 1 << 38 | 4 << 48 | 1 << 51 | 1 << 58;
        let tables = [
            (STE, 1 | 6 << 1),
            (STE + 16, w2),
            (STE + 24, 0x3000),
            (0x3000, 0x4003),
            (0x4000, 0x6003),
            (0x6000 + 8, 0x5003 | 1 << 6 | 1 << 10),
        ];
        assert_eq!(run(&unit, &tables, &read(0x1010)), Decision::Pass(0x5010));
        let at = |number: u8, address: u64| {
            let event = Event { number, stage2: true, class: 2, address: Some(address) };
            Decision::Terminate { abort: true, event: Some(event) }
        };
        assert_eq!(run(&unit, &tables, &Request { write: true, ..read(0x1010) }), at(0x13, 0x1000));
        assert_eq!(run(&unit, &tables, &read(0x2010)), at(0x10, 0x2000));
        assert_eq!(run(&unit, &tables, &read(1 << 34)), at(0x10, 1 << 34));
    }
}
