//! Reads TOML into types, and goes on after a problem: what it is about is taken out, and the rest is read again.

use std::{fmt, ops::Range};

use serde::de::{self, DeserializeOwned, Unexpected, Visitor};
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue, Deserializer, Error};

/// A value that is a number or a text.
pub(super) struct NumberOrText<N, T> {
    /// What people are told to write.
    pub(super) expected: &'static str,
    pub(super) number: fn(N) -> T,
    pub(super) text: fn(String) -> T,
}

impl<N: TryFrom<i64>, T> Visitor<'_> for NumberOrText<N, T> {
    type Value = T;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(self.expected)
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<T, E> {
        let number = N::try_from(value);
        number.map(self.number).map_err(|_| E::invalid_value(Unexpected::Signed(value), &self))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<T, E> {
        Ok((self.text)(value.to_owned()))
    }
}

/// Whoever makes more mistakes than this learns of the others later.
const MOST: usize = 64;

/// What could be read, where anything could, and every problem with what could not.
pub(super) fn read<T: DeserializeOwned>(text: &str) -> (Option<T>, Vec<Error>) {
    let (mut document, mut errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        // What a broken line was meant to say, nobody knows: whatever else was wrong may follow from it.
        return (None, errors);
    }
    loop {
        match T::deserialize(Deserializer::from(document.clone())) {
            Ok(value) => return (Some(value), errors),
            Err(error) => {
                let removed = error.span().is_some_and(|span| remove(document.get_mut(), &span));
                errors.push(error);
                if !removed || errors.len() == MOST {
                    return (None, errors);
                }
            }
        }
    }
}

/// Takes out what the span is about: the smallest thing that holds it. Whether there was one.
fn remove(table: &mut DeTable<'_>, span: &Range<usize>) -> bool {
    let holds_it = |(key, value): (&Spanned<_>, &_)| within(span, &key.span()) || holds(value, span);
    let Some(key) = table.iter().find(|(key, value)| holds_it((key, value))).map(|(key, _)| key.clone())
    else {
        return false;
    };
    table.get_mut(&key).is_some_and(|value| remove_inside(value, span)) || table.remove(&key).is_some()
}

/// As [`remove`], of what lies inside a value.
fn remove_inside(value: &mut Spanned<DeValue<'_>>, span: &Range<usize>) -> bool {
    match value.get_mut() {
        DeValue::Table(table) => remove(table, span),
        DeValue::Array(array) => {
            let Some(at) = array.iter().position(|item| holds(item, span)) else { return false };
            if !array.get_mut(at).is_some_and(|item| remove_inside(item, span)) {
                let mut others = DeArray::new();
                let items = std::mem::replace(array, DeArray::new()).into_iter().enumerate();
                items.filter(|(index, _)| *index != at).for_each(|(_, item)| others.push(item));
                *array = others;
            }
            true
        }
        _ => false,
    }
}

/// Whether the span lies in the value: a table's own span is its heading, and what stands below it lies elsewhere.
fn holds(value: &Spanned<DeValue<'_>>, span: &Range<usize>) -> bool {
    within(span, &value.span())
        || match value.get_ref() {
            DeValue::Table(table) => {
                table.iter().any(|(key, value)| within(span, &key.span()) || holds(value, span))
            }
            DeValue::Array(array) => array.iter().any(|item| holds(item, span)),
            _ => false,
        }
}

fn within(inner: &Range<usize>, outer: &Range<usize>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}
