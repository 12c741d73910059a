//! The simulated machine's interrupt controller: which message stands for which vector of which device, and the event descriptor by
//! which its client hears of it.
//!
//! A message arrives in the thread of the device that sent it, while the unit holds on to what let it pass. So the controller only
//! notes it there, and the device's thread signals afterwards ([`Controller::signal`]): a client whose descriptor takes no more holds up its own device alone.

use std::{
    collections::HashMap,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use portcullis_model::{InterruptSink, Message, Undelivered};
use portcullis_spec::Requester;
use rustix::{
    event::{EventfdFlags, eventfd},
    fs::{OFlags, fcntl_getfl, fstat},
    io::{Errno, write},
};

/// Vectors that a device can have.
pub(super) const VECTORS: u32 = 16;

/// Where a message is written, and what.
pub(super) type Place = (u64, u32);

struct Line {
    source: Requester,
    event: OwnedFd,
    raised: AtomicBool,
}

/// The interrupt controller.
#[derive(Default)]
pub struct Controller {
    lines: RwLock<HashMap<Place, Arc<Line>>>,
    delivered: AtomicU64,
    strays: AtomicU64,
}

impl Controller {
    /// Messages that arrived for somebody.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    /// Messages of devices that the unit let pass although nobody was to have them, or that arrived where another device's do: none, unless
    /// the unit fails.
    #[must_use]
    pub fn strays(&self) -> u64 {
        self.strays.load(Ordering::Relaxed)
    }

    /// From now on, a message there of `source` signals `event`.
    pub(super) fn connect(&self, place: Place, source: Requester, event: OwnedFd) {
        let line = Arc::new(Line { source, event, raised: AtomicBool::new(false) });
        self.lines.write().unwrap_or_else(PoisonError::into_inner).insert(place, line);
    }

    /// Nobody hears of the messages of `source` any more.
    pub(super) fn disconnect(&self, source: Requester) {
        let mut lines = self.lines.write().unwrap_or_else(PoisonError::into_inner);
        lines.retain(|_, line| line.source != source);
    }

    /// Tells the client of `source` what arrived, in the thread of its device.
    pub(super) fn signal(&self, source: Requester) {
        let raised: Vec<Arc<Line>> = {
            let lines = self.lines.read().unwrap_or_else(PoisonError::into_inner);
            let raised =
                |line: &&Arc<Line>| line.source == source && line.raised.swap(false, Ordering::Relaxed);
            lines.values().filter(raised).cloned().collect()
        };
        for line in raised {
            // Whoever clears the flag that was checked when it came hears nothing, rather than holding its device up.
            if fcntl_getfl(&line.event).is_ok_and(|flags| flags.contains(OFlags::NONBLOCK)) {
                // A counter that is full says what is to be said.
                let _ = write(&line.event, &1u64.to_ne_bytes());
            }
        }
    }
}

impl InterruptSink for Controller {
    fn send(&self, message: Message) -> Result<(), Undelivered> {
        let lines = self.lines.read().unwrap_or_else(PoisonError::into_inner);
        match lines.get(&(message.address, message.data)) {
            Some(line) if message.source == Some(line.source) => {
                line.raised.store(true, Ordering::Relaxed);
                self.delivered.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            _ => {
                self.strays.fetch_add(1, Ordering::Relaxed);
                Err(Undelivered { address: message.address })
            }
        }
    }
}

/// Why a client's descriptor is of no use as an event descriptor, if it is of none.
pub(super) fn unfit(event: &OwnedFd) -> Option<String> {
    let of = |descriptor: rustix::fd::BorrowedFd<'_>| -> Result<_, Errno> {
        let stat = fstat(descriptor)?;
        Ok((stat.st_dev, stat.st_ino, fcntl_getfl(descriptor)?))
    };
    let known = eventfd(0, EventfdFlags::CLOEXEC).and_then(|own| of(own.as_fd()));
    match (known, of(event.as_fd())) {
        // All of the kernel's descriptors without a file share one node.
        (Ok((device, node, _)), Ok((its, number, _))) if (device, node) != (its, number) => {
            Some("it is no event descriptor (eventfd)".into())
        }
        (Ok(_), Ok((.., flags))) if !flags.contains(OFlags::NONBLOCK) => {
            Some("it could block (EFD_NONBLOCK is not set)".into())
        }
        (Ok(_), Ok(_)) => None,
        (Err(error), _) | (_, Err(error)) => Some(error.to_string()),
    }
}
