//! Bad input for VT-d.

use super::judge::{FSTS, GCMD, GCMD_TE, Vtd};
use super::model_tables;
use super::tables::Shape;
use crate::machine::vtd::VtdMachine;
use crate::machine::{Machine as _, MachineError};
use crate::oracle::tables::bench::Bench;
use crate::oracle::tables::random_bits::{BadInput, Command, Rule};
use portcullis_driver::platform::{Memory as _, Mmio as _};
use portcullis_spec::PhysAddr;
use rand_chacha::ChaCha8Rng;

const IQH: u64 = 0x80;
const IQT: u64 = 0x88;
const IQA: u64 = 0x90;
/// 256-bit descriptors.
const IQA_DW: u64 = 1 << 11;
const GCMD_QIE: u32 = 1 << 26;
const FSTS_QUEUE_ERRORS: u32 = 7 << 4;
/// Where the invalidation queue lies.
const QUEUE: u64 = 30 << 20;
/// Invalidation wait.
const WAIT: u64 = 5;

impl BadInput for Vtd {
    type Model = VtdMachine;

    /// Type in bits 3:0, its upper part in 11:9 (6.5.2).
    const OPCODES: (u64, &'static [u64]) = (0xe0f, &[1, 2, 3, 4, WAIT, 6, 7, 8, 9]);

    fn everything() -> Result<Bench<Self, VtdMachine>, MachineError> {
        model_tables::bench(model_tables::everything())
    }

    /// On another bus.
    fn neighbour(shape: &Shape) -> Option<(Shape, u64)> {
        Some((Shape { requester_id: shape.requester_id ^ 0x100, ..*shape }, 4096))
    }

    fn shape(random: &mut ChaCha8Rng) -> Shape {
        model_tables::random_shape(random)
    }

    fn target(command: &Command) -> u64 {
        if command[0] & Self::OPCODES.0 == WAIT { command[1] & !3 } else { u64::MAX }
    }

    /// 6.5.2: types that are not defined are errors. Of the others, reserved fields and what the unit has not decide.
    fn rule(command: &Command) -> Rule {
        let (mask, defined) = Self::OPCODES;
        match command[0] & mask {
            // Without any flag it waits for what came before, and tells nobody.
            WAIT if *command == [WAIT, 0, 0, 0] => Rule::Done,
            kind if defined.contains(&kind) => Rule::Either,
            _ => Rule::Error,
        }
    }

    fn submit(machine: &VtdMachine, commands: &[Command]) -> (usize, bool) {
        machine.write32(FSTS, FSTS_QUEUE_ERRORS);
        machine.write64(IQA, QUEUE | IQA_DW);
        machine.write64(IQT, 0);
        machine.write32(GCMD, GCMD_TE | GCMD_QIE);
        for (at, word) in (QUEUE..).step_by(8).zip(commands.iter().flatten()) {
            machine.ram().store64(PhysAddr(at), *word);
        }
        machine.write64(IQT, commands.len() as u64 * 32);
        let done = machine.read64(IQH) / 32;
        let error = machine.read32(FSTS) & FSTS_QUEUE_ERRORS != 0;
        machine.write32(GCMD, GCMD_TE);
        machine.write32(FSTS, FSTS_QUEUE_ERRORS);
        (done as usize, error)
    }
}
