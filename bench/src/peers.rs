//! What others do for the same: look an address up that a device sent.
#![allow(unsafe_code)]

use crate::host_memory::HostMemory;
use crate::order::PAGE;
use portcullis_pagetable::TableAllocator as _;
use rangemap::RangeMap;
use std::collections::BTreeMap;
use std::sync::RwLock;
use vm_memory::iommu::Iotlb;
use vm_memory::{GuestAddress, Permissions};
use x86_64::structures::paging::mapper::{Mapper, TranslateResult};
use x86_64::structures::paging::{
    FrameAllocator, OffsetPageTable, Page, PageTable as X86Table, PageTableFlags, PhysFrame, Size4KiB,
    Translate,
};
use x86_64::{PhysAddr as X86Phys, VirtAddr};

/// Somebody who translates.
pub trait Translator: Send + Sync {
    /// Where a byte leads that may be read. 0 where nowhere.
    fn translate(&self, iova: u64) -> u64;
}

/// `vm-memory`'s IOTLB, without a lock: nobody could ever change it.
#[derive(Default)]
pub struct VmMemoryIotlb(Iotlb);

/// The same in an `RwLock`, as its `Iommu` trait is made for.
#[derive(Default)]
pub struct VmMemoryLocked(RwLock<Iotlb>);

#[inline]
fn look_up(iotlb: impl std::ops::Deref<Target = Iotlb>, iova: u64) -> u64 {
    let found = Iotlb::lookup(iotlb, GuestAddress(iova), 1, Permissions::Read);
    found.ok().and_then(|mut ranges| ranges.next()).map_or(0, |range| range.base.0)
}

impl Translator for VmMemoryIotlb {
    #[inline]
    fn translate(&self, iova: u64) -> u64 {
        look_up(&self.0, iova)
    }
}

impl Translator for VmMemoryLocked {
    #[inline]
    fn translate(&self, iova: u64) -> u64 {
        self.0.read().map_or(0, |iotlb| look_up(iotlb, iova))
    }
}

/// `rangemap`, without a lock.
#[derive(Default)]
pub struct Ranges(RangeMap<u64, (u64, bool)>);

impl Translator for Ranges {
    #[inline]
    fn translate(&self, iova: u64) -> u64 {
        match self.0.get_key_value(&iova) {
            Some((range, (target, true))) => target + (iova - range.start),
            _ => 0,
        }
    }
}

/// From a mapping's first address to where it leads and its bytes.
type Mappings = BTreeMap<u64, (u64, u64)>;

/// As VMMs do it for virtio-iommu: which domain an endpoint is in, and a domain's mappings, both behind locks.
#[derive(Default)]
pub struct Trees {
    endpoints: RwLock<BTreeMap<u32, u32>>,
    domains: RwLock<BTreeMap<u32, Mappings>>,
}

impl Translator for Trees {
    #[inline]
    fn translate(&self, iova: u64) -> u64 {
        let Some(domain) = self.endpoints.read().ok().and_then(|endpoints| endpoints.get(&0x10).copied())
        else {
            return 0;
        };
        let Ok(domains) = self.domains.read() else { return 0 };
        let mapping = domains.get(&domain).and_then(|mappings| mappings.range(..=iova).next_back());
        match mapping {
            Some((first, (target, size))) if iova - first < *size => target + (iova - first),
            _ => 0,
        }
    }
}

struct Frames<'a>(&'a HostMemory);

// SAFETY: frames come from the allocator, which gives none out twice.
unsafe impl FrameAllocator<Size4KiB> for Frames<'_> {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        let frame = self.0.allocate(12)?;
        Some(PhysFrame::containing_address(X86Phys::new(frame.0)))
    }
}

/// The `x86_64` crate's walker, the floor: it checks no bounds, no permissions and no context, and knows of no device.
pub struct X86Crate {
    table: OffsetPageTable<'static>,
    /// Where the tables live; after `table`, which refers to it.
    memory: Box<HostMemory>,
}

impl X86Crate {
    /// Empty tables.
    ///
    /// # Panics
    /// Where there is no memory.
    #[must_use]
    pub fn new() -> Self {
        // SAFETY: only tables allocated from it are reached through it, by this mapper alone.
        let memory = Box::new(unsafe { HostMemory::new(512 << 20) });
        let root = memory.allocate(12).expect("memory for a root");
        let root = std::ptr::with_exposed_provenance_mut::<X86Table>(root.0 as usize);
        // SAFETY: a zeroed table of our own that nobody else uses, which lives as long as `memory`, that is longer than the
        // mapper, and frames that lie where their addresses say.
        let table = unsafe { OffsetPageTable::new(&mut *root, VirtAddr::new(0)) };
        Self { table, memory }
    }

    /// Maps a page.
    ///
    /// # Panics
    /// Where it is mapped or there is no memory.
    pub fn map(&mut self, iova: u64, target: u64) {
        let page = Page::<Size4KiB>::containing_address(VirtAddr::new(iova));
        let frame = PhysFrame::containing_address(X86Phys::new(target));
        let flags = PageTableFlags::PRESENT | PageTableFlags::WRITABLE;
        // SAFETY: nothing runs on these tables.
        unsafe { self.table.map_to(page, frame, flags, &mut Frames(&self.memory)) }.expect("maps").ignore();
    }
}

impl X86Crate {
    /// Unmaps a page.
    ///
    /// # Panics
    /// Where it is not mapped.
    pub fn unmap(&mut self, iova: u64) {
        let page = Page::<Size4KiB>::containing_address(VirtAddr::new(iova));
        self.table.unmap(page).expect("unmaps").1.ignore();
    }
}

impl Default for X86Crate {
    fn default() -> Self {
        Self::new()
    }
}

impl Translator for X86Crate {
    #[inline]
    fn translate(&self, iova: u64) -> u64 {
        match self.table.translate(VirtAddr::new(iova)) {
            TranslateResult::Mapped { frame, offset, .. } => (frame.start_address() + offset).as_u64(),
            _ => 0,
        }
    }
}

/// Everybody, with the same pages mapped.
pub struct Peers {
    /// `vm-memory`, no lock.
    pub vm_memory: VmMemoryIotlb,
    /// `vm-memory` in an `RwLock`.
    pub vm_memory_locked: VmMemoryLocked,
    /// `rangemap`.
    pub ranges: Ranges,
    /// B-trees.
    pub trees: Trees,
    /// The `x86_64` crate.
    pub x86: X86Crate,
}

impl Peers {
    /// Maps `pages` pages, one after the other from address 0 on, each to what `target` says.
    ///
    /// # Panics
    /// Where there is no memory.
    #[must_use]
    pub fn new(pages: u64, target: impl Fn(u64) -> u64) -> Self {
        let mut peers = Self {
            vm_memory: VmMemoryIotlb::default(),
            vm_memory_locked: VmMemoryLocked::default(),
            ranges: Ranges::default(),
            trees: Trees::default(),
            x86: X86Crate::new(),
        };
        let mut tree = BTreeMap::new();
        for index in 0..pages {
            let (iova, target) = (index * PAGE, target(index));
            let set = |iotlb: &mut Iotlb| {
                iotlb
                    .set_mapping(
                        GuestAddress(iova),
                        GuestAddress(target),
                        PAGE as usize,
                        Permissions::ReadWrite,
                    )
                    .expect("maps");
            };
            set(&mut peers.vm_memory.0);
            set(peers.vm_memory_locked.0.get_mut().expect("nobody panicked"));
            peers.ranges.0.insert(iova..iova + PAGE, (target, true));
            tree.insert(iova, (target, PAGE));
            peers.x86.map(iova, target);
        }
        peers.trees.endpoints.get_mut().expect("nobody panicked").insert(0x10, 7);
        peers.trees.domains.get_mut().expect("nobody panicked").insert(7, tree);
        peers
    }
}
