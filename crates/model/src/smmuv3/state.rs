//! Reset, and saving and restoring all architectural state. Caches are no state: after a restore they are empty.

use std::sync::atomic::Ordering;

use portcullis_spec::Invalidation;
use portcullis_spec::smmuv3::registers::{CmdqCons, Cr0};

use super::Smmuv3Unit;
use super::config::Smmuv3Config;
use super::events::Events;
use super::queue::{self, Queue};
use super::registers::Control;
use crate::state::StateError;
use crate::state::locked;

/// All architectural state of a unit. Transactions that are stalled belong to their devices: a unit that restores this
/// does not know them, and a CMD_RESUME of one does nothing.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Smmuv3State {
    config: Smmuv3Config,
    control: Control,
    events: Events,
    queue: Queue,
    consumer: u32,
}

impl Smmuv3Unit {
    /// Puts every register back to its value after power-on, forgets all that is cached and aborts what is stalled. DMA passes
    /// afterwards, as after power-on.
    pub fn reset(&self) {
        self.put(Control::default(), Events::default(), Queue::default(), 0);
    }

    /// All architectural state.
    #[must_use]
    pub fn save(&self) -> Smmuv3State {
        let smmu = self.model();
        let control = locked(&smmu.control);
        let queue = locked(&smmu.queue);
        let events = locked(&smmu.events);
        Smmuv3State {
            config: smmu.config.clone(),
            control: control.clone(),
            events: events.clone(),
            queue: queue.clone(),
            consumer: smmu.consumer.load(Ordering::Acquire),
        }
    }

    /// Puts the unit in a state that a unit with the same configuration saved.
    ///
    /// # Errors
    /// Where the state is not such a unit's; nothing has changed then.
    pub fn restore(&self, state: &Smmuv3State) -> Result<(), StateError> {
        if state.config != *self.config() {
            return Err(StateError::OtherConfig);
        }
        let cr0 = Cr0::from_bits(state.control.cr0);
        let known =
            Cr0::new().with_smmuen(cr0.smmuen()).with_eventqen(cr0.eventqen()).with_cmdqen(cr0.cmdqen());
        let consumer = CmdqCons::from_bits(state.consumer);
        let possible = cr0 == known
            && cr0.cmdqen() == state.queue.enabled
            && cr0.eventqen() == state.events.enabled
            && consumer == CmdqCons::new().with_rd(consumer.rd()).with_err(consumer.err());
        if !possible {
            return Err(StateError::Impossible);
        }
        self.put(state.control.clone(), state.events.clone(), state.queue.clone(), state.consumer);
        queue::resume(self);
        Ok(())
    }

    fn put(&self, new_control: Control, new_events: Events, new_queue: Queue, consumer: u32) {
        let smmu = self.model();
        let mut control = locked(&smmu.control);
        let mut queue = locked(&smmu.queue);
        *control = new_control;
        *queue = new_queue;
        *locked(&smmu.events) = new_events;
        smmu.consumer.store(consumer, Ordering::Release);
        smmu.steer(&control);
        smmu.stalls.open(false);
        smmu.stalls.open(control.steering().enabled);
        self.engine.invalidate(&Invalidation::Everything);
        self.engine.drain();
    }
}
