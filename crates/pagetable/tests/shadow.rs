//! Random programs of map, unmap and permission change, against a map of pages that knows no tables, read back by
//! readers that share no code with the crate.

mod common;

use common::Arena;
use common::readers::{self, Answer, ArmTables};
use common::shadow::Shadow;
use portcullis_pagetable::format::{
    AmdV1, AnyFormat, ArmShape, ArmStage1, ArmStage2, Riscv, VtdSecondStage, X86,
};
use portcullis_pagetable::{Attributes, Error, Format, Gather, Map, PageTable, Rights, Split};
use portcullis_spec::{Access, Granule, Iova, PhysAddr};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Operation {
    Map { at: u64, pages: u64, address: u64, rights: usize, sizes: u64 },
    Unmap { at: u64, pages: u64 },
    Protect { at: u64, pages: u64, rights: usize },
    Reclaim,
}

/// A format under test: how to read it back, and the addresses worth trying.
struct Case<F> {
    format: F,
    reader: fn(&Arena, &F, u64, u64) -> Answer,
    /// Starts of the windows in which operations fall; each is some pages wide.
    windows: Vec<u64>,
    rights: Vec<Rights>,
}

/// Offsets and lengths that meet boundaries often: near multiples of the larger page sizes.
fn operation() -> impl Strategy<Value = Operation> {
    let at = prop_oneof![0u64..40, 480u64..560, 0u64..2100];
    let pages = prop_oneof![1u64..20, 500u64..540, 1000u64..1100];
    let address = prop_oneof![Just(0u64), 0u64..40, Just(1u64 << 18)];
    let sizes = prop_oneof![3 => Just(u64::MAX), 1 => any::<u64>()];
    prop_oneof![
        4 => (at.clone(), pages.clone(), address, 0usize..8, sizes)
            .prop_map(|(at, pages, address, rights, sizes)| Operation::Map { at, pages, address, rights, sizes }),
        3 => (at.clone(), pages.clone()).prop_map(|(at, pages)| Operation::Unmap { at, pages }),
        2 => (at, pages, 0usize..8).prop_map(|(at, pages, rights)| Operation::Protect { at, pages, rights }),
        1 => Just(Operation::Reclaim),
    ]
}

fn program() -> impl Strategy<Value = Vec<(usize, Operation)>> {
    prop::collection::vec((0usize..8, operation()), 1..12)
}

/// Runs a program on a table and on the shadow, and compares after every operation.
fn run<F: Format>(case: &Case<F>, program: &[(usize, Operation)]) {
    let format = case.format;
    let arena = Arena::new(2 << 20);
    let mut table = PageTable::new(format, &arena).unwrap();
    let page = 1u64 << format.granule_shift();
    let mut shadow = Shadow::new(page);
    let mut probes = Vec::new();
    for (window, operation) in program {
        let start = case.windows[window % case.windows.len()];
        let mut gather = Gather::new();
        let mut invalidate = |_, _| {};
        let mut split = if format.break_before_make() {
            Split::BreakBeforeMake(&mut invalidate)
        } else {
            Split::Exchange
        };
        match *operation {
            Operation::Map { at, pages, address, rights, sizes } => {
                let (iova, size) = (start + at * page, pages * page);
                // Congruent with the input, so that large pages fit, but for a few pages now and then.
                let address = (start & ((1 << 40) - 1)) + (at + address) * page;
                let rights = case.rights[rights % case.rights.len()];
                // The smallest page is always allowed here; what happens without is tested elsewhere.
                let page_sizes = sizes | page;
                let attributes = Attributes::new(rights);
                let map = Map { page_sizes, ..Map::new(Iova(iova), PhysAddr(address), size, attributes) };
                match (table.map(&map, &mut gather), shadow.map(iova, address, size, rights)) {
                    (Ok(()), Ok(())) => {}
                    (Err(Error::Overlap { iova }), Err(taken)) => assert_eq!(iova.0, taken),
                    other => panic!("{other:x?}"),
                }
                probes.extend([iova, iova + size - page, iova + size, iova.wrapping_sub(page)]);
            }
            Operation::Unmap { at, pages } => {
                let (iova, size) = (start + at * page, pages * page);
                let bytes = table.unmap(Iova(iova), size, &mut split, &mut gather).unwrap();
                assert_eq!(bytes, shadow.unmap(iova, size));
                if bytes != 0 {
                    let (first, last) = gather.range().unwrap();
                    assert!(first.0 <= iova && iova + (size - 1) <= last.0);
                }
                probes.extend([iova, iova + size - page, iova + size, iova.wrapping_sub(page)]);
            }
            Operation::Protect { at, pages, rights } => {
                let (iova, size) = (start + at * page, pages * page);
                let rights = case.rights[rights % case.rights.len()];
                let bytes = table.protect(Iova(iova), size, rights, &mut split, &mut gather).unwrap();
                assert_eq!(bytes, shadow.protect(iova, size, rights));
                probes.extend([iova, iova + size - page, iova + size, iova.wrapping_sub(page)]);
            }
            Operation::Reclaim => {
                for start in &case.windows {
                    table.reclaim(Iova(*start), page * 4096, &mut gather).unwrap();
                }
            }
        }
        compare(case, &table, &arena, &shadow, &probes);
        gather.release(&&arena).unwrap();
        compare(case, &table, &arena, &shadow, &probes);
    }
    let mut gather = Gather::new();
    for start in &case.windows {
        table.reclaim(Iova(*start), page * 4096, &mut gather).unwrap();
    }
    gather.release(&&arena).unwrap();
    if shadow.pages.is_empty() {
        assert_eq!(arena.live(), 1, "only the root is left when nothing is mapped");
    }
    table.destroy().unwrap();
    assert_eq!(arena.live(), 0, "every table came back");
}

fn compare<F: Format>(
    case: &Case<F>,
    table: &PageTable<F, &Arena>,
    arena: &Arena,
    shadow: &Shadow,
    probes: &[u64],
) {
    // The engine's own listing is exactly the shadow, page by page in order.
    let mut expected = shadow.pages.iter();
    for start in &case.windows {
        table
            .for_each_page(Iova(*start), shadow.page * 4096, |found| {
                for offset in (0..1u64 << found.shift).step_by(usize::try_from(shadow.page).unwrap()) {
                    let (iova, (address, rights)) = expected.next().expect("more pages than the shadow has");
                    assert_eq!((found.iova.0 + offset, found.address.0 + offset), (*iova, *address));
                    assert_eq!(found.attributes.rights, *rights);
                }
            })
            .unwrap();
    }
    assert_eq!(expected.next(), None, "fewer pages than the shadow has");
    // And a reader that knows only the specification agrees, at every edge and at places between.
    let between = shadow.pages.keys().step_by(37).copied();
    for probe in probes.iter().copied().chain(between) {
        let within = probe + 0x123;
        let Some(_) = case.format.offset(within) else {
            continue;
        };
        let expected = shadow.pages.get(&probe).map(|(address, rights)| (address + 0x123, *rights));
        assert_eq!((case.reader)(arena, &case.format, table.root().0, within), expected, "{probe:#x}");
        let query = table.query(Iova(within)).unwrap();
        assert_eq!(query.map(|found| (found.address.0, found.attributes.rights)), expected, "{probe:#x}");
    }
}

macro_rules! cases {
    ($($name:ident: $case:expr;)*) => {
        proptest! {
            #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]
            $(
                #[test]
                fn $name(program in program()) {
                    run(&$case, &program);
                }
            )*
        }
    };
}

/// Rights without privilege, with and without each of read and write as the format has them.
fn plain_rights() -> Vec<Rights> {
    let execute = Rights::EXECUTE | Rights::PRIVILEGED_EXECUTE;
    vec![
        Rights::from_access(Access::READ) | execute,
        Rights::from_access(Access::READ_WRITE) | execute,
        Rights::from_access(Access::WRITE),
    ]
}

/// Where windows are interesting in an address space of `bits` bits: its start, around a boundary of the largest pages that are
/// tried, and its end. Each is 4096 of `page` wide.
fn windows(bits: u8, page: u64) -> Vec<u64> {
    let top = u64::MAX >> (64 - bits);
    let mut windows = vec![0];
    if bits > 31 {
        windows.push((1 << 30) - 512 * page);
    }
    let end = top - (4096 * page - 1);
    if end > *windows.last().unwrap() {
        windows.push(end);
    }
    windows
}

fn vtd_second_stage(levels: u8) -> Case<VtdSecondStage> {
    Case {
        format: VtdSecondStage::new(levels),
        reader: |arena, format, root, iova| {
            readers::vtd_second_stage(arena, u32::from(format.levels), root, iova)
        },
        windows: windows(12 + 9 * levels, 1 << 12),
        rights: plain_rights(),
    }
}

fn x86(levels: u8) -> Case<X86> {
    let bits = 12 + 9 * levels;
    let mut windows = windows(bits - 1, 1 << 12);
    windows.push(u64::MAX << (bits - 1));
    windows.push(u64::MAX - ((4096 << 12) - 1));
    let execute = Rights::EXECUTE | Rights::PRIVILEGED_EXECUTE;
    Case {
        format: X86::new(levels),
        reader: |arena, format, root, iova| readers::x86(arena, u32::from(format.levels), root, iova),
        windows,
        rights: vec![
            Rights::READ,
            Rights::READ | Rights::WRITE | Rights::USER,
            Rights::READ | Rights::USER | execute,
            Rights::READ | Rights::WRITE | execute,
        ],
    }
}

fn amd_v1(mode: u8) -> Case<AmdV1> {
    let format = AmdV1::new(mode);
    Case {
        format,
        reader: |arena, format, root, iova| readers::amd_v1(arena, u32::from(format.mode), root, iova),
        windows: windows(format.input_bits(), 1 << 12),
        rights: [plain_rights(), vec![Rights::USER]].concat(),
    }
}

fn arm_tables(shape: &ArmShape) -> ArmTables {
    let granule = u32::from(shape.granule.shift());
    ArmTables {
        granule,
        input_bits: u32::from(shape.input_bits),
        start_level: 4 - i32::from(shape.levels),
        lpa2: shape.lpa2,
        lpa: granule == 16 && shape.output_bits == 52,
    }
}

fn arm_stage1(granule: Granule, input_bits: u8, output_bits: u8, upper: bool) -> Case<ArmStage1> {
    let format = ArmStage1::new(granule, input_bits, output_bits, upper).unwrap();
    let windows = windows(input_bits, 1 << granule.shift());
    Case {
        format,
        reader: |arena, format, root, iova| {
            readers::arm_stage1(arena, &arm_tables(&format.shape), root, iova)
        },
        windows: windows.into_iter().map(|offset| format.input(offset)).collect(),
        rights: vec![
            Rights::READ,
            Rights::READ | Rights::WRITE | Rights::USER,
            Rights::READ | Rights::USER | Rights::EXECUTE,
            Rights::READ | Rights::PRIVILEGED_EXECUTE,
        ],
    }
}

fn arm_stage2(granule: Granule, input_bits: u8, output_bits: u8, start_level: i8) -> Case<ArmStage2> {
    let execute = Rights::EXECUTE | Rights::PRIVILEGED_EXECUTE;
    Case {
        format: ArmStage2::new(granule, input_bits, output_bits, start_level).unwrap(),
        reader: |arena, format, root, iova| {
            readers::arm_stage2(arena, &arm_tables(&format.shape), root, iova)
        },
        windows: windows(input_bits, 1 << granule.shift()),
        rights: vec![
            Rights::USER,
            Rights::USER | Rights::READ | execute,
            Rights::USER | Rights::WRITE,
            Rights::USER | Rights::READ | Rights::WRITE,
        ],
    }
}

fn riscv(format: Riscv) -> Case<Riscv> {
    let bits = format.input_bits();
    let mut places = windows(if format.x4 { bits } else { bits - 1 }, 1 << 12);
    if !format.x4 {
        places.push(u64::MAX << (bits - 1));
        places.push(u64::MAX - ((4096 << 12) - 1));
    }
    let execute = Rights::EXECUTE | Rights::PRIVILEGED_EXECUTE;
    let mut rights = vec![
        Rights::READ | Rights::USER,
        Rights::READ | Rights::WRITE | Rights::USER,
        execute | Rights::USER,
    ];
    if !format.x4 {
        rights.push(Rights::READ | Rights::WRITE | execute);
    }
    Case {
        format,
        reader: |arena, format, root, iova| {
            readers::riscv(arena, u32::from(format.levels), format.x4, root, iova)
        },
        windows: places,
        rights,
    }
}

cases! {
    vtd_second_stage_3_levels: vtd_second_stage(3);
    vtd_second_stage_4_levels: vtd_second_stage(4);
    vtd_second_stage_5_levels: vtd_second_stage(5);
    x86_4_levels: x86(4);
    x86_5_levels: x86(5);
    amd_v1_mode_2: amd_v1(2);
    amd_v1_mode_3: amd_v1(3);
    amd_v1_mode_4: amd_v1(4);
    amd_v1_mode_5: amd_v1(5);
    amd_v1_mode_6: amd_v1(6);
    arm_stage1_4k_48_bits: arm_stage1(Granule::Size4K, 48, 48, false);
    arm_stage1_4k_39_bits_upper: arm_stage1(Granule::Size4K, 39, 48, true);
    arm_stage1_4k_52_bits: arm_stage1(Granule::Size4K, 52, 52, false);
    arm_stage1_4k_32_bits: arm_stage1(Granule::Size4K, 32, 48, false);
    arm_stage1_16k_47_bits: arm_stage1(Granule::Size16K, 47, 48, false);
    arm_stage1_16k_52_bits_upper: arm_stage1(Granule::Size16K, 52, 52, true);
    arm_stage1_64k_48_bits: arm_stage1(Granule::Size64K, 48, 48, false);
    arm_stage1_64k_52_bits: arm_stage1(Granule::Size64K, 52, 52, false);
    arm_stage2_4k_40_bits_concatenated: arm_stage2(Granule::Size4K, 40, 48, 1);
    arm_stage2_4k_43_bits_concatenated: arm_stage2(Granule::Size4K, 43, 48, 1);
    arm_stage2_4k_48_bits: arm_stage2(Granule::Size4K, 48, 48, 0);
    arm_stage2_4k_33_bits_level_2: arm_stage2(Granule::Size4K, 33, 48, 2);
    arm_stage2_16k_40_bits_level_2: arm_stage2(Granule::Size16K, 40, 48, 2);
    arm_stage2_16k_48_bits: arm_stage2(Granule::Size16K, 48, 48, 1);
    arm_stage2_64k_46_bits_level_2: arm_stage2(Granule::Size64K, 46, 48, 2);
    riscv_sv39: riscv(Riscv::new(3));
    riscv_sv48: riscv(Riscv::new(4));
    riscv_sv57: riscv(Riscv::new(5));
    riscv_sv39x4: riscv(Riscv::new_x4(3));
    riscv_sv48x4: riscv(Riscv::new_x4(4));
    riscv_sv57x4: riscv(Riscv::new_x4(5));
    any_format: {
        let case = riscv(Riscv::new_x4(3));
        Case {
            format: AnyFormat::from(case.format),
            reader: |arena, _, root, iova| readers::riscv(arena, 3, true, root, iova),
            windows: case.windows,
            rights: case.rights,
        }
    };
}
