//! Why the common rooms refuse, with what an architecture needs to name its own code.

use portcullis_spec::{FaultReason, Ipa, PhysAddr, StageNumber};

/// What else is known of a refusal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Detail {
    /// Nothing.
    None,
    /// The entry concerned is the root table's.
    RootEntry,
    /// Of an access that reads and writes, the writing alone is permitted.
    OnlyReadDenied,
    /// The architecture refuses this without a record.
    Silent,
    /// Accessed or Dirty had to be set, and the rules forbid that.
    FlagsForbidden,
    /// The page is a memory-resident interrupt file's: its accesses are the architecture's affair (RISC-V MRIF mode). `entry` is
    /// that of the interrupt table.
    InterruptFile,
    /// Accessed or Dirty could not be set: memory refused, or others kept changing the entry.
    FlagsUpdate,
}

/// An entry of the first stage's tables to which the second stage refused an access.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FirstStageTable {
    /// Whether the entry is the root table's.
    pub root: bool,
    /// Whether the entry was to be written (its Accessed or Dirty flag).
    pub write: bool,
}

/// A refusal by the common rooms.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Refusal {
    /// Why.
    pub reason: FaultReason,
    /// The stage that refused.
    pub stage: Option<StageNumber>,
    /// The address between the stages, where the second refused.
    pub ipa: Option<Ipa>,
    /// The paging entry at which the walk ended, where it could not be read or changed.
    pub entry: Option<PhysAddr>,
    /// The entry of the first stage's tables whose access the second refused.
    pub table: Option<FirstStageTable>,
    /// What else is known.
    pub detail: Detail,
}

impl Refusal {
    /// A refusal of which no more is known than its reason.
    #[must_use]
    pub const fn new(reason: FaultReason) -> Self {
        Self { reason, stage: None, ipa: None, entry: None, table: None, detail: Detail::None }
    }

    /// A refusal by one stage.
    #[must_use]
    pub const fn by(stage: StageNumber, reason: FaultReason, detail: Detail) -> Self {
        Self { reason, stage: Some(stage), ipa: None, entry: None, table: None, detail }
    }
}
