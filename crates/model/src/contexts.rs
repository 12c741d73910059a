//! What requesters' table entries come to, cached per requester and PASID; and the spaces that they lead to.
//!
//! A port holds the [`Binding`] of its requester and PASID and follows its published context without a lock. The indexes beside
//! are for those who fill and invalidate: by requester and by the tags of what is cached, so that an invalidation costs what
//! it names.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use portcullis_spec::{
    Context, ContextScope, DomainTag, Pasid, PciAddress, Requester, SpaceTag, Tags, TranslationScope,
};

use crate::engine::Inside;
use crate::rcu::Rcu;
use crate::space::{Budget, Space, SpaceKey};

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
    /// What the look-up came to.
    pub resolved: Resolved<N>,
    /// The space, where the context has tables.
    pub space: Option<Arc<Space>>,
}

/// Who sends: what contexts are looked up by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Sender {
    /// Who sends.
    pub requester: Requester,
    /// The PASID that is sent along.
    pub pasid: Option<Pasid>,
}

/// A sender and one of the two halves of its address space.
type Half = (Sender, bool);

/// A sender's cached contexts.
pub struct Binding<N> {
    /// Whose they are.
    pub sender: Sender,
    /// Of the lower, or only, half of the address space, and of an upper half with tables of its own.
    halves: [Rcu<Cached<N>>; 2],
}

impl<N: Send + Sync + 'static> Binding<N> {
    /// The cached context of one half.
    #[inline]
    pub(crate) fn context<'a>(&'a self, upper: bool, inside: &'a Inside<'_>) -> Option<&'a Cached<N>> {
        self.halves[usize::from(upper)].load(&inside.presence)
    }
}

/// What invalidations by tag find a cached context under: its domain (none where it is blocked) and the PASID that it
/// was found for (none where that is not known).
fn filed_under<N>(cached: &Cached<N>) -> (Option<DomainTag>, Option<Pasid>) {
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
    /// The halves whose context is cached, by tags.
    filed: HashMap<Option<DomainTag>, HashMap<Option<Pasid>, HashSet<Half>>>,
}

impl<N: Send + Sync + 'static> Index<N> {
    fn binding(&self, sender: Sender) -> Option<Arc<Binding<N>>> {
        self.bindings.get(&sender.requester)?.get(&sender.pasid).map(Arc::clone)
    }

    /// Forgets the context of one half.
    fn forget(&mut self, binding: &Binding<N>, upper: bool, inside: &Inside<'_>) {
        let Some(cached) = binding.context(upper, inside) else { return };
        let (domain, pasid) = filed_under(cached);
        if let Some(pasids) = self.filed.get_mut(&domain) {
            if let Some(halves) = pasids.get_mut(&pasid) {
                halves.remove(&(binding.sender, upper));
                if halves.is_empty() {
                    pasids.remove(&pasid);
                }
            }
            if pasids.is_empty() {
                self.filed.remove(&domain);
            }
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
            let Some(pasids) = self.filed.get(&domain) else { continue };
            match pasid {
                None => found.extend(pasids.values().flatten()),
                known => found.extend([known, None].iter().filter_map(|pasid| pasids.get(pasid)).flatten()),
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
}

impl<N: Send + Sync + 'static> Default for Contexts<N> {
    fn default() -> Self {
        let index = Index { bindings: HashMap::new(), count: 0, limit: FEW, filed: HashMap::new() };
        Self { index: Mutex::new(index), generation: AtomicU64::new(0) }
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

    /// The present generation, to be read before tables are.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
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
        let (domain, pasid) = filed_under(cached);
        index.filed.entry(domain).or_default().entry(pasid).or_default().insert((binding.sender, upper));
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
                let all = index.filed.values().flat_map(HashMap::values).flatten().copied().collect();
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
}

#[derive(Default)]
struct SpaceIndex {
    by_key: HashMap<SpaceKey, Arc<Space>>,
    by_tags: HashMap<DomainTag, HashMap<Option<SpaceTag>, Vec<Arc<Space>>>>,
    /// How many there may be before the unused are dropped.
    limit: usize,
}

impl SpaceIndex {
    fn insert(&mut self, space: &Arc<Space>) {
        let Tags { domain, space: tag } = space.key.tags;
        self.by_key.insert(space.key, Arc::clone(space));
        self.by_tags.entry(domain).or_default().entry(tag).or_default().push(Arc::clone(space));
    }

    /// Forgets the spaces that nobody but this index knows.
    fn prune(&mut self) {
        self.by_tags.clear();
        for space in core::mem::take(&mut self.by_key).into_values() {
            // This loop holds one reference itself.
            if Arc::strong_count(&space) > 1 {
                self.insert(&space);
            }
        }
        self.limit = FEW.max(2 * self.by_key.len());
    }

    /// The space that `key` identifies: the one that others use already, or a new one.
    fn space(&mut self, key: SpaceKey, budget: &Arc<Budget>, retaining: bool) -> Arc<Space> {
        if let Some(space) = self.by_key.get(&key) {
            return Arc::clone(space);
        }
        let second = key.second().map(|key| self.space(key, budget, retaining));
        let space = Arc::new(Space::new(key, second, budget, retaining));
        self.insert(&space);
        space
    }
}

impl Spaces {
    pub(crate) fn new(budget: Budget) -> Self {
        let index = SpaceIndex { limit: FEW, ..SpaceIndex::default() };
        Self { index: RwLock::new(index), budget: Arc::new(budget) }
    }

    /// The space that `key` identifies.
    pub(crate) fn space(&self, key: SpaceKey, retaining: bool) -> Arc<Space> {
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        if index.by_key.len() >= index.limit {
            index.prune();
        }
        index.space(key, &self.budget, retaining)
    }

    /// Forgets translations.
    pub(crate) fn invalidate(&self, scope: &TranslationScope, inside: &Inside<'_>) {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let each = |spaces: &Vec<Arc<Space>>| spaces.iter().for_each(|space| space.invalidate(scope, inside));
        let Some(domain) = scope.domain else {
            index.by_key.values().for_each(|space| space.invalidate(scope, inside));
            return;
        };
        let Some(of_domain) = index.by_tags.get(&domain) else { return };
        match scope.space {
            None => of_domain.values().for_each(each),
            tagged => [tagged, None].iter().filter_map(|tag| of_domain.get(tag)).for_each(each),
        }
    }
}
