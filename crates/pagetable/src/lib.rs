//! One page-table engine, many formats.
//!
//! A [`Format`] is one small file of facts: how many levels, which bits, which sizes. Everything that is an algorithm
//! is written once over it: [`walk()`] reads tables through any closure that loads an entry (a model, a driver, an offline
//! decoder, or a first stage whose tables are themselves translated), and [`PageTable`] maps and unmaps.
//!
//! # Glossary
//!
//! | word | is |
//! | --- | --- |
//! | input | the address that is translated: [`Iova`](portcullis_spec::Iova), or [`Ipa`](portcullis_spec::Ipa) for the second of two stages |
//! | table | an array of 64-bit entries in memory, aligned to its size |
//! | entry | one 64-bit word of a table: empty, a table entry, a leaf, or invalid |
//! | level | how far a table is from the last one: 0 holds only leaves. Architectures number otherwise; each format says how |
//! | root | the table at the highest level. It may be larger than the others (concatenated on Arm, ×4 on RISC-V) or smaller |
//! | granule | the size of a table below the root, and of the smallest page |
//! | span | the bytes of input that one entry of a level covers |
//! | leaf | an entry that ends the walk |
//! | page | the bytes that one leaf maps, or that a run of leaves maps together |
//! | run | neighbouring leaves that map one page larger than their span (Arm contiguous, Svnapot, AMD mode 7) |
//! | shift | log2 of a size in bytes. A set of page sizes is a `u64` whose bit *n* stands for 2^*n* bytes |
//! | rights | what an entry permits; those of the tables above are intersected with the leaf's |
#![no_std]
#![forbid(unsafe_code)]

pub mod format;
pub mod memory;
pub mod table;
pub mod walk;

pub use format::{
    Address, AnyFormat, Attributes, Entry, Extension, Flags, Format, Inexpressible, Invalid, Leaf, Rights,
    TableEntry,
};
pub use memory::{TableAllocator, TableMemory};
pub use table::{Error, Gather, Map, Page, PageTable, Split};
pub use walk::{Cause, MAX_LEVELS, Mapping, Step, Walk, WalkError, walk};
