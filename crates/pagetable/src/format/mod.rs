//! What a page-table format is, and the formats.

pub mod amd_v1;
mod any;
pub mod arm;
pub mod arm_stage1;
pub mod arm_stage2;
pub mod riscv;
pub mod vtd_second_stage;
pub mod x86;

pub use amd_v1::AmdV1;
pub use any::{AnyFormat, BadShape};
pub use arm::ArmShape;
pub use arm_stage1::ArmStage1;
pub use arm_stage2::ArmStage2;
pub use riscv::Riscv;
pub use vtd_second_stage::VtdSecondStage;
pub use x86::X86;

use portcullis_spec::{Access, Iova, Ipa, PhysAddr, Shareability};

/// An address type that the walker can take as input or follow tables with.
pub trait Address: Copy {
    /// From its number.
    fn new(value: u64) -> Self;
    /// Its number.
    fn value(self) -> u64;
}

macro_rules! address {
    ($($name:ident)*) => {$(
        impl Address for $name {
            #[inline]
            fn new(value: u64) -> Self {
                Self(value)
            }
            #[inline]
            fn value(self) -> u64 {
                self.0
            }
        }
    )*};
}
address!(Iova Ipa PhysAddr);

bitflags::bitflags! {
    /// What an entry permits. A right of a table entry is a limit on everything below it: the rights along a walk
    /// are intersected.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct Rights: u8 {
        /// Reads.
        const READ = 1;
        /// Writes. Privileged writes may ignore its absence where the unit's rules say so (VT-d WPE clear).
        const WRITE = 1 << 1;
        /// Instruction fetches by unprivileged requests.
        const EXECUTE = 1 << 2;
        /// Instruction fetches by privileged requests.
        const PRIVILEGED_EXECUTE = 1 << 3;
        /// Unprivileged requests are admitted (x86 and RISC-V U, Arm AP\[1\]). Formats without privilege always set it.
        const USER = 1 << 4;
    }
}

impl Rights {
    /// What any request may do: reads and writes as `access` says, by privileged and unprivileged requests, and
    /// instruction fetches where `access` has [`Access::EXECUTE`].
    #[must_use]
    #[inline]
    pub const fn from_access(access: Access) -> Self {
        let mut bits = Self::USER.bits();
        if access.contains(Access::READ) {
            bits |= Self::READ.bits();
        }
        if access.contains(Access::WRITE) {
            bits |= Self::WRITE.bits();
        }
        if access.contains(Access::EXECUTE) {
            bits |= Self::EXECUTE.bits() | Self::PRIVILEGED_EXECUTE.bits();
        }
        Self::from_bits_truncate(bits)
    }

    /// What a request of this privilege may do by these rights alone, before any rule of the unit. Atomic operations
    /// are permitted where both reads and writes are.
    #[must_use]
    #[inline]
    pub const fn access(self, privileged: bool) -> Access {
        if !privileged && !self.contains(Self::USER) {
            return Access::empty();
        }
        let mut bits = 0;
        if self.contains(Self::READ) {
            bits |= Access::READ.bits();
        }
        if self.contains(Self::WRITE) {
            bits |= Access::WRITE.bits();
        }
        if self.contains(if privileged { Self::PRIVILEGED_EXECUTE } else { Self::EXECUTE }) {
            bits |= Access::EXECUTE.bits();
        }
        if self.contains(Self::READ) && self.contains(Self::WRITE) {
            bits |= Access::ATOMIC.bits();
        }
        Access::from_bits_truncate(bits)
    }
}

bitflags::bitflags! {
    /// Marks on an entry, in the vocabulary's terms. A format ignores on encoding those that it does not have.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct Flags: u8 {
        /// Used since it was last cleared.
        const ACCESSED = 1;
        /// Written since it was last cleared.
        const DIRTY = 1 << 1;
        /// The same in every address space (x86 and RISC-V G, Arm nG clear).
        const GLOBAL = 1 << 2;
        /// VT-d first stage EA: used by a unit that sets the extended-accessed bit.
        const EXTENDED_ACCESSED = 1 << 3;
        /// Arm NS at stage 1: the output is in the non-secure address space.
        const NON_SECURE = 1 << 4;
        /// AMD v1 U: only untranslated accesses are permitted, and remote IOTLBs are told so.
        const UNTRANSLATED_ONLY = 1 << 5;
    }
}

/// Everything about a page but its addresses.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Attributes {
    /// What it permits.
    pub rights: Rights,
    /// Its marks.
    pub flags: Flags,
    /// The format's own memory-type number; each format says which bits it is. 0 is the format's ordinary memory
    /// except on Arm, whose formats have constants for it.
    pub memory_type: u8,
    /// Who keeps coherent with it. [`Shareability::Default`] where the format has no such field.
    pub shareability: Shareability,
    /// Whether accesses are forced to snoop the processor caches (VT-d SNP, AMD FC).
    pub force_snoop: bool,
}

impl Attributes {
    /// Ordinary memory with these rights, marked accessed and dirty so that no unit needs to do so. For tracking what
    /// is written, map with [`clean`](Self::clean), or clear dirty before the tracking starts.
    #[must_use]
    #[inline]
    pub const fn new(rights: Rights) -> Self {
        Self {
            rights,
            flags: Flags::ACCESSED.union(Flags::DIRTY),
            memory_type: 0,
            shareability: Shareability::Default,
            force_snoop: false,
        }
    }

    /// The same, without the dirty mark.
    #[must_use]
    #[inline]
    pub const fn clean(self) -> Self {
        Self { flags: self.flags.difference(Flags::DIRTY), ..self }
    }
}

/// A table entry.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TableEntry {
    /// Where the next table lies.
    pub address: u64,
    /// The next table's level; always lower than the entry's. More than one lower where the format skips levels: input
    /// bits of the levels between are then zero, or the address is not mapped.
    pub level: u8,
    /// Limits on everything below. All rights where the format has no hierarchical permissions.
    pub rights: Rights,
    /// Marks.
    pub flags: Flags,
}

/// A leaf.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Leaf {
    /// Where the bytes begin that this entry translates, aligned to `1 << shift`.
    pub address: u64,
    /// log2 of the bytes that this entry translates by itself. May exceed its span (Svnapot, AMD mode 7), and then the
    /// neighbours of the run hold the same.
    pub shift: u8,
    /// log2 of the page's bytes with the whole run: larger than `shift` only where the run is a hint (Arm contiguous).
    pub run_shift: u8,
    /// All else.
    pub attributes: Attributes,
}

/// A decoded entry.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Entry {
    /// Not present. Whatever else it holds is ignored.
    Empty,
    /// Leads to another table.
    Table(TableEntry),
    /// Ends the walk.
    Leaf(Leaf),
    /// Present, and breaks a rule.
    Invalid(Invalid),
}

/// The rule that a present entry breaks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum Invalid {
    /// A reserved bit is set, or a reserved encoding used.
    #[error("a reserved bit or encoding is set")]
    Reserved,
    /// The address has bits above the output size.
    #[error("the address is beyond the output size")]
    OutputSize,
    /// A leaf's address is not a multiple of its size.
    #[error("a large page is misaligned")]
    Misaligned,
    /// The format has no page of this size, or not at this level.
    #[error("no such page size at this level")]
    PageSize,
    /// The entry leads to a level that is not below its own, or a table entry stands at the last level.
    #[error("the entry leads to a level that is not below its own")]
    NextLevel,
    /// The permissions are a reserved combination (RISC-V W without R).
    #[error("a reserved combination of permissions")]
    Permissions,
}

/// How input bits above the format's input size must look.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Extension {
    /// All zero.
    Zero,
    /// Copies of the highest input bit (canonical, x86 and RISC-V).
    Sign,
    /// All ones (Arm TTB1).
    Ones,
}

/// The attributes cannot be written in this format.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
#[error("the format cannot express these attributes")]
pub struct Inexpressible;

/// A page-table format, with the values that fix its shape and what a unit's capabilities decide.
///
/// Required methods are the facts; provided ones follow from them and are the same for all formats.
pub trait Format: Copy {
    /// Number of levels. Levels are `levels() - 1` (the root) down to 0.
    fn levels(&self) -> u8;

    /// log2 of the granule: bytes of a table below the root, and of the smallest page.
    #[inline]
    fn granule_shift(&self) -> u8 {
        12
    }

    /// Number of input bits.
    fn input_bits(&self) -> u8;

    /// How input bits above [`input_bits`](Self::input_bits) must look.
    fn extension(&self) -> Extension;

    /// Number of output bits.
    fn output_bits(&self) -> u8;

    /// Sizes of pages that can be written, runs included: bit *n* stands for 2^*n* bytes. A page of 2^*n* bytes is
    /// written at the highest level whose span it is not smaller than.
    fn page_sizes(&self) -> u64;

    /// Reads an entry of `level`.
    fn decode(&self, level: u8, raw: u64) -> Entry;

    /// The entry of `level` (above 0) that leads to the table at `address` one level below, limiting nothing.
    fn encode_table(&self, level: u8, address: u64) -> u64;

    /// The entry of `level` that is part of a page of `1 << shift` bytes. `address` is where the span of this entry
    /// begins (not the whole run's), within the output size; `shift` is one of [`page_sizes`](Self::page_sizes) and
    /// `attributes` have passed [`expressible`](Self::expressible).
    fn encode_leaf(&self, level: u8, shift: u8, address: u64, attributes: &Attributes) -> u64;

    /// Whether leaves can carry these attributes so that decoding gives back the same, but for flags that the format
    /// doesn't have.
    fn expressible(&self, attributes: &Attributes) -> Result<(), Inexpressible>;

    /// `raw`, a table or leaf entry of `level`, marked accessed; unchanged where such an entry has no mark.
    fn with_accessed(&self, level: u8, raw: u64) -> u64;

    /// `raw`, a writable leaf of `level`, marked dirty; unchanged where the format has no mark.
    fn with_dirty(&self, level: u8, raw: u64) -> u64;

    /// `raw`, a leaf of `level`, with its dirty mark cleared; unchanged where it is not dirty or the format has no mark.
    fn without_dirty(&self, level: u8, raw: u64) -> u64;

    /// Whether a live entry must not be replaced by one of another size directly, but broken (emptied and invalidated)
    /// before (Arm D8.16.1 break-before-make).
    #[inline]
    fn break_before_make(&self) -> bool {
        false
    }

    /// Whether a leaf with these attributes maps device memory, as far as the format says (Arm stage 2).
    #[inline]
    fn is_device(&self, _attributes: &Attributes) -> bool {
        false
    }

    /// log2 of the entries of a table below the root.
    #[inline]
    fn table_bits(&self) -> u8 {
        self.granule_shift() - 3
    }

    /// The root's level.
    #[inline]
    fn top(&self) -> u8 {
        self.levels() - 1
    }

    /// log2 of the bytes that one entry of `level` spans.
    #[inline]
    fn span_shift(&self, level: u8) -> u8 {
        self.granule_shift() + level * self.table_bits()
    }

    /// log2 of the entries of a table at `level`. The root's follow from the input size.
    #[inline]
    fn index_bits(&self, level: u8) -> u8 {
        if level == self.top() { self.input_bits() - self.span_shift(level) } else { self.table_bits() }
    }

    /// log2 of the bytes of memory that the root takes. At least 4 KiB, so that allocators need know no smaller size.
    #[inline]
    fn root_shift(&self) -> u8 {
        (self.index_bits(self.top()) + 3).max(12)
    }

    /// The level at which a page of `1 << shift` bytes is written.
    #[inline]
    fn level_of(&self, shift: u8) -> u8 {
        ((shift - self.granule_shift()) / self.table_bits()).min(self.top())
    }

    /// `input` without the bits above the input size, or `None` where those are not as [`extension`](Self::extension)
    /// wants them.
    #[inline]
    fn offset(&self, input: u64) -> Option<u64> {
        let bits = u32::from(self.input_bits());
        let mask = u64::MAX >> (64 - bits);
        let fits = match self.extension() {
            Extension::Zero => input & !mask == 0,
            Extension::Sign => (((input << (64 - bits)) as i64) >> (64 - bits)) as u64 == input,
            Extension::Ones => input | mask == u64::MAX,
        };
        fits.then_some(input & mask)
    }

    /// The input whose [`offset`](Self::offset) this is.
    #[inline]
    fn input(&self, offset: u64) -> u64 {
        let bits = u32::from(self.input_bits());
        match self.extension() {
            Extension::Zero => offset,
            Extension::Sign => (((offset << (64 - bits)) as i64) >> (64 - bits)) as u64,
            Extension::Ones => offset | !(u64::MAX >> (64 - bits)),
        }
    }
}

/// A mask of bits `low` to `high`, both included.
pub(crate) const fn bits(high: u8, low: u8) -> u64 {
    (u64::MAX >> (63 - high)) & (u64::MAX << low)
}
