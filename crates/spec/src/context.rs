//! What a device's table entries come to.

use crate::{Access, FaultReason, GuestDirectory, Ipa, MemoryAttributes, PagingFormat, PhysAddr};

/// The tag that names a protection domain in the caches: domain ID on VT-d and AMD-Vi, VMID on Arm, GSCID on RISC-V.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct DomainTag(pub u32);

/// The tag that names an address space within a domain: PASID on VT-d and AMD-Vi, ASID on Arm, PSCID on RISC-V.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct SpaceTag(pub u32);

/// The tags under which a context's translations are cached.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Tags {
    /// The domain.
    pub domain: DomainTag,
    /// The address space, where a first stage has one.
    pub space: Option<SpaceTag>,
}

bitflags::bitflags! {
    /// Rules for one stage beyond what its table entries say.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, serde::Serialize, serde::Deserialize)]
    pub struct StageRules: u32 {
        /// The unit sets Accessed (Arm HA, VT-d SSADE and first stage, RISC-V GADE/SADE).
        const SET_ACCESSED = 1;
        /// The unit sets Dirty (Arm HD).
        const SET_DIRTY = 1 << 1;
        /// The unit sets the extended-accessed bit (VT-d EAFE).
        const SET_EXTENDED_ACCESSED = 1 << 2;
        /// An entry with Accessed clear faults where the unit does not set it (Arm AFFD clear, RISC-V ADE clear,
        /// VT-d without page-walk snoop).
        const ACCESSED_REQUIRED = 1 << 3;
        /// Privileged writes obey read-only entries (VT-d WPE, CR0.WP).
        const WRITE_PROTECT = 1 << 4;
        /// Privileged instruction fetches from user pages are refused (SMEP, Arm PAN/PXN rules, RISC-V without SUM).
        const NO_PRIVILEGED_USER_EXECUTE = 1 << 5;
        /// Privileged data access to user pages is refused (RISC-V SUM clear).
        const NO_PRIVILEGED_USER_ACCESS = 1 << 6;
        /// Execute permission is checked (VT-d NXE/XD, SRE); otherwise every readable page executes.
        const EXECUTE_CHECKED = 1 << 7;
        /// Writable pages never execute (Arm WXN).
        const WRITE_IMPLIES_NO_EXECUTE = 1 << 8;
        /// Permissions of table descriptors are ignored (Arm HPD).
        const NO_HIERARCHICAL_PERMISSIONS = 1 << 9;
        /// Table entries are big-endian (Arm CD.ENDI, RISC-V SBE).
        const BIG_ENDIAN = 1 << 10;
        /// First-stage tables must lie in normal memory (Arm S2PTW).
        const PROTECTED_TABLE_WALK = 1 << 11;
        /// Privileged requests are allowed (VT-d SRE).
        const PRIVILEGED_ALLOWED = 1 << 12;
        /// A write through an entry with Dirty clear faults where the unit does not set it (VT-d without page-walk snoop,
        /// RISC-V ADE clear).
        const DIRTY_REQUIRED = 1 << 13;
        /// An entry that must have Accessed faults for that before its rights are looked at (Arm).
        const ACCESSED_BEFORE_RIGHTS = 1 << 14;
        /// A page that may neither be read nor written is not mapped, rather than denied (VT-d second stage).
        const UNMAPPED_WITHOUT_RIGHTS = 1 << 15;
        /// An unprivileged fetch needs the right to execute alone, also where unprivileged data accesses are not admitted
        /// (Arm UXN clear with AP\[1\] clear).
        const FETCH_NEEDS_EXECUTE_ALONE = 1 << 16;
        /// What unprivileged requests may write is never executed with privilege (Arm VMSAv8-64 EL1&0).
        const USER_WRITE_IMPLIES_NO_PRIVILEGED_EXECUTE = 1 << 17;
        /// The stage knows no privilege: what its entries say of it is ignored (Arm EL2).
        const ONE_PRIVILEGE = 1 << 18;
    }
}

/// One stage of translation. `A` is the kind of address at which its root table lies: [`PhysAddr`], or [`Ipa`] for the
/// first of two stages.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub struct Stage<A> {
    /// Shape of the tables.
    pub format: PagingFormat,
    /// Root table.
    pub root: A,
    /// Rules beyond the entries.
    pub rules: StageRules,
    /// Lowest input address bits that count as in range; higher ones fault. 64 where the format alone decides.
    pub input_bits: u8,
}

/// The first of two stages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub enum FirstStage {
    /// Its tables.
    Tables(Stage<Ipa>),
    /// A directory of them, one for each PASID: what the device's own entry says. For any one PASID, what is found there is
    /// [`Context::TwoStages`] of tables, or another context.
    Directory(GuestDirectory),
}

impl From<Stage<Ipa>> for FirstStage {
    fn from(stage: Stage<Ipa>) -> Self {
        Self::Tables(stage)
    }
}

impl From<GuestDirectory> for FirstStage {
    fn from(directory: GuestDirectory) -> Self {
        Self::Directory(directory)
    }
}

/// What a device's table entries come to for one requester and PASID.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub enum Context {
    /// Every transaction is refused; reported with the reason, or silently where the architecture says so.
    Blocked(Option<FaultReason>),
    /// Addresses pass unchanged.
    Bypass {
        /// Tags for invalidation.
        tags: Tags,
        /// What may be done.
        access: Access,
        /// Highest address bits that may pass.
        output_bits: u8,
        /// Attributes given to the transaction.
        attributes: MemoryAttributes,
    },
    /// One stage.
    OneStage {
        /// Tags for the caches.
        tags: Tags,
        /// The stage.
        stage: Stage<PhysAddr>,
        /// Which of the two stages it is: reported in faults, and selects which invalidations concern it.
        number: crate::StageNumber,
    },
    /// Two stages, the first's tables and outputs translated by the second.
    TwoStages {
        /// Tags for the caches.
        tags: Tags,
        /// The first stage.
        first: FirstStage,
        /// The second stage.
        second: Stage<PhysAddr>,
    },
}
