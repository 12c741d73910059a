//! The command queue (RISC-V IOMMU 3.1), and what its commands come to.

use std::sync::atomic::Ordering;

use portcullis_spec::riscv::Command;
use portcullis_spec::riscv::command::{AddressRange, COMMAND_SIZE, IotinvalHigh};
use portcullis_spec::riscv::device::index_bits;
use portcullis_spec::riscv::registers::{Cqcsr, IommuMode, QueueBase, offset};
use portcullis_spec::{
    ContextScope, DomainTag, Invalidation, Iova, Pasid, PhysAddr, Requester, SpaceTag, StageNumber,
    TranslationScope,
};

use super::events::{QueueError, legal_base};
use super::lookup::HOST;
use super::{Riscv, RiscvUnit};
use crate::memory::load_words;
use crate::registers::put_half;
use crate::ring::Ring;
use crate::state::locked;

/// log2 of a command's bytes.
const COMMAND_SHIFT: u8 = COMMAND_SIZE.trailing_zeros() as u8;

/// The registers of the queue; its head is beside them ([`super::Riscv::command_head`]), and `cqcsr` among the events.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct Queue {
    /// `cqb`.
    pub(super) base: u64,
    /// `cqt`.
    pub(super) tail: u32,
}

impl Queue {
    /// The ring that `cqb` names.
    pub(super) const fn ring(&self) -> Ring {
        let base = QueueBase::from_bits(self.base);
        Ring {
            base: PhysAddr(base.ppn() << 12),
            size_shift: base.log2szm1() + 1 + COMMAND_SHIFT,
            entry_shift: COMMAND_SHIFT,
        }
    }

    /// The bits of an index.
    pub(super) const fn mask(&self) -> u32 {
        ((self.ring().bytes() >> COMMAND_SHIFT) - 1) as u32
    }
}

/// Software writes `cqb` (5.6): fixed while the queue is on, where a write is unspecified.
pub(super) fn write_base(unit: &RiscvUnit, at: u64, value: u32) {
    let riscv = unit.model();
    let mut queue = locked(&riscv.queue);
    if locked(&riscv.events).cqcsr().cqon() {
        return;
    }
    put_half(&mut queue.base, at, value);
    queue.base = legal_base(queue.base, riscv.config.queue_entries_log2);
    queue.tail &= queue.mask();
    riscv.command_head.fetch_and(queue.mask(), Ordering::AcqRel);
}

/// Software writes `cqt` (5.8): new commands.
pub(super) fn write_tail(unit: &RiscvUnit, value: u32) {
    let mut queue = locked(&unit.model().queue);
    queue.tail = value & queue.mask();
    run(unit, &queue);
}

/// Software writes `cqcsr` (5.15): the queue goes on or off, or goes on after an error.
pub(super) fn write_control(unit: &RiscvUnit, value: Cqcsr) {
    let riscv = unit.model();
    let queue = locked(&riscv.queue);
    riscv.change(|events| {
        if events.write_cqcsr(value) {
            riscv.command_head.store(0, Ordering::Release);
        }
    });
    run(unit, &queue);
}

/// Goes on where the queue stood.
pub(super) fn resume(unit: &RiscvUnit) {
    let queue = locked(&unit.model().queue);
    run(unit, &queue);
}

/// Does all commands from head to tail, or up to the first that is wrong: then head stays on it, and the queue stops until software
/// clears the error.
fn run(unit: &RiscvUnit, queue: &Queue) {
    let riscv = unit.model();
    if !locked(&riscv.events).takes_commands() {
        return;
    }
    let ring = queue.ring();
    // Both were checked against the ring when they were written.
    let indexes = (ring.index(riscv.command_head.load(Ordering::Acquire)), ring.index(queue.tail));
    let (Ok(mut head), Ok(tail)) = indexes else { return };
    for _ in 0..ring.distance(head, tail) {
        if let Err(error) = fetch(unit, ring.entry(head)).and_then(|words| execute(unit, words)) {
            riscv.change(|events| events.command_error(error));
            return;
        }
        head = ring.next(head);
        riscv.command_head.store(ring.number(head), Ordering::Release);
    }
}

fn fetch(unit: &RiscvUnit, at: PhysAddr) -> Result<[u64; 2], QueueError> {
    let words: [u64; 2] = load_words(unit.memory(), at).map_err(|_| QueueError::Memory)?;
    Ok(if unit.model().fctl().be() { words.map(u64::swap_bytes) } else { words })
}

/// Does one command.
fn execute(unit: &RiscvUnit, words: [u64; 2]) -> Result<(), QueueError> {
    let capabilities = unit.model().capabilities;
    let command = Command::decode(words).map_err(|_| QueueError::Illegal)?;
    let is_inval = matches!(command, Command::IotinvalVma { .. } | Command::IotinvalGvma { .. });
    // Chapter 7: without the capability, bit 73 is reserved, also where AV is 0.
    if is_inval && IotinvalHigh::from_bits(words[1]).s() && !capabilities.s() {
        return Err(QueueError::Illegal);
    }
    match command {
        Command::IotinvalVma { non_leaf, .. } | Command::IotinvalGvma { non_leaf, .. }
            if non_leaf && !capabilities.nl() =>
        {
            Err(QueueError::Illegal)
        }
        Command::IotinvalVma { gscid, pscid, range, non_leaf } => {
            let scope = TranslationScope {
                stage: Some(StageNumber::First),
                domain: Some(gscid.map_or(HOST, |gscid| DomainTag(gscid.into()))),
                space: pscid.map(SpaceTag),
                range: range.map(addresses),
                leaf_only: range.is_some() && !non_leaf,
                keep_global: pscid.is_some(),
            };
            unit.engine.invalidate(&Invalidation::Translations(scope));
            Ok(())
        }
        Command::IotinvalGvma { gscid, range, non_leaf } => {
            let scope = TranslationScope {
                stage: Some(StageNumber::Second),
                domain: gscid.map(|gscid| DomainTag(gscid.into())),
                range: range.map(addresses),
                leaf_only: range.is_some() && !non_leaf,
                ..TranslationScope::default()
            };
            unit.engine.invalidate(&Invalidation::Translations(scope));
            // An address means all of the leaf entry that translates it (Privileged, HFENCE.GVMA), of which nobody knows any more how wide
            // it was: the first stage's tables may lie anywhere in it.
            if scope.range.is_some() && scope.domain.is_some() {
                let nested = TranslationScope { stage: Some(StageNumber::First), range: None, ..scope };
                unit.engine.invalidate(&Invalidation::Translations(nested));
            }
            unit.model().msi_entries.forget(gscid, range.map(addresses));
            Ok(())
        }
        Command::Iofence { write, wsi, .. } => fence(unit, write, wsi),
        Command::IodirInvalDdt { did } => {
            if did.is_some_and(|did| !reaches(unit.model(), did)) {
                return Err(QueueError::Illegal);
            }
            let scope = did.map_or(ContextScope::All, |did| ContextScope::Requester {
                requester: Requester::Device(did),
                mask: 0,
            });
            unit.engine.invalidate(&Invalidation::Contexts(scope));
            Ok(())
        }
        Command::IodirInvalPdt { did, pid } => {
            let bits = match (capabilities.pd20(), capabilities.pd17()) {
                (true, _) => 20,
                (_, true) => 17,
                _ => 8,
            };
            let process = Pasid::new(pid).filter(|_| pid >> bits == 0 && reaches(unit.model(), did));
            let process = process.ok_or(QueueError::Illegal)?;
            let scope = ContextScope::Pasid(Requester::Device(did), process);
            unit.engine.invalidate(&Invalidation::Contexts(scope));
            Ok(())
        }
        // 3.1: defined, but not implemented as `capabilities` says.
        Command::AtsInval { .. } | Command::AtsPrgr { .. } => Err(QueueError::Illegal),
    }
}

/// `IOFENCE.C` (3.1.2): what came before is done, and no device uses any more what was invalidated; its reads and writes are ordered with
/// that, whether PR and PW ask for it or not.
fn fence(unit: &RiscvUnit, write: Option<(u64, u32)>, wsi: bool) -> Result<(), QueueError> {
    let riscv = unit.model();
    let fctl = riscv.fctl();
    if wsi && !fctl.wsi() {
        return Err(QueueError::Illegal);
    }
    unit.engine.drain();
    if let Some((address, data)) = write {
        let data = if fctl.be() { data.swap_bytes() } else { data };
        unit.memory().store32(PhysAddr(address), data).map_err(|_| QueueError::Memory)?;
    }
    if wsi {
        riscv.change(super::events::Events::fence);
    }
    Ok(())
}

/// 3.1.3: whether a device_id is not wider than the directory's mode supports.
fn reaches(unit: &Riscv, device_id: u32) -> bool {
    let levels = IommuMode::decode(unit.ddtp().iommu_mode()).map_or(0, IommuMode::levels);
    let bits: u8 = index_bits(unit.capabilities.msi_flat())[..usize::from(levels)].iter().sum();
    levels == 0 || device_id >> bits == 0
}

/// First and last byte.
fn addresses(range: AddressRange) -> (Iova, Iova) {
    let AddressRange { first, size_log2 } = range;
    if size_log2 >= 64 {
        return (Iova(0), Iova(u64::MAX));
    }
    (Iova(first), Iova(first | ((1 << size_log2) - 1)))
}

/// Whether an offset is one of the queue's own registers but `cqcsr`.
pub(super) const fn is_ours(at: u64) -> bool {
    at >= offset::CQB && at < offset::FQB
}
