//! The two stages: VMSAv8-64 tables to an address, with rights and flags (3.4, 3.13, 13.4).

use super::{Cd, Event, Purpose, Refusal, Ste, Step, Tables, Unit, Walk, beyond, size};
use crate::reference::{Words, bit, bits};

impl<M: Words> Walk<'_, M> {
    /// VMSAv8-64 stage 1, with 3.4, 13.4.1.
    pub(super) fn stage1(&mut self, ste: &Ste, cd: &Cd, el2: bool) -> Step<u64> {
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
    pub(super) fn stage2(&mut self, ste: &Ste, address: u64, purpose: Purpose) -> Step<u64> {
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

    /// `XN[1:0]` at stage 2: one bit, or with IDR3.XNX one for each privilege.
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

pub(super) fn tg0(w0: u64) -> Option<u32> {
    [Some(12), Some(16), Some(14), None][bits(w0, 7, 6) as usize]
}

pub(super) fn tg1(w0: u64) -> Option<u32> {
    [None, Some(14), Some(12), Some(16)][bits(w0, 23, 22) as usize]
}

/// The level at which stage 1 starts: as many levels as the input needs.
fn start_level(granule: u32, input_bits: u32) -> u32 {
    4 - (input_bits - granule).div_ceil(granule - 3).max(1)
}

/// The level at which stage 2 starts (VTCR_EL2.SL0), or nothing where it does not fit the input size: between one bit and,
/// with up to 16 concatenated tables, four more than a table holds.
pub(super) fn s2_start(sl0: u64, granule: u32, input_bits: u32, unit: &Unit) -> Option<u32> {
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
