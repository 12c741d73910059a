//! How it looks.

use std::io;

use portcullis_client::api::Fault;
use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Borders, Cell, Paragraph, Row as Cells, Table, TableState},
};

use super::state::{Column, Row, State};
use crate::{
    output::table,
    service::{at_least, size, time},
};

const KEYS: &str = " q end   ↑↓ choose   Enter only its refusals   ←→ sort   r turn round   p pause";

/// A colour, where colours are wanted (no-color.org).
fn tint(style: Style, colour: Color) -> Style {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if plain { style } else { style.fg(colour) }
}

/// A rate as people read it.
fn rate(value: f64) -> String {
    match value {
        v if v <= 0.0 => "0".into(),
        v if v < 9.95 => format!("{v:.1}"),
        v if v < 9999.5 => format!("{v:.0}"),
        v if v < 999_950.0 => format!("{:.1}k", v / 1e3),
        v if v < 999_950_000.0 => format!("{:.1}M", v / 1e6),
        v => format!("{:.1}G", v / 1e9),
    }
}

fn holder(row: &Row) -> &str {
    row.holder.as_deref().or(row.instead.as_deref()).unwrap_or("nobody")
}

fn cells(row: &Row) -> [String; 8] {
    [
        row.device.clone(),
        holder(row).to_owned(),
        row.unit.clone().unwrap_or_else(|| "none".into()),
        row.group.to_string(),
        row.requests_per_second.map_or_else(|| "?".into(), rate),
        row.requests.map_or_else(|| "?".into(), |requests| requests.to_string()),
        rate(row.faults_per_second),
        row.faults.to_string(),
    ]
}

const HEADER: [&str; 8] = ["DEVICE", "HOLDER", "UNIT", "GROUP", "DMA/S", "DMA", "REFUSED/S", "REFUSED"];

/// The header cell that a column to sort by marks.
fn place(column: Column) -> usize {
    match column {
        Column::Device => 0,
        Column::Holder => 1,
        Column::Requests => 4,
        Column::Faults => 6,
    }
}

/// One table, for whoever is no terminal.
pub(super) fn plain(state: &State, out: &mut dyn io::Write) -> io::Result<()> {
    for line in summary(state) {
        writeln!(out, "{line}")?;
    }
    let mut rows = table(HEADER);
    for row in &state.rows {
        rows.add_row(cells(row));
    }
    writeln!(out, "{}", rows.trim_fmt())
}

/// What holds for everything, on few lines; the most important first.
fn summary(state: &State) -> Vec<String> {
    let status = &state.sample.status;
    let mut lines = Vec::new();
    if let Some(why) = &status.safe_state {
        lines.push(format!("EVERYTHING IS BLOCKED: {why}"));
    }
    if let Some(why) = &state.trouble {
        lines.push(format!("What follows is from {}: {why}", time(state.sample.time)));
    }
    let simulated = if status.simulated { " (simulated: protects nothing real)" } else { "" };
    lines.push(format!(
        "{}{simulated}: {} devices, {} claimed; {} clients; {} grants, {} bytes",
        status.backend,
        status.devices,
        status.claimed,
        status.clients,
        status.mappings,
        size(status.bytes)
    ));
    let at_least = at_least(state.sample.statistics.at_least);
    lines.push(format!(
        "refused {}/s, {at_least}{} in all, {at_least}{} of them without a record",
        rate(state.refused_per_second),
        state.sample.statistics.faults,
        state.sample.statistics.lost
    ));
    lines
}

/// The whole screen.
pub(super) fn draw(frame: &mut Frame<'_>, state: &mut State) {
    let summary = summary(state);
    let above = u16::try_from(summary.len()).unwrap_or(4);
    // The devices, up to three fifths of the screen; refused accesses have what is left.
    let most = usize::from(frame.area().height) * 3 / 5;
    let devices = u16::try_from((state.rows.len() + 2).min(most)).unwrap_or(u16::MAX);
    let parts =
        [Constraint::Length(above), Constraint::Length(devices), Constraint::Fill(1), Constraint::Length(1)];
    let [top, devices, faults, bottom] = Layout::vertical(parts).areas(frame.area());
    let alarm = usize::from(state.sample.status.safe_state.is_some()) + usize::from(state.trouble.is_some());
    let lines = summary.into_iter().enumerate().map(|(at, line)| {
        let style = if at < alarm {
            tint(Style::new().add_modifier(Modifier::BOLD | Modifier::REVERSED), Color::Red)
        } else {
            Style::new()
        };
        Line::styled(line, style)
    });
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()), top);
    draw_devices(frame, devices, state);
    draw_faults(frame, faults, state);
    let mut keys = vec![Span::raw(KEYS)];
    if state.paused {
        let style = tint(Style::new().add_modifier(Modifier::REVERSED), Color::Yellow);
        keys.insert(0, Span::styled(" PAUSED ", style));
    }
    frame.render_widget(Line::from(keys), bottom);
}

/// Columns that go first where the screen is narrow, by their place in [`HEADER`].
const DISPENSABLE: [usize; 5] = [3, 2, 5, 7, 1];

/// Which columns fit beside each other: all of them, or without those that are missed least.
fn fitting(widths: &[u16; 8], room: u16) -> Vec<usize> {
    let mut columns: Vec<usize> = (0..widths.len()).collect();
    let needed = |columns: &[usize]| columns.iter().map(|&at| usize::from(widths[at]) + 1).sum::<usize>();
    for missed_least in DISPENSABLE {
        if needed(&columns) <= usize::from(room) + 1 {
            break;
        }
        columns.retain(|&at| at != missed_least);
    }
    columns
}

fn draw_devices(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let longest = |cell: fn(&Row) -> &str, least: usize, most: usize| {
        let longest = state.rows.iter().map(|row| cell(row).chars().count()).max().unwrap_or(0);
        u16::try_from(longest.clamp(least, most)).unwrap_or(16)
    };
    let widths = [
        longest(|row| &row.device, 8, 40),
        longest(holder, 8, 30),
        longest(|row| row.unit.as_deref().unwrap_or("none"), 5, 20),
        6,
        7,
        12,
        10,
        10,
    ];
    let columns = fitting(&widths, area.width);
    let header = columns.iter().map(|&at| {
        let (name, arrow) = (HEADER[at], if state.descending { "▼" } else { "▲" });
        match at == place(state.sort) {
            true => {
                Cell::from(format!("{name}{arrow}")).style(Style::new().add_modifier(Modifier::UNDERLINED))
            }
            false => Cell::from(name),
        }
    });
    let rows = state.rows.iter().map(|row| {
        let style = match row {
            Row { faults_per_second, .. } if *faults_per_second > 0.0 => {
                tint(Style::new().add_modifier(Modifier::BOLD), Color::Red)
            }
            Row { holder: None, .. } => Style::new().add_modifier(Modifier::DIM),
            _ => Style::new(),
        };
        let all = cells(row);
        Cells::new(columns.iter().map(|&at| all[at].clone()).collect::<Vec<_>>()).style(style)
    });
    let constraints = columns.iter().map(|&at| Constraint::Length(widths[at]));
    let every = state.interval.as_secs_f64();
    let title = match state.chosen() {
        Some(at) => format!(" devices, every {every} s, {} of {} ", at + 1, state.rows.len()),
        None => format!(" devices, every {every} s "),
    };
    let table = Table::new(rows, constraints)
        .header(Cells::new(header.collect::<Vec<_>>()).style(Style::new().add_modifier(Modifier::BOLD)))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
        .block(Block::new().borders(Borders::TOP).title(title));
    let mut chosen = TableState::new().with_selected(state.chosen());
    frame.render_stateful_widget(table, area, &mut chosen);
}

fn fault_cells(fault: &Fault) -> [String; 6] {
    let device = if fault.devices.is_empty() { fault.requester.clone() } else { fault.devices.join(" or ") };
    let mut why = fault.reason.clone();
    if fault.count > 1 {
        why.push_str(&format!(", {} times", fault.count));
    }
    // Of a time the day is known.
    let when = time(fault.time);
    let when =
        when.split_once('T').map_or(when.as_str(), |(_, clock)| clock).trim_end_matches('Z').to_owned();
    [
        when,
        device,
        fault.client.clone().unwrap_or_else(|| "nobody".into()),
        fault.access.to_string(),
        format!("{:#x}", fault.address),
        why,
    ]
}

fn draw_faults(frame: &mut Frame<'_>, area: Rect, state: &State) {
    let title = match state.only() {
        Some(device) => format!(" newest refusals of {device}, UTC "),
        None => " newest refusals, UTC ".to_owned(),
    };
    let room = usize::from(area.height);
    let rows: Vec<[String; 6]> = state.newest().take(room).map(fault_cells).collect();
    let longest = |at: usize, least: usize, most: usize| {
        let longest = rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
        Constraint::Length(u16::try_from(longest.clamp(least, most)).unwrap_or(16))
    };
    let widths = [
        Constraint::Length(15),
        longest(1, 8, 40),
        longest(2, 8, 24),
        Constraint::Length(6),
        longest(4, 8, 18),
        Constraint::Fill(1),
    ];
    let header = Cells::new(["TIME", "DEVICE", "CLIENT", "ACCESS", "ADDRESS", "WHY"]);
    let table = Table::new(rows.iter().map(|row| Cells::new(row.clone())), widths)
        .header(header.style(Style::new().add_modifier(Modifier::BOLD)))
        .block(Block::new().borders(Borders::TOP).title(title));
    frame.render_widget(table, area);
}

#[cfg(test)]
mod tests;
