//! A small NVMe driver (NVM Express Base 1.4): one admin queue, one I/O queue, one command at a time, no interrupts.
//!
//! Everything that the disk reads and writes lies in one piece of memory, granted at one address: the queues, the answer to
//! Identify, and a buffer for data.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use portcullis_client::device::{Device, Mapped, SharedMemory};

/// Bytes of memory that the driver needs, granted to read and write.
pub(crate) const MEMORY: u64 = 64 << 10;
/// Most bytes of one read or write.
pub(crate) const MOST: usize = 8 << 10;

/// A queue's slots. A queue of 64-byte commands then fills one page.
const DEPTH: u32 = 64;
const PAGE: u64 = 4096;
/// Where in the memory things are.
const ADMIN: u64 = 0;
const IO: u64 = 2 * PAGE;
const ANSWER: u64 = 4 * PAGE;
const DATA: u64 = 8 * PAGE;

/// Registers (3.1).
const CAP: u64 = 0x00;
const CC: u64 = 0x14;
const CSTS: u64 = 0x1c;
const AQA: u64 = 0x24;
const ASQ: u64 = 0x28;
const ACQ: u64 = 0x30;
const DOORBELLS: u64 = 0x1000;

/// Admin commands (5) and NVM commands (6).
const CREATE_IO_SUBMISSION_QUEUE: u32 = 0x01;
const CREATE_IO_COMPLETION_QUEUE: u32 = 0x05;
const IDENTIFY: u32 = 0x06;
const WRITE: u32 = 0x01;
const READ: u32 = 0x02;

/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A pair of queues: commands at `place`, completions a page behind.
struct Queue {
    number: u64,
    place: u64,
    tail: u32,
    head: u32,
    /// What marks a completion of this round (4.6.1).
    phase: bool,
}

/// A disk.
pub(crate) struct Nvme {
    _device: Device,
    registers: Mapped,
    memory: SharedMemory,
    iova: u64,
    /// Bytes between two doorbells.
    stride: u64,
    admin: Queue,
    io: Queue,
    /// Serial number and model.
    pub(crate) name: String,
    /// Bytes of a block.
    pub(crate) block: usize,
    /// Blocks of namespace 1.
    pub(crate) blocks: u64,
}

impl Nvme {
    /// Brings up the disk. `memory` is granted to it at `iova`.
    ///
    /// # Errors
    ///
    /// The disk does not answer, or not as it should.
    pub(crate) fn start(device: Device, memory: SharedMemory, iova: u64) -> io::Result<Self> {
        device.enable()?;
        let registers = device.registers(0)?;
        let queue = |number, place| Queue { number, place, tail: 0, head: 0, phase: true };
        let cap: u64 = registers.read(CAP)?;
        let mut disk = Self {
            _device: device,
            registers,
            memory,
            iova,
            stride: 4 << (cap >> 32 & 0xf),
            admin: queue(0, ADMIN),
            io: queue(1, IO),
            name: String::new(),
            block: 512,
            blocks: 0,
        };
        disk.registers.write(CC, 0u32)?;
        disk.wait_ready(false)?;
        disk.registers.write(AQA, (DEPTH - 1) << 16 | (DEPTH - 1))?;
        disk.registers.write(ASQ, iova + ADMIN)?;
        disk.registers.write(ACQ, iova + ADMIN + PAGE)?;
        // Completions of 16 bytes, commands of 64, pages of 4 KiB, enabled (3.1.5).
        disk.registers.write(CC, 4u32 << 20 | 6 << 16 | 1)?;
        disk.wait_ready(true)?;
        disk.identify()?;
        let shape = (DEPTH - 1) << 16 | 1;
        // Physically contiguous; without interrupts; commands go to completion queue 1.
        disk.command(true, [CREATE_IO_COMPLETION_QUEUE, 0], iova + IO + PAGE, 0, [shape, 1, 0])?;
        disk.command(true, [CREATE_IO_SUBMISSION_QUEUE, 0], iova + IO, 0, [shape, 1 << 16 | 1, 0])?;
        Ok(disk)
    }

    /// Reads whole blocks, from block `first` on.
    ///
    /// # Errors
    ///
    /// The disk's, in words; [`io::ErrorKind::TimedOut`] where it does not answer.
    pub(crate) fn read(&mut self, first: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.transfer(READ, first, bytes.len(), self.iova + DATA)?;
        self.memory.read_bytes(DATA, bytes)
    }

    /// Writes whole blocks, from block `first` on.
    ///
    /// # Errors
    ///
    /// As [`Nvme::read`].
    pub(crate) fn write(&mut self, first: u64, bytes: &[u8]) -> io::Result<()> {
        self.memory.write_bytes(DATA, bytes)?;
        self.transfer(WRITE, first, bytes.len(), self.iova + DATA)
    }

    /// Reads whole blocks to wherever the disk can be told: what the grants are for.
    ///
    /// # Errors
    ///
    /// As [`Nvme::read`].
    pub(crate) fn read_to(&mut self, first: u64, bytes: usize, address: u64) -> io::Result<()> {
        self.transfer(READ, first, bytes, address)
    }

    fn transfer(&mut self, opcode: u32, first: u64, bytes: usize, address: u64) -> io::Result<()> {
        let blocks = bytes / self.block;
        if bytes == 0 || !bytes.is_multiple_of(self.block) || bytes > MOST {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{bytes} bytes are not some blocks"),
            ));
        }
        // 6.9: the number of blocks is counted from 0; two pages need no list.
        let count = blocks as u32 - 1;
        let range = [first as u32, (first >> 32) as u32, count];
        self.command(false, [opcode, 1], address, address + PAGE, range)
    }

    fn identify(&mut self) -> io::Result<()> {
        // 5.15: controller (CNS 1), then namespace 1 (CNS 0).
        self.command(true, [IDENTIFY, 0], self.iova + ANSWER, 0, [1, 0, 0])?;
        let mut names = [0; 60];
        self.memory.read_bytes(ANSWER + 4, &mut names)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        self.name = format!("{} {}", text(&names[..20]), text(&names[20..]));
        self.command(true, [IDENTIFY, 1], self.iova + ANSWER, 0, [0, 0, 0])?;
        self.blocks = self.memory.read(ANSWER)?;
        let format: u8 = self.memory.read(ANSWER + 26)?;
        let shape: u32 = self.memory.read(ANSWER + 128 + 4 * u64::from(format & 0xf))?;
        self.block = 1 << (shape >> 16 & 0x1f).min(12);
        Ok(())
    }

    /// One command and its completion. `head` is opcode and namespace, `tail` dwords 10 to 12.
    fn command(
        &mut self,
        admin: bool,
        head: [u32; 2],
        first: u64,
        second: u64,
        tail: [u32; 3],
    ) -> io::Result<()> {
        let queue = if admin { &mut self.admin } else { &mut self.io };
        let slot = queue.place + 64 * u64::from(queue.tail);
        let mut words = [0u32; 16];
        words[0] = head[0] | queue.tail << 16;
        words[1] = head[1];
        words[6..8].copy_from_slice(&[first as u32, (first >> 32) as u32]);
        words[8..10].copy_from_slice(&[second as u32, (second >> 32) as u32]);
        words[10..13].copy_from_slice(&tail);
        for (index, word) in words.iter().enumerate() {
            self.memory.write(slot + 4 * index as u64, *word)?;
        }
        queue.tail = (queue.tail + 1) % DEPTH;
        let doorbell = DOORBELLS + 2 * queue.number * self.stride;
        self.registers.write(doorbell, queue.tail)?;
        let deadline = Instant::now() + PATIENCE;
        let completion = queue.place + PAGE + 16 * u64::from(queue.head);
        let status = loop {
            let word: u32 = self.memory.read(completion + 12)?;
            if (word >> 16 & 1 == 1) == queue.phase {
                break word >> 17;
            }
            if self.registers.read::<u32>(CSTS)? & 2 != 0 {
                return Err(io::Error::other("the disk reports a fatal error"));
            }
            if Instant::now() > deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
            thread::yield_now();
        };
        queue.head = (queue.head + 1) % DEPTH;
        queue.phase ^= queue.head == 0;
        self.registers.write(doorbell + self.stride, queue.head)?;
        if status & 0x7ff == 0 {
            Ok(())
        } else {
            Err(io::Error::other(format!("the disk answers with status {:#x} (4.6.1)", status & 0x7ff)))
        }
    }

    fn wait_ready(&self, ready: bool) -> io::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while (self.registers.read::<u32>(CSTS)? & 1 == 1) != ready {
            if Instant::now() > deadline {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the disk does not become ready"));
            }
            thread::yield_now();
        }
        Ok(())
    }
}
