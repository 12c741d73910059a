//! A driver on a machine, at the orders of a program.

use super::program::{Space, Step};
use super::shadow::SpaceKind;
use crate::machine::recorder::{Access as RegisterAccess, Recorder};
use crate::machine::{Copy, Machine, Touch};
use portcullis_driver::common::architecture::Architecture;
use portcullis_driver::{Device, Domain, DomainOptions, FaultRecord, Unit};
use portcullis_spec::{Access, Iova, PhysAddr};

/// What is seen of one step.
#[derive(Clone, PartialEq, Debug)]
pub struct Sight {
    /// What the driver refused.
    pub refused: Option<String>,
    /// Whether the engine could fetch its program (copies), or what it read (touches).
    pub result: u8,
    /// Fault records, oldest first; of those that one behind the other say the same of a page, the first.
    pub faults: Vec<FaultRecord>,
    /// Times that the unit said records were lost.
    pub overflows: u64,
    /// The driver's accesses to registers.
    pub registers: Vec<RegisterAccess>,
}

/// A driver on a machine.
pub struct Driven<'m, M: Machine, A: Architecture> {
    machine: &'m M,
    recorder: &'m Recorder<&'m M>,
    /// The driver.
    pub unit: Unit<A>,
    spaces: Vec<Domain<A>>,
}

/// Where engine `engine`'s program is mapped, to itself, in every space.
pub fn script<M: Machine>(machine: &M, engine: usize) -> (Iova, PhysAddr) {
    let page = machine.ram().script(engine);
    (Iova(page.0), page)
}

impl<'m, M: Machine, A: Architecture> Driven<'m, M, A> {
    /// Make `spaces`, in which only the engines' programs are mapped, and put translation in force. No engine is
    /// attached.
    ///
    /// # Errors
    /// What the driver said.
    pub fn new(
        machine: &'m M,
        recorder: &'m Recorder<&'m M>,
        architecture: A,
        spaces: &[SpaceKind],
    ) -> Result<Self, String> {
        let say = |error: portcullis_driver::Error| error.to_string();
        let unit = Unit::new(architecture);
        for requester in machine.requesters() {
            unit.add_device(Device::new(*requester)).map_err(say)?;
        }
        let mut domains = Vec::new();
        for kind in spaces {
            if *kind == SpaceKind::Identity {
                domains.push(unit.identity_domain().map_err(say)?);
                continue;
            }
            let domain = unit.create_domain(DomainOptions::default()).map_err(say)?;
            for engine in 0..machine.requesters().len() {
                let (iova, page) = script(machine, engine);
                domain.map(iova, page, 4096, Access::READ).map_err(say)?;
            }
            domains.push(domain);
        }
        unit.enable().map_err(say)?;
        Ok(Self { machine, recorder, unit, spaces: domains })
    }

    fn space(&self, space: Space) -> &Domain<A> {
        &self.spaces[space]
    }

    /// Do one step, then read the faults.
    pub fn apply(&self, step: &Step) -> Sight {
        let machine = self.machine;
        let requester = |engine: usize| machine.requesters()[engine];
        let mut result = 0;
        let outcome = match *step {
            Step::Map { space, iova, target, length, access } => {
                let physical = PhysAddr(machine.ram().base().0 + target);
                self.space(space).map(Iova(iova), physical, length, access)
            }
            Step::Unmap { space, iova, length } => self.space(space).unmap(Iova(iova), length).map(drop),
            Step::Protect { space, iova, length, access } => {
                self.space(space).protect(Iova(iova), length, access)
            }
            Step::Attach { engine, space } => self.unit.attach(requester(engine), None, self.space(space)),
            Step::Detach { engine } => self.unit.detach(requester(engine), None),
            Step::Copy { engine, source, destination, length } => {
                result = u8::from(machine.copy(engine, Copy { source, destination, length }));
                Ok(())
            }
            Step::Touch { read, write } => {
                result = machine.touch(Touch { read, write });
                Ok(())
            }
        };
        let mut faults: Vec<FaultRecord> = Vec::new();
        let counts = self.unit.read_faults(|record| {
            // A request that is refused is one or many, of 4 bytes each: that is the machine's.
            let of_one = |earlier: &FaultRecord| {
                let (now, before) = (record.fault, earlier.fault);
                let page = now.address.align_down(4096) == before.address.align_down(4096);
                page && now.requester == before.requester
                    && now.code == before.code
                    && now.access == before.access
            };
            if !faults.last().is_some_and(of_one) {
                faults.push(record);
            }
        });
        Sight {
            refused: outcome.err().map(|error| error.to_string()),
            result,
            faults,
            overflows: counts.overflows,
            registers: self.recorder.take(),
        }
    }

    /// Detach everything and shut the unit down. The driver has given all memory back then.
    ///
    /// # Errors
    /// What the driver said, or how much it kept.
    pub fn finish(self) -> Result<(), String> {
        let Self { machine, unit, spaces, .. } = self;
        unit.shut_down().map_err(|error| error.to_string())?;
        drop(spaces);
        match machine.ram().bytes_in_use() {
            0 => Ok(()),
            kept => Err(format!("the driver kept {kept:#x} bytes when it was shut down")),
        }
    }
}
