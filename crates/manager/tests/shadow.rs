//! The core against a slow model of who may touch what.
//!
//! The model knows nothing but the answers that clients got: whoever was told yes for a device, a space and a mapping, and
//! not told otherwise since, may touch that page with that device. What the back end was made to do must come to
//! exactly that after every step; and when the back end fails, to no more than that.

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::OwnedFd,
    sync::Arc,
};

use common::{Fail, Leads, PAGE, Plain, inventory};
use portcullis_manager::{
    Change, DeviceId, GroupId, MemoryId, Source,
    core::{Accepted, Asked, ClientId, Core, Limits, MapFrom, Policy, Refusal},
};
use portcullis_spec::{Access, Iova, Pasid};
use proptest::prelude::*;

const DEVICES: u32 = 5;
const CLIENTS: usize = 3;
const PAGES: u64 = 12;
const MEMORY: u64 = 8 * PAGE;

/// Devices 3 and 4 stand together.
fn group(device: u32) -> Vec<u32> {
    if device >= 3 { vec![3, 4] } else { vec![device] }
}

/// Client 0 may have everything, 1 may not have device 0, 2 only has the first pages and few mappings.
fn policy(client: usize) -> Policy {
    match client {
        0 => Policy::new("c0", ["*"]),
        1 => Policy::new("c1", ["dev1", "dev2", "dev3", "mmio:0xfe004000"]),
        _ => Policy {
            windows: Some(vec![Iova(0)..=Iova(4 * PAGE - 1)]),
            limits: Limits { mappings: 3, ..Limits::default() },
            ..Policy::new("c2", ["*"])
        },
    }
}

fn may_claim(client: usize, device: u32) -> bool {
    client != 1 || device != 0
}

#[derive(Clone, Debug)]
enum Step {
    Claim(usize, u32),
    Release(usize, u32),
    CreateSpace(usize),
    DestroySpace(usize, usize),
    Attach(usize, usize, u32, Option<u32>),
    Detach(usize, usize, u32, Option<u32>),
    Map(usize, usize, usize, Vec<(u64, Option<u64>, u64, u8)>),
    Unmap(usize, usize, Vec<(u64, u64)>),
    Reconnect(usize),
    Unplug(u32),
    Fail(u32, bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let c = 0..CLIENTS;
    let d = 0..DEVICES;
    let s = 0usize..3;
    let pasid = prop::option::weighted(0.2, 0u32..20);
    let asked = (0u64..9, prop::option::weighted(0.8, 0..PAGES), 0u64..4, 0u8..8);
    let step = prop_oneof![
        4 => (c.clone(), d.clone()).prop_map(|(c, d)| Step::Claim(c, d)),
        1 => (c.clone(), d.clone()).prop_map(|(c, d)| Step::Release(c, d)),
        2 => c.clone().prop_map(Step::CreateSpace),
        1 => (c.clone(), s.clone()).prop_map(|(c, s)| Step::DestroySpace(c, s)),
        5 => (c.clone(), s.clone(), d.clone(), pasid.clone()).prop_map(|(c, s, d, p)| Step::Attach(c, s, d, p)),
        2 => (c.clone(), s.clone(), d.clone(), pasid).prop_map(|(c, s, d, p)| Step::Detach(c, s, d, p)),
        8 => (c.clone(), s.clone(), c.clone(), prop::collection::vec(asked, 1..4))
            .prop_map(|(c, s, m, a)| Step::Map(c, s, m, a)),
        4 => (c.clone(), s, prop::collection::vec((0..PAGES, 0u64..6), 1..3)).prop_map(|(c, s, r)| Step::Unmap(c, s, r)),
        1 => c.prop_map(Step::Reconnect),
        1 => d.prop_map(Step::Unplug),
        1 => (0u32..6, prop::bool::weighted(0.1)).prop_map(|(n, unknown)| Step::Fail(n, unknown)),
    ];
    prop::collection::vec(step, 1..60)
}

/// What the clients were told.
#[derive(Default)]
struct Model {
    holder: BTreeMap<u32, usize>,
    gone: BTreeSet<u32>,
    spaces: BTreeMap<u64, ModelSpace>,
}

/// Whose space; its pages; its devices.
type ModelSpace = (usize, BTreeMap<u64, Leads>, BTreeSet<(u32, Option<u32>)>);

impl Model {
    fn reach(&self, device: u32, pasid: Option<u32>) -> BTreeMap<u64, Leads> {
        let holds =
            |(_, pages, devices): &ModelSpace| devices.contains(&(device, pasid)).then(|| pages.clone());
        self.spaces.values().find_map(holds).unwrap_or_default()
    }

    fn release(&mut self, device: u32) {
        for device in group(device) {
            self.holder.remove(&device);
            for (_, _, devices) in self.spaces.values_mut() {
                devices.retain(|(d, _)| *d != device);
            }
        }
    }
}

struct World {
    plain: Plain,
    core: Core,
    clients: Vec<(ClientId, MemoryId)>,
    model: Model,
    memory_of: BTreeMap<MemoryId, usize>,
}

impl World {
    fn new() -> Self {
        let mut inventory = inventory(2, DEVICES);
        inventory.devices[4].1.group = GroupId(3);
        inventory.groups[3].reasons.push("dev4 shares with dev3: no ACS".into());
        inventory.groups.pop();
        let plain = Plain::new(inventory);
        let mut core = Core::start::<Refusal>(Box::new(plain.clone()), Accepted::default(), Ok).unwrap();
        let mut memory_of = BTreeMap::new();
        let clients = (0..CLIENTS)
            .map(|n| {
                let connected = connect(&mut core, n);
                memory_of.insert(connected.1, n);
                connected
            })
            .collect();
        Self { plain, core, clients, model: Model::default(), memory_of }
    }

    /// The `n`th space of a client, or one that is not its own.
    fn space(&self, client: usize, n: usize) -> u64 {
        let mut own = self.model.spaces.iter().filter(|(_, s)| s.0 == client).map(|(&id, _)| id);
        own.nth(n).or_else(|| self.model.spaces.keys().copied().nth(n)).unwrap_or(99)
    }

    fn step(&mut self, step: &Step) {
        match step.clone() {
            Step::Claim(c, d) => {
                let claimed = self.core.claim(self.clients[c].0, &format!("dev{d}"));
                if claimed.is_ok() {
                    for d in group(d) {
                        assert!(may_claim(c, d), "client {c} was given dev{d}");
                        if !self.model.gone.contains(&d) {
                            let before = self.model.holder.insert(d, c);
                            assert!(before.is_none_or(|b| b == c), "dev{d} was taken from its holder");
                        }
                    }
                }
            }
            Step::Release(c, d) => {
                if self.core.release(Some(self.clients[c].0), &format!("dev{d}")).is_ok() {
                    assert_eq!(self.model.holder.get(&d), Some(&c));
                    self.model.release(d);
                }
            }
            Step::CreateSpace(c) => {
                if let Ok(space) = self.core.create_space(self.clients[c].0) {
                    self.model.spaces.insert(space, (c, BTreeMap::new(), BTreeSet::new()));
                }
            }
            Step::DestroySpace(c, s) => {
                let space = self.space(c, s);
                if self.core.destroy_space(self.clients[c].0, space).is_ok() {
                    assert_eq!(self.model.spaces.remove(&space).unwrap().0, c);
                }
            }
            Step::Attach(c, s, d, p) => {
                let space = self.space(c, s);
                let pasid = p.and_then(Pasid::new);
                if self.core.attach(self.clients[c].0, space, &format!("dev{d}"), pasid).is_ok() {
                    assert_eq!(self.model.holder.get(&d), Some(&c));
                    let gone = self.model.gone.clone();
                    let alone = group(d).iter().filter(|d| !gone.contains(d)).count() == 1;
                    assert!(p.is_none_or(|p| p < 16 && alone));
                    let state = self.model.spaces.get_mut(&space).unwrap();
                    assert_eq!(state.0, c);
                    state.2.extend(group(d).into_iter().filter(|d| !gone.contains(d)).map(|d| (d, p)));
                }
            }
            Step::Detach(c, s, d, p) => {
                let space = self.space(c, s);
                let pasid = p.and_then(Pasid::new);
                if self.core.detach(self.clients[c].0, space, &format!("dev{d}"), pasid).is_ok() {
                    for d in if p.is_none() { group(d) } else { vec![d] } {
                        self.model.spaces.get_mut(&space).unwrap().2.remove(&(d, p));
                    }
                }
            }
            Step::Map(c, s, m, asked) => self.map(c, s, m, &asked),
            Step::Unmap(c, s, ranges) => {
                let space = self.space(c, s);
                let asked: Vec<_> = ranges.iter().map(|&(p, n)| (Iova(p * PAGE), n * PAGE)).collect();
                if let Ok(removed) = self.core.unmap(self.clients[c].0, space, &asked) {
                    let pages = &mut self.model.spaces.get_mut(&space).unwrap().1;
                    let before = pages.len() as u64;
                    for (page, count) in ranges {
                        for page in page..page + count {
                            pages.remove(&(page * PAGE));
                        }
                    }
                    assert_eq!(removed.bytes, (before - pages.len() as u64) * PAGE);
                }
            }
            Step::Reconnect(c) => {
                self.core.disconnect(self.clients[c].0);
                let held: Vec<u32> =
                    self.model.holder.iter().filter(|(_, h)| **h == c).map(|(&d, _)| d).collect();
                held.into_iter().for_each(|d| self.model.release(d));
                self.model.spaces.retain(|_, s| s.0 != c);
                if self.core.safe_state().is_none() {
                    self.plain.0.lock().unwrap().fail = None;
                    self.clients[c] = connect(&mut self.core, c);
                    self.memory_of.insert(self.clients[c].1, c);
                }
            }
            Step::Unplug(d) => {
                let mut inner = self.plain.0.lock().unwrap();
                if inner.blocked {
                    return;
                }
                inner.changes.push(Change::Disappeared(DeviceId(d)));
                inner.attached.retain(|(id, _), _| *id != DeviceId(d));
                inner.claimed.remove(&DeviceId(d));
                drop(inner);
                self.core.take_changes();
                self.model.holder.remove(&d);
                self.model.gone.insert(d);
                self.model.spaces.values_mut().for_each(|s| s.2.retain(|(id, _)| *id != d));
            }
            Step::Fail(after, unknown) => {
                let fail = if unknown { Fail::Unknown } else { Fail::Refuse };
                self.plain.0.lock().unwrap().fail = Some((after, fail));
            }
        }
    }

    fn map(&mut self, c: usize, s: usize, m: usize, asked: &[(u64, Option<u64>, u64, u8)]) {
        let space = self.space(c, s);
        let memory = self.clients[m].1;
        let requests: Vec<Asked> = asked
            .iter()
            .map(|&(offset, iova, length, access)| Asked {
                offset: offset * PAGE,
                iova: iova.map(|page| Iova(page * PAGE)),
                length: length * PAGE,
                access: Access::from_bits_truncate(access),
            })
            .collect();
        let answer = self.core.map(self.clients[c].0, space, MapFrom::Memory(memory), &requests);
        let Ok(granted) = answer else { return };
        assert_eq!(self.memory_of[&memory], c, "another client's memory was mapped");
        let state = self.model.spaces.get_mut(&space).unwrap();
        assert_eq!(state.0, c, "another client's space was mapped into");
        for (request, granted) in requests.iter().zip(&granted) {
            assert!(request.iova.is_none_or(|iova| iova == granted.iova));
            assert!(request.offset + request.length <= MEMORY, "beyond the memory");
            assert!(c != 2 || granted.iova.0 + request.length <= 4 * PAGE, "outside the window");
            // The units of the test grant writing without reading; nothing is added to what was asked for, apart from
            // what execute implies.
            let wanted = request.access & (Access::READ_WRITE | Access::EXECUTE);
            assert!(wanted.contains(granted.access) || request.access.contains(Access::EXECUTE));
            for page in 0..request.length / PAGE {
                let source = Source::Memory(memory, request.offset + page * PAGE);
                let leads = Leads { source, access: granted.access };
                let before = state.1.insert(granted.iova.0 + page * PAGE, leads);
                assert!(before.is_none(), "mapped twice");
            }
        }
    }

    fn check(&self) {
        for device in 0..DEVICES {
            for pasid in std::iter::once(None).chain((0..20).map(Some)) {
                let reached = self.plain.reach(DeviceId(device), pasid.and_then(Pasid::new));
                if self.core.safe_state().is_some() {
                    assert!(reached.is_empty(), "dev{device} reaches memory in the safe state");
                } else {
                    assert_eq!(reached, self.model.reach(device, pasid), "dev{device}, PASID {pasid:?}");
                }
            }
        }
    }
}

fn connect(core: &mut Core, n: usize) -> (ClientId, MemoryId) {
    let client = core.connect(Arc::new(policy(n))).unwrap();
    let file: OwnedFd = std::fs::File::open("/dev/null").unwrap().into();
    let memory = core.add_memory(client, Arc::new(file), MEMORY, true).unwrap();
    (client, memory)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn devices_reach_exactly_what_their_holders_were_granted(steps in steps()) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
            world.check();
        }
    }
}
