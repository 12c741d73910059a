//! What the embedded unit recorded, as violations.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{Embedded, Machine};
use crate::{
    backend::{BackendError, ViolationSource},
    inventory::UnitId,
    violation::{RawRecord, Violation},
};

/// The unit's fault records.
pub(super) struct Refused<M: Machine> {
    platform: Arc<Embedded<M>>,
    /// Faults without a record that were told of.
    unrecorded: u64,
    /// Records wait of which no message will come.
    more: bool,
}

impl<M: Machine> Refused<M> {
    pub(super) const fn of(platform: Arc<Embedded<M>>) -> Self {
        Self { platform, unrecorded: 0, more: false }
    }
}

impl<M: Machine> ViolationSource for Refused<M> {
    fn read(&mut self, timeout: Duration, sink: &mut dyn FnMut(Violation)) -> Result<u64, BackendError> {
        if !self.more {
            self.platform.wait_for_faults(timeout);
        }
        let counts = self.platform.unit().read_faults(|record| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            sink(Violation {
                unit: Some(UnitId(0)),
                device: None,
                fault: record.fault,
                time: u64::try_from(since.as_nanos()).unwrap_or(u64::MAX),
                raw: RawRecord { words: record.raw, length: M::RECORD_WORDS },
                count: 1,
            });
        });
        self.more = counts.more;
        // To software an overflowed unit says only that at least one is gone; its model counts them.
        let unrecorded = self.platform.model().unrecorded_faults();
        let lost = unrecorded - std::mem::replace(&mut self.unrecorded, unrecorded);
        Ok(lost + counts.unknown)
    }
}
