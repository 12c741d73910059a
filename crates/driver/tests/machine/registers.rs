//! The register file of the test machine's unit (VT-d 11.4) and its invalidation queue (6.5.2).

use portcullis_driver::platform::Mmio;

use super::Machine;

pub(crate) const IQE: u32 = 1 << 4;
pub(crate) const ICE: u32 = 1 << 5;
pub(crate) const ITE: u32 = 1 << 6;
const PFO: u32 = 1;

/// What goes wrong, on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Trouble {
    /// The unit stops for good at this descriptor, without a word.
    Hang,
    /// It stops with this FSTS bit, until that is cleared.
    Stop(u32),
}

#[derive(Default)]
pub(crate) struct Registers {
    pub(crate) status: u32,
    pub(crate) rtaddr: u64,
    /// RTADDR as of the last SRTP.
    pub(crate) root: u64,
    pub(crate) irta: u64,
    /// IRTA as of the last SIRTP.
    pub(crate) interrupt_table: u64,
    pub(crate) fsts: u32,
    pub(crate) faults: Vec<[u64; 2]>,
    fault_index: usize,
    pub(crate) pmen: u32,
    pub(crate) iqa: u64,
    pub(crate) iqh: u64,
    pub(crate) iqt: u64,
    ccmd: u64,
    iva: u64,
    iotlb: u64,
    /// Descriptors are carried out while the driver waits, not while it writes the tail.
    pub(crate) lazy: bool,
    /// GCMD bits that the unit does not answer.
    pub(crate) deaf: u32,
    /// After how many descriptors what goes wrong.
    pub(crate) trouble: Option<(u32, Trouble)>,
    /// What was carried out, in order: raw descriptors, and register commands in the same form.
    pub(crate) log: Vec<[u64; 2]>,
    /// Writes to GCMD.
    pub(crate) commands: Vec<u32>,
    pub(crate) write_buffer_flushes: u32,
    /// FECTL, FEDATA, FEADDR, FEUADDR.
    pub(crate) fault_event: [u32; 4],
    /// Fault event messages sent: address and data.
    pub(crate) messages: Vec<(u64, u32)>,
}

impl Registers {
    pub(crate) fn new() -> Self {
        Self { faults: vec![[0; 2]; 4], fault_event: [1 << 31, 0, 0, 0], ..Self::default() }
    }
}

impl Machine {
    /// Records a fault (7.2.1): the next record in turn, or overflow.
    pub(crate) fn record_fault(&self, sid: u16, pasid: Option<u32>, address: u64, write: bool, reason: u8) {
        let mut registers = self.registers.borrow_mut();
        if registers.fsts & PFO != 0 {
            return;
        }
        // 7.3: a message when the first record begins to wait, unless masked (11.4.7.2, IM).
        let waiting = registers.faults.iter().any(|record| record[1] >> 63 != 0);
        if !waiting && registers.fault_event[0] >> 31 == 0 {
            let [_, data, low, high] = registers.fault_event;
            registers.messages.push((u64::from(high) << 32 | u64::from(low), data));
        }
        let index = registers.fault_index;
        if registers.faults[index][1] >> 63 != 0 {
            registers.fsts |= PFO;
            return;
        }
        let mut high = 1 << 63 | u64::from(sid) | u64::from(reason) << 32;
        if !write {
            high |= 1 << 62;
        }
        if let Some(pasid) = pasid {
            high |= 1 << 31 | u64::from(pasid) << 40;
        }
        registers.faults[index] = [address & !0xfff, high];
        registers.fault_index = (index + 1) % registers.faults.len();
    }

    /// Carries out up to `count` descriptors.
    pub(crate) fn run_queue(&self, count: u32) {
        for _ in 0..count {
            let (at, wide) = {
                let registers = self.registers.borrow();
                let stopped = registers.fsts & (IQE | ITE) != 0;
                if registers.status & 1 << 26 == 0 || stopped || registers.iqh == registers.iqt {
                    return;
                }
                ((registers.iqa & !0xfff) + registers.iqh, registers.iqa & 1 << 11 != 0)
            };
            {
                let mut registers = self.registers.borrow_mut();
                match registers.trouble {
                    Some((0, Trouble::Hang)) => return,
                    Some((0, Trouble::Stop(bit))) => {
                        registers.fsts |= bit;
                        registers.trouble = None;
                        return;
                    }
                    Some((left, trouble)) => registers.trouble = Some((left - 1, trouble)),
                    None => {}
                }
            }
            // The queue is fetched past the write buffer, which holds back remapping structures only (6.8).
            if self.traits.write_buffer() {
                self.write_buffer_flushed();
            }
            let words: Vec<u64> =
                (0..if wide { 4 } else { 2 }).map(|index| self.unit_load(at + 8 * index)).collect();
            assert!(words[2..].iter().all(|word| *word == 0), "reserved words of a 256-bit descriptor");
            self.carry_out([words[0], words[1]]);
            let mut registers = self.registers.borrow_mut();
            let size = 4096u64 << (registers.iqa & 7);
            registers.iqh = (registers.iqh + if wide { 32 } else { 16 }) % size;
        }
    }

    fn carry_out(&self, descriptor: [u64; 2]) {
        let [low, high] = descriptor;
        self.registers.borrow_mut().log.push(descriptor);
        let did = (low >> 16) as u16;
        let mut caches = self.caches.borrow_mut();
        match (low & 0xf, low >> 4 & 3) {
            (1, 1) => caches.contexts.clear(),
            (1, 2) => caches.contexts.retain(|_, context| context.did != did),
            (1, 3) => caches.contexts.retain(|sid, _| *sid != (low >> 32) as u16),
            (2, 1) => caches.forget_all(),
            (2, 2) => caches.forget_second(did, None, false),
            (2, 3) => {
                let order = high & 0x3f;
                assert!(order <= self.traits.cap >> 48 & 0x3f, "more than MAMV");
                let mask = (1u64 << (order + 12)) - 1;
                let first = high & !0xfff;
                assert_eq!(first & mask, 0, "6.5.2.3: the address is a multiple of the block");
                caches.forget_second(did, Some((first, first | mask)), high & 1 << 6 != 0);
            }
            (4, 0) => caches.interrupts.clear(),
            (4, 1) => {
                let order = low >> 27 & 0x1f;
                assert!(order <= self.traits.ecap >> 20 & 0xf, "more than MHMV");
                let (first, mask) = (low >> 32 & 0xffff, (1 << order) - 1);
                assert_eq!(first & mask, 0, "6.5.2.7: the index is a multiple of the block");
                caches.interrupts.retain(|index, _| u64::from(*index) & !mask != first);
            }
            (5, _) => {
                assert!(low & 1 << 5 != 0, "a wait that writes no status");
                drop(caches);
                let at = high & !3;
                let shift = 8 * (at & 4);
                let word = self.unit_load(at & !7) & !(0xffff_ffff << shift);
                self.unit_store(at & !7, word | (low >> 32) << shift);
            }
            (6, g @ 2..=3) => {
                let pasid = (low >> 32) as u32 & 0xf_ffff;
                let range = (g == 3).then(|| {
                    let mask = (1u64 << ((high & 0x3f) + 12)) - 1;
                    (high & !0xfff, high & !0xfff | mask)
                });
                caches.forget_first(did, pasid, range, high & 1 << 6 != 0);
            }
            (7, 0) => caches.pasids.retain(|_, context| context.did != did),
            (7, 1) => {
                let pasid = (low >> 32) as u32 & 0xf_ffff;
                caches.pasids.retain(|key, context| key.1 != pasid || context.did != did);
            }
            (7, 3) => caches.pasids.clear(),
            other => panic!("unknown descriptor {low:#x} {high:#x} {other:?}"),
        }
    }

    fn command(&self, value: u32) {
        let mut registers = self.registers.borrow_mut();
        registers.commands.push(value);
        let lasting = 1 << 31 | 1 << 26 | 1 << 25 | 1 << 23;
        let heard = !registers.deaf;
        registers.status = registers.status & !(lasting & heard) | value & lasting & heard;
        if value & heard & 1 << 26 == 0 {
            assert_eq!(registers.iqh, registers.iqt, "the queue is turned off while it is not empty");
            registers.iqh = 0;
        }
        if value & heard & 1 << 30 != 0 {
            registers.root = registers.rtaddr;
            registers.status |= 1 << 30;
            if self.traits.cap >> 63 != 0 {
                *self.caches.borrow_mut() = super::Caches::default();
            }
        }
        if value & heard & 1 << 24 != 0 {
            registers.interrupt_table = registers.irta;
            registers.status |= 1 << 24;
            if self.traits.cap >> 62 & 1 != 0 {
                self.caches.borrow_mut().interrupts.clear();
            }
        }
        if value & 1 << 27 != 0 {
            registers.write_buffer_flushes += 1;
            if heard & 1 << 27 == 0 {
                registers.status |= 1 << 27;
            } else {
                drop(registers);
                self.write_buffer_flushed();
            }
        }
    }

    fn fault_records(&self) -> u64 {
        (self.traits.cap >> 24 & 0x3ff) * 16
    }
}

impl Mmio for Machine {
    fn read32(&self, offset: u64) -> u32 {
        let registers = self.registers.borrow();
        match offset {
            0x00 => 0x60,
            0x1c => registers.status,
            0x34 => {
                let pending = registers.faults.iter().any(|record| record[1] >> 63 != 0);
                let oldest = (0..registers.faults.len())
                    .map(|step| (registers.fault_index + step) % registers.faults.len())
                    .find(|index| registers.faults[*index][1] >> 63 != 0);
                registers.fsts | u32::from(pending) << 1 | (oldest.unwrap_or(0) as u32) << 8
            }
            0x64 => registers.pmen | registers.pmen >> 31,
            _ => panic!("32-bit read of {offset:#x}"),
        }
    }

    fn read64(&self, offset: u64) -> u64 {
        let registers = self.registers.borrow();
        match offset {
            0x08 => self.traits.cap,
            0x10 => self.traits.ecap,
            0x20 => registers.rtaddr,
            0x28 => registers.ccmd,
            0x80 => registers.iqh,
            0x88 => registers.iqt,
            0x90 => registers.iqa,
            0xb0 => 3,
            0xb8 => registers.irta,
            0x108 => registers.iotlb,
            _ => {
                let record = (offset - self.fault_records()) / 16;
                registers.faults[record as usize][(offset / 8 % 2) as usize]
            }
        }
    }

    fn write32(&self, offset: u64, value: u32) {
        match offset {
            0x18 => self.command(value),
            0x34 => self.registers.borrow_mut().fsts &= !value,
            0x38..0x48 => self.registers.borrow_mut().fault_event[(offset as usize - 0x38) / 4] = value,
            0x64 => self.registers.borrow_mut().pmen = value & 1 << 31,
            _ => {
                let record = (offset - self.fault_records()) / 16;
                assert_eq!(offset % 16, 12);
                if value >> 31 != 0 {
                    self.registers.borrow_mut().faults[record as usize][1] &= !(1 << 63);
                }
            }
        }
    }

    fn write64(&self, offset: u64, value: u64) {
        match offset {
            0x20 => self.registers.borrow_mut().rtaddr = value,
            0xb8 => self.registers.borrow_mut().irta = value,
            0x28 => {
                assert!(self.registers.borrow().status & 1 << 26 == 0, "11.4.6: not while the queue is on");
                // CIRG and CAIG, in the shape of a descriptor.
                let descriptor =
                    1 | (value >> 61 & 3) << 4 | (value & 0xffff) << 16 | (value >> 16 & 0xffff) << 32;
                self.carry_out([descriptor, 0]);
                self.registers.borrow_mut().ccmd = value & !(1 << 63) | (value >> 61 & 3) << 59;
            }
            0x88 => {
                self.registers.borrow_mut().iqt = value;
                if !self.registers.borrow().lazy {
                    self.run_queue(u32::MAX);
                }
            }
            0x90 => {
                let mut registers = self.registers.borrow_mut();
                registers.iqa = value;
                registers.iqh = 0;
            }
            0x100 => self.registers.borrow_mut().iva = value,
            0x108 => {
                assert!(self.registers.borrow().status & 1 << 26 == 0, "11.4.6: not while the queue is on");
                let iva = self.registers.borrow().iva;
                let descriptor = 2 | (value >> 60 & 3) << 4 | (value >> 32 & 0xffff) << 16;
                self.carry_out([descriptor, iva]);
                self.registers.borrow_mut().iotlb = value & !(1 << 63) | (value >> 60 & 3) << 57;
            }
            _ => panic!("64-bit write of {offset:#x}"),
        }
    }
}
