//! Bad input for SMMUv3.

use super::judge::{CMDQ_CONS, CMDQ_PROD, CR0, CR0_QUEUES, CR0_SMMUEN, GERROR, GERRORN, Smmuv3};
use super::model_tables;
use super::tables::Shape;
use crate::machine::MachineError;
use crate::machine::smmuv3::Smmuv3Machine;
use crate::oracle::queues::put;
use crate::oracle::tables::bench::Bench;
use crate::oracle::tables::random_bits::{BadInput, Command, Rule};
use portcullis_driver::platform::Mmio as _;
use rand_chacha::ChaCha8Rng;

const CR0_EVENTQEN: u32 = 1 << 2;
const GERROR_CMDQ: u32 = 1;
/// CMD_SYNC.
const SYNC: u64 = 0x46;

impl BadInput for Smmuv3 {
    type Model = Smmuv3Machine;

    /// 4.1.1, of the non-secure queue.
    const OPCODES: (u64, &'static [u64]) = (
        0xff,
        &[
            0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x10, 0x11, 0x12, 0x13, 0x20, 0x21, 0x22, 0x23, 0x28, 0x2a,
            0x30, 0x40, 0x41, 0x44, 0x45, SYNC,
        ],
    );

    fn everything() -> Result<Bench<Self, Smmuv3Machine>, MachineError> {
        model_tables::bench(model_tables::everything())
    }

    /// Another entry of the linear table, or of the first level.
    fn neighbour(shape: &Shape) -> Option<(Shape, u64)> {
        let stream = shape.stream ^ 1 << shape.split.unwrap_or(0);
        let bytes = match shape.split {
            None => 64 << shape.log2size,
            Some(split) => 8 << shape.log2size.saturating_sub(split),
        };
        (u64::from(stream) >> shape.log2size == 0).then_some((Shape { stream, ..*shape }, bytes))
    }

    fn shape(random: &mut ChaCha8Rng) -> Shape {
        model_tables::random_shape(random)
    }

    fn target(command: &Command) -> u64 {
        if command[0] & 0xff == SYNC { command[1] & 0x00ff_ffff_ffff_fffc } else { u64::MAX }
    }

    /// 4.1.3, 4.1.5. The unit has neither ATS nor PRI, and does not stall.
    fn rule(command: &Command) -> Rule {
        let [low, high, ..] = *command;
        // 4.1.6: SSec.
        let secure = low >> 10 & 1 == 1;
        let (low_fields, high_fields) = match low & 0xff {
            0x01..=0x06 if secure => return Rule::Error,
            0x01 | 0x02 => (0xffff_ffff_ffff_f8ff, u64::MAX),
            0x03 | 0x05 | 0x06 => (0xffff_ffff_ffff_f0ff, 1),
            0x04 => (0xffff_ffff_0000_00ff, 0x1f),
            0x12 | 0x13 | 0x22 | 0x23 | 0x2a => {
                // 4.4.1.1: a granule with neither range nor level is reserved.
                let (range, level, granule) = (low >> 12 & 0x3f1f, high >> 8 & 3, high >> 10 & 3);
                if granule != 0 && range == 0 && level == 0 {
                    return Rule::Error;
                }
                // Levels that a granule has not are reserved.
                if level != 0 {
                    return Rule::Either;
                }
                (0xffff_ffff_03f1_f0ff, u64::MAX)
            }
            0x10 | 0x11 | 0x20 | 0x21 | 0x28 | 0x30 => (0xffff_ffff_0000_00ff, 0),
            SYNC if low >> 12 & 3 == 3 => return Rule::Error,
            SYNC => (0xffff_ffff_0fff_f0ff, u64::MAX),
            _ => return Rule::Error,
        };
        if low & !low_fields == 0 && high & !high_fields == 0 { Rule::Done } else { Rule::Either }
    }

    fn submit(machine: &Smmuv3Machine, commands: &[Command]) -> (usize, bool) {
        let enabled = machine.read32(CR0) & CR0_SMMUEN;
        let empty = || {
            machine.write32(CR0, CR0_EVENTQEN | enabled);
            machine.write32(CMDQ_PROD, 0);
            machine.write32(CMDQ_CONS, 0);
            machine.write32(GERRORN, machine.read32(GERROR));
            machine.write32(CR0, CR0_QUEUES | enabled);
        };
        empty();
        for (entry, command) in (0..).zip(commands) {
            put(machine, entry, [command[0], command[1]], false);
        }
        machine.write32(CMDQ_PROD, commands.len() as u32);
        let done = machine.read32(CMDQ_CONS) & 0xff;
        let error = (machine.read32(GERROR) ^ machine.read32(GERRORN)) & GERROR_CMDQ != 0;
        empty();
        (done as usize, error)
    }
}
