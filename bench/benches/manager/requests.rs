//! One client's requests over the socket, of a device that is attached: the entries of the unit's tables are written.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use portcullis_client::Client;
use portcullis_client::api::{Access, MapRequest, Range};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use crate::process::Service;
use crate::rows::{Rows, Wanted};

const BATCHED: &str = "map requests of a page, 1024 a call";
const BATCHED_UNMAP: &str = "unmap requests of a page, 1024 a call";
const SINGLE: &str = "calls with one request, map and unmap by turns";
const LARGE: &str = "grant of 64 GiB in one request, median of 200";
const LARGE_WORST: &str = "grant of 64 GiB in one request, slowest of 200";

pub(crate) const NAMES: [&str; 5] = [BATCHED, BATCHED_UNMAP, SINGLE, LARGE, LARGE_WORST];

const PAGE: u64 = 4096;
const BATCH: u64 = 1024;
/// Pages that are mapped before all are unmapped: 256 MiB.
const PAGES: u64 = 1 << 16;
const BASE: u64 = 1 << 32;
const LONG: u64 = 64 << 30;

/// A client with a device, a space and a memory.
struct Seat {
    client: Client,
    space: u64,
    memory: u64,
}

impl Seat {
    fn take(service: &Service, device: &str, bytes: u64) -> Result<Self> {
        let mut client = service.connect()?;
        client.claim(device)?;
        let space = client.create_space()?;
        client.attach(space, device, None)?;
        let file = memfd_create("bench", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&file, bytes)?;
        let memory = client.add_memory(&file)?.memory;
        Ok(Self { client, space, memory })
    }

    fn map(&mut self, first: u64, count: u64, length: u64) -> Result<Duration> {
        let asked = (0..count).map(|number| MapRequest {
            offset: (first + number) * length,
            iova: Some(BASE + (first + number) * length),
            length,
            access: Access::READ_WRITE,
        });
        let started = Instant::now();
        let granted = self.client.map(self.space, Some(self.memory), asked.collect())?;
        let took = started.elapsed();
        ensure!(granted.len() as u64 == count, "{} of {count} were granted", granted.len());
        Ok(took)
    }

    fn unmap(&mut self, first: u64, count: u64, length: u64) -> Result<Duration> {
        let ranges = (first..first + count).map(|number| Range { iova: BASE + number * length, length });
        let started = Instant::now();
        let removed = self.client.unmap(self.space, ranges.collect())?;
        let took = started.elapsed();
        ensure!(removed.mappings == count, "{} of {count} were revoked", removed.mappings);
        Ok(took)
    }
}

/// Measures them one after the other.
pub(crate) fn measure(service: &Service, rows: &mut Rows) -> Result<()> {
    if rows.wants(&[BATCHED, BATCHED_UNMAP]) {
        let mut seat = Seat::take(service, "nic0", PAGES * PAGE)?;
        let (mut map, mut unmap) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..8 {
            for first in (0..PAGES).step_by(BATCH as usize) {
                map += seat.map(first, BATCH, PAGE)?;
            }
            for first in (0..PAGES).step_by(BATCH as usize) {
                unmap += seat.unmap(first, BATCH, PAGE)?;
            }
        }
        let a_minute = |took: Duration| 8.0 * PAGES as f64 / took.as_secs_f64() * 60.0;
        rows.put(BATCHED, a_minute(map), "a minute", Wanted::AtLeast(10e6));
        rows.put(BATCHED_UNMAP, a_minute(unmap), "a minute", Wanted::Told);
    }
    if rows.wants(&[SINGLE]) {
        let mut seat = Seat::take(service, "nic1", PAGES * PAGE)?;
        let calls = 100_000;
        let started = Instant::now();
        for number in 0..calls / 2 {
            seat.map(number, 1, PAGE)?;
            seat.unmap(number, 1, PAGE)?;
        }
        let a_second = calls as f64 / started.elapsed().as_secs_f64();
        rows.put(SINGLE, a_second, "a second", Wanted::AtLeast(20e3));
    }
    if rows.wants(&[LARGE, LARGE_WORST]) {
        let mut seat = Seat::take(service, "nic2", LONG)?;
        let mut times = Vec::new();
        for _ in 0..200 {
            times.push(seat.map(0, 1, LONG)?.as_secs_f64() * 1e3);
            seat.unmap(0, 1, LONG)?;
        }
        times.sort_by(f64::total_cmp);
        rows.put(LARGE, times[times.len() / 2], "ms", Wanted::AtMost(1.0));
        rows.put(LARGE_WORST, times[times.len() - 1], "ms", Wanted::Told);
    }
    Ok(())
}
