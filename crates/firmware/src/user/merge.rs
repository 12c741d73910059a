//! Joining what firmware says with what the user says.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::Display;

use portcullis_spec::Access;

use super::{How, Mode, UnitName, UserDevice, UserInput, UserRegion, UserUnit};
use crate::topology::{
    Declared, Devices, Fact, FindingKind, IdMap, RegisterWindow, ReservedRegion, Route, RouteAttributes,
    Source, Topology, Unit, UnitId,
};

/// Why user and firmware cannot be joined. Each says where.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MergeError {
    /// The mode is `require`, and firmware describes no unit.
    #[error("firmware describes no IOMMU, and the mode is `require`")]
    FirmwareRequired {
        /// Where the mode is given.
        at: Option<Source>,
    },
    /// A unit of which nobody says the architecture.
    #[error("{at}: unit `{name}` needs an architecture, as firmware's is not used or does not describe it")]
    NoArchitecture {
        /// The unit.
        name: String,
        /// Where it is described.
        at: Source,
    },
    /// A device goes to a unit that nobody describes.
    #[error("{at}: there is no unit `{name}`")]
    NoSuchUnit {
        /// The unit.
        name: String,
        /// Where it is named.
        at: Source,
    },
    /// Two descriptions of one unit.
    #[error("{at}: unit `{name}` is already described at {first}")]
    TwoUnits {
        /// The unit.
        name: String,
        /// The second description.
        at: Source,
        /// The first.
        first: Box<Source>,
    },
    /// Two statements about the same devices.
    #[error("{at}: {devices} is already spoken of at {first}")]
    TwoDevices {
        /// Which.
        devices: String,
        /// The second statement.
        at: Source,
        /// The first.
        first: Box<Source>,
    },
    /// A device without a unit.
    #[error("{at}: {devices} needs a unit (or \"none\"), as there is no statement of firmware to merge with")]
    NoUnit {
        /// Which.
        devices: String,
        /// The statement.
        at: Source,
    },
    /// A region without a kind.
    #[error("{at}: the region {range} needs a kind, as there is no statement of firmware to merge with")]
    NoKind {
        /// Its addresses.
        range: String,
        /// The statement.
        at: Source,
    },
    /// Something is to be removed that firmware does not state.
    #[error("{at}: firmware says nothing of {what} that could be removed")]
    NothingToRemove {
        /// What.
        what: String,
        /// The statement.
        at: Source,
    },
}

/// Joins `firmware` with what the user says. In the result every fact has the source that stated it, the user's routes come
/// before firmware's, and each fact of firmware's that was replaced is a finding.
///
/// # Errors
///
/// What cannot be joined; nothing is then joined at all.
pub fn merge(firmware: Topology, input: &UserInput) -> Result<Topology, MergeError> {
    if input.mode == Mode::Require && firmware.units.is_empty() {
        return Err(MergeError::FirmwareRequired { at: input.mode_source.clone() });
    }
    let topology = if input.mode == Mode::Ignore { Topology::default() } else { firmware };
    let default = if input.mode == Mode::Merge { How::Merge } else { How::Override };
    let mut merger = Merger { topology, default };
    merger.units(&input.units)?;
    merger.devices(&input.devices)?;
    merger.regions(&input.reserved)?;
    Ok(merger.topology)
}

struct Merger {
    topology: Topology,
    default: How,
}

/// The same devices have the same key, however they are written.
fn key(devices: &Devices) -> Devices {
    match devices {
        Devices::Requesters { segment, first, last, mask: 0xffff } if first == last => {
            let address = portcullis_spec::PciAddress { segment: *segment, requester_id: *first };
            Devices::Function(crate::topology::PciPath::function(address))
        }
        other => other.clone(),
    }
}

impl Merger {
    /// Notes that the user's word replaces firmware's.
    fn replaced(
        &mut self,
        what: &'static str,
        user: &Source,
        now: impl Display,
        was: impl Display,
        firmware: &Source,
    ) {
        let (now, was, firmware) = (now.to_string(), was.to_string(), firmware.clone());
        self.topology.findings.push(user.clone(), FindingKind::Overridden { what, now, was, firmware });
    }

    fn units(&mut self, users: &[UserUnit]) -> Result<(), MergeError> {
        let mut described: BTreeMap<UnitId, &Source> = BTreeMap::new();
        let mut removed = Vec::new();
        for user in users {
            let how = user.how.unwrap_or(self.default);
            let found = self.find(user);
            let id = match (how, found) {
                (How::Remove, None) => {
                    let what = alloc::format!("unit `{}`", user.name.value);
                    return Err(MergeError::NothingToRemove { what, at: user.source.clone() });
                }
                (_, Some(id)) => id,
                (_, None) => UnitId(self.topology.units.len() as u32),
            };
            if let Some(first) = described.insert(id, &user.source) {
                let (name, at, first) =
                    (user.name.value.clone(), user.source.clone(), Box::new(first.clone()));
                return Err(MergeError::TwoUnits { name, at, first });
            }
            match (how, found) {
                (How::Remove, _) => {
                    self.dropped_unit(id, user);
                    removed.push(id);
                }
                (How::Merge, Some(id)) => self.merge_unit(id, user),
                (How::Override, Some(id)) => {
                    let unit = new_unit(id, user)?;
                    self.dropped_unit(id, user);
                    self.unroute(id);
                    self.topology.units[id.0 as usize] = unit;
                }
                (How::Merge | How::Override, None) => {
                    let unit = new_unit(id, user)?;
                    self.topology.units.push(unit);
                }
            }
        }
        self.topology.remove_units(&removed);
        Ok(())
    }

    /// The unit that the user means: by name, or else by registers or PCI function.
    fn find(&self, user: &UserUnit) -> Option<UnitId> {
        let units = &self.topology.units;
        let by_place = |unit: &&Unit| {
            let base = unit.registers.as_ref().map(|window| window.base);
            let function = unit.function.as_ref().map(|function| function.value);
            (user.registers.is_some() && user.registers.as_ref().map(|base| base.value) == base)
                || (user.function.is_some()
                    && user.function.as_ref().map(|function| function.value) == function)
        };
        units
            .iter()
            .find(|unit| unit.name.value == user.name.value)
            .or_else(|| units.iter().find(by_place))
            .map(|unit| unit.id)
    }

    fn dropped_unit(&mut self, id: UnitId, user: &UserUnit) {
        let Some(unit) = self.topology.unit(id) else { return };
        let (was, firmware) = (unit.name.value.clone(), unit.source.clone());
        let now = if user.how == Some(How::Remove) { "nothing" } else { &user.name.value };
        self.replaced("unit", &user.source, now, was, &firmware);
    }

    /// Drops every way to a unit that firmware states.
    fn unroute(&mut self, id: UnitId) {
        let topology = &mut self.topology;
        topology.routes.retain(|route| route.unit != Some(id) || route.source.is_user());
        topology.message_routes.retain(|route| route.origin.unit() != Some(id));
        topology.interrupt_sources.retain(|source| source.unit != id);
        for region in &mut topology.reserved {
            region
                .devices
                .retain(|devices| !matches!(devices.value, Devices::Ids { unit, .. } if unit == id));
        }
    }

    fn merge_unit(&mut self, id: UnitId, user: &UserUnit) {
        let Some(mut unit) = self.topology.units.get(id.0 as usize).cloned() else { return };
        if unit.name.value != user.name.value {
            self.replaced("name", &user.name.source, &user.name.value, &unit.name.value, &unit.name.source);
            unit.name = user.name.clone();
        }
        if let Some(architecture) = &user.architecture {
            if unit.architecture.value != architecture.value {
                let (now, was) = (architecture.value, unit.architecture.value);
                self.replaced("architecture", &architecture.source, now, was, &unit.architecture.source);
                unit.declared = Fact::new(Declared::Nothing, architecture.source.clone());
            }
            unit.architecture = architecture.clone();
        }
        let before = unit.registers.take();
        unit.registers = window(user, before.as_ref());
        if let (Some(now), Some(was)) = (&unit.registers, &before)
            && now.value != was.value
        {
            let show = |window: &RegisterWindow| match window.size {
                Some(size) => alloc::format!("{} (size {size:#x})", window.base),
                None => window.base.to_string(),
            };
            let (now_shown, was_shown) = (show(now), show(was));
            self.replaced("registers", &now.source, now_shown, was_shown, &was.source);
        }
        if let Some(segment) = &user.segment {
            if let Some(was) = unit.segment.as_ref().filter(|was| was.value != segment.value) {
                self.replaced("segment", &segment.source, segment.value, was.value, &was.source);
            }
            unit.segment = Some(segment.clone());
        }
        if let Some(function) = &user.function {
            if let Some(was) = unit.function.as_ref().filter(|was| was.value != function.value) {
                self.replaced("function", &function.source, function.value, was.value, &was.source);
            }
            unit.function = Some(function.clone());
        }
        if let Some(proximity) = &user.proximity {
            if let Some(was) = unit.proximity.as_ref().filter(|was| was.value != proximity.value) {
                self.replaced("proximity domain", &proximity.source, proximity.value, was.value, &was.source);
            }
            unit.proximity = Some(proximity.clone());
        }
        self.topology.units[id.0 as usize] = unit;
    }

    fn devices(&mut self, users: &[UserDevice]) -> Result<(), MergeError> {
        let mut spoken: BTreeMap<Devices, &Source> = BTreeMap::new();
        let mut routes = Vec::new();
        for user in users {
            let same = key(&user.devices.value);
            if let Some(first) = spoken.insert(same.clone(), &user.source) {
                let (devices, at) = (user.devices.value.to_string(), user.source.clone());
                return Err(MergeError::TwoDevices { devices, at, first: Box::new(first.clone()) });
            }
            let (mine, others): (Vec<Route>, Vec<Route>) = core::mem::take(&mut self.topology.routes)
                .into_iter()
                .partition(|route| key(&route.devices) == same);
            self.topology.routes = others;
            let how = user.how.unwrap_or(self.default);
            let before = mine.first();
            if how == How::Remove {
                let Some(before) = before else {
                    let (what, at) = (user.devices.value.to_string(), user.source.clone());
                    return Err(MergeError::NothingToRemove { what, at });
                };
                let was = self.route_shown(before);
                self.replaced("route", &user.source, "nothing", was, &before.source);
                continue;
            }
            let base = before.filter(|_| how == How::Merge);
            let unit = match (&user.unit, base) {
                (Some(Fact { value: UnitName::None, .. }), _) => None,
                (Some(Fact { value: UnitName::Named(name), source }), _) => {
                    Some(self.unit_named(name, source)?)
                }
                (None, Some(base)) => base.unit,
                (None, None) => {
                    let (devices, at) = (user.devices.value.to_string(), user.source.clone());
                    return Err(MergeError::NoUnit { devices, at });
                }
            };
            let ids = match (&user.ids, base) {
                (Some(ids), _) => ids.value,
                (None, Some(base)) => base.ids,
                (None, None) => IdMap::Same,
            };
            let route = Route {
                devices: user.devices.value.clone(),
                unit,
                ids,
                attributes: base.map_or_else(RouteAttributes::default, |base| base.attributes),
                source: user.source.clone(),
            };
            for before in &mine {
                if (before.unit, before.ids) != (route.unit, route.ids) {
                    let (now, was) = (self.route_shown(&route), self.route_shown(before));
                    self.replaced("route", &user.source, now, was, &before.source);
                }
            }
            routes.push(route);
        }
        routes.append(&mut self.topology.routes);
        self.topology.routes = routes;
        Ok(())
    }

    fn unit_named(&self, name: &str, source: &Source) -> Result<UnitId, MergeError> {
        let unit = self.topology.units.iter().find(|unit| unit.name.value == name);
        let missing = || MergeError::NoSuchUnit { name: name.to_string(), at: source.clone() };
        unit.map(|unit| unit.id).ok_or_else(missing)
    }

    fn route_shown(&self, route: &Route) -> String {
        let unit =
            route.unit.and_then(|id| self.topology.unit(id)).map_or("no unit", |unit| &unit.name.value);
        match route.ids {
            IdMap::Same => unit.to_string(),
            IdMap::One(number) => alloc::format!("{unit} as {number:#x}"),
            IdMap::Offset { input, output, count } => {
                alloc::format!("{unit}, {count} IDs from {input:#x} as from {output:#x}")
            }
        }
    }

    fn regions(&mut self, users: &[UserRegion]) -> Result<(), MergeError> {
        for user in users {
            let (mine, others): (Vec<ReservedRegion>, Vec<ReservedRegion>) =
                core::mem::take(&mut self.topology.reserved)
                    .into_iter()
                    .partition(|region| region.range.value == user.range.value && !region.source.is_user());
            self.topology.reserved = others;
            let how = user.how.unwrap_or(self.default);
            if how == How::Merge {
                self.topology.reserved.extend(mine.iter().skip(1).cloned());
            }
            let before = mine.first();
            for before in mine.iter().filter(|_| how != How::Merge) {
                let now = if how == How::Remove { "nothing" } else { "the user's region" };
                self.replaced("reserved region", &user.source, now, before.range.value, &before.source);
            }
            if how == How::Remove {
                if before.is_none() {
                    let what = alloc::format!("the region {}", user.range.value);
                    return Err(MergeError::NothingToRemove { what, at: user.source.clone() });
                }
                continue;
            }
            let base = before.filter(|_| how == How::Merge);
            let kind = match (&user.kind, base) {
                (Some(kind), _) => kind.clone(),
                (None, Some(base)) => base.kind.clone(),
                (None, None) => {
                    let (range, at) = (user.range.value.to_string(), user.source.clone());
                    return Err(MergeError::NoKind { range, at });
                }
            };
            if let Some(base) = base.filter(|base| base.kind.value != kind.value) {
                self.replaced("kind of region", &kind.source, kind.value, base.kind.value, &base.kind.source);
            }
            let access = match (&user.access, base) {
                (Some(access), _) => access.value,
                (None, Some(base)) => base.access,
                (None, None) => Access::READ_WRITE,
            };
            let mut devices = user.devices.clone();
            for theirs in base.into_iter().flat_map(|base| &base.devices) {
                if !devices.iter().any(|ours| key(&ours.value) == key(&theirs.value)) {
                    devices.push(theirs.clone());
                }
            }
            let source = base.map_or_else(|| user.source.clone(), |base| base.source.clone());
            let range = base.map_or_else(|| user.range.clone(), |base| base.range.clone());
            let mut region = ReservedRegion { range, kind, access, devices, source };
            if user.kind.is_some() || base.is_none() {
                region.source = user.source.clone();
            }
            self.overlap(user, &region);
            self.topology.reserved.push(region);
        }
        Ok(())
    }

    fn overlap(&mut self, user: &UserRegion, region: &ReservedRegion) {
        let range = region.range.value;
        let other = self.topology.reserved.iter().find(|other| other.range.overlaps(range));
        if let Some(other) = other.map(|other| other.source.clone()) {
            self.topology.findings.push(user.source.clone(), FindingKind::OverlappingRange { range, other });
        }
    }
}

/// A unit of which only the user speaks.
fn new_unit(id: UnitId, user: &UserUnit) -> Result<Unit, MergeError> {
    let Some(architecture) = user.architecture.clone() else {
        let (name, at) = (user.name.value.clone(), user.source.clone());
        return Err(MergeError::NoArchitecture { name, at });
    };
    Ok(Unit {
        id,
        name: user.name.clone(),
        architecture,
        registers: window(user, None),
        segment: user.segment.clone(),
        function: user.function.clone(),
        proximity: user.proximity.clone(),
        wires: Vec::new(),
        declared: Fact::new(Declared::Nothing, user.source.clone()),
        source: user.source.clone(),
    })
}

/// The register window of which the user states base, size, both or neither, and firmware the rest.
fn window(user: &UserUnit, firmware: Option<&Fact<RegisterWindow>>) -> Option<Fact<RegisterWindow>> {
    let base = user.registers.as_ref().map(|base| base.value).or(firmware.map(|window| window.base))?;
    let size = user.size.as_ref().map(|size| size.value).or(firmware.and_then(|window| window.size));
    let source = match (&user.registers, &user.size, firmware) {
        (Some(base), _, _) => base.source.clone(),
        (None, Some(size), _) => size.source.clone(),
        (None, None, Some(window)) => window.source.clone(),
        (None, None, None) => return None,
    };
    Some(Fact::new(RegisterWindow { base, size }, source))
}
