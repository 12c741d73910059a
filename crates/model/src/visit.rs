//! A port inside its unit: the guard's presence, and the port's micro-TLB.

use std::cell::OnceCell;

use portcullis_spec::{Access, Iova, Transaction, Translation};

use crate::contexts::{Cached, Tables};
use crate::engine::{Architecture, Inside, Stop};
use crate::fast::Reached;
use crate::micro::{MicroTlb, Stamp};
use crate::port::Port;
use crate::rcu::Held;
use crate::slots::Leaves;

/// A port's presence in its unit. What is found stays good until it ends.
pub(crate) struct Visit<'a, A: Architecture> {
    port: &'a Port<A>,
    /// The context of addresses of the lower, or only, half, if it was cached when the visit began.
    context: Held<'a, Cached<A::Note>>,
    /// The port's, or none where another visit has it already.
    micro: OnceCell<Box<MicroTlb>>,
}

impl<A: Architecture> Drop for Visit<'_, A> {
    #[inline]
    fn drop(&mut self) {
        if let Some(micro) = self.micro.take() {
            self.port.give_micro(micro);
        }
    }
}

impl<'a, A: Architecture> Visit<'a, A> {
    #[inline(always)]
    pub(crate) fn new(port: &'a Port<A>) -> Self {
        let context = port.binding().held(port.engine().enter());
        let visit = Self { port, context, micro: OnceCell::new() };
        if let Some(mut kept) = port.take_micro()
            && !port.engine().architecture.is_counting()
            && let Some((leaves, number)) = visit.leaves()
            && kept.renew(Stamp { context: number, generation: leaves.generation() })
        {
            let _ = visit.micro.set(kept);
        }
        visit
    }

    pub(crate) const fn inside(&self) -> &Inside<'a> {
        self.context.inside()
    }

    /// The leaf cache that decides alone, and the number of the context that says so.
    #[inline(always)]
    fn leaves(&self) -> Option<(&Leaves, u64)> {
        match self.context.get()? {
            Cached { tables: Tables::OneStage(space), number, .. } => Some((space.leaves(), *number)),
            _ => None,
        }
    }

    /// Decides a request by what is cached alone, where nothing about it is out of the ordinary. `None` says nothing:
    /// [`decide`](Self::decide) then does.
    #[inline(always)]
    pub(crate) fn hit(&self, address: Iova, length: u64, access: Access) -> Option<Reached<'_>> {
        if length != 0
            && let Some(micro) = self.micro.get()
            && let Some((leaves, _)) = self.leaves()
            && let Some(reached) = micro.hit(address.0, access, leaves, &self.inside().presence)
            && !A::SPECIAL.output.contains(reached.address.0)
        {
            return Some(reached);
        }
        self.hit_at_length(address, length, access)
    }

    /// The same without the micro-TLB.
    #[inline(never)]
    fn hit_at_length(&self, address: Iova, length: u64, access: Access) -> Option<Reached<'_>> {
        let (engine, inside) = (self.port.engine(), self.inside());
        let held = self.context.get().filter(|_| !engine.architecture.is_upper(address));
        let cached = match held.filter(|_| !engine.architecture.is_counting()) {
            Some(cached) => cached,
            None => engine.context(self.port.binding(), address, inside)?,
        };
        let reached = engine.hit(cached, (address, length), access, self.port.is_privileged(), inside)?;
        if matches!(cached.tables, Tables::OneStage(_)) && self.micro.get().is_none() {
            self.begin_micro();
        }
        Some(reached)
    }

    /// Makes a micro-TLB.
    #[cold]
    fn begin_micro(&self) {
        if let Some(Cached { tables: Tables::OneStage(space), number, plain, .. }) = self.context.get()
            && let Some((pattern, end)) = space.first_pattern()
            && !self.port.engine().architecture.is_counting()
        {
            let stamp = Stamp { context: *number, generation: space.leaves().generation() };
            let micro = MicroTlb::new(stamp, end, pattern, plain, self.port.is_privileged());
            let _ = self.micro.set(Box::new(micro));
        }
    }

    /// Decides a request of this port.
    #[inline(always)]
    pub(crate) fn pass(&self, transaction: &Transaction) -> Result<Translation, Stop<A::Record>> {
        match self.hit(transaction.address, transaction.length, transaction.access) {
            Some(reached) => Ok(reached.translation()),
            None => self.decide(transaction),
        }
    }

    /// Decides a request that did not [`hit`](Self::hit).
    #[cold]
    #[inline(never)]
    pub(crate) fn decide(&self, transaction: &Transaction) -> Result<Translation, Stop<A::Record>> {
        let engine = self.port.engine();
        engine.decide(self.port.binding(), transaction, transaction.length, self.inside())
    }
}
