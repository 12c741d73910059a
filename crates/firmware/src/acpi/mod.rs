//! ACPI tables: DMAR, IVRS, IORT, VIOT, RIMT.
//!
//! Each table can be read in three ways, which share the declarations of its structures and one loop over its bytes:
//!
//! - [`topology`]: what it says of the machine, without keeping the table;
//! - [`Table::read`]: the table as data, which [`Table::write`] turns into the same bytes again;
//! - [`decode()`]: every field with offset, name, value and meaning.

mod build;
mod decode;
pub mod dmar;
mod header;
pub mod iort;
pub mod ivrs;
mod layout;
pub mod rimt;
pub mod viot;
mod walk;

use alloc::vec::Vec;

use crate::topology::{FindingKind, Findings, Signature, Source, Topology};

pub use decode::{Block, Field, Value, fields};
pub use header::{Header, WriteError};
pub use walk::Reference;

use build::Build;
use header::View;

/// A table as data.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Table {
    /// Intel VT-d.
    Dmar(dmar::Dmar),
    /// AMD-Vi.
    Ivrs(ivrs::Ivrs),
    /// Arm SMMU and GIC ITS.
    Iort(iort::Iort),
    /// virtio-iommu.
    Viot(viot::Viot),
    /// RISC-V IOMMU.
    Rimt(rimt::Rimt),
}

impl Table {
    /// Reads what can be trusted of a table, and what is wrong with its form. (What is wrong with its content,
    /// [`topology`] finds.)
    #[must_use]
    pub fn read(bytes: &[u8]) -> (Option<Self>, Findings) {
        let mut findings = Findings::default();
        let Some(view) = View::open(bytes, &mut findings) else { return (None, findings) };
        let table = match view.signature {
            Signature::DMAR => dmar::Dmar::read(&view, &mut findings).map(Self::Dmar),
            Signature::IVRS => ivrs::Ivrs::read(&view, &mut findings).map(Self::Ivrs),
            Signature::IORT => iort::Iort::read(&view, &mut findings).map(Self::Iort),
            Signature::VIOT => viot::Viot::read(&view, &mut findings).map(Self::Viot),
            Signature::RIMT => rimt::Rimt::read(&view, &mut findings).map(Self::Rimt),
            signature => {
                findings.push(Source::table(signature, 0), FindingKind::UnknownSignature { signature });
                None
            }
        };
        (table, findings)
    }

    /// The table's bytes, with lengths and checksum.
    ///
    /// # Errors
    ///
    /// What does not fit the table's fields.
    pub fn write(&self) -> Result<Vec<u8>, WriteError> {
        match self {
            Self::Dmar(table) => table.write(),
            Self::Ivrs(table) => table.write(),
            Self::Iort(table) => table.write(),
            Self::Viot(table) => table.write(),
            Self::Rimt(table) => table.write(),
        }
    }
}

/// What a table says of the machine, with every finding.
#[must_use]
pub fn topology(bytes: &[u8]) -> Topology {
    let mut findings = Findings::default();
    let Some(view) = View::open(bytes, &mut findings) else {
        return Topology { findings, ..Topology::default() };
    };
    let mut build = Build::new(view.signature, findings);
    match view.signature {
        Signature::DMAR => dmar::topology(&view, build),
        Signature::IVRS => ivrs::topology(&view, build),
        Signature::IORT => iort::topology(&view, build),
        Signature::VIOT => viot::topology(&view, build),
        Signature::RIMT => rimt::topology(&view, build),
        signature => {
            build.finding(0, FindingKind::UnknownSignature { signature });
            build.finish()
        }
    }
}

/// Every field of a table, structure by structure; `None` where it is not one of those that this crate reads.
#[must_use]
pub fn decode(bytes: &[u8]) -> Option<Vec<Block<'_>>> {
    let view = View::open(bytes, &mut Findings::default())?;
    match view.signature {
        Signature::DMAR => Some(dmar::decode(&view)),
        Signature::IVRS => Some(ivrs::decode(&view)),
        Signature::IORT => Some(iort::decode(&view)),
        Signature::VIOT => Some(viot::decode(&view)),
        Signature::RIMT => Some(rimt::decode(&view)),
        _ => None,
    }
}
