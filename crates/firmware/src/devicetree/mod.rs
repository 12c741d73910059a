//! Devicetree blobs: read, written, and what they say about IOMMUs.
//!
//! - [`Blob`] is a flattened devicetree as a tree of [`Node`]s; [`Blob::read`] copies nothing but the tree's own shape, and
//!   [`Blob::write`] gives a blob that reads back the same;
//! - [`topology()`] is what it says about units, the devices behind them, and reserved memory (bindings `iommu`, `pci-iommu`,
//!   `reserved-memory`, and those of each unit).

mod blob;
mod cells;
mod index;
mod topology;
mod units;

pub use blob::{Blob, BlobError, Node, Property};
pub use topology::topology;
