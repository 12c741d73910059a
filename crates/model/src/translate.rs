//! Translation by tables: one stage, or two, over the page-table walker. Knows no architecture; what architectures do
//! differently is in the format and in the stage's rules.

use portcullis_pagetable::{AnyFormat, Attributes, Cause, Format, Rights, Step, Walk, walk};
use portcullis_spec::{
    Access, Cacheability, FaultReason, Iova, Ipa, MemoryAttributes, PhysAddr, Stage, StageNumber, StageRules,
};

use crate::memory::{GuestMemory, MemoryError};
use crate::refusal::{Detail, FirstStageTable, Refusal};

/// How often a walk is repeated because others changed an entry whose flags were to be set.
const FLAG_ATTEMPTS: usize = 8;

/// A stage and its tables' format.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FormattedStage<A> {
    /// The stage.
    pub stage: Stage<A>,
    /// The format that its tables have, with what the unit's capabilities decide.
    pub format: AnyFormat,
}

/// The tables that translate.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Stages {
    /// One stage.
    One {
        /// It.
        only: FormattedStage<PhysAddr>,
        /// Which of the two it is.
        number: StageNumber,
    },
    /// Two stages.
    Two {
        /// The first, whose tables and outputs the second translates.
        first: FormattedStage<Ipa>,
        /// The second.
        second: FormattedStage<PhysAddr>,
    },
}

impl Stages {
    /// Whether a stage is among them.
    #[must_use]
    pub fn has(&self, stage: StageNumber) -> bool {
        match self {
            Self::One { number, .. } => *number == stage,
            Self::Two { .. } => true,
        }
    }
}

/// What is asked of the tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// What must be permitted.
    pub access: Access,
    /// Whether with privileged rights.
    pub privileged: bool,
    /// Whether it is enough that anything is permitted at all (a read of zero bytes, where the unit allows that).
    pub any: bool,
    /// Whether the unit itself reads or writes a table of another stage.
    pub table: bool,
}

/// A translated page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageTranslation {
    /// First byte of the page's memory.
    pub base: PhysAddr,
    /// log2 of the page's bytes.
    pub shift: u8,
    /// What requests of the same privilege may do. A write may first have to set Dirty.
    pub access: Access,
    /// Memory attributes.
    pub attributes: MemoryAttributes,
}

impl PageTranslation {
    /// This page of a first stage, which `input` lies in, and the second stage's page of what it leads to, as one.
    #[inline]
    pub(crate) fn then(&self, input: u64, second: Self) -> Self {
        let shift = self.shift.min(second.shift);
        Self {
            base: second.address(self.address(input).0).align_down(1 << shift),
            shift,
            access: self.access & second.access,
            attributes: combined(self.attributes, second.attributes),
        }
    }
}

/// What an address between the stages leads to that has a table of its own, or `None` where the second stage translates it.
pub(crate) type Redirected = Option<Result<PageTranslation, Refusal>>;

/// No address has.
pub(crate) const fn not_redirected(_: Ipa) -> Redirected {
    None
}

/// Where a walk found its leaf entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LeafEntry {
    /// Where it lies.
    pub(crate) at: PhysAddr,
    /// Its level.
    pub(crate) level: u8,
    /// What the tables above permit.
    pub(crate) rights: Rights,
}

impl PageTranslation {
    /// Where `input` leads.
    #[must_use]
    pub const fn address(&self, input: u64) -> PhysAddr {
        PhysAddr(self.base.0 | (input & ((1 << self.shift) - 1)))
    }
}

/// Translates `input` by tables alone, whatever is cached, setting Accessed and Dirty as the rules say.
///
/// # Errors
/// [`Refusal`] says why not.
pub fn translate(
    memory: &dyn GuestMemory,
    stages: &Stages,
    input: Iova,
    request: Request,
) -> Result<PageTranslation, Refusal> {
    match stages {
        Stages::One { only, number } => one_stage(memory, only, *number, input, request),
        Stages::Two { first, second } => {
            let second = |ipa, request| one_stage(memory, second, StageNumber::Second, ipa, request);
            walk_two_stages(memory, first, second, input, request).map(|(page, _)| page)
        }
    }
}

/// What a page permits to requests of one privilege, by its rights and the rules of the stage.
pub(crate) fn permitted(rights: Rights, rules: StageRules, privileged: bool) -> Access {
    let rights = if rules.contains(StageRules::ONE_PRIVILEGE) { rights | Rights::USER } else { rights };
    let mut access = rights.access(privileged);
    if !privileged
        && rules.contains(StageRules::FETCH_NEEDS_EXECUTE_ALONE)
        && rights.contains(Rights::EXECUTE)
    {
        access |= Access::EXECUTE;
    }
    if privileged && !rules.contains(StageRules::WRITE_PROTECT) && access.contains(Access::READ) {
        access |= Access::WRITE | Access::ATOMIC;
    }
    if !rules.contains(StageRules::EXECUTE_CHECKED) && access.contains(Access::READ) {
        access |= Access::EXECUTE;
    }
    if rules.contains(StageRules::WRITE_IMPLIES_NO_EXECUTE) && access.contains(Access::WRITE) {
        access -= Access::EXECUTE;
    }
    if privileged && rights.contains(Rights::USER) {
        if rules.contains(StageRules::NO_PRIVILEGED_USER_EXECUTE) {
            access -= Access::EXECUTE;
        }
        if rules.contains(StageRules::NO_PRIVILEGED_USER_ACCESS) {
            access -= Access::READ_WRITE | Access::ATOMIC;
        }
        if rules.contains(StageRules::USER_WRITE_IMPLIES_NO_PRIVILEGED_EXECUTE)
            && rights.contains(Rights::WRITE)
        {
            access -= Access::EXECUTE;
        }
    }
    access
}

/// Whether the walk's outcome permits the request, and otherwise why not.
fn check(rights: Rights, rules: StageRules, request: Request, number: StageNumber) -> Result<(), Refusal> {
    let access = permitted(rights, rules, request.privileged);
    if access.contains(request.access) || (request.any && !access.is_empty()) {
        return Ok(());
    }
    let user_page = rights.contains(Rights::USER);
    // Who asks is the reason if an unprivileged request meets a privileged page, or a privileged request would be granted
    // were it not a user's page.
    let by_privilege = if request.privileged {
        user_page && permitted(rights - Rights::USER, rules, true).contains(request.access)
    } else {
        !user_page
    };
    let nothing = !rights.intersects(Rights::READ | Rights::WRITE);
    let reason = if nothing && rules.contains(StageRules::UNMAPPED_WITHOUT_RIGHTS) {
        FaultReason::NotMapped
    } else if by_privilege {
        FaultReason::PrivilegeDenied
    } else {
        FaultReason::PermissionDenied
    };
    let missing = request.access & Access::READ_WRITE & !access;
    let read_denied = missing == Access::READ && request.access.contains(Access::WRITE);
    let detail = if read_denied { Detail::OnlyReadDenied } else { Detail::None };
    Err(Refusal::by(number, reason, detail))
}

/// The refusal for a walk that ended without a page.
fn walk_refusal<E>(cause: &Cause<E>, number: StageNumber, root: bool, at: Option<PhysAddr>) -> Refusal {
    let detail = if root { Detail::RootEntry } else { Detail::None };
    let refusal = match cause {
        Cause::OutOfRange => Refusal::by(number, FaultReason::AddressSize, Detail::None),
        Cause::NotPresent | Cause::SkippedBits => Refusal::by(number, FaultReason::NotMapped, detail),
        Cause::Invalid(_) => Refusal::by(number, FaultReason::PagingEntryInvalid, detail),
        Cause::Load(_) => Refusal::by(number, FaultReason::PagingEntryUnreadable, detail),
    };
    Refusal { entry: at, ..refusal }
}

/// An entry's value as it is stored, and back.
pub(crate) fn stored(rules: StageRules, entry: u64) -> u64 {
    if rules.contains(StageRules::BIG_ENDIAN) { entry.swap_bytes() } else { entry }
}

/// What `step`'s entry must become before the translation may be used, if anything.
///
/// # Errors
/// Where the rules forbid that it changes.
fn flagged<A>(
    format: &AnyFormat,
    rules: StageRules,
    number: StageNumber,
    step: &Step<A>,
    dirty: bool,
) -> Result<u64, Refusal> {
    let forbidden = Refusal::by(number, FaultReason::AccessFlag, Detail::FlagsForbidden);
    let mut raw = step.raw;
    let accessed = format.with_accessed(step.level, raw);
    if accessed != raw {
        if rules.contains(StageRules::SET_ACCESSED) {
            raw = accessed;
        } else if rules.contains(StageRules::ACCESSED_REQUIRED) {
            return Err(forbidden);
        }
    }
    if dirty {
        let dirtied = format.with_dirty(step.level, raw);
        if dirtied != raw {
            if rules.contains(StageRules::SET_DIRTY) {
                raw = dirtied;
            } else if rules.contains(StageRules::DIRTY_REQUIRED) {
                return Err(forbidden);
            }
        }
    }
    if rules.contains(StageRules::SET_EXTENDED_ACCESSED)
        && let AnyFormat::X86(format) = format
    {
        raw = format.with_extended_accessed(raw);
    }
    Ok(raw)
}

/// Whether the entry's Accessed flag forbids its use before its rights are looked at.
fn unaccessed<A>(format: &AnyFormat, rules: StageRules, leaf: Option<&Step<A>>) -> bool {
    rules.contains(StageRules::ACCESSED_BEFORE_RIGHTS | StageRules::ACCESSED_REQUIRED)
        && !rules.contains(StageRules::SET_ACCESSED)
        && leaf.is_some_and(|leaf| format.with_accessed(leaf.level, leaf.raw) != leaf.raw)
}

/// Sets an entry's flags. `Ok(false)` if the entry changed meanwhile.
fn set_flags(
    memory: &dyn GuestMemory,
    rules: StageRules,
    at: PhysAddr,
    old: u64,
    new: u64,
    number: StageNumber,
) -> Result<bool, Refusal> {
    let (old, new) = (stored(rules, old), stored(rules, new));
    match memory.compare_exchange64(at, old, new) {
        Ok(found) => Ok(found == old),
        Err(_) => Err(Refusal {
            entry: Some(at),
            ..Refusal::by(number, FaultReason::AccessFlag, Detail::FlagsUpdate)
        }),
    }
}

fn out_of_range<A>(stage: &Stage<A>, input: u64) -> bool {
    stage.input_bits < 64 && input >> stage.input_bits != 0
}

/// Translates `input` by one stage's tables, setting Accessed and Dirty as the rules say.
///
/// # Errors
/// [`Refusal`] says why not.
pub(crate) fn one_stage<I: portcullis_pagetable::Address>(
    memory: &dyn GuestMemory,
    stage: &FormattedStage<PhysAddr>,
    number: StageNumber,
    input: I,
    request: Request,
) -> Result<PageTranslation, Refusal> {
    walk_one_stage(memory, stage, number, input, request).map(|(page, _)| page)
}

/// The same, and where the leaf entry lies.
pub(crate) fn walk_one_stage<I: portcullis_pagetable::Address>(
    memory: &dyn GuestMemory,
    stage: &FormattedStage<PhysAddr>,
    number: StageNumber,
    input: I,
    request: Request,
) -> Result<(PageTranslation, LeafEntry), Refusal> {
    let FormattedStage { stage: Stage { root, rules, .. }, format } = stage;
    if out_of_range(&stage.stage, input.value()) {
        return Err(Refusal::by(number, FaultReason::AddressSize, Detail::None));
    }
    'attempt: for _ in 0..FLAG_ATTEMPTS {
        let load = |at| memory.load64(at).map(|entry| stored(*rules, entry));
        let walk: Walk<PhysAddr, MemoryError> = walk(format, *root, input, load);
        let mapping = match &walk.end {
            Ok(mapping) => *mapping,
            Err(error) => {
                return Err(walk_refusal(&error.cause, number, error.level == format.top(), Some(error.at)));
            }
        };
        if unaccessed(format, *rules, walk.steps().last()) {
            return Err(Refusal::by(number, FaultReason::AccessFlag, Detail::FlagsForbidden));
        }
        if request.table
            && rules.contains(StageRules::PROTECTED_TABLE_WALK)
            && format.is_device(&mapping.attributes)
        {
            return Err(Refusal::by(number, FaultReason::PermissionDenied, Detail::None));
        }
        check(walk.rights, *rules, request, number)?;
        let write = request.access.contains(Access::WRITE);
        for step in walk.steps() {
            let new = flagged(format, *rules, number, step, write && step.level == mapping.level)?;
            if new != step.raw && !set_flags(memory, *rules, step.at, step.raw, new, number)? {
                continue 'attempt;
            }
        }
        let at = walk.steps().last().map_or(*root, |leaf| leaf.at);
        let page = PageTranslation {
            base: mapping.address.align_down(1 << mapping.shift),
            shift: mapping.shift,
            access: permitted(walk.rights, *rules, request.privileged),
            attributes: attributes(format, &mapping.attributes),
        };
        return Ok((page, LeafEntry { at, level: mapping.level, rights: walk.table_rights }));
    }
    Err(Refusal::by(number, FaultReason::AccessFlag, Detail::FlagsUpdate))
}

/// What a leaf says of the memory behind it, as far as its format says anything.
pub(crate) fn attributes(format: &AnyFormat, leaf: &Attributes) -> MemoryAttributes {
    let cacheability = match (format, leaf.memory_type) {
        // Svpbmt: NC and IO.
        (AnyFormat::Riscv(_), 1) => Cacheability::NonCacheable,
        (AnyFormat::Riscv(_), 2) => Cacheability::Uncacheable,
        _ => Cacheability::Default,
    };
    MemoryAttributes { cacheability, force_snoop: leaf.force_snoop, ..MemoryAttributes::default() }
}

/// The attributes of two stages: what the first leaves open, the second says (RISC-V Privileged, Svpbmt).
#[inline]
pub(crate) fn combined(first: MemoryAttributes, second: MemoryAttributes) -> MemoryAttributes {
    match first.cacheability {
        Cacheability::Default => second,
        cacheability => MemoryAttributes { cacheability, ..second },
    }
}

/// A load of a first-stage entry that failed.
enum LoadError {
    /// The second stage refused.
    Second(Refusal),
    /// The entry is not in memory.
    Memory,
}

/// A read of an entry of the first stage's tables, as the second stage sees it.
pub(crate) const TABLE_READ: Request =
    Request { access: Access::READ, privileged: true, any: false, table: true };
const TABLE_WRITE: Request = Request { access: Access::READ_WRITE, ..TABLE_READ };

/// The second stage's refusal of an access to a first-stage table.
fn on_table(refusal: Refusal, ipa: Ipa, root: bool, write: bool) -> Refusal {
    Refusal { ipa: Some(ipa), table: Some(FirstStageTable { root, write }), ..refusal }
}

/// Translates `input` by the first of two stages alone: the second translates its tables only. The page's base is an address
/// between the stages.
///
/// # Errors
/// [`Refusal`] says why not.
pub(crate) fn first_of_two(
    memory: &dyn GuestMemory,
    first: &FormattedStage<Ipa>,
    second: &FormattedStage<PhysAddr>,
    input: Iova,
    request: Request,
) -> Result<PageTranslation, Refusal> {
    // An output is at most 56 bits wide: one page holds them all.
    let unchanged = PageTranslation {
        base: PhysAddr(0),
        shift: 56,
        access: Access::all(),
        attributes: MemoryAttributes::default(),
    };
    let second = |ipa, request: Request| {
        if request.table {
            one_stage(memory, second, StageNumber::Second, ipa, request)
        } else {
            Ok(unchanged)
        }
    };
    walk_two_stages(memory, first, second, input, request).map(|(page, _)| page)
}

/// Translates `input` by the first stage's tables, whose addresses and outputs `second` translates, and says where the
/// first stage's leaf entry lies.
///
/// # Errors
/// [`Refusal`] says why not, by which stage.
pub(crate) fn walk_two_stages(
    memory: &dyn GuestMemory,
    first: &FormattedStage<Ipa>,
    second: impl Fn(Ipa, Request) -> Result<PageTranslation, Refusal>,
    input: Iova,
    request: Request,
) -> Result<(PageTranslation, LeafEntry), Refusal> {
    let FormattedStage { stage: Stage { root, rules, .. }, format } = first;
    if out_of_range(&first.stage, input.0) {
        return Err(Refusal::by(StageNumber::First, FaultReason::AddressSize, Detail::None));
    }
    let table = |ipa: Ipa, request| second(ipa, request).map(|page| page.address(ipa.0));
    'attempt: for _ in 0..FLAG_ATTEMPTS {
        let mut failed_at = *root;
        let mut entry_at = None;
        let walk: Walk<Ipa, LoadError> = walk(format, *root, input, |ipa| {
            failed_at = ipa;
            let at = table(ipa, TABLE_READ).map_err(LoadError::Second)?;
            entry_at = Some(at);
            let entry = memory.load64(at).map_err(|_| LoadError::Memory)?;
            Ok(stored(*rules, entry))
        });
        let mapping = match &walk.end {
            Ok(mapping) => *mapping,
            Err(error) => {
                let at_root = error.level == format.top();
                return Err(match &error.cause {
                    Cause::Load(LoadError::Second(refusal)) => on_table(*refusal, failed_at, at_root, false),
                    cause => walk_refusal(cause, StageNumber::First, at_root, entry_at),
                });
            }
        };
        if unaccessed(format, *rules, walk.steps().last()) {
            return Err(Refusal::by(StageNumber::First, FaultReason::AccessFlag, Detail::FlagsForbidden));
        }
        check(walk.rights, *rules, request, StageNumber::First)?;
        let write = request.access.contains(Access::WRITE);
        // The first stage's own refusals come before those of the second; its flags change only where both permit. On VT-d that
        // a flag can't be set is known when it is set, after the second stage.
        if !matches!(format, AnyFormat::X86(_)) {
            for step in walk.steps() {
                let new =
                    flagged(format, *rules, StageNumber::First, step, write && step.level == mapping.level)?;
                if new != step.raw {
                    let root = step.level == format.top();
                    table(step.at, TABLE_WRITE).map_err(|refusal| on_table(refusal, step.at, root, true))?;
                }
            }
        }
        let page = second(mapping.address, request)
            .map_err(|refusal| Refusal { ipa: Some(mapping.address), ..refusal });
        // Who reaches an interrupt file has been translated too.
        if let Err(refusal) = page
            && refusal.detail != Detail::InterruptFile
        {
            return Err(refusal);
        }
        for step in walk.steps() {
            let new =
                flagged(format, *rules, StageNumber::First, step, write && step.level == mapping.level)?;
            if new == step.raw {
                continue;
            }
            let root = step.level == format.top();
            let at = table(step.at, TABLE_WRITE).map_err(|refusal| on_table(refusal, step.at, root, true))?;
            if !set_flags(memory, *rules, at, step.raw, new, StageNumber::First)? {
                continue 'attempt;
            }
        }
        let page = page?;
        let first = PageTranslation {
            base: PhysAddr(mapping.address.0).align_down(1 << mapping.shift),
            shift: mapping.shift,
            access: permitted(walk.rights, *rules, request.privileged),
            attributes: attributes(format, &mapping.attributes),
        };
        let at = entry_at.unwrap_or(page.base);
        let page = first.then(input.0, page);
        return Ok((page, LeafEntry { at, level: mapping.level, rights: walk.table_rights }));
    }
    Err(Refusal::by(StageNumber::First, FaultReason::AccessFlag, Detail::FlagsUpdate))
}
