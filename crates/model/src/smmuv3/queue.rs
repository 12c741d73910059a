//! The command queue (SMMUv3 4, 6.3.26 to 6.3.28, 7.1), and what its commands come to.

use std::sync::atomic::Ordering;

use portcullis_spec::smmuv3::command::{Command, CommandError, ResumeAction, SyncSignal, TlbiRange};
use portcullis_spec::smmuv3::registers::{CmdqCons, CommandQueueError, Gerror, QueueBase};
use portcullis_spec::{
    ContextScope, DomainTag, Invalidation, Iova, Pasid, PhysAddr, Requester, SpaceTag, StageNumber,
    TranslationScope,
};

use super::Smmuv3Unit;
use super::events::{queue_base, wire};
use super::lookup::EL2;
use super::registers::index_mask;
use crate::engine::{Outcome, Release};
use crate::memory::load_words;
use crate::ring::WrappingRing;
use crate::state::locked;

/// The registers of the queue; CMDQ_CONS is beside them ([`super::Smmuv3::consumer`]).
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct Queue {
    /// CR0.CMDQEN.
    pub(super) enabled: bool,
    /// CMDQ_BASE.
    pub(super) base: u64,
    /// CMDQ_PROD.
    pub(super) producer: u32,
}

/// What a command asks to be told when it has been consumed.
enum Completion {
    Nothing,
    Signal(SyncSignal),
}

/// CMDQ_PROD: new commands.
pub(super) fn write_producer(unit: &Smmuv3Unit, value: u32) {
    let mut queue = locked(&unit.model().queue);
    queue.producer = value & index_mask(queue.base, unit.model().unit.idr1.cmdqs());
    run(unit, &queue);
}

/// CR0.CMDQEN.
pub(super) fn enable(unit: &Smmuv3Unit, enable: bool) {
    let mut queue = locked(&unit.model().queue);
    queue.enabled = enable;
    run(unit, &queue);
}

/// Software acknowledged the error that had stopped the queue.
pub(super) fn resume(unit: &Smmuv3Unit) {
    let queue = locked(&unit.model().queue);
    run(unit, &queue);
}

/// Does all commands up to the producer, or up to the first that is wrong: then the queue stops on it until software
/// acknowledges GERROR.CMDQ_ERR (7.1).
fn run(unit: &Smmuv3Unit, queue: &Queue) {
    let smmu = unit.model();
    if !queue.enabled || locked(&smmu.events).command_queue_stopped() {
        return;
    }
    let mut undrained = false;
    let done = run_until_error(unit, queue, &mut undrained);
    // What follows the last CMD_SYNC is drained too: nobody asked, and nobody has to.
    if undrained {
        unit.engine.drain();
    }
    if let Err(error) = done {
        let consumer = CmdqCons::from_bits(smmu.consumer.load(Ordering::Acquire));
        smmu.consumer.store(consumer.with_err(error as u8).into_bits(), Ordering::Release);
        let signal = locked(&smmu.events).raise(Gerror::new().with_cmdq_err(true));
        smmu.signal(unit.engine.memory(), signal);
    }
}

/// `undrained` becomes whether something was done after the last CMD_SYNC.
fn run_until_error(unit: &Smmuv3Unit, queue: &Queue, undrained: &mut bool) -> Result<(), CommandQueueError> {
    let smmu = unit.model();
    let base = QueueBase::from_bits(queue.base);
    let log2 = base.log2size().min(smmu.unit.idr1.cmdqs());
    let ring = WrappingRing { base: queue_base(base.addr() << 5, log2, 4), log2, entry_shift: 4 };
    let mut consumer = CmdqCons::from_bits(smmu.consumer.load(Ordering::Acquire));
    for _ in 0..ring.distance(queue.producer, consumer.rd()) {
        let at = PhysAddr(ring.entry(consumer.rd()).0 & smmu.address_mask());
        let words = load_words(unit.engine.memory(), at).map_err(|_| CommandQueueError::Abt)?;
        let command =
            Command::decode(words, smmu.unit.idr3.ril()).map_err(|_: CommandError| CommandQueueError::Ill)?;
        let completion = execute(unit, &command)?;
        *undrained = !matches!(command, Command::Sync { .. });
        consumer = consumer.with_rd(ring.next(consumer.rd()));
        smmu.consumer.store(consumer.into_bits(), Ordering::Release);
        // 4.7.3: who sees the signal sees that the command is consumed.
        if let Completion::Signal(signal) = completion {
            complete(unit, signal);
        }
    }
    Ok(())
}

/// A CMD_SYNC's completion signal (4.7.3).
fn complete(unit: &Smmuv3Unit, signal: SyncSignal) {
    let smmu = unit.model();
    match signal {
        SyncSignal::None => {}
        SyncSignal::Sev => {
            if smmu.unit.idr0.sev() {
                smmu.sink.wake();
            }
        }
        SyncSignal::Irq { address, data } => {
            let memory = unit.engine.memory();
            if !smmu.notify(memory, address, data, wire::SYNC) {
                let signal = locked(&smmu.events).raise(Gerror::new().with_msi_cmdq_abt_err(true));
                smmu.signal(memory, signal);
            }
        }
    }
}

const ILLEGAL: Result<Completion, CommandQueueError> = Err(CommandQueueError::Ill);

/// Does one command.
fn execute(unit: &Smmuv3Unit, command: &Command) -> Result<Completion, CommandQueueError> {
    let smmu = unit.model();
    let idr0 = smmu.unit.idr0;
    let stalls = idr0.stall_model() != 1;
    match *command {
        // 4.2: hints, of which the unit makes no use.
        Command::PrefetchConfig { .. } | Command::PrefetchAddr { .. } => {}
        Command::CfgiSte { streamid, .. } => forget_contexts(unit, streams(streamid, 0)),
        Command::CfgiSteRange { streamid, range } => {
            // 4.3.2: 2^(range + 1) streams; all with 31.
            forget_contexts(unit, streams(streamid, u32::MAX >> (31 - u32::from(range & 31))));
        }
        // 4.3.3, 4.3.4: without stage 1 there are no context descriptors.
        Command::CfgiCd { .. } | Command::CfgiCdAll { .. } if !idr0.s1p() => return ILLEGAL,
        Command::CfgiCd { streamid, substreamid, .. } => {
            let stream = Requester::Stream(streamid);
            let scope = match Pasid::new(substreamid) {
                Some(pasid) => ContextScope::Pasid(stream, pasid),
                None => streams(streamid, 0),
            };
            forget_contexts(unit, scope);
        }
        Command::CfgiCdAll { streamid } => forget_contexts(unit, streams(streamid, 0)),
        Command::Sync { signal } => {
            unit.engine.drain();
            return Ok(Completion::Signal(signal));
        }
        // 4.7.1, 4.7.2.
        Command::Resume { .. } | Command::StallTerm { .. } if !stalls => return ILLEGAL,
        Command::Resume { streamid, stag, action } => {
            let release = match action {
                ResumeAction::Retry => Release::Retry,
                ResumeAction::Terminate if !idr0.term_model() => Release::End(Outcome::ZeroAndIgnore),
                ResumeAction::Terminate | ResumeAction::Abort => Release::End(Outcome::Abort),
            };
            smmu.stalls.resume(streamid, stag, release);
        }
        Command::StallTerm { streamid } => smmu.stalls.terminate(streamid),
        // 4.5, 4.6: there is neither ATS nor PRI.
        Command::AtcInv { .. } | Command::PriResp { .. } => return ILLEGAL,
        _ => {
            let Some(scopes) = translations(unit, command) else { return ILLEGAL };
            for scope in scopes.into_iter().flatten() {
                unit.engine.invalidate(&Invalidation::Translations(scope));
            }
        }
    }
    Ok(Completion::Nothing)
}

fn forget_contexts(unit: &Smmuv3Unit, scope: ContextScope) {
    unit.engine.invalidate(&Invalidation::Contexts(scope));
}

const fn streams(streamid: u32, mask: u32) -> ContextScope {
    ContextScope::Requester { requester: Requester::Stream(streamid), mask }
}

/// What a TLB invalidation names (4.4), or `None` where the unit does not have the stage.
fn translations(unit: &Smmuv3Unit, command: &Command) -> Option<[Option<TranslationScope>; 2]> {
    let smmu = unit.model();
    let idr0 = smmu.unit.idr0;
    let (first, second, el2) = (idr0.s1p(), idr0.s2p(), idr0.hyp());
    // 4.4.2: VMIDs count where there is a stage 2.
    let vm = |vmid: u16| Some(DomainTag(if second { vmid.into() } else { 0 }));
    let everything = TranslationScope::default();
    let of_stage = |stage| TranslationScope { stage: Some(stage), ..everything };
    let stage1 = |domain| TranslationScope { domain, ..of_stage(StageNumber::First) };
    let by_space = |domain, asid: u16| TranslationScope {
        space: Some(SpaceTag(asid.into())),
        keep_global: true,
        ..stage1(domain)
    };
    // A global page is cached under the ASID that met it, and must go by any (4.4.2.4): addresses go from all.
    let by_address = |domain, range: TlbiRange| {
        addresses(range).map(|given| {
            given.map(|given| TranslationScope {
                range: Some(given),
                leaf_only: range.leaf,
                ..stage1(domain)
            })
        })
    };
    Some(match *command {
        Command::TlbiNhAll { vmid } if first => [Some(stage1(vm(vmid))), None],
        Command::TlbiNhAsid { vmid, asid } if first => [Some(by_space(vm(vmid), asid)), None],
        Command::TlbiNhVa { vmid, range, .. } | Command::TlbiNhVaa { vmid, range } if first => {
            by_address(vm(vmid), range)
        }
        Command::TlbiEl2All if el2 => [Some(stage1(Some(EL2))), None],
        Command::TlbiEl2Asid { asid } if el2 => [Some(by_space(Some(EL2), asid)), None],
        Command::TlbiEl2Va { range, .. } | Command::TlbiEl2Vaa { range } if el2 => {
            by_address(Some(EL2), range)
        }
        Command::TlbiS12Vmall { vmid } if second => {
            [Some(TranslationScope { domain: vm(vmid), ..everything }), None]
        }
        Command::TlbiS2Ipa { vmid, range } if second => {
            let scope = TranslationScope {
                domain: vm(vmid),
                range: Some(ipas(range)),
                leaf_only: range.leaf,
                ..of_stage(StageNumber::Second)
            };
            [Some(scope), None]
        }
        Command::TlbiNsnhAll => [Some(everything), None],
        _ => return None,
    })
}

fn last(range: TlbiRange, address: u64) -> u64 {
    match range.length {
        Some(length) => address.saturating_add(length.saturating_sub(1)),
        None => address | 0xfff,
    }
}

/// The input addresses of a range; where bits 63:56 are not those of an address whose top byte counts, also as contexts that
/// ignore it cache them (4.4.2: TBI may apply).
fn addresses(range: TlbiRange) -> [Option<(Iova, Iova)>; 2] {
    let given = (Iova(range.address), Iova(last(range, range.address)));
    let address = super::without_top_byte(range.address);
    let other = (address != range.address).then(|| (Iova(address), Iova(last(range, address))));
    [Some(given), other]
}

/// The addresses between the stages of a range: bits 55:12 (4.1.6).
fn ipas(range: TlbiRange) -> (Iova, Iova) {
    let address = range.address & 0x00ff_ffff_ffff_f000;
    (Iova(address), Iova(last(range, address)))
}
