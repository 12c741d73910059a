//! IOMMUs as device models.
//!
//! An architecture's folder ([`vtd`], [`smmuv3`], [`riscv`]) holds its register file, its commands and records, and the look-up from tables to
//! [`Context`](portcullis_spec::Context). All that follows from a context is common: [`engine`] is the way of a transaction,
//! [`translate`] the walk with permissions and flags, [`contexts`] and [`space`] the caches, [`gate`] the drain.
//!
//! ```text
//! device ─▶ Port ─▶ guard ─▶ context (cached, or architecture's tables) ─▶ leaf entry (read anew, or walk) ─▶ memory
//!                      └─▶ refused ─▶ Fault ─▶ the architecture's record and interrupt
//! ```
//!
//! # The fast path
//!
//! A request that hits takes no lock and writes nothing but its guard's slot:
//!
//! 1. [`Port::enter`] exchanges one word that nobody else writes (`gate`). A [`Guard`] serves many requests.
//! 2. The guard takes the port's micro-TLB along (`visit`, `micro`): where the leaf entries lie of the ranges of 2 MiB that this queue used
//!    last. It is good if the context and the generation of its leaf cache are the present ones, which is asked once a guard.
//! 3. Else the port's binding leads to its published context by one load (`contexts`, `rcu`). What the architecture makes of a request
//!    was asked when the context was looked up, once for each access; addresses to which that does not apply, VT-d's interrupt range say,
//!    are named there too (`plain`).
//! 4. With one stage, one word says where the leaf entries of the address's 2 MiB lie in this process, of which level they are and what the
//!    tables above permit (`slots`, `word`). The leaf entry itself is loaded anew and compared with a pattern (`fast`, `pattern`). Entries
//!    whose bits are the same but for the address come to the same: reserved bits, rights, Accessed, and Dirty for a write were judged with
//!    the first of them.
//! 5. With two stages, one word says where the address's page leads in the end, and what both stages' patterns permit together (`finals`).
//!
//! Where nothing is cached, tables that are as usual are gone through by comparing their entries too (`descent`).
//! Whatever is out of the ordinary, an address, an entry of a new pattern, a right that is missing, goes the long way (`engine`): the
//! architecture is asked, the walk decides (`translate`), sets flags and names the refusal. The ways give the same answers.
//!
//! So with one stage software that changes leaf entries is obeyed at once, and an invalidation of leaf entries has nothing to remove: it
//! waits for the guards. One of table entries empties the slots of its 2 MiB regions and no others. A walk notes the slot before its first
//! table read and fills it only if that still stands, and an emptied slot holds what it never held before: what races an
//! invalidation fills nothing.
//!
//! A slot is filled when its region, or page, is asked for twice running: what is used once is not worth the exchange.
//!
//! A nested space also knows through which pages of its second stage it came to its tables and its data (`noted`): an invalidation of other
//! pages of that stage leaves it alone.
//!
//! Memory: 9 bytes a slot, 64 to 4096 slots a space; where nested, also 11 bytes a slot for 1024 to 16384 pages; and a limit for the unit.
//! Where there is no room, requests are walked.
//! Guest memory without [`host_pointer`](GuestMemory::host_pointer) is always walked.
//!
//! What shows that it is right: `src/models.rs` (every order, under a model checker: `cargo xtask loom`), devices and a driver under stress
//! (`cargo xtask stress`), and copies broken on purpose that these must catch (`cargo xtask mutants`).
mod alike;
pub mod budget;
pub mod contexts;
mod copy;
mod descent;
pub mod engine;
mod fast;
mod finals;
pub mod gate;
pub mod guard;
pub mod host;
pub mod interrupt;
pub mod memory;
mod micro;
#[cfg(all(loom, test))]
mod models;
mod noted;
mod pattern;
pub mod pin;
pub mod plain;
pub mod port;
mod rcu;
pub mod refusal;
mod refusals;
pub mod registers;
mod retained;
pub mod ring;
pub mod riscv;
mod slots;
pub mod smmuv3;
pub mod space;
pub mod state;
mod sync;
pub mod translate;
pub mod unit;
mod visit;
pub mod vtd;
mod word;

pub use engine::AccessError;
pub use guard::Guard;
pub use host::{HostSlice, HostStretch};
pub use interrupt::{InterruptSink, Message, NoInterrupts, Undelivered};
pub use memory::{GuestMemory, MemoryError, OwnedMemory, Width};
#[cfg(feature = "vm-memory")]
pub use memory::{PortMemory, VmMemory};
pub use port::Port;
pub use registers::Registers;
pub use state::StateError;
pub use unit::{Model, Unit};
