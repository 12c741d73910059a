//! What an SMMUv3 does with a transaction (Arm System MMU Architecture, IHI 0070; sections are cited where they say it).
//!
//! One untranslated, non-secure transaction that stays in one 4 KiB page. VMSAv8-64 tables only, without FEAT_LPA2, 128-bit
//! descriptors, permission indirection or MPAM; stage 2 forced write-back is not decided here.

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

    /// 3.3.1, 5.1, 5.2. Nothing where the entry says to abort silently.
    fn stream_table_entry(&mut self) -> Step<Option<Ste>> {
        let unit = *self.unit;
        let stream = u64::from(self.request.stream);
        let log2size = bits(unit.strtab_base_cfg, 5, 0);
        let base = unit.strtab_base & 0x00ff_ffff_ffff_ffc0;
        if log2size < 64 && stream >> log2size != 0 {
            return always(0x02);
        }
        let two_level = bits(unit.strtab_base_cfg, 17, 16) == 1 && bits(unit.idr0, 28, 27) == 1;
        let at = if two_level {
            let split = match bits(unit.strtab_base_cfg, 10, 6) {
                split @ (8 | 10) => split,
                _ => 6,
            };
            // 6.3.23: aligned to the larger of 64 bytes and the level 1 table.
            let align = (log2size.saturating_sub(split) + 3).clamp(6, 63);
            let l1 = (base >> align << align) + (stream >> split) * 8;
            let Some(descriptor) = self.load(l1) else { return fetch(0x03, l1) };
            let span = bits(descriptor, 4, 0);
            if span == 0 || span > 11 || span > split + 1 {
                return always(0x02);
            }
            let index = stream & ((1 << split) - 1);
            if index >> (span - 1) != 0 {
                return always(0x02);
            }
            // 5.1: L2Ptr is aligned to the table.
            let align = span - 1 + 6;
            ((descriptor & 0x00ff_ffff_ffff_ffc0) >> align << align) | (index * 64)
        } else {
            let align = (log2size + 6).min(63);
            (base >> align << align) + stream * 64
        };
        let mut words = [0; 8];
        for (index, word) in words.iter_mut().enumerate() {
            let Some(loaded) = self.load(at + index as u64 * 8) else { return fetch(0x03, at) };
            *word = loaded;
        }
        let ste = Ste(words);
        if !bit(words[0], 0) {
            return always(0x04);
        }
        if !bit(words[0], 3) {
            return Ok(None);
        }
        if self.ste_is_illegal(&ste) { always(0x04) } else { Ok(Some(ste)) }
    }

    /// 5.2.2, SteIllegal().
    fn ste_is_illegal(&self, ste: &Ste) -> bool {
        let unit = self.unit;
        let [w0, w1, w2, w3, ..] = ste.0;
        let (stage1, stage2) = (ste.stage1(), ste.stage2());
        let strw_unused = !bit(unit.idr0, 1) || !bit(unit.idr0, 9) || stage2 || !stage1;
        if (stage1 && !bit(unit.idr0, 1)) || (stage2 && !bit(unit.idr0, 0)) {
            return true;
        }
        if bit(unit.idr0, 10) && (stage1 || stage2) {
            let s2s = bit(w2, 57);
            match bits(w1, 29, 28) {
                0b10 if !(stage1 && stage2) || s2s || bit(unit.idr0, 11) => return true,
                0b01 if s2s && stage2 => return true,
                _ => {}
            }
        }
        if !strw_unused && bit(w1, 30) {
            return true;
        }
        if stage1 {
            if bit(w1, 27) && unit.stall_model() != 0 {
                return true;
            }
            let cdmax = bits(w0, 63, 59);
            if unit.substream_bits() != 0 && cdmax > unit.substream_bits() {
                return true;
            }
            let format = bits(w0, 5, 4);
            if unit.substream_bits() != 0 && cdmax != 0 && !bit(unit.idr0, 19) && (format == 1 || format == 2)
            {
                return true;
            }
            // 3.4.3: IAS equals OAS without VMSAv8-32.
            if beyond(w0 & 0x00ff_ffff_ffff_ffc0, unit.oas()) {
                return true;
            }
        }
        if stage2 {
            let s2s = bit(w2, 57);
            if (unit.stall_model() == 1 && s2s) || (unit.stall_model() == 2 && !s2s) {
                return true;
            }
            // S2AA64: VMSAv8-64 only.
            if !bit(w2, 51) || !bit(unit.idr0, 3) {
                return true;
            }
            let httu = bits(unit.idr0, 7, 6);
            let (hd, ha) = (bit(w2, 55), bit(w2, 56));
            if ((ha || hd) && httu == 0) || (hd && httu == 1) {
                return true;
            }
            let Some(granule) = ste.s2_granule().filter(|shift| unit.has_granule(*shift)) else {
                return true;
            };
            let output = size(bits(w2, 50, 48)).min(unit.oas());
            let reach = if granule == 16 { output } else { output.min(48) };
            if beyond(w3 & 0x000f_ffff_ffff_fff0, reach) {
                return true;
            }
            let t0sz = bits(w2, 37, 32);
            if unit.size_is_invalid(t0sz, granule, true) || 64 - t0sz > u64::from(unit.oas()) {
                return true;
            }
            if s2_start(bits(w2, 39, 38), granule, 64 - t0sz as u32, unit).is_none() {
                return true;
            }
            let endian = bits(unit.idr0, 22, 21);
            if (endian == 2 && bit(w2, 52)) || (endian == 3 && !bit(w2, 52)) {
                return true;
            }
        }
        let el1 = strw_unused || bits(w1, 31, 30) == 0;
        let vmid_used = bit(unit.idr0, 0) && (stage1 || stage2) && el1;
        vmid_used && !bit(unit.idr0, 18) && bits(w2, 15, 8) != 0
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
            let el2 = self.is_el2(ste);
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

    /// 5.2 STRW.
    fn is_el2(&self, ste: &Ste) -> bool {
        bit(self.unit.idr0, 9) && !ste.stage2() && bits(ste.0[1], 31, 30) == 2
    }

    /// 5.3, 5.2 S1Fmt.
    fn context_descriptor(&mut self, ste: &Ste, cdmax: u64, index: u64) -> Step<Cd> {
        let base = ste.0[0] & 0x00ff_ffff_ffff_ffc0;
        let leaf = match bits(ste.0[0], 5, 4) {
            1 => 6,
            2 => 10,
            _ => 0,
        };
        let table = if cdmax == 0 || leaf == 0 {
            base + index * 64
        } else {
            let at = self.cd_address(ste, base + (index >> leaf) * 8)?;
            let Some(descriptor) = self.load(at) else { return fetch(0x09, at) };
            let next = descriptor & 0x00ff_ffff_ffff_f000;
            if !bit(descriptor, 0) || beyond(next, self.unit.oas()) {
                return always(0x08);
            }
            next + (index & ((1 << leaf) - 1)) * 64
        };
        let at = self.cd_address(ste, table)?;
        let mut words = [0; 8];
        for (index, word) in words.iter_mut().enumerate() {
            let Some(loaded) = self.load(at + index as u64 * 8) else { return fetch(0x09, at) };
            *word = loaded;
        }
        Ok(Cd(words))
    }

    fn cd_address(&mut self, ste: &Ste, address: u64) -> Step<u64> {
        if ste.stage2() { self.stage2(ste, address, Purpose::Cd) } else { Ok(address) }
    }

    /// 5.4.2, CdIllegal().
    fn cd_is_illegal(&self, ste: &Ste, cd: &Cd, el2: bool) -> bool {
        let unit = self.unit;
        let [w0, w1, w2, ..] = cd.0;
        let (a, s) = (bit(w0, 46), bit(w0, 44));
        let (epd0, epd1) = (!el2 && bit(w0, 14), el2 || bit(w0, 30));
        let endian = bits(unit.idr0, 22, 21);
        let httu = bits(unit.idr0, 7, 6);
        let (hd, ha) = (bit(w0, 42), bit(w0, 43));
        let e2h = el2 && bit(unit.cr2, 0);
        if !bit(w0, 31)
            || (bit(ste.0[1], 27) && s)
            || (bit(unit.idr0, 26) && !a)
            || (unit.stall_model() == 1 && s)
            || (unit.stall_model() == 2 && !s)
            || (!(epd0 && epd1) && ((endian == 2 && bit(w0, 15)) || (endian == 3 && !bit(w0, 15))))
            || !bit(w0, 41)
            || !bit(unit.idr0, 3)
            || ((ha || hd) && httu == 0)
            || (hd && httu == 1)
            || ((!el2 || e2h) && !bit(unit.idr0, 12) && bits(w0, 63, 56) != 0)
        {
            return true;
        }
        let output = size(bits(w0, 34, 32)).min(unit.oas());
        let wide = bits(unit.idr5, 11, 10) != 0;
        let half = |granule: Option<u32>, txsz: u64, ttb: u64| {
            let Some(granule) = granule.filter(|shift| unit.has_granule(*shift)) else { return true };
            let reach = if granule == 16 { output } else { output.min(48) };
            unit.size_is_invalid(txsz, granule, wide) || beyond(ttb & 0x000f_ffff_ffff_fff0, reach)
        };
        (!epd0 && half(tg0(w0), bits(w0, 5, 0), w1)) || (!epd1 && half(tg1(w0), bits(w0, 21, 16), w2))
    }

    /// VMSAv8-64 stage 1, with 3.4, 13.4.1.
    fn stage1(&mut self, ste: &Ste, cd: &Cd, el2: bool) -> Step<u64> {
        let unit = *self.unit;
        let [w0, w1, w2, ..] = cd.0;
        let address = self.request.address;
        let fault =
            |number: u8| Refusal::Configurable(Event { number, stage2: false, class: 2, address: None });
        let upper = !el2 && bit(address, 55);
        let (txsz, granule, ttb, disabled, ignore_top, no_hierarchy) = if upper {
            (bits(w0, 21, 16), tg1(w0), w2, bit(w0, 30), bit(w0, 39), bit(w2, 1))
        } else {
            (bits(w0, 5, 0), tg0(w0), w1, !el2 && bit(w0, 14), bit(w0, 38), bit(w1, 1))
        };
        if disabled {
            return Err(fault(0x10));
        }
        let granule = granule.unwrap_or(12);
        let input_bits = 64 - txsz as u32;
        // 3.4.1: all bits from the top of the range must agree; the top byte need not where TBI.
        let high = if ignore_top { ((address << 8) as i64 >> 8) as u64 } else { address };
        let expected = if upper { u64::MAX } else { 0 };
        if high >> input_bits != expected >> input_bits {
            return Err(fault(0x10));
        }
        let output_bits = size(bits(w0, 34, 32)).min(unit.oas());
        let httu = bits(unit.idr0, 7, 6);
        let tables = Tables {
            base: ttb & 0x000f_ffff_ffff_fff0,
            granule,
            input_bits,
            start: start_level(granule, input_bits),
            output_bits,
            big_endian: bit(w0, 15),
            set_accessed: httu >= 1 && bit(w0, 43),
            set_dirty: httu >= 2 && bit(w0, 43) && bit(w0, 42),
            ignore_accessed: bit(w0, 35),
        };
        let hierarchy = !(bit(unit.idr3, 2) && no_hierarchy);
        let (mut no_user, mut read_only, mut uxn, mut pxn) = (false, false, false, false);
        let mut table = align(&tables);
        for level in tables.start..=3 {
            let entry_address = table + index(&tables, level, address) * 8;
            let at = if ste.stage2() {
                self.stage2(ste, entry_address, Purpose::Table { write: false })?
            } else {
                entry_address
            };
            let Some(raw) = self.load(at) else {
                let event = Event { number: 0x0b, stage2: false, class: 1, address: Some(at) };
                return Err(Refusal::Always(event));
            };
            let entry = if tables.big_endian { raw.swap_bytes() } else { raw };
            let Some(leaf) = kind(&tables, level, entry, &unit) else { return Err(fault(0x10)) };
            let output = output_address(&tables, level, entry, leaf, &unit);
            if beyond(output, tables.output_bits) {
                return Err(fault(0x11));
            }
            if !leaf {
                if hierarchy {
                    no_user |= bit(entry, 61);
                    read_only |= bit(entry, 62);
                    uxn |= bit(entry, 60);
                    pxn |= bit(entry, 59);
                }
                table = output;
                continue;
            }
            let mut updated = entry;
            if !bit(entry, 10) {
                if tables.set_accessed {
                    updated |= 1 << 10;
                } else if !tables.ignore_accessed {
                    return Err(fault(0x12));
                }
            }
            let dirties = tables.set_dirty && bit(entry, 51) && bit(entry, 7) && !read_only;
            let writable = !read_only && (!bit(entry, 7) || dirties);
            let user = el2 || (!no_user && bit(entry, 6));
            let xn = bit(entry, 54) || uxn;
            let px = if el2 {
                !(xn || bit(w0, 36) && writable)
            } else {
                // An EL0-writable page is not executable at EL1.
                !(bit(entry, 53) || pxn || (user && writable) || (bit(w0, 36) && writable))
            };
            let ux = !(xn || bit(w0, 36) && user && writable);
            let privileged = el2 || self.request.privileged;
            let allowed = match (self.request.instruction, self.request.write, privileged) {
                (true, _, true) => px,
                (true, _, false) => ux,
                (false, _, true) if !el2 && bit(w0, 40) && user => false,
                (false, true, true) => writable,
                (false, false, true) => true,
                (false, true, false) => user && writable,
                (false, false, false) => user,
            };
            if !allowed {
                return Err(fault(0x13));
            }
            if self.request.write && bit(entry, 7) {
                updated &= !(1 << 7);
            }
            if updated != entry {
                if ste.stage2() {
                    self.stage2(ste, entry_address, Purpose::Table { write: true })?;
                }
                self.updates.push((at, if tables.big_endian { updated.swap_bytes() } else { updated }));
            }
            return Ok(output | address & leaf_mask(&tables, level));
        }
        Err(fault(0x10))
    }

    /// VMSAv8-64 stage 2, with 3.4, 13.4.2.
    fn stage2(&mut self, ste: &Ste, address: u64, purpose: Purpose) -> Step<u64> {
        let unit = *self.unit;
        let [_, _, w2, w3, ..] = ste.0;
        let class = match purpose {
            Purpose::Cd => 0,
            Purpose::Table { .. } => 1,
            Purpose::Input => 2,
        };
        // 7.3.13: IPA bits 55:12.
        let ipa = Some(address & 0x00ff_ffff_ffff_f000);
        let fault = |number: u8| Refusal::Configurable(Event { number, stage2: true, class, address: ipa });
        let granule = ste.s2_granule().unwrap_or(12);
        let input_bits = 64 - bits(w2, 37, 32) as u32;
        if beyond(address, input_bits) {
            return Err(fault(0x10));
        }
        let httu = bits(unit.idr0, 7, 6);
        let tables = Tables {
            base: w3 & 0x000f_ffff_ffff_fff0,
            granule,
            input_bits,
            start: s2_start(bits(w2, 39, 38), granule, input_bits, &unit).unwrap_or(3),
            output_bits: size(bits(w2, 50, 48)).min(unit.oas()),
            big_endian: bit(w2, 52),
            set_accessed: httu >= 1 && bit(w2, 56),
            set_dirty: httu >= 2 && bit(w2, 56) && bit(w2, 55),
            ignore_accessed: bit(w2, 53),
        };
        let mut table = align(&tables);
        for level in tables.start..=3 {
            let at = table + index(&tables, level, address) * 8;
            let Some(raw) = self.load(at) else {
                let event = Event { number: 0x0b, stage2: true, class, address: Some(at) };
                return Err(Refusal::Always(event));
            };
            let entry = if tables.big_endian { raw.swap_bytes() } else { raw };
            let Some(leaf) = kind(&tables, level, entry, &unit) else { return Err(fault(0x10)) };
            let output = output_address(&tables, level, entry, leaf, &unit);
            if beyond(output, tables.output_bits) {
                return Err(fault(0x11));
            }
            if !leaf {
                table = output;
                continue;
            }
            let mut updated = entry;
            if !bit(entry, 10) {
                if tables.set_accessed {
                    updated |= 1 << 10;
                } else if !tables.ignore_accessed {
                    return Err(fault(0x12));
                }
            }
            let write = match purpose {
                Purpose::Cd => false,
                Purpose::Table { write } => write,
                Purpose::Input => self.request.write,
            };
            let dirties = tables.set_dirty && bit(entry, 51);
            let allowed = match (purpose, self.request.instruction) {
                _ if write => bit(entry, 7) || dirties,
                (Purpose::Input, true) => self.s2_executable(entry),
                _ => bit(entry, 6),
            };
            // 5.2 S2PTW: tables and descriptors must not lie in Device memory.
            let device = bits(entry, 5, 4) == 0;
            if !allowed || (purpose != Purpose::Input && ste.stage1() && bit(w2, 54) && device) {
                return Err(fault(0x13));
            }
            if write {
                updated |= 1 << 7;
            }
            if updated != entry {
                self.updates.push((at, if tables.big_endian { updated.swap_bytes() } else { updated }));
            }
            return Ok(output | address & leaf_mask(&tables, level));
        }
        Err(fault(0x10))
    }

    /// XN[1:0] at stage 2: one bit, or with IDR3.XNX one for each privilege.
    fn s2_executable(&self, entry: u64) -> bool {
        match (bits(entry, 54, 53), bit(self.unit.idr3, 4)) {
            (0, _) => true,
            (xn, false) => xn & 2 == 0,
            (1, true) => !self.request.privileged,
            (3, true) => self.request.privileged,
            (_, true) => false,
        }
    }
}

fn tg0(w0: u64) -> Option<u32> {
    [Some(12), Some(16), Some(14), None][bits(w0, 7, 6) as usize]
}

fn tg1(w0: u64) -> Option<u32> {
    [None, Some(14), Some(12), Some(16)][bits(w0, 23, 22) as usize]
}

/// The level at which stage 1 starts: as many levels as the input needs.
fn start_level(granule: u32, input_bits: u32) -> u32 {
    4 - (input_bits - granule).div_ceil(granule - 3).max(1)
}

/// The level at which stage 2 starts (VTCR_EL2.SL0), or nothing where it does not fit the input size: between one bit and,
/// with up to 16 concatenated tables, four more than a table holds.
fn s2_start(sl0: u64, granule: u32, input_bits: u32, unit: &Unit) -> Option<u32> {
    let start = match (granule, sl0) {
        (12, 0) => 2,
        (12, 1) => 1,
        (12, 2) if unit.oas() >= 44 => 0,
        (12, 3) if bit(unit.idr3, 9) => 3,
        (14 | 16, 0) => 3,
        (14 | 16, 1) => 2,
        (14, 2) if unit.oas() >= 42 => 1,
        (16, 2) if unit.oas() >= 44 => 1,
        _ => return None,
    };
    let stride = granule - 3;
    let least = granule + (3 - start) * stride + 1;
    let most = least + stride - 1 + 4;
    (least..=most).contains(&input_bits).then_some(start)
}

/// The starting table is aligned to its size, and to at least 64 bytes with 52-bit outputs.
fn align(tables: &Tables) -> u64 {
    let stride = tables.granule - 3;
    let entries = tables.input_bits.saturating_sub(tables.granule + (3 - tables.start) * stride);
    let least = if tables.output_bits == 52 { 6 } else { 4 };
    let shift = (entries + 3).max(least);
    // The starting table of a 52-bit output has its address bits 51:48 in bits 5:2 of the field only for TTBRs of
    // processors; in STEs and CDs the field holds the address itself.
    tables.base >> shift << shift
}

fn index(tables: &Tables, level: u32, address: u64) -> u64 {
    let low = tables.granule + (3 - level) * (tables.granule - 3);
    let high = if level == tables.start { tables.input_bits - 1 } else { low + tables.granule - 4 };
    if high < low { 0 } else { bits(address, high, low) }
}

/// Whether an entry is a leaf, or nothing where it is invalid.
fn kind(tables: &Tables, level: u32, entry: u64, unit: &Unit) -> Option<bool> {
    match (entry & 3, level) {
        (3, 3) => Some(true),
        (3, _) => Some(false),
        (1, level) => {
            let block = match tables.granule {
                12 => level == 1 || level == 2,
                14 => level == 2,
                _ => level == 2 || (level == 1 && unit.oas() == 52),
            };
            block.then_some(true)
        }
        _ => None,
    }
}

fn leaf_mask(tables: &Tables, level: u32) -> u64 {
    (1 << (tables.granule + (3 - level) * (tables.granule - 3))) - 1
}

fn output_address(tables: &Tables, level: u32, entry: u64, leaf: bool, unit: &Unit) -> u64 {
    let low = if leaf { leaf_mask(tables, level) } else { (1 << tables.granule) - 1 };
    let mut output = entry & 0x0000_ffff_ffff_f000 & !low;
    if tables.granule == 16 && unit.oas() == 52 {
        output |= bits(entry, 15, 12) << 48;
    }
    output
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
