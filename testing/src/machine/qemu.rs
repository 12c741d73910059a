//! QEMU as a [`Machine`].

use super::ram::{RAM_BYTES, Ram};
use super::{Copy, Machine, MachineError, Touch};
use crate::qtest::hda::{self, Hda};
use crate::qtest::lsi::{self, Lsi};
use crate::qtest::pci::{Buses, ConfigAccess};
use crate::qtest::{Client, Qemu, QtestError};
use portcullis_driver::platform::Mmio;
use portcullis_spec::Requester;
use std::cell::RefCell;

/// A machine that QEMU emulates: what differs between architectures.
#[derive(Clone, Debug)]
pub struct Board {
    /// The program.
    pub program: &'static str,
    /// Machine and IOMMU.
    pub arguments: Vec<String>,
    /// Physical address of the first byte of memory.
    pub ram: u64,
    /// How configuration space is reached.
    pub config: ConfigAccess,
    /// Where BARs may lie.
    pub pci_memory: u64,
    /// Where the IOMMU's registers lie.
    pub registers: u64,
}

/// The devices of every board: two functions of one slot, two other slots, and one behind a root port (another bus), all of
/// which copy; one that touches.
const DEVICES: &[&str] = &[
    "lsi53c895a,addr=2",
    "lsi53c895a,addr=3.0,multifunction=on",
    "lsi53c895a,addr=3.1",
    "pcie-root-port,id=below,addr=4,chassis=1",
    "lsi53c895a,bus=below",
    "intel-hda,addr=15.0",
    "hda-output,cad=0,audiodev=none",
];

/// Engines that copy.
pub const COPY_ENGINES: usize = 4;

/// A running QEMU with an IOMMU and DMA engines.
#[derive(Debug)]
pub struct QemuMachine {
    qemu: RefCell<Qemu>,
    ram: Ram,
    registers: u64,
    requesters: Vec<Requester>,
    copiers: Vec<Lsi>,
    toucher: Hda,
    failure: RefCell<Option<String>>,
}

impl QemuMachine {
    /// Start it and set its buses up. `requester` says who a PCI requester ID is to the IOMMU.
    ///
    /// # Errors
    /// Where QEMU is missing, does not start, or has not the devices.
    pub fn start(board: &Board, requester: fn(u16) -> Requester) -> Result<Self, MachineError> {
        let mut arguments: Vec<&str> = board.arguments.iter().map(String::as_str).collect();
        arguments.extend(["-audiodev", "none,id=none"]);
        arguments.extend(DEVICES.iter().flat_map(|device| ["-device", device]));
        let mut qemu = Qemu::start(board.program, &arguments, RAM_BYTES)?;
        let functions = Buses::new(board.config, board.pci_memory).enumerate(&mut qemu.client);
        let mut functions = functions.map_err(|error| qemu.explain(error))?;
        functions.sort_by_key(|function| function.address);
        let ram = Ram::new(board.ram, Some(qemu.ram()))?;

        let mut requesters = Vec::new();
        let mut copiers = Vec::new();
        for function in functions.iter().filter(|function| function.identity == lsi::IDENTITY) {
            // Memory lies in the first 4 GiB of every board.
            copiers.push(Lsi::new(function, ram.script(copiers.len()).0 as u32));
            requesters.push(requester(function.address.requester_id));
        }
        if copiers.len() != COPY_ENGINES {
            return Err(MachineError::Device("lsi53c895a"));
        }
        let hda = functions.iter().find(|function| function.identity == hda::IDENTITY);
        let hda = hda.ok_or(MachineError::Device("intel-hda"))?;
        requesters.push(requester(hda.address.requester_id));
        Ok(Self {
            qemu: RefCell::new(qemu),
            ram,
            registers: board.registers,
            requesters,
            copiers,
            toucher: Hda::new(hda),
            failure: RefCell::new(None),
        })
    }

    /// Whether the process has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.qemu.borrow_mut().has_ended()
    }

    fn ask<T>(&self, failed: T, question: impl FnOnce(&mut Client) -> Result<T, QtestError>) -> T {
        if self.failure.borrow().is_some() {
            return failed;
        }
        let mut qemu = self.qemu.borrow_mut();
        question(&mut qemu.client).unwrap_or_else(|error| {
            *self.failure.borrow_mut() = Some(qemu.explain(error).to_string());
            failed
        })
    }
}

impl Mmio for QemuMachine {
    fn read32(&self, offset: u64) -> u32 {
        self.ask(u32::MAX, |client| Ok(client.read(self.registers + offset, 4)? as u32))
    }

    fn read64(&self, offset: u64) -> u64 {
        self.ask(u64::MAX, |client| client.read(self.registers + offset, 8))
    }

    fn write32(&self, offset: u64, value: u32) {
        self.ask((), |client| {
            client.write(self.registers + offset, 4, u64::from(value))?;
            client.settle()
        });
    }

    fn write64(&self, offset: u64, value: u64) {
        self.ask((), |client| {
            client.write(self.registers + offset, 8, value)?;
            client.settle()
        });
    }
}

impl Machine for QemuMachine {
    fn ram(&self) -> &Ram {
        &self.ram
    }

    fn requesters(&self) -> &[Requester] {
        &self.requesters
    }

    fn copy(&self, engine: usize, copy: Copy) -> bool {
        self.ram.write(self.ram.script(engine), &Lsi::script(copy.source, copy.destination, copy.length));
        self.ask(false, |client| self.copiers[engine].run(client))
    }

    fn touch(&self, touch: Touch) -> u8 {
        self.ask(0, |client| self.toucher.run(client, touch.read, touch.write))
    }

    fn health(&self) -> Result<(), String> {
        self.ask((), Client::settle);
        self.failure.borrow().clone().map_or(Ok(()), Err)
    }
}
