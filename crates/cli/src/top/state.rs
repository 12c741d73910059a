//! What the view shows, and what keys do to it.

use std::{collections::VecDeque, time::Duration};

use portcullis_client::api::{Fault, Status};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde::Serialize;

use super::sample::Sample;

/// Refused accesses that are kept for the view.
const KEPT: usize = 200;

/// One device, between two looks.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row {
    pub(super) device: String,
    /// The client that has it.
    pub(super) holder: Option<String>,
    /// What has it while no client does, or why nobody can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) instead: Option<String>,
    pub(super) unit: Option<String>,
    pub(super) group: u32,
    /// DMA requests that arrived, where that can be counted.
    pub(super) requests: Option<u64>,
    pub(super) requests_per_second: Option<f64>,
    pub(super) faults: u64,
    pub(super) faults_per_second: f64,
}

/// One look, for programs.
#[derive(Serialize)]
pub(super) struct Report<'a> {
    time: u64,
    status: &'a Status,
    devices: &'a [Row],
    faults: &'a [Fault],
}

/// What to sort by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Column {
    Device,
    Holder,
    Requests,
    Faults,
}

impl Column {
    pub(super) const ALL: [Self; 4] = [Self::Device, Self::Holder, Self::Requests, Self::Faults];

    fn beside(self, step: isize) -> Self {
        let here = Self::ALL.iter().position(|&column| column == self).unwrap_or(0);
        let count = Self::ALL.len();
        Self::ALL[here.saturating_add(count).saturating_add_signed(step) % count]
    }
}

/// A name's parts, so that `nic2` comes before `nic10`: what stands before each number, and the number.
fn natural(name: &str) -> Vec<(&str, usize, &str)> {
    let mut parts = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| letter.is_ascii_digit()).unwrap_or(rest.len());
        let (before, from) = rest.split_at(digits);
        let end = from.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(from.len());
        let number = from[..end].trim_start_matches('0');
        // A number of more digits is larger.
        parts.push((before, number.len(), number));
        rest = &from[end..];
    }
    parts
}

/// What a key leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Then {
    GoOn,
    End,
}

/// Everything that the view shows.
pub(super) struct State {
    pub(super) interval: Duration,
    pub(super) sample: Sample,
    pub(super) rows: Vec<Row>,
    /// Refused accesses a second, of all devices.
    pub(super) refused_per_second: f64,
    /// Newest first.
    newest: VecDeque<Fault>,
    pub(super) sort: Column,
    pub(super) descending: bool,
    /// The device that is chosen; it stays chosen wherever it is sorted to.
    chosen: Option<String>,
    /// Only the chosen device's refused accesses.
    pub(super) narrowed: bool,
    pub(super) paused: bool,
    /// Why the last look failed.
    pub(super) trouble: Option<String>,
}

impl State {
    pub(super) fn new(interval: Duration) -> Self {
        Self {
            interval,
            sample: Sample {
                time: 0,
                status: Status::default(),
                devices: Vec::new(),
                statistics: Default::default(),
                faults: Vec::new(),
            },
            rows: Vec::new(),
            refused_per_second: 0.0,
            newest: VecDeque::new(),
            sort: Column::Device,
            descending: false,
            chosen: None,
            narrowed: false,
            paused: false,
            trouble: None,
        }
    }

    /// Takes a look in.
    pub(super) fn take(&mut self, sample: Sample) {
        let before = &self.sample;
        let same = before.time != 0 && before.status.started == sample.status.started;
        let nanoseconds = sample.time.saturating_sub(before.time);
        // Counts begin anew when a device is claimed, and when the service starts.
        let rate = |now: u64, then: Option<u64>| {
            let then = then.filter(|_| same && nanoseconds != 0)?;
            let more = if now < then { now } else { now - then };
            Some(more as f64 * 1e9 / nanoseconds as f64)
        };
        let counts = |sample: &Sample, device: &str| {
            let found = sample.statistics.devices.iter().find(|counts| counts.device == device);
            found.map(|counts| (counts.requests, counts.faults))
        };
        // Both lists come in the same order; where they do not, the device is looked for.
        let row = |(at, device): (usize, &portcullis_client::api::Device)| {
            let of = |sample: &Sample| match sample.statistics.devices.get(at) {
                Some(counts) if counts.device == device.name => Some((counts.requests, counts.faults)),
                _ => counts(sample, &device.name),
            };
            let (requests, faults) = of(&sample).unwrap_or_default();
            let then = of(before);
            let instead = device.quarantine.as_ref().map(|why| format!("nobody: {why}"));
            let driver = || device.driver.as_ref().map(|driver| format!("driver {driver}"));
            Row {
                device: device.name.clone(),
                holder: device.holder.clone(),
                instead: if device.holder.is_some() { None } else { instead.or_else(driver) },
                unit: device.unit.clone(),
                group: device.group,
                requests,
                requests_per_second: requests.and_then(|now| rate(now, then.and_then(|(then, _)| then))),
                faults,
                faults_per_second: rate(faults, then.map(|(_, then)| then)).unwrap_or(0.0),
            }
        };
        let rows = sample.devices.iter().enumerate().map(row).collect();
        let refused = rate(sample.statistics.faults, Some(before.statistics.faults)).unwrap_or(0.0);
        if !same {
            self.newest.clear();
        }
        // After a connection was lost, the same records come again.
        let seen = self.newest.front().map_or(0, |fault| fault.number);
        for fault in sample.faults.iter().filter(|fault| fault.number > seen) {
            self.newest.push_front(fault.clone());
        }
        self.newest.truncate(KEPT);
        (self.rows, self.refused_per_second, self.sample, self.trouble) = (rows, refused, sample, None);
        self.order();
    }

    fn order(&mut self) {
        let sort = self.sort;
        self.rows.sort_by(|one, other| {
            let order = match sort {
                Column::Device => std::cmp::Ordering::Equal,
                // Devices that nobody has come last.
                Column::Holder => {
                    (one.holder.is_none(), &one.holder).cmp(&(other.holder.is_none(), &other.holder))
                }
                Column::Requests => {
                    let rate = |row: &Row| row.requests_per_second.unwrap_or(-1.0);
                    rate(one).total_cmp(&rate(other))
                }
                Column::Faults => one
                    .faults_per_second
                    .total_cmp(&other.faults_per_second)
                    .then(one.faults.cmp(&other.faults)),
            };
            order.then_with(|| natural(&one.device).cmp(&natural(&other.device)))
        });
        if self.descending {
            self.rows.reverse();
        }
    }

    /// Place of the chosen device.
    pub(super) fn chosen(&self) -> Option<usize> {
        let chosen = self.chosen.as_deref()?;
        self.rows.iter().position(|row| row.device == chosen)
    }

    fn choose(&mut self, step: isize) {
        let last = self.rows.len().saturating_sub(1);
        let at = match self.chosen() {
            None if step < 0 => last,
            None => 0,
            Some(at) => at.saturating_add_signed(step).min(last),
        };
        self.chosen = self.rows.get(at).map(|row| row.device.clone());
    }

    fn sort_by(&mut self, column: Column) {
        self.sort = column;
        // Whoever sorts by a rate looks for the highest.
        self.descending = matches!(column, Column::Requests | Column::Faults);
        self.order();
    }

    /// Does what a key says.
    pub(super) fn key(&mut self, key: KeyEvent) -> Then {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c' | 'd') if control => return Then::End,
            KeyCode::Char('q') => return Then::End,
            KeyCode::Esc if self.chosen.is_some() => (self.chosen, self.narrowed) = (None, false),
            KeyCode::Esc => return Then::End,
            KeyCode::Up => self.choose(-1),
            KeyCode::Down => self.choose(1),
            KeyCode::PageUp => self.choose(-10),
            KeyCode::PageDown => self.choose(10),
            KeyCode::Home => self.choose(isize::MIN + 1),
            KeyCode::End => self.choose(isize::MAX),
            KeyCode::Enter => self.narrowed = !self.narrowed && self.chosen().is_some(),
            KeyCode::Left => self.sort_by(self.sort.beside(-1)),
            KeyCode::Right | KeyCode::Char('s') => self.sort_by(self.sort.beside(1)),
            KeyCode::Char('r') => {
                self.descending = !self.descending;
                self.order();
            }
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            _ => {}
        }
        Then::GoOn
    }

    /// The device whose refused accesses are shown alone.
    pub(super) fn only(&self) -> Option<&str> {
        self.chosen.as_deref().filter(|_| self.narrowed)
    }

    /// Refused accesses to show, newest first.
    pub(super) fn newest(&self) -> impl Iterator<Item = &Fault> {
        let only = self.only();
        self.newest
            .iter()
            .filter(move |fault| only.is_none_or(|only| fault.devices.iter().any(|device| device == only)))
    }

    pub(super) fn report(&self) -> Report<'_> {
        Report {
            time: self.sample.time,
            status: &self.sample.status,
            devices: &self.rows,
            faults: &self.sample.faults,
        }
    }
}
