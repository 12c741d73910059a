//! Simulated devices that are put in and pulled out while the machine runs.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
};

use rustix::{
    event::{EventfdFlags, eventfd},
    io::{read, write},
};

use super::device::Kind;

/// What somebody did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Plug {
    In(String, Kind),
    Out(String),
}

/// The machine's slots. Clones are the same slots.
#[derive(Clone, Debug)]
pub struct Plugs {
    done: Arc<Mutex<Vec<Plug>>>,
    signal: Arc<OwnedFd>,
}

impl Plugs {
    pub(super) fn new() -> io::Result<Self> {
        let signal = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { done: Arc::default(), signal: Arc::new(signal) })
    }

    /// Puts a device in, under a name that no other has. It is blocked.
    pub fn put_in(&self, name: &str, kind: Kind) {
        self.tell(Plug::In(name.to_owned(), kind));
    }

    /// Pulls a device out.
    pub fn pull_out(&self, name: &str) {
        self.tell(Plug::Out(name.to_owned()));
    }

    fn tell(&self, plug: Plug) {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).push(plug);
        // A counter that is full says what is to be said.
        let _ = write(&*self.signal, &1u64.to_ne_bytes());
    }

    pub(super) fn signal(&self) -> Option<OwnedFd> {
        self.signal.try_clone().ok()
    }

    pub(super) fn take(&self) -> Vec<Plug> {
        let _ = read(&*self.signal, &mut [0; 8]);
        std::mem::take(&mut *self.done.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
