//! What a command shows: tables and text for people, JSON for programs.

use std::io::{self, Write};

use anstream::AutoStream;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::exit::{Exit, Failure};

/// Where a command's answer goes. Colour is dropped where nobody looks: when piped, and under `NO_COLOR`.
pub(crate) struct Output {
    json: bool,
    out: AutoStream<io::Stdout>,
}

impl Output {
    /// Standard output, as JSON or for people.
    pub(crate) fn standard(json: bool) -> Self {
        Self { json, out: AutoStream::auto(io::stdout()) }
    }

    #[allow(dead_code, reason = "for the commands that stream")]
    /// Whether the reader asked for JSON.
    pub(crate) fn json(&self) -> bool {
        self.json
    }

    /// Shows `value`: itself as JSON on one line, or what `text` writes of it.
    pub(crate) fn show<T: Serialize>(
        &mut self,
        value: &T,
        text: impl FnOnce(&T, &mut dyn Write) -> io::Result<()>,
    ) -> Result<(), Failure> {
        let written = if self.json {
            serde_json::to_writer(&mut self.out, value)
                .map_err(io::Error::from)
                .and_then(|()| writeln!(self.out))
        } else {
            text(value, &mut self.out)
        };
        heard(written.and_then(|()| self.out.flush()))
    }

    /// Writes text that is the same for people and programs.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        heard(self.out.write_all(bytes).and_then(|()| self.out.flush()))
    }

    /// Says on standard error why the command failed; returns the code to end with.
    pub(crate) fn failed(&self, failure: &Failure) -> Exit {
        let causes: Vec<String> = std::iter::successors(failure.error.source(), |error| error.source())
            .map(ToString::to_string)
            .collect();
        // Nowhere is left to complain to when standard error is closed.
        let mut err = anstream::stderr();
        let _ = if self.json {
            let body = serde_json::json!({ "error": failure.error.to_string(), "causes": causes });
            writeln!(err, "{body}")
        } else {
            let bold = anstyle::AnsiColor::Red.on_default().bold();
            let mut line = format!("{bold}portcullis:{bold:#} {}", failure.error);
            for cause in &causes {
                line.push_str(&format!("\n  because: {cause}"));
            }
            writeln!(err, "{line}")
        };
        failure.exit
    }
}

/// A reader that has seen enough (`portcullis … | head`) ends the program, quietly.
fn heard(written: io::Result<()>) -> Result<(), Failure> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other.map_err(Failure::from),
    }
}

/// So many of something, in words: `1 client`, `2 clients`.
pub(crate) fn count(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

/// A table in the house's form: a header, no lines, as wide as the terminal allows.
pub(crate) fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}
