//! DMAR as topology.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use portcullis_spec::{Access, PhysAddr};

use super::{
    Header, NAMESPACE_DEVICE, Part, PlatformInfo, Record, Rmrr, SCOPE_HPET, SCOPE_IOAPIC, SCOPE_PCI_ENDPOINT,
    SCOPE_PCI_HIERARCHY, ScopeView, View, get, scope, scopes, structures,
};
use crate::acpi::build::{Build, trimmed_name};
use crate::acpi::layout::Bits;
use crate::acpi::walk::Raw;
use crate::topology::{
    AddressRange, Architecture, AtsStatement, Declared, DeviceName, Devices, Fact, FindingKind, IdMap,
    IntegratedDevice, InterruptSource, InterruptSourceKind, PciPath, RegisterWindow, ReservedKind,
    ReservedRegion, Route, RouteAttributes, Topology, Unit, UnitId,
};

/// Reads what can be trusted of a table.
pub(crate) fn topology(view: &View<'_>, build: Build) -> Topology {
    let mut reader =
        Reader { view, build, units: BTreeMap::new(), named: BTreeMap::new(), taken: BTreeMap::new() };
    reader.read();
    reader.build.finish()
}

struct Reader<'v, 'a> {
    view: &'v View<'a>,
    build: Build,
    /// Units by register base.
    units: BTreeMap<u64, UnitId>,
    /// ANDD names by device number.
    named: BTreeMap<u8, String>,
    /// Who already goes where, by whose word.
    taken: BTreeMap<Devices, usize>,
}

/// What a device scope entry comes to.
enum Target {
    Devices(Devices),
    Interrupts(InterruptSourceKind, PciPath),
    Named(String, PciPath),
}

impl Reader<'_, '_> {
    fn read(&mut self) {
        let Some(platform) = self.view.bytes.get(Header::LENGTH..).and_then(PlatformInfo::read) else {
            let (stated, needed) = (self.view.bytes.len() as u64, super::FIRST as u64);
            self.build.finding(0, FindingKind::TooShort { what: "DMAR", stated, needed });
            return;
        };
        self.platform(platform);
        let mut walk = structures(self.view);
        let mut parts = Vec::new();
        for raw in walk.by_ref() {
            match Part::read(raw) {
                Ok(part) => parts.push((raw, part)),
                Err(kind) => self.build.finding(raw.offset, kind),
            }
        }
        for (raw, part) in &parts {
            match part {
                Part::Andd(andd) => self.andd(*raw, andd.device_number),
                Part::Unknown(kind) => {
                    let value = (*kind).into();
                    self.build
                        .finding(raw.offset, FindingKind::UnknownType { what: "remapping structure", value });
                }
                _ => {}
            }
        }
        let mut rest = Vec::new();
        let mut catch_all = BTreeMap::new();
        for (raw, part) in &parts {
            let Part::Drhd(drhd) = part else { continue };
            let Some(id) = self.drhd(*raw, drhd) else { continue };
            if let Some(first) = catch_all.get(&drhd.segment) {
                let segment = drhd.segment;
                if drhd.flags & 1 != 0 {
                    self.build.finding(raw.offset, FindingKind::SecondCatchAll { segment });
                } else {
                    self.build.finding(*first, FindingKind::CatchAllNotLast { segment });
                }
            }
            if drhd.flags & 1 != 0 {
                catch_all.entry(drhd.segment).or_insert(raw.offset);
                rest.push(self.route(raw.offset, Devices::Segment(drhd.segment), id, IdMap::Same));
            }
        }
        self.build.topology.routes.append(&mut rest);
        for (raw, part) in &parts {
            self.other(*raw, part);
        }
        self.build.problem(walk.problem);
        self.build.overlapping_regions();
    }

    fn platform(&mut self, platform: PlatformInfo) {
        let flag = |bit| Bits::flag(bit, "").of(platform.flags.into()) != 0;
        let build = &mut self.build;
        let bits = platform.host_address_width.saturating_add(1);
        build.topology.platform.physical_address_bits = Some(build.fact(36, bits));
        build.topology.platform.interrupt_remapping = Some(build.fact(37, flag(0)));
        build.topology.platform.x2apic_opt_out = Some(build.fact(37, flag(1)));
        build.topology.platform.dma_opt_in = Some(build.fact(37, flag(2)));
        if platform.flags & !7 != 0 {
            build.finding(37, FindingKind::InvalidField { field: "Flags", value: platform.flags.into() });
        }
        if !(32..=64).contains(&bits) {
            build.finding(
                36,
                FindingKind::InvalidField { field: "Host Address Width", value: (bits - 1).into() },
            );
        }
    }

    fn andd(&mut self, raw: Raw<'_>, number: u8) {
        match trimmed_name(raw.bytes.get(super::Andd::LENGTH..).unwrap_or_default()) {
            Ok(name) => {
                if self.named.insert(number, name.to_string()).is_some() {
                    let value = number.into();
                    self.build.finding(
                        raw.offset,
                        FindingKind::InvalidField { field: "ACPI Device Number", value },
                    );
                }
            }
            Err(expected) => {
                self.build.finding(raw.offset + 8, FindingKind::Name { what: "ACPI Object Name", expected });
            }
        }
    }

    fn drhd(&mut self, raw: Raw<'_>, drhd: &super::Drhd) -> Option<UnitId> {
        let base = drhd.register_base;
        if base == 0 || base == u64::MAX || base & 0xfff != 0 {
            let what = "Register Base Address";
            self.build.finding(raw.offset + 8, FindingKind::RegisterBase { what, base });
            return None;
        }
        if let Some(first) = self.units.get(&base) {
            let first = self.build.topology.units[first.0 as usize].source.clone();
            self.build.finding(raw.offset, FindingKind::DuplicateUnit { base, first });
            return None;
        }
        let id = UnitId(self.build.topology.units.len() as u32);
        let include_pci_all = drhd.flags & 1 != 0;
        let build = &mut self.build;
        let window = RegisterWindow { base: PhysAddr(base), size: Some(4096 << (drhd.size & 0xf)) };
        let unit = Unit {
            id,
            name: build.fact(raw.offset, alloc::format!("dmar{}", id.0)),
            architecture: build.fact(raw.offset, Architecture::Vtd),
            registers: Some(build.fact(raw.offset + 8, window)),
            segment: Some(build.fact(raw.offset + 6, drhd.segment)),
            function: None,
            proximity: None,
            wires: Vec::new(),
            declared: build.fact(raw.offset + 4, Declared::Vtd { include_pci_all }),
            source: build.source(raw.offset),
        };
        build.topology.units.push(unit);
        self.units.insert(base, id);
        let mut idle = !include_pci_all;
        let mut walk = scopes(self.view, raw, super::Drhd::LENGTH);
        for scope in walk.by_ref().filter_map(scope) {
            idle = false;
            self.unit_scope(id, drhd.segment, scope);
        }
        self.build.problem(walk.problem);
        if idle {
            self.build.finding(raw.offset, FindingKind::IdleUnit);
        }
        Some(id)
    }

    fn unit_scope(&mut self, unit: UnitId, segment: u16, scope: ScopeView<'_>) {
        match self.target(segment, scope) {
            Some(Target::Devices(devices)) => self.take(scope.offset, devices, unit, IdMap::Same),
            Some(Target::Interrupts(kind, requester)) => {
                let (number, source) = (scope.info.enumeration_id, self.build.source(scope.offset));
                let found = InterruptSource { kind, number, unit, requester, dte_setting: None, source };
                self.build.topology.interrupt_sources.push(found);
            }
            Some(Target::Named(name, path)) => {
                if let Some(function) = path.resolve(&crate::topology::NoBridges) {
                    let ids = IdMap::One(function.requester_id.into());
                    self.take(scope.offset, Devices::Named(DeviceName::AcpiPath(name)), unit, ids);
                }
                self.take(scope.offset, Devices::Function(path), unit, IdMap::Same);
            }
            None => {}
        }
    }

    /// Adds a route unless the same devices have one.
    fn take(&mut self, offset: usize, devices: Devices, unit: UnitId, ids: IdMap) {
        if let Some(first) = self.taken.get(&devices) {
            let kind = FindingKind::DuplicateRoute {
                devices: devices.to_string(),
                first: self.build.source(*first),
            };
            self.build.finding(offset, kind);
            return;
        }
        self.taken.insert(devices.clone(), offset);
        let route = self.route(offset, devices, unit, ids);
        self.build.topology.routes.push(route);
    }

    fn route(&self, offset: usize, devices: Devices, unit: UnitId, ids: IdMap) -> Route {
        let source = self.build.source(offset);
        Route { devices, unit: Some(unit), ids, attributes: RouteAttributes::default(), source }
    }

    /// What a scope entry names; `None`, and a finding, where that is nothing.
    fn target(&mut self, segment: u16, scope: ScopeView<'_>) -> Option<Target> {
        let hops: Vec<_> = scope.path.chunks_exact(2).map(|hop| (hop[0], hop[1])).collect();
        let problem = if !scope.path.len().is_multiple_of(2) {
            Some("an odd number of bytes")
        } else if hops.is_empty() {
            Some("no hop")
        } else if hops.iter().any(|(device, function)| *device > 31 || *function > 7) {
            Some("a device number above 31 or a function number above 7")
        } else {
            None
        };
        if let Some(problem) = problem {
            self.build.finding(scope.offset, FindingKind::Path { problem });
            return None;
        }
        let path = PciPath { segment, start_bus: scope.info.start_bus, hops };
        match scope.info.kind {
            SCOPE_PCI_ENDPOINT => Some(Target::Devices(Devices::Function(path))),
            SCOPE_PCI_HIERARCHY => Some(Target::Devices(Devices::Hierarchy(path))),
            SCOPE_IOAPIC => Some(Target::Interrupts(InterruptSourceKind::IoApic, path)),
            SCOPE_HPET => Some(Target::Interrupts(InterruptSourceKind::Hpet, path)),
            NAMESPACE_DEVICE => match self.named.get(&scope.info.enumeration_id) {
                Some(name) => Some(Target::Named(name.clone(), path)),
                None => {
                    let value = scope.info.enumeration_id.into();
                    let field = "Enumeration ID (no ANDD declares it)";
                    self.build.finding(scope.offset + 4, FindingKind::InvalidField { field, value });
                    Some(Target::Devices(Devices::Function(path)))
                }
            },
            other => {
                let kind = FindingKind::UnknownType { what: "device scope entry", value: other.into() };
                self.build.finding(scope.offset, kind);
                None
            }
        }
    }

    /// The PCI devices that the scopes of `raw` name.
    fn devices(&mut self, raw: Raw<'_>, fixed: usize, segment: u16) -> Vec<Fact<Devices>> {
        let mut devices = Vec::new();
        let mut walk = scopes(self.view, raw, fixed);
        for scope in walk.by_ref().filter_map(scope) {
            match self.target(segment, scope) {
                Some(Target::Devices(found)) => devices.push(self.build.fact(scope.offset, found)),
                Some(Target::Named(_, path)) => {
                    devices.push(self.build.fact(scope.offset, Devices::Function(path)));
                }
                Some(Target::Interrupts(..)) => {
                    let kind = FindingKind::InvalidField { field: "Type", value: scope.info.kind.into() };
                    self.build.finding(scope.offset, kind);
                }
                None => {}
            }
        }
        self.build.problem(walk.problem);
        devices
    }

    fn other(&mut self, raw: Raw<'_>, part: &Part) {
        match part {
            Part::Rmrr(rmrr) => self.rmrr(raw, rmrr),
            Part::Atsr(atsr) => {
                let devices = self.devices(raw, super::Atsr::LENGTH, atsr.segment);
                self.build.topology.ats.push(if atsr.flags & 1 != 0 {
                    AtsStatement::AllRootPorts(self.build.fact(raw.offset, atsr.segment))
                } else {
                    AtsStatement::RootPorts(devices)
                });
            }
            Part::Rhsa(rhsa) => match self.units.get(&rhsa.register_base) {
                Some(unit) => {
                    let domain = self.build.fact(raw.offset + 16, rhsa.proximity_domain);
                    self.build.topology.units[unit.0 as usize].proximity = Some(domain);
                }
                None => {
                    self.build.finding(raw.offset + 8, FindingKind::NoSuchUnit { base: rhsa.register_base });
                }
            },
            Part::Satc(satc) => {
                let devices = self.devices(raw, super::Satc::LENGTH, satc.segment);
                let required = satc.flags & 1 != 0;
                self.build.topology.ats.push(AtsStatement::Integrated { required, devices });
            }
            Part::Sidp(sidp) => {
                for devices in self.devices(raw, super::Sidp::LENGTH, sidp.segment) {
                    let crate::topology::Source::Table { offset, .. } = devices.source else { continue };
                    let flags = get::<u8>(self.view.bytes, offset as usize + 2).unwrap_or(0);
                    let found = IntegratedDevice { devices: devices.value, flags, source: devices.source };
                    self.build.topology.integrated.push(found);
                }
            }
            Part::Drhd(_) | Part::Andd(_) | Part::Unknown(_) => {}
        }
    }

    fn rmrr(&mut self, raw: Raw<'_>, rmrr: &Rmrr) {
        let devices = self.devices(raw, Rmrr::LENGTH, rmrr.segment);
        let (first, last) = (rmrr.base, rmrr.limit);
        if last <= first {
            self.build.finding(raw.offset + 8, FindingKind::EmptyRange { first, last });
            return;
        }
        let range = AddressRange { first, last };
        self.build.check_range(raw.offset + 8, range);
        if devices.is_empty() {
            self.build.finding(raw.offset, FindingKind::NoDevices);
        }
        let region = ReservedRegion {
            range: self.build.fact(raw.offset + 8, range),
            kind: self.build.fact(raw.offset, ReservedKind::Rmrr),
            access: Access::READ_WRITE,
            devices,
            source: self.build.source(raw.offset),
        };
        self.build.topology.reserved.push(region);
    }
}
