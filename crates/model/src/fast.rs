//! One stage's translation from its leaf entry alone, which is loaded anew. Anything out of the ordinary, a flag to be set,
//! a right that is missing, an entry that is no leaf, gives `None`: then the walk decides.

use portcullis_pagetable::{AnyFormat, Entry, Format, Rights};
use portcullis_spec::{Access, PhysAddr, Stage, StageRules};

use crate::leaves::REGION_SHIFT;
use crate::translate::{FormattedStage, PageTranslation, Request, attributes, permitted, stored};
use crate::word::Found;

/// A stage, laid out for translating by leaf entries.
pub(crate) struct Leaf {
    format: AnyFormat,
    rules: StageRules,
    input_bits: u8,
    /// log2 of the bytes that entries of the three lowest levels span.
    span: [u8; 3],
    /// What the rules make of rights, for unprivileged and privileged requests.
    permitted: [[Access; 32]; 2],
}

impl Leaf {
    pub(crate) fn new<A>(stage: &FormattedStage<A>) -> Self {
        let FormattedStage { stage: Stage { rules, input_bits, .. }, format } = stage;
        let of = |privileged| {
            let mut table = [Access::empty(); 32];
            for (bits, access) in (0..).zip(&mut table) {
                *access = permitted(Rights::from_bits_truncate(bits), *rules, privileged);
            }
            table
        };
        Self {
            format: *format,
            rules: *rules,
            input_bits: *input_bits,
            span: [0, 1, 2].map(|level| format.span_shift(level)),
            permitted: [of(false), of(true)],
        }
    }

    /// Which region of the leaf cache an input lies in, or `None` where the tables don't reach it.
    #[inline(always)]
    pub(crate) fn region(&self, input: u64) -> Option<u64> {
        Some(self.format.offset(input)? >> REGION_SHIFT)
    }

    /// Where within its 4 KiB the entry of `level` lies that translates `input`.
    pub(crate) fn entry_offset(&self, input: u64, level: u8) -> u64 {
        let span = self.span.get(usize::from(level)).copied().unwrap_or(63);
        (self.format.offset(input).unwrap_or_default() >> span << 3) & 0xff8
    }

    /// Translates `input`, whose leaf entry lies where `found` says.
    #[inline(always)]
    pub(crate) fn translate(
        &self,
        input: u64,
        request: Request,
        find: impl FnOnce(u64) -> Option<Found>,
    ) -> Option<PageTranslation> {
        // Each format by itself, so that its decoder is compiled into the path of its own.
        match &self.format {
            AnyFormat::VtdSecondStage(format) => self.with(format, input, request, find),
            AnyFormat::X86(format) => self.with(format, input, request, find),
            AnyFormat::AmdV1(format) => self.with(format, input, request, find),
            AnyFormat::ArmStage1(format) => self.with(format, input, request, find),
            AnyFormat::ArmStage2(format) => self.with(format, input, request, find),
            AnyFormat::Riscv(format) => self.with(format, input, request, find),
        }
    }

    #[inline(always)]
    fn with<F: Format>(
        &self,
        format: &F,
        input: u64,
        request: Request,
        find: impl FnOnce(u64) -> Option<Found>,
    ) -> Option<PageTranslation> {
        let rules = self.rules;
        if self.input_bits < 64 && input >> self.input_bits != 0 {
            return None;
        }
        let offset = format.offset(input)?;
        let Found { page, level, rights } = find(offset >> REGION_SHIFT)?;
        let span = *self.span.get(usize::from(level))?;
        let raw = stored(rules, page.load((offset >> span) << 3));
        let Entry::Leaf(leaf) = format.decode(level, raw) else { return None };
        let rights = leaf.attributes.rights & rights;
        let access = *self.permitted[usize::from(request.privileged)].get(usize::from(rights.bits()))?;
        let granted = access.contains(request.access) || (request.any && !access.is_empty());
        if !granted || !self.has_flags(format, level, raw, request) {
            return None;
        }
        if request.table
            && rules.contains(StageRules::PROTECTED_TABLE_WALK)
            && format.is_device(&leaf.attributes)
        {
            return None;
        }
        Some(PageTranslation {
            base: PhysAddr(leaf.address),
            shift: leaf.shift,
            access,
            attributes: attributes(&self.format, &leaf.attributes),
        })
    }

    /// Whether the leaf has the flags that the request would set or needs.
    #[inline(always)]
    fn has_flags<F: Format>(&self, format: &F, level: u8, raw: u64, request: Request) -> bool {
        let rules = self.rules;
        if cfg!(mutant = "no_flags") {
            return true;
        }
        if rules.intersects(StageRules::SET_ACCESSED | StageRules::ACCESSED_REQUIRED)
            && format.with_accessed(level, raw) != raw
        {
            return false;
        }
        if request.access.contains(Access::WRITE)
            && rules.intersects(StageRules::SET_DIRTY | StageRules::DIRTY_REQUIRED)
            && format.with_dirty(level, raw) != raw
        {
            return false;
        }
        !rules.contains(StageRules::SET_EXTENDED_ACCESSED)
            || match &self.format {
                AnyFormat::X86(format) => format.with_extended_accessed(raw) == raw,
                _ => true,
            }
    }
}
