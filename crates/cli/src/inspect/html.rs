//! The report on a host as one page: no scripts, nothing loaded, readable in light and dark.

use std::{
    collections::BTreeMap,
    fmt::{self, Display, Write},
};

use portcullis_manager::{
    host::DomainType,
    inspect::{DeviceReport, Finding, Protection, Report, Severity},
};
use portcullis_spec::PciAddress;

const STYLE: &str = include_str!("page.css");

/// Geometry of the drawing, in pixels.
const ROW: usize = 26;
const BOX: usize = 20;
const INDENT: usize = 34;
const TEXT: usize = 7;
const LEFT: usize = 150;

/// Rows that are drawn; the table has them all.
const MAX_ROWS: usize = 400;

/// Text that is safe in HTML.
struct Escaped<T>(T);

impl<T: Display> Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in self.0.to_string().chars() {
            match letter {
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '&' => f.write_str("&amp;")?,
                '"' => f.write_str("&quot;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

/// The page.
pub(super) fn page(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_page(report, &mut out);
    out
}

fn write_page(report: &Report, out: &mut String) -> fmt::Result {
    let title = report.kernel.product.as_deref().unwrap_or("this host");
    write!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>DMA protection of {}</title><style>{STYLE}</style></head><body><main>",
        Escaped(title)
    )?;
    head(report, title, out)?;
    findings(report, out)?;
    drawing(report, out)?;
    units(report, out)?;
    groups(report, out)?;
    rest(report, out)?;
    out.push_str("</main></body></html>\n");
    Ok(())
}

const fn word(protection: Protection) -> (&'static str, &'static str, &'static str) {
    match protection {
        Protection::Strict => (
            "strict",
            "good",
            "Devices reach only what is mapped for them, and nothing after it is unmapped.",
        ),
        Protection::Lazy => {
            ("lazy", "good", "Devices reach only what is mapped for them, and for up to 10 ms what was.")
        }
        Protection::Partial => {
            ("partial", "warn", "Some devices reach only what is mapped for them, others reach all memory.")
        }
        Protection::PassThrough => ("pass-through", "bad", "Units are on, but let devices reach all memory."),
        Protection::None => ("none", "bad", "Devices reach all memory."),
    }
}

const fn known(value: Option<bool>) -> &'static str {
    match value {
        Some(true) => "yes",
        Some(false) => "no",
        None => "not known",
    }
}

fn head(report: &Report, title: &str, out: &mut String) -> fmt::Result {
    let (name, class, text) = word(report.protection);
    write!(
        out,
        "<header><p class=\"kicker\">DMA protection</p><h1>{}</h1><p class=\"verdict {class}\"><b>{name}</b> {text}</p><ul \
         class=\"facts\">",
        Escaped(title)
    )?;
    let mut fact =
        |name: &str, value: &dyn Display| write!(out, "<li><span>{name}</span>{}</li>", Escaped(value));
    if let Some(release) = &report.kernel.release {
        fact("kernel", release)?;
    }
    if !report.kernel.options.is_empty() {
        fact("options", &report.kernel.options.join(" "))?;
    }
    fact("interrupts remapped", &known(report.interrupts.remapped))?;
    fact("x2APIC units", &known(report.interrupts.x2apic_units))?;
    fact("units", &report.units.len())?;
    fact("devices", &report.devices.len())?;
    fact("groups", &report.groups.len())?;
    out.push_str("</ul></header>");
    Ok(())
}

fn findings(report: &Report, out: &mut String) -> fmt::Result {
    out.push_str("<section><h2>Findings</h2>");
    if report.findings.is_empty() {
        out.push_str("<p class=\"quiet\">Nothing that needs attention.</p>");
    }
    for finding in &report.findings {
        one_finding(finding, true, out)?;
    }
    for finding in &report.notes {
        one_finding(finding, false, out)?;
    }
    out.push_str("</section>");
    Ok(())
}

fn one_finding(finding: &Finding, open: bool, out: &mut String) -> fmt::Result {
    let (name, class) = match finding.severity {
        Severity::High => ("high", "bad"),
        Severity::Medium => ("medium", "warn"),
        Severity::Low => ("low", "low"),
        Severity::Note => ("note", "note"),
    };
    write!(
        out,
        "<details class=\"finding {class}\"{}><summary><span class=\"tag {class}\">{name}</span>{}</summary><p>{}</p><dl>",
        if open { " open" } else { "" },
        Escaped(&finding.title),
        Escaped(&finding.meaning)
    )?;
    out.push_str("<dt>Seen</dt><dd>");
    for evidence in &finding.evidence {
        write!(out, "<code>{}</code> {}<br>", Escaped(&evidence.source), Escaped(&evidence.text))?;
    }
    out.push_str("</dd>");
    if !finding.about.is_empty() {
        let mut names = finding.about.iter().take(24).cloned().collect::<Vec<_>>().join(", ");
        if finding.about.len() > 24 {
            let _ = write!(names, " and {} more", finding.about.len() - 24);
        }
        write!(out, "<dt>About</dt><dd>{}</dd>", Escaped(names))?;
    }
    write!(out, "<dt>Do</dt><dd>{}</dd></dl></details>", Escaped(&finding.action))
}

/// A device with its place in the tree of bridges.
struct Drawn<'a> {
    device: &'a DeviceReport,
    depth: usize,
    parent: Option<usize>,
}

/// The devices in the order of the tree, each below the bridge above it.
fn tree(report: &Report) -> Vec<Drawn<'_>> {
    let mut below: BTreeMap<Option<PciAddress>, Vec<&DeviceReport>> = BTreeMap::new();
    for device in &report.devices {
        below.entry(device.above).or_default().push(device);
    }
    let mut rows: Vec<Drawn<'_>> = Vec::new();
    let mut open: Vec<(&DeviceReport, usize, Option<usize>)> =
        below.get(&None).into_iter().flatten().rev().map(|device| (*device, 0, None)).collect();
    while let Some((device, depth, parent)) = open.pop() {
        let place = rows.len();
        rows.push(Drawn { device, depth, parent });
        // Bridges that are above each other would not end.
        if depth < 32 && rows.len() <= report.devices.len() {
            let children = below.get(&Some(device.address)).into_iter().flatten().rev();
            open.extend(children.map(|child| (*child, depth + 1, Some(place))));
        }
    }
    rows
}

fn drawing(report: &Report, out: &mut String) -> fmt::Result {
    let rows = tree(report);
    if rows.is_empty() {
        return Ok(());
    }
    let drawn = rows.len().min(MAX_ROWS);
    let group: BTreeMap<PciAddress, usize> = report
        .groups
        .iter()
        .enumerate()
        .flat_map(|(place, group)| group.functions.iter().map(move |address| (*address, place)))
        .collect();
    // Colours go round among the groups of several alone, so that neighbours differ.
    let bands: BTreeMap<usize, usize> = report
        .groups
        .iter()
        .enumerate()
        .filter(|(_, group)| group.functions.len() > 1)
        .enumerate()
        .map(|(number, (place, _))| (place, number))
        .collect();
    let shared = |address: PciAddress| bands.get(group.get(&address)?).copied();
    let width = 1080;
    let height = drawn * ROW + 16;
    out.push_str(
        "<section><h2>Topology</h2><p class=\"quiet\">Units on the left, bridges and devices as they are plugged, groups on the \
         right. Devices with the same band stand in one group: they can only be granted together.</p>",
    );
    write!(
        out,
        "<div class=\"scroll\"><svg viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" role=\"img\" \
         aria-label=\"Units, bridges, devices and groups\">"
    )?;
    let middle = |place: usize| 8 + place * ROW + ROW / 2;
    // Units: one bar beside all devices that follow each other under it.
    let mut start = 0;
    while start < drawn {
        let unit = rows[start].device.unit.as_deref();
        let end = (start..drawn)
            .take_while(|place| rows[*place].device.unit.as_deref() == unit)
            .last()
            .unwrap_or(start);
        let (top, bottom) = (8 + start * ROW + 2, 8 + (end + 1) * ROW - 2);
        let class = if unit.is_some() { "unit" } else { "unit none" };
        write!(
            out,
            "<rect class=\"{class}\" x=\"4\" y=\"{top}\" width=\"112\" height=\"{}\" rx=\"5\"/><text class=\"unitname\" x=\"60\" \
             y=\"{}\" text-anchor=\"middle\">{}</text>",
            bottom - top,
            (top + bottom) / 2 + 4,
            Escaped(unit.unwrap_or("no unit"))
        )?;
        start = end + 1;
    }
    for (place, row) in rows.iter().take(drawn).enumerate() {
        let (x, y) = (LEFT + row.depth * INDENT, middle(place));
        if let Some(parent) = row.parent {
            let from = LEFT + rows[parent].depth * INDENT + 12;
            write!(out, "<path class=\"wire\" d=\"M{from} {} V{y} H{x}\"/>", middle(parent) + BOX / 2)?;
        }
        if let Some(shared) = shared(row.device.address) {
            write!(
                out,
                "<rect class=\"band g{}\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{ROW}\"/>",
                shared % 6,
                x.saturating_sub(5),
                y - ROW / 2,
                width - x
            )?;
        }
        let address = row.device.address.to_string();
        let class = match (row.device.bridge, row.device.driver.as_deref()) {
            (true, _) => "bridge",
            (false, Some(driver)) if driver.contains("vfio") => "device vfio",
            _ => "device",
        };
        let label = address.len() * TEXT + 14;
        write!(
            out,
            "<g><title>{}</title><rect class=\"{class}\" x=\"{x}\" y=\"{}\" width=\"{label}\" height=\"{BOX}\" rx=\"4\"/><text \
             class=\"address\" x=\"{}\" y=\"{}\">{address}</text><text x=\"{}\" y=\"{}\">{}",
            Escaped(&row.device.description),
            y - BOX / 2,
            x + 7,
            y + 4,
            x + label + 8,
            y + 4,
            Escaped(shorten(&row.device.description, 64))
        )?;
        if let Some(driver) = &row.device.driver {
            write!(out, "<tspan class=\"driver\"> {}</tspan>", Escaped(driver))?;
        }
        if row.device.removable {
            out.push_str("<tspan class=\"outside\"> external</tspan>");
        }
        out.push_str("</text></g>");
        if let Some(place) = group.get(&row.device.address) {
            let group = &report.groups[*place];
            let name = group.number.map_or_else(String::new, |number| format!("group {number}"));
            write!(
                out,
                "<text class=\"group\" x=\"{}\" y=\"{}\" text-anchor=\"end\">{name} <tspan class=\"{}\">{}</tspan></text>",
                width - 8,
                y + 4,
                domain_class(group.domain),
                domain(group.domain)
            )?;
        }
    }
    out.push_str("</svg></div>");
    if rows.len() > drawn {
        write!(out, "<p class=\"quiet\">{} more are in the table below.</p>", rows.len() - drawn)?;
    }
    out.push_str("</section>");
    Ok(())
}

fn shorten(text: &str, letters: usize) -> String {
    if text.chars().count() <= letters {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(letters - 1).collect();
    short.push('…');
    short
}

const fn domain(domain: Option<DomainType>) -> &'static str {
    match domain {
        Some(DomainType::Strict) => "strict",
        Some(DomainType::Lazy) => "lazy",
        Some(DomainType::Identity) => "identity",
        Some(DomainType::Other) => "other",
        None => "",
    }
}

const fn domain_class(domain: Option<DomainType>) -> &'static str {
    match domain {
        Some(DomainType::Strict | DomainType::Lazy) => "good",
        Some(DomainType::Identity) => "bad",
        _ => "quiet",
    }
}

fn units(report: &Report, out: &mut String) -> fmt::Result {
    if report.units.is_empty() {
        return Ok(());
    }
    out.push_str("<section><h2>Units</h2>");
    for unit in &report.units {
        write!(
            out,
            "<details class=\"card\"><summary><b>{}</b> {}{} <span class=\"quiet\">{}</span></summary><dl>",
            Escaped(&unit.name),
            Escaped(unit.architecture.as_deref().unwrap_or_default()),
            unit.registers.map(|base| format!(" at {base:#x}")).unwrap_or_default(),
            if unit.active {
                format!("{} device{}", unit.devices, if unit.devices == 1 { "" } else { "s" })
            } else {
                "not driven".to_owned()
            }
        )?;
        for capability in &unit.capabilities {
            write!(
                out,
                "<dt><code>{}</code></dt><dd>{}</dd>",
                capability.field,
                Escaped(&capability.meaning)
            )?;
        }
        out.push_str("</dl></details>");
    }
    out.push_str("</section>");
    Ok(())
}

fn groups(report: &Report, out: &mut String) -> fmt::Result {
    out.push_str(
        "<section><h2>Groups</h2><div class=\"scroll\"><table><thead><tr><th>group</th><th>domain</th><th>members</th><th>why they \
         share</th></tr></thead><tbody>",
    );
    for group in &report.groups {
        let number = group.number.map(|number| number.to_string()).unwrap_or_default();
        write!(
            out,
            "<tr><td>{number}</td><td class=\"{}\">{}</td><td>",
            domain_class(group.domain),
            domain(group.domain)
        )?;
        for device in report.members(group) {
            let driver = device.driver.as_deref().map(|driver| format!(" · {driver}")).unwrap_or_default();
            write!(
                out,
                "<code>{}</code> {}{}<br>",
                device.address,
                Escaped(&device.description),
                Escaped(driver)
            )?;
        }
        for other in &group.others {
            write!(out, "<code>{}</code><br>", Escaped(other))?;
        }
        out.push_str("</td><td>");
        for reason in &group.reasons {
            write!(out, "{}<br>", Escaped(reason))?;
        }
        out.push_str("</td></tr>");
    }
    out.push_str("</tbody></table></div></section>");
    Ok(())
}

fn rest(report: &Report, out: &mut String) -> fmt::Result {
    if !report.firmware.reserved.is_empty() {
        out.push_str(
            "<section><h2>Memory that firmware keeps for devices</h2><div class=\"scroll\"><table><tbody>",
        );
        for region in &report.firmware.reserved {
            write!(
                out,
                "<tr><td><code>{:#x} to {:#x}</code></td><td>{}</td><td>{}</td><td class=\"quiet\">{}</td></tr>",
                region.first,
                region.last,
                Escaped(&region.kind),
                Escaped(region.devices.join(", ")),
                Escaped(&region.source)
            )?;
        }
        out.push_str("</tbody></table></div></section>");
    }
    if !report.unread.is_empty() {
        out.push_str("<section><h2>Could not be read</h2><ul>");
        for unread in &report.unread {
            write!(out, "<li><code>{}</code> {}</li>", Escaped(&unread.path), Escaped(&unread.reason))?;
        }
        out.push_str("</ul></section>");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_from_the_host_cannot_become_markup() {
        assert_eq!(Escaped("<b a=\"1\">&").to_string(), "&lt;b a=&quot;1&quot;&gt;&amp;");
    }
}
