//! Fault records, queue errors, completions, and the interrupts that tell of them (VT-d 7.2, 11.4.7, 11.4.9).

use portcullis_spec::vtd::fault::FaultRecord;
use portcullis_spec::vtd::registers::{EventControl, FrcdHigh, Fsts, Ics, Iqei, Iqercd};

use crate::interrupt::Message;

/// The four registers of one kind of event (VT-d 11.4.7.2 to 11.4.7.5).
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct EventRegisters {
    /// FECTL_REG or IECTL_REG.
    pub(super) control: u32,
    /// FEDATA_REG or IEDATA_REG.
    pub(super) data: u32,
    /// FEADDR_REG or IEADDR_REG.
    pub(super) address: u32,
    /// FEUADDR_REG or IEUADDR_REG.
    pub(super) upper: u32,
}

impl Default for EventRegisters {
    /// VT-d 11.4.7.2: the interrupt is masked after reset.
    fn default() -> Self {
        Self { control: EventControl::new().with_im(true).into_bits(), data: 0, address: 0, upper: 0 }
    }
}

impl EventRegisters {
    fn message(&self) -> Message {
        let address = u64::from(self.upper) << 32 | u64::from(self.address);
        Message { source: None, address, data: self.data }
    }

    /// A condition arose: the message, unless it is masked and so stays pending.
    fn raise(&mut self) -> Option<Message> {
        let control = EventControl::from_bits(self.control);
        self.control = control.with_ip(control.im()).into_bits();
        (!control.im()).then(|| self.message())
    }

    /// Software serviced every condition: nothing is pending any more.
    fn settle(&mut self) {
        self.control = EventControl::from_bits(self.control).with_ip(false).into_bits();
    }

    /// Software writes the control register: unmasking sends what is pending.
    pub(super) fn write_control(&mut self, value: u32) -> Option<Message> {
        let old = EventControl::from_bits(self.control);
        let im = EventControl::from_bits(value).im();
        self.control = old.with_im(im).with_ip(old.ip() && im).into_bits();
        (old.ip() && !im).then(|| self.message())
    }
}

/// All registers that report something to software.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct Events {
    /// FSTS_REG without PPF, which follows from the records.
    status: u32,
    /// The fault recording registers.
    records: Vec<[u64; 2]>,
    /// The record that the next fault goes to.
    next: u16,
    /// Records whose F is set.
    waiting: u16,
    /// Faults that found no room.
    unrecorded: u64,
    /// Fault event registers.
    pub(super) fault: EventRegisters,
    /// ICS_REG.
    completion_status: u32,
    /// Invalidation completion event registers.
    pub(super) completion: EventRegisters,
    /// IQERCD_REG.
    error_record: u64,
}

impl Events {
    /// After reset, with `records` fault recording registers (at least one).
    pub(super) fn new(records: u16) -> Self {
        Self {
            status: 0,
            records: vec![[0; 2]; usize::from(records.max(1))],
            next: 0,
            waiting: 0,
            unrecorded: 0,
            fault: EventRegisters::default(),
            completion_status: 0,
            completion: EventRegisters::default(),
            error_record: 0,
        }
    }

    /// Whether the registers fit a unit with `records` fault recording registers.
    pub(super) fn fits(&self, records: u16) -> bool {
        let waiting = self.records.iter().filter(|record| FrcdHigh::from_bits(record[1]).f()).count();
        self.records.len() == usize::from(records)
            && usize::from(self.next) < self.records.len()
            && waiting == usize::from(self.waiting)
    }

    /// Faults that found no room, or were taken for another's, since reset.
    pub(super) fn unrecorded(&self) -> u64 {
        self.unrecorded
    }

    /// FSTS_REG.
    pub(super) fn status(&self) -> Fsts {
        Fsts::from_bits(self.status).with_ppf(self.waiting > 0)
    }

    /// Whether something is already being told of, so that more of it is no new condition (VT-d 11.4.7.2, IP).
    fn is_signalled(&self) -> bool {
        let status = self.status();
        status.pfo() || status.ppf() || status.iqe() || status.ice() || status.ite()
    }

    /// Records a fault (VT-d 7.2.1).
    pub(super) fn record(&mut self, record: FaultRecord, collapse: bool) -> Option<Message> {
        let status = self.status();
        if status.pfo() {
            self.unrecorded += 1;
            return None;
        }
        let same_source = |old: &[u64; 2]| {
            let high = FrcdHigh::from_bits(old[1]);
            high.f() && high.sid() == record.high.sid()
        };
        if collapse && self.records.iter().any(same_source) {
            self.unrecorded += 1;
            return None;
        }
        let signalled = self.is_signalled();
        let index = usize::from(self.next) % self.records.len();
        if FrcdHigh::from_bits(self.records[index][1]).f() {
            self.status = status.with_pfo(true).into_bits();
            self.unrecorded += 1;
            return None;
        }
        self.records[index] = record.encode();
        self.waiting += 1;
        if !status.ppf() {
            self.status = status.with_fri(index as u8).into_bits();
        }
        self.next = ((index + 1) % self.records.len()) as u16;
        if signalled { None } else { self.fault.raise() }
    }

    /// The invalidation queue stopped (VT-d 6.5.2.10).
    pub(super) fn queue_error(&mut self, iqei: Iqei) -> Option<Message> {
        let signalled = self.is_signalled();
        self.status = self.status().with_iqe(true).into_bits();
        self.error_record = Iqercd::from_bits(self.error_record).with_iqei(iqei).into_bits();
        if signalled { None } else { self.fault.raise() }
    }

    /// Whether the queue is stopped.
    pub(super) fn queue_stopped(&self) -> bool {
        self.status().iqe()
    }

    /// Software writes FSTS_REG. Returns whether the queue may go on that was stopped before.
    pub(super) fn write_status(&mut self, value: u32) -> bool {
        let stopped = self.queue_stopped();
        self.status &= !(value & Fsts::WRITE_1_CLEAR);
        if stopped && !self.queue_stopped() {
            self.error_record =
                Iqercd::from_bits(self.error_record).with_iqei(Iqei::NotAvailable).into_bits();
        }
        self.settle_faults();
        stopped && !self.queue_stopped()
    }

    fn settle_faults(&mut self) {
        if !self.is_signalled() {
            self.fault.settle();
        }
    }

    /// IQERCD_REG.
    pub(super) fn error_record(&self) -> u64 {
        self.error_record
    }

    /// The 32-bit word number `word` (0 to 3) of fault recording register `index`; 0 beyond the last.
    pub(super) fn record_word(&self, index: usize, word: usize) -> u32 {
        let record = self.records.get(index).copied().unwrap_or_default();
        (record[(word / 2) & 1] >> (32 * (word % 2))) as u32
    }

    /// Software writes the highest word of a fault recording register: F is cleared by writing 1.
    pub(super) fn write_record(&mut self, index: usize, value: u32) {
        if value >> 31 == 0 {
            return;
        }
        if let Some(record) = self.records.get_mut(index) {
            let high = FrcdHigh::from_bits(record[1]);
            self.waiting -= u16::from(high.f());
            record[1] = high.with_f(false).into_bits();
        }
        self.settle_faults();
    }

    /// A wait descriptor with its interrupt flag completed (VT-d 6.5.2.8).
    pub(super) fn complete(&mut self) -> Option<Message> {
        if Ics::from_bits(self.completion_status).iwc() {
            return None;
        }
        self.completion_status = Ics::new().with_iwc(true).into_bits();
        self.completion.raise()
    }

    /// ICS_REG.
    pub(super) fn completion_status(&self) -> u32 {
        self.completion_status
    }

    /// Software writes ICS_REG.
    pub(super) fn write_completion_status(&mut self, value: u32) {
        if Ics::from_bits(value).iwc() {
            self.completion_status = 0;
            self.completion.settle();
        }
    }
}
