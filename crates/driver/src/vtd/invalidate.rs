//! What must be forgotten, as descriptors or register commands.

use alloc::vec::Vec;

use portcullis_spec::vtd::invalidation::{
    ContextCacheScope, InvalidationDescriptor, IotlbScope, Pages, PasidCacheScope,
};
use portcullis_spec::{ContextScope, InterruptScope, Invalidation, Iova, StageNumber, TranslationScope};

use super::queue::FENCE;
use super::{Mode, Vtd};
use crate::error::UnitError;
use crate::platform::{Mmio, Platform};

/// The smallest block of pages that holds a range and is aligned to its size: its first address, and log2 of its pages.
fn block(first: Iova, last: Iova) -> (u64, u8) {
    let differing = (first.0 ^ last.0) >> 12;
    let order = (u64::BITS - differing.leading_zeros()) as u8;
    let low = if order + 12 >= 64 { u64::MAX } else { (1u64 << (order + 12)) - 1 };
    (first.0 & !low, order)
}

impl<M: Mmio, P: Platform> Vtd<M, P> {
    /// IOTLB invalidations drain what is in flight, where the unit can (6.5.5).
    pub(super) const fn iotlb(&self, scope: IotlbScope) -> InvalidationDescriptor {
        let cap = self.capabilities.cap;
        InvalidationDescriptor::Iotlb { scope, dw: cap.dwd(), dr: cap.drd() }
    }

    fn interrupt_entries(&self, scope: InterruptScope) -> InvalidationDescriptor {
        let mask = self.capabilities.ecap.mhmv();
        let index = match scope {
            InterruptScope::Range { first, last } if last <= 0xffff && first <= last => {
                let order = (u32::BITS - (first ^ last).leading_zeros()) as u8;
                (order <= mask).then_some(((first >> order << order) as u16, order))
            }
            _ => None,
        };
        InvalidationDescriptor::InterruptEntryCache { index }
    }

    /// The descriptors that forget at least this. Where VT-d has no way to name it, they forget more.
    pub(super) fn descriptors(&self, what: &[Invalidation]) -> Vec<InvalidationDescriptor> {
        let mut list = Vec::with_capacity(what.len());
        for invalidation in what {
            match invalidation {
                Invalidation::Everything => list.extend(self.everything()),
                Invalidation::Contexts(scope) => self.contexts(*scope, &mut list),
                Invalidation::Translations(scope) => list.push(self.translations(scope)),
                Invalidation::Interrupts(scope) => list.push(self.interrupt_entries(*scope)),
            }
        }
        list
    }

    /// 6.6: in this order, each done before the next.
    fn everything(&self) -> Vec<InvalidationDescriptor> {
        let mut list = alloc::vec![InvalidationDescriptor::ContextCache(ContextCacheScope::Global), FENCE];
        if self.mode == Mode::Scalable {
            list.extend([InvalidationDescriptor::PasidCache(PasidCacheScope::Global), FENCE]);
        }
        list.push(self.iotlb(IotlbScope::Global));
        if self.interrupts.is_some() {
            list.push(self.interrupt_entries(InterruptScope::All));
        }
        list
    }

    fn contexts(&self, scope: ContextScope, list: &mut Vec<InvalidationDescriptor>) {
        let scalable = self.mode == Mode::Scalable;
        match scope {
            ContextScope::Domain(domain) if !scalable => {
                let did = domain.0 as u16;
                list.push(InvalidationDescriptor::ContextCache(ContextCacheScope::Domain { did }));
            }
            ContextScope::DomainPasid(domain, pasid) if scalable => {
                let did = domain.0 as u16;
                list.push(InvalidationDescriptor::PasidCache(match pasid {
                    Some(pasid) => PasidCacheScope::Pasid { did, pasid: pasid.value() },
                    None => PasidCacheScope::Domain { did },
                }));
            }
            // Entries of a device are invalidated together with their domain ID, which only the one who changes them knows.
            _ => {
                list.push(InvalidationDescriptor::ContextCache(ContextCacheScope::Global));
                if scalable {
                    list.extend([FENCE, InvalidationDescriptor::PasidCache(PasidCacheScope::Global)]);
                }
            }
        }
    }

    fn translations(&self, scope: &TranslationScope) -> InvalidationDescriptor {
        let Some(domain) = scope.domain else { return self.iotlb(IotlbScope::Global) };
        let did = domain.0 as u16;
        let cap = self.capabilities.cap;
        let pages = scope.range.and_then(|(first, last)| {
            let (addr, am) = block(first, last);
            (cap.psi() && am <= cap.mamv()).then_some(Pages { addr, am, ih: scope.leaf_only })
        });
        match (scope.stage, scope.space) {
            // 6.5.2.4: what the first stage had a part in is tagged by domain ID and PASID.
            (Some(StageNumber::First), Some(space)) if self.mode == Mode::Scalable => {
                InvalidationDescriptor::PasidIotlb { did, pasid: space.0, pages }
            }
            _ => self.iotlb(match pages {
                Some(pages) => IotlbScope::Pages { did, pages },
                None => IotlbScope::Domain { did },
            }),
        }
    }

    pub(super) fn invalidate_everything(&self) -> Result<(), UnitError> {
        self.send(&self.everything())
    }

    /// 6.8: only for units that report CAP.RWBF, and only where no invalidation follows, which implies it.
    pub(super) fn flush_write_buffer(&self) -> Result<(), UnitError> {
        if self.capabilities.cap.rwbf() {
            return self.registers.flush_write_buffer(&self.platform);
        }
        Ok(())
    }

    /// Carries descriptors out, by queue or by registers, and waits until the unit has.
    pub(super) fn send(&self, descriptors: &[InvalidationDescriptor]) -> Result<(), UnitError> {
        if let Some(queue) = &self.queue {
            return queue.submit(&self.speech(), &self.platform, descriptors);
        }
        self.flush_write_buffer()?;
        descriptors.iter().try_for_each(|descriptor| match descriptor {
            InvalidationDescriptor::ContextCache(scope) => {
                self.registers.invalidate_contexts(&self.platform, *scope)
            }
            InvalidationDescriptor::Iotlb { scope, dw, dr } => {
                self.registers.invalidate_translations(&self.platform, *scope, (*dw, *dr))
            }
            // Each register command is done before the next. The others exist with the queue only.
            _ => Ok(()),
        })
    }
}
