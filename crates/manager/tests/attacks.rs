//! DMA attacks of docs/attacks.md before a shadow, on every architecture of the embedded platform: clients map, unmap, attach, detach and
//! hand a device over at random, and after each step devices read and write inside and outside of what they were granted. The shadow knows of each
//! (device, PASID, page) what the answers allow, and of each page what must stand there.

mod common;

use std::{collections::BTreeMap, os::fd::OwnedFd};

use common::{
    PAGE,
    random::Random,
    service::{Service, claim},
};
use portcullis_client::{
    Client, Error,
    api::{Access, MapRequest, Range},
    device::SharedMemory,
};
use portcullis_manager::{
    core::Policy,
    embedded::{
        ARCHITECTURES,
        backend::DEVICES,
        device::{Command, Operation, Outcome},
        simulate,
    },
};
use portcullis_spec::Pasid;

/// Where the addresses begin that are mapped, and how many pages there are.
const FIRST: u64 = 0x10_0000;
const PAGES: u64 = 24;
/// Pages of each client's memory.
const MEMORY: u64 = 16;
const STEPS: u32 = 250;

/// A client, and what its answers allow.
struct Party {
    client: Client,
    space: u64,
    number: u64,
    memory: SharedMemory,
    /// By page of addresses: page of memory, and whether it may be written.
    mapped: BTreeMap<u64, (u64, bool)>,
    /// What must stand in each page.
    stands: Vec<u64>,
    /// Devices that it has, and whether they are attached.
    devices: BTreeMap<&'static str, (OwnedFd, bool)>,
}

impl Party {
    fn new(service: &Service, name: &str, tag: u64) -> Self {
        let mut client = service.client(name);
        let space = client.create_space().unwrap();
        let memory = SharedMemory::new(name, MEMORY * PAGE).unwrap();
        let stands: Vec<u64> = (0..MEMORY).map(|page| tag << 32 | page).collect();
        stands.iter().zip(0..).for_each(|(value, page)| memory.write::<u64>(page * PAGE, *value).unwrap());
        let number = client.add_memory(&memory).unwrap().memory;
        Self { client, space, number, memory, mapped: BTreeMap::new(), stands, devices: BTreeMap::new() }
    }

    fn claim(&mut self, device: &'static str) {
        let descriptor = claim(&mut self.client, device);
        self.devices.insert(device, (descriptor, false));
    }

    fn attach(&mut self, device: &'static str, attach: bool) {
        let Some((_, attached)) = self.devices.get_mut(device).filter(|(_, attached)| *attached != attach)
        else {
            return;
        };
        *attached = attach;
        if attach {
            self.client.attach(self.space, device, None).unwrap();
        } else {
            self.client.detach(self.space, device, None).unwrap();
        }
    }

    fn map(&mut self, page: u64, to: u64, writable: bool) {
        let access = Access { read: true, write: writable, execute: false };
        let asked =
            |offset, length| vec![MapRequest { offset, iova: Some(FIRST + page * PAGE), length, access }];
        // Attack 1: nothing less than a page, and no page of which a part is another's, is ever granted.
        for (offset, length) in
            [(to * PAGE, PAGE / 2), (to * PAGE + 512, PAGE), (MEMORY * PAGE - PAGE / 2, PAGE)]
        {
            let refused = self.client.map(self.space, Some(self.number), asked(offset, length));
            assert!(matches!(refused, Err(Error::Refused { .. })), "{offset:#x} {length:#x}: {refused:?}");
        }
        if !self.mapped.contains_key(&page) {
            self.client.map(self.space, Some(self.number), asked(to * PAGE, PAGE)).unwrap();
            self.mapped.insert(page, (to, writable));
        }
    }

    fn unmap(&mut self, page: u64) {
        if self.mapped.remove(&page).is_some() {
            let range = Range { iova: FIRST + page * PAGE, length: PAGE };
            self.client.unmap(self.space, vec![range]).unwrap();
        }
    }

    /// A device reads, and writes where that is allowed or refused, one page.
    fn probe(&mut self, device: &str, pasid: Option<Pasid>, page: u64, value: u64) -> u64 {
        let (descriptor, attached) = &self.devices[device];
        let allowed = self.mapped.get(&page).filter(|_| *attached && pasid.is_none()).copied();
        let command = |operation, argument| Command {
            pasid,
            ..Command::new(operation, FIRST + page * PAGE, 8, argument)
        };
        let read = command(Operation::Read, 0).send(descriptor).unwrap();
        let written = command(Operation::Write, value).send(descriptor).unwrap();
        let refused = |outcome| u64::from(outcome == Outcome::Refused);
        match allowed {
            None => assert_eq!(
                (read.outcome, written.outcome),
                (Outcome::Refused, Outcome::Refused),
                "{device} {page}"
            ),
            Some((to, writable)) => {
                let stood = &mut self.stands[to as usize];
                assert_eq!((read.outcome, read.value), (Outcome::Done, *stood), "{device} {page}");
                let expected = if writable { Outcome::Done } else { Outcome::Refused };
                assert_eq!(written.outcome, expected, "{device} {page}");
                *stood = if writable { value } else { *stood };
            }
        }
        refused(read.outcome) + refused(written.outcome)
    }

    fn stands(&self) -> bool {
        (0..).zip(&self.stands).all(|(page, value)| self.memory.read::<u64>(page * PAGE).unwrap() == *value)
    }
}

fn play(architecture: &str, seed: u64) {
    let clients = [Policy::new("a", ["accel0", "disk0"]), Policy::new("b", ["rogue0", "disk0"])];
    let service = Service::over(simulate(architecture, &DEVICES).unwrap().unwrap(), clients);
    let mut parties = [Party::new(&service, "a", 0xa), Party::new(&service, "b", 0xb)];
    parties[0].claim("accel0");
    parties[1].claim("rogue0");
    parties[0].claim("disk0");
    let mut random = Random(seed);
    let mut refused = 0;
    for step in 0..STEPS {
        let who = random.below(2) as usize;
        let (page, to) = (random.below(PAGES), random.below(MEMORY));
        match random.below(10) {
            0..4 => parties[who].map(page, to, random.below(2) == 0),
            4..7 => parties[who].unmap(page),
            7 | 8 => {
                let devices: Vec<_> = parties[who].devices.keys().copied().collect();
                let device = devices[random.below(devices.len() as u64) as usize];
                parties[who].attach(device, random.below(3) > 0);
            }
            // Attacks 4, 6 and 9: the disk changes hands; what it reached before it reaches no more.
            _ => {
                let from = usize::from(parties[1].devices.contains_key("disk0"));
                let (descriptor, _) = parties[from].devices.remove("disk0").unwrap();
                parties[from].client.release("disk0", false).unwrap();
                // Its former client's end is of no more use.
                let answer = Command::new(Operation::Read, FIRST, 8, 0).send(&descriptor);
                assert!(answer.map_or(true, |answer| answer.outcome == Outcome::Refused));
                parties[1 - from].claim("disk0");
                parties[1 - from].attach("disk0", random.below(2) == 0);
            }
        }
        for party in &mut parties {
            let devices: Vec<_> = party.devices.keys().copied().collect();
            for device in devices {
                let value = u64::from(step) << 16 | random.below(1 << 16);
                // The page of this step first: attacks 2 and 3 are about what was unmapped a moment ago.
                refused += party.probe(device, None, page, value);
                refused += party.probe(device, None, random.below(PAGES), value + 1);
                if device == "accel0" {
                    refused += party.probe(device, Pasid::new(5), page, value + 2);
                }
            }
        }
        // Attack 20 and others: tables, queues, others' memory, beyond every width.
        let rogue = &parties[1].devices["rogue0"].0;
        for address in
            [0x1_0000 + random.below(1 << 20) * 8, 1 << 32, u64::MAX - 7, random.below(1 << 62) * 4]
        {
            if (FIRST..FIRST + PAGES * PAGE).contains(&address) {
                continue;
            }
            let answer = Command::new(Operation::Write, address, 8, 0x666).send(rogue).unwrap();
            assert_eq!(answer.outcome, Outcome::Refused, "{address:#x}");
            refused += 1;
        }
        assert!(parties.iter().all(Party::stands), "{architecture}, step {step}");
    }
    let total = parties[0].client.status().unwrap().faults;
    assert!(total > 0 && refused > u64::from(STEPS), "{architecture}: {total} of {refused}");
}

#[test]
fn devices_reach_what_the_answers_allow_and_nothing_else_on_vtd() {
    play(ARCHITECTURES[0], 1);
}

#[test]
fn devices_reach_what_the_answers_allow_and_nothing_else_on_smmuv3() {
    play(ARCHITECTURES[1], 2);
}

#[test]
fn devices_reach_what_the_answers_allow_and_nothing_else_on_riscv() {
    play(ARCHITECTURES[2], 3);
}
