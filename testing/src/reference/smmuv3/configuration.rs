//! The stream table, its entries, and context descriptors: where they are, and when they are ILLEGAL (5.1 to 5.4).

use super::{Cd, Purpose, Ste, Step, Walk, always, beyond, fetch, size, stages};
use crate::reference::{Words, bit, bits};

impl<M: Words> Walk<'_, M> {
    /// 3.3.1, 5.1, 5.2. Nothing where the entry says to abort silently.
    pub(super) fn stream_table_entry(&mut self) -> Step<Option<Ste>> {
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
    pub(super) fn ste_is_illegal(&self, ste: &Ste) -> bool {
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
            if stages::s2_start(bits(w2, 39, 38), granule, 64 - t0sz as u32, unit).is_none() {
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

    /// 5.2 STRW.
    pub(super) fn is_el2(&self, ste: &Ste) -> bool {
        bit(self.unit.idr0, 9) && !ste.stage2() && bits(ste.0[1], 31, 30) == 2
    }

    /// 5.3, 5.2 S1Fmt.
    pub(super) fn context_descriptor(&mut self, ste: &Ste, cdmax: u64, index: u64) -> Step<Cd> {
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

    /// 5.4.2, CdIllegal(). `el2` is EL2 without E2H.
    pub(super) fn cd_is_illegal(&self, ste: &Ste, cd: &Cd, el2: bool) -> bool {
        let unit = self.unit;
        let [w0, w1, w2, ..] = cd.0;
        let (a, s) = (bit(w0, 46), bit(w0, 44));
        let (epd0, epd1) = (!el2 && bit(w0, 14), el2 || bit(w0, 30));
        let endian = bits(unit.idr0, 22, 21);
        let httu = bits(unit.idr0, 7, 6);
        let (hd, ha) = (bit(w0, 42), bit(w0, 43));
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
            || (!el2 && !bit(unit.idr0, 12) && bits(w0, 63, 56) != 0)
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
        (!epd0 && half(stages::tg0(w0), bits(w0, 5, 0), w1))
            || (!epd1 && half(stages::tg1(w0), bits(w0, 21, 16), w2))
    }
}
