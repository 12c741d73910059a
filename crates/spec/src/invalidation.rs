//! What must be forgotten.

use crate::{DomainTag, Iova, Pasid, Requester, SpaceTag, StageNumber};

/// Which cached configuration entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub enum ContextScope {
    /// All of them.
    All,
    /// Those tagged with a domain.
    Domain(DomainTag),
    /// Those of a requester, and of all whose index differs from its only in the bits of `mask`.
    Requester {
        /// The requester.
        requester: Requester,
        /// Bits of its index that do not count.
        mask: u32,
    },
    /// Those of one PASID of a requester.
    Pasid(Requester, Pasid),
    /// PASID-table entries tagged with a domain, of one PASID or all.
    DomainPasid(DomainTag, Option<Pasid>),
}

/// Which cached translations. Every field narrows; all `None` is everything.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct TranslationScope {
    /// Only translations that this stage had a part in. A first-stage scope leaves second-stage-only ones.
    pub stage: Option<StageNumber>,
    /// Only this domain's.
    pub domain: Option<DomainTag>,
    /// Only this address space's.
    pub space: Option<SpaceTag>,
    /// Only of these addresses: first byte and last byte.
    pub range: Option<(Iova, Iova)>,
    /// Only leaf entries must go; cached table entries may stay.
    pub leaf_only: bool,
    /// Entries marked global may stay.
    pub keep_global: bool,
}

/// Which cached interrupt entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub enum InterruptScope {
    /// All of them.
    All,
    /// Entries `first` to `last`.
    Range {
        /// First index.
        first: u32,
        /// Last index.
        last: u32,
    },
    /// Those of one requester.
    Requester(Requester),
}

/// What must be forgotten.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub enum Invalidation {
    /// Everything that the unit caches.
    Everything,
    /// Configuration entries.
    Contexts(ContextScope),
    /// Translations.
    Translations(TranslationScope),
    /// Interrupt entries.
    Interrupts(InterruptScope),
}
