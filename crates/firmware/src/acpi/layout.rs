//! One declaration a structure: from it come the type, its reading, its writing, and its field-by-field description.

use alloc::vec::Vec;

/// A value as tables hold it: little-endian numbers, or bytes.
pub(crate) trait Raw: Copy {
    /// Bytes.
    const SIZE: usize;
    /// How it is shown where the declaration does not say.
    const SHOW: Show;
    /// Reads from exactly [`Raw::SIZE`] bytes.
    fn get(bytes: &[u8]) -> Option<Self>;
    /// Writes to exactly [`Raw::SIZE`] bytes.
    fn put(self, bytes: &mut [u8]);
}

macro_rules! raw_number {
    ($($number:ty),*) => {$(
        impl Raw for $number {
            const SIZE: usize = size_of::<$number>();
            const SHOW: Show = Show::Number;

            fn get(bytes: &[u8]) -> Option<Self> {
                Some(<$number>::from_le_bytes(bytes.try_into().ok()?))
            }

            fn put(self, bytes: &mut [u8]) {
                bytes.copy_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}
raw_number!(u8, u16, u32, u64);

impl<const N: usize> Raw for [u8; N] {
    const SIZE: usize = N;
    const SHOW: Show = Show::Bytes;

    fn get(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok()
    }

    fn put(self, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self);
    }
}

/// The value of type `T` at `offset`; `None` where the bytes end before.
pub(crate) fn get<T: Raw>(bytes: &[u8], offset: usize) -> Option<T> {
    T::get(bytes.get(offset..offset.checked_add(T::SIZE)?)?)
}

/// Overwrites the value at `offset`, where there is room for it.
pub(crate) fn patch<T: Raw>(bytes: &mut [u8], offset: usize, value: T) {
    if let Some(place) = bytes.get_mut(offset..offset.saturating_add(T::SIZE)) {
        value.put(place);
    }
}

/// Bits of a field that mean something of their own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bits {
    /// Highest bit.
    pub high: u8,
    /// Lowest bit.
    pub low: u8,
    /// Name, as the specification has it.
    pub name: &'static str,
    /// Values with a meaning.
    pub meanings: &'static [(u64, &'static str)],
}

impl Bits {
    /// One bit.
    pub(crate) const fn flag(bit: u8, name: &'static str) -> Self {
        Self { high: bit, low: bit, name, meanings: &[] }
    }

    /// One bit, and what it means when set.
    pub(crate) const fn means(bit: u8, name: &'static str, meanings: &'static [(u64, &'static str)]) -> Self {
        Self { high: bit, low: bit, name, meanings }
    }

    /// Several bits.
    pub(crate) const fn field(high: u8, low: u8, name: &'static str) -> Self {
        Self { high, low, name, meanings: &[] }
    }

    /// Several bits, and what their values mean.
    pub(crate) const fn values(
        high: u8,
        low: u8,
        name: &'static str,
        meanings: &'static [(u64, &'static str)],
    ) -> Self {
        Self { high, low, name, meanings }
    }

    /// These bits of `value`.
    #[must_use]
    pub(crate) const fn of(self, value: u64) -> u64 {
        let width = self.high - self.low + 1;
        let mask = if width >= 64 { u64::MAX } else { (1 << width) - 1 };
        (value >> self.low) & mask
    }
}

/// How a field is shown.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Show {
    /// A number.
    Number,
    /// A number, and what some values mean.
    Values(&'static [(u64, &'static str)]),
    /// A number whose bits mean something.
    Bits(&'static [Bits]),
    /// A number that a function explains.
    Explained(fn(u64) -> Option<alloc::string::String>),
    /// Bytes.
    Bytes,
    /// Characters.
    Text,
}

/// One field of a structure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    /// Bytes from the structure's start.
    pub offset: u16,
    /// Bytes.
    pub length: u16,
    /// Name, as the specification has it.
    pub name: &'static str,
    /// How it is shown.
    pub show: Show,
}

/// A structure's fixed part.
pub(crate) trait Record: Sized {
    /// Bytes.
    const LENGTH: usize;
    /// Its fields, which cover every byte once.
    const FIELDS: &'static [Layout];
    /// Reads from the first [`Record::LENGTH`] bytes; `None` where there are fewer.
    fn read(bytes: &[u8]) -> Option<Self>;
    /// Appends it; fields that the type does not hold (types, lengths, counts) are zero and patched by the writer.
    fn append(&self, out: &mut Vec<u8>);
}

/// Bytes that `fields` cover from the structure's start.
pub(crate) fn fields_length(fields: &[Layout]) -> usize {
    fields.last().map_or(0, |field| usize::from(field.offset) + usize::from(field.length))
}

/// Declares a structure's fixed part: `offset: [pub field]: type, "Name" [, show];`. A field without an identifier is not held
/// by the type, because it follows from the rest (types, lengths, counts, checksums).
macro_rules! record {
    (
        $(#[$doc:meta])*
        $vis:vis struct $record:ident, $length:literal bytes {
            $( $offset:literal: $( $(#[$field_doc:meta])* pub $field:ident: )? $type:ty, $name:literal $(, $show:expr)?; )*
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
        $vis struct $record {
            $($( $(#[$field_doc])* pub $field: $type, )?)*
        }

        impl $crate::acpi::layout::Record for $record {
            const LENGTH: usize = $length;
            const FIELDS: &'static [$crate::acpi::layout::Layout] = &[
                $($crate::acpi::layout::Layout {
                    offset: $offset,
                    length: <$type as $crate::acpi::layout::Raw>::SIZE as u16,
                    name: $name,
                    show: record!(@show $type $(, $show)?),
                },)*
            ];

            fn read(bytes: &[u8]) -> Option<Self> {
                let bytes = bytes.get(..$length)?;
                let _ = bytes;
                Some(Self { $($( $field: $crate::acpi::layout::get::<$type>(bytes, $offset)?, )?)* })
            }

            fn append(&self, out: &mut alloc::vec::Vec<u8>) {
                let start = out.len();
                out.resize(start + $length, 0);
                let place = &mut out[start..];
                let _ = &place;
                $($( $crate::acpi::layout::patch::<$type>(place, $offset, self.$field); )?)*
            }
        }
    };
    (@show $type:ty) => { <$type as $crate::acpi::layout::Raw>::SHOW };
    (@show $type:ty, $show:expr) => { $show };
}
pub(crate) use record;

#[cfg(test)]
mod tests {
    use super::*;

    record! {
        /// A structure that exists only here.
        pub(super) struct Sample, 8 bytes {
            0: u8, "Type";
            1: /** A number. */ pub number: u16, "Number";
            3: /** Bytes. */ pub tail: [u8; 5], "Tail";
        }
    }

    #[test]
    fn a_record_reads_what_it_wrote_and_leaves_derived_fields_zero() {
        let sample = Sample { number: 0x1234, tail: *b"abcde" };
        let mut out = Vec::new();
        sample.append(&mut out);
        assert_eq!(out, [0, 0x34, 0x12, b'a', b'b', b'c', b'd', b'e']);
        assert_eq!(Sample::read(&out), Some(sample));
        assert_eq!(Sample::read(&out[..7]), None);
    }

    #[test]
    fn bits_are_cut_out_of_a_value() {
        assert_eq!(Bits::field(14, 8, "PASize").of(0x0020_3043), 0x30);
        assert_eq!(Bits::field(63, 0, "all").of(u64::MAX), u64::MAX);
    }
}
