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
//! 2. The port's binding leads to its published context by one load (`contexts`, `rcu`). What the architecture makes of a request was
//!    asked when the context was looked up, once for each access; addresses to which that does not apply, VT-d's interrupt range say, are
//!    named there too (`plain`).
//! 3. One word says where the leaf entries of the address's 2 MiB lie in this process, of which level they are and what the tables
//!    above permit (`leaves`, `word`). With two stages the output goes through the second's cache in the same way.
//! 4. The leaf entry itself is loaded anew and compared with a pattern (`fast`, `pattern`). Entries whose bits are the same but for the
//!    address come to the same: reserved bits, rights, Accessed, and Dirty for a write were judged with the first of them.
//!
//! Whatever is out of the ordinary, an address, an entry of a new pattern, a right that is missing, goes the long way (`engine`): the
//! architecture is asked, the walk decides (`translate`), sets flags and names the refusal. The two ways give the same answers.
//!
//! So software that changes leaf entries is obeyed at once, and an invalidation of leaf entries has nothing to remove: it waits for the
//! guards. One of table entries empties the slots of its 2 MiB regions and no others. A walk notes the slot before its first
//! table read and fills it only if that still stands, and an emptied slot holds what it never held before: what races an
//! invalidation fills nothing.
//!
//! A region's slot is filled when it is walked to for the second time: what is used once is not worth the exchange. Where all is
//! ordinary a miss costs the loads of its tables (`descent`); else the walk decides here too.
//!
//! A nested space also knows through which pages of its second stage it came to its tables (`leaves`): an invalidation of other
//! pages of that stage leaves it alone.
//!
//! Memory: 9 bytes a slot (11 where nested), 64 to 4096 slots a space, and a limit for the unit; where there is no room, requests
//! are walked.
//! Guest memory without [`host_pointer`](GuestMemory::host_pointer) is always walked.
//!
//! What shows that it is right: `src/models.rs` (every order, under a model checker: `cargo xtask loom`), devices and a driver under stress
//! (`cargo xtask stress`), and copies broken on purpose that these must catch (`cargo xtask mutants`).
pub mod contexts;
mod copy;
mod descent;
pub mod engine;
mod fast;
pub mod gate;
pub mod guard;
pub mod host;
pub mod interrupt;
mod leaves;
pub mod memory;
#[cfg(all(loom, test))]
mod models;
mod pattern;
pub mod pin;
pub mod plain;
pub mod port;
mod rcu;
pub mod refusal;
pub mod registers;
mod retained;
pub mod ring;
pub mod riscv;
pub mod smmuv3;
pub mod space;
pub mod state;
mod sync;
pub mod translate;
pub mod unit;
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
