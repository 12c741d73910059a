//! Where a fact came from.

use alloc::string::String;
use alloc::sync::Arc;
use core::fmt;
use core::ops::Deref;

/// The four characters that name an ACPI table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signature(pub [u8; 4]);

impl Signature {
    /// DMA remapping reporting: Intel VT-d.
    pub const DMAR: Self = Self(*b"DMAR");
    /// I/O virtualization reporting: AMD-Vi.
    pub const IVRS: Self = Self(*b"IVRS");
    /// I/O remapping: Arm SMMU and GIC ITS.
    pub const IORT: Self = Self(*b"IORT");
    /// Virtual I/O translation: virtio-iommu.
    pub const VIOT: Self = Self(*b"VIOT");
    /// RISC-V I/O mapping.
    pub const RIMT: Self = Self(*b"RIMT");
}

impl fmt::Display for Signature {
    /// Bytes that do not print are shown as `?`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0 {
            let shown = if byte.is_ascii_graphic() || byte == b' ' { char::from(byte) } else { '?' };
            fmt::Write::write_char(f, shown)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for Signature {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Where a fact came from.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// An ACPI table.
    Table {
        /// Which table.
        signature: Signature,
        /// Bytes from the table's start to the structure or field that states the fact.
        offset: u32,
    },
    /// A devicetree node.
    Devicetree {
        /// Full path of the node.
        node: String,
        /// The property, where one states the fact.
        property: Option<String>,
    },
    /// A file of the running kernel, or of a capture of one.
    Sysfs {
        /// Path below the root that was read, starting with `/`.
        path: String,
    },
    /// The user's configuration.
    User {
        /// File as the user named it.
        file: Arc<str>,
        /// Line, from 1.
        line: u32,
        /// Column in characters, from 1.
        column: u32,
    },
}

impl Source {
    /// A place in an ACPI table.
    #[must_use]
    pub const fn table(signature: Signature, offset: u32) -> Self {
        Self::Table { signature, offset }
    }

    /// Whether the user said so.
    #[must_use]
    pub const fn is_user(&self) -> bool {
        matches!(self, Self::User { .. })
    }
}

impl fmt::Display for Source {
    /// `DMAR+0x30`, `/soc/iommu@3000000:reg`, `/sys/…`, `portcullis.toml:12:7`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table { signature, offset } => write!(f, "{signature}+{offset:#x}"),
            Self::Devicetree { node, property: Some(property) } => write!(f, "{node}:{property}"),
            Self::Devicetree { node, property: None } => f.write_str(node),
            Self::Sysfs { path } => f.write_str(path),
            Self::User { file, line, column } => write!(f, "{file}:{line}:{column}"),
        }
    }
}

/// A value and where it came from. Dereferences to the value.
#[derive(Clone, PartialEq, Eq, Hash, Debug, serde::Serialize)]
pub struct Fact<T> {
    /// What is stated.
    pub value: T,
    /// Who states it.
    pub source: Source,
}

impl<T> Fact<T> {
    /// `value`, as `source` states it.
    pub const fn new(value: T, source: Source) -> Self {
        Self { value, source }
    }
}

impl<T> Deref for Fact<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}
