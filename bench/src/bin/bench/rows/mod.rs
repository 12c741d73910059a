//! The rows, a file for each group.

mod architectures;
mod cold;
mod copy;
mod isolation;
mod manager;
mod many;
mod memory;
mod pagetable;
mod threads;
mod translate;
mod unmap;

use crate::Effort;
use portcullis_bench::result::Row;

/// A group of rows.
type Group = fn(Effort) -> Vec<Row>;

/// All of them, in the order of the table.
pub(crate) const GROUPS: &[(&str, Group)] = &[
    ("translate/one-stage", translate::one_stage),
    ("translate/nested", translate::nested),
    ("threads", threads::rows),
    ("miss", cold::rows),
    ("copy", copy::rows),
    ("unmap", unmap::rows),
    ("isolation", isolation::rows),
    ("memory", memory::rows),
    ("many", many::rows),
    ("architectures", architectures::rows),
    ("pagetable", pagetable::rows),
    ("manager/service", manager::service),
    ("manager/violations", manager::violations),
];
