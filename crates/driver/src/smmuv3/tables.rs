//! The stream table and the context descriptor tables (3.3.1, 5.1, 5.3), as the driver keeps them.
//!
//! What the unit may be using is changed along a [`Plan`](super::live::Plan); here is only where it is.

use alloc::collections::BTreeMap;

use portcullis_pagetable::{TableAllocator, TableMemory};
use portcullis_spec::smmuv3::cd::{CD_SIZE, L1CD_SIZE, L1Cd};
use portcullis_spec::smmuv3::ste::{L1STD_SIZE, L1Std, STE_SIZE};
use portcullis_spec::{Context, DescriptorLayout, Pasid, PhysAddr};

use super::capabilities::Capabilities;
use super::entries::DescriptorTable;
use crate::common::table::TableSpace;
use crate::error::{Error, Feature};
use crate::platform::Memory;

/// log2 of the smallest block that the platform hands out.
const PAGE_LOG2: u8 = 12;
/// StreamID bits that index a second-level stream table (6.3.24, SPLIT): 16 KiB each.
const SPLIT: u8 = 8;
/// StreamID bits that the driver serves at most: a first level of 1 MiB.
const MOST_STREAM_BITS: u8 = 25;
/// Substream bits that index a second-level descriptor table (5.2, S1Fmt 1): 4 KiB each.
const LEAF_BITS: u8 = 6;

/// Memory as the unit is shown it.
pub(super) type Space<'a, M> = TableSpace<&'a M>;

/// Stores a word that the unit may read.
pub(super) fn store<M: Memory>(space: &Space<'_, M>, at: PhysAddr, word: u64) {
    let Ok(()) = space.store(at, word);
}

fn load<M: Memory>(space: &Space<'_, M>, at: PhysAddr) -> u64 {
    let Ok(word) = space.load(at);
    word
}

/// The eight words of an entry.
pub(super) fn load_entry<M: Memory>(space: &Space<'_, M>, at: PhysAddr) -> [u64; 8] {
    core::array::from_fn(|word| load(space, PhysAddr(at.0 + 8 * word as u64)))
}

/// Writes an entry that the unit does not reach.
pub(super) fn store_entry<M: Memory>(space: &Space<'_, M>, at: PhysAddr, words: &[u64; 8]) {
    for (index, word) in words.iter().enumerate() {
        store(space, PhysAddr(at.0 + 8 * index as u64), *word);
    }
}

/// log2 of the block for `bytes`.
fn block(bytes: u64) -> u8 {
    (bytes.next_power_of_two().trailing_zeros() as u8).max(PAGE_LOG2)
}

/// The stream table of one unit.
pub(super) struct StreamTable {
    base: PhysAddr,
    log2size: u8,
    two_level: bool,
    /// Second-level tables by the StreamID bits above [`SPLIT`].
    second: BTreeMap<u32, PhysAddr>,
}

impl StreamTable {
    /// A table in which everything is invalid, for as many streams as the unit has, up to `1 << stream_bits`.
    pub(super) fn allocate<M: Memory>(
        space: &Space<'_, M>,
        capabilities: Capabilities,
        stream_bits: u8,
    ) -> Option<Self> {
        let log2size = capabilities.idr1.sidsize().min(stream_bits).min(MOST_STREAM_BITS);
        let two_level = capabilities.idr0.st_level() == 1 && log2size > SPLIT;
        let bytes = if two_level { L1STD_SIZE << (log2size - SPLIT) } else { STE_SIZE << log2size };
        let base = space.allocate(block(bytes))?;
        Some(Self { base, log2size, two_level, second: BTreeMap::new() })
    }

    /// Gives all memory back. The unit does not read it any more.
    pub(super) fn free<M: Memory>(&self, space: &Space<'_, M>) {
        for table in self.second.values() {
            space.free(*table, block(STE_SIZE << SPLIT));
        }
        let bytes = match self.two_level {
            true => L1STD_SIZE << (self.log2size - SPLIT),
            false => STE_SIZE << self.log2size,
        };
        space.free(self.base, block(bytes));
    }

    pub(super) const fn base(&self) -> PhysAddr {
        self.base
    }

    pub(super) const fn log2size(&self) -> u8 {
        self.log2size
    }

    /// StreamID bits that index a second-level table, where there are two levels.
    pub(super) fn split(&self) -> Option<u8> {
        self.two_level.then_some(SPLIT)
    }

    /// Whether there is a place for a stream.
    pub(super) const fn reaches(&self, streamid: u32) -> bool {
        streamid >> self.log2size == 0
    }

    /// The address of a stream's entry, with the table made if it is not there; and whether it was made.
    pub(super) fn entry<M: Memory>(
        &mut self,
        space: &Space<'_, M>,
        streamid: u32,
    ) -> Result<(PhysAddr, bool), Error> {
        if !self.two_level {
            return Ok((PhysAddr(self.base.0 + STE_SIZE * u64::from(streamid)), false));
        }
        let (number, index) = (streamid >> SPLIT, streamid & ((1 << SPLIT) - 1));
        let (table, made) = match self.second.get(&number) {
            Some(table) => (*table, false),
            None => {
                let table = space.allocate(block(STE_SIZE << SPLIT)).ok_or(Error::OutOfMemory)?;
                let descriptor = L1Std::new().with_span(SPLIT + 1).with_l2ptr(table.0 >> 6);
                let at = PhysAddr(self.base.0 + L1STD_SIZE * u64::from(number));
                store(space, at, descriptor.into_bits());
                self.second.insert(number, table);
                (table, true)
            }
        };
        Ok((PhysAddr(table.0 + STE_SIZE * u64::from(index)), made))
    }
}

/// A change of a descriptor's table, to be made known in one store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Exchange {
    /// The whole table, or the one descriptor, is elsewhere now: the stream's entry is to say so. With what is to be freed after.
    Table(Option<PhysAddr>),
    /// A second-level table is elsewhere: the first-level descriptor at this address, and what it is to say.
    Leaf {
        /// Of the first-level descriptor.
        at: PhysAddr,
        /// The first-level descriptor.
        descriptor: u64,
        /// The table that is not used any more.
        former: PhysAddr,
    },
}

/// A stream's context descriptors.
#[derive(Clone, Copy, Debug)]
pub(super) struct Descriptors {
    base: PhysAddr,
    /// log2 of the descriptors.
    bits: u8,
    two_level: bool,
    /// Where there is only one: which place of the block it is in.
    place: u64,
}

impl Descriptors {
    /// Descriptors for so many bits of PASID, all invalid.
    pub(super) fn allocate<M: Memory>(
        space: &Space<'_, M>,
        bits: u8,
        two_level_supported: bool,
    ) -> Option<Self> {
        let two_level = bits > LEAF_BITS && two_level_supported;
        let this = Self { base: PhysAddr(0), bits, two_level, place: 0 };
        Some(Self { base: space.allocate(this.block())?, ..this })
    }

    /// log2 of its block: the table, the first level of two, or a page in which one descriptor moves about.
    pub(super) fn block(&self) -> u8 {
        block(if self.two_level { L1CD_SIZE << (self.bits - LEAF_BITS) } else { CD_SIZE << self.bits })
    }

    /// Gives all memory back. The unit does not read it any more.
    pub(super) fn free<M: Memory>(&self, space: &Space<'_, M>) {
        if self.two_level {
            for number in 0..1u64 << (self.bits - LEAF_BITS) {
                let descriptor = L1Cd::from_bits(load(space, PhysAddr(self.base.0 + L1CD_SIZE * number)));
                if descriptor.v() {
                    space.free(PhysAddr(descriptor.table()), PAGE_LOG2);
                }
            }
        }
        space.free(self.base, self.block());
    }

    /// Gives a block back that an [`Exchange`] left.
    pub(super) fn free_former<M: Memory>(&self, space: &Space<'_, M>, former: PhysAddr, leaf: bool) {
        space.free(former, if leaf { PAGE_LOG2 } else { self.block() });
    }

    /// As the stream's entry says it.
    pub(super) const fn table(&self) -> DescriptorTable {
        let base = PhysAddr(self.base.0 + CD_SIZE * self.place);
        let layout = if self.two_level { DescriptorLayout::TwoLevel4K } else { DescriptorLayout::Linear };
        DescriptorTable { base: base.0, bits: self.bits, layout }
    }

    /// The address of a PASID's descriptor, with the table made if it is not there; and whether it was made.
    pub(super) fn entry<M: Memory>(
        &self,
        space: &Space<'_, M>,
        pasid: Option<Pasid>,
    ) -> Result<(PhysAddr, bool), Error> {
        let number = pasid.map_or(0, Pasid::value);
        if let Some(pasid) = pasid.filter(|pasid| pasid.value() >> self.bits != 0) {
            return Err(Error::PasidOutOfReach(pasid));
        }
        if !self.two_level {
            return Ok((PhysAddr(self.table().base + CD_SIZE * u64::from(number)), false));
        }
        let at = PhysAddr(self.base.0 + L1CD_SIZE * u64::from(number >> LEAF_BITS));
        let descriptor = L1Cd::from_bits(load(space, at));
        let (table, made) = if descriptor.v() {
            (PhysAddr(descriptor.table()), false)
        } else {
            let table = space.allocate(PAGE_LOG2).ok_or(Error::OutOfMemory)?;
            store(space, at, L1Cd::new().with_v(true).with_l2ptr(table.0 >> 12).into_bits());
            (table, true)
        };
        let index = u64::from(number & ((1 << LEAF_BITS) - 1));
        Ok((PhysAddr(table.0 + CD_SIZE * index), made))
    }

    /// Puts a descriptor where the unit does not reach, beside copies of all that share its table. Nothing refers to it before the
    /// exchange that is returned is made.
    pub(super) fn move_entry<M: Memory>(
        &mut self,
        space: &Space<'_, M>,
        pasid: Option<Pasid>,
        words: &[u64; 8],
    ) -> Result<Exchange, Error> {
        let (old, _) = self.entry(space, pasid)?;
        if self.bits == 0 {
            // 5.2, S1ContextPtr: aligned to one descriptor.
            self.place ^= 1;
            store_entry(space, PhysAddr(self.table().base), words);
            return Ok(Exchange::Table(None));
        }
        let (former, size) = match self.two_level {
            true => (PhysAddr(old.0 & !((1 << PAGE_LOG2) - 1)), PAGE_LOG2),
            false => (self.base, self.block()),
        };
        let copy = space.allocate(size).ok_or(Error::OutOfMemory)?;
        for offset in (0..1u64 << size).step_by(8) {
            let word = load(space, PhysAddr(former.0 + offset));
            if word != 0 {
                store(space, PhysAddr(copy.0 + offset), word);
            }
        }
        store_entry(space, PhysAddr(copy.0 + (old.0 - former.0)), words);
        if !self.two_level {
            self.base = copy;
            return Ok(Exchange::Table(Some(former)));
        }
        let number = u64::from(pasid.map_or(0, Pasid::value) >> LEAF_BITS);
        let descriptor = L1Cd::new().with_v(true).with_l2ptr(copy.0 >> 12).into_bits();
        Ok(Exchange::Leaf { at: PhysAddr(self.base.0 + L1CD_SIZE * number), descriptor, former })
    }
}

/// A stream that the driver knows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stream {
    /// Where its entry is.
    pub(super) entry: PhysAddr,
    /// Its context descriptors, where it ever had use for any.
    pub(super) descriptors: Option<Descriptors>,
    /// PASID bits.
    pub(super) pasid_bits: u8,
    /// What transactions without PASID come to.
    pub(super) context: Context,
    /// PASIDs whose descriptors say something.
    pub(super) pasids: u32,
}

impl Stream {
    /// The stream's descriptors, made if they are not there.
    pub(super) fn descriptors<M: Memory>(
        &mut self,
        space: &Space<'_, M>,
        two_level_supported: bool,
    ) -> Result<Descriptors, Error> {
        if let Some(descriptors) = self.descriptors {
            return Ok(descriptors);
        }
        let made = Descriptors::allocate(space, self.pasid_bits, two_level_supported);
        let made = made.ok_or(Error::OutOfMemory)?;
        self.descriptors = Some(made);
        Ok(made)
    }

    /// That the stream can be attached by PASID.
    pub(super) fn check_pasid(&self, pasid: Pasid) -> Result<(), Error> {
        // 5.2, S1DSS: descriptor 0 is that of transactions without substream; substream 0 is refused then.
        match self.pasid_bits {
            0 => Err(Error::Unsupported(Feature::Pasid)),
            _ if pasid.value() == 0 => Err(Error::PasidOutOfReach(pasid)),
            _ => Ok(()),
        }
    }
}
