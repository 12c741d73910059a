//! `iasl` as a judge: what it makes of a table, field by field.

use std::path::Path;
use std::process::{Command, Stdio};

/// One line of a disassembly that states a field.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    /// Bytes from the table's start. For bits, those of the field that holds them.
    pub offset: usize,
    /// Bytes. For bits 0.
    pub length: usize,
    /// Name as iasl has it.
    pub name: String,
    /// Value as iasl writes it, without the remark in brackets.
    pub value: String,
    /// Whether the remark says that iasl does not know the structure that begins here.
    pub unknown: bool,
}

/// A disassembly.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Disassembly {
    /// Its fields in order.
    pub lines: Vec<Line>,
    /// Lines that say that something is wrong or unknown.
    pub complaints: Vec<String>,
}

/// iasl's version, as `iasl -v` states it; `None` where there is no iasl.
#[must_use]
pub fn version() -> Option<String> {
    let output = Command::new("iasl").arg("-v").stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split("version ").nth(1)?.split_whitespace().next().map(str::to_owned)
}

/// Disassembles a table.
///
/// # Errors
///
/// iasl cannot be run, or fails.
pub fn disassemble(table: &[u8]) -> Result<Disassembly, String> {
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    std::fs::write(directory.path().join("table.bin"), table).map_err(|error| error.to_string())?;
    let said = run(directory.path(), &["-d", "table.bin"])?;
    let text = read(directory.path(), "table.dsl")?;
    let text = String::from_utf8_lossy(&text);
    let wrong = |line: &&str| {
        let line = line.trim_start();
        ["****", "Invalid", "Could not", "Incorrect", "Unknown", "Error", "Warning", "Table Error"]
            .iter()
            .any(|word| line.starts_with(word))
            || line.contains("[Unknown Subtable Type]")
    };
    let complaints = said.lines().chain(text.lines()).filter(wrong).map(str::to_owned).collect();
    Ok(Disassembly { lines: lines(&text), complaints })
}

/// Compiles the source of a table.
///
/// # Errors
///
/// iasl cannot be run, or has something to say against the source.
pub fn compile(source: &str) -> Result<Vec<u8>, String> {
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    std::fs::write(directory.path().join("table.asl"), source).map_err(|error| error.to_string())?;
    let said = run(directory.path(), &["table.asl"])?;
    if !said.contains("0 Errors, 0 Warnings") {
        return Err(said);
    }
    read(directory.path(), "table.aml")
}

/// iasl's own template of a table; `None` where it does not know the signature.
///
/// # Errors
///
/// iasl cannot be run.
pub fn template(signature: &str) -> Result<Option<String>, String> {
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let said = run(directory.path(), &["-T", signature])?;
    if said.contains("Unrecognized") {
        return Ok(None);
    }
    let name = format!("{}.asl", signature.to_lowercase());
    Ok(Some(String::from_utf8_lossy(&read(directory.path(), &name)?).into_owned()))
}

fn run(directory: &Path, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("iasl")
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("iasl: {error}"))?;
    Ok(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

fn read(directory: &Path, name: &str) -> Result<Vec<u8>, String> {
    std::fs::read(directory.join(name)).map_err(|error| format!("iasl wrote no {name}: {error}"))
}

/// `[024h 0036   1]           Host Address Width : 26`, and below it without brackets the bits of a field.
fn lines(text: &str) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    let mut continued = false;
    for line in text.lines() {
        if line.starts_with("Raw Table Data") {
            break;
        }
        if continued && let Some(last) = lines.last_mut() {
            continued = line.trim_end().ends_with('\\');
            last.value.push(' ');
            last.value.push_str(line.trim().trim_end_matches('\\').trim());
            continue;
        }
        let (place, rest) = match line.strip_prefix('[').and_then(|line| line.split_once(']')) {
            Some((place, rest)) => (Some(place), rest),
            None => (None, line),
        };
        let Some((name, value)) = rest.split_once(" : ") else { continue };
        let (offset, length) = match place {
            Some(place) => {
                let mut numbers = place.split_whitespace();
                let mut number = || numbers.nth(1)?.parse().ok();
                let offset: Option<usize> = number();
                let length = place.split_whitespace().last().and_then(|length| length.parse().ok());
                let (Some(offset), Some(length)) = (offset, length.filter(|length| *length > 0)) else {
                    continue;
                };
                (offset, length)
            }
            None => match lines.iter().rev().find(|line| line.length > 0) {
                Some(holder) if line.starts_with(' ') => (holder.offset, 0),
                _ => continue,
            },
        };
        let value = value.trim();
        continued = value.ends_with('\\');
        let value = value.trim_end_matches('\\').trim();
        let value = if value.starts_with('"') {
            value.rfind('"').map_or(value, |end| &value[..=end])
        } else {
            value.split('[').next().unwrap_or(value).trim()
        };
        let (name, value) = (name.trim().to_owned(), value.to_owned());
        lines.push(Line { offset, length, name, value, unknown: rest.contains("[Unknown Subtable Type]") });
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_disassembly_are_taken_apart() {
        let text = "\
[024h 0036   1]           Host Address Width : 26
[046h 0070   2]                     PCI Path : 02,00
[064h 0100   1]        Hints (decoded below) : 02
                                   Transient : 0
                              Write Allocate : 1
[030h 0048   2]                Subtable Type : 0000 [Hardware Unit Definition]
[0B8h 0184  15]                  Device Name : \"\\_SB.PCI0.I2C0\"
[078h 0120  18]                      Padding : \\
    00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 \\
    00 00
Raw Table Data: Length 204 (0xCC)
[999h 0999   1]                         Never : 00
";
        let line = |offset, length, name: &str, value: &str| Line {
            offset,
            length,
            name: name.to_owned(),
            value: value.to_owned(),
            unknown: false,
        };
        let zeros = ["00"; 18].join(" ");
        assert_eq!(
            lines(text),
            [
                line(36, 1, "Host Address Width", "26"),
                line(70, 2, "PCI Path", "02,00"),
                line(100, 1, "Hints (decoded below)", "02"),
                line(100, 0, "Transient", "0"),
                line(100, 0, "Write Allocate", "1"),
                line(48, 2, "Subtable Type", "0000"),
                line(184, 15, "Device Name", "\"\\_SB.PCI0.I2C0\""),
                line(120, 18, "Padding", &format!(" {zeros}")),
            ]
        );
    }
}
