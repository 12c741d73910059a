//! Requests of which nothing has to be asked again: what an architecture says of them follows from their context, access and privilege
//! alone, so it is asked once, when the context is looked up.

use portcullis_spec::{Access, Iova, RequestType, Transaction};

use crate::contexts::{Resolved, Sender};
use crate::engine::{Admission, Architecture, Asked};
use crate::pattern::Demand;

/// Addresses that agree in some of their bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Block {
    mask: u64,
    value: u64,
}

impl Block {
    /// No address.
    pub const NONE: Self = Self { mask: 0, value: 1 };

    /// The `1 << shift` addresses around `address`, with `shift` below 64.
    #[must_use]
    pub const fn around(address: u64, shift: u8) -> Self {
        let mask = u64::MAX << shift;
        Self { mask, value: address & mask }
    }

    /// The addresses that have `value` in the bits of `mask`.
    #[must_use]
    pub const fn matching(mask: u64, value: u64) -> Self {
        Self { mask, value: value & mask }
    }

    /// Whether an address is one of them.
    #[inline(always)]
    #[must_use]
    pub const fn contains(self, address: u64) -> bool {
        address & self.mask == self.value
    }

    /// Whether one of the `1 << shift` addresses around `address` is one of them.
    pub(crate) const fn touches(self, address: u64, shift: u8) -> bool {
        let mask = self.mask & u64::MAX << shift;
        self.value & !self.mask == 0 && address & mask == self.value & mask
    }
}

/// Addresses that have answers of their own, whatever the context.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Special {
    /// Those that are asked for. Leaf entries of the 2 MiB around are not kept: these requests are always decided at length.
    pub input: Block,
    /// Those that requests are translated to.
    pub output: Block,
}

impl Special {
    /// No address.
    pub const NONE: Self = Self { input: Block::NONE, output: Block::NONE };
}

/// Kinds of access: every set of [`Access`] flags.
const KINDS: usize = 16;

/// What is asked of the tables for plain requests under one context, by privilege and access; the impossible where such requests are
/// not plain.
pub(crate) struct Plain([[Demand; KINDS]; 2]);

impl Plain {
    /// Asks about every kind of request.
    pub(crate) fn of<A: Architecture>(
        architecture: &A,
        sender: Sender,
        upper: bool,
        resolved: &Resolved<A::Note>,
    ) -> Self {
        let mut plain = Self([[Demand::IMPOSSIBLE; KINDS]; 2]);
        // Any address of this half that is not special.
        let halves = if upper { [u64::MAX, 1 << 63] } else { [0, 1 << 30] };
        let is_one = |address: &u64| {
            architecture.is_upper(Iova(*address)) == upper && !A::SPECIAL.input.contains(*address)
        };
        let Some(address) = halves.into_iter().find(is_one).filter(|_| architecture.is_plain(resolved))
        else {
            return plain;
        };
        for (privileged, demands) in [false, true].into_iter().zip(&mut plain.0) {
            for (bits, demand) in (0..).zip(demands) {
                let transaction = Transaction {
                    requester: sender.requester,
                    pasid: sender.pasid,
                    address: Iova(address),
                    length: 1,
                    access: Access::from_bits_truncate(bits),
                    privileged,
                    request_type: RequestType::Untranslated,
                };
                if architecture.admit(&transaction) == Admission::Translate
                    && let Ok(Asked { access, privileged, any: false, .. }) =
                        architecture.ask(&transaction, resolved)
                {
                    *demand = Demand::new(access, privileged);
                }
            }
        }
        plain
    }

    /// What is asked of the tables for a request of at least one byte.
    #[inline(always)]
    pub(crate) fn ask(&self, access: Access, privileged: bool) -> Demand {
        self.0[usize::from(privileged)][usize::from(access.bits()) % KINDS]
    }
}
