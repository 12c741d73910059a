//! How the test machine's unit translates: the tables of VT-d chapters 3 and 9 read word by word, and caches that forget
//! nothing by themselves.

use std::collections::HashMap;

use super::Machine;

/// What a DMA came to: the physical address, or the fault reason.
pub(crate) type Dma = Result<u64, u8>;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    NotPresent(u8),
    PassThrough,
    First { root: u64, levels: u32 },
    Second { root: u64, levels: u32, dirty: bool },
    Nested { first: u64, first_levels: u32, root: u64, levels: u32 },
}

/// A context or PASID table entry, read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context {
    pub(crate) did: u16,
    kind: Kind,
    silent: bool,
}

/// A cached translation of one page.
#[derive(Clone, Copy, Debug)]
struct Cached {
    /// `None`: known not to be mapped.
    page: Option<(u64, bool, bool)>,
    nested: bool,
}

#[derive(Default)]
pub(crate) struct Caches {
    /// Legacy: context entries. Scalable: the PASID directory pointer is not cached apart, which is allowed.
    pub(crate) contexts: HashMap<u16, Context>,
    /// PASID table entries by source and PASID.
    pub(crate) pasids: HashMap<(u16, u32), Context>,
    /// Second stage: by domain ID and page.
    second: HashMap<(u16, u64), Cached>,
    /// First stage and nested: by domain ID, PASID and page.
    first: HashMap<(u16, u32, u64), Cached>,
    /// Paging-structure caches: the last-level table for each 2 MiB, with the rights above it; second stage, then first.
    second_tables: HashMap<(u16, u64), (u64, bool, bool)>,
    first_tables: HashMap<(u16, u32, u64), (u64, bool)>,
    /// Interrupt remapping table entries by index.
    pub(crate) interrupts: HashMap<u16, [u64; 2]>,
}

fn within(page: u64, range: Option<(u64, u64)>) -> bool {
    range.is_none_or(|(first, last)| page >= first >> 12 && page <= last >> 12)
}

fn region_within(region: u64, range: Option<(u64, u64)>) -> bool {
    range.is_none_or(|(first, last)| region >= first >> 21 && region <= last >> 21)
}

impl Caches {
    pub(crate) fn forget_all(&mut self) {
        self.second.clear();
        self.first.clear();
        self.second_tables.clear();
        self.first_tables.clear();
    }

    /// 6.5.2.3: second-stage and nested translations of a domain. Nested ones are found by no address of the second stage's.
    pub(crate) fn forget_second(&mut self, did: u16, range: Option<(u64, u64)>, leaf_only: bool) {
        self.second.retain(|key, _| key.0 != did || !within(key.1, range));
        self.first.retain(|key, cached| key.0 != did || !cached.nested);
        if !leaf_only {
            self.second_tables.retain(|key, _| key.0 != did || !region_within(key.1, range));
        }
    }

    /// 6.5.2.4: first-stage and nested translations of a PASID in a domain.
    pub(crate) fn forget_first(&mut self, did: u16, pasid: u32, range: Option<(u64, u64)>, leaf_only: bool) {
        self.first.retain(|key, _| (key.0, key.1) != (did, pasid) || !within(key.2, range));
        if !leaf_only {
            self.first_tables.retain(|key, _| (key.0, key.1) != (did, pasid) || !region_within(key.2, range));
        }
    }
}

impl Machine {
    /// A DMA of one byte.
    pub(crate) fn dma(&self, sid: u16, pasid: Option<u32>, iova: u64, write: bool) -> Dma {
        if self.registers.borrow().status >> 31 == 0 {
            return Ok(iova);
        }
        let scalable = self.registers.borrow().root >> 10 & 3 == 1;
        let context = match (scalable, pasid) {
            (false, None) => self.legacy_context(sid),
            (false, Some(_)) => Context { did: 0, kind: Kind::NotPresent(0x0e), silent: false },
            (true, pasid) => self.scalable_context(sid, pasid),
        };
        let number = pasid.unwrap_or(0);
        let result = match context.kind {
            Kind::NotPresent(reason) => Err(reason),
            Kind::PassThrough => Ok(iova),
            Kind::First { root, levels } => {
                self.first(context.did, number, (root, levels), None, iova, write)
            }
            Kind::Second { root, levels, dirty } => {
                self.second(context.did, root, levels, dirty, iova, write, scalable)
            }
            Kind::Nested { first, first_levels, root, levels } => {
                let second = Some((root, levels));
                self.first(context.did, number, (first, first_levels), second, iova, write)
            }
        };
        if let Err(reason) = result
            && !context.silent
        {
            self.record_fault(sid, pasid, iova, write, reason);
        }
        result
    }

    fn legacy_context(&self, sid: u16) -> Context {
        if let Some(cached) = self.caches.borrow().contexts.get(&sid) {
            return *cached;
        }
        let root = self.registers.borrow().root & !0xfff;
        let not_present = |reason, silent| Context { did: 0, kind: Kind::NotPresent(reason), silent };
        let entry = self.unit_load(root + u64::from(sid >> 8) * 16);
        let context = if entry & 1 == 0 {
            not_present(1, false)
        } else {
            let at = (entry & !0xfff) + u64::from(sid & 0xff) * 16;
            let (low, high) = (self.unit_load(at), self.unit_load(at + 8));
            let silent = low & 2 != 0;
            let levels = (high & 7) as u32 + 2;
            let did = (high >> 8) as u16;
            match (low & 1, low >> 2 & 3) {
                (0, _) => not_present(2, silent),
                (_, 0) if (3..=5).contains(&levels) && self.traits.cap >> (8 + levels - 2) & 1 != 0 => {
                    Context { did, silent, kind: Kind::Second { root: low & !0xfff, levels, dirty: false } }
                }
                (_, 2) if self.traits.ecap & 1 << 6 != 0 => Context { did, silent, kind: Kind::PassThrough },
                _ => not_present(3, silent),
            }
        };
        self.keep_context(context, |caches| caches.contexts.insert(sid, context));
        context
    }

    /// With caching mode entries that are not present are cached too (6.1).
    fn keep_context(&self, context: Context, keep: impl FnOnce(&mut super::Caches) -> Option<Context>) {
        let present = !matches!(context.kind, Kind::NotPresent(_));
        if present || self.traits.caching_mode() {
            keep(&mut self.caches.borrow_mut());
        }
    }

    fn scalable_context(&self, sid: u16, pasid: Option<u32>) -> Context {
        let number = pasid.unwrap_or(0);
        if let Some(cached) = self.caches.borrow().pasids.get(&(sid, number)) {
            return *cached;
        }
        let context = self.read_scalable_context(sid, pasid);
        self.keep_context(context, |caches| caches.pasids.insert((sid, number), context));
        context
    }

    fn read_scalable_context(&self, sid: u16, pasid: Option<u32>) -> Context {
        let not_present = |reason, silent| Context { did: 0, kind: Kind::NotPresent(reason), silent };
        let root = self.registers.borrow().root & !0xfff;
        let entry = self.unit_load(root + u64::from(sid >> 8) * 16 + u64::from(sid >> 7 & 1) * 8);
        if entry & 1 == 0 {
            return not_present(0x39, false);
        }
        let at = (entry & !0xfff) + u64::from(sid & 0x7f) * 32;
        let (low, high) = (self.unit_load(at), self.unit_load(at + 8));
        if low & 1 == 0 {
            return not_present(0x41, low & 2 != 0);
        }
        if pasid.is_some() && low & 8 == 0 {
            return not_present(0x45, low & 2 != 0);
        }
        assert_eq!(high & 0xf_ffff, 0, "RID_PASID");
        let number = u64::from(pasid.unwrap_or(0));
        if number >> 6 >= 1 << ((low >> 9 & 7) + 7) {
            return not_present(0x50, false);
        }
        let directory = self.unit_load((low & !0xfff) + (number >> 6) * 8);
        if directory & 1 == 0 {
            return not_present(0x51, false);
        }
        let at = (directory & !0xfff) + (number & 0x3f) * 64;
        let words: [u64; 3] = core::array::from_fn(|index| self.unit_load(at + 8 * index as u64));
        let silent = words[0] & 2 != 0;
        if words[0] & 1 == 0 {
            return not_present(0x59, silent);
        }
        let did = words[1] as u16;
        let levels = (words[0] >> 2 & 7) as u32 + 2;
        let first_levels = 4 + (words[2] >> 2 & 3) as u32;
        let dirty = words[0] & 1 << 9 != 0;
        let (first, second) = (words[2] & !0xfff, words[0] & !0xfff);
        let kind = match words[0] >> 6 & 7 {
            1 => Kind::First { root: first, levels: first_levels },
            2 => Kind::Second { root: second, levels, dirty },
            3 => Kind::Nested { first, first_levels, root: second, levels },
            4 => Kind::PassThrough,
            _ => Kind::NotPresent(0x5b),
        };
        Context { did, kind, silent }
    }

    /// Walks a second stage. Without rights to read and write: not mapped.
    fn walk_second(&self, root: u64, levels: u32, dirty: bool, address: u64, write: bool) -> Walked {
        if address >> (12 + 9 * levels) != 0 || address >> ((self.traits.cap >> 16 & 0x3f) + 1) != 0 {
            return Walked::OutOfRange;
        }
        let mut table = root;
        let (mut read_right, mut write_right) = (true, true);
        for level in (0..levels).rev() {
            let above = (read_right, write_right);
            let at = table + (address >> (12 + 9 * level) & 0x1ff) * 8;
            let mut entry = self.unit_load(at);
            if entry & 3 == 0 {
                return Walked::NotMapped;
            }
            read_right &= entry & 1 != 0;
            write_right &= entry & 2 != 0;
            if level == 0 || (level <= 2 && entry & 1 << 7 != 0) {
                if dirty && write && write_right && entry & 1 << 9 == 0 {
                    entry |= 1 << 8 | 1 << 9;
                    self.unit_store(at, entry);
                }
                let offset = address & ((1 << (12 + 9 * level)) - 1);
                let last_table = (level == 0).then_some((table, above.0, above.1));
                return Walked::Mapped(
                    (entry & 0x000f_ffff_ffff_f000) + offset,
                    read_right,
                    write_right,
                    last_table,
                );
            }
            table = entry & 0x000f_ffff_ffff_f000;
        }
        unreachable!()
    }

    #[expect(clippy::too_many_arguments, reason = "one argument for each field of the entry")]
    fn second(
        &self,
        did: u16,
        root: u64,
        levels: u32,
        dirty: bool,
        iova: u64,
        write: bool,
        scalable: bool,
    ) -> Dma {
        let (not_mapped, write_reason, read_reason, out_of_range) =
            if scalable { (0x79, 0x85, 0x86, 0x84) } else { (if write { 5 } else { 6 }, 5, 6, 4) };
        let judge = |page: u64, read_right: bool, write_right: bool| {
            if write && !write_right {
                Err(write_reason)
            } else if !write && !read_right {
                Err(read_reason)
            } else {
                Ok(page | (iova & 0xfff))
            }
        };
        let key = (did, iova >> 12);
        if let Some(cached) = self.caches.borrow().second.get(&key).copied() {
            return match cached.page {
                Some((page, read_right, write_right)) => judge(page, read_right, write_right),
                None => Err(not_mapped),
            };
        }
        let table = self.caches.borrow().second_tables.get(&(did, iova >> 21)).copied();
        let walked = match table {
            Some((table, read_right, write_right)) => {
                let entry = self.unit_load(table + (iova >> 12 & 0x1ff) * 8);
                match entry & 3 {
                    0 => Walked::NotMapped,
                    rights => Walked::Mapped(
                        (entry & 0x000f_ffff_ffff_f000) | (iova & 0xfff),
                        read_right && rights & 1 != 0,
                        write_right && rights & 2 != 0,
                        None,
                    ),
                }
            }
            None => self.walk_second(root, levels, dirty, iova, write),
        };
        let mut caches = self.caches.borrow_mut();
        match walked {
            Walked::OutOfRange => Err(out_of_range),
            Walked::NotMapped => {
                if self.traits.caching_mode() {
                    caches.second.insert(key, Cached { page: None, nested: false });
                }
                Err(not_mapped)
            }
            Walked::Mapped(address, read_right, write_right, last_table) => {
                // A write is never granted from a cache before Dirty is set.
                let page = Some((address & !0xfff, read_right, write_right && (!dirty || write)));
                if !dirty || write {
                    caches.second.insert(key, Cached { page, nested: false });
                }
                if let (Some(table), false) = (last_table, dirty) {
                    caches.second_tables.insert((did, iova >> 21), table);
                }
                judge(address & !0xfff, read_right, write_right)
            }
        }
    }

    fn first(
        &self,
        did: u16,
        pasid: u32,
        (root, levels): (u64, u32),
        second: Option<(u64, u32)>,
        iova: u64,
        write: bool,
    ) -> Dma {
        let top = 12 + 9 * levels - 1;
        if iova >> top != 0 && iova >> top != u64::MAX >> top {
            return Err(0x80);
        }
        let key = (did, pasid, iova >> 12);
        if let Some(cached) = self.caches.borrow().first.get(&key).copied()
            && let Some((page, _, write_right)) = cached.page
            && (!write || write_right)
        {
            return Ok(page | (iova & 0xfff));
        }
        let through = |address: u64, write: bool| match second {
            None => Ok(address),
            Some((root, levels)) => match self.walk_second(root, levels, false, address, write) {
                Walked::Mapped(page, read_right, write_right, _) => {
                    if if write { write_right } else { read_right } { Ok(page) } else { Err(0x85) }
                }
                _ => Err(0x79),
            },
        };
        let cached_table = self.caches.borrow().first_tables.get(&(did, pasid, iova >> 21)).copied();
        let (mut table, mut write_right, start) = match cached_table {
            Some((table, write_right)) => (table, write_right, 1),
            None => (root, true, levels),
        };
        for level in (0..start).rev() {
            let at = through(table, true)? + (iova >> (12 + 9 * level) & 0x1ff) * 8;
            let mut entry = self.unit_load(at);
            if entry & 1 == 0 {
                return Err(0x71);
            }
            if entry & 4 == 0 {
                return Err(0x81);
            }
            let above = write_right;
            write_right &= entry & 2 != 0;
            let leaf = level == 0 || (level <= 2 && entry & 1 << 7 != 0);
            if leaf && write && !write_right {
                return Err(0x85);
            }
            let marks = if leaf && write { 0x60 } else { 0x20 };
            if entry & marks != marks {
                entry |= marks;
                self.unit_store(at, entry);
            }
            let next = entry & 0x000f_ffff_ffff_f000;
            if leaf {
                let offset = iova & ((1 << (12 + 9 * level)) - 1);
                let page = through((next & !((1 << (12 + 9 * level)) - 1)) + offset, write)?;
                let dirty = entry & 0x40 != 0;
                let cached = Cached {
                    page: Some((page & !0xfff, true, write_right && dirty)),
                    nested: second.is_some(),
                };
                let mut caches = self.caches.borrow_mut();
                caches.first.insert(key, cached);
                if level == 0 && second.is_none() {
                    caches.first_tables.insert((did, pasid, iova >> 21), (table, above));
                }
                return Ok(page);
            }
            table = next;
        }
        unreachable!()
    }
}

enum Walked {
    OutOfRange,
    NotMapped,
    /// Address, rights, and the table of the last level with the rights above it.
    Mapped(u64, bool, bool, Option<(u64, bool, bool)>),
}
