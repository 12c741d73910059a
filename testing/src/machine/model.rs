//! One of our models as a [`Machine`], with engines that do what QEMU's do.

use super::ram::{Ram, SCRIPT_BYTES};
use super::{COPY_PIECE, Copy, Machine, Touch};
use crate::qtest::hda::{self, Hda};
use portcullis_driver::platform::Mmio;
use portcullis_spec::{Iova, Pasid, PhysAddr, Requester};

/// A modelled IOMMU: its registers, and a way to memory through it.
pub trait Unit: Mmio {
    /// Read bytes of one 4 KiB page. Whether it may.
    fn read(&self, sender: Sender, address: Iova, bytes: &mut [u8]) -> bool;

    /// Write bytes of one 4 KiB page. Whether it may.
    fn write(&self, sender: Sender, address: Iova, bytes: &[u8]) -> bool;

    /// Where a read or write of one byte leads, if it may. Memory is not touched.
    fn translate(&self, sender: Sender, address: Iova, write: bool) -> Option<PhysAddr>;
}

/// Who does DMA.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sender {
    /// The requester.
    pub requester: Requester,
    /// Its PASID.
    pub pasid: Option<Pasid>,
    /// Whether it asks for privileged rights.
    pub privileged: bool,
}

impl From<Requester> for Sender {
    fn from(requester: Requester) -> Self {
        Self { requester, pasid: None, privileged: false }
    }
}

/// Defines `$name`, a unit that engines do DMA through, of a model of type `$unit` whose ports are `$port`.
macro_rules! modelled {
    ($name:ident, $unit:ty, $port:ty) => {
        /// Our model, as a unit that engines do DMA through.
        pub struct $name {
            /// The model.
            pub unit: $unit,
            /// The port of whoever was last.
            port: std::cell::RefCell<Option<($crate::machine::model::Sender, $port)>>,
        }

        impl $name {
            const fn new(unit: $unit) -> Self {
                Self { unit, port: std::cell::RefCell::new(None) }
            }

            fn through<R>(
                &self,
                sender: $crate::machine::model::Sender,
                access: impl FnOnce(&$port) -> R,
            ) -> R {
                let mut last = self.port.borrow_mut();
                let same = last.take().filter(|(before, _)| *before == sender);
                let (_, port) = last.insert(same.unwrap_or_else(|| {
                    // PCI requester IDs are the only indexes that a model takes in fewer bits, and have no more.
                    let index = sender.requester.index();
                    let port = self.unit.port(index as _, sender.pasid);
                    (sender, if sender.privileged { port.privileged() } else { port })
                }));
                access(port)
            }
        }

        impl portcullis_driver::platform::Mmio for $name {
            fn read32(&self, offset: u64) -> u32 {
                portcullis_model::Registers::read32(&self.unit, offset)
            }
            fn read64(&self, offset: u64) -> u64 {
                portcullis_model::Registers::read64(&self.unit, offset)
            }
            fn write32(&self, offset: u64, value: u32) {
                portcullis_model::Registers::write32(&self.unit, offset, value);
            }
            fn write64(&self, offset: u64, value: u64) {
                portcullis_model::Registers::write64(&self.unit, offset, value);
            }
        }

        impl $crate::machine::model::Unit for $name {
            fn read(
                &self,
                sender: $crate::machine::model::Sender,
                address: portcullis_spec::Iova,
                bytes: &mut [u8],
            ) -> bool {
                self.through(sender, |port| port.read(address, bytes).is_ok())
            }
            fn write(
                &self,
                sender: $crate::machine::model::Sender,
                address: portcullis_spec::Iova,
                bytes: &[u8],
            ) -> bool {
                self.through(sender, |port| port.write(address, bytes).is_ok())
            }
            fn translate(
                &self,
                sender: $crate::machine::model::Sender,
                address: portcullis_spec::Iova,
                write: bool,
            ) -> Option<portcullis_spec::PhysAddr> {
                use portcullis_spec::Access;
                let access = if write { Access::WRITE } else { Access::READ };
                self.through(sender, |port| {
                    let answer = port.translate(&port.transaction(address, 1, access));
                    answer.ok().map(|translation| translation.address)
                })
            }
        }
    };
}
pub(crate) use modelled;

/// A model with memory and engines.
#[derive(Debug)]
pub struct ModelMachine<U> {
    unit: U,
    ram: Ram,
    requesters: Vec<Requester>,
}

impl<U: Unit> ModelMachine<U> {
    /// A machine of these parts; `unit` reaches `ram`.
    pub const fn new(unit: U, ram: Ram, requesters: Vec<Requester>) -> Self {
        Self { unit, ram, requesters }
    }

    /// The unit.
    #[must_use]
    pub const fn unit(&self) -> &U {
        &self.unit
    }

    /// Let anybody read 4 bytes and write 8, as two writes of 4, as [`Machine::touch`] does.
    pub fn touch_as(&self, sender: Sender, touch: Touch) -> u8 {
        let mut verb = [0; 4];
        self.read(sender, touch.read, &mut verb);
        for half in (0..hda::WRITE_BYTES as u64).step_by(hda::WRITE_PIECE) {
            self.write(sender, touch.write.wrapping_add(half), &[0; hda::WRITE_PIECE]);
        }
        if verb == Hda::verb(verb[0]) { verb[0] } else { 0 }
    }

    /// Bytes that can't be read are zeros.
    fn read(&self, sender: Sender, address: u64, bytes: &mut [u8]) -> bool {
        let mut complete = true;
        pieces(address, bytes.len(), |at, range| {
            let piece = &mut bytes[range];
            if !self.unit.read(sender, Iova(at), piece) {
                piece.fill(0);
                complete = false;
            }
        });
        complete
    }

    fn write(&self, sender: Sender, address: u64, bytes: &[u8]) {
        pieces(address, bytes.len(), |at, range| {
            self.unit.write(sender, Iova(at), &bytes[range]);
        });
    }
}

/// Call `each` with the address and range of every part of a stretch that lies in one page.
fn pieces(address: u64, length: usize, mut each: impl FnMut(u64, std::ops::Range<usize>)) {
    let mut offset = 0;
    while offset < length {
        let at = address.wrapping_add(offset as u64);
        let here = (4096 - (at % 4096) as usize).min(length - offset);
        each(at, offset..offset + here);
        offset += here;
    }
}

impl<U: Unit> Mmio for ModelMachine<U> {
    fn read32(&self, offset: u64) -> u32 {
        self.unit.read32(offset)
    }
    fn read64(&self, offset: u64) -> u64 {
        self.unit.read64(offset)
    }
    fn write32(&self, offset: u64, value: u32) {
        self.unit.write32(offset, value);
    }
    fn write64(&self, offset: u64, value: u64) {
        self.unit.write64(offset, value);
    }
}

impl<U: Unit> Machine for ModelMachine<U> {
    fn ram(&self) -> &Ram {
        &self.ram
    }

    fn requesters(&self) -> &[Requester] {
        &self.requesters
    }

    fn copy(&self, engine: usize, copy: Copy) -> bool {
        let sender = self.requesters[engine].into();
        let mut program = [0; SCRIPT_BYTES];
        if !self.read(sender, self.ram.script(engine).0, &mut program) {
            return false;
        }
        let mut done = 0;
        while done < copy.length {
            let piece = (copy.length - done).min(COPY_PIECE);
            let mut bytes = vec![0; piece as usize];
            self.read(sender, u64::from(copy.source.wrapping_add(done)), &mut bytes);
            self.write(sender, u64::from(copy.destination.wrapping_add(done)), &bytes);
            done += piece;
        }
        true
    }

    fn touch(&self, touch: Touch) -> u8 {
        self.requesters.last().map_or(0, |requester| self.touch_as((*requester).into(), touch))
    }

    fn health(&self) -> Result<(), String> {
        Ok(())
    }
}
