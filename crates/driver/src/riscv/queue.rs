//! The command queue (3.1): [`CommandQueue`] in the RISC-V IOMMU's words.

use core::time::Duration;

use portcullis_spec::PhysAddr;
use portcullis_spec::riscv::Command;

use super::registers::{COMMAND_QUEUE, Registers};
use crate::common::queue::{CommandQueue, Commands, Words};
use crate::error::UnitError;
use crate::platform::{Mmio, Platform};

/// A unit, spoken to by its registers.
pub(super) struct Speech<'a, M, P: Platform>(pub(super) &'a Registers<M, P>);

impl<M: Mmio, P: Platform> Commands<P> for Speech<'_, M, P> {
    type Command = Command;

    fn turn_off(&self, platform: &P, _queue: &CommandQueue<P>) -> Result<(), UnitError> {
        self.0.queue_off(platform, COMMAND_QUEUE)
    }

    /// This clears the unit's errors and its head (5.15).
    fn turn_on(&self, platform: &P, queue: &CommandQueue<P>) -> Result<(), UnitError> {
        self.0.queue_on(platform, COMMAND_QUEUE, queue.base(), queue.entries())
    }

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
