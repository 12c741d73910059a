//! A slow and obvious reading of topology from iasl's text, which shares no code with ours: tables of answers, one for each
//! requester ID, filled in the order in which the specifications say that statements count.

use super::iasl::{Disassembly, Line};
use portcullis_firmware::acpi;
use portcullis_firmware::topology::{Devices, NoBridges, PciPath, Topology};
use portcullis_spec::{PciAddress, Requester};
use std::collections::{BTreeMap, BTreeSet};

/// Compares our topology with the reference; `None` where iasl does not know all of the table.
#[must_use]
pub fn compare(table: &[u8], theirs: &Disassembly) -> Option<(u64, Vec<String>)> {
    if theirs.lines.iter().any(|line| line.unknown) || !theirs.complaints.is_empty() {
        return None;
    }
    let topology = acpi::topology(table);
    let mut comparison = Comparison { topology: &topology, checks: 0, differences: Vec::new() };
    match table.get(..4)? {
        b"DMAR" => comparison.dmar(&parts(&theirs.lines, "Subtable Type", "Device Scope Type")),
        b"IVRS" => comparison.ivrs(&parts(&theirs.lines, "Subtable Type", "Entry Type")),
        b"IORT" => comparison.iort(&parts(&theirs.lines, "Type", "Input base")),
        _ => return None,
    }
    Some((comparison.checks, comparison.differences))
}

/// A structure of iasl's text: its lines, and the parts nested in it.
struct Part<'t> {
    lines: Vec<&'t Line>,
    inner: Vec<Part<'t>>,
}

impl Part<'_> {
    fn number(&self, name: &str) -> u64 {
        let line = self.lines.iter().find(|line| line.name == name);
        line.and_then(|line| u64::from_str_radix(&line.value, 16).ok()).unwrap_or(0)
    }

    fn offset(&self) -> usize {
        self.lines.first().map_or(0, |line| line.offset)
    }
}

/// Cuts the text into structures that begin with a line called `outer`, and parts of those that begin with `inner`.
fn parts<'t>(lines: &'t [Line], outer: &str, inner: &str) -> Vec<Part<'t>> {
    let mut parts: Vec<Part<'t>> = Vec::new();
    for line in lines.iter().filter(|line| line.length > 0) {
        let new = Part { lines: vec![line], inner: Vec::new() };
        match parts.last_mut() {
            _ if line.name == outer => parts.push(new),
            Some(part) if line.name == inner => part.inner.push(new),
            Some(part) => match part.inner.last_mut() {
                Some(inner) => inner.lines.push(line),
                None => part.lines.push(line),
            },
            None => {}
        }
    }
    parts
}

/// Unit, source ID and setting of a requester ID (IVRS).
type Answer = (u64, u16, u64);

struct Comparison<'t> {
    topology: &'t Topology,
    checks: u64,
    differences: Vec<String>,
}

impl Comparison<'_> {
    fn same<T: PartialEq + std::fmt::Debug>(&mut self, what: &str, ours: &T, theirs: &T) {
        self.checks += 1;
        if ours != theirs {
            self.differences.push(format!("topology: {what}: ours is {ours:?}, the reference's {theirs:?}"));
        }
    }

    fn base(&self, unit: Option<portcullis_firmware::topology::UnitId>) -> Option<u64> {
        let unit = self.topology.unit(unit?)?;
        unit.registers.as_ref().map(|window| window.base.0)
    }

    fn dmar(&mut self, parts: &[Part<'_>]) {
        let mut units = BTreeMap::new();
        let mut answers: BTreeMap<String, Option<u64>> = BTreeMap::new();
        let mut all: BTreeMap<u64, u64> = BTreeMap::new();
        let mut regions = BTreeSet::new();
        let mut affinity = BTreeMap::new();
        let mut interrupts = BTreeSet::new();
        for part in parts.iter().filter(|part| part.number("Subtable Type") == 0) {
            let (base, segment) = (part.number("Register Base Address"), part.number("PCI Segment Number"));
            if base == 0 || base == u64::MAX || base % 4096 != 0 || units.contains_key(&base) {
                continue;
            }
            units.insert(base, (segment, part.number("Flags") & 1 == 1));
            if part.number("Flags") & 1 == 1 {
                all.entry(segment).or_insert(base);
            }
            for scope in &part.inner {
                let kind = scope.number("Device Scope Type");
                let path = path_text(segment, scope);
                if kind == 3 || kind == 4 {
                    interrupts.insert((kind, scope.number("Enumeration ID"), base, path));
                } else if (1..=5).contains(&kind) {
                    let kind = if kind == 2 { "hierarchy" } else { "function" };
                    answers.entry(format!("{kind} {path}")).or_insert(Some(base));
                }
            }
        }
        for part in parts {
            match part.number("Subtable Type") {
                1 => {
                    let (first, last) = (part.number("Base Address"), part.number("End Address (limit)"));
                    let scopes = part
                        .inner
                        .iter()
                        .filter(|scope| [1, 2, 5].contains(&scope.number("Device Scope Type")));
                    let segment = part.number("PCI Segment Number");
                    let paths: Vec<_> = scopes.map(|scope| path_text(segment, scope)).collect();
                    if first < last {
                        regions.insert((first, last, paths));
                    }
                }
                3 if units.contains_key(&part.number("Base Address")) => {
                    affinity.insert(part.number("Base Address"), part.number("Proximity Domain"));
                }
                _ => {}
            }
        }
        let ours = self.topology.units.iter().filter_map(|unit| {
            let segment = unit.segment.as_ref()?.value.into();
            let all =
                unit.declared.value == portcullis_firmware::topology::Declared::Vtd { include_pci_all: true };
            Some((unit.registers.as_ref()?.base.0, (segment, all)))
        });
        self.same("units", &ours.collect(), &units);
        let mut first = BTreeMap::new();
        let mut rest = BTreeMap::new();
        for route in &self.topology.routes {
            let base = self.base(route.unit);
            match &route.devices {
                Devices::Function(path) => {
                    first.entry(format!("function {}", our_path(path))).or_insert(base)
                }
                Devices::Hierarchy(path) => {
                    first.entry(format!("hierarchy {}", our_path(path))).or_insert(base)
                }
                Devices::Segment(segment) => {
                    rest.entry(u64::from(*segment)).or_insert(base.unwrap_or(0));
                    continue;
                }
                _ => continue,
            };
        }
        self.same("named devices", &first, &answers);
        self.same("units for all else", &rest, &all);
        let ours = self.topology.reserved.iter().map(|region| {
            let path = |devices: &Devices| match devices {
                Devices::Function(path) | Devices::Hierarchy(path) => our_path(path),
                other => format!("{other:?}"),
            };
            let paths: Vec<_> = region.devices.iter().map(|devices| path(&devices.value)).collect();
            (region.range.first, region.range.last, paths)
        });
        self.same("regions", &ours.collect(), &regions);
        let ours = self.topology.units.iter().filter_map(|unit| {
            Some((unit.registers.as_ref()?.base.0, u64::from(unit.proximity.as_ref()?.value)))
        });
        self.same("affinity", &ours.collect(), &affinity);
        let ours = self.topology.interrupt_sources.iter().map(|source| {
            let kind = source.kind as u64 + 3;
            (
                kind,
                source.number.into(),
                self.base(Some(source.unit)).unwrap_or(0),
                our_path(&source.requester),
            )
        });
        self.same("interrupt sources", &ours.collect(), &interrupts);
    }

    fn ivrs(&mut self, parts: &[Part<'_>]) {
        let kind = |part: &Part<'_>| part.number("Subtable Type");
        let hardware = |part: &&Part<'_>| [0x10, 0x11].contains(&kind(part));
        let id = |part: &Part<'_>| (part.number("PCI Segment Group"), part.number("DeviceId"));
        let mut seen = BTreeSet::new();
        let mut answers: BTreeMap<u64, Vec<Option<Answer>>> = BTreeMap::new();
        for part in parts.iter().filter(hardware) {
            let best = parts.iter().filter(hardware).filter(|other| id(other) == id(part)).map(kind).max();
            let base = part.number("Base Address");
            if Some(kind(part)) != best
                || base == 0
                || base == u64::MAX
                || base % 0x4000 != 0
                || !seen.insert(id(part))
            {
                continue;
            }
            let segment = part.number("PCI Segment Group");
            let table = answers.entry(segment).or_insert_with(|| vec![None; 0x1_0000]);
            let mut open: Option<(usize, Option<u16>, u64)> = None;
            for entry in &part.inner {
                let device = entry.number("Device ID") as usize;
                let setting = entry.number("Data Setting");
                let source = entry.number("Source Used Device ID") as u16;
                let mut fill = |first: usize, last: usize, alias: Option<u16>, setting| {
                    for (number, answer) in table.iter_mut().enumerate().take(last + 1).skip(first) {
                        *answer = Some((base, alias.unwrap_or(number as u16), setting));
                    }
                };
                match entry.number("Entry Type") {
                    1 => fill(0, 0xffff, None, setting),
                    2 | 0x46 => fill(device, device, None, setting),
                    0x42 => fill(device, device, Some(source), setting),
                    3 | 0x47 => open = Some((device, None, setting)),
                    0x43 => open = Some((device, Some(source), setting)),
                    4 => {
                        if let Some((first, alias, setting)) = open.take() {
                            fill(first, device, alias, setting);
                        }
                    }
                    _ => {}
                }
            }
        }
        let none = vec![None; 0x1_0000];
        let segments: BTreeSet<u64> = answers.keys().copied().chain([0]).collect();
        for segment in segments {
            let theirs = answers.get(&segment).unwrap_or(&none);
            let ours = |number: usize| {
                let address = PciAddress { segment: segment as u16, requester_id: number as u16 };
                let resolved = self.topology.resolve(address, &NoBridges)?;
                let setting = resolved.route.attributes.dte_setting.unwrap_or(0).into();
                Some((self.base(resolved.unit).unwrap_or(0), resolved.requester.index() as u16, setting))
            };
            // One check for all 65,536 requester IDs: the first that differs is shown.
            let different = (0..theirs.len()).find(|number| ours(*number) != theirs[*number]);
            let shown = different.map(|number| (number, ours(number)));
            let expected = different.map(|number| (number, theirs[number]));
            self.same(&format!("requester IDs of segment {segment:#x}"), &shown, &expected);
        }
    }

    fn iort(&mut self, nodes: &[Part<'_>]) {
        let nodes: Vec<&Part<'_>> = nodes.iter().filter(|node| node.lines.len() > 4).collect();
        let mut units = BTreeMap::new();
        let mut bases = BTreeSet::new();
        for node in nodes.iter().filter(|node| [3, 4].contains(&node.number("Type"))) {
            let base = node.number("Base Address");
            if base != 0 && base != u64::MAX && base % 4096 == 0 && bases.insert(base) {
                units.insert(node.offset() as u64, base);
            }
        }
        let ours: BTreeSet<u64> =
            self.topology.units.iter().filter_map(|unit| Some(unit.registers.as_ref()?.base.0)).collect();
        self.same("units", &ours, &bases);
        let roots: Vec<_> = nodes.iter().filter(|node| node.number("Type") == 2).collect();
        let mut tried = BTreeSet::new();
        for root in &roots {
            let Ok(segment) = u16::try_from(root.number("PCI Segment Number")) else { continue };
            for mapping in &root.inner {
                let first = mapping.number("Input base");
                let last = first + mapping.number("ID Count");
                for id in
                    [first, last, last + 1, first.wrapping_sub(1), u64::midpoint(first, last), 0, 0xffff]
                {
                    if let Ok(id) = u16::try_from(id) {
                        tried.insert((segment, id));
                    }
                }
            }
        }
        for (segment, requester_id) in tried {
            let theirs = roots
                .iter()
                .filter(|root| root.number("PCI Segment Number") == u64::from(segment))
                .flat_map(|root| &root.inner)
                .find_map(|mapping| {
                    let base = *units.get(&mapping.number("Output Reference"))?;
                    let output = mapping.number("Output Base");
                    if mapping.lines.iter().any(|line| line.name.starts_with("Flags") && single(line)) {
                        return Some((base, output as u32));
                    }
                    let distance = u64::from(requester_id).checked_sub(mapping.number("Input base"))?;
                    let id = u32::try_from(output + distance).ok()?;
                    (distance <= mapping.number("ID Count")).then_some((base, id))
                });
            let address = PciAddress { segment, requester_id };
            let ours = self.topology.resolve(address, &NoBridges).map(|resolved| {
                let stream = matches!(resolved.requester, Requester::Stream(_));
                self.differences.extend((!stream).then(|| format!("{address} has no StreamID")));
                (self.base(resolved.unit).unwrap_or(0), resolved.requester.index())
            });
            self.same(&format!("{address}"), &ours, &theirs);
        }
    }
}

fn single(line: &Line) -> bool {
    u64::from_str_radix(&line.value, 16).is_ok_and(|flags| flags & 1 == 1)
}

/// A scope's path as iasl has it: `0000:00 1c,00 00,01`.
fn path_text(segment: u64, scope: &Part<'_>) -> String {
    let hops: Vec<_> = scope
        .lines
        .iter()
        .filter(|line| line.name == "PCI Path")
        .map(|line| line.value.to_lowercase())
        .collect();
    format!("{segment:04x}:{:02x} {}", scope.number("PCI Bus Number"), hops.join(" "))
}

fn our_path(path: &PciPath) -> String {
    let hops: Vec<_> =
        path.hops.iter().map(|(device, function)| format!("{device:02x},{function:02x}")).collect();
    format!("{:04x}:{:02x} {}", path.segment, path.start_bus, hops.join(" "))
}
