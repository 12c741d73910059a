//! Primary fault logging (VT-d 7.2.1).

use portcullis_spec::vtd::fault::FaultRecord as Record;
use portcullis_spec::vtd::registers::{Cap, Fsts};

use super::registers::Registers;
use crate::common::architecture::{FaultCounts, FaultRecord};
use crate::platform::{Mmio, Platform};

/// Times round the registers in one reading. Each finds what came while the one before it lasted.
const ROUNDS: u32 = 4;

/// Reads the fault recording registers, from the oldest record (FSTS.FRI) on, and frees them, until none waits or so many came
/// meanwhile that the rest is left to the next time.
pub(super) fn read<M: Mmio, P: Platform>(
    registers: &Registers<M, P>,
    cap: Cap,
    segment: u16,
    sink: &mut dyn FnMut(FaultRecord),
) -> FaultCounts {
    let mut counts = FaultCounts::default();
    for _ in 0..ROUNDS {
        let fsts = registers.fsts();
        if fsts.into_bits() == u32::MAX || !(fsts.ppf() || fsts.pfo()) {
            return counts;
        }
        round(registers, cap, segment, fsts, &mut counts, sink);
    }
    // 11.4.7.2: while PPF is set, another record is no new condition that the unit would send a message for.
    counts.more = registers.fsts().ppf();
    counts
}

fn round<M: Mmio, P: Platform>(
    registers: &Registers<M, P>,
    cap: Cap,
    segment: u16,
    fsts: Fsts,
    counts: &mut FaultCounts,
    sink: &mut dyn FnMut(FaultRecord),
) {
    let number = cap.fault_recording_registers();
    let first = u16::from(fsts.fri());
    for step in 0..number {
        let index = (first + step) % number;
        // F first: a register that is filled while it is read holds halves of two records, and the first time a source of zero.
        if !Record::decode(registers.fault_record(cap, index)).high.f() {
            continue;
        }
        let raw = registers.fault_record(cap, index);
        let record = Record::decode(raw);
        registers.clear_fault_record(cap, index);
        counts.read += 1;
        match record.to_fault(segment) {
            Some(fault) => sink(FaultRecord { fault, raw: [raw[0], raw[1], 0, 0] }),
            None => counts.unknown += 1,
        }
    }
    // 7.2.1: while PFO is set no further record is written.
    if registers.fsts().pfo() {
        counts.overflows += 1;
        registers.clear_fsts(Fsts::new().with_pfo(true));
    }
}
