//! What requesters' table entries come to, cached per requester and PASID; and the spaces that they lead to.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use portcullis_spec::{Context, ContextScope, DomainTag, Pasid, Requester, SpaceTag, Tags, TranslationScope};

use crate::space::{Budget, Generation, Space, SpaceKey};

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

impl<N> Cached<N> {
    /// Whether this may be what a PASID's entry came to: a request without PASID that was refused before its PASID was
    /// known may have met any.
    fn has_pasid(&self, pasid: Pasid) -> bool {
        self.resolved.pasid.is_none_or(|known| known == pasid)
    }
}

/// The spaces of one unit, by what identifies them and by the tags that invalidations name.
#[derive(Default)]
struct Spaces {
    by_key: HashMap<SpaceKey, Arc<Space>>,
    by_tags: HashMap<DomainTag, HashMap<Option<SpaceTag>, Vec<Arc<Space>>>>,
}

impl Spaces {
    fn insert(&mut self, space: &Arc<Space>) {
        let Tags { domain, space: tag } = space.key.tags;
        self.by_key.insert(space.key, Arc::clone(space));
        self.by_tags.entry(domain).or_default().entry(tag).or_default().push(Arc::clone(space));
    }

    /// Forgets the spaces that nobody but this index knows.
    fn prune(&mut self, budget: &Budget) {
        self.by_tags.clear();
        let all = core::mem::take(&mut self.by_key);
        for space in all.into_values() {
            // This loop holds one reference itself.
            if Arc::strong_count(&space) > 1 {
                self.insert(&space);
            } else {
                space.invalidate(&TranslationScope::default(), budget);
            }
        }
    }

    /// The spaces whose tags `scope` may cover.
    fn covered<'a>(&'a self, scope: &TranslationScope) -> Box<dyn Iterator<Item = &'a Arc<Space>> + 'a> {
        let Some(domain) = scope.domain else { return Box::new(self.by_key.values()) };
        let Some(of_domain) = self.by_tags.get(&domain) else { return Box::new(std::iter::empty()) };
        match scope.space {
            None => Box::new(of_domain.values().flatten()),
            tagged => Box::new([tagged, None].into_iter().filter_map(|tag| of_domain.get(&tag)).flatten()),
        }
    }
}

/// What contexts are looked up by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Sender {
    /// Who sends.
    pub requester: Requester,
    /// The PASID that is sent along.
    pub pasid: Option<Pasid>,
    /// Whether the address lies in the upper of two halves with tables of their own.
    pub upper: bool,
}

type Entries<N> = HashMap<Sender, Arc<Cached<N>>>;

/// The cache of contexts and the spaces of one unit.
pub struct Contexts<N> {
    entries: RwLock<Entries<N>>,
    spaces: RwLock<Spaces>,
    limit: usize,
}

/// The tags under which a context's entry is cached; none for a blocked one.
fn tags(context: &Context) -> Option<Tags> {
    match context {
        Context::Blocked(_) => None,
        Context::Bypass { tags, .. } | Context::OneStage { tags, .. } | Context::TwoStages { tags, .. } => {
            Some(*tags)
        }
    }
}

impl<N> Contexts<N> {
    /// An empty cache for at most `limit` contexts.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { entries: RwLock::default(), spaces: RwLock::default(), limit }
    }

    fn entries(&self) -> RwLockReadGuard<'_, Entries<N>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn entries_mut(&self) -> RwLockWriteGuard<'_, Entries<N>> {
        self.entries.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The cached context of a sender.
    pub fn find(&self, sender: Sender) -> Option<Arc<Cached<N>>> {
        self.entries().get(&sender).map(Arc::clone)
    }

    /// Keeps a context of `generation`, unless something was invalidated since.
    pub fn fill(&self, sender: Sender, cached: &Arc<Cached<N>>, generation: u64, current: &Generation) {
        let mut entries = self.entries_mut();
        if current.read() != generation {
            return;
        }
        if entries.len() >= self.limit {
            entries.clear();
        }
        entries.insert(sender, Arc::clone(cached));
    }

    /// The space that `key` identifies: the one that others use already, or a new one.
    pub fn space(&self, key: SpaceKey, budget: &Budget) -> Arc<Space> {
        let mut spaces = self.spaces.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(space) = spaces.by_key.get(&key) {
            return Arc::clone(space);
        }
        if spaces.by_key.len() >= self.limit {
            spaces.prune(budget);
        }
        let space = Arc::new(Space::new(key));
        spaces.insert(&space);
        space
    }

    /// Forgets contexts. What was blocked, and kept in caching mode, has no tags that count, and of a request without PASID
    /// possibly no PASID either: it is forgotten by every scope that might mean it.
    pub fn invalidate(&self, scope: &ContextScope) {
        let mut entries = self.entries_mut();
        match scope {
            ContextScope::All => entries.clear(),
            ContextScope::Domain(domain) => {
                entries.retain(|_, cached| {
                    tags(&cached.resolved.context).is_some_and(|tags| tags.domain != *domain)
                });
            }
            ContextScope::Requester { requester, mask } => entries.retain(|cached, _| {
                let cached = &cached.requester;
                !(same_kind(cached, requester) && (cached.index() ^ requester.index()) & !mask == 0)
            }),
            ContextScope::Pasid(requester, pasid) => {
                entries.retain(|cached, entry| !(cached.requester == *requester && entry.has_pasid(*pasid)));
            }
            ContextScope::DomainPasid(domain, pasid) => entries.retain(|_, entry| {
                let domain = tags(&entry.resolved.context).is_none_or(|tags| tags.domain == *domain);
                let pasid = pasid.is_none_or(|pasid| entry.has_pasid(pasid));
                !(domain && pasid)
            }),
        }
    }

    /// Forgets translations.
    pub fn invalidate_translations(&self, scope: &TranslationScope, budget: &Budget) {
        let spaces = self.spaces.read().unwrap_or_else(PoisonError::into_inner);
        for space in spaces.covered(scope) {
            space.invalidate(scope, budget);
        }
    }
}

/// Whether two requesters are of one kind and, on PCI, of one segment, so that their indexes compare.
fn same_kind(one: &Requester, other: &Requester) -> bool {
    match (one, other) {
        (Requester::Pci(one), Requester::Pci(other)) => one.segment == other.segment,
        _ => core::mem::discriminant(one) == core::mem::discriminant(other),
    }
}
