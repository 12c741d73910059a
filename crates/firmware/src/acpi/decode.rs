//! Every field of a table: where it is, what the specification calls it, its value and what that means.

use alloc::borrow::Cow;
use alloc::vec::Vec;
use core::fmt;

use super::layout::{Layout, Show};

/// A field's value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Value<'a> {
    /// A number.
    Number(u64),
    /// Bytes.
    Bytes(&'a [u8]),
    /// Printable characters; what follows a NUL is not shown.
    Text(&'a str),
}

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number:#x}"),
            Self::Text(text) => write!(f, "\"{text}\""),
            Self::Bytes(bytes) => {
                for (index, byte) in bytes.iter().enumerate() {
                    if index > 0 {
                        f.write_str(" ")?;
                    }
                    write!(f, "{byte:02x}")?;
                }
                Ok(())
            }
        }
    }
}

impl serde::Serialize for Value<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(number) => serializer.serialize_u64(*number),
            Self::Text(text) => serializer.serialize_str(text),
            Self::Bytes(_) => serializer.collect_str(self),
        }
    }
}

/// One field, or some bits of one.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Field<'a> {
    /// Bytes from the table's start.
    pub offset: u32,
    /// Bytes.
    pub length: u32,
    /// Where these are only some bits of the field before: highest and lowest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bits: Option<(u8, u8)>,
    /// Name, as the specification has it.
    pub name: &'static str,
    /// Value.
    pub value: Value<'a>,
    /// What the value means, where it means more than itself.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub meaning: Cow<'static, str>,
}

/// One structure of a table.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Block<'a> {
    /// What it is.
    pub name: &'static str,
    /// How many structures it is nested in.
    pub depth: u8,
    /// Bytes from the table's start.
    pub offset: u32,
    /// Bytes.
    pub length: u32,
    /// Its fields by offset; together they cover all its bytes that belong to no nested structure.
    pub fields: Vec<Field<'a>>,
}

/// All fields of all blocks.
pub fn fields<'b, 'a>(blocks: &'b [Block<'a>]) -> impl Iterator<Item = &'b Field<'a>> {
    blocks.iter().flat_map(|block| &block.fields)
}

/// Collects blocks.
pub(crate) struct Decoder<'a> {
    table: &'a [u8],
    blocks: Vec<Block<'a>>,
}

impl<'a> Decoder<'a> {
    pub(crate) fn new(table: &'a [u8]) -> Self {
        Self { table, blocks: Vec::new() }
    }

    pub(crate) fn finish(self) -> Vec<Block<'a>> {
        self.blocks
    }

    /// Begins a structure of `length` bytes, which begins with `fields`.
    pub(crate) fn begin(
        &mut self,
        name: &'static str,
        depth: u8,
        offset: usize,
        length: usize,
        fields: &[Layout],
    ) {
        let end = offset.saturating_add(length).min(self.table.len());
        let length = end.saturating_sub(offset) as u32;
        self.blocks.push(Block { name, depth, offset: offset as u32, length, fields: Vec::new() });
        self.layout(fields, offset);
    }

    /// A stretch, where it is not empty, of which only the place is known.
    pub(crate) fn unreadable(&mut self, name: &'static str, depth: u8, offset: usize, end: usize) {
        if offset < end {
            self.begin(name, depth, offset, end - offset, &[]);
            self.fill(end);
        }
    }

    fn limit(&self) -> usize {
        self.blocks.last().map_or(0, |block| block.offset as usize + block.length as usize)
    }

    /// Adds fields to the last block, as many as lie in it.
    pub(crate) fn layout(&mut self, fields: &[Layout], offset: usize) {
        for field in fields {
            let start = offset.saturating_add(field.offset.into());
            self.field(field.name, start, field.length.into(), field.show);
        }
    }

    /// Adds one field to the last block if all of it lies there.
    pub(crate) fn field(&mut self, name: &'static str, offset: usize, length: usize, show: Show) {
        let end = offset.saturating_add(length);
        let limit = self.limit();
        let (Some(bytes), Some(block)) = (self.table.get(offset..end), self.blocks.last_mut()) else {
            return;
        };
        if end > limit || length == 0 {
            return;
        }
        let (offset, length) = (offset as u32, length as u32);
        let mut add = |bits, name, value, meaning| {
            block.fields.push(Field { offset, length, bits, name, value, meaning });
        };
        let number = || bytes.iter().rev().fold(0u64, |sum, byte| (sum << 8) | u64::from(*byte));
        match show {
            Show::Bytes => add(None, name, Value::Bytes(bytes), Cow::Borrowed("")),
            Show::Text => add(None, name, text(bytes), Cow::Borrowed("")),
            Show::Number => add(None, name, Value::Number(number()), Cow::Borrowed("")),
            Show::Values(meanings) => {
                let value = number();
                add(None, name, Value::Number(value), Cow::Borrowed(meaning(meanings, value)));
            }
            Show::Explained(explain) => {
                let value = number();
                let meaning = explain(value).map_or(Cow::Borrowed(""), Cow::Owned);
                add(None, name, Value::Number(value), meaning);
            }
            Show::Bits(bits) => {
                let value = number();
                add(None, name, Value::Number(value), Cow::Borrowed(""));
                for part in bits {
                    let cut = part.of(value);
                    let place = Some((part.high, part.low));
                    add(place, part.name, Value::Number(cut), Cow::Borrowed(meaning(part.meanings, cut)));
                }
            }
        }
    }

    /// Adds what is left of the last block, and of no block nested in it, as padding; `end` is where the nested ones
    /// begin.
    pub(crate) fn fill(&mut self, end: usize) {
        let end = end.min(self.limit());
        let Some(block) = self.blocks.last_mut() else { return };
        block.fields.sort_by_key(|field| field.offset);
        let mut gaps = Vec::new();
        let mut at = block.offset as usize;
        for field in &block.fields {
            if field.offset as usize > at {
                gaps.push(at..field.offset as usize);
            }
            at = at.max(field.offset as usize + field.length as usize);
        }
        if at < end {
            gaps.push(at..end);
        }
        for gap in gaps {
            let zero = self.table.get(gap.clone()).is_some_and(|bytes| bytes.iter().all(|byte| *byte == 0));
            let name = if zero { "Padding" } else { "Unknown bytes" };
            self.field(name, gap.start, gap.len(), Show::Bytes);
        }
        if let Some(block) = self.blocks.last_mut() {
            block.fields.sort_by_key(|field| field.offset);
        }
    }
}

fn meaning(meanings: &[(u64, &'static str)], value: u64) -> &'static str {
    meanings.iter().find_map(|(known, text)| (*known == value).then_some(*text)).unwrap_or("")
}

fn text(bytes: &[u8]) -> Value<'_> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let (name, rest) = bytes.split_at(end);
    match core::str::from_utf8(name) {
        Ok(text)
            if rest.iter().all(|byte| *byte == 0)
                && text.chars().all(|c| c.is_ascii_graphic() || c == ' ') =>
        {
            Value::Text(text)
        }
        _ => Value::Bytes(bytes),
    }
}
