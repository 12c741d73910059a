//! What a context is in bits, and what must be invalidated where an entry changes.

use alloc::vec::Vec;

use portcullis_spec::vtd::context::{
    ContextEntry, ContextEntryHigh, ContextEntryLow, TranslationType, address_width,
};
use portcullis_spec::vtd::invalidation::{
    ContextCacheScope, InvalidationDescriptor, IotlbScope, PasidCacheScope,
};
use portcullis_spec::vtd::pasid::{Fspm, PasidEntry, PasidEntry0, PasidEntry1, PasidEntry2, Pgtt};
use portcullis_spec::{
    Context, FirstStage, Ipa, PagingFormat, Pasid, PhysAddr, Stage, StageNumber, StageRules, Tags,
};

use super::Vtd;
use super::queue::FENCE;
use crate::error::{Error, Feature};
use crate::platform::{Mmio, Platform};

impl<M: Mmio, P: Platform> Vtd<M, P> {
    /// The address width, root pointer and domain ID of a second stage.
    fn second_stage(stage: &Stage<PhysAddr>) -> Result<(u8, u64), Error> {
        let unsupported = Error::Unsupported(Feature::Format(stage.format));
        let PagingFormat::VtdSecondStage { levels } = stage.format else { return Err(unsupported) };
        Ok((address_width(levels).ok_or(unsupported)?, stage.root.0 >> 12))
    }

    /// 9.3: the legacy context entry for a context that isn't blocked.
    pub(super) fn context_entry(&self, context: &Context) -> Result<ContextEntry, Error> {
        let low = ContextEntryLow::new().with_p(true);
        match context {
            Context::Bypass { tags, .. } if self.features.identity => Ok(ContextEntry {
                low: low.with_tt(TranslationType::PassThrough),
                // 9.3, AW: with pass-through it must be the largest that the unit supports.
                high: ContextEntryHigh::new().with_did(did(*tags)).with_aw(self.largest_width()),
            }),
            Context::OneStage { tags, stage, number: StageNumber::Second } => {
                let (aw, ssptptr) = Self::second_stage(stage)?;
                Ok(ContextEntry {
                    low: low.with_tt(TranslationType::Untranslated).with_ssptptr(ssptptr),
                    high: ContextEntryHigh::new().with_did(did(*tags)).with_aw(aw),
                })
            }
            Context::Bypass { .. } => Err(Error::Unsupported(Feature::Identity)),
            Context::OneStage { stage, .. } => Err(Error::Unsupported(Feature::Format(stage.format))),
            _ => Err(Error::Unsupported(Feature::Nested)),
        }
    }

    /// The AW of the deepest second-stage tables that the unit supports.
    fn largest_width(&self) -> u8 {
        [5, 4, 3]
            .into_iter()
            .find(|levels| self.capabilities.cap.supports_levels(*levels))
            .and_then(address_width)
            .unwrap_or(0)
    }

    /// 9.6: the PASID table entry for a context that isn't blocked.
    pub(super) fn pasid_entry(&self, context: &Context) -> Result<PasidEntry, Error> {
        let ecap = self.capabilities.ecap;
        let word0 = PasidEntry0::new().with_p(true);
        let word1 = PasidEntry1::new().with_pwsnp(ecap.smpwcs());
        Ok(match context {
            Context::Bypass { tags, .. } if self.features.identity => PasidEntry {
                word0: word0.with_pgtt(Pgtt::PassThrough).with_aw(self.largest_width()),
                word1: word1.with_did(did(*tags)),
                ..PasidEntry::default()
            },
            Context::OneStage { tags, stage, number: StageNumber::Second } => {
                let (aw, ssptptr) = Self::second_stage(stage)?;
                let ssade = ecap.ssads() && stage.rules.contains(StageRules::SET_DIRTY);
                PasidEntry {
                    word0: word0
                        .with_pgtt(Pgtt::SecondStage)
                        .with_aw(aw)
                        .with_ssptptr(ssptptr)
                        .with_ssade(ssade),
                    word1: word1.with_did(did(*tags)),
                    ..PasidEntry::default()
                }
            }
            Context::OneStage { tags, stage, number: StageNumber::First } => PasidEntry {
                // 9.6: AW is not read here. QEMU 10.0.2 takes it for the width of the first stage's addresses.
                word0: word0.with_pgtt(Pgtt::FirstStage).with_aw(self.largest_width()),
                word1: word1.with_did(did(*tags)),
                word2: self.first_stage(stage)?,
                ..PasidEntry::default()
            },
            Context::TwoStages { tags, first: FirstStage::Tables(first), second }
                if !self.features.nested.is_empty() =>
            {
                let (aw, ssptptr) = Self::second_stage(second)?;
                let ssade = ecap.ssads() && second.rules.contains(StageRules::SET_DIRTY);
                PasidEntry {
                    word0: word0.with_pgtt(Pgtt::Nested).with_aw(aw).with_ssptptr(ssptptr).with_ssade(ssade),
                    word1: word1.with_did(did(*tags)),
                    word2: self.first_stage(first)?,
                    ..PasidEntry::default()
                }
            }
            Context::Bypass { .. } => return Err(Error::Unsupported(Feature::Identity)),
            _ => return Err(Error::Unsupported(Feature::Nested)),
        })
    }

    /// Bits 191:128 of the PASID table entry: the first stage and its rules.
    fn first_stage<A: FirstStageRoot>(&self, stage: &Stage<A>) -> Result<PasidEntry2, Error> {
        let unsupported = Error::Unsupported(Feature::Format(stage.format));
        let fspm = match stage.format {
            PagingFormat::X86 { levels: 4 } => Fspm::Level4,
            PagingFormat::X86 { levels: 5 } if self.capabilities.cap.fs5lp() => Fspm::Level5,
            _ => return Err(unsupported),
        };
        let ecap = self.capabilities.ecap;
        let rules = stage.rules;
        let privileged = rules.contains(StageRules::PRIVILEGED_ALLOWED);
        let write_protect = rules.contains(StageRules::WRITE_PROTECT);
        let extended = rules.contains(StageRules::SET_EXTENDED_ACCESSED);
        if ((privileged || write_protect) && !ecap.srs()) || (extended && !ecap.eafs()) {
            return Err(unsupported);
        }
        Ok(PasidEntry2::new()
            .with_fspm(fspm)
            .with_sre(privileged)
            .with_wpe(write_protect)
            .with_eafe(extended)
            .with_fsptptr(stage.root.number() >> 12))
    }

    /// 6.5.3.3 (guidance to software), a context entry that was present: its cached copy, and then everything that was
    /// translated under its domain ID. Of one that was not present, the copy that FPD is in, with caching mode.
    pub(super) fn forget_context(&self, sid: u16, former: &Context) -> Vec<InvalidationDescriptor> {
        let device =
            |did| InvalidationDescriptor::ContextCache(ContextCacheScope::Device { did, sid, fm: 0 });
        match tags_of(former) {
            Some(tags) => {
                let did = did(tags);
                alloc::vec![device(did), FENCE, self.iotlb(IotlbScope::Domain { did })]
            }
            None if self.capabilities.cap.cm() => alloc::vec![device(0)],
            None => Vec::new(),
        }
    }

    /// 6.1: a context entry that was not present may be cached only with caching mode, under domain ID 0 (6.2.2.1).
    pub(super) fn notice_context(&self, sid: u16, context: &Context) -> Vec<InvalidationDescriptor> {
        match tags_of(context) {
            Some(tags) if self.capabilities.cap.cm() => alloc::vec![
                InvalidationDescriptor::ContextCache(ContextCacheScope::Device { did: 0, sid, fm: 0 }),
                FENCE,
                self.iotlb(IotlbScope::Domain { did: did(tags) }),
            ],
            _ => Vec::new(),
        }
    }

    /// 6.5.3.3, a PASID table entry that was present: its cached copy, and then what was translated through it. First
    /// stages and pass-through are tagged by domain ID and PASID, second stages by domain ID.
    pub(super) fn forget_pasid(&self, pasid: Pasid, former: &Context) -> Vec<InvalidationDescriptor> {
        let Some(tags) = tags_of(former) else {
            return match self.capabilities.cap.cm() {
                true => alloc::vec![InvalidationDescriptor::PasidCache(PasidCacheScope::Pasid {
                    did: 0,
                    pasid: pasid.value(),
                })],
                false => Vec::new(),
            };
        };
        self.pasid_and_translations(pasid, former, did(tags))
    }

    /// 6.1, as [`Self::notice_context`].
    pub(super) fn notice_pasid(&self, pasid: Pasid, context: &Context) -> Vec<InvalidationDescriptor> {
        match tags_of(context) {
            Some(tags) if self.capabilities.cap.cm() => {
                let mut list = self.pasid_and_translations(pasid, context, did(tags));
                let scope = PasidCacheScope::Pasid { did: 0, pasid: pasid.value() };
                list.insert(0, InvalidationDescriptor::PasidCache(scope));
                list
            }
            _ => Vec::new(),
        }
    }

    fn pasid_and_translations(
        &self,
        pasid: Pasid,
        context: &Context,
        did: u16,
    ) -> Vec<InvalidationDescriptor> {
        let pasid = pasid.value();
        let translations = match context {
            Context::Bypass { .. } | Context::OneStage { number: StageNumber::First, .. } => {
                InvalidationDescriptor::PasidIotlb { did, pasid, pages: None }
            }
            _ => self.iotlb(IotlbScope::Domain { did }),
        };
        let entry = InvalidationDescriptor::PasidCache(PasidCacheScope::Pasid { did, pasid });
        alloc::vec![entry, FENCE, translations]
    }
}

/// Where the root of a first stage lies: for a nested one, an address of the guest's.
trait FirstStageRoot {
    fn number(&self) -> u64;
}

impl FirstStageRoot for PhysAddr {
    fn number(&self) -> u64 {
        self.0
    }
}

impl FirstStageRoot for Ipa {
    fn number(&self) -> u64 {
        self.0
    }
}

/// The tags of a context that isn't blocked.
const fn tags_of(context: &Context) -> Option<Tags> {
    match context {
        Context::Blocked(_) => None,
        Context::Bypass { tags, .. } | Context::OneStage { tags, .. } | Context::TwoStages { tags, .. } => {
            Some(*tags)
        }
    }
}

/// The domain ID. Tags come from the features' range, which is at most 16 bits.
const fn did(tags: Tags) -> u16 {
    tags.domain.0 as u16
}
