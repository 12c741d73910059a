//! Fields of the specification's types, with their values and what they mean.
//!
//! The types of `portcullis_spec` show their fields through `Debug`; what each field is stands in their documentation,
//! which the build script collects.

use std::{
    fmt::Debug,
    io::{self, Write},
};

use serde::Serialize;

use crate::output::table;

include!(concat!(env!("OUT_DIR"), "/docs.rs"));

/// One field.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(super) struct Row {
    /// The specification's name, lower case.
    pub(super) field: String,
    /// Its value.
    pub(super) value: String,
    /// What it is.
    pub(super) meaning: String,
}

/// What was decoded.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(super) struct Decoded {
    /// What it is.
    pub(super) what: String,
    /// Its fields.
    pub(super) fields: Vec<Row>,
}

impl Decoded {
    pub(super) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), fields: Vec::new() }
    }

    /// Adds a value that is put together from several fields, or that is no field.
    pub(super) fn with(mut self, field: &str, value: impl Into<String>, meaning: impl Into<String>) -> Self {
        self.fields.push(Row { field: field.to_owned(), value: value.into(), meaning: meaning.into() });
        self
    }

    /// Adds the fields of a word of the architecture's.
    pub(super) fn word(mut self, architecture: &str, word: &dyn Debug) -> Self {
        self.fields.extend(rows(architecture, word));
        self
    }

    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}", self.what)?;
        let mut rows = table(["field", "value", "meaning"]);
        for row in &self.fields {
            rows.add_row([&row.field, &row.value, &row.meaning]);
        }
        writeln!(out, "{}", rows.trim_fmt())
    }
}

fn meaning(architecture: &str, name: &str, field: &str) -> Option<&'static str> {
    DOCS.binary_search_by(|(a, n, f, _)| (*a, *n, *f).cmp(&(architecture, name, field)))
        .ok()
        .map(|place| DOCS[place].3)
}

/// What a variant of any of the architecture's types is.
fn variant(architecture: &str, name: &str) -> Option<&'static str> {
    let mut found = DOCS.iter().filter(|(a, _, f, _)| *a == architecture && *f == name).map(|entry| entry.3);
    let first = found.next()?;
    // Two types may have a variant of one name: then the name must do.
    found.all(|other| other == first).then_some(first)
}

/// The fields of `word`, in the order of their bits. A word whose type has no fields is one value.
fn rows(architecture: &str, word: &dyn Debug) -> Vec<Row> {
    let text = format!("{word:?}");
    let Some((name, body)) =
        text.split_once(" { ").and_then(|(name, body)| Some((name, body.strip_suffix(" }")?)))
    else {
        return vec![Row { field: String::new(), value: text, meaning: String::new() }];
    };
    split(body)
        .into_iter()
        .filter_map(|part| {
            let (field, value) = part.split_once(": ")?;
            let described = meaning(architecture, name, field).unwrap_or_default();
            let (value, meaning) = match value {
                "true" => ("1".to_owned(), described.to_owned()),
                "false" => ("0".to_owned(), described.to_owned()),
                number if number.parse::<u64>().is_ok() => {
                    let number: u64 = number.parse().unwrap_or_default();
                    (
                        if number < 10 { number.to_string() } else { format!("{number:#x}") },
                        described.to_owned(),
                    )
                }
                named => {
                    let variant = variant(architecture, named.split('(').next().unwrap_or(named));
                    let meaning = match variant {
                        Some(variant) => format!("{described} {variant}"),
                        None => described.to_owned(),
                    };
                    (named.to_owned(), meaning)
                }
            };
            Some(Row { field: field.to_owned(), value, meaning })
        })
        .collect()
}

/// The parts of `text` between commas that stand in no bracket.
fn split(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0usize, 0);
    for (place, letter) in text.char_indices() {
        match letter {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(text[start..place].trim());
                start = place + 1;
            }
            _ => {}
        }
    }
    parts.push(text[start..].trim());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_spec::smmuv3::ste::{Config, Ste0};

    #[test]
    fn every_field_has_its_value_and_its_meaning() {
        let word = Ste0::new().with_v(true).with_config(Config::Nested).with_s1contextptr(0x1234);
        let rows = rows("smmuv3", &word);
        let shown: Vec<_> = rows.iter().map(|row| (row.field.as_str(), row.value.as_str())).collect();
        assert_eq!(
            shown,
            [("v", "1"), ("config", "Nested"), ("s1fmt", "0"), ("s1contextptr", "0x1234"), ("s1cdmax", "0")]
        );
        assert_eq!(rows[0].meaning, "Valid.");
        assert!(rows[1].meaning.ends_with("Both translate."), "{}", rows[1].meaning);
        assert!(rows.iter().all(|row| !row.meaning.is_empty()));
    }
}
