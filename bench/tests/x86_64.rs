//! The `x86_64` crate as an independent reader and writer of x86 tables: what one maps, the other finds.
#![allow(unsafe_code)]

use portcullis_bench::host_memory::HostMemory;
use portcullis_pagetable::format::X86;
use portcullis_pagetable::{Attributes, Gather, Map, PageTable, Rights, Split, TableAllocator};
use portcullis_spec::{Access, Iova, PhysAddr};
use x86_64::structures::paging::mapper::{MappedFrame, Mapper, TranslateResult};
use x86_64::structures::paging::{
    FrameAllocator, OffsetPageTable, Page, PageTable as X86Table, PageTableFlags, PhysFrame, Size1GiB,
    Size2MiB, Size4KiB, Translate,
};
use x86_64::{PhysAddr as X86Phys, VirtAddr};

const M: u64 = 1 << 20;
const G: u64 = 1 << 30;

fn memory() -> HostMemory {
    // SAFETY: only tables allocated from it are reached through it, by one mapper at a time.
    unsafe { HostMemory::new(16 << 20) }
}

/// Their view of the tables below `root`.
fn theirs(root: PhysAddr) -> OffsetPageTable<'static> {
    let root = std::ptr::with_exposed_provenance_mut::<X86Table>(root.0 as usize);
    // SAFETY: a root in memory that outlives the test's use of it, and frames that lie where their addresses say.
    unsafe { OffsetPageTable::new(&mut *root, VirtAddr::new(0)) }
}

#[test]
fn they_find_what_we_map() {
    let memory = memory();
    let table = PageTable::new(X86::new(4), &memory).unwrap();
    let mut gather = Gather::new();
    let everything = Rights::from_access(Access::READ_WRITE | Access::EXECUTE);
    let user_data = Rights::READ | Rights::WRITE | Rights::USER;
    let supervisor_code = Rights::READ | Rights::EXECUTE | Rights::PRIVILEGED_EXECUTE;
    let high = 0xffff_9000_0000_0000;
    for (iova, address, size, rights) in [
        (0x1000, 0x1234_5000, 0x3000, everything),
        (2 * M, 64 * M, 4 * M, user_data),
        (3 * G, 5 * G, G, supervisor_code),
        (high, 7 * G + 0x1000, 3 * M, supervisor_code),
    ] {
        table
            .map(&Map::new(Iova(iova), PhysAddr(address), size, Attributes::new(rights)), &mut gather)
            .unwrap();
        let found = theirs(table.root());
        for probe in (iova..iova + size).step_by(0x1000 * 7).chain([iova + size - 1]) {
            let TranslateResult::Mapped { frame, offset, flags } = found.translate(VirtAddr::new(probe))
            else {
                panic!("{probe:#x} is not mapped");
            };
            assert_eq!((frame.start_address() + offset).as_u64(), address + (probe - iova));
            assert_eq!(flags.contains(PageTableFlags::WRITABLE), rights.contains(Rights::WRITE));
            assert_eq!(flags.contains(PageTableFlags::USER_ACCESSIBLE), rights.contains(Rights::USER));
            assert_eq!(flags.contains(PageTableFlags::NO_EXECUTE), !rights.contains(Rights::EXECUTE));
            let ours = table.query(Iova(probe)).unwrap().unwrap().shift;
            let size = match frame {
                MappedFrame::Size4KiB(_) => 12,
                MappedFrame::Size2MiB(_) => 21,
                MappedFrame::Size1GiB(_) => 30,
            };
            assert_eq!(ours, size);
        }
    }
    // A hole in the 1 GiB page, and nothing else gone.
    assert_eq!(table.unmap(Iova(3 * G + 5 * M), 0x2000, &mut Split::Exchange, &mut gather), Ok(0x2000));
    let found = theirs(table.root());
    assert_eq!(found.translate_addr(VirtAddr::new(3 * G + 5 * M)), None);
    assert_eq!(found.translate_addr(VirtAddr::new(3 * G + 5 * M + 0x1fff)), None);
    for beside in [3 * G + 5 * M - 1, 3 * G + 5 * M + 0x2000, 4 * G - 1, 3 * G] {
        assert_eq!(found.translate_addr(VirtAddr::new(beside)), Some(X86Phys::new(beside + 2 * G)));
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

#[test]
fn we_find_what_they_map() {
    let memory = memory();
    let root = memory.allocate(12).unwrap();
    let mut theirs = theirs(root);
    let mut frames = Frames(&memory);
    let flags = PageTableFlags::PRESENT | PageTableFlags::WRITABLE | PageTableFlags::NO_EXECUTE;
    // SAFETY: nothing runs on these tables.
    unsafe {
        let small = Page::<Size4KiB>::containing_address(VirtAddr::new(0x7000));
        theirs
            .map_to(small, PhysFrame::containing_address(X86Phys::new(0x9000)), flags, &mut frames)
            .unwrap()
            .ignore();
        let medium = Page::<Size2MiB>::containing_address(VirtAddr::new(4 * M));
        theirs
            .map_to(medium, PhysFrame::containing_address(X86Phys::new(8 * M)), flags, &mut frames)
            .unwrap()
            .ignore();
        let large = Page::<Size1GiB>::containing_address(VirtAddr::new(2 * G));
        theirs
            .map_to(large, PhysFrame::containing_address(X86Phys::new(G)), flags, &mut frames)
            .unwrap()
            .ignore();
    }
    let ours = PageTable::adopt(X86::new(4), root, &memory);
    let mut pages = Vec::new();
    ours.for_each_page(Iova(0), 4 * G, |page| {
        assert_eq!(page.attributes.rights, Rights::READ | Rights::WRITE);
        pages.push((page.iova.0, page.address.0, page.shift));
    })
    .unwrap();
    assert_eq!(pages, [(0x7000, 0x9000, 12), (4 * M, 8 * M, 21), (2 * G, G, 30)]);
    // And take out what they mapped.
    let mut gather = Gather::new();
    assert_eq!(ours.unmap(Iova(0), 4 * G, &mut Split::Refuse, &mut gather), Ok(0x1000 + 2 * M + G));
    assert_eq!(theirs.translate_addr(VirtAddr::new(0x7000)), None);
    assert_eq!(theirs.translate_addr(VirtAddr::new(2 * G)), None);
}
