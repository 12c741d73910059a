//! What was measured beside what is wanted.

/// A bound.
#[derive(Clone, Copy)]
pub(crate) enum Wanted {
    /// No less.
    AtLeast(f64),
    /// No more.
    AtMost(f64),
    /// Nothing: told for what it is.
    Told,
}

/// The table, printed row by row.
pub(crate) struct Rows {
    chosen: Vec<String>,
    missed: bool,
}

impl Rows {
    /// Those that the command line names, or all.
    pub(crate) fn chosen() -> Self {
        let chosen = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
        Self { chosen, missed: false }
    }

    /// Whether any of these is chosen.
    pub(crate) fn wants(&self, names: &[&str]) -> bool {
        let chosen = |name: &&str| self.chosen.iter().any(|word| name.contains(word.as_str()));
        self.chosen.is_empty() || names.iter().any(chosen)
    }

    /// Prints one.
    pub(crate) fn put(&mut self, name: &str, measured: f64, unit: &str, wanted: Wanted) {
        let (bound, met) = match wanted {
            Wanted::AtLeast(bound) => (format!("≥ {}", figure(bound)), measured >= bound),
            Wanted::AtMost(bound) => (format!("≤ {}", figure(bound)), measured <= bound),
            Wanted::Told => (String::new(), true),
        };
        let verdict = match (wanted, met) {
            (Wanted::Told, _) => "",
            (_, true) => "met",
            (_, false) => "MISSED",
        };
        println!("{name:58} {:>12} {unit:14} {bound:>14}  {verdict}", figure(measured));
        self.missed |= !met;
    }

    /// Whether no figure was missed.
    pub(crate) fn all_met(&self) -> bool {
        !self.missed
    }
}

/// Three digits, or all before the point.
fn figure(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        size if size >= 1e6 => format!("{:.2} M", value / 1e6),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}
