//! The report on a host as text.

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use portcullis_manager::{
    host::DomainType,
    inspect::{Finding, GroupReport, Protection, Report, Severity, UnitReport},
};

use crate::output::table;

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();

/// Devices of one group that are listed before the rest is counted.
const LISTED: usize = 64;

pub(super) fn write(report: &Report, all: bool, out: &mut dyn Write) -> io::Result<()> {
    head(report, out)?;
    units(report, out)?;
    groups(report, all, out)?;
    reserved(report, out)?;
    holders(report, out)?;
    findings(report, out)?;
    unread(report, out)
}

fn heading(out: &mut dyn Write, text: &str) -> io::Result<()> {
    writeln!(out, "\n{BOLD}{text}{BOLD:#}")
}

fn yes_no(value: Option<bool>) -> &'static str {
    match value {
        Some(true) => "yes",
        Some(false) => "no",
        None => "not known",
    }
}

fn head(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    let (style, words) = match report.protection {
        Protection::Strict => {
            (AnsiColor::Green, "devices reach only what is mapped for them, and nothing after it is unmapped")
        }
        Protection::Lazy => {
            (AnsiColor::Green, "devices reach only what is mapped for them, and for up to 10 ms what was")
        }
        Protection::Partial => {
            (AnsiColor::Yellow, "some devices reach only what is mapped for them, others reach all memory")
        }
        Protection::PassThrough => (AnsiColor::Red, "units are on, but let devices reach all memory"),
        Protection::None => (AnsiColor::Red, "devices reach all memory"),
    };
    let style = style.on_default().bold();
    let word = match report.protection {
        Protection::Strict => "strict",
        Protection::Lazy => "lazy",
        Protection::Partial => "partial",
        Protection::PassThrough => "pass-through",
        Protection::None => "none",
    };
    writeln!(out, "{BOLD}DMA protection:{BOLD:#} {style}{word}{style:#}: {words}")?;
    let kernel = &report.kernel;
    let mut facts = Vec::new();
    facts.extend(kernel.product.clone());
    facts.extend(kernel.release.as_ref().map(|release| format!("Linux {release}")));
    if kernel.processor.hypervisor {
        facts.push("virtual machine".to_owned());
    }
    if !kernel.options.is_empty() {
        facts.push(kernel.options.join(" "));
    }
    if !facts.is_empty() {
        writeln!(out, "{DIM}{}{DIM:#}", facts.join(" · "))?;
    }
    let interrupts = &report.interrupts;
    writeln!(
        out,
        "interrupts remapped: {}; x2APIC: processors {}, units {}{}",
        yes_no(interrupts.remapped),
        yes_no(Some(interrupts.x2apic_processors)),
        yes_no(interrupts.x2apic_units),
        if interrupts.x2apic_opt_out == Some(true) { ", firmware asks not to use it" } else { "" },
    )?;
    if let Some(opt_in) = report.firmware.dma_opt_in {
        let asks = if opt_in { "asks" } else { "does not ask" };
        writeln!(
            out,
            "before boot: firmware {asks} for DMA protection; whether it held before boot, nothing records"
        )?;
    }
    Ok(())
}

fn units(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    if report.units.is_empty() {
        return Ok(());
    }
    heading(out, "Units")?;
    let mut rows = table(["unit", "architecture", "registers", "devices", "source"]);
    for unit in &report.units {
        rows.add_row([
            unit.name.clone(),
            [unit.architecture.clone(), unit.version.clone()]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .join(" "),
            unit.registers.map(|base| format!("{base:#x}")).unwrap_or_default(),
            if unit.active {
                format!("{}{}", unit.devices, if unit.takes_the_rest { " (takes the rest)" } else { "" })
            } else {
                "not driven".to_owned()
            },
            unit.firmware.clone().unwrap_or_else(|| "kernel".to_owned()),
        ]);
    }
    writeln!(out, "{}", rows.trim_fmt())?;
    for unit in report.units.iter().filter(|unit| !unit.capabilities.is_empty()) {
        paragraph(out, &unit.name, &capabilities(unit))?;
    }
    Ok(())
}

/// What the unit has, without what it lacks.
fn capabilities(unit: &UnitReport) -> String {
    let has: Vec<&str> = unit
        .capabilities
        .iter()
        .map(|capability| capability.meaning.as_str())
        .filter(|meaning| !meaning.starts_with("no "))
        .collect();
    has.join(", ")
}

fn domain(group: &GroupReport) -> &'static str {
    match group.domain {
        Some(DomainType::Strict) => "strict",
        Some(DomainType::Lazy) => "lazy",
        Some(DomainType::Identity) => "identity",
        Some(DomainType::Other) => "other",
        None => "",
    }
}

fn groups(report: &Report, all: bool, out: &mut dyn Write) -> io::Result<()> {
    if report.groups.is_empty() {
        return Ok(());
    }
    let kernel = report.groups.iter().any(|group| group.number.is_some());
    heading(
        out,
        if kernel {
            "Groups"
        } else {
            "Devices (the kernel has no groups; these follow from configuration spaces)"
        },
    )?;
    let mut rows = table(["group", "domain", "device", "driver", "unit", "what it is"]);
    let mut silent = 0usize;
    for group in &report.groups {
        let members = report.members(group);
        // Bridges that stand alone say nothing to anyone.
        let telling = members.iter().any(|device| !device.bridge)
            || group.functions.len() > 1
            || !group.others.is_empty()
            || !group.holders.is_empty();
        if !all && !telling {
            silent += 1;
            continue;
        }
        let number = group.number.map_or_else(String::new, |number| number.to_string());
        for (place, device) in members.iter().take(LISTED).enumerate() {
            let mut what = device.description.clone();
            if device.removable {
                what.push_str(", external");
            }
            let alias = device.requester.filter(|requester| *requester != device.address.into());
            rows.add_row([
                if place == 0 { number.clone() } else { String::new() },
                if place == 0 { domain(group).to_owned() } else { String::new() },
                device.address.to_string(),
                device.driver.clone().unwrap_or_default(),
                match (&device.unit, alias) {
                    (Some(unit), Some(alias)) => format!("{unit} as {alias}"),
                    (Some(unit), None) => unit.clone(),
                    (None, _) => "none".to_owned(),
                },
                what,
            ]);
        }
        for (place, other) in group.others.iter().take(LISTED).enumerate() {
            let first = place == 0 && members.is_empty();
            rows.add_row([
                if first { number.clone() } else { String::new() },
                if first { domain(group).to_owned() } else { String::new() },
                other.clone(),
                String::new(),
                String::new(),
                "platform device".to_owned(),
            ]);
        }
        let left = members.len().saturating_sub(LISTED) + group.others.len().saturating_sub(LISTED);
        if left > 0 {
            rows.add_row([String::new(), String::new(), format!("and {left} more")]);
        }
    }
    writeln!(out, "{}", rows.trim_fmt())?;
    if silent > 0 {
        let (groups, are) = if silent == 1 { ("group", "is") } else { ("groups", "are") };
        writeln!(out, "{DIM}{silent} {groups} of a single bridge {are} not shown (--all){DIM:#}")?;
    }
    let explained: Vec<_> = report.groups.iter().filter(|group| !group.reasons.is_empty()).collect();
    if !explained.is_empty() {
        heading(out, "Why devices share a group")?;
        for group in explained {
            for (place, reason) in group.reasons.iter().take(LISTED).enumerate() {
                let number = match group.number {
                    Some(number) if place == 0 => format!("{number}: "),
                    _ => "   ".to_owned(),
                };
                writeln!(out, "{number:>5}{reason}")?;
            }
            if group.reasons.len() > LISTED {
                writeln!(out, "     and {} more", group.reasons.len() - LISTED)?;
            }
        }
    }
    Ok(())
}

fn reserved(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    if report.firmware.reserved.is_empty() {
        return Ok(());
    }
    heading(out, "Memory that firmware keeps for devices")?;
    let mut rows = table(["from", "to", "kind", "for", "source"]);
    for region in &report.firmware.reserved {
        rows.add_row([
            format!("{:#x}", region.first),
            format!("{:#x}", region.last),
            region.kind.clone(),
            region.devices.join(", "),
            region.source.clone(),
        ]);
    }
    writeln!(out, "{}", rows.trim_fmt())
}

fn holders(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    if report.holders.is_empty() {
        return Ok(());
    }
    heading(out, "Held through VFIO")?;
    let mut rows = table(["process", "name", "holds", "may lock", "pinned"]);
    let mebibytes = |bytes: Option<u64>, none: &str| {
        bytes.map_or(none.to_owned(), |bytes| format!("{} MiB", bytes >> 20))
    };
    for holder in &report.holders {
        let mut holds: Vec<String> = holder.groups.iter().map(|group| format!("group {group}")).collect();
        holds.extend(holder.devices.iter().map(ToString::to_string));
        if holder.iommufd {
            holds.push("iommufd".to_owned());
        }
        rows.add_row([
            holder.process.to_string(),
            holder.name.clone(),
            holds.join(", "),
            mebibytes(holder.memlock, "no limit"),
            mebibytes(holder.pinned, "not known"),
        ]);
    }
    writeln!(out, "{}", rows.trim_fmt())
}

fn findings(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    heading(out, "Findings")?;
    if report.findings.is_empty() {
        writeln!(out, "none")?;
    }
    for finding in report.findings.iter().chain(&report.notes) {
        one(finding, out)?;
    }
    Ok(())
}

fn one(finding: &Finding, out: &mut dyn Write) -> io::Result<()> {
    let (word, style) = match finding.severity {
        Severity::High => ("high", AnsiColor::Red.on_default().bold()),
        Severity::Medium => ("medium", AnsiColor::Yellow.on_default().bold()),
        Severity::Low => ("low", AnsiColor::Cyan.on_default().bold()),
        Severity::Note => ("note", DIM),
    };
    writeln!(out, "{style}{word:<7}{style:#} {BOLD}{}{BOLD:#}", finding.title)?;
    paragraph(out, "means", &finding.meaning)?;
    for evidence in &finding.evidence {
        paragraph(out, "seen", &format!("{}: {}", evidence.source, evidence.text))?;
    }
    if !finding.about.is_empty() {
        let mut names = finding.about.iter().take(12).cloned().collect::<Vec<_>>().join(", ");
        if finding.about.len() > 12 {
            names.push_str(&format!(" and {} more", finding.about.len() - 12));
        }
        paragraph(out, "about", &names)?;
    }
    paragraph(out, "do", &finding.action)
}

/// Columns of a line; wider ones are hard to read.
const WIDTH: usize = 100;

/// `        means  text`, broken between words.
fn paragraph(out: &mut dyn Write, label: &str, text: &str) -> io::Result<()> {
    let mut column = WIDTH;
    for (place, word) in text.split_whitespace().enumerate() {
        let length = word.chars().count();
        if column + 1 + length > WIDTH {
            if place > 0 {
                writeln!(out)?;
            }
            write!(out, "        {DIM}{:<6}{DIM:#} {word}", if place == 0 { label } else { "" })?;
            column = 15 + length;
        } else {
            write!(out, " {word}")?;
            column += 1 + length;
        }
    }
    writeln!(out)
}

fn unread(report: &Report, out: &mut dyn Write) -> io::Result<()> {
    if report.unread.is_empty() {
        return Ok(());
    }
    heading(out, "Could not be read")?;
    for unread in &report.unread {
        writeln!(out, "  {}: {}", unread.path, unread.reason)?;
    }
    Ok(())
}
