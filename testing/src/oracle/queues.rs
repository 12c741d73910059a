//! Queues of commands and of fault records in memory, of the units that have both.

use crate::machine::Machine;
use portcullis_driver::platform::Memory as _;
use portcullis_spec::PhysAddr;

/// log2 of the entries of both queues.
pub const BITS: u32 = 6;
/// Where the command queue lies, from the start of memory.
pub const COMMANDS: u64 = 30 << 20;
/// Where the queue of fault records lies, from the start of memory.
pub const FAULTS: u64 = COMMANDS + 0x1_0000;

/// Which entry an index means.
const ENTRY: u32 = (1 << BITS) - 1;

/// The registers of an architecture's queues.
#[derive(Clone, Copy, Debug)]
pub struct Queues {
    /// Where the unit is told how far commands were submitted.
    pub commands: u64,
    /// Where the unit says how far it has recorded faults, and where it is told how far they were read.
    pub faults: (u64, u64),
    /// What of these registers is an index: the bits of an entry, and one above them where there is a wrap flag.
    pub index: u32,
}

impl Queues {
    /// Submit commands and wait for nothing: units do them when they are submitted.
    pub fn submit<M: Machine>(&self, machine: &M, commands: &[[u64; 2]], big_endian: bool) {
        let tail = self.commands;
        let mut index = machine.read32(tail) & self.index;
        for command in commands {
            put(machine, index & ENTRY, *command, big_endian);
            index = (index + 1) & self.index;
        }
        machine.write32(tail, index);
    }

    /// The records that were not read yet, which are read now.
    pub fn take_faults<M: Machine, R>(
        &self,
        machine: &M,
        big_endian: bool,
        decode: impl Fn([u64; 4]) -> R,
    ) -> Vec<R> {
        let (tail, head) = self.faults;
        let base = machine.ram().base().0 + FAULTS;
        let end = machine.read32(tail);
        let mut index = machine.read32(head) & self.index;
        let mut records = Vec::new();
        while index != end & self.index {
            let at = base + u64::from(index & ENTRY) * 32;
            records.push(decode(
                [0, 8, 16, 24].map(|offset| ordered(machine.ram().load64(PhysAddr(at + offset)), big_endian)),
            ));
            index = (index + 1) & self.index;
        }
        if !records.is_empty() {
            machine.write32(head, end);
        }
        records
    }
}

/// Write one command of the command queue. The unit is not told.
pub fn put<M: Machine>(machine: &M, entry: u32, [low, high]: [u64; 2], big_endian: bool) {
    let at = machine.ram().base().0 + COMMANDS + u64::from(entry) * 16;
    machine.ram().store64(PhysAddr(at), ordered(low, big_endian));
    machine.ram().store64(PhysAddr(at + 8), ordered(high, big_endian));
}

const fn ordered(word: u64, big_endian: bool) -> u64 {
    if big_endian { word.swap_bytes() } else { word }
}
