//! Changing a stream table entry or a context descriptor that the unit may be using.
//!
//! The unit reads the eight words of an entry in any order and at any time, may keep any of them until it is told to forget the
//! entry, and sees each word whole (3.21.3). So between one invalidation and the next it may use any mixture of the words that stood
//! there meanwhile. [`Plan`] goes from one entry to another in stretches with an invalidation after each, such that every mixture
//! within a stretch means what the old entry or what the new one means; where that is impossible, it means "invalid" in between.
//!
//! What makes that possible is that no configuration uses all bits: bits that the old entry does not use are filled in first, then the one
//! word in which the two still differ is exchanged, and last the rest is cleared that the new entry does not use.

use portcullis_spec::smmuv3::cd::{Cd, Cd0, Cd1, Cd2};
use portcullis_spec::smmuv3::ste::{Config, Ste, Ste0, Ste1, Ste2};

/// Words of an entry.
pub type Words = [u64; 8];

/// A kind of entry.
pub trait Entry {
    /// The valid bit, in word 0.
    const VALID: u64;

    /// The bits that the unit uses in this configuration: entries that differ only in others mean the same.
    fn used(words: &Words) -> Words;
}

const ALL: u64 = u64::MAX;

/// 5.2, S1DSS: transactions without substream bypass stage 1.
const S1DSS_BYPASS: u8 = 1;

impl Entry for Ste {
    const VALID: u64 = Ste0::new().with_v(true).into_bits();

    /// 5.2. Fields of the overrides count as used in every configuration that lets something pass.
    fn used(words: &Words) -> Words {
        let ste = Self::decode(*words);
        let mut used = [Self::VALID, 0, 0, 0, 0, 0, 0, 0];
        if !ste.q0.v() {
            return used;
        }
        // Every bit of Config is set in this one.
        used[0] |= Ste0::new().with_config(Config::Nested).into_bits();
        let (first, second) = match ste.q0.config() {
            Config::Abort(_) => return used,
            Config::Bypass => (false, false),
            Config::Stage1 => (true, false),
            Config::Stage2 => (false, true),
            Config::Nested => (true, true),
        };
        let substreams = first && ste.q0.s1cdmax() != 0;
        let s1dss_bypass = substreams && ste.q1.s1dss() == S1DSS_BYPASS;
        let overrides = Ste1::new()
            .with_cont(0xf)
            .with_dre(true)
            .with_dcp(true)
            .with_ppar(true)
            .with_mev(true)
            .with_alloccfg(0xf)
            .with_nscfg(3)
            .with_privcfg(3)
            .with_instcfg(3)
            .with_impl_def(0xfff);
        used[1] |= overrides.into_bits();
        if !first || s1dss_bypass {
            used[1] |= Ste1::new().with_memattr(0xf).with_mtcfg(true).with_shcfg(3).into_bits();
        }
        if first {
            used[0] |= Ste0::new().with_s1contextptr((1 << 50) - 1).with_s1cdmax(0x1f).into_bits();
            let fetches = Ste1::new().with_s1cir(3).with_s1cor(3).with_s1csh(3);
            let fetches = fetches.with_s1stalld(true).with_s1mpam(true).with_s1pie(true).with_strw(3);
            used[1] |= fetches.with_eats(3).into_bits();
        }
        if substreams {
            used[0] |= Ste0::new().with_s1fmt(3).into_bits();
            used[1] |= Ste1::new().with_s1dss(3).into_bits();
        }
        if first || second {
            used[2] |= Ste2::new().with_s2vmid(u16::MAX).into_bits();
        }
        if second {
            let stage2 = Ste1::new().with_s2hwu59(true).with_s2hwu60(true).with_s2hwu61(true);
            let stage2 = stage2.with_s2hwu62(true).with_s2fwb(true).with_eats(3);
            used[1] |= stage2.into_bits();
            used[2] = ALL;
            used[3] = ALL;
            used[7] = ALL;
        }
        // MPAM, memory encryption and the VMS; secure stage 2.
        used[4] = ALL;
        used[5] = ALL;
        used[6] = ALL;
        used
    }
}

impl Entry for Cd {
    const VALID: u64 = Cd0::new().with_v(true).into_bits();

    /// 5.4. What belongs to a half of the address space that is not walked is not used.
    fn used(words: &Words) -> Words {
        let cd = Self::decode(*words);
        if !cd.q0.v() {
            return [Self::VALID, 0, 0, 0, 0, 0, 0, 0];
        }
        let mut used = [ALL; 8];
        if cd.q0.epd0() {
            let lower = Cd0::new().with_t0sz(0x3f).with_tg0(3).with_ir0(3).with_or0(3).with_sh0(3);
            used[0] &= !lower.with_tbi0(true).into_bits();
            let base = Cd1::new().with_nscfg0(true).with_had0(true).with_e0pd0(true);
            let base = base.with_ttb0((1 << 52) - 1).with_hwu059(true).with_hwu060(true);
            used[1] &= !base.with_hwu062_061(3).into_bits();
        }
        if cd.q0.epd1() {
            let upper = Cd0::new().with_t1sz(0x3f).with_tg1(3).with_ir1(3).with_or1(3).with_sh1(3);
            used[0] &= !upper.with_tbi1(true).into_bits();
            let base = Cd2::new().with_nscfg1(true).with_had1(true).with_e0pd1(true);
            let base = base.with_ttb1((1 << 52) - 1).with_hwu159(true).with_hwu160(true);
            used[2] &= !base.with_hwu162_161(3).into_bits();
        }
        used
    }
}

/// The way from one entry to another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan {
    /// What the entry holds after each stretch. A stretch changes words in any order, each in one store; after it, if it changes any,
    /// the unit must forget the entry before the next.
    pub stretches: [Words; 3],
    /// The stretch in which the entry ceases to mean what it did.
    pub turn: usize,
    /// Whether the entry is invalid for a while although neither the old nor the new one is.
    pub breaks: bool,
}

impl Plan {
    /// The way from `old`, which the unit may be using, to `new`.
    #[must_use]
    pub fn new<E: Entry>(old: &Words, new: &Words) -> Self {
        let (old_used, new_used) = (E::used(old), E::used(new));
        let filled: Words = core::array::from_fn(|word| {
            let free = new_used[word] & !old_used[word];
            (old[word] & !free) | (new[word] & free)
        });
        let mut differing = (0..8).filter(|word| (filled[*word] ^ new[*word]) & new_used[*word] != 0);
        let (first, second) = (differing.next(), differing.next());
        let (mut filled, mut exchanged) = (filled, filled);
        match (first, second) {
            (None, _) => {}
            (Some(word), None) => {
                filled[word] = old[word];
                exchanged[word] = new[word];
            }
            (Some(_), Some(_)) => {
                let mut broken = *old;
                broken[0] &= !E::VALID;
                let mut complete = *new;
                complete[0] = broken[0];
                return Self { stretches: [broken, complete, *new], turn: 0, breaks: true };
            }
        }
        Self { stretches: [filled, exchanged, *new], turn: 1, breaks: false }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What an entry means: the bits that are used, and their values.
    fn meaning<E: Entry>(words: &Words) -> (Words, Words) {
        let used = E::used(words);
        (used, core::array::from_fn(|word| words[word] & used[word]))
    }

    /// All mixtures of the words of two entries.
    fn mixtures(from: &Words, to: &Words) -> impl Iterator<Item = Words> {
        let (from, to) = (*from, *to);
        let changed: alloc::vec::Vec<usize> = (0..8).filter(|word| from[*word] != to[*word]).collect();
        (0..1u32 << changed.len()).map(move |chosen| {
            let mut mixed = from;
            for (bit, word) in changed.iter().enumerate() {
                if chosen >> bit & 1 != 0 {
                    mixed[*word] = to[*word];
                }
            }
            mixed
        })
    }

    fn judge<E: Entry>(old: Words, new: Words) {
        let plan = Plan::new::<E>(&old, &new);
        let invalid = (E::used(&[0; 8]), [0; 8]);
        let allowed = [meaning::<E>(&old), meaning::<E>(&new), invalid];
        let allowed = &allowed[..if plan.breaks { 3 } else { 2 }];
        let mut before = old;
        for (index, after) in plan.stretches.iter().enumerate() {
            for mixed in mixtures(&before, after) {
                let seen = meaning::<E>(&mixed);
                assert!(allowed.contains(&seen), "{mixed:x?} between {old:x?} and {new:x?}");
                assert!(index >= plan.turn || seen == allowed[0]);
                assert!(index <= plan.turn || plan.breaks || seen == allowed[1]);
            }
            before = *after;
        }
        assert_eq!(before, new);
    }

    fn words() -> impl Strategy<Value = Words> {
        // Few values, so that entries often agree in a word.
        let word = prop_oneof![Just(0), Just(u64::MAX), any::<u64>()];
        (any::<[u64; 8]>(), prop::array::uniform8(word), 0u8..9).prop_map(|(random, few, cut)| {
            core::array::from_fn(|index| if index < usize::from(cut) { random[index] } else { few[index] })
        })
    }

    proptest! {
        #[test]
        fn every_mixture_of_a_stream_table_entry_means_the_old_or_the_new(old in words(), new in words()) {
            judge::<Ste>(old, new);
        }

        #[test]
        fn every_mixture_of_a_context_descriptor_means_the_old_or_the_new(old in words(), new in words()) {
            judge::<Cd>(old, new);
        }

        #[test]
        fn what_blocks_is_stored_first_and_in_one_word(old in words()) {
            for new in [[0; 8], [Ste::VALID, 0, 0, 0, 0, 0, 0, 0]] {
                let plan = Plan::new::<Ste>(&old, &new);
                prop_assert!(!plan.breaks);
                prop_assert_eq!(plan.stretches[0], old);
                prop_assert_eq!(&plan.stretches[1][1..], &old[1..]);
            }
        }
    }
}
