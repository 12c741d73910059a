//! What the RISC-V IOMMU does with a request (RISC-V IOMMU Architecture Specification 1.0; steps are numbered as in 2.3,
//! "Process to translate an IOVA"; page tables as in the Privileged Specification, "Virtual Address Translation Process").
//!
//! One untranslated request that stays in one 4 KiB page. RV64 only: no Sv32, `fctl.GXL` 0. ATS is not decided here.

use super::{Update, Words, bit, bits};

/// The unit as its registers read.
#[derive(Clone, Copy, Debug)]
pub struct Unit {
    /// `capabilities`.
    pub capabilities: u64,
    /// `fctl`.
    pub fctl: u32,
    /// Whether `fctl.BE` can be written.
    pub be_writable: bool,
    /// `ddtp`.
    pub ddtp: u64,
}

/// A request.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// device_id.
    pub device_id: u32,
    /// process_id, where it carries one.
    pub process_id: Option<u32>,
    /// Whether it asks for supervisor rights; only together with a process_id.
    pub privileged: bool,
    /// First byte.
    pub address: u64,
    /// What it does.
    pub access: Access,
}

/// What a request does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Reads to execute.
    Execute,
    /// Reads.
    Read,
    /// Writes, or an atomic operation.
    Write,
}

/// What becomes of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// It goes on to this physical address.
    Pass(u64),
    /// It goes to a memory-resident interrupt file at this address (2.3.3).
    Mrif(u64),
    /// It is refused.
    Refuse {
        /// CAUSE (3.2).
        cause: u16,
        /// iotval2 (3.2).
        iotval2: u64,
        /// Whether a fault record is made: DTF may forbid it.
        recorded: bool,
    },
}

/// CAUSE and iotval2.
struct Fault(u16, u64);

/// What page tables answer.
enum Walked {
    To(u64),
    Page,
    Access,
    Guest { address: u64, implicit: bool, write: bool },
}

struct Walk<'a, M> {
    unit: &'a Unit,
    memory: &'a M,
    request: &'a Request,
    disabled: bool,
    updates: Vec<Update>,
}

/// How one page table is to be read.
struct Table {
    root: u64,
    levels: u32,
    /// Two more bits at the root: second stage.
    wide: bool,
    update_flags: bool,
    big_endian: bool,
}

/// Decide about `request`. The words that change in memory come with it, whatever the decision.
pub fn decide(unit: &Unit, memory: &impl Words, request: &Request) -> (Decision, Vec<Update>) {
    // Without a process_id there is no privilege to ask for (1.4).
    let request = &Request { privileged: request.privileged && request.process_id.is_some(), ..*request };
    let mut walk = Walk { unit, memory, request, disabled: false, updates: Vec::new() };
    let decision = match walk.translate() {
        Ok(decision) => decision,
        Err(Fault(cause, iotval2)) => {
            // 3.2, the last column of the table of causes.
            let always = [256, 257, 258, 259, 268, 272, 273].contains(&cause);
            Decision::Refuse { cause, iotval2, recorded: always || !walk.disabled }
        }
    };
    (decision, walk.updates)
}

/// Where the second stage that `iohgatp` says leads the unit's own read of `address`; nothing where it refuses.
pub fn guest_read(unit: &Unit, memory: &impl Words, tc: u64, iohgatp: u64, address: u64) -> Option<u64> {
    let request =
        Request { device_id: 0, process_id: None, privileged: false, address, access: Access::Read };
    let mut walk = Walk { unit, memory, request: &request, disabled: false, updates: Vec::new() };
    let second = Table {
        root: bits(iohgatp, 43, 0) << 12,
        levels: (bits(iohgatp, 63, 60) as u32).saturating_sub(5),
        wide: true,
        update_flags: bit(tc, 7),
        big_endian: bit(u64::from(unit.fctl), 0),
    };
    match walk.second_stage(&second, address, Access::Read, true) {
        Walked::To(address) => Some(address),
        _ => None,
    }
}

impl<M: Words> Walk<'_, M> {
    fn has(&self, capability: u32) -> bool {
        bit(self.unit.capabilities, capability)
    }

    fn load(&self, address: u64, big_endian: bool) -> Option<u64> {
        if address >> bits(self.unit.capabilities, 37, 32) != 0 {
            return None;
        }
        let written = self.updates.iter().rev().find(|update| update.0 == address);
        let raw = written.map(|update| update.1).or_else(|| self.memory.load(address))?;
        Some(if big_endian { raw.swap_bytes() } else { raw })
    }

    fn store(&mut self, address: u64, value: u64, big_endian: bool) {
        self.updates.push((address, if big_endian { value.swap_bytes() } else { value }));
    }

    /// CAUSE by what the request does: page faults from 12, access faults from 1, guest-page faults from 20.
    fn cause(&self, instruction: u16, read: u16, write: u16) -> u16 {
        match self.request.access {
            Access::Execute => instruction,
            Access::Read => read,
            Access::Write => write,
        }
    }

    fn fault(&self, walked: &Walked) -> Fault {
        match *walked {
            Walked::Page => Fault(self.cause(12, 13, 15), 0),
            Walked::Access => Fault(self.cause(1, 5, 7), 0),
            Walked::Guest { address, implicit, write } => {
                let flags = u64::from(implicit) | u64::from(implicit && write) << 1;
                Fault(self.cause(20, 21, 23), address & !3 | flags)
            }
            Walked::To(_) => Fault(272, 0),
        }
    }

    fn translate(&mut self) -> Result<Decision, Fault> {
        let request = *self.request;
        let big_endian = bit(u64::from(self.unit.fctl), 0);
        // Steps 1 and 2.
        let levels = match bits(self.unit.ddtp, 3, 0) {
            0 => return Err(Fault(256, 0)),
            1 => return Ok(Decision::Pass(request.address)),
            mode => mode - 1,
        };
        // Steps 3 to 5.
        let extended = self.has(22);
        let id = u64::from(request.device_id);
        let ddi = if extended {
            [bits(id, 5, 0), bits(id, 14, 6), bits(id, 23, 15)]
        } else {
            [bits(id, 6, 0), bits(id, 15, 7), bits(id, 23, 16)]
        };
        if (levels < 3 && ddi[2] != 0) || (levels < 2 && ddi[1] != 0) {
            return Err(Fault(260, 0));
        }
        // Step 6, 2.3.1.
        let mut table = bits(self.unit.ddtp, 53, 10) << 12;
        for index in (1..levels as usize).rev() {
            let Some(entry) = self.load(table + ddi[index] * 8, big_endian) else {
                return Err(Fault(257, 0));
            };
            if !bit(entry, 0) {
                return Err(Fault(258, 0));
            }
            if entry & 0xffc0_0000_0000_03fe != 0 {
                return Err(Fault(259, 0));
            }
            table = bits(entry, 53, 10) << 12;
        }
        let words = if extended { 8 } else { 4 };
        let mut context = [0; 8];
        for (index, word) in context.iter_mut().enumerate().take(words) {
            let at = table + ddi[0] * 8 * words as u64 + index as u64 * 8;
            let Some(loaded) = self.load(at, big_endian) else { return Err(Fault(257, 0)) };
            *word = loaded;
        }
        let [tc, iohgatp, _, fsc, msiptp, mask, pattern, _] = context;
        if !bit(tc, 0) {
            return Err(Fault(258, 0));
        }
        if self.is_misconfigured(&context) {
            return Err(Fault(259, 0));
        }
        self.disabled = bit(tc, 4);
        // Step 7.
        let pdtv = bit(tc, 5);
        let pdt_bits = match bits(fsc, 63, 60) {
            1 => 8,
            2 => 17,
            3 => 20,
            // Bare: no directory, and no limit.
            _ => 32,
        };
        match request.process_id {
            Some(_) if !pdtv => return Err(Fault(260, 0)),
            Some(id) if u64::from(id) >> pdt_bits != 0 => return Err(Fault(260, 0)),
            _ => {}
        }
        let second = (bits(iohgatp, 63, 60) != 0).then(|| Table {
            root: bits(iohgatp, 43, 0) << 12,
            levels: bits(iohgatp, 63, 60) as u32 - 5,
            wide: true,
            update_flags: bit(tc, 7),
            big_endian,
        });
        // Steps 10 to 16.
        let mut sum = false;
        let mut iosatp = fsc;
        if pdtv {
            let process = match request.process_id {
                Some(id) => Some(id),
                None if bit(tc, 9) => Some(0),
                None => None,
            };
            iosatp = 0;
            if let (Some(process), true) = (process, bits(fsc, 63, 60) != 0) {
                let [attributes, first] = self.process_context(fsc, process, bit(tc, 10), second.as_ref())?;
                if request.privileged && !bit(attributes, 1) {
                    return Err(Fault(260, 0));
                }
                sum = bit(attributes, 2);
                iosatp = first;
            }
        }
        // Step 17.
        let first = Table {
            root: bits(iosatp, 43, 0) << 12,
            levels: (bits(iosatp, 63, 60) as u32).saturating_sub(5),
            wide: false,
            update_flags: bit(tc, 8),
            big_endian: bit(tc, 10),
        };
        let guest_address = if bits(iosatp, 63, 60) == 0 {
            request.address
        } else {
            match self.first_stage(&first, second.as_ref(), sum) {
                Walked::To(address) => address,
                fault => return Err(self.fault(&fault)),
            }
        };
        // Step 18, 2.3.3.
        if extended && bits(msiptp, 63, 60) == 1 && (guest_address >> 12) & !mask == pattern & !mask {
            return self.interrupt_file(guest_address, mask, bits(msiptp, 43, 0) << 12, big_endian);
        }
        // Step 19.
        let Some(second) = second else { return Ok(Decision::Pass(guest_address)) };
        match self.second_stage(&second, guest_address, request.access, false) {
            Walked::To(address) => Ok(Decision::Pass(address)),
            fault => Err(self.fault(&fault)),
        }
    }

    /// 2.1.4.
    fn is_misconfigured(&self, context: &[u64; 8]) -> bool {
        let [tc, iohgatp, ta, fsc, msiptp, mask, pattern, reserved] = *context;
        let (ats, pri, t2gpa) = (bit(tc, 1), bit(tc, 2), bit(tc, 3));
        let first_mode = |mode: u64| match mode {
            0 => true,
            8..=10 => self.has(mode as u32 + 1),
            _ => false,
        };
        let second_mode = bits(iohgatp, 63, 60);
        let has_second = match second_mode {
            0 => true,
            8..=10 => self.has(second_mode as u32 + 9),
            _ => false,
        };
        let directory_mode = match bits(fsc, 63, 60) {
            0 => true,
            mode @ 1..=3 => self.has(mode as u32 + 37),
            _ => false,
        };
        let qos = if self.has(41) { 0x0000_00ff_0000_0fff } else { 0xffff_ffff_0000_0fff };
        tc & 0xffff_ffff_00ff_f000 != 0
            || ta & qos != 0
            || fsc & 0x0fff_f000_0000_0000 != 0
            || msiptp & 0x0fff_f000_0000_0000 != 0
            || mask >> 52 != 0
            || pattern >> 52 != 0
            || reserved != 0
            || (!self.has(25) && (ats || pri || bit(tc, 6)))
            || (!ats && (t2gpa || pri))
            || (!pri && bit(tc, 6))
            || (!self.has(26) && t2gpa)
            || (t2gpa && second_mode == 0)
            || (bit(tc, 5) && !directory_mode)
            || (!bit(tc, 5) && (!first_mode(bits(fsc, 63, 60)) || bit(tc, 9)))
            || !has_second
            || (self.has(22) && bits(msiptp, 63, 60) > 1)
            || (second_mode != 0 && iohgatp & 3 != 0)
            || (!self.has(24) && (bit(tc, 7) || bit(tc, 8)))
            || bit(tc, 11)
            || (!self.unit.be_writable && bit(tc, 10) != bit(u64::from(self.unit.fctl), 0))
    }

    /// 2.3.2.
    fn process_context(
        &mut self,
        pdtp: u64,
        process: u32,
        big_endian: bool,
        second: Option<&Table>,
    ) -> Result<[u64; 2], Fault> {
        let process = u64::from(process);
        let pdi = [bits(process, 7, 0), bits(process, 16, 8), bits(process, 19, 17)];
        let mut table = bits(pdtp, 43, 0) << 12;
        for index in (0..bits(pdtp, 63, 60) as usize).rev() {
            let size = if index == 0 { 16 } else { 8 };
            let mut at = table + pdi[index] * size;
            if let Some(second) = second {
                at = match self.second_stage(second, at, Access::Read, true) {
                    Walked::To(address) => address,
                    fault => return Err(self.fault(&fault)),
                };
            }
            let Some(entry) = self.load(at, big_endian) else { return Err(Fault(265, 0)) };
            if index > 0 {
                if !bit(entry, 0) {
                    return Err(Fault(266, 0));
                }
                if entry & 0xffc0_0000_0000_03fe != 0 {
                    return Err(Fault(267, 0));
                }
                table = bits(entry, 53, 10) << 12;
                continue;
            }
            let Some(first) = self.load(at + 8, big_endian) else { return Err(Fault(265, 0)) };
            if !bit(entry, 0) {
                return Err(Fault(266, 0));
            }
            let mode = bits(first, 63, 60);
            let supported = mode == 0 || ((8..=10).contains(&mode) && self.has(mode as u32 + 1));
            if entry & 0xffff_ffff_0000_0ff8 != 0 || first & 0x0fff_f000_0000_0000 != 0 || !supported {
                return Err(Fault(267, 0));
            }
            return Ok([entry, first]);
        }
        Err(Fault(272, 0))
    }

    fn first_stage(&mut self, table: &Table, second: Option<&Table>, sum: bool) -> Walked {
        let request = *self.request;
        let width = 12 + 9 * table.levels;
        let upper = (request.address as i64) >> (width - 1);
        if upper != 0 && upper != -1 {
            return Walked::Page;
        }
        let mut base = table.root;
        for level in (0..table.levels).rev() {
            let guest = base + bits(request.address, 20 + 9 * level, 12 + 9 * level) * 8;
            let at = match second {
                None => guest,
                Some(second) => match self.second_stage(second, guest, Access::Read, true) {
                    Walked::To(address) => address,
                    fault => return fault,
                },
            };
            let Some(entry) = self.load(at, table.big_endian) else { return Walked::Access };
            if self.is_reserved(entry, level) {
                return Walked::Page;
            }
            if entry & 0b1010 == 0 {
                base = bits(entry, 53, 10) << 12;
                continue;
            }
            let user = bit(entry, 4);
            let allowed = match request.access {
                // 3.2, TTYP 1: a read for execute, which needs both rights (so does the specification's reference model).
                Access::Execute => bit(entry, 3) && bit(entry, 1) && user != request.privileged,
                Access::Read => bit(entry, 1) && (user || request.privileged),
                Access::Write => bit(entry, 2) && (user || request.privileged),
            };
            if !allowed || (request.privileged && user && !sum) {
                return Walked::Page;
            }
            let wanted = 1 << 6 | u64::from(request.access == Access::Write) << 7;
            if entry & wanted != wanted {
                if !table.update_flags {
                    return Walked::Page;
                }
                // The entry is written: the second stage must allow that too.
                if let Some(second) = second {
                    match self.second_stage(second, guest, Access::Write, true) {
                        Walked::To(_) => {}
                        fault => return fault,
                    }
                }
                self.store(at, entry | wanted, table.big_endian);
            }
            return Walked::To(leaf(entry, level, request.address));
        }
        Walked::Page
    }

    fn second_stage(&mut self, table: &Table, address: u64, access: Access, implicit: bool) -> Walked {
        let refused = Walked::Guest { address, implicit, write: access == Access::Write };
        if address >> (14 + 9 * table.levels) != 0 {
            return refused;
        }
        let mut base = table.root;
        for level in (0..table.levels).rev() {
            let high = 20 + 9 * level + if table.wide && level + 1 == table.levels { 2 } else { 0 };
            let at = base + bits(address, high, 12 + 9 * level) * 8;
            let Some(entry) = self.load(at, table.big_endian) else { return Walked::Access };
            if self.is_reserved(entry, level) {
                return refused;
            }
            if entry & 0b1010 == 0 {
                base = bits(entry, 53, 10) << 12;
                continue;
            }
            // The second stage sees every request as a user's.
            let allowed = match access {
                Access::Execute => bit(entry, 3) && bit(entry, 1),
                Access::Read => bit(entry, 1),
                Access::Write => bit(entry, 2),
            };
            if !allowed || !bit(entry, 4) {
                return refused;
            }
            let wanted = 1 << 6 | u64::from(access == Access::Write) << 7;
            if entry & wanted != wanted {
                if !table.update_flags {
                    return refused;
                }
                self.store(at, entry | wanted, table.big_endian);
            }
            return Walked::To(leaf(entry, level, address));
        }
        refused
    }

    /// Step 3 of the Privileged Specification's process, with Svnapot and Svpbmt; misaligned superpages with it, for they
    /// fault alike.
    fn is_reserved(&self, entry: u64, level: u32) -> bool {
        let (read, write, execute) = (bit(entry, 1), bit(entry, 2), bit(entry, 3));
        if !bit(entry, 0) || (write && !read) {
            return true;
        }
        let types = bits(entry, 62, 61);
        let software = self.has(14);
        if bits(entry, 58, 54) != 0 || (!software && bits(entry, 60, 59) != 0) {
            return true;
        }
        if types == 3 || (types != 0 && !self.has(15)) {
            return true;
        }
        if !read && !execute {
            // A pointer: N, PBMT, D, A and U are reserved; below the last level there is nothing.
            return level == 0 || bit(entry, 63) || types != 0 || entry & 0xd0 != 0;
        }
        if bit(entry, 63) {
            return level != 0 || bits(entry, 13, 10) != 0b1000;
        }
        level > 0 && bits(entry, 9 + 9 * level, 10) != 0
    }

    /// 2.3.3.
    fn interrupt_file(
        &mut self,
        address: u64,
        mask: u64,
        table: u64,
        big_endian: bool,
    ) -> Result<Decision, Fault> {
        let (mut number, mut place) = (0, 0);
        for position in 0..52 {
            if bit(mask, position) {
                number |= u64::from(bit(address >> 12, position)) << place;
                place += 1;
            }
        }
        let at = table | number << 4;
        let (Some(entry), Some(notice)) = (self.load(at, big_endian), self.load(at + 8, big_endian)) else {
            return Err(Fault(261, 0));
        };
        if !bit(entry, 0) {
            return Err(Fault(262, 0));
        }
        let decision = match bits(entry, 2, 1) {
            _ if bit(entry, 63) => return Err(Fault(263, 0)),
            3 if entry & 0xffc0_0000_0000_03f8 != 0 => return Err(Fault(263, 0)),
            3 => Decision::Pass(bits(entry, 53, 10) << 12 | address & 0xfff),
            1 if !self.has(23) => return Err(Fault(263, 0)),
            1 if entry & 0xffc0_0000_0000_0078 != 0 || notice & 0xefc0_0000_0000_0000 != 0 => {
                return Err(Fault(263, 0));
            }
            1 => Decision::Mrif(bits(entry, 53, 7) << 9),
            _ => return Err(Fault(263, 0)),
        };
        if self.request.access == Access::Execute {
            return Err(Fault(1, 0));
        }
        Ok(decision)
    }
}

/// Where a leaf entry leads: 4 KiB, a superpage, or 64 KiB by Svnapot.
fn leaf(entry: u64, level: u32, address: u64) -> u64 {
    let size = if bit(entry, 63) { 16 } else { 12 + 9 * level };
    let low = u64::MAX >> (64 - size);
    (bits(entry, 53, 10) << 12) & !low | address & low
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const SV39: u64 = 1 << 9;
    const SV39X4: u64 = 1 << 17;
    const PAS: u64 = 46 << 32;

    fn unit(capabilities: u64, ddtp: u64) -> Unit {
        Unit { capabilities: capabilities | PAS, fctl: 0, be_writable: false, ddtp }
    }

    fn request(address: u64, access: Access) -> Request {
        Request { device_id: 5, process_id: None, privileged: false, address, access }
    }

    fn run(unit: &Unit, words: &[(u64, u64)], request: &Request) -> (Decision, Vec<Update>) {
        let memory: HashMap<u64, u64> = words.iter().copied().collect();
        // Memory is everything below 1 MiB.
        decide(unit, &|at: u64| (at < 1 << 20).then(|| memory.get(&at).copied().unwrap_or(0)), request)
    }

    fn refused(cause: u16) -> Decision {
        Decision::Refuse { cause, iotval2: 0, recorded: true }
    }

    // device_id 5 in a one-level directory at 0x1000, base format: its context is at 0x10a0.
    const ONE_LEVEL: u64 = 2 | 1 << 10;
    const CONTEXT: u64 = 0x10a0;

    #[test]
    fn modes_off_and_bare() {
        let read = request(0x1234, Access::Read);
        assert_eq!(run(&unit(SV39, 0), &[], &read).0, refused(256));
        assert_eq!(run(&unit(SV39, 1), &[], &read).0, Decision::Pass(0x1234));
    }

    #[test]
    fn the_directory_is_indexed_as_2_1_says() {
        let read = request(0x1234, Access::Read);
        assert_eq!(run(&unit(SV39, ONE_LEVEL), &[], &read).0, refused(258));
        assert_eq!(run(&unit(SV39, ONE_LEVEL), &[(CONTEXT, 1)], &read).0, Decision::Pass(0x1234));
        assert_eq!(run(&unit(SV39, ONE_LEVEL), &[(CONTEXT, 1 | 1 << 12)], &read).0, refused(259));
        let wide = Request { device_id: 128, ..read };
        assert_eq!(run(&unit(SV39, ONE_LEVEL), &[(CONTEXT, 1)], &wide).0, refused(260));
    }

    #[test]
    fn one_first_stage_page() {
        // Sv39 at 0x2000, next 0x3000, next 0x4000; 0x5000 readable and writable by users, A but not D.
        let tables = [
            (CONTEXT, 1),
            (CONTEXT + 24, 8 << 60 | 2),
            (0x2000, 3 << 10 | 1),
            (0x3000, 4 << 10 | 1),
            (0x4000 + 8, 5 << 10 | 0x57),
        ];
        let unit = unit(SV39, ONE_LEVEL);
        assert_eq!(run(&unit, &tables, &request(0x1008, Access::Read)).0, Decision::Pass(0x5008));
        assert_eq!(run(&unit, &tables, &request(0x1008, Access::Write)).0, refused(15));
        assert_eq!(run(&unit, &tables, &request(0x1008, Access::Execute)).0, refused(12));
        assert_eq!(run(&unit, &tables, &request(0x2008, Access::Read)).0, refused(13));
        assert_eq!(run(&unit, &tables, &request(1 << 39, Access::Read)).0, refused(13));
    }

    #[test]
    fn dirty_is_set_where_sade_allows_it() {
        let tables = [
            (CONTEXT, 1 | 1 << 8),
            (CONTEXT + 24, 8 << 60 | 2),
            (0x2000, 3 << 10 | 1),
            (0x3000, 4 << 10 | 1),
            (0x4000 + 8, 5 << 10 | 0x17),
        ];
        let unit = unit(SV39 | 1 << 24, ONE_LEVEL);
        let (decision, updates) = run(&unit, &tables, &request(0x1008, Access::Write));
        assert_eq!(decision, Decision::Pass(0x5008));
        assert_eq!(updates, [(0x4008, 5 << 10 | 0xd7)]);
    }

    #[test]
    fn a_second_stage_alone_reports_the_guest_address() {
        let tables = [(CONTEXT, 1), (CONTEXT + 8, 8 << 60 | 4), (0x4000, 8 << 10 | 1), (0x8000, 9 << 10 | 1)];
        let unit = unit(SV39X4, ONE_LEVEL);
        assert_eq!(
            run(&unit, &tables, &request(0x7008, Access::Write)).0,
            Decision::Refuse { cause: 23, iotval2: 0x7008, recorded: true }
        );
        let tables = [&tables[..], &[(0x9000 + 7 * 8, 5 << 10 | 0xdf)]].concat();
        assert_eq!(run(&unit, &tables, &request(0x7008, Access::Write)).0, Decision::Pass(0x5008));
    }

    #[test]
    fn dtf_silences_page_faults_but_not_directory_faults() {
        let unit = unit(SV39, ONE_LEVEL);
        let tables = [(CONTEXT, 1 | 1 << 4), (CONTEXT + 24, 8 << 60 | 2)];
        assert_eq!(
            run(&unit, &tables, &request(0x1008, Access::Read)).0,
            Decision::Refuse { cause: 13, iotval2: 0, recorded: false }
        );
    }
}
