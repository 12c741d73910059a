//! What the tests share: memory that notices misuse, a shadow that knows no page tables, and readers that know one
//! format each and share no code with the crate.
#![allow(dead_code, unreachable_pub)]

pub mod readers;
pub mod shadow;

use portcullis_pagetable::{TableAllocator, TableMemory};
use portcullis_spec::PhysAddr;
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// Where the arena's first byte lies: not at 0, so that an address without its base is noticed.
const BASE: u64 = 0x40_0000_0000;
/// Written all over tables that were given back: present in every format, and leads nowhere.
const POISON: u64 = 0xdead_beef_dead_beef;

/// Memory for tables. Panics on an access outside, to a table that was given back, or on a double free.
pub struct Arena {
    words: Vec<AtomicU64>,
    state: Mutex<State>,
    /// Allocations that still succeed; negative for no limit.
    left: AtomicI64,
}

struct State {
    /// Address and size of each live table.
    live: HashMap<u64, u8>,
    /// Free tables by size.
    free: HashMap<u8, Vec<u64>>,
    next: u64,
}

impl Arena {
    pub fn new(bytes: usize) -> Self {
        Self {
            words: (0..bytes / 8).map(|_| AtomicU64::new(POISON)).collect(),
            state: Mutex::new(State { live: HashMap::new(), free: HashMap::new(), next: BASE }),
            left: AtomicI64::new(-1),
        }
    }

    /// From now on `count` allocations succeed and all later ones fail. `None` lifts the limit.
    pub fn limit(&self, count: Option<i64>) {
        self.left.store(count.unwrap_or(-1), Ordering::SeqCst);
    }

    /// Number of tables that are out.
    pub fn live(&self) -> usize {
        self.state.lock().unwrap().live.len()
    }

    fn word(&self, at: PhysAddr) -> &AtomicU64 {
        assert!(at.is_aligned(8), "{at} is not aligned");
        &self.words[usize::try_from((at.0 - BASE) / 8).unwrap()]
    }
}

impl TableMemory for Arena {
    type Error = Infallible;

    fn load(&self, at: PhysAddr) -> Result<u64, Infallible> {
        let raw = self.word(at).load(Ordering::Acquire);
        assert_ne!(raw, POISON, "{at} was given back");
        Ok(raw)
    }

    fn store(&self, at: PhysAddr, entry: u64) -> Result<(), Infallible> {
        let was = self.word(at).swap(entry, Ordering::AcqRel);
        assert_ne!(was, POISON, "{at} was given back");
        Ok(())
    }

    fn compare_exchange(&self, at: PhysAddr, expected: u64, new: u64) -> Result<u64, Infallible> {
        let seen = self
            .word(at)
            .compare_exchange(expected, new, Ordering::AcqRel, Ordering::Acquire)
            .unwrap_or_else(|seen| seen);
        assert_ne!(seen, POISON, "{at} was given back");
        Ok(seen)
    }
}

impl TableAllocator for Arena {
    fn allocate(&self, size_log2: u8) -> Option<PhysAddr> {
        let allowed = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| match left {
            0 => None,
            1.. => Some(left - 1),
            _ => Some(left),
        });
        allowed.ok()?;
        let mut state = self.state.lock().unwrap();
        let size = 1u64 << size_log2;
        let table = state.free.entry(size_log2).or_default().pop().unwrap_or_else(|| {
            let table = state.next.next_multiple_of(size);
            state.next = table + size;
            table
        });
        state.live.insert(table, size_log2);
        for word in 0..size / 8 {
            self.word(PhysAddr(table + word * 8)).store(0, Ordering::Release);
        }
        Some(PhysAddr(table))
    }

    fn free(&self, table: PhysAddr, size_log2: u8) {
        let mut state = self.state.lock().unwrap();
        assert_eq!(state.live.remove(&table.0), Some(size_log2), "{table} was not out");
        for word in 0..(1u64 << size_log2) / 8 {
            self.word(PhysAddr(table.0 + word * 8)).store(POISON, Ordering::Release);
        }
        state.free.entry(size_log2).or_default().push(table.0);
    }
}
