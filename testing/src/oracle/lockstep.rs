//! A program, step by step, on one driven machine after the other and on the shadow.

use super::driven::{Driven, Sight};
use super::program::Step;
use super::shadow::{Expectation, Refusal, Shadow, Why};
use crate::machine::Machine;
use crate::machine::ram::DATA_BYTES;
use portcullis_driver::common::architecture::Architecture;
use portcullis_spec::{Access, Fault, FaultReason, Requester};

/// How a machine may depart from the specification when it refuses.
#[derive(Clone, Copy, Debug)]
pub struct Tolerance {
    /// Refusals that it may leave unrecorded.
    pub unrecorded: fn(&Refusal) -> bool,
    /// Reasons that it may give beside those that [`reason_fits`].
    pub also: fn(FaultReason, Why) -> bool,
    /// Whether it may record a PASID where the request carries none.
    pub invents_pasid: bool,
    /// What else it may record of a refusal.
    pub stands_for: fn(&Fault, &Refusal) -> bool,
}

/// No departure.
pub const EXACT: Tolerance =
    Tolerance { unrecorded: |_| false, also: |_, _| false, invents_pasid: false, stands_for: |_, _| false };

/// Prepare the data that a step moves.
pub fn prepare<M: Machine>(machine: &M, shadow: &Shadow) {
    machine.ram().write(machine.ram().data(), &shadow.memory);
}

/// Let a driven machine do a step and see whether it does what the shadow expects.
///
/// # Errors
/// What is different.
pub fn check<M: Machine, A: Architecture>(
    driven: &Driven<'_, M, A>,
    machine: &M,
    step: &Step,
    expectation: &Expectation,
    shadow: &Shadow,
    tolerance: Tolerance,
) -> Result<Sight, String> {
    let sight = driven.apply(step);
    machine.health()?;
    match (&sight.refused, expectation.accepted) {
        (None, false) => return Err("the driver accepted it".into()),
        (Some(error), true) => return Err(format!("the driver refused it: {error}")),
        _ => {}
    }
    if sight.result != expectation.result {
        return Err(format!("the engine got {:#x} and not {:#x}", sight.result, expectation.result));
    }
    let mut memory = vec![0; DATA_BYTES as usize];
    machine.ram().read(machine.ram().data(), &mut memory);
    if memory != shadow.memory {
        let at = memory.iter().zip(&shadow.memory).position(|(found, wanted)| found != wanted).unwrap_or(0);
        return Err(format!(
            "the byte at data + {at:#x} is {:#04x} and not {:#04x}",
            memory[at], shadow.memory[at]
        ));
    }
    check_faults(&sight, &expectation.refusals, machine.requesters(), tolerance)?;
    Ok(sight)
}

fn check_faults(
    sight: &Sight,
    refusals: &[Refusal],
    requesters: &[Requester],
    tolerance: Tolerance,
) -> Result<(), String> {
    // One engine moves in a step, and units may leave out what the same requester does after its first fault.
    let mut possible = Vec::new();
    for refusal in refusals {
        possible.push(refusal);
        if !(tolerance.unrecorded)(refusal) {
            break;
        }
    }
    let may_be_silent = refusals.iter().all(|refusal| (tolerance.unrecorded)(refusal));
    let same = |refusal: &Refusal| {
        sight.faults.first().is_some_and(|record| {
            let fault = record.fault;
            let access = if refusal.is_write { Access::WRITE } else { Access::READ };
            let same = fault.requester == requesters[refusal.engine]
                && fault.address.0 & !0xfff == refusal.page
                && fault.access == access
                && (fault.pasid.is_none() || tolerance.invents_pasid)
                && (reason_fits(fault.reason, refusal.why) || (tolerance.also)(fault.reason, refusal.why));
            same || (fault.requester == requesters[refusal.engine] && (tolerance.stands_for)(&fault, refusal))
        })
    };
    let found = match sight.faults.first() {
        None => may_be_silent,
        Some(_) => possible.iter().any(|refusal| same(refusal)),
    };
    let lost = sight.overflows > 0 && refusals.len() < 2;
    if found && !lost && sight.faults.len() <= refusals.len() {
        return Ok(());
    }
    Err(format!("recorded {:x?}, {} times lost, and not {possible:x?}", sight.faults, sight.overflows))
}

/// Whether a reason says why, in any architecture.
#[must_use]
pub const fn reason_fits(reason: FaultReason, why: Why) -> bool {
    match why {
        Why::Detached => matches!(reason, FaultReason::EntryNotPresent(_) | FaultReason::RequestBlocked),
        // Formats without a present bit can't tell the first two apart, and addresses may be too wide for the tables.
        Why::NotMapped => {
            matches!(
                reason,
                FaultReason::NotMapped | FaultReason::PermissionDenied | FaultReason::AddressSize
            )
        }
        Why::ReadOnly | Why::WriteOnly => matches!(reason, FaultReason::PermissionDenied),
    }
}
