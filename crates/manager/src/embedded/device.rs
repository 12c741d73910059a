//! Simulated devices: what they can do, and how a client that has one tells it to.
//!
//! A device's descriptor is one end of a socket that keeps packets apart. A client sends a [`Command`] of 32 bytes and gets an
//! [`Answer`] of 16, in order. All memory that a device touches it touches by DMA through the unit, and so does its queue:
//! [`Operation::Stream`] names a ring of buffers in memory that the network card fills round and round until told to stop.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use portcullis_model::AccessError;
use portcullis_spec::{InterruptMessage, Iova, Pasid, Requester};
use rustix::{
    event::{PollFd, PollFlags, poll},
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair},
};

use super::{Controller, Embedded, Engine, Machine};

/// Bytes of a block of the disk.
const BLOCK: u64 = 512;
/// Blocks that the disk has.
const BLOCKS: u64 = 1 << 15;
/// Bytes that one command moves at most.
const LONGEST: u64 = 16 << 20;
/// Entries of a ring.
const RING: u64 = 4096;

/// What a simulated device is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A network card, which streams into a ring of buffers.
    Network,
    /// A disk of 16 MiB.
    Disk,
    /// An accelerator with PASIDs, which copies and adds up.
    Accelerator,
    /// A device that does whatever it likes.
    Rogue,
}

impl Kind {
    /// Every kind: its word, and what its devices' names begin with.
    pub const ALL: [(&'static str, &'static str, Self); 4] = [
        ("network", "nic", Self::Network),
        ("disk", "disk", Self::Disk),
        ("accelerator", "accel", Self::Accelerator),
        ("rogue", "rogue", Self::Rogue),
    ];

    /// For people.
    #[must_use]
    pub fn description(self) -> &'static str {
        match self {
            Self::Network => "simulated network card",
            Self::Disk => "simulated disk of 16 MiB",
            Self::Accelerator => "simulated accelerator with PASIDs",
            Self::Rogue => "simulated device that tries what it may not",
        }
    }
}

/// What a device is told to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Operation {
    /// Write the eight bytes `argument` at `address`.
    Write = 1,
    /// Read eight bytes at `address`: the answer's value.
    Read = 2,
    /// Copy `length` bytes from `address` to `argument`.
    Copy = 3,
    /// Add up `length` bytes from `address` on: the answer's value.
    Sum = 4,
    /// Disk: read `length` bytes from block `argument` on into memory at `address`.
    ReadBlocks = 5,
    /// Disk: write `length` bytes of memory at `address` from block `argument` on.
    WriteBlocks = 6,
    /// Network card: fill the ring of `length` buffers at `address` round and round, `argument` buffers a second. An entry is an
    /// address and a length of eight bytes each.
    Stream = 7,
    /// Stop streaming. The answer's value is the number of buffers that were filled.
    Stop = 8,
    /// Rogue: at `address`, read, write and send interrupts for `length` rounds, `argument` rounds a second. The answer comes at
    /// once.
    Attack = 9,
    /// Send the interrupt of vector `argument`. A rogue goes on sending the last that it had when it has none any more.
    Interrupt = 10,
    /// Rogue: write the low `length` bytes of `argument`, up to 8, at `address`, without being asked what for.
    Forge = 11,
}

impl Operation {
    fn from_number(number: u32) -> Option<Self> {
        use Operation::*;
        [Write, Read, Copy, Sum, ReadBlocks, WriteBlocks, Stream, Stop, Attack, Interrupt, Forge]
            .into_iter()
            .find(|o| *o as u32 == number)
    }
}

/// One command: five numbers, little-endian, of 4, 4, 8, 8 and 8 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Command {
    /// What to do.
    pub operation: Operation,
    /// The PASID to do it with.
    pub pasid: Option<Pasid>,
    /// Where.
    pub address: u64,
    /// How much.
    pub length: u64,
    /// What else the operation needs.
    pub argument: u64,
}

/// Stands where a command has no PASID.
const NO_PASID: u32 = u32::MAX;

impl Command {
    /// A command without a PASID.
    #[must_use]
    pub fn new(operation: Operation, address: u64, length: u64, argument: u64) -> Self {
        Self { operation, pasid: None, address, length, argument }
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes[0..4].copy_from_slice(&(self.operation as u32).to_le_bytes());
        bytes[4..8].copy_from_slice(&self.pasid.map_or(NO_PASID, Pasid::value).to_le_bytes());
        bytes[8..16].copy_from_slice(&self.address.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.length.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.argument.to_le_bytes());
        bytes
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 32] = bytes.try_into().ok()?;
        let word = |at: usize| bytes[at..at + 8].try_into().map(u64::from_le_bytes).ok();
        let first = word(0)?;
        let pasid = (first >> 32) as u32;
        Some(Self {
            operation: Operation::from_number(first as u32)?,
            pasid: if pasid == NO_PASID { None } else { Some(Pasid::new(pasid)?) },
            address: word(8)?,
            length: word(16)?,
            argument: word(24)?,
        })
    }

    /// Sends it to a device and waits for the answer.
    ///
    /// # Errors
    ///
    /// The system's; [`io::ErrorKind::UnexpectedEof`] where the device was taken away.
    pub fn send(&self, device: &OwnedFd) -> io::Result<Answer> {
        send(device, &self.bytes(), SendFlags::NOSIGNAL)?;
        let mut bytes = [0; 16];
        let (count, _) = recv(device, &mut bytes[..], RecvFlags::empty())?;
        if count != bytes.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let word = |at: usize| bytes[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
        Ok(Answer { outcome: Outcome::from_number(word(0)), value: word(8) })
    }
}

/// How a command ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum Outcome {
    /// Done.
    Done = 0,
    /// The unit refused an access, or nothing is there.
    Refused = 1,
    /// The device cannot do that.
    Unsupported = 2,
}

impl Outcome {
    fn from_number(number: u64) -> Self {
        match number {
            0 => Self::Done,
            1 => Self::Refused,
            _ => Self::Unsupported,
        }
    }
}

/// A device's answer: two numbers of eight bytes, little-endian.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// How it ended.
    pub outcome: Outcome,
    /// What the operation found.
    pub value: u64,
}

/// A device that does DMA by itself until it is told to stop.
struct Work {
    command: Command,
    done: u64,
}

/// What keeps a device from doing DMA: each burst holds the lock.
#[derive(Default)]
struct Gate {
    stopped: Mutex<bool>,
    changed: Condvar,
}

/// Where devices get their way to memory from.
pub(super) trait Dma: Send + Sync {
    fn dma(&self, requester: Requester, pasid: Option<Pasid>) -> Engine;
}

impl<M: Machine> Dma for Embedded<M> {
    fn dma(&self, requester: Requester, pasid: Option<Pasid>) -> Engine {
        self.engine(requester, pasid)
    }
}

/// A simulated device.
pub(super) struct Simulated {
    pub(super) kind: Kind,
    pub(super) requester: Requester,
    gate: Arc<Gate>,
    requests: Arc<AtomicU64>,
    /// What it is to write for its vectors: its MSI-X table.
    messages: Arc<Mutex<Vec<InterruptMessage>>>,
    controller: Arc<Controller>,
    /// It was pulled out.
    pub(super) gone: bool,
    /// The device's end of the socket; another claim makes another.
    socket: Option<Arc<OwnedFd>>,
}

impl Simulated {
    pub(super) fn new(kind: Kind, requester: Requester, controller: Arc<Controller>) -> Self {
        let gate = Gate { stopped: Mutex::new(true), changed: Condvar::new() };
        Self {
            kind,
            requester,
            gate: Arc::new(gate),
            requests: Arc::default(),
            messages: Arc::default(),
            controller,
            gone: false,
            socket: None,
        }
    }

    /// Fills its MSI-X table.
    pub(super) fn set_messages(&self, messages: Vec<InterruptMessage>) {
        *self.messages.lock().unwrap_or_else(PoisonError::into_inner) = messages;
    }

    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Lets the device work for whoever gets its descriptor.
    pub(super) fn start(&mut self, platform: Arc<dyn Dma>) -> io::Result<OwnedFd> {
        let kind = SocketType::SEQPACKET;
        let (theirs, ours) = socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
        self.go_on(platform, ours)?;
        Ok(theirs)
    }

    /// The device's end of the socket by which it is told what to do.
    pub(super) fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_deref().map(OwnedFd::as_fd)
    }

    /// Lets the device do what it is told through a socket.
    pub(super) fn go_on(&mut self, platform: Arc<dyn Dma>, ours: OwnedFd) -> io::Result<()> {
        let ours = Arc::new(ours);
        let worker = Worker {
            kind: self.kind,
            requester: self.requester,
            platform,
            gate: self.gate.clone(),
            requests: self.requests.clone(),
            messages: self.messages.clone(),
            controller: self.controller.clone(),
            remembered: Vec::new(),
            blocks: Vec::new(),
        };
        let socket = ours.clone();
        let name = format!("{:?}", self.kind).to_lowercase();
        std::thread::Builder::new().name(name).spawn(move || worker.run(&socket))?;
        // One client at a time: the last one's socket ends here, and its thread with it.
        self.stop();
        self.socket = Some(ours);
        *self.gate.stopped.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.gate.changed.notify_all();
        Ok(())
    }

    /// Stops DMA; on return none is in progress. The thread ends with its socket.
    pub(super) fn stop(&mut self) {
        *self.gate.stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        if let Some(socket) = self.socket.take() {
            let _ = rustix::net::shutdown(&*socket, rustix::net::Shutdown::Both);
        }
    }
}

struct Worker {
    kind: Kind,
    requester: Requester,
    platform: Arc<dyn Dma>,
    gate: Arc<Gate>,
    requests: Arc<AtomicU64>,
    messages: Arc<Mutex<Vec<InterruptMessage>>>,
    controller: Arc<Controller>,
    /// The rogue's: messages that it had.
    remembered: Vec<InterruptMessage>,
    /// The disk's, made at the first use.
    blocks: Vec<u8>,
}

impl Worker {
    fn run(mut self, socket: &OwnedFd) {
        let mut work: Option<Work> = None;
        loop {
            if let Some(busy) = &mut work {
                let pause = Duration::from_secs(1)
                    / u32::try_from(busy.command.argument.clamp(1, 1_000_000)).unwrap_or(1);
                let timeout =
                    rustix::event::Timespec { tv_sec: 0, tv_nsec: i64::from(pause.subsec_nanos().max(1)) };
                let mut waiting = [PollFd::new(socket, PollFlags::IN)];
                if poll(&mut waiting, Some(&timeout)).is_ok_and(|ready| ready == 0) {
                    if !self.round(busy) {
                        work = None;
                    }
                    continue;
                }
            }
            let mut bytes = [0; 64];
            let Ok((count @ 1.., _)) = recv(socket, &mut bytes[..], RecvFlags::empty()) else { return };
            let answer = match Command::read(&bytes[..count]) {
                Some(command) => self.obey(&command, &mut work),
                None => Answer { outcome: Outcome::Unsupported, value: 0 },
            };
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&(answer.outcome as u64).to_le_bytes());
            bytes[8..].copy_from_slice(&answer.value.to_le_bytes());
            if send(socket, &bytes, SendFlags::NOSIGNAL).is_err() {
                return;
            }
        }
    }

    /// One burst of DMA, unless the device was stopped.
    fn burst(
        &self,
        pasid: Option<Pasid>,
        access: impl FnOnce(&Engine) -> Result<u64, AccessError>,
    ) -> Answer {
        let stopped = self.gate.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        if *stopped {
            return Answer { outcome: Outcome::Refused, value: 0 };
        }
        match access(&self.platform.dma(self.requester, pasid)) {
            Ok(value) => {
                self.requests.fetch_add(1, Ordering::Relaxed);
                Answer { outcome: Outcome::Done, value }
            }
            Err(_) => Answer { outcome: Outcome::Refused, value: 0 },
        }
    }

    /// Sends the interrupt of a vector, where the device has it.
    fn interrupt(&mut self, vector: u64) -> Answer {
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if self.kind == Kind::Rogue {
            match messages.is_empty() {
                true => messages.clone_from(&self.remembered),
                false => self.remembered.clone_from(&messages),
            }
        }
        let message = usize::try_from(vector).ok().and_then(|vector| messages.get(vector));
        let Some(&InterruptMessage { address, data }) = message else {
            return Answer { outcome: Outcome::Unsupported, value: 0 };
        };
        self.burst(None, |e| e.write(address, &data.to_le_bytes()).map(|()| 0))
    }

    /// Obeys, and says by an interrupt that it has, where it is a command that takes time and the device has a vector.
    fn obey(&mut self, command: &Command, work: &mut Option<Work>) -> Answer {
        let answer = self.carry_out(command, work);
        let takes_time = matches!(
            command.operation,
            Operation::Copy | Operation::Sum | Operation::ReadBlocks | Operation::WriteBlocks
        );
        if takes_time && answer.outcome == Outcome::Done {
            self.interrupt(0);
        }
        self.controller.signal(self.requester);
        answer
    }

    fn carry_out(&mut self, command: &Command, work: &mut Option<Work>) -> Answer {
        let unsupported = Answer { outcome: Outcome::Unsupported, value: 0 };
        let Command { operation, pasid, address, length, argument } = *command;
        let at = Iova(address);
        if length > LONGEST {
            return unsupported;
        }
        match (operation, self.kind) {
            (Operation::Write, _) => self.burst(pasid, |e| e.write(at, &argument.to_le_bytes()).map(|()| 0)),
            (Operation::Read, _) => self.burst(pasid, |e| {
                let mut bytes = [0; 8];
                e.read(at, &mut bytes).map(|()| u64::from_le_bytes(bytes))
            }),
            (Operation::Copy, Kind::Accelerator | Kind::Rogue) => {
                self.burst(pasid, |e| e.copy(at, Iova(argument), length).map(|()| length))
            }
            (Operation::Sum, Kind::Accelerator) => self.burst(pasid, |e| {
                let mut bytes = vec![0; length as usize];
                e.read(at, &mut bytes)?;
                Ok(bytes.iter().map(|&byte| u64::from(byte)).sum())
            }),
            (Operation::ReadBlocks | Operation::WriteBlocks, Kind::Disk) => {
                let first = argument.checked_mul(BLOCK);
                let end =
                    first.and_then(|first| first.checked_add(length)).filter(|&end| end <= BLOCKS * BLOCK);
                let (Some(first), Some(end)) = (first, end) else { return unsupported };
                let mut blocks = std::mem::take(&mut self.blocks);
                blocks.resize((BLOCKS * BLOCK) as usize, 0);
                let part = &mut blocks[first as usize..end as usize];
                let answer = self.burst(pasid, |e| {
                    if operation == Operation::ReadBlocks { e.write(at, part) } else { e.read(at, part) }
                        .map(|()| length)
                });
                self.blocks = blocks;
                answer
            }
            (Operation::Stream, Kind::Network) if (1..=RING).contains(&length) => {
                *work = Some(Work { command: *command, done: 0 });
                Answer { outcome: Outcome::Done, value: 0 }
            }
            (Operation::Attack, Kind::Rogue) => {
                *work = Some(Work { command: *command, done: 0 });
                Answer { outcome: Outcome::Done, value: 0 }
            }
            (Operation::Interrupt, _) => self.interrupt(argument),
            (Operation::Forge, Kind::Rogue) if length <= 8 => {
                let bytes = argument.to_le_bytes();
                self.burst(pasid, |e| e.write(at, &bytes[..length as usize]).map(|()| 0))
            }
            (Operation::Stop, _) => {
                let done = work.take().map_or(0, |work| work.done);
                Answer { outcome: Outcome::Done, value: done }
            }
            _ => unsupported,
        }
    }

    /// One round of what the device does by itself. Whether it goes on.
    fn round(&mut self, work: &mut Work) -> bool {
        let Command { pasid, address, length, .. } = work.command;
        if self.kind == Kind::Network {
            let entry = Iova(address.wrapping_add(work.done % length * 16));
            let filled = self.burst(pasid, |e| {
                let mut bytes = [0; 16];
                e.read(entry, &mut bytes)?;
                let [buffer, length] =
                    [0, 8].map(|at| bytes[at..at + 8].try_into().map_or(0, u64::from_le_bytes));
                let frame = vec![work.done as u8; length.min(9000) as usize];
                e.write(Iova(buffer), &frame).map(|()| 0)
            });
            if filled.outcome == Outcome::Done {
                work.done += 1;
                self.interrupt(0);
                self.controller.signal(self.requester);
            }
            return true;
        }
        // Near and far neighbours, the range of interrupts, where tables and others' memory might be, and beyond every width.
        let targets =
            [address, address ^ 0x1000, address.wrapping_add(0x20_0000), 0, 0x1_0000, 1 << 32, 1 << 60];
        let (turn, target) = (work.done / targets.len() as u64, work.done % targets.len() as u64);
        match targets[target as usize] {
            0 => self.forge(turn),
            target => {
                let target = Iova(target);
                self.burst(pasid, |e| e.read(target, &mut [0; 8]).map(|()| 0));
                self.burst(pasid, |e| e.write(target, &[0x66; 8]).map(|()| 0));
            }
        }
        work.done += 1;
        work.done < length
    }

    /// One interrupt that is not the device's to send, each turn another.
    fn forge(&mut self, turn: u64) {
        let write = |address: u64, data: u64, length: usize| {
            self.burst(None, |e| e.write(Iova(address), &data.to_le_bytes()[..length]).map(|()| 0));
        };
        // A request for an entry of the interrupt table: in bits 19:5, with the format bit 4 and, in 3, whether the data count.
        let entry = turn / 8 % (1 << 15);
        match turn % 8 {
            // As a processor takes them, of any kind: a vector, SMI, NMI, INIT, start-up.
            0 => write(0xfee0_1000, 0x4041, 4),
            1 => write(0xfeef_f00c, [0x200, 0x400, 0x500, 0x600][(turn / 8 % 4) as usize], 4),
            // Others' entries, one after the other.
            2 => write(0xfee0_0010 | entry << 5, 0, 4),
            3 => write(0xfee0_0018, entry, 4),
            // Malformed: reserved data, too long, too short, and an index beyond every table.
            4 => write(0xfee0_0018, 0x1_0000 | entry, 4),
            5 => write(0xfee0_0010, 0x4041, 8),
            6 => write(0xfee0_0012, 0x41, 2),
            _ => write(0xfeef_fffc, 0xffff, 4),
        }
    }
}

#[cfg(test)]
mod tests {
    use portcullis_spec::Pasid;

    use super::{Command, Operation};

    #[test]
    fn commands_are_read_as_they_are_written() {
        for number in 1..=11 {
            let operation = Operation::from_number(number).unwrap();
            assert_eq!(operation as u32, number);
            for pasid in [None, Pasid::new(0), Pasid::new(0xf_ffff)] {
                let command = Command { pasid, ..Command::new(operation, 1, u64::MAX, 3) };
                assert_eq!(Command::read(&command.bytes()), Some(command));
            }
        }
        assert_eq!(Operation::from_number(0), None);
        assert_eq!(Command::read(&[0; 32]), None);
        assert_eq!(Command::read(&[1; 31]), None);
    }
}
