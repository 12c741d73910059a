//! What an IOMMU answers.

use crate::{Access, PhysAddr};

/// How the target may be cached: the x86 memory types and Arm's, neutral.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, serde::Serialize, serde::Deserialize)]
pub enum Cacheability {
    /// As the request says.
    #[default]
    Default,
    /// Uncacheable (x86 UC, Arm device, RISC-V IO).
    Uncacheable,
    /// Write-combining or non-cacheable normal memory (x86 WC, Arm normal non-cacheable, RISC-V NC).
    NonCacheable,
    /// Write-through.
    WriteThrough,
    /// Write-protected (x86 WP).
    WriteProtected,
    /// Write-back.
    WriteBack,
}

/// Who keeps coherent with the access.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, serde::Serialize, serde::Deserialize)]
pub enum Shareability {
    /// As the request says.
    #[default]
    Default,
    /// Non-shareable.
    NonShareable,
    /// Inner shareable.
    Inner,
    /// Outer shareable.
    Outer,
}

/// Memory attributes of a translation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct MemoryAttributes {
    /// Cacheability.
    pub cacheability: Cacheability,
    /// Shareability.
    pub shareability: Shareability,
    /// Whether the access is forced to snoop the processor caches (VT-d SNP and PGSNP, AMD FC).
    pub force_snoop: bool,
}

/// Where a transaction goes, and what else it might do there.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub struct Translation {
    /// Physical address of the transaction's first byte.
    pub address: PhysAddr,
    /// log2 of the bytes that one entry maps around that address; of two stages the smaller.
    pub page_shift: u8,
    /// Everything that the entries permit, not only what was asked for.
    pub access: Access,
    /// Memory attributes.
    pub attributes: MemoryAttributes,
}

impl Translation {
    /// Bytes from the translated address to the end of its page; `None` where the page is the whole address space.
    #[must_use]
    pub const fn bytes_to_page_end(&self) -> Option<u64> {
        if self.page_shift >= 64 {
            return None;
        }
        let size = 1u64 << self.page_shift;
        Some(size - (self.address.0 & (size - 1)))
    }
}
