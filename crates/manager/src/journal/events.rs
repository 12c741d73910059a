//! What happened, for a while: claims, attachments, devices that came and went. Not every grant: there are too many.

use std::collections::VecDeque;

use portcullis_client::api;

use super::EventsOnDisk;

/// Which events are wanted; every field narrows.
#[derive(Clone, Copy, Debug)]
pub struct WantedEvents<'a> {
    /// Of this device.
    pub device: Option<&'a str>,
    /// Of this client.
    pub client: Option<&'a str>,
    /// Not before, in nanoseconds since the Unix epoch.
    pub since: u64,
    /// Not after; 0 for no end.
    pub until: u64,
    /// With a higher number.
    pub after: u64,
    /// With a lower number.
    pub before: u64,
}

/// Events that are kept.
#[derive(Debug)]
pub struct Events {
    ring: VecDeque<api::Event>,
    capacity: usize,
    next: u64,
    disk: Option<EventsOnDisk>,
}

impl Events {
    /// Keeps the last `capacity`, and writes them to disk where there is one; what is there already comes first. Lines of it that
    /// cannot be read are told to the system's journal.
    #[must_use]
    pub fn new(capacity: usize, disk: Option<EventsOnDisk>) -> Self {
        let former = disk.as_ref().map(|disk| disk.former(capacity)).unwrap_or_default();
        if former.unreadable != 0 {
            tracing::warn!("{} lines of the events of before make no sense", former.unreadable);
        }
        Self { ring: former.records, capacity: capacity.max(1), next: former.last.saturating_add(1), disk }
    }

    /// Keeps an event, and gives it its number.
    pub fn push(&mut self, event: &mut api::Event) {
        event.number = Some(self.next);
        self.next = self.next.saturating_add(1);
        if self.ring.len() >= self.capacity {
            self.ring.pop_front();
        }
        self.ring.push_back(event.clone());
        if let Some(disk) = &mut self.disk {
            disk.write(event);
        }
    }

    /// Makes what was kept outlive the process.
    pub fn flush(&mut self) {
        if let Some(disk) = &mut self.disk {
            disk.flush();
        }
    }

    /// Events that are wanted, oldest first.
    pub fn wanted<'a>(
        &'a self,
        wanted: &'a WantedEvents<'a>,
    ) -> impl DoubleEndedIterator<Item = &'a api::Event> {
        self.ring.iter().filter(move |event| {
            let number = event.number.unwrap_or(0);
            event.time >= wanted.since
                && (wanted.until == 0 || event.time <= wanted.until)
                && (number > wanted.after || wanted.after == 0)
                && number < wanted.before
                && wanted.device.is_none_or(|name| event.devices.iter().any(|device| device == name))
                && wanted.client.is_none_or(|name| event.client.as_deref() == Some(name))
        })
    }
}
