//! The command queue (3.1): [`CommandQueue`] in the RISC-V IOMMU's words.

use core::time::Duration;

use portcullis_spec::PhysAddr;
use portcullis_spec::riscv::Command;
use portcullis_spec::riscv::command::COMMAND_SIZE;

use super::registers::{COMMAND_QUEUE, Registers};
use crate::common::queue::{CommandQueue, Commands, Words};
use crate::error::UnitError;
use crate::platform::{Mmio, Platform};

pub(super) struct Queue<P: Platform> {
    ring: CommandQueue<P>,
}

impl<P: Platform> Queue<P> {
    /// A queue of `2^size` pages, not yet known to the unit. `None` where the platform has no memory.
    pub(super) fn allocate(platform: &P, size: u8) -> Option<Self> {
        Some(Self { ring: CommandQueue::allocate(platform, size, COMMAND_SIZE, true)? })
    }

    /// Gives its memory back. The unit does not use it any more.
    pub(super) fn free(&self, platform: &P) {
        self.ring.free(platform);
    }

    /// Turns whatever queue there was off and makes the unit take commands from here. Turning it on clears its errors and its head (5.15).
    pub(super) fn start<M: Mmio>(&self, registers: &Registers<M, P>, platform: &P) -> Result<(), UnitError> {
        registers.queue_off(platform, COMMAND_QUEUE)?;
        registers.queue_on(platform, COMMAND_QUEUE, self.ring.base(), self.ring.entries())?;
        self.ring.restart();
        Ok(())
    }

    /// Stops the queue for good reason, or because the unit is to be shut down.
    pub(super) fn stop(&self, error: UnitError) {
        self.ring.stop(error);
    }

    pub(super) fn turn_off<M: Mmio>(
        &self,
        registers: &Registers<M, P>,
        platform: &P,
    ) -> Result<(), UnitError> {
        registers.queue_off(platform, COMMAND_QUEUE)
    }

    /// Submits commands in order and waits until the unit has carried out all of them.
    pub(super) fn submit<M: Mmio>(
        &self,
        registers: &Registers<M, P>,
        platform: &P,
        commands: &[Command],
    ) -> Result<(), UnitError> {
        self.ring.submit(&Speech(registers), platform, commands)
    }
}

struct Speech<'a, M, P: Platform>(&'a Registers<M, P>);

impl<M: Mmio, P: Platform> Commands for Speech<'_, M, P> {
    type Command = Command;

    fn encode(&self, command: &Command) -> Option<Words> {
        let [low, high] = command.encode();
        Some([low, high, 0, 0])
    }

    /// 3.1.2: completes when all commands before it have, and the reads and writes that they were to order.
    fn completion(&self, status: PhysAddr, value: u32) -> Words {
        let fence = Command::Iofence { write: Some((status.0, value)), wsi: false, pr: true, pw: true };
        let [low, high] = fence.encode();
        [low, high, 0, 0]
    }

    fn ring(&self, tail: u32, _wrapped: bool) {
        self.0.set_cqt(tail);
    }

    /// 5.15: any of these stops the queue until it is turned on again.
    fn error(&self) -> Option<UnitError> {
        let csr = self.0.cqcsr();
        if csr.into_bits() == u32::MAX {
            return Some(UnitError::Absent);
        }
        let detail = u64::from(csr.into_bits());
        if csr.cmd_ill() || csr.cqmf() {
            return Some(UnitError::QueueCommand { entry: self.0.cqh(), detail });
        }
        csr.cmd_to().then_some(UnitError::DeviceTimeout { detail })
    }

    fn timeout(&self) -> Duration {
        self.0.timeout()
    }
}
