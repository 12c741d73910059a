//! The invalidation queue (VT-d 6.5.2, 11.4.9), and what its descriptors and the register commands come to.

use std::sync::atomic::Ordering;

use portcullis_spec::vtd::invalidation::{
    ContextCacheScope, DescriptorError, InvalidationDescriptor, IotlbScope, Pages, PasidCacheScope,
};
use portcullis_spec::vtd::registers::{
    Cap, Ccmd, CcmdGranularity, Ecap, Gsts, Iotlb, IotlbGranularity, Iqa, Iqei, Iva, Rtaddr, Ttm, offset,
};
use portcullis_spec::{
    ContextScope, DomainTag, InterruptScope, Invalidation, Iova, Pasid, PciAddress, PhysAddr, SpaceTag,
    StageNumber, TranslationScope,
};

use super::VtdUnit;
use super::registers::Control;
use crate::memory::load_words;
use crate::ring::{BadOffset, Ring};
use crate::state::locked;

/// The registers of the queue; its head is beside them ([`super::Vtd::queue_head`]).
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct Queue {
    /// GSTS.QIES, as the queue sees it.
    pub(super) enabled: bool,
    /// IQA_REG.
    pub(super) address: u64,
    /// IQT_REG.
    pub(super) tail: u64,
}

/// IQT_REG: new descriptors.
pub(super) fn write_tail(unit: &VtdUnit, offset: u64, value: u32) {
    // The upper half is reserved.
    if offset != offset::IQT {
        return;
    }
    let mut queue = locked(&unit.model().queue);
    queue.tail = u64::from(value) & 0x7_fff0;
    run(unit, &mut queue);
}

/// IQA_REG: fixed while the queue is enabled.
pub(super) fn write_address(unit: &VtdUnit, offset: u64, value: u32) {
    let mut queue = locked(&unit.model().queue);
    if queue.enabled {
        return;
    }
    let shift = if offset == offset::IQA { 0 } else { 32 };
    let address = queue.address & !(0xffff_ffff << shift) | u64::from(value) << shift;
    queue.address = address & !0x7f8;
    let ecap = unit.model().ecap();
    if offset == offset::IQA && Iqa::from_bits(queue.address).dw() && !ecap.smts() && !ecap.adms() {
        drop(queue);
        stop(unit, Iqei::InvalidWidth);
    }
}

/// GCMD.QIE changes (VT-d 11.4.4.1). What was queued before is done: descriptors are done when they are submitted.
pub(super) fn enable(unit: &VtdUnit, control: &Control, enable: bool) {
    let mut queue = locked(&unit.model().queue);
    debug_assert_eq!(Gsts::from_bits(control.status).qies(), enable);
    queue.enabled = enable;
    unit.model().queue_head.store(0, Ordering::Release);
    if enable {
        run(unit, &mut queue);
    }
}

/// Software cleared the error that had stopped the queue.
pub(super) fn resume(unit: &VtdUnit) {
    let mut queue = locked(&unit.model().queue);
    run(unit, &mut queue);
}

fn stop(unit: &VtdUnit, iqei: Iqei) {
    let message = locked(&unit.model().events).queue_error(iqei);
    unit.model().send(message);
}

/// Does all descriptors from head to tail, or up to the first that is wrong: then head stays on it, and the queue stops
/// until software clears FSTS.IQE.
fn run(unit: &VtdUnit, queue: &mut Queue) {
    if !queue.enabled || locked(&unit.model().events).queue_stopped() {
        return;
    }
    let mut undrained = false;
    let done = run_until_error(unit, queue, &mut undrained);
    // What follows the last wait is drained too: nobody asked, and nobody has to.
    if undrained {
        unit.engine.drain();
    }
    if let Err(iqei) = done {
        stop(unit, iqei);
    }
}

/// `undrained` becomes whether something was done after the last wait.
fn run_until_error(unit: &VtdUnit, queue: &Queue, undrained: &mut bool) -> Result<(), Iqei> {
    let vtd = unit.model();
    let iqa = Iqa::from_bits(queue.address);
    let ttm = Rtaddr::from_bits(vtd.rtaddr.load(Ordering::SeqCst)).ttm();
    check_width(unit, iqa, ttm)?;
    let ring = Ring {
        base: PhysAddr(iqa.queue()),
        size_shift: 12 + iqa.qs(),
        entry_shift: if iqa.dw() { 5 } else { 4 },
    };
    let offset = |bytes| {
        ring.offset(bytes).map_err(|bad| match bad {
            BadOffset::BeyondRing => Iqei::InvalidTail,
            BadOffset::Misaligned => Iqei::TailMisaligned,
        })
    };
    let tail = offset(queue.tail)?;
    let mut head = offset(vtd.queue_head.load(Ordering::Acquire))?;
    for _ in 0..ring.distance(head, tail) {
        let words = fetch(unit, ring.entry(head), iqa.dw()).ok_or(Iqei::DescriptorFetch)?;
        let descriptor = InvalidationDescriptor::decode(&words).map_err(DescriptorError::iqei)?;
        execute(unit, ttm, &descriptor)?;
        *undrained = !matches!(descriptor, InvalidationDescriptor::Wait { .. });
        head = ring.next(head);
        vtd.queue_head.store(head.bytes(), Ordering::Release);
    }
    Ok(())
}

/// VT-d 6.5.2: 128-bit descriptors are for legacy mode, 256-bit ones for hardware with scalable or abort-DMA mode.
fn check_width(unit: &VtdUnit, iqa: Iqa, ttm: Ttm) -> Result<(), Iqei> {
    let ecap = unit.model().ecap();
    let wide = ecap.smts() || ecap.adms();
    match ttm {
        Ttm::Legacy => {}
        Ttm::Scalable if ecap.smts() => {}
        Ttm::AbortDma if ecap.adms() => {}
        _ => return Err(Iqei::InvalidTtm),
    }
    if (iqa.dw() && !wide) || (!iqa.dw() && ttm != Ttm::Legacy) {
        return Err(Iqei::InvalidWidth);
    }
    Ok(())
}

fn fetch(unit: &VtdUnit, at: PhysAddr, wide: bool) -> Option<[u64; 4]> {
    let memory = unit.engine.memory();
    if wide {
        load_words(memory, at).ok()
    } else {
        let [low, high] = load_words(memory, at).ok()?;
        Some([low, high, 0, 0])
    }
}

/// Does one descriptor.
fn execute(unit: &VtdUnit, ttm: Ttm, descriptor: &InvalidationDescriptor) -> Result<(), Iqei> {
    let vtd = unit.model();
    let legacy = ttm == Ttm::Legacy;
    match *descriptor {
        InvalidationDescriptor::Wait { interrupt, sw, pd, stdata, staddr, .. } => {
            if pd && !vtd.ecap().pds() {
                return Err(Iqei::ReservedField);
            }
            unit.engine.drain();
            if sw {
                // A status address that is not memory is software's loss: nothing is reported (VT-d 6.5.2.8).
                let _ = unit.engine.memory().store32(PhysAddr(staddr), stdata);
            }
            if interrupt {
                let message = locked(&vtd.events).complete();
                vtd.send(message);
            }
            Ok(())
        }
        InvalidationDescriptor::ContextCache(scope) => {
            let segment = vtd.config.segment;
            unit.engine.invalidate(&Invalidation::Contexts(contexts(segment, legacy, scope)));
            Ok(())
        }
        InvalidationDescriptor::Iotlb { scope, .. } => {
            let scope = translations(vtd.cap(), scope).ok_or(Iqei::ReservedField)?;
            unit.engine.invalidate(&Invalidation::Translations(scope));
            Ok(())
        }
        InvalidationDescriptor::PasidIotlb { did, pasid, pages } if !legacy => {
            let scope = TranslationScope {
                domain: Some(DomainTag(did.into())),
                space: Some(SpaceTag(pasid)),
                range: pages.map(range),
                leaf_only: pages.is_some_and(|pages| pages.ih),
                ..TranslationScope::default()
            };
            unit.engine.invalidate(&Invalidation::Translations(scope));
            Ok(())
        }
        InvalidationDescriptor::PasidCache(scope) if !legacy => {
            let scope = match scope {
                PasidCacheScope::Global => ContextScope::All,
                PasidCacheScope::Domain { did } => ContextScope::DomainPasid(DomainTag(did.into()), None),
                PasidCacheScope::Pasid { did, pasid } => {
                    ContextScope::DomainPasid(DomainTag(did.into()), Pasid::new(pasid))
                }
            };
            unit.engine.invalidate(&Invalidation::Contexts(scope));
            Ok(())
        }
        InvalidationDescriptor::InterruptEntryCache { index } if vtd.ecap().ir() => {
            unit.engine.invalidate(&Invalidation::Interrupts(interrupts(vtd.ecap(), index)));
            Ok(())
        }
        // What belongs to features that the unit does not have: PASIDs in legacy mode, device-TLBs, page requests.
        InvalidationDescriptor::PasidIotlb { .. }
        | InvalidationDescriptor::PasidCache(_)
        | InvalidationDescriptor::DeviceTlb { .. }
        | InvalidationDescriptor::PasidDeviceTlb { .. }
        | InvalidationDescriptor::InterruptEntryCache { .. }
        | InvalidationDescriptor::PageGroupResponse { .. } => Err(Iqei::InvalidType),
    }
}

/// Of more entries than ECAP.MHMV admits, all are meant (VT-d 6.5.2.7).
fn interrupts(ecap: Ecap, index: Option<(u16, u8)>) -> InterruptScope {
    match index {
        Some((index, mask)) if mask <= ecap.mhmv() => {
            let low = (1 << mask) - 1;
            let index = u32::from(index);
            InterruptScope::Range { first: index & !low, last: index | low }
        }
        _ => InterruptScope::All,
    }
}

fn range(pages: Pages) -> (Iova, Iova) {
    let (first, last) = pages.range();
    (Iova(first), Iova(last))
}

/// Which requesters' functions a function mask makes no difference of (VT-d 6.5.2.1, FM).
const fn function_mask(fm: u8) -> u32 {
    [0b000, 0b100, 0b110, 0b111][(fm & 3) as usize]
}

/// Scalable-mode context entries carry no domain, so a domain's invalidation is everyone's (VT-d 6.5.2.1).
fn contexts(segment: u16, legacy: bool, scope: ContextCacheScope) -> ContextScope {
    match scope {
        ContextCacheScope::Global => ContextScope::All,
        ContextCacheScope::Domain { did } if legacy => ContextScope::Domain(DomainTag(did.into())),
        ContextCacheScope::Domain { .. } => ContextScope::All,
        ContextCacheScope::Device { sid, fm, .. } => ContextScope::Requester {
            requester: PciAddress { segment, requester_id: sid }.into(),
            mask: function_mask(fm),
        },
    }
}

/// `None` where the address mask is larger than CAP.MAMV. Without CAP.PSI, pages are their whole domain.
fn translations(cap: Cap, scope: IotlbScope) -> Option<TranslationScope> {
    let everything = TranslationScope::default();
    Some(match scope {
        IotlbScope::Global => everything,
        IotlbScope::Domain { did } => TranslationScope { domain: Some(DomainTag(did.into())), ..everything },
        IotlbScope::Pages { did, .. } if !cap.psi() => {
            TranslationScope { domain: Some(DomainTag(did.into())), ..everything }
        }
        IotlbScope::Pages { did, pages } => {
            if pages.am > cap.mamv() {
                return None;
            }
            TranslationScope {
                stage: Some(StageNumber::Second),
                domain: Some(DomainTag(did.into())),
                range: Some(range(pages)),
                leaf_only: pages.ih,
                ..everything
            }
        }
    })
}

/// What CCMD_REG asks for, or `None` where it asks for nothing that exists.
pub(super) fn context_command(segment: u16, ccmd: Ccmd) -> Option<ContextScope> {
    let (did, sid, fm) = (ccmd.did(), ccmd.sid(), ccmd.fm());
    let scope = match ccmd.cirg() {
        CcmdGranularity::Reserved => return None,
        CcmdGranularity::Global => ContextCacheScope::Global,
        CcmdGranularity::Domain => ContextCacheScope::Domain { did },
        CcmdGranularity::Device => ContextCacheScope::Device { did, sid, fm },
    };
    Some(contexts(segment, true, scope))
}

/// What IOTLB_REG asks for and how much of it is done, or `None` where it asks for nothing that exists.
pub(super) fn iotlb_command(
    cap: Cap,
    iotlb: Iotlb,
    iva: Iva,
) -> Option<(TranslationScope, IotlbGranularity)> {
    let did = iotlb.did();
    let pages = Pages { addr: iva.addr() << 12, am: iva.am(), ih: iva.ih() };
    let (scope, actual) = match iotlb.iirg() {
        IotlbGranularity::Reserved => return None,
        IotlbGranularity::Global => (IotlbScope::Global, IotlbGranularity::Global),
        IotlbGranularity::Domain => (IotlbScope::Domain { did }, IotlbGranularity::Domain),
        IotlbGranularity::Page if cap.psi() => (IotlbScope::Pages { did, pages }, IotlbGranularity::Page),
        IotlbGranularity::Page => (IotlbScope::Domain { did }, IotlbGranularity::Domain),
    };
    Some((translations(cap, scope)?, actual))
}
