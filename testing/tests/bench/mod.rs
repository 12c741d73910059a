//! Our models of units as the drivers' tests see them.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::time::Duration;

use portcullis_driver::platform::Mmio;
use portcullis_spec::{Iova, Pasid, Requester};
use portcullis_testing::machine::model::{self, ModelMachine, Sender};
use portcullis_testing::machine::still::Still;

use crate::behaviour::{Bench, Refused};

/// A machine with a model, and the driver's platform.
pub(crate) struct ModelBench<'a, U> {
    pub(crate) machine: &'a ModelMachine<U>,
    pub(crate) platform: &'a Still<'a>,
    /// Who a number is to the unit.
    pub(crate) requester: fn(u32) -> Requester,
}

impl<'a, U: model::Unit> Bench for ModelBench<'a, U> {
    type Memory = Still<'a>;

    fn memory(&self) -> &Still<'a> {
        self.platform
    }

    fn devices(&self) -> [Requester; 2] {
        [0x18, 0x1f].map(self.requester)
    }

    fn strangers(&self) -> [Requester; 3] {
        [0x20, 0x3f, 0x7f].map(self.requester)
    }

    fn dma(
        &self,
        requester: Requester,
        pasid: Option<Pasid>,
        address: u64,
        write: bool,
    ) -> Result<u64, Refused> {
        let sender = Sender { requester, pasid, privileged: false };
        let answer = self.machine.unit().translate(sender, Iova(address), write);
        answer.map(|address| address.0).ok_or(Refused)
    }

    fn live_blocks(&self) -> usize {
        self.platform.blocks()
    }

    fn pass(&self, time: Duration) {
        self.platform.pass(time);
    }
}

/// A machine's registers, with somebody between.
pub(crate) struct Between<'m, M> {
    pub(crate) machine: &'m M,
    /// What is read at an offset, of what stands there.
    pub(crate) read: &'m dyn Fn(u64, u64) -> u64,
    /// What is written at an offset, if anything is, where this was to be.
    pub(crate) write: &'m dyn Fn(u64, u64) -> Option<u64>,
}

impl<M: Mmio> Mmio for Between<'_, M> {
    fn read32(&self, offset: u64) -> u32 {
        (self.read)(offset, self.machine.read32(offset).into()) as u32
    }
    fn read64(&self, offset: u64) -> u64 {
        (self.read)(offset, self.machine.read64(offset))
    }
    fn write32(&self, offset: u64, value: u32) {
        if let Some(value) = (self.write)(offset, value.into()) {
            self.machine.write32(offset, value as u32);
        }
    }
    fn write64(&self, offset: u64, value: u64) {
        if let Some(value) = (self.write)(offset, value) {
            self.machine.write64(offset, value);
        }
    }
}
