//! The command queue (3.5, 4): [`CommandQueue`] in the SMMU's words.
//!
//! Every submission ends in a CMD_SYNC: with a message to its status word where the unit sends messages and snoops the caches, or
//! recognised by the consumer index.

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;

use portcullis_spec::PhysAddr;
use portcullis_spec::smmuv3::command::{COMMAND_SIZE, Command, SyncLow, SyncSignal};
use portcullis_spec::smmuv3::registers::{CommandQueueError, Gerror};

use super::capabilities::Capabilities;
use super::registers::Registers;
use crate::common::queue::{CommandQueue, Commands, Words};
use crate::error::UnitError;
use crate::platform::{Mmio, Platform};

/// Shareability and memory type of a completion's message (4.7.3, MSH and MSIATTR): inner shareable, write-back.
const INNER: u8 = 3;
const WRITE_BACK: u8 = 0xf;

/// A queue of at most `2^size` pages, not yet known to the unit. `None` where the platform has no memory.
pub(super) fn allocate<P: Platform>(
    platform: &P,
    size: u8,
    capabilities: Capabilities,
) -> Option<CommandQueue<P>> {
    let most = (u32::from(capabilities.idr1.cmdqs()) + COMMAND_SIZE.trailing_zeros()).saturating_sub(12);
    let size = u32::from(size).min(most) as u8;
    CommandQueue::allocate(platform, size, COMMAND_SIZE, capabilities.coherent())
}

/// A unit, spoken to by its registers.
pub(super) struct Speech<'a, M, P: Platform> {
    pub(super) registers: &'a Registers<M, P>,
    /// Completions come as messages.
    pub(super) messages: &'a AtomicBool,
    /// Entries of the ring.
    pub(super) entries: u32,
}

impl<M: Mmio, P: Platform> Commands<P> for Speech<'_, M, P> {
    type Command = Command;

    /// 6.3.9, CMDQEN: the unit has carried out what it began when this is acknowledged.
    fn turn_off(&self, platform: &P, _queue: &CommandQueue<P>) -> Result<(), UnitError> {
        self.registers.set_cr0(platform, |cr0| cr0.with_cmdqen(false))
    }

    /// 7.1: an error is over once acknowledged, and what was in the queue is void.
    fn turn_on(&self, platform: &P, queue: &CommandQueue<P>) -> Result<(), UnitError> {
        let errors = self.registers.errors().ok_or(UnitError::Absent)?;
        self.registers.acknowledge(Gerror::new().with_cmdq_err(errors.cmdq_err()));
        self.registers.set_command_queue(queue.base(), queue.entries());
        self.registers.set_cr0(platform, |cr0| cr0.with_cmdqen(true))
    }

    fn encode(&self, command: &Command) -> Option<Words> {
        let [low, high] = command.encode();
        Some([low, high, 0, 0])
    }

    /// 4.7.3: consumed, and its message sent, when all commands before it are complete.
    fn completion(&self, status: PhysAddr, value: u32) -> Words {
        let signal = match self.messages.load(Ordering::Relaxed) {
            true => SyncSignal::Irq { address: status.0, data: value },
            false => SyncSignal::None,
        };
        let [low, high] = Command::Sync { signal }.encode();
        let low = SyncLow::from_bits(low).with_msh(INNER).with_msiattr(WRITE_BACK);
        [low.into_bits(), high, 0, 0]
    }

    /// 3.5.1: the wrap bit is the one above the index.
    fn ring(&self, tail: u32, wrapped: bool) {
        let wrap = if wrapped { self.entries } else { 0 };
        self.registers.set_cmdq_prod(tail | wrap);
    }

    fn consumed(&self) -> Option<u32> {
        if self.messages.load(Ordering::Relaxed) {
            return None;
        }
        Some(self.registers.cmdq_cons().rd() & (self.entries - 1))
    }

    /// 7.1, 7.5. A completion's message that could not be written leaves the queue running: from then on its index is read.
    fn error(&self) -> Option<UnitError> {
        let Some(errors) = self.registers.errors() else { return Some(UnitError::Absent) };
        if errors.msi_cmdq_abt_err() {
            self.messages.store(false, Ordering::Relaxed);
            self.registers.acknowledge(Gerror::new().with_msi_cmdq_abt_err(true));
        }
        if errors.sfm_err() {
            return Some(UnitError::Failed { register: "GERROR", value: u64::from(errors.into_bits()) });
        }
        if !errors.cmdq_err() {
            return None;
        }
        let cons = self.registers.cmdq_cons();
        let detail = u64::from(cons.err());
        if cons.err() == CommandQueueError::AtcInvSync as u8 {
            return Some(UnitError::DeviceTimeout { detail });
        }
        Some(UnitError::QueueCommand { entry: cons.rd() & (self.entries - 1), detail })
    }

    fn timeout(&self) -> Duration {
        self.registers.timeout()
    }
}
