//! What VT-d does with a request (Architecture Specification rev. 5; sections are cited where they say it).
//!
//! One untranslated request that stays in one 4 KiB page. Interrupt requests (writes without PASID to 0xfeex_xxxx) are not
//! DMA and not decided here.

use super::{Update, Words, bit, bits};

/// The unit: its capability registers as they read, and how wide physical addresses are.
#[derive(Clone, Copy, Debug)]
pub struct Unit {
    /// CAP_REG.
    pub cap: u64,
    /// ECAP_REG.
    pub ecap: u64,
    /// Host address width in bits.
    pub haw: u32,
}

/// A request.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Bus in bits 15:8, device and function below.
    pub requester_id: u16,
    /// PASID, where it carries one.
    pub pasid: Option<u32>,
    /// Whether it asks for supervisor rights.
    pub privileged: bool,
    /// First byte.
    pub address: u64,
    /// Whether it reads.
    pub read: bool,
    /// Whether it writes.
    pub write: bool,
}

/// What becomes of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// It goes on to this physical address.
    Pass(u64),
    /// It is refused.
    Refuse {
        /// Fault reason (7.1.3).
        code: u8,
        /// Whether a fault is recorded: no FPD bit on the way forbids it.
        recorded: bool,
    },
    /// It is refused without a word (abort-DMA mode, 3.3).
    Abort,
}

const PAGE: u64 = !0xfff;

fn is_interrupt_address(address: u64) -> bool {
    address >> 20 == 0xfee
}

impl Unit {
    /// Bits of an address field that must be zero: those from the host address width to `high`.
    fn beyond(&self, high: u32) -> u64 {
        (u64::MAX >> (63 - high)) & !(u64::MAX >> (64 - self.haw))
    }
    fn domains(&self) -> u64 {
        1 << (4 + 2 * bits(self.cap, 2, 0))
    }
    fn guest_width(&self) -> u32 {
        bits(self.cap, 21, 16) as u32 + 1
    }
    fn has_levels(&self, address_width: u64) -> bool {
        (1..=3).contains(&address_width) && bit(self.cap, 8 + address_width as u32)
    }
}

/// A refusal before it is known whether it is recorded.
struct Refusal {
    code: u8,
    /// Whether FPD has a say (7.1.3: qualified).
    qualified: bool,
}

fn refuse<T>(code: u8) -> Result<T, Refusal> {
    // 7.1.3: root entries have no FPD; a context or PASID entry that can't be read has none that could be known.
    let unqualified = [0x1, 0x8, 0x9, 0xa, 0x30, 0x31, 0x38, 0x39, 0x3a, 0x40, 0x50, 0x58];
    Err(Refusal { code, qualified: !unqualified.contains(&code) })
}

/// Decide about `request`, with `root` the root table address register as it was when it was last set.
///
/// The words that change in memory come with it, whatever the decision.
pub fn decide(unit: &Unit, root: u64, memory: &impl Words, request: &Request) -> (Decision, Vec<Update>) {
    let mut walk = Walk { unit, memory, request, disabled: false, updates: Vec::new() };
    let outcome = match bits(root, 11, 10) {
        0b00 => walk.legacy(root & PAGE),
        0b01 if bit(unit.ecap, 43) => walk.scalable(root & PAGE),
        0b11 if bit(unit.ecap, 52) => return (Decision::Abort, Vec::new()),
        _ => refuse(0x30),
    };
    let decision = match outcome {
        Ok(address) => Decision::Pass(address),
        Err(Refusal { code, qualified }) => {
            Decision::Refuse { code, recorded: !(qualified && walk.disabled) }
        }
    };
    (decision, walk.updates)
}

struct Walk<'a, M> {
    unit: &'a Unit,
    memory: &'a M,
    request: &'a Request,
    /// An FPD bit was met.
    disabled: bool,
    updates: Vec<Update>,
}

/// What the second stage may be told, for its faults differ between modes.
#[derive(Clone, Copy, PartialEq)]
enum SecondStageFor {
    LegacyRequest,
    ScalableRequest,
    /// The address of a first-stage entry: `true` for the root one.
    FirstStageEntry(bool),
}

struct SecondStage {
    table: u64,
    width: u64,
    flags: bool,
    snoop: bool,
}

impl<M: Words> Walk<'_, M> {
    fn load(&self, address: u64) -> Option<u64> {
        // What this request has written already, it sees.
        let written = self.updates.iter().rev().find(|update| update.0 == address);
        written.map(|update| update.1).or_else(|| self.memory.load(address))
    }

    /// 3.4, 9.1, 9.3.
    fn legacy(&mut self, root_table: u64) -> Result<u64, Refusal> {
        let unit = self.unit;
        if self.request.pasid.is_some() {
            return refuse(0x31);
        }
        let (bus, devfn) =
            (u64::from(self.request.requester_id >> 8), u64::from(self.request.requester_id & 0xff));
        let at = root_table + bus * 16;
        let (Some(low), Some(high)) = (self.load(at), self.load(at + 8)) else { return refuse(0x8) };
        if !bit(low, 0) {
            return refuse(0x1);
        }
        if low & (0xffe | unit.beyond(63)) != 0 || high != 0 {
            return refuse(0xa);
        }
        let at = (low & PAGE) + devfn * 16;
        let (Some(low), Some(high)) = (self.load(at), self.load(at + 8)) else { return refuse(0x9) };
        self.disabled = bit(low, 1);
        if !bit(low, 0) {
            return refuse(0x2);
        }
        let domain = bits(high, 23, 8);
        if low & (0xff0 | unit.beyond(63)) != 0
            || high & 0xffff_ffff_ff00_0080 != 0
            || domain >= unit.domains()
        {
            return refuse(0xb);
        }
        let width = bits(high, 2, 0);
        match bits(low, 3, 2) {
            0b00 => {}
            0b01 if bit(unit.ecap, 2) => {}
            0b10 if bit(unit.ecap, 6) => {
                if !unit.has_levels(width) {
                    return refuse(0x3);
                }
                // 9.3: AW is to be the largest supported here, so only what memory has limits the address.
                if self.request.address >> unit.haw != 0 {
                    return refuse(0x4);
                }
                return Ok(self.request.address);
            }
            _ => return refuse(0x3),
        }
        if !unit.has_levels(width) {
            return refuse(0x3);
        }
        let stage = SecondStage { table: low & PAGE, width, flags: false, snoop: false };
        let address = self.second_stage(
            &stage,
            self.request.address,
            self.request.write,
            SecondStageFor::LegacyRequest,
        )?;
        if is_interrupt_address(address) { refuse(0xe) } else { Ok(address) }
    }

    /// 3.4.3, 9.2, 9.4, 9.5, 9.6.
    fn scalable(&mut self, root_table: u64) -> Result<u64, Refusal> {
        let unit = self.unit;
        let (bus, devfn) =
            (u64::from(self.request.requester_id >> 8), u64::from(self.request.requester_id & 0xff));
        let Some(half) = self.load(root_table + bus * 16 + devfn / 128 * 8) else { return refuse(0x38) };
        if !bit(half, 0) {
            return refuse(0x39);
        }
        if half & (0xffe | unit.beyond(63)) != 0 {
            return refuse(0x3a);
        }
        let at = (half & PAGE) + devfn % 128 * 32;
        let mut context = [0; 4];
        for (index, word) in context.iter_mut().enumerate() {
            let Some(loaded) = self.load(at + index as u64 * 8) else { return refuse(0x40) };
            *word = loaded;
        }
        self.disabled = bit(context[0], 1);
        if !bit(context[0], 0) {
            return refuse(0x41);
        }
        let missing = |field: bool, capability: u32| field && !bit(unit.ecap, capability);
        if context[0] & (0x1e0 | unit.beyond(63)) != 0
            || context[1] >> 21 != 0
            || context[2] | context[3] != 0
            || missing(bit(context[0], 2), 2)
            || missing(bit(context[0], 3), 40)
            || missing(bit(context[0], 4), 29)
            || missing(bits(context[1], 19, 0) != 0, 49)
            || missing(bit(context[1], 20), 53)
        {
            return refuse(0x42);
        }
        let reach = 64 << (bits(context[0], 11, 9) + 7);
        let pasid = match self.request.pasid {
            Some(_) if !bit(context[0], 3) => return refuse(0x45),
            Some(pasid) if u64::from(pasid) >= reach => return refuse(0x46),
            Some(pasid) => u64::from(pasid),
            None if bits(context[1], 19, 0) >= reach => return refuse(0x48),
            None => bits(context[1], 19, 0),
        };
        let privileged = match self.request.pasid {
            Some(_) => self.request.privileged,
            None => bit(context[1], 20),
        };

        let Some(directory) = self.load((context[0] & PAGE) + pasid / 64 * 8) else { return refuse(0x50) };
        self.disabled |= bit(directory, 1);
        if !bit(directory, 0) {
            return refuse(0x51);
        }
        if directory & (0xffc | unit.beyond(63)) != 0 {
            return refuse(0x52);
        }
        let at = (directory & PAGE) + pasid % 64 * 64;
        let mut entry = [0; 8];
        for (index, word) in entry.iter_mut().enumerate() {
            let Some(loaded) = self.load(at + index as u64 * 8) else { return refuse(0x58) };
            *word = loaded;
        }
        self.disabled |= bit(entry[0], 1);
        if !bit(entry[0], 0) {
            return refuse(0x59);
        }
        self.pasid_entry(&entry, privileged)
    }

    /// 9.6, 3.5 to 3.8.
    fn pasid_entry(&mut self, entry: &[u64; 8], privileged: bool) -> Result<u64, Refusal> {
        let unit = self.unit;
        let missing = |field: bool, capability: u32| field && !bit(unit.ecap, capability);
        let kind = bits(entry[0], 8, 6);
        let first_pointer = if kind == 0b011 { 0 } else { unit.beyond(63) };
        if entry[0] & (0xc20 | unit.beyond(63)) != 0
            || entry[1] & 0xf87f_0000 != 0
            || entry[2] & (0xf02 | first_pointer) != 0
            || entry[3..].iter().any(|word| *word != 0)
            || bits(entry[1], 15, 0) >= unit.domains()
            || missing(bit(entry[0], 9), 45)
            || missing(bit(entry[1], 23), 48)
            || missing(bit(entry[1], 24), 7)
            || missing(bits(entry[1], 26, 25) != 0 || entry[1] >> 32 != 0, 25)
            || missing(bit(entry[2], 0), 31)
            || missing(bit(entry[2], 4), 31)
            || missing(bit(entry[2], 7), 36)
        {
            return refuse(0x5a);
        }
        let (has_first, has_second) = match kind {
            0b001 if bit(unit.ecap, 47) => (true, false),
            0b010 if bit(unit.ecap, 46) => (false, true),
            0b011 if bit(unit.ecap, 26) => (true, true),
            0b100 if bit(unit.ecap, 6) => (false, false),
            _ => return refuse(0x5b),
        };
        let levels = match bits(entry[2], 3, 2) {
            0b00 => 4,
            0b01 if bit(unit.cap, 60) => 5,
            _ if has_first => return refuse(0x5b),
            _ => 0,
        };
        let second = SecondStage {
            table: entry[0] & PAGE,
            width: bits(entry[0], 4, 2),
            flags: bit(entry[0], 9),
            snoop: bit(entry[1], 23),
        };
        if has_second && !unit.has_levels(second.width) {
            return refuse(0x5b);
        }
        if privileged && has_first && !bit(entry[2], 0) {
            return refuse(0x5d);
        }
        let address = self.request.address;
        let output = match (has_first, has_second) {
            (true, _) => {
                let nested = has_second.then_some(&second);
                self.first_stage(entry[2], levels, nested, privileged, second.snoop)?
            }
            (false, true) => {
                self.second_stage(&second, address, self.request.write, SecondStageFor::ScalableRequest)?
            }
            (false, false) if address >> unit.haw != 0 => return refuse(0x83),
            (false, false) => address,
        };
        if is_interrupt_address(output) { refuse(0x87) } else { Ok(output) }
    }

    /// 3.7, 9.8. `write` is whether the address is to be written.
    fn second_stage(
        &mut self,
        stage: &SecondStage,
        address: u64,
        write: bool,
        purpose: SecondStageFor,
    ) -> Result<u64, Refusal> {
        use SecondStageFor::{FirstStageEntry, LegacyRequest, ScalableRequest};
        let unit = self.unit;
        let code = |legacy: u8, scalable: u8| if purpose == LegacyRequest { legacy } else { scalable };
        let width = (30 + 9 * stage.width as u32).min(unit.guest_width());
        if address >> width != 0 {
            return refuse(match purpose {
                LegacyRequest => 0x4,
                ScalableRequest => 0x84,
                FirstStageEntry(_) => 0x74,
            });
        }
        let (mut table, mut readable, mut writable) = (stage.table, true, true);
        let mut visited = Vec::new();
        let top = stage.width + 1;
        for level in (0..=top).rev() {
            let at = table + bits(address, 20 + 9 * level as u32, 12 + 9 * level as u32) * 8;
            let Some(entry) = self.load(at) else {
                return refuse(if level == top { code(0x3, 0x7b) } else { code(0x7, 0x78) });
            };
            if entry & 3 == 0 {
                return refuse(match purpose {
                    LegacyRequest => {
                        if write {
                            0x5
                        } else {
                            0x6
                        }
                    }
                    ScalableRequest | FirstStageEntry(_) => 0x79,
                });
            }
            let is_large = level > 0 && bit(entry, 7);
            let is_leaf = level == 0 || is_large;
            let size = 12 + 9 * level as u32;
            // 9.8: bit 62 was the transient mapping until revision 3.2.
            let mut reserved = unit.beyond(51) | 1 << 62;
            if is_large && (level > 2 || !bit(unit.cap, 33 + level as u32)) {
                reserved |= 1 << 7;
            } else if is_large {
                reserved |= (1 << size) - 4096;
            }
            // 9.8: SNP is reserved where snoop control is not reported, and in entries that refer to tables.
            if !is_leaf || !bit(unit.ecap, 7) {
                reserved |= 1 << 11;
            }
            if entry & reserved != 0 {
                return refuse(code(0xc, 0x7a));
            }
            readable &= bit(entry, 0);
            writable &= bit(entry, 1);
            visited.push((at, entry, is_leaf));
            if !is_leaf {
                table = entry & PAGE & (u64::MAX >> 12);
                continue;
            }
            // SSS.2, read as of all entries together: which of two readings is meant was not to be found out.
            if !readable && !writable && purpose != LegacyRequest {
                return refuse(0x79);
            }
            let wanted_read = self.request.read || matches!(purpose, FirstStageEntry(_)) || !write;
            if write && !writable {
                return refuse(match purpose {
                    LegacyRequest => 0x5,
                    ScalableRequest => 0x85,
                    FirstStageEntry(_) => 0x77,
                });
            }
            if wanted_read && !readable {
                return refuse(match purpose {
                    LegacyRequest => 0x6,
                    ScalableRequest => 0x86,
                    FirstStageEntry(true) => 0x75,
                    FirstStageEntry(false) => 0x76,
                });
            }
            if stage.flags {
                for (at, entry, is_leaf) in visited {
                    let dirty = if is_leaf && write { 1 << 9 } else { 0 };
                    let flags = 1 << 8 | dirty;
                    if entry & flags != flags && !stage.snoop {
                        return refuse(0x7c);
                    }
                    self.update(at, entry, flags);
                }
            }
            let offset = (1 << size) - 1;
            return Ok((entry & PAGE & (u64::MAX >> 12) & !offset) | (address & offset));
        }
        unreachable!("level 0 is a leaf")
    }

    /// 3.6, 9.7.
    fn first_stage(
        &mut self,
        word: u64,
        levels: u32,
        nested: Option<&SecondStage>,
        privileged: bool,
        snoop: bool,
    ) -> Result<u64, Refusal> {
        let unit = self.unit;
        let address = self.request.address;
        let top_bit = 11 + 9 * levels;
        let upper = address >> top_bit;
        if upper != 0 && upper != u64::MAX >> top_bit {
            return refuse(0x80);
        }
        let (mut table, mut writable, mut user) = (word & PAGE, true, true);
        let mut visited = Vec::new();
        for level in (0..levels).rev() {
            let guest_at = table + bits(address, 20 + 9 * level, 12 + 9 * level) * 8;
            let at = match nested {
                // 3.8: the flags of a first-stage entry are written where it is used, so the second stage is asked
                // for reading here, and for writing where a flag changes.
                Some(second) => {
                    let purpose = SecondStageFor::FirstStageEntry(level == levels - 1);
                    self.second_stage(second, guest_at, false, purpose)?
                }
                None => guest_at,
            };
            let Some(entry) = self.load(at) else {
                return refuse(if level == levels - 1 { 0x73 } else { 0x70 });
            };
            if !bit(entry, 0) {
                return refuse(0x71);
            }
            let is_large = level > 0 && bit(entry, 7);
            let is_leaf = level == 0 || is_large;
            let size = 12 + 9 * level;
            let mut reserved = if nested.is_some() { 0 } else { unit.beyond(51) };
            if is_large && (level > 2 || (level == 2 && !bit(unit.cap, 56))) {
                reserved |= 1 << 7;
            } else if is_large {
                // Bit 12 of a large page is its PAT bit.
                reserved |= (1 << size) - 8192;
            }
            if entry & reserved != 0 {
                return refuse(0x72);
            }
            writable &= bit(entry, 1);
            user &= bit(entry, 2);
            visited.push((guest_at, at, entry, is_leaf));
            if !is_leaf {
                table = entry & PAGE & (u64::MAX >> 12);
                continue;
            }
            if !user && !privileged {
                return refuse(0x81);
            }
            let obeys = !privileged || bit(word, 4);
            if self.request.write && !writable && obeys {
                return refuse(0x85);
            }
            let offset = (1 << size) - 1;
            let output = (entry & PAGE & (u64::MAX >> 12) & !offset) | (address & offset);
            let output = match nested {
                Some(second) => {
                    self.second_stage(second, output, self.request.write, SecondStageFor::ScalableRequest)?
                }
                None => output,
            };
            let visited_root = visited[0].1;
            for (guest_at, at, entry, is_leaf) in visited {
                let dirty = if is_leaf && self.request.write { 1 << 6 } else { 0 };
                let extended = if bit(word, 7) { 1 << 10 } else { 0 };
                let flags = 1 << 5 | dirty | extended;
                if entry & (flags & !(1 << 10)) != flags & !(1 << 10) && !snoop {
                    return refuse(0x90);
                }
                if entry & flags == flags {
                    continue;
                }
                if let Some(second) = nested {
                    let is_root = at == visited_root;
                    self.second_stage(second, guest_at, true, SecondStageFor::FirstStageEntry(is_root))?;
                }
                self.update(at, entry, flags);
            }
            return Ok(output);
        }
        unreachable!("level 0 is a leaf")
    }

    fn update(&mut self, at: u64, entry: u64, flags: u64) {
        let current = self.load(at).unwrap_or(entry);
        if current & flags != flags {
            self.updates.push((at, current | flags));
        }
    }
}
