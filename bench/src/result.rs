//! Rows: what was measured, what was wanted, and what peers need for the same.

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;
use std::collections::BTreeMap;

/// What is wanted of a figure.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Goal {
    /// No more than this.
    AtMost(f64),
    /// No less than this.
    AtLeast(f64),
    /// Nothing: it stands there for comparison.
    None,
}

/// One measured figure.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Row {
    /// What: `translate/one-stage/4096`.
    pub row: String,
    /// Ours.
    pub ours: f64,
    /// Of ours, the target and the peers: `ns`, `us`, `B`, `%`, or `x` for a ratio.
    pub unit: &'static str,
    /// What was wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<f64>,
    /// Whether `target` is a floor (`at least`) or a ceiling (`at most`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub goal: Option<&'static str>,
    /// Whether ours is what was wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub met: Option<bool>,
    /// Others' figures in the same unit.
    pub peers: BTreeMap<&'static str, f64>,
}

impl Row {
    /// A row.
    #[must_use]
    pub fn new(row: impl Into<String>, unit: &'static str, ours: f64, goal: Goal) -> Self {
        let (target, goal, met) = match goal {
            Goal::AtMost(target) => (Some(target), Some("at most"), Some(ours <= target)),
            Goal::AtLeast(target) => (Some(target), Some("at least"), Some(ours >= target)),
            Goal::None => (None, None, None),
        };
        Self { row: row.into(), ours, unit, target, goal, met, peers: BTreeMap::new() }
    }

    /// The same beside `peers`.
    #[must_use]
    pub fn beside(mut self, peers: impl IntoIterator<Item = (&'static str, f64)>) -> Self {
        self.peers.extend(peers);
        self
    }
}

/// A figure with as many digits as mean something.
fn figure(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        size if size < 10.0 => format!("{value:.2}"),
        size if size < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// All rows as a table: ours, the target, whether it was met, and each peer with how many times ours it is.
#[must_use]
pub fn table(rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["row", "ours", "unit", "target", "met", "peers (and how many times ours)"]);
    for row in rows {
        let target = match (row.goal, row.target) {
            (Some("at least"), Some(target)) => format!("≥ {target}"),
            (_, Some(target)) => format!("≤ {target}"),
            _ => String::new(),
        };
        let met = match row.met {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "",
        };
        let peers = row.peers.iter().map(|(name, value)| {
            let ratio = if row.ours > 0.0 { value / row.ours } else { 0.0 };
            format!("{name} {} ({}x)", figure(*value), figure(ratio))
        });
        let peers = peers.collect::<Vec<_>>().join(", ");
        table.add_row([row.row.clone(), figure(row.ours), row.unit.into(), target, met.into(), peers]);
    }
    for column in [1, 3] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_whether_its_target_was_met() {
        let met = |ours, goal| Row::new("row", "ns", ours, goal).met;
        assert_eq!(met(5.0, Goal::AtMost(5.0)), Some(true));
        assert_eq!(met(5.1, Goal::AtMost(5.0)), Some(false));
        assert_eq!(met(1.8, Goal::AtLeast(1.8)), Some(true));
        assert_eq!(met(1.7, Goal::AtLeast(1.8)), Some(false));
        assert_eq!(met(1.7, Goal::None), None);
    }

    #[test]
    fn rows_are_written_as_machines_read_them() {
        let row = Row::new("translate/one-stage/4096", "ns", 4.25, Goal::AtMost(5.0))
            .beside([("vm-memory-rwlock", 218.0)]);
        assert_eq!(
            serde_json::to_string(&[row]).unwrap(),
            "[{\"row\":\"translate/one-stage/4096\",\"ours\":4.25,\"unit\":\"ns\",\"target\":5.0,\"goal\":\"at most\",\
             \"met\":true,\"peers\":{\"vm-memory-rwlock\":218.0}}]"
        );
    }
}
