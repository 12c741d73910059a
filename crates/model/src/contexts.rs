//! What requesters' table entries come to, cached per requester and PASID; and the spaces that they lead to.
//!
//! A port holds the [`Binding`] of its requester and PASID and follows its published context without a lock. The indexes beside
//! are for those who fill and invalidate: by requester and by the tags of what is cached, so that an invalidation costs what
//! it names.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use portcullis_spec::{
    Context, ContextScope, DomainTag, Pasid, PciAddress, Requester, SpaceTag, TranslationScope,
};

use crate::budget::Budget;
use crate::engine::Inside;
use crate::fast::Reached;
use crate::memory::GuestMemory;
use crate::pattern::Demand;
use crate::plain::{Block, Plain};
use crate::rcu::{Held, Rcu};
use crate::space::{Space, SpaceKey};
use crate::translate::Stages;

/// What an architecture's look-up comes to.
#[derive(Clone, Copy, Debug)]
pub struct Resolved<N> {
    /// The context.
    pub context: Context,
    /// The PASID under which requests without one are handled, or the request's own.
    pub pasid: Option<Pasid>,
    /// Whether it may be cached: entries that are not present or not valid may not, unless the unit has caching mode.
    pub cacheable: bool,
    /// What the architecture wants to remember beside.
    pub note: N,
}

/// A resolved context with its space, ready to translate.
pub struct Cached<N> {
    /// Its own: no context of the unit ever had it before.
    pub(crate) number: u64,
    /// What the look-up came to.
    pub resolved: Resolved<N>,
    pub(crate) tables: Tables,
    pub(crate) plain: Plain,
}

/// The tables that a context leads to.
pub(crate) enum Tables {
    /// None.
    None,
    /// One stage, whose leaf entries alone decide.
    OneStage(Arc<Space>),
    /// Two stages, whose leaf entries alone decide.
    TwoStages(Arc<Space>),
    /// Some of which more than entries may be kept, or with addresses between the stages that the tables do not translate.
    Other(Arc<Space>, Block),
}

impl Tables {
    /// Their space.
    pub(crate) const fn space(&self) -> Option<&Arc<Space>> {
        match self {
            Self::None => None,
            Self::OneStage(space) | Self::TwoStages(space) | Self::Other(space, _) => Some(space),
        }
    }

    /// Translates `input` by leaf entries alone, unless more than these decides.
    #[inline(never)]
    pub(crate) fn hit<'i>(
        &'i self,
        input: u64,
        demand: Demand,
        inside: &'i Inside<'_>,
    ) -> Option<Reached<'i>> {
        let Self::Other(space, redirected) = self else { return None };
        if !space.keeps_entries_only() {
            return None;
        }
        if space.is_nested() {
            // What is redirected is not the same for all whose space this is, so nothing final is asked or kept.
            return space.hit_through(input, demand, *redirected, inside, None);
        }
        let reached = space.hit(input, demand, inside)?;
        let between = if space.is_first() { reached.address.0 } else { input };
        (!redirected.contains(between)).then_some(reached)
    }
}

/// Who sends: what contexts are looked up by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Sender {
    /// Who sends.
    pub requester: Requester,
    /// The PASID that is sent along.
    pub pasid: Option<Pasid>,
}

/// A sender and one of the two halves of its address space.
type Half = (Sender, bool);

/// The first half in any order.
const LOWEST: Half = {
    let requester = Requester::Pci(PciAddress { segment: 0, requester_id: 0 });
    (Sender { requester, pasid: None }, false)
};

/// A sender's cached contexts.
pub struct Binding<N> {
    /// Whose they are.
    pub sender: Sender,
    /// Of the lower, or only, half of the address space, and of an upper half with tables of its own.
    halves: [Rcu<Cached<N>>; 2],
}

impl<N: Send + Sync + 'static> Binding<N> {
    /// The cached context of the lower, or only, half, held for a while.
    #[inline(always)]
    pub(crate) fn held<'a>(&'a self, inside: Inside<'a>) -> Held<'a, Cached<N>> {
        Held::new(inside, &self.halves[0])
    }

    /// The cached context of one half.
    #[inline]
    pub(crate) fn context<'a>(&'a self, upper: bool, inside: &'a Inside<'_>) -> Option<&'a Cached<N>> {
        self.halves[usize::from(upper)].load(&inside.presence)
    }
}

/// What invalidations by tag find a cached context under: its domain (none where it is blocked) and the PASID that it
/// was found for (none where that is not known).
type Filed = (Option<DomainTag>, Option<Pasid>);

fn filed_under<N>(cached: &Cached<N>) -> Filed {
    let domain = match &cached.resolved.context {
        Context::Blocked(_) => None,
        Context::Bypass { tags, .. } | Context::OneStage { tags, .. } | Context::TwoStages { tags, .. } => {
            Some(tags.domain)
        }
    };
    (domain, cached.resolved.pasid)
}

/// Bindings kept before those are dropped that no port has and that nothing was added to for long.
const FEW: usize = 1024;

struct Index<N> {
    bindings: HashMap<Requester, HashMap<Option<Pasid>, Arc<Binding<N>>>>,
    count: usize,
    /// How many bindings there may be before the unused are dropped.
    limit: usize,
    /// The halves whose context is cached, in the order of what invalidations by tag find them under.
    filed: BTreeSet<(Filed, Half)>,
    /// The spaces of contexts that were forgotten since somebody last asked.
    departed: Vec<Arc<Space>>,
}

impl<N: Send + Sync + 'static> Index<N> {
    fn binding(&self, sender: Sender) -> Option<Arc<Binding<N>>> {
        self.bindings.get(&sender.requester)?.get(&sender.pasid).map(Arc::clone)
    }

    /// Forgets the context of one half.
    fn forget(&mut self, binding: &Binding<N>, upper: bool, inside: &Inside<'_>) {
        let Some(cached) = binding.context(upper, inside) else { return };
        self.filed.remove(&(filed_under(cached), (binding.sender, upper)));
        if let Some(space) = cached.tables.space()
            && self.departed.last().is_none_or(|last| !Arc::ptr_eq(last, space))
        {
            self.departed.push(Arc::clone(space));
        }
        if let Some(retired) = binding.halves[usize::from(upper)].swap(None) {
            inside.gate.retire(retired);
        }
    }

    fn forget_sender(&mut self, binding: &Binding<N>, inside: &Inside<'_>) {
        self.forget(binding, false, inside);
        self.forget(binding, true, inside);
    }

    fn forget_halves(&mut self, halves: Vec<Half>, inside: &Inside<'_>) {
        for (sender, upper) in halves {
            if let Some(binding) = self.binding(sender) {
                self.forget(&binding, upper, inside);
            }
        }
    }

    /// The cached halves of a domain, of one PASID or all. Those that are blocked have no domain, and those refused
    /// before their PASID was known may have met any: scopes that might mean them cover them.
    fn of_domain(&self, domain: DomainTag, pasid: Option<Pasid>) -> Vec<Half> {
        let mut found = Vec::new();
        for domain in [Some(domain), None] {
            let ranges = match pasid {
                None => [Some(((domain, None), (domain, Some(Pasid::MAX)))), None],
                known => [None, known].map(|pasid| Some(((domain, pasid), (domain, pasid)))),
            };
            for (first, last) in ranges.into_iter().flatten() {
                let from = self.filed.range((first, LOWEST)..);
                found.extend(from.take_while(|(filed, _)| *filed <= last).map(|(_, half)| *half));
            }
        }
        found
    }

    fn of_requester(&self, requester: Requester) -> Vec<Arc<Binding<N>>> {
        self.bindings.get(&requester).map_or_else(Vec::new, |pasids| pasids.values().cloned().collect())
    }

    /// Drops the bindings that no port has.
    fn prune(&mut self, inside: &Inside<'_>) {
        let unused: Vec<_> = self
            .bindings
            .values()
            .flat_map(HashMap::values)
            .filter(|binding| Arc::strong_count(binding) == 1)
            .cloned()
            .collect();
        for binding in unused {
            self.forget_sender(&binding, inside);
            if let Some(pasids) = self.bindings.get_mut(&binding.sender.requester) {
                pasids.remove(&binding.sender.pasid);
                if pasids.is_empty() {
                    self.bindings.remove(&binding.sender.requester);
                }
            }
            self.count -= 1;
        }
        self.limit = FEW.max(2 * self.count);
    }
}

/// The cached contexts of one unit.
pub(crate) struct Contexts<N> {
    index: Mutex<Index<N>>,
    /// Counts invalidations. A fill reads it before its first table read, and is dropped unless it still stands: a
    /// look-up that races an invalidation keeps nothing.
    generation: AtomicU64,
    /// Whether spaces were left.
    has_departed: AtomicBool,
    /// The number of the next context.
    next_number: AtomicU64,
}

impl<N: Send + Sync + 'static> Default for Contexts<N> {
    fn default() -> Self {
        let index = Index {
            bindings: HashMap::new(),
            count: 0,
            limit: FEW,
            filed: BTreeSet::new(),
            departed: Vec::new(),
        };
        Self {
            index: Mutex::new(index),
            generation: AtomicU64::new(0),
            has_departed: AtomicBool::new(false),
            next_number: AtomicU64::new(0),
        }
    }
}

impl<N: Send + Sync + 'static> Contexts<N> {
    fn index(&self) -> MutexGuard<'_, Index<N>> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The binding of a sender.
    pub(crate) fn binding(&self, sender: Sender, inside: &Inside<'_>) -> Arc<Binding<N>> {
        let mut index = self.index();
        if let Some(binding) = index.binding(sender) {
            return binding;
        }
        if index.count >= index.limit {
            index.prune(inside);
        }
        let binding = Arc::new(Binding { sender, halves: [Rcu::default(), Rcu::default()] });
        index.bindings.entry(sender.requester).or_default().insert(sender.pasid, Arc::clone(&binding));
        index.count += 1;
        binding
    }

    /// The spaces of contexts that were forgotten since this was last asked.
    pub(crate) fn departed(&self) -> Vec<Arc<Space>> {
        // Drains are many, and few of them follow an invalidation of contexts.
        if !self.has_departed.load(Ordering::Acquire) {
            return Vec::new();
        }
        let mut index = self.index();
        self.has_departed.store(false, Ordering::Relaxed);
        core::mem::take(&mut index.departed)
    }

    /// The present generation, to be read before tables are.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// A number for a context.
    pub(crate) fn next_number(&self) -> u64 {
        self.next_number.fetch_add(1, Ordering::Relaxed)
    }

    /// Keeps a context of `generation`, unless something was invalidated since.
    pub(crate) fn fill(
        &self,
        binding: &Binding<N>,
        upper: bool,
        cached: &Arc<Cached<N>>,
        generation: u64,
        inside: &Inside<'_>,
    ) {
        let mut index = self.index();
        // Whoever invalidates starts a generation first and then takes this lock, so either this sees the new
        // generation, or the context goes in before it is removed.
        if self.generation() != generation && !cfg!(mutant = "no_context_generation") {
            return;
        }
        index.forget(binding, upper, inside);
        index.filed.insert((filed_under(cached), (binding.sender, upper)));
        if let Some(retired) = binding.halves[usize::from(upper)].swap(Some(Arc::clone(cached))) {
            inside.gate.retire(retired);
        }
    }

    /// Forgets contexts.
    pub(crate) fn invalidate(&self, scope: &ContextScope, inside: &Inside<'_>) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        let mut index = self.index();
        match *scope {
            ContextScope::All => {
                let all = index.filed.iter().map(|(_, half)| *half).collect();
                index.forget_halves(all, inside);
            }
            ContextScope::Domain(domain) => {
                let covered = index.of_domain(domain, None);
                index.forget_halves(covered, inside);
            }
            ContextScope::DomainPasid(domain, pasid) => {
                let covered = index.of_domain(domain, pasid);
                index.forget_halves(covered, inside);
            }
            ContextScope::Requester { requester, mask } => {
                let covered: Vec<_> = match named(requester, mask) {
                    Some(requesters) => {
                        requesters.into_iter().flat_map(|requester| index.of_requester(requester)).collect()
                    }
                    None => {
                        let meant = |one: &&Requester| {
                            same_kind(one, &requester) && (one.index() ^ requester.index()) & !mask == 0
                        };
                        let keys: Vec<_> = index.bindings.keys().filter(meant).copied().collect();
                        keys.into_iter().flat_map(|requester| index.of_requester(requester)).collect()
                    }
                };
                for binding in covered {
                    index.forget_sender(&binding, inside);
                }
            }
            ContextScope::Pasid(requester, pasid) => {
                let may_be = |binding: &Binding<N>, upper| {
                    let cached = binding.context(upper, inside);
                    cached.is_some_and(|cached| cached.resolved.pasid.is_none_or(|known| known == pasid))
                };
                for binding in index.of_requester(requester) {
                    for upper in [false, true] {
                        if may_be(&binding, upper) {
                            index.forget(&binding, upper, inside);
                        }
                    }
                }
            }
        }
        self.has_departed.store(!index.departed.is_empty(), Ordering::Release);
    }
}

/// Requesters whose index differs in the bits of `mask` alone; `None` where they are too many to be named one by one.
fn named(requester: Requester, mask: u32) -> Option<Vec<Requester>> {
    if mask.count_ones() > 8 {
        return None;
    }
    let mut found = Vec::with_capacity(1 << mask.count_ones());
    let mut bits = 0u32;
    loop {
        found.extend(with_index(requester, requester.index() & !mask | bits));
        bits = bits.wrapping_sub(mask) & mask;
        if bits == 0 {
            return Some(found);
        }
    }
}

/// The requester of the same kind and segment with another index, if there can be one.
fn with_index(requester: Requester, index: u32) -> Option<Requester> {
    Some(match requester {
        Requester::Pci(PciAddress { segment, .. }) => {
            PciAddress { segment, requester_id: u16::try_from(index).ok()? }.into()
        }
        Requester::Stream(_) => Requester::Stream(index),
        Requester::Device(_) => Requester::Device(index),
        Requester::Endpoint(_) => Requester::Endpoint(index),
    })
}

/// Whether two requesters are of one kind and, on PCI, of one segment, so that their indexes compare.
fn same_kind(one: &Requester, other: &Requester) -> bool {
    match (one, other) {
        (Requester::Pci(one), Requester::Pci(other)) => one.segment == other.segment,
        _ => core::mem::discriminant(one) == core::mem::discriminant(other),
    }
}

/// The spaces of one unit, by what identifies them and by the tags that invalidations name.
pub(crate) struct Spaces {
    index: RwLock<SpaceIndex>,
    budget: Arc<Budget>,
    /// Inputs that are always decided at length.
    special: Block,
}

/// What spaces are found under: tags, and where their tables begin.
type Filing = (DomainTag, Option<SpaceTag>, [u64; 2]);

fn filing(key: &SpaceKey) -> Filing {
    let roots = match &key.stages {
        Stages::One { only, .. } => [only.stage.root.0, 0],
        Stages::Two { first, second } => [first.stage.root.0, second.stage.root.0],
    };
    (key.tags.domain, key.tags.space, roots)
}

/// Spaces without a context that are kept, for contexts come back: a guest that invalidates all contexts has not changed its tables.
const IDLE: usize = 64;

#[derive(Default)]
struct SpaceIndex {
    /// In the order of what invalidations name. Those that share tags and tables differ in rules or formats, of which there are few.
    spaces: BTreeMap<Filing, Vec<Arc<Space>>>,
    count: usize,
    /// How many there may be before the unused are dropped.
    limit: usize,
    /// Those that contexts left, the oldest first. They may have come back.
    idle: VecDeque<Weak<Space>>,
}

impl SpaceIndex {
    fn insert(&mut self, space: &Arc<Space>) {
        self.spaces
            .entry(filing(&space.key))
            .or_insert_with(|| Vec::with_capacity(1))
            .push(Arc::clone(space));
        self.count += 1;
    }

    /// Forgets the spaces that nobody but this index knows.
    fn prune(&mut self) {
        self.spaces.retain(|_, spaces| {
            spaces.retain(|space| Arc::strong_count(space) > 1);
            !spaces.is_empty()
        });
        self.count = self.spaces.values().map(Vec::len).sum();
        self.limit = FEW.max(2 * self.count);
    }

    /// Forgets the spaces that have been idle for longest, where there are too many.
    fn prune_idle(&mut self) {
        while self.idle.len() > IDLE {
            let Some(space) = self.idle.pop_front().and_then(|space| space.upgrade()) else { continue };
            // This index knows it, and so do we.
            if Arc::strong_count(&space) > 2 {
                continue;
            }
            if let Entry::Occupied(mut entry) = self.spaces.entry(filing(&space.key)) {
                let before = entry.get().len();
                entry.get_mut().retain(|known| !Arc::ptr_eq(known, &space));
                self.count -= before - entry.get().len();
                if entry.get().is_empty() {
                    entry.remove();
                }
            }
            if let Some(second) = space.second() {
                self.idle.push_back(Arc::downgrade(second));
            }
        }
    }

    /// The space that `key` identifies: the one that others use already, or a new one.
    fn space(
        &mut self,
        key: SpaceKey,
        memory: &dyn GuestMemory,
        budget: &Arc<Budget>,
        special: Block,
        retaining: bool,
    ) -> Arc<Space> {
        let known = self.spaces.get(&filing(&key)).and_then(|spaces| spaces.iter().find(|it| it.key == key));
        if let Some(space) = known {
            return Arc::clone(space);
        }
        let second = key.second().map(|key| self.space(key, memory, budget, special, retaining));
        let space = Arc::new(Space::new(key, second, memory, budget, special, retaining));
        self.insert(&space);
        space
    }

    /// Those that a scope may mean by its tags.
    fn meant(&self, domain: DomainTag, space: Option<SpaceTag>) -> impl Iterator<Item = &Arc<Space>> {
        const ALL: [u64; 2] = [u64::MAX; 2];
        let without = (domain, None, [0; 2])..=(domain, None, ALL);
        let tagged = match space {
            Some(space) => (domain, Some(space), [0; 2])..=(domain, Some(space), ALL),
            None => (domain, Some(SpaceTag(0)), [0; 2])..=(domain, Some(SpaceTag(u32::MAX)), ALL),
        };
        [without, tagged]
            .into_iter()
            .flat_map(|range| self.spaces.range(range))
            .flat_map(|(_, spaces)| spaces)
    }
}

impl Spaces {
    pub(crate) fn new(budget: Budget, special: Block) -> Self {
        let index = SpaceIndex { limit: FEW, ..SpaceIndex::default() };
        Self { index: RwLock::new(index), budget: Arc::new(budget), special }
    }

    /// The space that `key` identifies.
    pub(crate) fn space(&self, key: SpaceKey, memory: &dyn GuestMemory, retaining: bool) -> Arc<Space> {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        if index.count >= index.limit {
            index.prune();
        }
        index.space(key, memory, &self.budget, self.special, retaining)
    }

    /// Contexts left these spaces: the last that nobody has come back to stay for a while, the others go.
    pub(crate) fn leave(&self, departed: Vec<Arc<Space>>) {
        if departed.is_empty() {
            return;
        }
        let idle: Vec<_> = departed.iter().map(Arc::downgrade).collect();
        drop(departed);
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        index.idle.extend(idle);
        index.prune_idle();
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.index.read().unwrap_or_else(PoisonError::into_inner).count
    }

    /// Forgets translations.
    pub(crate) fn invalidate(&self, scope: &TranslationScope, inside: &Inside<'_>) {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        match scope.domain {
            Some(domain) => {
                index.meant(domain, scope.space).for_each(|space| space.invalidate(scope, inside));
            }
            None => index.spaces.values().flatten().for_each(|space| space.invalidate(scope, inside)),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use portcullis_pagetable::AnyFormat;
    use portcullis_spec::{PagingFormat, PhysAddr, Stage, StageNumber, StageRules, Tags};

    use super::*;
    use crate::memory::OwnedMemory;
    use crate::translate::FormattedStage;

    fn key(root: u64, domain: u32) -> SpaceKey {
        let format = PagingFormat::VtdSecondStage { levels: 4 };
        let stage = Stage { format, root: PhysAddr(root), rules: StageRules::empty(), input_bits: 48 };
        let only = FormattedStage { stage, format: AnyFormat::try_from(format).unwrap() };
        let tags = Tags { domain: DomainTag(domain), space: None };
        SpaceKey { tags, stages: Stages::One { only, number: StageNumber::Second } }
    }

    #[test]
    fn spaces_that_contexts_left_go_but_for_the_last() {
        let (spaces, memory) = (Spaces::new(Budget::new(1 << 20), Block::NONE), OwnedMemory::new(0x1000));
        let used = spaces.space(key(0x1000, 7), &memory, false);
        for root in 1..=1000u64 {
            let space = spaces.space(key(root << 12, 1), &memory, false);
            spaces.leave(vec![space]);
            // A space that is in use does not go because one of its contexts did.
            spaces.leave(vec![Arc::clone(&used)]);
        }
        assert!(spaces.count() <= IDLE + 1, "{}", spaces.count());
        assert!(Arc::ptr_eq(&used, &spaces.space(key(0x1000, 7), &memory, false)));
        // The last is still there for a context that comes back.
        let index = spaces.index.read().unwrap();
        let known = |root| index.spaces.contains_key(&filing(&key(root, 1)));
        assert!(known(1000 << 12) && !known(1 << 12));
    }

    #[test]
    fn an_invalidation_finds_the_spaces_that_its_tags_name() {
        let (spaces, memory) = (Spaces::new(Budget::new(1 << 20), Block::NONE), OwnedMemory::new(0x1000));
        let made: Vec<_> = (0..8).map(|domain| spaces.space(key(0x1000, domain), &memory, false)).collect();
        let index = spaces.index.read().unwrap();
        for (domain, space) in (0..8).zip(&made) {
            let meant: Vec<_> = index.meant(DomainTag(domain), None).collect();
            assert!(meant.len() == 1 && Arc::ptr_eq(meant[0], space));
            let meant: Vec<_> = index.meant(DomainTag(domain), Some(SpaceTag(3))).collect();
            assert!(meant.len() == 1 && Arc::ptr_eq(meant[0], space), "without a tag it may be any");
        }
    }
}
