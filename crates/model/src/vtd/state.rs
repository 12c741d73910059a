//! Reset, and saving and restoring all architectural state. Caches are no state: after a restore they are empty.

use std::sync::atomic::Ordering;

use portcullis_spec::Invalidation;
use portcullis_spec::vtd::registers::{Gsts, Iqa, Pmen};

use super::VtdUnit;
use super::config::VtdConfig;
use super::events::Events;
use super::queue::{self, Queue};
use super::registers::Control;
use crate::state::StateError;
use crate::state::locked;

/// All architectural state of a unit.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct VtdState {
    config: VtdConfig,
    control: Control,
    events: Events,
    queue: Queue,
    queue_head: u64,
}

impl VtdUnit {
    /// Puts every register back to its value after power-on and forgets all that is cached. DMA passes afterwards, as after
    /// power-on.
    pub fn reset(&self) {
        let records = self.config().fault_records;
        self.put(Control::default(), Events::new(records), Queue::default(), 0);
    }

    /// All architectural state.
    #[must_use]
    pub fn save(&self) -> VtdState {
        let vtd = self.model();
        let control = locked(&vtd.control);
        let queue = locked(&vtd.queue);
        let events = locked(&vtd.events);
        VtdState {
            config: vtd.config.clone(),
            control: control.clone(),
            events: events.clone(),
            queue: queue.clone(),
            queue_head: vtd.queue_head.load(Ordering::Acquire),
        }
    }

    /// Puts the unit in a state that a unit with the same configuration saved.
    ///
    /// # Errors
    /// Where the state is not such a unit's; nothing has changed then.
    pub fn restore(&self, state: &VtdState) -> Result<(), StateError> {
        if state.config != *self.config() {
            return Err(StateError::OtherConfig);
        }
        let status = Gsts::from_bits(state.control.status);
        let known = Gsts::new()
            .with_tes(status.tes())
            .with_rtps(status.rtps())
            .with_qies(status.qies() && self.model().ecap().qi())
            .with_irtps(status.irtps() && self.model().ecap().ir())
            .with_ires(status.ires() && self.model().ecap().ir())
            .with_cfis(status.cfis() && self.model().ecap().ir());
        let irta_reserved = if self.model().ecap().eim() { 0x7f0 } else { 0xff0 };
        let head_fits = state.queue_head < Iqa::from_bits(state.queue.address).queue_bytes();
        let possible = status == known
            && status.qies() == state.queue.enabled
            && state.events.fits(self.config().fault_records)
            && (head_fits || state.queue_head == 0)
            && state.queue.tail & !0x7_fff0 == 0
            && (state.control.irta | state.control.irta_set) & irta_reserved == 0
            && Pmen::from_bits(state.control.pmen).epm() == Pmen::from_bits(state.control.pmen).prs();
        if !possible {
            return Err(StateError::Impossible);
        }
        self.put(state.control.clone(), state.events.clone(), state.queue.clone(), state.queue_head);
        queue::resume(self);
        Ok(())
    }

    fn put(&self, new_control: Control, new_events: Events, new_queue: Queue, head: u64) {
        let vtd = self.model();
        let mut control = locked(&vtd.control);
        let mut queue = locked(&vtd.queue);
        *control = new_control;
        *queue = new_queue;
        *locked(&vtd.events) = new_events;
        vtd.queue_head.store(head, Ordering::Release);
        vtd.rtaddr.store(control.rtaddr_set, Ordering::SeqCst);
        vtd.enabled.store(Gsts::from_bits(control.status).tes(), Ordering::SeqCst);
        vtd.interrupts.set(Gsts::from_bits(control.status), control.irta_set);
        vtd.protect(&control);
        self.engine.invalidate(&Invalidation::Everything);
        self.engine.drain();
    }
}
