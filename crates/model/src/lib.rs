//! IOMMUs as device models.
//!
//! An architecture's folder ([`vtd`], [`smmuv3`], [`riscv`]) holds its register file, its commands and records, and the look-up from tables to
//! [`Context`](portcullis_spec::Context). All that follows from a context is common: [`engine`] is the way of a transaction,
//! [`translate`] the walk with permissions and flags, [`contexts`] and [`space`] the caches, [`gate`] the drain.
//!
//! ```text
//! device ─▶ Port ─▶ guard ─▶ context (cached, or architecture's tables) ─▶ page (cached, or walk) ─▶ memory
//!                      └─▶ refused ─▶ Fault ─▶ the architecture's record and interrupt
//! ```
pub mod contexts;
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
pub mod pin;
pub mod port;
mod rcu;
pub mod refusal;
pub mod registers;
mod retained;
pub mod ring;
pub mod riscv;
pub mod smmuv3;
pub mod space;
mod sync;
pub mod translate;
pub mod vtd;
mod word;

pub use engine::AccessError;
pub use guard::Guard;
pub use host::HostSlice;
pub use interrupt::{InterruptSink, Message, NoInterrupts, Undelivered};
pub use memory::{GuestMemory, MemoryError, OwnedMemory, Width};
#[cfg(feature = "vm-memory")]
pub use memory::{PortMemory, VmMemory};
pub use port::Port;
