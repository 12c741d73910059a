//! Bad input for the RISC-V IOMMU.

use super::judge::{CQCSR, CQH, CQT, Riscv, is_big_endian};
use super::model_tables;
use super::tables::Shape;
use crate::machine::MachineError;
use crate::machine::ram::RAM_BYTES;
use crate::machine::riscv::RiscvMachine;
use crate::oracle::queues::put;
use crate::oracle::tables::bench::Bench;
use crate::oracle::tables::random_bits::{BadInput, Command, Rule};
use portcullis_driver::platform::Mmio as _;
use portcullis_model::riscv::config::RiscvConfig;
use rand_chacha::ChaCha8Rng;

const CQCSR_CQEN: u32 = 1;
/// cqmf, cmd_to, cmd_ill.
const CQCSR_ERRORS: u32 = 7 << 8;
/// The same and fence_w_ip: written as 1 to clear.
const CQCSR_CLEAR: u32 = 0xf << 8;
/// IOFENCE.C.
const FENCE: u64 = 2;
/// First byte of the machine's memory.
const RAM: u64 = 0x8000_0000;

impl BadInput for Riscv {
    type Model = RiscvMachine;

    /// opcode in bits 6:0, func3 in 9:7 (3.1).
    const OPCODES: (u64, &'static [u64]) =
        (0x3ff, &[1, 1 | 1 << 7, FENCE, FENCE, 3, 3 | 1 << 7, 4, 4 | 1 << 7]);

    fn everything() -> Result<Bench<Self, RiscvMachine>, MachineError> {
        model_tables::bench(RiscvConfig::full(), false)
    }

    /// Apart in the index that the first level takes (2.1).
    fn neighbour(shape: &Shape) -> Option<(Shape, u64)> {
        let low = if shape.extended { 6 } else { 7 };
        let bit = [0, low, low + 9][usize::from(shape.directory).checked_sub(1)?];
        Some((Shape { device: shape.device ^ 1 << bit, ..*shape }, 4096))
    }

    fn shape(random: &mut ChaCha8Rng) -> Shape {
        model_tables::limits(false, true).shape(random)
    }

    fn target(command: &Command) -> u64 {
        if command[0] & 0x3ff == FENCE { command[1] << 2 } else { u64::MAX }
    }

    /// 3.1: reserved bits and encodings are illegal. The unit has no ATS, and fctl.WSI is clear.
    fn rule(command: &Command) -> Rule {
        let [low, high, ..] = *command;
        let set = |mask: u64| low & mask != 0;
        match low & 0x3ff {
            1 | 0x81 => {
                let reserved = set(0xf000_0ff8_0000_0800) || high & 0xc000_0000_0000_01ff != 0;
                // PSCV with GVMA.
                let operands = low & 0x3ff == 0x81 && set(1 << 32);
                if reserved || operands { Rule::Error } else { Rule::Done }
            }
            FENCE => {
                let (write, wire) = (set(1 << 10), set(1 << 11));
                let memory = (RAM..RAM + RAM_BYTES).contains(&(high << 2));
                let reserved = set(0xffff_c000) || high >> 62 != 0;
                if reserved || wire || (write && !memory) { Rule::Error } else { Rule::Done }
            }
            3 | 0x83 => {
                let (is_process, valid) = (low & 0x3ff == 0x83, set(1 << 33));
                let reserved = set(0x00fd_0000_0c00) || high != 0;
                if reserved || (is_process && !valid) || (!is_process && set(0xffff_f000)) {
                    Rule::Error
                } else if valid {
                    // Whether the directory is that deep.
                    Rule::Either
                } else {
                    Rule::Done
                }
            }
            _ => Rule::Error,
        }
    }

    fn submit(machine: &RiscvMachine, commands: &[Command]) -> (usize, bool) {
        let empty = || {
            machine.write32(CQCSR, CQCSR_CLEAR);
            machine.write32(CQT, 0);
            machine.write32(CQCSR, CQCSR_CQEN);
        };
        empty();
        let big_endian = is_big_endian(machine);
        for (entry, command) in (0..).zip(commands) {
            put(machine, entry, [command[0], command[1]], big_endian);
        }
        machine.write32(CQT, commands.len() as u32);
        let done = machine.read32(CQH);
        let error = machine.read32(CQCSR) & CQCSR_ERRORS != 0;
        empty();
        (done as usize, error)
    }
}
