//! Address translation operations (SMMUv3 9, 6.3.37 to 6.3.40).

use portcullis_spec::smmuv3::event::{EventClass, EventNumber};
use portcullis_spec::smmuv3::registers::{
    Cr0, GatosAddr, GatosCtrl, GatosPar, GatosParFault, GatosSid, offset,
};
use portcullis_spec::smmuv3::ste::Config;
use portcullis_spec::{Access, Context, FirstStage, Iova, Ipa, Pasid, StageNumber};

use super::note::Stop;
use super::{Smmuv3Unit, fault, lookup, stream, without_top_byte};
use crate::refusal::Refusal;
use crate::registers::put_half;
use crate::state::locked;
use crate::translate::{self, PageTranslation, Request, Stages};

/// ATOS_PAR.FAULTCODE: a malformed request (9.1.5).
const INV_REQ: u8 = 0xff;
/// ATOS_PAR.FAULTCODE: a stage that is not there.
const INV_STAGE: u8 = 0xfe;

/// Which stages are asked for (9.1.3).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lookup {
    First,
    Second,
    Both,
}

/// A failed operation, as ATOS_PAR reports it.
struct Failure {
    code: u8,
    reason: u8,
    faddr: u64,
}

impl Failure {
    const fn of(code: u8) -> Self {
        Self { code, reason: 0, faddr: 0 }
    }
}

/// Writes a register of the group. An operation is done before the write of RUN returns.
pub(super) fn write(unit: &Smmuv3Unit, at: u64, value: u32) {
    let mut control = locked(&unit.model().control);
    match at {
        // 6.3.37: without translation, nothing runs.
        offset::GATOS_CTRL if GatosCtrl::from_bits(value).run() && Cr0::from_bits(control.cr0).smmuen() => {
            let sid = GatosSid::from_bits(control.gatos_sid);
            let address = GatosAddr::from_bits(control.gatos_addr);
            control.gatos_par = match unit.engine.guarded(|| run(unit, sid, address)) {
                Ok(par) => par.into_bits(),
                Err(Failure { code, reason, faddr }) => GatosParFault::new()
                    .with_fault(true)
                    .with_faultcode(code)
                    .with_reason(reason)
                    .with_faddr(faddr >> 12 & ((1 << 44) - 1))
                    .into_bits(),
            };
        }
        offset::GATOS_SID..=0x10c => {
            put_half(&mut control.gatos_sid, at, value);
            let sid = GatosSid::from_bits(control.gatos_sid);
            control.gatos_sid = GatosSid::new()
                .with_streamid(sid.streamid())
                .with_substreamid(sid.substreamid())
                .with_ssid_valid(sid.ssid_valid())
                .into_bits();
        }
        offset::GATOS_ADDR..=0x114 => {
            put_half(&mut control.gatos_addr, at, value);
            control.gatos_addr &= !0x3f;
        }
        _ => {}
    }
}

fn run(unit: &Smmuv3Unit, sid: GatosSid, asked: GatosAddr) -> Result<GatosPar, Failure> {
    let smmu = unit.model();
    let (memory, idr0) = (unit.engine.memory(), smmu.unit.idr0);
    let kind = match asked.r#type() {
        1 if idr0.s1p() => Lookup::First,
        2 if idr0.s2p() && !sid.ssid_valid() => Lookup::Second,
        3 if idr0.s1p() && idr0.s2p() => Lookup::Both,
        _ => return Err(Failure::of(INV_REQ)),
    };
    let steering = lookup::Steering { passive: asked.httui(), ..smmu.steering() };
    let stopped = |stop: Stop| stop_failure(kind, &stop);
    let ste = lookup::stream_entry(memory, &smmu.unit, steering, sid.streamid()).map_err(stopped)?;
    let (first, second) = stream::stages(ste.q0.config());
    let there = match kind {
        Lookup::First => first,
        Lookup::Second => second,
        Lookup::Both => ste.q0.config() == Config::Nested,
    };
    if !there {
        return Err(Failure::of(INV_STAGE));
    }
    let address = asked.addr() << 12;
    let request = request(asked);
    if kind == Lookup::Second {
        if smmu.unit.is_beyond(address) {
            return Err(Failure::of(EventNumber::FAddrSize.encode()));
        }
        let only = stream::stage2(&smmu.unit, &ste)
            .and_then(|stage| lookup::formatted(&smmu.unit, stage, steering))
            .ok_or(Failure::of(EventNumber::CBadSte.encode()))?;
        let page = translate::one_stage(memory, &only, StageNumber::Second, Ipa(address), request)
            .map_err(|refusal| refusal_failure(kind, &refusal, address))?;
        return Ok(result(&page, address));
    }
    let substream = if sid.ssid_valid() { Pasid::new(sid.substreamid()) } else { None };
    let upper = address >> 55 & 1 != 0;
    let resolved = lookup::lookup(memory, &smmu.unit, steering, sid.streamid(), substream, upper);
    if let Some(stop) = resolved.note.stop {
        return Err(stop_failure(kind, &stop));
    }
    let input = if resolved.note.ignores_top_byte { without_top_byte(address) } else { address };
    let request = Request { privileged: request.privileged && !resolved.note.one_privilege, ..request };
    let page = match stages(unit, &resolved.context, steering) {
        Some(stages) => {
            if resolved.note.bypass_bits.is_some() && smmu.unit.is_beyond(address) {
                return Err(Failure::of(EventNumber::FAddrSize.encode()));
            }
            match (kind, &stages) {
                // 9.1.3: stage 1 is bypassed, by S1DSS.
                (Lookup::First, Stages::One { number: StageNumber::Second, .. }) => unit.bypassed(address),
                (Lookup::First, Stages::Two { first, second }) => {
                    translate::first_of_two(memory, first, second, Iova(input), request)
                        .map_err(|refusal| refusal_failure(kind, &refusal, address))?
                }
                _ => translate::translate(memory, &stages, Iova(input), request)
                    .map_err(|refusal| refusal_failure(kind, &refusal, address))?,
            }
        }
        None if smmu.unit.is_beyond(address) => return Err(Failure::of(EventNumber::FAddrSize.encode())),
        None => unit.bypassed(address),
    };
    Ok(result(&page, input))
}

/// The access that is asked for; 9: PRIVCFG and INSTCFG have no say, and writes are data.
fn request(asked: GatosAddr) -> Request {
    let access = match (asked.rnw(), asked.ind()) {
        (false, _) => Access::WRITE,
        (true, false) => Access::READ,
        (true, true) => Access::EXECUTE,
    };
    Request { access, privileged: asked.pnu(), any: false, table: false }
}

/// The stages of a context; `None` where there are none.
fn stages(unit: &Smmuv3Unit, context: &Context, steering: lookup::Steering) -> Option<Stages> {
    let unit = &unit.model().unit;
    match *context {
        Context::OneStage { stage, number, .. } => {
            Some(Stages::One { only: lookup::formatted(unit, stage, steering)?, number })
        }
        Context::TwoStages { first: FirstStage::Tables(first), second, .. } => Some(Stages::Two {
            first: lookup::formatted(unit, first, steering)?,
            second: lookup::formatted(unit, second, steering)?,
        }),
        _ => None,
    }
}

/// ATOS_PAR of a page (6.3.40). The model's memory is write-back cacheable and inner shareable throughout.
fn result(page: &PageTranslation, input: u64) -> GatosPar {
    let address = page.address(input).0;
    let shift = page.shift.clamp(12, 55);
    let aligned = address >> shift << shift;
    let size = if shift > 12 { 1 << (shift - 1) } else { 0 };
    GatosPar::new()
        .with_attr(0xff)
        .with_sh(3)
        .with_size(shift > 12)
        .with_addr((aligned | size) >> 12 & ((1 << 44) - 1))
}

/// The failure of a look-up, by the table of 9.1.4.
fn stop_failure(kind: Lookup, stop: &Stop) -> Failure {
    // A stream that aborts has no stage.
    let Some(event) = stop.event else { return Failure::of(INV_STAGE) };
    match (kind, stop.stage) {
        // A stage-2 fault of a CD fetch reads as one of the fetch.
        (Lookup::First, Some(StageNumber::Second)) => Failure::of(EventNumber::FCdFetch.encode()),
        (_, Some(StageNumber::Second)) => stage2_failure(event, stop.class, stop.ipa),
        _ => Failure::of(event.encode()),
    }
}

fn stage2_failure(event: EventNumber, class: EventClass, ipa: Option<Ipa>) -> Failure {
    let reason = match class {
        EventClass::Cd => 1,
        EventClass::Ttd => 2,
        EventClass::In | EventClass::Reserved => 3,
    };
    let faddr = if event == EventNumber::FWalkEabt { 0 } else { ipa.map_or(0, |Ipa(ipa)| ipa) };
    Failure { code: event.encode(), reason, faddr }
}

/// The failure of a translation, by the same table.
fn refusal_failure(kind: Lookup, refusal: &Refusal, address: u64) -> Failure {
    let event = fault::event(refusal).unwrap_or(EventNumber::FWalkEabt);
    let class = if refusal.table.is_some() { EventClass::Ttd } else { EventClass::In };
    match (kind, refusal.stage) {
        (Lookup::First, Some(StageNumber::Second)) => Failure::of(EventNumber::FWalkEabt.encode()),
        (Lookup::Second, _) => Failure { reason: 3, ..Failure::of(event.encode()) },
        (_, Some(StageNumber::Second)) => stage2_failure(event, class, refusal.ipa.or(Some(Ipa(address)))),
        _ => Failure::of(event.encode()),
    }
}
