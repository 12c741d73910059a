//! The fault queue (RISC-V IOMMU 3.2), the queues' error bits, and the interrupts that tell of them (5.15 to 5.18, 5.27, 5.28).

use portcullis_spec::PhysAddr;
use portcullis_spec::riscv::fault::{FAULT_RECORD_SIZE, FaultHeader, FaultRecord};
use portcullis_spec::riscv::registers::{Cqcsr, Fqcsr, Icvec, Ipsr, MsiAddr, MsiVecCtl, QueueBase, offset};
use portcullis_spec::riscv::{Cause, TransactionType};

use crate::interrupt::Message;
use crate::memory::GuestMemory;
use crate::registers::{half, put_half};
use crate::ring::Ring;

/// log2 of a fault record's bytes.
const RECORD_SHIFT: u8 = FAULT_RECORD_SIZE.trailing_zeros() as u8;

/// An entry of `msi_cfg_tbl` (5.28).
#[derive(Clone, Copy, Default, Debug, serde::Serialize, serde::Deserialize)]
struct MsiEntry {
    address: u64,
    data: u32,
    control: u32,
}

/// Why a queue stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum QueueError {
    /// `cqmf`.
    Memory,
    /// `cmd_ill`.
    Illegal,
}

/// An interrupt cause: the bit of `ipsr`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Source {
    Commands = 0,
    Faults = 1,
    Counters = 2,
}

/// All registers that report something to software.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct Events {
    cqcsr: Cqcsr,
    fqcsr: Fqcsr,
    fqb: u64,
    fqh: u32,
    fqt: u32,
    ipsr: Ipsr,
    icvec: u64,
    vectors: u8,
    /// `msi_cfg_tbl`; empty where the unit sends no messages.
    entries: Vec<MsiEntry>,
    /// Vectors whose message waits for its mask to be cleared.
    pending: u16,
    /// Faults since reset of which no record was written.
    pub(super) unrecorded: u64,
    /// `fctl.WSI`.
    pub(super) wired: bool,
    /// `fctl.BE`.
    pub(super) big_endian: bool,
    /// Messages to be sent, with their vectors' addresses.
    #[serde(skip)]
    messages: Vec<Message>,
}

impl Events {
    /// After reset, with `vectors` interrupt vectors, for messages too or for wires alone.
    pub(super) fn new(vectors: u8, messages: bool, wired: bool, big_endian: bool) -> Self {
        Self {
            cqcsr: Cqcsr::new(),
            fqcsr: Fqcsr::new(),
            fqb: 0,
            fqh: 0,
            fqt: 0,
            ipsr: Ipsr::new(),
            icvec: 0,
            vectors,
            entries: vec![MsiEntry::default(); if messages { usize::from(vectors) } else { 0 }],
            pending: 0,
            unrecorded: 0,
            wired,
            big_endian,
            messages: Vec::new(),
        }
    }

    /// Whether the registers are those of a unit that has these after reset, and queues of no more entries.
    pub(super) fn fits(&self, initial: &Self, queue_entries_log2: u8) -> bool {
        self.entries.len() == initial.entries.len()
            && self.vectors == initial.vectors
            && legal_base(self.fqb, queue_entries_log2) == self.fqb
            && self.fqh | self.fqt <= self.mask()
            && self.icvec & !self.vector_bits() == 0
    }

    /// The messages that what was done causes.
    pub(super) fn take_messages(&mut self) -> Vec<Message> {
        std::mem::take(&mut self.messages)
    }

    /// The wires that are asserted (5.18).
    pub(super) fn wires(&self) -> u16 {
        let asserted = |source| {
            let on = self.wired && self.ipsr.into_bits() >> source as u32 & 1 != 0;
            u16::from(on) << self.vector(source)
        };
        asserted(Source::Commands) | asserted(Source::Faults) | asserted(Source::Counters)
    }

    fn vector(&self, source: Source) -> u8 {
        let icvec = Icvec::from_bits(self.icvec);
        match source {
            Source::Commands => icvec.civ(),
            Source::Faults => icvec.fiv(),
            Source::Counters => icvec.pmiv(),
        }
    }

    /// 5.18: sets the cause's pending bit. A message is sent where that was clear.
    fn raise(&mut self, source: Source) {
        let bit = 1 << source as u32;
        if self.ipsr.into_bits() & bit != 0 {
            return;
        }
        self.ipsr = Ipsr::from_bits(self.ipsr.into_bits() | bit);
        if !self.wired {
            self.send(self.vector(source));
        }
    }

    /// 5.28: sends a vector's message, or keeps it while the vector is masked.
    fn send(&mut self, vector: u8) {
        let Some(entry) = self.entries.get(usize::from(vector)) else { return };
        if MsiVecCtl::from_bits(entry.control).m() {
            self.pending |= 1 << vector;
        } else {
            self.messages.push(Message { source: None, address: entry.address, data: entry.data });
        }
    }

    /// Raises the causes whose conditions stand (5.18, `cip` and `fip`).
    fn raise_standing(&mut self) {
        let cqcsr = self.cqcsr;
        if cqcsr.cie() && (cqcsr.fence_w_ip() || cqcsr.cmd_ill() || cqcsr.cmd_to() || cqcsr.cqmf()) {
            self.raise(Source::Commands);
        }
        if self.fqcsr.fie() && (self.fqcsr.fqof() || self.fqcsr.fqmf()) {
            self.raise(Source::Faults);
        }
    }

    /// `ipsr`.
    pub(super) fn ipsr(&self) -> u32 {
        self.ipsr.into_bits()
    }

    /// Software writes `ipsr` (5.18).
    pub(super) fn write_ipsr(&mut self, value: u32) {
        self.ipsr = Ipsr::from_bits(self.ipsr.into_bits() & !value);
        self.raise_standing();
    }

    /// `cqcsr`.
    pub(super) fn cqcsr(&self) -> Cqcsr {
        self.cqcsr
    }

    /// Whether commands are taken: the queue is on, and no error stops it (5.15).
    pub(super) fn takes_commands(&self) -> bool {
        let csr = self.cqcsr;
        csr.cqon() && !csr.cqmf() && !csr.cmd_ill() && !csr.cmd_to()
    }

    /// Software writes `cqcsr` (5.15). Whether the queue was turned on by it.
    pub(super) fn write_cqcsr(&mut self, value: Cqcsr) -> bool {
        let old = self.cqcsr;
        let turned_on = value.cqen() && !old.cqen();
        let keeps = |bit: bool, clear: bool| bit && !clear && !turned_on;
        self.cqcsr = Cqcsr::new()
            .with_cqen(value.cqen())
            .with_cqon(value.cqen())
            .with_cie(value.cie())
            .with_cqmf(keeps(old.cqmf(), value.cqmf()))
            .with_cmd_to(keeps(old.cmd_to(), value.cmd_to()))
            .with_cmd_ill(keeps(old.cmd_ill(), value.cmd_ill()))
            .with_fence_w_ip(keeps(old.fence_w_ip(), value.fence_w_ip()));
        self.raise_standing();
        turned_on
    }

    /// The command queue stops (5.15).
    pub(super) fn command_error(&mut self, error: QueueError) {
        match error {
            QueueError::Memory => self.cqcsr.set_cqmf(true),
            QueueError::Illegal => self.cqcsr.set_cmd_ill(true),
        }
        self.raise_standing();
    }

    /// An `IOFENCE.C` with WSI completed (3.1.2).
    pub(super) fn fence(&mut self) {
        self.cqcsr.set_fence_w_ip(true);
        self.raise_standing();
    }

    /// A counter overflowed (5.21, 5.23).
    pub(super) fn counter_overflow(&mut self) {
        self.raise(Source::Counters);
    }

    /// `fqcsr`.
    pub(super) fn fqcsr(&self) -> u32 {
        self.fqcsr.into_bits()
    }

    /// Software writes `fqcsr` (5.16).
    pub(super) fn write_fqcsr(&mut self, value: Fqcsr) {
        let old = self.fqcsr;
        let turned_on = value.fqen() && !old.fqen();
        if turned_on {
            self.fqt = 0;
        }
        self.fqcsr = Fqcsr::new()
            .with_fqen(value.fqen())
            .with_fqon(value.fqen())
            .with_fie(value.fie())
            .with_fqmf(old.fqmf() && !value.fqmf() && !turned_on)
            .with_fqof(old.fqof() && !value.fqof() && !turned_on);
        self.raise_standing();
    }

    fn mask(&self) -> u32 {
        let log2 = u32::from(QueueBase::from_bits(self.fqb).log2szm1()) + 1;
        (1u64 << log2).wrapping_sub(1) as u32
    }

    /// Reads one of the fault queue's and interrupts' registers.
    pub(super) fn read32(&self, offset: u64) -> u32 {
        match offset {
            offset::FQB..offset::FQH => half(self.fqb, offset),
            offset::FQH => self.fqh,
            offset::FQT => self.fqt,
            offset::FQCSR => self.fqcsr(),
            offset::IPSR => self.ipsr(),
            offset::ICVEC..offset::MSI_CFG_TBL => half(self.icvec, offset),
            _ => self.entry(offset).map_or(0, |entry| match offset % 16 {
                0 | 4 => half(entry.address, offset),
                8 => entry.data,
                _ => entry.control,
            }),
        }
    }

    fn entry(&self, offset: u64) -> Option<&MsiEntry> {
        let vector = offset.checked_sub(offset::MSI_CFG_TBL)? / 16;
        self.entries.get(usize::try_from(vector).ok()?)
    }

    /// Software writes `fqb` (5.9): fixed while the queue is on, where a write is unspecified.
    pub(super) fn write_fqb(&mut self, offset: u64, value: u32, queue_entries_log2: u8) {
        if self.fqcsr.fqon() {
            return;
        }
        put_half(&mut self.fqb, offset, value);
        self.fqb = legal_base(self.fqb, queue_entries_log2);
        self.fqh &= self.mask();
        self.fqt &= self.mask();
    }

    /// Software writes `fqh` (5.10).
    pub(super) fn write_fqh(&mut self, value: u32) {
        self.fqh = value & self.mask();
    }

    /// Bits of `icvec` that can be set.
    fn vector_bits(&self) -> u64 {
        0x1111 * (u64::from(self.vectors) - 1)
    }

    /// Software writes `icvec` (5.27).
    pub(super) fn write_icvec(&mut self, offset: u64, value: u32) {
        put_half(&mut self.icvec, offset, value);
        self.icvec &= self.vector_bits();
    }

    /// Software writes `msi_cfg_tbl` (5.28): unmasking sends what waited.
    pub(super) fn write_entry(&mut self, offset: u64, value: u32) {
        let vector = (offset - offset::MSI_CFG_TBL) / 16;
        let Some(entry) = self.entries.get_mut(vector as usize) else { return };
        match offset % 16 {
            0 | 4 => {
                put_half(&mut entry.address, offset, value);
                let address = MsiAddr::from_bits(entry.address).addr();
                entry.address = MsiAddr::new().with_addr(address).into_bits();
            }
            8 => entry.data = value,
            _ => {
                entry.control = MsiVecCtl::new().with_m(MsiVecCtl::from_bits(value).m()).into_bits();
                let bit = 1 << vector;
                if entry.control == 0 && self.pending & bit != 0 {
                    self.pending &= !bit;
                    self.send(vector as u8);
                }
            }
        }
    }

    /// 5.28: a message was aborted.
    pub(super) fn message_fault(address: u64) -> FaultRecord {
        let header = FaultHeader::new()
            .with_cause(Cause::MsiWriteFault.encode())
            .with_ttyp(TransactionType::None.encode());
        FaultRecord { header, iotval: address, ..FaultRecord::default() }
    }

    /// Writes a fault record to the queue (3.2). Without room or memory it is lost, and so are all that follow until software has
    /// cleared the error.
    pub(super) fn record(&mut self, memory: &dyn GuestMemory, record: &FaultRecord) {
        let written = self.write(memory, record);
        self.unrecorded += u64::from(!written);
    }

    /// Whether the record stands in the queue.
    fn write(&mut self, memory: &dyn GuestMemory, record: &FaultRecord) -> bool {
        let csr = self.fqcsr;
        if !csr.fqon() || csr.fqof() || csr.fqmf() {
            return false;
        }
        let base = QueueBase::from_bits(self.fqb);
        let ring = Ring {
            base: PhysAddr(base.ppn() << 12),
            size_shift: base.log2szm1() + 1 + RECORD_SHIFT,
            entry_shift: RECORD_SHIFT,
        };
        // Both were checked against the ring when they were written.
        let offsets = (ring.index(self.fqh), ring.index(self.fqt));
        let (Ok(head), Ok(tail)) = offsets else { return false };
        if ring.next(tail) == head {
            self.fqcsr.set_fqof(true);
            self.raise_standing();
            return false;
        }
        let at = ring.entry(tail);
        for (word, at) in record.encode().into_iter().zip((at.0..).step_by(8)) {
            let word = if self.big_endian { word.swap_bytes() } else { word };
            if memory.store64(PhysAddr(at), word).is_err() {
                self.fqcsr.set_fqmf(true);
                self.raise_standing();
                return false;
            }
        }
        self.fqt = ring.number(ring.next(tail));
        if csr.fie() {
            self.raise(Source::Faults);
        }
        true
    }
}

/// 5.6: what `cqb` and `fqb` hold of what was written: no more than the most entries, no reserved bits.
pub(super) fn legal_base(value: u64, queue_entries_log2: u8) -> u64 {
    let base = QueueBase::from_bits(value);
    QueueBase::new()
        .with_ppn(base.ppn())
        .with_log2szm1(base.log2szm1().min(queue_entries_log2 - 1))
        .into_bits()
}
