//! IVRS as topology.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use portcullis_spec::{Access, PciAddress, PhysAddr};

use super::{Acpi, EntryView, Header, Ivmd, Part, PlatformInfo, Record, Special, View, blocks, entries};
use crate::acpi::build::{Build, trimmed_name};
use crate::acpi::layout::Bits;
use crate::acpi::walk::Raw;
use crate::topology::{
    AddressRange, Architecture, Declared, DeviceName, Devices, FindingKind, IdMap, InterruptSource,
    InterruptSourceKind, PciPath, RegisterWindow, ReservedKind, ReservedRegion, Route, RouteAttributes,
    Topology, Unit, UnitId,
};

/// Reads what can be trusted of a table.
///
/// A unit has up to three IVHDs, of types 10h, 11h and 40h: the highest counts (5.2.2). Of two entries for one device
/// the later counts, so the routes come out in reverse.
pub(crate) fn topology(view: &View<'_>, mut build: Build) -> Topology {
    let Some(platform) = view.bytes.get(Header::LENGTH..).and_then(PlatformInfo::read) else {
        let (stated, needed) = (view.bytes.len() as u64, super::FIRST as u64);
        build.finding(0, FindingKind::TooShort { what: "IVRS", stated, needed });
        return build.finish();
    };
    read_platform(&mut build, platform);
    let mut walk = blocks(view);
    let mut parts = Vec::new();
    for raw in walk.by_ref() {
        match Part::read(raw) {
            Ok(part) => parts.push((raw, part)),
            Err(kind) => build.finding(raw.offset, kind),
        }
    }
    let mut highest: BTreeMap<(u16, u16), u8> = BTreeMap::new();
    for unit in parts.iter().filter_map(|(raw, part)| Hardware::read(*raw, *part)) {
        let best = highest.entry(unit.key()).or_default();
        *best = unit.block_type.max(*best);
    }
    let mut reader = Reader { view, build, units: BTreeMap::new() };
    for (raw, part) in &parts {
        if let Some(unit) = Hardware::read(*raw, *part) {
            if highest.get(&unit.key()) == Some(&unit.block_type) {
                reader.unit(*raw, unit);
            }
        } else if let Part::Ivmd(ivmd) = part {
            reader.memory(*raw, ivmd);
        } else if let Part::Unknown(block) = part {
            let kind = FindingKind::UnknownType { what: "IVRS block", value: block.kind.into() };
            reader.build.finding(raw.offset, kind);
        }
    }
    let mut build = reader.build;
    build.topology.routes.reverse();
    build.problem(walk.problem);
    build.overlapping_regions();
    build.finish()
}

fn read_platform(build: &mut Build, platform: PlatformInfo) {
    let info = u64::from(platform.iv_info);
    let cut = |high, low| Bits::field(high, low, "").of(info) as u8;
    let bits = |build: &Build, value: u8| (value != 0).then(|| build.fact(36, value));
    build.topology.platform.efr_supported = Some(build.fact(36, cut(0, 0) != 0));
    build.topology.platform.dma_opt_in = Some(build.fact(36, cut(1, 1) != 0));
    build.topology.platform.ht_ats_reserved = Some(build.fact(36, cut(22, 22) != 0));
    build.topology.platform.physical_address_bits = bits(build, cut(14, 8));
    build.topology.platform.virtual_address_bits = bits(build, cut(21, 15));
    // 5.2.1: 010b is 48 bits, all other values are reserved.
    build.topology.platform.guest_virtual_address_bits = (cut(7, 5) == 2).then(|| build.fact(36, 48));
}

/// What the three types of IVHD have in common.
#[derive(Clone, Copy)]
struct Hardware {
    block_type: u8,
    fixed: usize,
    flags: u8,
    device_id: u16,
    capability_offset: u16,
    base: u64,
    segment: u16,
    info: u16,
    attributes: u32,
    efr: Option<(u64, u64)>,
}

impl Hardware {
    fn read(raw: Raw<'_>, part: Part) -> Option<Self> {
        let block_type = *raw.bytes.first()?;
        let fixed = part.fixed_length();
        match part {
            Part::Ivhd10(ivhd) => Some(Self {
                block_type,
                fixed,
                flags: ivhd.flags,
                device_id: ivhd.device_id,
                capability_offset: ivhd.capability_offset,
                base: ivhd.base,
                segment: ivhd.segment,
                info: ivhd.info,
                attributes: ivhd.features,
                efr: None,
            }),
            Part::Ivhd11(ivhd) | Part::Ivhd40(ivhd) => Some(Self {
                block_type,
                fixed,
                flags: ivhd.flags,
                device_id: ivhd.device_id,
                capability_offset: ivhd.capability_offset,
                base: ivhd.base,
                segment: ivhd.segment,
                info: ivhd.info,
                attributes: ivhd.attributes,
                efr: Some((ivhd.efr, ivhd.efr2)),
            }),
            Part::Ivmd(_) | Part::Unknown(_) => None,
        }
    }

    const fn key(&self) -> (u16, u16) {
        (self.segment, self.device_id)
    }
}

struct Reader<'v, 'a> {
    view: &'v View<'a>,
    build: Build,
    /// Units by segment and requester ID.
    units: BTreeMap<(u16, u16), UnitId>,
}

/// A range entry that waits for its end.
#[derive(Clone, Copy)]
struct Open {
    offset: usize,
    first: u16,
    ids: IdMap,
    attributes: RouteAttributes,
}

impl Reader<'_, '_> {
    fn unit(&mut self, raw: Raw<'_>, hardware: Hardware) {
        let base = hardware.base;
        if base == 0 || base == u64::MAX || base & 0x3fff != 0 {
            let what = "IOMMU Base Address";
            self.build.finding(raw.offset + 8, FindingKind::RegisterBase { what, base });
            return;
        }
        if let Some(first) = self.units.get(&hardware.key()) {
            let first = self.build.topology.units[first.0 as usize].source.clone();
            self.build.finding(raw.offset, FindingKind::DuplicateUnit { base, first });
            return;
        }
        let build = &mut self.build;
        let id = UnitId(build.topology.units.len() as u32);
        let function = PciAddress { segment: hardware.segment, requester_id: hardware.device_id };
        let declared = Declared::AmdVi {
            block_type: hardware.block_type,
            flags: hardware.flags,
            capability_offset: hardware.capability_offset,
            info: hardware.info,
            attributes: hardware.attributes,
            efr: hardware.efr.map(|(efr, _)| efr),
            efr2: hardware.efr.map(|(_, efr2)| efr2),
        };
        let unit = Unit {
            id,
            name: build.fact(raw.offset, alloc::format!("ivhd{}", id.0)),
            architecture: build.fact(raw.offset, Architecture::AmdVi),
            registers: Some(build.fact(raw.offset + 8, RegisterWindow { base: PhysAddr(base), size: None })),
            segment: Some(build.fact(raw.offset + 16, hardware.segment)),
            function: Some(build.fact(raw.offset + 4, function)),
            proximity: None,
            wires: Vec::new(),
            declared: build.fact(raw.offset + 1, declared),
            source: build.source(raw.offset),
        };
        build.topology.units.push(unit);
        self.units.insert(hardware.key(), id);
        self.entries(raw, id, hardware);
    }

    fn entries(&mut self, raw: Raw<'_>, unit: UnitId, hardware: Hardware) {
        let segment = hardware.segment;
        let mut open: Option<Open> = None;
        let mut any = false;
        let mut walk = entries(self.view, raw, hardware.fixed);
        for raw in walk.by_ref() {
            let Some(entry) = EntryView::read(raw) else { continue };
            let offset = raw.offset;
            if !matches!(entry, EntryView::Other(64, _))
                && !matches!(entry, EntryView::Short(short) if short.kind == 0)
            {
                any = true;
            }
            let mut start = None;
            match entry {
                EntryView::Short(short) => {
                    let attributes = setting(short.dte_setting);
                    let id = short.device_id;
                    match short.kind {
                        0 => {}
                        1 => self.route(offset, Devices::Segment(segment), unit, IdMap::Same, attributes),
                        2 => {
                            self.route(
                                offset,
                                Devices::requesters(segment, id, id),
                                unit,
                                IdMap::Same,
                                attributes,
                            );
                        }
                        3 => start = Some(Open { offset, first: id, ids: IdMap::Same, attributes }),
                        4 => match open.take() {
                            Some(range) => self.range(range, offset, id, segment, unit),
                            None => {
                                let problem = "an end of range without a start of range";
                                self.build.finding(offset, FindingKind::RangeEntry { problem });
                            }
                        },
                        other => self.unknown(offset, other),
                    }
                }
                EntryView::Alias(alias) => {
                    let (id, attributes) = (alias.device_id, setting(alias.dte_setting));
                    let ids = IdMap::One(alias.source_device_id.into());
                    if alias.kind == 66 {
                        self.route(offset, Devices::requesters(segment, id, id), unit, ids, attributes);
                    } else {
                        start = Some(Open { offset, first: id, ids, attributes });
                    }
                }
                EntryView::Extended(extended) => {
                    let id = extended.device_id;
                    let ats_disabled = extended.extended_dte_setting >> 31 != 0;
                    let attributes = RouteAttributes {
                        ats: ats_disabled.then_some(false),
                        ..setting(extended.dte_setting)
                    };
                    if extended.kind == 70 {
                        self.route(
                            offset,
                            Devices::requesters(segment, id, id),
                            unit,
                            IdMap::Same,
                            attributes,
                        );
                    } else {
                        start = Some(Open { offset, first: id, ids: IdMap::Same, attributes });
                    }
                }
                EntryView::Special(special) => self.special(offset, special, segment, unit),
                EntryView::Acpi(acpi, uid) => self.acpi(offset, acpi, uid, segment, unit),
                EntryView::Other(64, _) => {}
                EntryView::Other(kind, _) => self.unknown(offset, kind),
            }
            if let Some(before) = start.and_then(|range| open.replace(range)) {
                self.without_end(before);
            }
        }
        if let Some(range) = open {
            self.without_end(range);
        }
        if !any {
            self.build.finding(raw.offset, FindingKind::IdleUnit);
        }
        self.build.problem(walk.problem);
    }

    fn without_end(&mut self, range: Open) {
        let problem = "a start of range without an end of range";
        self.build.finding(range.offset, FindingKind::RangeEntry { problem });
    }

    fn unknown(&mut self, offset: usize, kind: u8) {
        self.build.finding(offset, FindingKind::UnknownType { what: "device entry", value: kind.into() });
    }

    fn route(
        &mut self,
        offset: usize,
        devices: Devices,
        unit: UnitId,
        ids: IdMap,
        attributes: RouteAttributes,
    ) {
        let source = self.build.source(offset);
        self.build.topology.routes.push(Route { devices, unit: Some(unit), ids, attributes, source });
    }

    fn range(&mut self, range: Open, offset: usize, last: u16, segment: u16, unit: UnitId) {
        let first = range.first;
        if last < first {
            let (first, last) = (first.into(), last.into());
            self.build.finding(offset, FindingKind::EmptyRange { first, last });
            return;
        }
        let devices = Devices::requesters(segment, first, last);
        self.route(range.offset, devices, unit, range.ids, range.attributes);
    }

    fn special(&mut self, offset: usize, special: Special, segment: u16, unit: UnitId) {
        let kind = match special.variety {
            1 => InterruptSourceKind::IoApic,
            2 => InterruptSourceKind::Hpet,
            other => {
                let kind = FindingKind::InvalidField { field: "Variety", value: other.into() };
                self.build.finding(offset + 7, kind);
                return;
            }
        };
        let requester = PciPath::function(PciAddress { segment, requester_id: special.source_device_id });
        let source = self.build.source(offset);
        self.build.topology.interrupt_sources.push(InterruptSource {
            kind,
            number: special.handle,
            unit,
            requester,
            dte_setting: Some(special.dte_setting),
            source,
        });
    }

    fn acpi(&mut self, offset: usize, acpi: Acpi, uid: &[u8], segment: u16, unit: UnitId) {
        let attributes = setting(acpi.dte_setting);
        let id = acpi.device_id;
        self.route(offset, Devices::requesters(segment, id, id), unit, IdMap::Same, attributes);
        let hid = match trimmed_name(&acpi.hid) {
            Ok(hid) => hid.to_string(),
            Err(expected) => {
                self.build.finding(offset + 4, FindingKind::Name { what: "HardwareID", expected });
                return;
            }
        };
        let cid = if acpi.cid == [0; 8] { None } else { trimmed_name(&acpi.cid).ok().map(String::from) };
        let uid = match (acpi.uid_format, uid) {
            (0, []) => Ok(None),
            (1, uid) => <[u8; 8]>::try_from(uid)
                .map(|uid| Some(u64::from_le_bytes(uid).to_string()))
                .map_err(|_| "an integer of eight bytes"),
            (2, uid) => trimmed_name(uid).map(|uid| Some(uid.to_string())),
            _ => Err("of a known format, or absent"),
        };
        let uid = match uid {
            Ok(uid) => uid,
            Err(expected) => {
                self.build.finding(offset + 22, FindingKind::Name { what: "UniqueID", expected });
                return;
            }
        };
        let devices = Devices::Named(DeviceName::AcpiId { hid, cid, uid });
        self.route(offset, devices, unit, IdMap::One(id.into()), attributes);
    }

    fn memory(&mut self, raw: Raw<'_>, ivmd: &Ivmd) {
        let Some(range) = AddressRange::from_length(ivmd.start, ivmd.length) else {
            let (first, last) = (ivmd.start, ivmd.start.wrapping_add(ivmd.length).wrapping_sub(1));
            self.build.finding(raw.offset + 16, FindingKind::EmptyRange { first, last });
            return;
        };
        self.build.check_range(raw.offset + 16, range);
        let (segment, first) = (ivmd.segment, ivmd.device_id);
        let devices = match ivmd.kind {
            0x20 => Devices::Segment(segment),
            0x21 => Devices::requesters(segment, first, first),
            _ => Devices::requesters(segment, first, ivmd.auxiliary_data),
        };
        if ivmd.kind == 0x22 && ivmd.auxiliary_data < first {
            let (first, last) = (first.into(), ivmd.auxiliary_data.into());
            self.build.finding(raw.offset + 4, FindingKind::EmptyRange { first, last });
            return;
        }
        let bit = |bit: u8| ivmd.flags & (1 << bit) != 0;
        // 5.2.2.6: ExclusionRange takes precedence; the other flags then mean nothing.
        let (kind, access) = if bit(3) {
            (ReservedKind::Exclusion, Access::READ_WRITE)
        } else {
            let mut access = Access::empty();
            access.set(Access::READ, bit(1));
            access.set(Access::WRITE, bit(2));
            (if bit(0) { ReservedKind::Unity } else { ReservedKind::Unmapped }, access)
        };
        let region = ReservedRegion {
            range: self.build.fact(raw.offset + 16, range),
            kind: self.build.fact(raw.offset + 1, kind),
            access,
            devices: alloc::vec![self.build.fact(raw.offset + 4, devices)],
            source: self.build.source(raw.offset),
        };
        self.build.topology.reserved.push(region);
    }
}

fn setting(dte_setting: u8) -> RouteAttributes {
    RouteAttributes { dte_setting: Some(dte_setting), ..RouteAttributes::default() }
}
