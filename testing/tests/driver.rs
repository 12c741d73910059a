//! The behaviour that all drivers share, over our models of their units.

#[path = "../../crates/driver/tests/behaviour/mod.rs"]
mod behaviour;

use std::time::Duration;

use behaviour::{Bench, Refused};
use portcullis_driver::riscv::Riscv;
use portcullis_driver::smmuv3::Smmuv3;
use portcullis_driver::{Device, Unit};
use portcullis_model::riscv::config::{Interrupts, RiscvConfig};
use portcullis_model::smmuv3::config::{FlagUpdates, Smmuv3Config};
use portcullis_spec::{Iova, Pasid, Requester};
use portcullis_testing::machine::Machine as _;
use portcullis_testing::machine::model::{self, ModelMachine, Sender};
use portcullis_testing::machine::riscv::{self, RiscvMachine, Stages, like_qemu};
use portcullis_testing::machine::smmuv3::{self, Smmuv3Machine};
use portcullis_testing::machine::still::Still;

/// A machine with a model, and the driver's platform.
struct ModelBench<'a, U> {
    machine: &'a ModelMachine<U>,
    platform: &'a Still<'a>,
    /// Who a number is to the unit.
    requester: fn(u32) -> Requester,
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

/// Defines `$on_each`, which runs a test on each of `$kinds()`, with the driver `$driver` over the models of `$architecture`.
macro_rules! on_each_kind {
    ($on_each:ident, $architecture:ident, $driver:ident, $machine:ty, $requester:path) => {
        macro_rules! $on_each {
            ($test:expr) => {
                for config in kinds() {
                    println!("{config:?}");
                    let machine = $architecture::model(config).unwrap();
                    let platform = Still::new(machine.ram());
                    let driver = $driver::start(&machine, &platform, Default::default());
                    let unit = Unit::new(driver.unwrap());
                    unit.enable().unwrap();
                    let bench = ModelBench { machine: &machine, platform: &platform, requester: $requester };
                    let test: fn(&ModelBench<'_, _>, &Unit<$driver<&$machine, &Still<'_>>>) = $test;
                    for device in bench.devices() {
                        let pasid_bits = unit.features().pasid_bits;
                        unit.add_device(Device { pasid_bits, ..Device::new(device) }).unwrap();
                    }
                    test(&bench, &unit);
                    unit.shut_down().unwrap();
                    assert_eq!(platform.blocks(), 0, "memory leaked");
                }
            };
        }
        crate::behaviour::behaviours!($on_each);
    };
}

mod on_riscv {
    use super::*;

    /// Every kind of unit that the common behaviour is shown on.
    fn kinds() -> Vec<RiscvConfig> {
        let none = RiscvConfig { pd8: false, pd17: false, pd20: false, ..RiscvConfig::default() };
        let first = RiscvConfig { sv39x4: false, sv48x4: false, ..none.clone() };
        let second = RiscvConfig { sv39: false, sv48: false, ..none.clone() };
        let mut kinds: Vec<_> = Stages::ALL.map(like_qemu).to_vec();
        kinds.extend([
            RiscvConfig::default(),
            RiscvConfig::full(),
            RiscvConfig { ranges: true, ..none.clone() },
            RiscvConfig { one_level: false, two_level: false, ..first.clone() },
            RiscvConfig { two_level: false, three_level: false, flag_updates: false, ..first.clone() },
            RiscvConfig { three_level: false, sv48: false, ..first },
            RiscvConfig { sv48x4: false, interrupts: Interrupts::Wires, ..second.clone() },
            RiscvConfig { bare_after_reset: true, physical_bits: 40, ranges: true, ..second },
            RiscvConfig { pd20: false, sv48: false, ..RiscvConfig::default() },
        ]);
        kinds
    }

    on_each_kind!(on_each_riscv, riscv, Riscv, RiscvMachine, Requester::Device);
}

mod on_smmuv3 {
    use super::*;

    /// Every kind of unit that the common behaviour is shown on.
    fn kinds() -> Vec<Smmuv3Config> {
        let mut kinds: Vec<_> = smmuv3::Stages::ALL.map(smmuv3::like_qemu).to_vec();
        // The data that the common behaviour is about lies above 4 GiB in 48 bits.
        let full = Smmuv3Config { stream_id_bits: 16, output_bits: 48, ..Smmuv3Config::full() };
        kinds.extend([
            full.clone(),
            // One level of everything, small tags, neither messages nor ranges.
            Smmuv3Config {
                stream_id_bits: 6,
                two_level_streams: false,
                two_level_contexts: false,
                substream_id_bits: 8,
                asid_16: false,
                vmid_16: false,
                messages: false,
                range_invalidation: false,
                break_before_make_level: 0,
                ..full.clone()
            },
            Smmuv3Config {
                stage1: false,
                substream_id_bits: 0,
                two_level_contexts: false,
                asid_16: false,
                hypervisor: false,
                output_bits: 40,
                ..full.clone()
            },
            Smmuv3Config {
                stage2: false,
                vmid_16: false,
                stage2_execute_by_privilege: false,
                break_before_make_level: 1,
                hypervisor: false,
                ..full.clone()
            },
            Smmuv3Config { coherent: false, flag_updates: FlagUpdates::Accessed, ..full.clone() },
            // Without 4 KiB granules, tables have the smallest that there is.
            Smmuv3Config { granule_4k: false, ..full.clone() },
            Smmuv3Config { granule_4k: false, granule_16k: false, ..full.clone() },
            Smmuv3Config {
                granule_4k: false,
                stage1: false,
                substream_id_bits: 0,
                two_level_contexts: false,
                asid_16: false,
                hypervisor: false,
                range_invalidation: false,
                ..full.clone()
            },
            Smmuv3Config {
                granule_4k: false,
                granule_16k: false,
                stage2: false,
                vmid_16: false,
                stage2_execute_by_privilege: false,
                hypervisor: false,
                break_before_make_level: 0,
                ..full
            },
        ]);
        kinds
    }

    on_each_kind!(on_each_smmuv3, smmuv3, Smmuv3, Smmuv3Machine, Requester::Stream);
}
