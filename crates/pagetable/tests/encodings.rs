//! Bits, against values from outside: QEMU's masks, Linux's selftests and drivers, and the specifications' tables.

use portcullis_pagetable::format::{AmdV1, AnyFormat, ArmStage1, ArmStage2, Riscv, VtdSecondStage, X86};
use portcullis_pagetable::{Attributes, Entry, Flags, Format, Invalid, Rights};
use portcullis_spec::{Access, Granule, PagingFormat, Shareability};
use proptest::prelude::*;

fn rights(access: Access) -> Rights {
    Rights::from_access(access)
}

fn all() -> Attributes {
    Attributes::new(rights(Access::READ_WRITE | Access::EXECUTE))
}

/// Checks that every bit of `mask` and no other makes a present entry invalid.
fn reserved_are(format: &impl Format, level: u8, base: u64, mask: u64) {
    assert!(!matches!(format.decode(level, base), Entry::Invalid(_) | Entry::Empty), "{base:#x}");
    for bit in (0..64).map(|bit| 1u64 << bit).filter(|bit| base & bit == 0) {
        // PS makes another kind of entry, with reserved bits of its own.
        if bit == 0x80 && (level == 1 || level == 2) {
            continue;
        }
        let invalid = format.decode(level, base | bit) == Entry::Invalid(Invalid::Reserved);
        assert_eq!(invalid, mask & bit != 0, "level {level}, bit {bit:#x} on {base:#x}");
    }
}

/// QEMU 10 `intel_iommu_internal.h`, VTD_SPTE_*_RSVD_MASK, for 39 and 48 bits, where the unit has no snoop control.
#[test]
fn second_stage_reserved_bits_are_those_of_qemu() {
    for host_bits in [39, 48] {
        let format = VtdSecondStage { host_bits, snoop: false, ..VtdSecondStage::new(5) };
        let ignored = 0xbff0_0000_0000_0000u64;
        let beyond = !(((1 << host_bits) - 1) | ignored);
        reserved_are(&format, 0, 3, 0x800 | beyond);
        reserved_are(&format, 1, 3, 0x800 | beyond);
        reserved_are(&format, 2, 3, 0x800 | beyond);
        reserved_are(&format, 3, 3, 0x880 | beyond);
        reserved_are(&format, 1, 0x83, 0x1f_f800 | beyond);
        reserved_are(&format, 2, 0x83, 0x3fff_f800 | beyond);
        let snooping = VtdSecondStage { snoop: true, ..format };
        reserved_are(&snooping, 0, 3, beyond);
        reserved_are(&snooping, 1, 0x83, 0x1f_f000 | beyond);
        reserved_are(&snooping, 2, 0x83, 0x3fff_f000 | beyond);
        reserved_are(&snooping, 1, 3, 0x800 | beyond);
    }
}

/// CAP.SSLPS: without the size, PS is reserved.
#[test]
fn page_size_is_reserved_where_the_unit_has_no_such_page() {
    let format = VtdSecondStage { pages_2m: false, pages_1g: false, ..VtdSecondStage::new(4) };
    assert_eq!(format.decode(1, 0x83), Entry::Invalid(Invalid::Reserved));
    assert_eq!(format.decode(2, 0x83), Entry::Invalid(Invalid::Reserved));
    assert_eq!(format.page_sizes(), 0x1000);
    let format = X86 { pages_1g: false, ..X86::new(4) };
    assert_eq!(format.decode(2, 0x87), Entry::Invalid(Invalid::Reserved));
    assert!(matches!(format.decode(1, 0x87), Entry::Leaf(_)));
}

/// QEMU 10 `intel_iommu_internal.h`, VTD_FPTE_*_RSVD_MASK.
#[test]
fn first_stage_reserved_bits_are_those_of_qemu() {
    for host_bits in [39, 48] {
        let format = X86 { host_bits, ..X86::new(5) };
        let beyond = !(((1 << host_bits) - 1) | 0xfff0_0000_0000_0000u64);
        reserved_are(&format, 0, 7, beyond);
        reserved_are(&format, 1, 7, beyond);
        reserved_are(&format, 2, 7, beyond);
        reserved_are(&format, 3, 7, 0x80 | beyond);
        reserved_are(&format, 1, 0x87, 0x1f_e000 | beyond);
        reserved_are(&format, 2, 0x87, 0x3fff_e000 | beyond);
        let readable = X86 { execute_disable: false, ..format };
        reserved_are(&readable, 0, 7, beyond | 1 << 63);
    }
}

/// VT-d 9.8: an entry with R and W clear is not present, whatever else is in it. The others have a present bit.
#[test]
fn entries_that_are_not_present_are_empty_whatever_else_they_hold() {
    assert_eq!(VtdSecondStage::new(4).decode(0, !3), Entry::Empty);
    assert_eq!(X86::new(4).decode(0, !1), Entry::Empty);
    assert_eq!(AmdV1::new(4).decode(0, !1), Entry::Empty);
    assert_eq!(Riscv::new(4).decode(0, !1), Entry::Empty);
    let arm = ArmStage1::new(Granule::Size4K, 48, 48, false).unwrap();
    assert_eq!(arm.decode(0, !1), Entry::Empty);
    // Arm ARM D8.3: type 0b01 at level 3, and blocks at level 0 of 4 KiB granules, are as if not valid.
    assert_eq!(arm.decode(0, 0x401), Entry::Empty);
    assert_eq!(arm.decode(3, 0x401), Entry::Empty);
    let arm = ArmStage2::new(Granule::Size16K, 48, 48, 1).unwrap();
    assert_eq!(arm.decode(2, 0x401), Entry::Empty);
}

/// Linux `drivers/iommu/generic_pt/fmt/vtdss.h`: tables have R and W, leaves above the PTE have PS.
#[test]
fn second_stage_is_written_as_linux_writes_it() {
    let format = VtdSecondStage::new(4);
    let read = Attributes::new(rights(Access::READ | Access::EXECUTE));
    assert_eq!(format.encode_table(3, 0x1234_5000), 0x1234_5003);
    assert_eq!(format.encode_leaf(0, 12, 0x1234_5000, &all()), 0x1234_5003);
    assert_eq!(format.encode_leaf(0, 12, 0x1234_5000, &read), 0x1234_5001);
    assert_eq!(format.encode_leaf(1, 21, 0x4020_0000, &all()), 0x4020_0083);
    assert_eq!(format.encode_leaf(2, 30, 0x4000_0000, &all()), 0x4000_0083);
    let snoop = Attributes { force_snoop: true, ..all() };
    assert_eq!(format.encode_leaf(0, 12, 0x1234_5000, &snoop), 0x1234_5803);
    let tracked = VtdSecondStage { accessed_dirty: true, ..format };
    assert_eq!(tracked.encode_leaf(0, 12, 0x1000, &all()), 0x1303);
    assert_eq!(tracked.with_dirty(0, tracked.with_accessed(0, 0x1003)), 0x1303);
    assert_eq!(tracked.without_dirty(0, 0x1303), 0x1103);
}

/// Linux `generic_pt/fmt/x86_64.h`: tables are P, RW, U, A; a writable leaf P, RW, U, A, D.
#[test]
fn x86_is_written_as_linux_writes_it() {
    let format = X86::new(4);
    assert_eq!(format.encode_table(3, 0x1234_5000), 0x1234_5027);
    assert_eq!(format.encode_leaf(0, 12, 0x1234_5000, &all()), 0x1234_5067);
    let data = Attributes::new(rights(Access::READ)).clean();
    assert_eq!(format.encode_leaf(1, 21, 0x4020_0000, &data), 0x8000_0000_4020_00a5);
    // SDM vol. 3, 4.9.2: PAT is bit 7 of a PTE and bit 12 of a large page.
    let pat = Attributes { memory_type: 0b101, ..all() };
    assert_eq!(format.encode_leaf(0, 12, 0x1234_5000, &pat), 0x1234_50ef);
    assert_eq!(format.encode_leaf(1, 21, 0x4020_0000, &pat), 0x4020_10ef);
}

/// AMD I/O Virtualization 2.2.3, table of page size encodings: the lowest clear bit from 12 on is half the size. Permissions as
/// Linux `generic_pt/fmt/amdv1.h` has them.
#[test]
fn amd_page_sizes_are_coded_as_in_the_specification() {
    let format = AmdV1::new(4);
    assert_eq!(format.encode_table(3, 0x1234_5000), 0x6000_0000_1234_5601);
    assert_eq!(format.encode_leaf(0, 12, 0x1234_5000, &all()), 0x6000_0000_1234_5001);
    let coherent = Attributes { force_snoop: true, ..all() };
    assert_eq!(format.encode_leaf(0, 12, 0x1234_5000, &coherent), 0x7000_0000_1234_5001);
    assert_eq!(format.encode_leaf(1, 21, 0x4020_0000, &all()), 0x6000_0000_4020_0001);
    for (shift, level, low) in [
        (13u8, 0u8, 0x0000_0e01u64),
        (14, 0, 0x0000_1e01),
        (15, 0, 0x0000_3e01),
        (16, 0, 0x0000_7e01),
        (20, 0, 0x0007_fe01),
        (22, 1, 0x001f_fe01),
        (32, 2, 0x7fff_fe01),
    ] {
        let address = 1u64 << 40;
        let raw = format.encode_leaf(level, shift, address, &all());
        assert_eq!(raw, 0x6000_0000_0000_0000 | address | low, "2^{shift} bytes");
    }
    // A size that belongs to another level, and one that would be coded as 0.
    assert_eq!(format.decode(0, 0x6000_0000_001f_fe01), Entry::Invalid(Invalid::PageSize));
    assert_eq!(format.decode(1, 0x6000_0000_0000_0e01), Entry::Invalid(Invalid::PageSize));
    assert_eq!(format.decode(1, 0x6000_0000_000f_fe01), Entry::Invalid(Invalid::PageSize));
    assert_eq!(format.decode(0, 0x6fff_ffff_ffff_fe01 & !(0xff << 52)), Entry::Invalid(Invalid::PageSize));
    // Level 6 has no leaves, and next levels only go down.
    assert_eq!(AmdV1::new(6).decode(5, 0x6000_0000_0000_0001), Entry::Invalid(Invalid::PageSize));
    assert_eq!(format.decode(1, 0x6000_0000_0000_1401), Entry::Invalid(Invalid::NextLevel));
    assert_eq!(format.decode(0, 0x6000_0000_0000_1201), Entry::Invalid(Invalid::NextLevel));
    // 2.2.3: bits 58:52 of a PTE and 60:52 of a PDE are reserved.
    reserved_are(&format, 0, 0x6000_0000_0000_0001, 0x7f << 52);
    let pde = 0x6000_0000_0000_0201u64;
    for bit in 52..61 {
        assert_eq!(format.decode(2, pde | 1 << bit), Entry::Invalid(Invalid::Reserved), "bit {bit}");
    }
}

/// Linux `drivers/iommu/io-pgtable-arm.c`: AP, nG, AF, SH, XN and types of stage 1 and 2.
#[test]
fn arm_is_written_as_linux_writes_it() {
    let stage1 = ArmStage1::new(Granule::Size4K, 48, 48, false).unwrap();
    let cached = Attributes { memory_type: 1, shareability: Shareability::Inner, ..all() };
    assert_eq!(stage1.encode_leaf(0, 12, 0x1234_5000, &cached), 0x1234_5f47);
    assert_eq!(stage1.encode_leaf(1, 21, 0x4020_0000, &cached), 0x4020_0f45);
    assert_eq!(stage1.encode_table(2, 0x1234_5000), 0x1234_5003);
    let read = Attributes { rights: rights(Access::READ), ..cached };
    assert_eq!(stage1.encode_leaf(0, 12, 0x1234_5000, &read), 0x0060_0000_1234_5fc7);
    let stage2 = ArmStage2::new(Granule::Size4K, 40, 48, 1).unwrap();
    let cached = Attributes { memory_type: ArmStage2::WRITE_BACK, ..cached };
    assert_eq!(stage2.encode_leaf(0, 12, 0x1234_5000, &cached), 0x1234_57ff);
    let device = Attributes { memory_type: ArmStage2::DEVICE, rights: rights(Access::READ_WRITE), ..cached };
    assert_eq!(stage2.encode_leaf(1, 21, 0x4020_0000, &device), 0x0040_0000_4020_07c5);
    // The contiguous bit is 52; 64 KiB of 4 KiB pages.
    assert_eq!(stage2.encode_leaf(0, 16, 0x1234_5000, &cached), 0x0010_0000_1234_57ff);
    // D8.3, FEAT_LPA: with 64 KiB granules address bits 51:48 are in 15:12.
    let lpa = ArmStage2::new(Granule::Size64K, 48, 52, 1).unwrap();
    assert_eq!(lpa.encode_leaf(0, 16, 0x000f_0000_0001_0000, &cached), 0x0001_f7ff);
    // D8.3, FEAT_LPA2: with 4 KiB granules address bits 51:50 are in 9:8.
    let lpa2 = ArmStage1::new(Granule::Size4K, 52, 52, false).unwrap();
    let plain = Attributes { shareability: Shareability::Default, ..Attributes::new(all().rights) };
    assert_eq!(lpa2.encode_leaf(0, 12, 0x000f_0000_0000_1000, &plain), 0x0003_0000_0000_1f43);
}

/// D8.3 and `generic_pt/fmt/armv8.h`: with DBM, stage 1 is dirty where AP\[2\] is clear, stage 2 where S2AP\[1\] is set.
#[test]
fn arm_dirty_state_is_dbm_and_the_write_permission() {
    let stage1 = ArmStage1 { dirty: true, ..ArmStage1::new(Granule::Size4K, 48, 48, false).unwrap() };
    let clean = stage1.encode_leaf(0, 12, 0x1000, &all().clean());
    assert_eq!(clean & (1 << 51 | 0x80), 1 << 51 | 0x80);
    let dirty = stage1.with_dirty(0, clean);
    assert_eq!(dirty, clean & !0x80);
    assert_eq!(stage1.without_dirty(0, dirty), clean);
    for (raw, marked) in [(clean, false), (dirty, true)] {
        let Entry::Leaf(leaf) = stage1.decode(0, raw) else { panic!("a leaf") };
        assert_eq!(leaf.attributes.flags.contains(Flags::DIRTY), marked);
        assert!(leaf.attributes.rights.contains(Rights::WRITE));
    }
    let stage2 = ArmStage2 { dirty: true, ..ArmStage2::new(Granule::Size4K, 48, 48, 0).unwrap() };
    let clean = stage2.encode_leaf(0, 12, 0x1000, &all().clean());
    assert_eq!(clean & (1 << 51 | 0xc0), 1 << 51 | 0x40);
    assert_eq!(stage2.with_dirty(0, clean), clean | 0x80);
    assert_eq!(stage2.without_dirty(0, clean | 0x80), clean);
}

/// Privileged Architecture, figures of PTEs; Svnapot, table of encodings; Svpbmt.
#[test]
fn riscv_is_written_as_specified() {
    let format = Riscv::new(4);
    let user = all();
    assert_eq!(format.encode_table(1, 0x1234_5000), 0x12345 << 10 | 1);
    assert_eq!(format.encode_leaf(0, 12, 0x1234_5000, &user), 0x12345 << 10 | 0xdf);
    assert_eq!(format.encode_leaf(1, 21, 0x4020_0000, &user), 0x40200 << 10 | 0xdf);
    // 64 KiB: N, and 1000 in the low bits of the PPN; the same in all sixteen.
    for step in 0..16 {
        let raw = format.encode_leaf(0, 16, 0x4001_0000 + step * 0x1000, &user);
        assert_eq!(raw, 1 << 63 | 0x40018 << 10 | 0xdf);
    }
    let io = Attributes { memory_type: 2, ..user };
    assert_eq!(format.encode_leaf(0, 12, 0, &io), 2 << 61 | 0xdf);
    let leaf = 0xcfu64;
    // Step 3: W without R; reserved bits 60:54; PBMT 3; other NAPOT sizes; N above level 0; U, A, D in a table entry.
    assert_eq!(format.decode(0, 0x85), Entry::Invalid(Invalid::Permissions));
    for bit in 54..61 {
        assert_eq!(format.decode(0, leaf | 1 << bit), Entry::Invalid(Invalid::Reserved));
    }
    assert_eq!(format.decode(0, leaf | 3 << 61), Entry::Invalid(Invalid::Reserved));
    for low in (0..16).filter(|low| *low != 8) {
        assert_eq!(format.decode(0, leaf | 1 << 63 | low << 10), Entry::Invalid(Invalid::Reserved));
    }
    assert_eq!(format.decode(1, leaf | 1 << 63 | 8 << 10), Entry::Invalid(Invalid::Reserved));
    for bit in [4, 6, 7] {
        assert_eq!(format.decode(1, 1 | 1 << bit), Entry::Invalid(Invalid::Reserved));
    }
    assert_eq!(format.decode(0, 1), Entry::Invalid(Invalid::NextLevel));
    // Step 6: a misaligned superpage.
    assert_eq!(format.decode(1, leaf | 1 << 10), Entry::Invalid(Invalid::Misaligned));
    let bare = Riscv { svnapot: false, svpbmt: false, ..format };
    assert_eq!(bare.decode(0, leaf | 1 << 63 | 8 << 10), Entry::Invalid(Invalid::Reserved));
    assert_eq!(bare.decode(0, leaf | 1 << 61), Entry::Invalid(Invalid::Reserved));
}

/// Arm ARM D8.2: which granule, size and start level go together.
#[test]
fn arm_shapes_are_those_of_the_architecture() {
    let stage1 = |granule, bits| ArmStage1::new(granule, bits, 48, false).map(|format| format.levels());
    assert_eq!(stage1(Granule::Size4K, 48), Some(4));
    assert_eq!(stage1(Granule::Size4K, 39), Some(3));
    assert_eq!(stage1(Granule::Size4K, 25), Some(2));
    assert_eq!(stage1(Granule::Size16K, 48), Some(4));
    assert_eq!(stage1(Granule::Size16K, 47), Some(3));
    assert_eq!(stage1(Granule::Size64K, 42), Some(2));
    assert_eq!(stage1(Granule::Size64K, 52), Some(3));
    assert_eq!(stage1(Granule::Size4K, 52), Some(5));
    assert_eq!(stage1(Granule::Size4K, 53), None);
    let root = |granule, bits, start| {
        ArmStage2::new(granule, bits, 48, start).map(|format| 1u64 << format.root_shift())
    };
    // 40 bits from level 1: two tables side by side; 43 bits: sixteen; 44 bits need level 0.
    assert_eq!(root(Granule::Size4K, 40, 1), Some(2 * 4096));
    assert_eq!(root(Granule::Size4K, 43, 1), Some(16 * 4096));
    assert_eq!(root(Granule::Size4K, 44, 1), None);
    assert_eq!(root(Granule::Size4K, 44, 0), Some(4096));
    assert_eq!(root(Granule::Size16K, 40, 2), Some(16 * 16384));
    assert_eq!(root(Granule::Size64K, 46, 2), Some(16 * 65536));
    assert_eq!(root(Granule::Size64K, 46, 0), None);
    // RISC-V Sv39x4: the root is 16 KiB.
    assert_eq!(Riscv::new_x4(3).root_shift(), 14);
    assert_eq!(Riscv::new_x4(3).input_bits(), 41);
}

/// Every shape that the vocabulary can name becomes a format or is refused, and never panics.
#[test]
fn shapes_become_formats_or_are_refused() {
    for levels in 0..=u8::MAX {
        assert_eq!(
            AnyFormat::try_from(PagingFormat::VtdSecondStage { levels }).is_ok(),
            (3..=5).contains(&levels)
        );
        assert_eq!(AnyFormat::try_from(PagingFormat::X86 { levels }).is_ok(), (4..=5).contains(&levels));
        assert_eq!(
            AnyFormat::try_from(PagingFormat::AmdV1 { mode: levels }).is_ok(),
            (1..=6).contains(&levels)
        );
        assert_eq!(AnyFormat::try_from(PagingFormat::RiscvSv { levels }).is_ok(), (3..=5).contains(&levels));
        assert_eq!(
            AnyFormat::try_from(PagingFormat::RiscvSvX4 { levels }).is_ok(),
            (3..=5).contains(&levels)
        );
        for granule in [Granule::Size4K, Granule::Size16K, Granule::Size64K] {
            for start_level in [i8::MIN, -2, -1, 0, 1, 2, 3, 4, i8::MAX] {
                for output_bits in [0, 31, 32, 48, 52, 53, u8::MAX] {
                    let shape =
                        PagingFormat::ArmStage2 { granule, input_bits: levels, output_bits, start_level };
                    if let Ok(format) = AnyFormat::try_from(shape) {
                        assert_eq!(i16::from(format.levels()), 4 - i16::from(start_level));
                    }
                    let shape =
                        PagingFormat::ArmStage1 { granule, input_bits: levels, output_bits, upper: true };
                    let _ = AnyFormat::try_from(shape);
                }
            }
        }
    }
}

/// One of every format, with what it can have.
fn formats() -> Vec<AnyFormat> {
    let mut formats: Vec<AnyFormat> = vec![
        VtdSecondStage { accessed_dirty: true, transient: true, ..VtdSecondStage::new(5) }.into(),
        X86 { extended_accessed: true, ..X86::new(5) }.into(),
        AmdV1 { accessed_dirty: true, ..AmdV1::new(6) }.into(),
        Riscv::new(5).into(),
        Riscv::new_x4(3).into(),
    ];
    for granule in [Granule::Size4K, Granule::Size16K, Granule::Size64K] {
        for bits in [48, 52] {
            let stage1 = ArmStage1::new(granule, bits, bits, false).unwrap();
            formats.push(stage1.into());
            formats.push(ArmStage1 { dirty: true, ..stage1 }.into());
            let start_level = 4 - stage1.levels() as i8;
            let stage2 = ArmStage2::new(granule, bits, bits, start_level).unwrap();
            formats.push(stage2.into());
            formats.push(ArmStage2 { dirty: true, xnx: true, ..stage2 }.into());
        }
    }
    formats
}

fn attributes() -> impl Strategy<Value = Attributes> {
    let shareability = prop_oneof![
        Just(Shareability::Default),
        Just(Shareability::NonShareable),
        Just(Shareability::Inner),
        Just(Shareability::Outer)
    ];
    (any::<u8>(), any::<u8>(), 0u8..16, shareability, any::<bool>()).prop_map(
        |(rights, flags, memory_type, shareability, force_snoop)| Attributes {
            rights: Rights::from_bits_truncate(rights),
            flags: Flags::from_bits_truncate(flags),
            memory_type,
            shareability,
            force_snoop,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, max_global_rejects: 1 << 20, ..ProptestConfig::default() })]

    /// What is written reads back, at every level and size of every format, with all that `expressible` promised.
    #[test]
    fn leaves_read_back_as_written(attributes in attributes(), frame in any::<u64>(), size in any::<prop::sample::Index>(), which in any::<prop::sample::Index>()) {
        let formats = formats();
        let format = which.get(&formats);
        prop_assume!(format.expressible(&attributes).is_ok());
        let sizes: Vec<u8> = (0..64).filter(|shift| format.page_sizes() >> shift & 1 == 1).collect();
        let shift = *size.get(&sizes);
        let level = format.level_of(shift);
        let output = u64::MAX >> (64 - format.output_bits());
        let page = frame & output & (u64::MAX << shift);
        let span = format.span_shift(level);
        for part in [0, (1u64 << (shift - span)) - 1] {
            let address = page + (part << span);
            let raw = format.encode_leaf(level, shift, address, &attributes);
            let Entry::Leaf(leaf) = format.decode(level, raw) else {
                panic!("{format:?} level {level}: {raw:#x} is {:?}", format.decode(level, raw));
            };
            prop_assert_eq!(leaf.run_shift, shift);
            prop_assert_eq!(leaf.address, address & (u64::MAX << leaf.shift));
            prop_assert_eq!(leaf.address >> shift << shift, page);
            let read = leaf.attributes;
            // Marks that a format doesn't have, or that mean nothing on a page that cannot be written, are not kept.
            prop_assert!(attributes.flags.contains(read.flags));
            prop_assert_eq!(read.memory_type, attributes.memory_type);
            prop_assert_eq!(read.force_snoop, attributes.force_snoop);
            if attributes.shareability != Shareability::Default {
                prop_assert_eq!(read.shareability, attributes.shareability);
            }
            let (mut wanted, mut got) = (attributes.rights, read.rights);
            if matches!(format, AnyFormat::VtdSecondStage(_) | AnyFormat::AmdV1(_)) {
                // No execute bits: what may be read may be executed.
                let execute = Rights::EXECUTE | Rights::PRIVILEGED_EXECUTE;
                (wanted, got) = (wanted - execute, got - execute);
            }
            prop_assert_eq!(wanted, got);
            // Marking is exact: it changes the mark and nothing else.
            let marked = format.with_accessed(level, raw);
            if let Entry::Leaf(leaf) = format.decode(level, marked) {
                prop_assert_eq!(leaf.attributes.flags - Flags::ACCESSED, read.flags - Flags::ACCESSED);
                prop_assert_eq!(Attributes { flags: read.flags, ..leaf.attributes }, read);
            }
            let cleaned = format.without_dirty(level, raw);
            if let Entry::Leaf(leaf) = format.decode(level, cleaned) {
                prop_assert_eq!(leaf.attributes, Attributes { flags: read.flags - Flags::DIRTY, ..read });
            }
        }
        if level > 0 {
            let table = frame & output & (u64::MAX << format.granule_shift());
            let Entry::Table(entry) = format.decode(level, format.encode_table(level, table)) else {
                panic!("a table");
            };
            prop_assert_eq!((entry.address, entry.level, entry.rights), (table, level - 1, Rights::all()));
        }
    }

    /// Any 64 bits at any level decode to something that keeps its promises.
    #[test]
    fn any_bits_decode_to_something_bounded(raw in any::<u64>(), which in any::<prop::sample::Index>()) {
        let formats = formats();
        let format = which.get(&formats);
        for level in 0..format.levels() {
            match format.decode(level, raw) {
                Entry::Table(next) => {
                    prop_assert!(next.level < level);
                    prop_assert_eq!(next.address & 0xfff, 0);
                    prop_assert_eq!(next.address >> format.output_bits(), 0);
                }
                Entry::Leaf(leaf) => {
                    prop_assert!(leaf.shift >= format.span_shift(level) && leaf.shift <= leaf.run_shift);
                    prop_assert_eq!(leaf.address & ((1 << leaf.shift) - 1), 0);
                    prop_assert_eq!(leaf.address >> format.output_bits(), 0);
                }
                Entry::Empty | Entry::Invalid(_) => {}
            }
        }
    }
}
