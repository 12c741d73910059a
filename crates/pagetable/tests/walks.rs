//! The walker: what it reads, in which order, what it makes of hierarchical rights, how it ends; also nested.

use portcullis_pagetable::format::{AmdV1, AnyFormat, ArmStage1, Riscv, VtdSecondStage, X86};
use portcullis_pagetable::{Address, Cause, Entry, Format, Invalid, Rights, WalkError, walk};
use portcullis_spec::{Granule, Iova, Ipa, PhysAddr};
use proptest::prelude::*;
use std::cell::RefCell;
use std::collections::HashMap;

type Memory = HashMap<u64, u64>;

fn load<A: Address>(memory: &Memory) -> impl FnMut(A) -> Result<u64, u64> {
    |at| memory.get(&at.value()).copied().ok_or(at.value())
}

/// Writes the entries of a path: `(table, index, raw)`.
fn memory(entries: &[(u64, u64, u64)]) -> Memory {
    entries.iter().map(|(table, index, raw)| (table + index * 8, *raw)).collect()
}

/// VT-d 3.7: 4 levels of 9 bits; the entries read are exactly those that the address indexes.
#[test]
fn a_walk_reads_one_entry_a_level_from_the_root_down() {
    let memory = memory(&[
        (0x1000, 0x12, 0x2003),
        (0x2000, 0x123, 0x3003),
        (0x3000, 0x45, 0x4003),
        (0x4000, 0x67, 0xabcd_e003),
    ]);
    let iova = 0x12 << 39 | 0x123 << 30 | 0x45 << 21 | 0x67 << 12 | 0x89a;
    let walk = walk(&VtdSecondStage::new(4), PhysAddr(0x1000), Iova(iova), load(&memory));
    let mapping = walk.end.unwrap();
    assert_eq!((mapping.address, mapping.shift, mapping.level), (PhysAddr(0xabcd_e89a), 12, 0));
    let steps: Vec<(u8, u64, u64)> =
        walk.steps().iter().map(|step| (step.level, step.at.0, step.raw)).collect();
    assert_eq!(
        steps,
        [
            (3, 0x1000 + 0x12 * 8, 0x2003),
            (2, 0x2000 + 0x123 * 8, 0x3003),
            (1, 0x3000 + 0x45 * 8, 0x4003),
            (0, 0x4000 + 0x67 * 8, 0xabcd_e003)
        ]
    );
}

#[test]
fn large_pages_end_the_walk_where_they_stand() {
    let memory = memory(&[
        (0x1000, 0, 0x2003),
        (0x2000, 1, 0x8000_0083),
        (0x2000, 0, 0x3003),
        (0x3000, 7, 0x4020_0083),
    ]);
    let format = VtdSecondStage::new(4);
    let large = walk(&format, PhysAddr(0x1000), Iova(0x4765_4321), load(&memory)).end.unwrap();
    assert_eq!((large.address, large.shift, large.level), (PhysAddr(0x8765_4321), 30, 2));
    let large = walk(&format, PhysAddr(0x1000), Iova(0xef_edcb), load(&memory)).end.unwrap();
    assert_eq!((large.address, large.shift, large.level), (PhysAddr(0x402f_edcb), 21, 1));
}

/// VT-d 3.7.1: R and W of every level count. 3.6.1: U/S, R/W and XD of every level count.
#[test]
fn rights_are_intersected_along_the_walk() {
    let second = VtdSecondStage::new(3);
    let tables = memory(&[(0x1000, 0, 0x2001), (0x2000, 0, 0x3003), (0x3000, 0, 0x9003)]);
    let found = walk(&second, PhysAddr(0x1000), Iova(0), load(&tables));
    assert!(!found.rights.contains(Rights::WRITE) && found.rights.contains(Rights::READ));
    assert!(!found.table_rights.contains(Rights::WRITE));
    assert!(found.end.unwrap().attributes.rights.contains(Rights::WRITE), "the leaf's own are unlimited");
    // Read from one level and written from another: present throughout, and nothing is permitted.
    let tables = memory(&[(0x1000, 0, 0x2001), (0x2000, 0, 0x3002), (0x3000, 0, 0x9003)]);
    let found = walk(&second, PhysAddr(0x1000), Iova(0), load(&tables));
    assert!(found.end.is_ok() && !found.rights.intersects(Rights::READ | Rights::WRITE));

    let execute = Rights::EXECUTE | Rights::PRIVILEGED_EXECUTE;
    for (level, bit, lost) in
        [(3, 1u64 << 63, execute), (2, 2, Rights::WRITE), (1, 4, Rights::USER), (0, 2, Rights::WRITE)]
    {
        let entry = |at: u64, address: u64| address | 7 ^ if at == level { bit } else { 0 };
        let tables = memory(&[
            (0x1000, 0, entry(3, 0x2000)),
            (0x2000, 0, entry(2, 0x3000)),
            (0x3000, 0, entry(1, 0x4000)),
            (0x4000, 0, entry(0, 0x9000)),
        ]);
        let found = walk(&X86::new(4), PhysAddr(0x1000), Iova(0), load(&tables));
        assert_eq!(found.rights, Rights::all() - lost, "bit {bit:#x} at level {level}");
    }
}

/// Arm ARM D8.4: APTable, UXNTable, PXNTable limit what is below them.
#[test]
fn arm_table_attributes_limit_what_is_below() {
    let format = ArmStage1::new(Granule::Size4K, 39, 48, false).unwrap();
    for (bit, lost) in
        [(59, Rights::PRIVILEGED_EXECUTE), (60, Rights::EXECUTE), (61, Rights::USER), (62, Rights::WRITE)]
    {
        let tables = memory(&[(0x1000, 0, 0x2003), (0x2000, 0, 0x3003 | 1 << bit), (0x3000, 0, 0x9443)]);
        let found = walk(&format, PhysAddr(0x1000), Iova(0), load(&tables));
        assert_eq!(found.rights, Rights::all() - lost, "bit {bit}");
    }
}

#[test]
fn a_walk_says_at_which_level_it_ended_and_why() {
    let format = VtdSecondStage::new(4);
    let tables =
        memory(&[(0x1000, 0, 0x2003), (0x2000, 0, 0x3003), (0x2000, 3, 0x9880), (0x2000, 2, 0x9803)]);
    let end = |iova| walk(&format, PhysAddr(0x1000), Iova(iova), load(&tables));
    let error = |at, level, cause| Some(WalkError { at: PhysAddr(at), level, cause });
    assert_eq!(end(0).end.err(), error(0x3000, 1, Cause::Load(0x3000)));
    assert_eq!(end(0).steps().len(), 2, "what could not be read is no step");
    assert_eq!(end(3 << 30).end.err(), error(0x2018, 2, Cause::NotPresent));
    assert_eq!(end(2 << 30).end.err(), error(0x2010, 2, Cause::Invalid(Invalid::Reserved)));
    assert_eq!(end(2 << 30).steps().len(), 2, "what ended the walk is a step");
    assert_eq!(end(1 << 48).end.err(), error(0x1000, 3, Cause::OutOfRange));
    assert!(end(1 << 48).steps().is_empty());
}

/// SDM vol. 1, 3.3.7.1; Arm ARM D8.1.2; Privileged Architecture, "Sv39"; "Two-Stage Address Translation".
#[test]
fn inputs_out_of_range_are_refused() {
    let out = |format: AnyFormat, iova: u64| {
        let walk = walk(&format, PhysAddr(0), Iova(iova), |_: PhysAddr| Ok::<_, ()>(0));
        match walk.end.err().unwrap().cause {
            Cause::OutOfRange => true,
            Cause::NotPresent => false,
            cause => panic!("{cause:?}"),
        }
    };
    let x86 = X86::new(4).into();
    assert!(!out(x86, 0x7fff_ffff_ffff) && out(x86, 0x8000_0000_0000));
    assert!(!out(x86, 0xffff_8000_0000_0000) && out(x86, 0xffff_7fff_ffff_ffff));
    let flat = X86 { canonical: false, ..X86::new(4) }.into();
    assert!(!out(flat, 0xffff_ffff_ffff) && out(flat, 1 << 48));
    let lower = ArmStage1::new(Granule::Size4K, 39, 48, false).unwrap().into();
    assert!(!out(lower, (1 << 39) - 1) && out(lower, 1 << 39));
    let upper = ArmStage1::new(Granule::Size4K, 39, 48, true).unwrap().into();
    assert!(!out(upper, u64::MAX << 39) && out(upper, (u64::MAX << 39) - 1) && out(upper, 0));
    let sv39 = Riscv::new(3).into();
    assert!(!out(sv39, (1 << 38) - 1) && out(sv39, 1 << 38) && !out(sv39, u64::MAX << 38));
    let sv39x4 = Riscv::new_x4(3).into();
    assert!(!out(sv39x4, (1 << 41) - 1) && out(sv39x4, 1 << 41) && out(sv39x4, u64::MAX));
    assert!(!out(AmdV1::new(6).into(), u64::MAX), "mode 6 takes all 64 bits");
    assert!(out(AmdV1::new(3).into(), 1 << 39));
}

/// AMD I/O Virtualization 2.2.3: the input bits of levels that are skipped must be zero.
#[test]
fn amd_tables_may_skip_levels() {
    // Mode 4; the root's entry leads to a table of AMD's level 2, skipping 3.
    let tables = memory(&[
        (0x1000, 1, 0x6000_0000_0000_2401),
        (0x2000, 3, 0x6000_0000_0000_3201),
        (0x3000, 5, 0x6000_0000_0009_9001),
    ]);
    let format = AmdV1::new(4);
    let iova = 1 << 39 | 3 << 21 | 5 << 12 | 0x321;
    let found = walk(&format, PhysAddr(0x1000), Iova(iova), load(&tables));
    assert_eq!(found.end.unwrap().address, PhysAddr(0x9_9321));
    assert_eq!(found.steps().iter().map(|step| step.level).collect::<Vec<_>>(), [3, 1, 0]);
    for bit in 30..39 {
        let error = walk(&format, PhysAddr(0x1000), Iova(iova | 1 << bit), load(&tables)).end.unwrap_err();
        assert_eq!(
            error,
            WalkError { at: PhysAddr(0x1008), level: 3, cause: Cause::SkippedBits },
            "bit {bit}"
        );
    }
}

/// VT-d 3.8: every first-stage table address, and the result, go through the second stage.
#[test]
fn a_first_stage_is_walked_through_a_second() {
    // The second stage maps 2 MiB of guest memory at 0 to 0x8020_0000.
    let host = RefCell::new(memory(&[(0x1000, 0, 0x2003), (0x1000, 1, 0), (0x2000, 0, 0x8020_0083)]));
    // The guest's tables lie at 0x1000 and on, in its own view.
    let guest = [(0x1000u64, 0u64, 0x2027u64), (0x2000, 0, 0x3027), (0x3000, 0, 0x4027), (0x4000, 9, 0x5067)];
    for (table, index, raw) in guest {
        host.borrow_mut().insert(0x8020_0000 + table + index * 8, raw);
    }
    let second = VtdSecondStage::new(3);
    let second_walks = RefCell::new(Vec::new());
    let through = |ipa: Ipa| {
        second_walks.borrow_mut().push(ipa.0);
        walk(&second, PhysAddr(0x1000), ipa, load(&host.borrow())).end
    };
    let first = walk(&X86::new(4), Ipa(0x1000), Iova(0x9abc), |at: Ipa| {
        let at = through(at).map_err(|error| (at, error))?.address;
        Ok::<_, (Ipa, WalkError<PhysAddr, u64>)>(host.borrow()[&at.0])
    });
    let ipa = first.end.unwrap().address;
    assert_eq!(ipa, Ipa(0x5abc));
    assert_eq!(through(ipa).unwrap().address, PhysAddr(0x8020_5abc));
    assert_eq!(*second_walks.borrow(), [0x1000, 0x2000, 0x3000, 0x4048, 0x5abc]);
    // A table that the second stage doesn't map ends the first stage's walk, with the second stage's reason.
    host.borrow_mut().insert(0x8020_2000, 0x4000_0027);
    let first = walk(&X86::new(4), Ipa(0x1000), Iova(0x9abc), |at: Ipa| {
        let at = through(at).map_err(|error| (at, error))?.address;
        Ok::<_, (Ipa, WalkError<PhysAddr, u64>)>(host.borrow()[&at.0])
    });
    let WalkError { level, cause: Cause::Load((at, second)), .. } = first.end.unwrap_err() else {
        panic!("the load failed");
    };
    assert_eq!((level, at), (1, Ipa(0x4000_0000)));
    assert_eq!(second, WalkError { at: PhysAddr(0x1008), level: 2, cause: Cause::NotPresent });
}

fn any_formats() -> Vec<AnyFormat> {
    vec![
        VtdSecondStage::new(5).into(),
        X86::new(5).into(),
        AmdV1::new(6).into(),
        ArmStage1::new(Granule::Size4K, 52, 52, false).unwrap().into(),
        Riscv::new(5).into(),
        Riscv::new_x4(5).into(),
    ]
}

proptest! {
    /// Whatever tables hold, a walk takes at most as many loads as there are levels, each entry aligned, and levels only fall.
    #[test]
    fn walks_through_arbitrary_memory_are_bounded(seed in any::<u64>(), input in any::<u64>(), root in any::<u64>(), which in 0usize..6) {
        let format = any_formats()[which];
        let mut loads = 0;
        // Entries that mostly lead on: present, of a plausible next level, at scattered addresses.
        let mut state = seed | 1;
        let found = walk(&format, PhysAddr(root), Iova(input), |_: PhysAddr| {
            loads += 1;
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            Ok::<_, ()>((state & 0x6000_00ff_ffff_ffff) | 3)
        });
        prop_assert!(loads <= usize::from(format.levels()));
        prop_assert_eq!(found.steps().len(), loads);
        prop_assert!(found.steps().is_sorted_by(|above, below| above.level > below.level));
        for step in found.steps() {
            let decoded = format.decode(step.level, step.raw);
            prop_assert!(!matches!(decoded, Entry::Table(next) if next.level >= step.level));
        }
    }
}
