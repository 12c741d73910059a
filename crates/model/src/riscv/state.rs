//! Reset, and saving and restoring all architectural state. Caches are no state: after a restore they are empty.

use std::sync::atomic::Ordering;

use portcullis_spec::Invalidation;
use portcullis_spec::riscv::registers::{Ddtp, Fctl, IommuMode};

use super::RiscvUnit;
use super::config::RiscvConfig;
use super::counters::CounterRegisters;
use super::debug::Debug;
use super::events::Events;
use super::queue::{self, Queue};
use crate::state::StateError;
use crate::state::locked;

/// All architectural state of a unit.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct RiscvState {
    config: RiscvConfig,
    fctl: Fctl,
    ddtp: Ddtp,
    queue: Queue,
    command_head: u32,
    events: Events,
    counters: CounterRegisters,
    debug: Debug,
}

impl RiscvUnit {
    /// Puts every register back to its value after power-on and forgets all that is cached.
    pub fn reset(&self) {
        let riscv = self.model();
        self.put(&RiscvState {
            config: riscv.config.clone(),
            fctl: riscv.config.initial_features(),
            ddtp: riscv.config.initial_directory(),
            queue: Queue::default(),
            command_head: 0,
            events: riscv.config.initial_events(),
            counters: riscv.counters.initial(),
            debug: Debug::default(),
        });
    }

    /// All architectural state.
    #[must_use]
    pub fn save(&self) -> RiscvState {
        let riscv = self.model();
        let queue = locked(&riscv.queue);
        let _directory = locked(&riscv.directory);
        let events = locked(&riscv.events).clone();
        RiscvState {
            config: riscv.config.clone(),
            fctl: riscv.fctl(),
            ddtp: riscv.ddtp(),
            command_head: riscv.command_head.load(Ordering::Acquire),
            queue: queue.clone(),
            events,
            counters: riscv.counters.save(),
            debug: *locked(&riscv.debug),
        }
    }

    /// Puts the unit in a state that a unit with the same configuration saved.
    ///
    /// # Errors
    /// Where the state is not such a unit's; nothing has changed then.
    pub fn restore(&self, state: &RiscvState) -> Result<(), StateError> {
        let config = self.config();
        if state.config != *config {
            return Err(StateError::OtherConfig);
        }
        let mode = IommuMode::decode(state.ddtp.iommu_mode());
        let ring = state.queue.ring();
        let possible = mode.is_some_and(|mode| config.has_mode(mode))
            && !state.ddtp.busy()
            && state.fctl == config.legal_features(state.fctl)
            && state.events.fits(&config.initial_events(), config.queue_entries_log2)
            && state.events.wired == state.fctl.wsi()
            && state.events.big_endian == state.fctl.be()
            && state.counters.fits(config.counters)
            && super::events::legal_base(state.queue.base, config.queue_entries_log2) == state.queue.base
            && ring.index(state.queue.tail).is_ok()
            && ring.index(state.command_head).is_ok();
        if !possible {
            return Err(StateError::Impossible);
        }
        self.put(state);
        queue::resume(self);
        Ok(())
    }

    fn put(&self, state: &RiscvState) {
        let riscv = self.model();
        let mut queue = locked(&riscv.queue);
        let mut directory = locked(&riscv.directory);
        *queue = state.queue.clone();
        *directory = state.ddtp.into_bits();
        riscv.command_head.store(state.command_head, Ordering::Release);
        riscv.fctl.store(state.fctl.into_bits(), Ordering::SeqCst);
        riscv.ddtp.store(state.ddtp.into_bits(), Ordering::SeqCst);
        riscv.counters.put(state.counters.clone());
        *locked(&riscv.debug) = state.debug;
        riscv.change(|events| *events = state.events.clone());
        self.engine.invalidate(&Invalidation::Everything);
        self.engine.drain();
    }
}
