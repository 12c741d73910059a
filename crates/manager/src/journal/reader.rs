//! The thread that reads violations from the back end into the journal.

use std::{
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use portcullis_spec::FaultReason;

use super::{Attributions, Disk, Journal, Record};
use crate::{
    backend::{BackendError, ViolationSource},
    core::Core,
    violation::Violation,
};

/// How many of one batch are shown to followers and looked up among the grants; a flood has more than anyone reads.
const SHOWN: usize = 256;

/// What readers show to those who follow.
pub trait Seen: Send {
    /// Some records, and how many more there were.
    fn seen(&mut self, records: &[Record], more: u64);
}

/// Reads violations into the journal.
pub struct Reader {
    /// Where they come from.
    pub source: Box<dyn ViolationSource>,
    /// Where they go.
    pub journal: Arc<Mutex<Journal>>,
    /// Whose they are.
    pub attributions: Arc<RwLock<Arc<Attributions>>>,
    /// Asked for grants, if it is not busy.
    pub core: Arc<Mutex<Core>>,
    /// Shown what comes.
    pub seen: Box<dyn Seen>,
    /// Written to as well.
    pub disk: Option<Disk>,
}

impl Reader {
    /// Reads until the source breaks.
    ///
    /// # Errors
    ///
    /// Why it broke.
    pub fn run(mut self) -> Result<(), BackendError> {
        let mut batch: Vec<Violation> = Vec::new();
        loop {
            batch.clear();
            // The source sleeps until there is something; the time only bounds that.
            let lost = self.source.read(Duration::from_secs(3600), &mut |violation| batch.push(violation))?;
            if lost != 0 || !batch.is_empty() {
                self.take(&batch, lost);
            }
        }
    }

    fn take(&mut self, batch: &[Violation], lost: u64) {
        let attributions = self.attributions.read().unwrap_or_else(PoisonError::into_inner).clone();
        let grants = self.grants(&batch[..batch.len().min(SHOWN)], &attributions);
        let mut shown = Vec::with_capacity(batch.len().min(SHOWN));
        // Short holds: those who ask for faults wait for no more than this many records.
        for (part, chunk) in batch.chunks(1024).enumerate() {
            let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
            for (at, violation) in chunk.iter().enumerate() {
                let attribution = attributions.find(violation).cloned();
                let grant = grants.get(part * 1024 + at).copied().flatten();
                if shown.len() < SHOWN {
                    let number = journal.push(*violation, attribution.clone(), grant);
                    shown.push(Record { number, violation: *violation, attribution, grant });
                } else {
                    journal.push(*violation, attribution, grant);
                }
            }
        }
        if lost != 0 {
            self.journal.lock().unwrap_or_else(PoisonError::into_inner).push_lost(lost);
        }
        let more = (batch.len() - shown.len()) as u64 + lost;
        if let Some(disk) = &mut self.disk {
            disk.write(&shown, more);
        }
        self.seen.seen(&shown, more);
    }

    /// The grants that hold the addresses of accesses that were refused although something is mapped there.
    fn grants(&self, batch: &[Violation], attributions: &Attributions) -> Vec<Option<u64>> {
        if !batch.iter().any(|v| v.fault.reason == FaultReason::PermissionDenied) {
            return Vec::new();
        }
        let Ok(core) = self.core.try_lock() else { return Vec::new() };
        let grant = |violation: &Violation| {
            let device = attributions.find(violation)?.device;
            Some(core.grant_at(device, violation.fault.pasid, violation.fault.address)?.grant)
        };
        batch.iter().map(grant).collect()
    }
}
