//! One client's requests over the socket, of a device that is attached: the entries of the unit's tables are written.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use portcullis_client::Client;
use portcullis_client::api::{Access, MapRequest, Range};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use portcullis_bench::result::{Goal, Row};

use super::process::Service;
use crate::Effort;

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

/// They come one after the other, from one client that waits for each answer.
pub(super) fn rows(service: &Service, effort: Effort) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut seat = Seat::take(service, "nic0", PAGES * PAGE)?;
    let (mut map, mut unmap, mut turns) = (Duration::ZERO, Duration::ZERO, 0);
    while map < effort.contest {
        for first in (0..PAGES).step_by(BATCH as usize) {
            map += seat.map(first, BATCH, PAGE)?;
        }
        for first in (0..PAGES).step_by(BATCH as usize) {
            unmap += seat.unmap(first, BATCH, PAGE)?;
        }
        turns += 1;
    }
    // A minute's, in millions.
    let a_minute = |took: Duration| f64::from(turns) * PAGES as f64 / took.as_secs_f64() * 60.0 / 1e6;
    rows.push(Row::new("manager/map/1024-a-call", "M/min", a_minute(map), Goal::AtLeast(10.0)));
    rows.push(Row::new("manager/unmap/1024-a-call", "M/min", a_minute(unmap), Goal::None));

    let mut seat = Seat::take(service, "nic1", PAGES * PAGE)?;
    let started = Instant::now();
    let mut calls = 0;
    while started.elapsed() < effort.contest {
        for page in 0..256 {
            seat.map(page, 1, PAGE)?;
            seat.unmap(page, 1, PAGE)?;
        }
        calls += 512;
    }
    let a_second = f64::from(calls) / started.elapsed().as_secs_f64();
    rows.push(Row::new("manager/map-and-unmap/1-a-call", "calls/s", a_second, Goal::AtLeast(20e3)));

    let mut seat = Seat::take(service, "nic2", LONG)?;
    let mut times = Vec::new();
    for _ in 0..200 {
        times.push(seat.map(0, 1, LONG)?.as_secs_f64() * 1e6);
        seat.unmap(0, 1, LONG)?;
    }
    times.sort_by(f64::total_cmp);
    rows.push(Row::new("manager/map/64-GiB/median", "us", times[times.len() / 2], Goal::AtMost(1000.0)));
    rows.push(Row::new("manager/map/64-GiB/slowest", "us", times[times.len() - 1], Goal::None));
    Ok(rows)
}
