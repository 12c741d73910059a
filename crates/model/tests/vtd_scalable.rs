//! Scalable mode: root, context, PASID directory and PASID table; first stage, second stage, pass-through (VT-d 3.4.3, 3.6,
//! 7.1.3, 9.2, 9.4 to 9.8). Nested translation is in `vtd_nested.rs`.

mod common;

use common::*;
use portcullis_model::vtd::config::VtdConfig;
use portcullis_spec::{Access, Iova, Transaction};

const P: u64 = 1;
const RW_: u64 = 2;
const US: u64 = 4;
const A: u64 = 1 << 5;
const D: u64 = 1 << 6;
const EA: u64 = 1 << 10;
const USER_RW: u64 = P | RW_ | US;

const FIRST: u64 = 1 << 6;
const SECOND: u64 = 2 << 6;
const PASS: u64 = 4 << 6;
const SSADE: u64 = 1 << 9;
const PWSNP: u64 = 1 << 23;
const SRE: u64 = 1;
const WPE: u64 = 1 << 4;
const EAFE: u64 = 1 << 7;
const AW_48: u64 = 2 << 2;

/// A machine whose device reaches first-stage tables by RID_PASID 0, and those tables.
fn first_stage(word2: u64) -> (Machine, u64) {
    let mut machine = Machine::scalable();
    let table = machine.allocate();
    machine.pasid(DEVICE, 0, [FIRST | P, PWSNP | 7, table | word2]);
    (machine, table)
}

/// The same with second-stage tables.
fn second_stage(word0: u64, word1: u64) -> (Machine, u64) {
    let mut machine = Machine::scalable();
    let table = machine.allocate();
    machine.pasid(DEVICE, 0, [table | SECOND | AW_48 | P | word0, word1 | 7, 0]);
    (machine, table)
}

#[test]
fn the_first_stage_translates_and_sets_accessed_and_dirty() {
    // VT-d 3.6.2: Accessed in every entry used, Dirty in the leaf of a write.
    let (mut machine, table) = first_stage(0);
    let leaf = machine.map_first(table, 0x40_0000, PAGE, USER_RW);
    machine.put(PAGE, 9);
    assert_eq!(machine.read(DEVICE, 0x40_0000), Ok(9));
    assert_eq!(machine.get(leaf), PAGE | USER_RW | A);
    assert_eq!(machine.get(table) & 0xfff, USER_RW | A);
    // The page is cached by now; a write must set Dirty all the same.
    machine.write(DEVICE, 0x40_0000, 10).unwrap();
    assert_eq!(machine.get(leaf), PAGE | USER_RW | A | D);
    assert_eq!(machine.get(table) & 0xfff, USER_RW | A, "Dirty is a leaf's");
    assert_eq!(machine.get(PAGE), 10);
}

#[test]
fn extended_accessed_is_set_where_eafe_says_so() {
    // VT-d 3.6.3.
    for (eafe, expected) in [(0, USER_RW | A), (EAFE, USER_RW | A | EA)] {
        let (mut machine, table) = first_stage(eafe);
        let leaf = machine.map_first(table, 0, PAGE, USER_RW);
        machine.read(DEVICE, 0).unwrap();
        assert_eq!(machine.get(leaf) & 0xfff, expected);
        assert_eq!(machine.get(table) & 0xfff, expected);
    }
}

#[test]
fn without_page_walk_snoop_flags_can_not_be_set() {
    // VT-d 7.1.3, SFS.9 and SSS.5: only where a flag has to be set.
    let (mut machine, table) = first_stage(0);
    let entry = machine.pasid_entry(DEVICE, 0);
    machine.put(entry + 8, 7);
    let leaf = machine.map_at(table, 4, 0, 0, USER_RW | A, PAGE | USER_RW | A);
    machine.read(DEVICE, 0).unwrap();
    machine.refused(machine.write(DEVICE, 0, 1), 0x90);
    machine.put(leaf, PAGE | USER_RW | A | D);
    machine.write(DEVICE, 0, 1).unwrap();
    machine.map_at(table, 4, 0, 0x1000, USER_RW | A, PAGE | USER_RW);
    machine.refused(machine.read(DEVICE, 0x1000), 0x90);

    let (mut machine, table) = second_stage(SSADE, 0);
    let leaf = machine.map(table, 0, PAGE, RW);
    machine.refused(machine.read(DEVICE, 0), 0x7c);
    assert_eq!(machine.get(leaf), PAGE | RW);
}

#[test]
fn second_stage_flags_are_kept_where_ssade_says_so() {
    // VT-d 3.7.2: A is bit 8, D bit 9.
    let (mut machine, table) = second_stage(SSADE, PWSNP);
    let leaf = machine.map(table, 0, PAGE, RW);
    machine.read(DEVICE, 0).unwrap();
    assert_eq!((machine.get(leaf) & 0xfff, machine.get(table) & 0xfff), (RW | 1 << 8, RW | 1 << 8));
    machine.write(DEVICE, 0, 1).unwrap();
    assert_eq!((machine.get(leaf) & 0xfff, machine.get(table) & 0xfff), (RW | 3 << 8, RW | 1 << 8));
    let (mut machine, table) = second_stage(0, PWSNP);
    let leaf = machine.map(table, 0, PAGE, RW);
    machine.write(DEVICE, 0, 1).unwrap();
    assert_eq!(machine.get(leaf), PAGE | RW);
}

#[test]
fn requests_with_pasid_go_through_their_own_entry() {
    let mut machine = Machine::scalable();
    for pasid in [0u64, 1, 64, 0xf_ffff] {
        let table = machine.allocate();
        machine.pasid(DEVICE, pasid, [FIRST | P, PWSNP | 7, table]);
        machine.map_first(table, 0x1000, PAGE + (pasid & 0xff) * 0x1000, USER_RW);
    }
    machine.put(PAGE, 100);
    machine.put(PAGE + 0x1000, 101);
    machine.put(PAGE + 0x4_0000, 164);
    machine.put(PAGE + 0xf_f000, 255);
    assert_eq!(machine.read(DEVICE, 0x1000), Ok(100));
    assert_eq!(read(&machine.pasid_port(DEVICE, 1), 0x1000), Ok(101));
    assert_eq!(read(&machine.pasid_port(DEVICE, 64), 0x1000), Ok(164));
    assert_eq!(read(&machine.pasid_port(DEVICE, 0xf_ffff), 0x1000), Ok(255));
    let fault = machine.refused(read(&machine.pasid_port(DEVICE, 2), 0x1000), 0x59);
    assert_eq!(fault.pasid.map(u32::from), Some(2));
}

#[test]
fn a_record_names_the_pasid_of_a_request_that_has_one() {
    // VT-d 11.4.7.6: PP bit 95, PV 123:104 of the register; a RID_PASID is none.
    let mut machine = Machine::scalable();
    machine.pasid_entry(DEVICE, 0x12345);
    machine.pasid_entry(DEVICE, 0);
    read(&machine.pasid_port(DEVICE, 0x12345), 0).unwrap_err();
    let [_, high] = machine.take_faults()[0];
    assert_eq!((high >> 31 & 1, high >> 40 & 0xf_ffff), (1, 0x12345));
    machine.read(DEVICE, 0).unwrap_err();
    let [_, high] = machine.take_faults()[0];
    assert_eq!((high >> 31 & 1, high >> 40 & 0xf_ffff), (0, 0));
}

#[test]
fn rid_pasid_chooses_the_entry_of_requests_without_pasid() {
    let mut machine = Machine::scalable();
    let table = machine.allocate();
    machine.pasid(DEVICE, 77, [FIRST | P, PWSNP | 7, table]);
    machine.map_first(table, 0, PAGE, USER_RW);
    let context = machine.scalable_entry(DEVICE);
    machine.put(context + 8, 77);
    assert!(machine.read(DEVICE, 0).is_ok());
    // VT-d 7.1.3, SCT.9: beyond the directory of 2^(PDTS+7) entries of 64.
    let directory = machine.get(context) & !0xfff;
    machine.put(context, directory | 1 << 3 | 1);
    machine.put(context + 8, 128 * 64);
    machine.invalidate_all();
    machine.refused(machine.read(DEVICE, 0), 0x48);
    machine.put(context + 8, 128 * 64 - 1);
    machine.invalidate_all();
    machine.refused(machine.read(DEVICE, 0), 0x51);
}

#[test]
fn devices_16_to_31_use_the_upper_half_of_a_root_entry() {
    // VT-d 9.2: UP and UCTP serve devices 16 to 31.
    let mut machine = Machine::scalable();
    let source = 0x80 | 3;
    let table = machine.allocate();
    machine.pasid(source, 0, [FIRST | P, PWSNP, table]);
    machine.map_first(table, 0, PAGE, USER_RW);
    assert_eq!(machine.get(machine.root), 0);
    assert!(machine.read(source, 0).is_ok());
    machine.refused(machine.read(3, 0), 0x39);
}

#[test]
fn root_and_context_faults() {
    let mut machine = Machine::scalable();
    machine.refused(machine.read(DEVICE, 0), 0x39);
    machine.put(machine.root, 0x1000 | 1 << 1 | P);
    machine.invalidate_all();
    machine.refused(machine.read(DEVICE, 0), 0x3a);
    machine.put(machine.root, MEMORY | P);
    machine.invalidate_all();
    machine.refused(machine.read(DEVICE, 0), 0x40);
    machine.put(machine.root, 0);
    let context = machine.scalable_entry(DEVICE);
    machine.invalidate_all();
    machine.refused(machine.read(DEVICE, 0), 0x41);
    // VT-d 9.4: reserved are 8:5, 63 above HAW, 127:85, 255:128; DTE and PRE without device-TLBs and page requests.
    for (word, bit) in [(0, 2), (0, 4), (0, 5), (0, 8), (0, 52), (1, 21), (1, 63), (2, 0), (3, 63)] {
        for index in 0..4 {
            machine.put(context + 8 * index, 0);
        }
        machine.put(context + 8 * word, 1 << bit);
        let low = machine.get(context);
        machine.put(context, low | P);
        machine.invalidate_all();
        machine.refused(machine.read(DEVICE, 0), 0x42);
    }
    machine.set_root(MEMORY | 1 << 10);
    machine.invalidate_all();
    machine.refused(machine.read(DEVICE, 0), 0x38);
}

#[test]
fn a_context_entry_refuses_pasids_that_it_does_not_allow() {
    let mut machine = Machine::scalable();
    let table = machine.allocate();
    for pasid in [0, 1] {
        machine.pasid(DEVICE, pasid, [FIRST | P, PWSNP | 7, table]);
    }
    machine.map_first(table, 0, PAGE, USER_RW);
    let context = machine.scalable_entry(DEVICE);
    let low = machine.get(context);
    // VT-d 7.1.3, SCT.6: PASIDE clear.
    machine.put(context, low & !(1 << 3));
    machine.invalidate_all();
    machine.refused(read(&machine.pasid_port(DEVICE, 1), 0), 0x45);
    assert!(machine.read(DEVICE, 0).is_ok());
    // SCT.7: beyond 2^(PDTS+7) directory entries.
    machine.put(context, low & !(7 << 9));
    machine.invalidate_all();
    machine.refused(read(&machine.pasid_port(DEVICE, 128 * 64), 0), 0x46);
    assert!(read(&machine.pasid_port(DEVICE, 1), 0).is_ok());
}

#[test]
fn pasid_directory_and_table_faults() {
    let (mut machine, table) = first_stage(0);
    machine.map_first(table, 0, PAGE, USER_RW);
    let context = machine.scalable_entry(DEVICE);
    let directory = machine.get(context) & !0xfff;
    let good = machine.get(directory);
    for (value, code) in [(0, 0x51), (good | 1 << 2, 0x52), (good | 1 << 11, 0x52), (good | 1 << 52, 0x52)] {
        machine.put(directory, value);
        machine.invalidate_all();
        machine.refused(machine.read(DEVICE, 0), code);
    }
    machine.put(directory, MEMORY | P);
    machine.invalidate_all();
    machine.refused(machine.read(DEVICE, 0), 0x58);
    machine.put(directory, good);
    machine.put(context, MEMORY | P);
    machine.invalidate_all();
    machine.refused(machine.read(DEVICE, 0), 0x50);
    machine.put(context, directory | 7 << 9 | P);
    let entry = machine.pasid_entry(DEVICE, 0);
    // VT-d 9.6: reserved bits, in each word.
    let good = [machine.get(entry), machine.get(entry + 8), machine.get(entry + 16)];
    for (word, bit) in [
        (0, 5),
        (0, 10),
        (0, 52),
        (1, 16),
        (1, 22),
        (1, 27),
        (1, 31),
        (1, 25),
        (2, 1),
        (2, 8),
        (2, 52),
        (3, 0),
        (7, 63),
    ] {
        let at = entry + 8 * word;
        let old = machine.get(at);
        machine.put(at, old | 1 << bit);
        machine.invalidate_all();
        machine.refused(machine.read(DEVICE, 0), 0x5a);
        machine.put(at, old);
    }
    // Bits 134:133 are ignored, for software that knew NXE and SMEP there.
    machine.put(entry + 16, good[2] | 3 << 5);
    machine.invalidate_all();
    assert!(machine.read(DEVICE, 0).is_ok());
    machine.put(entry, 0);
    machine.invalidate_all();
    machine.refused(machine.read(DEVICE, 0), 0x59);
}

#[test]
fn invalid_pasid_table_entries_are_spt_4() {
    // VT-d 9.6: reserved PGTT, reserved or unsupported AW and FSPM.
    let mut machine = Machine::scalable();
    let table = machine.allocate();
    let cases = [
        [P, 0, table],
        [5 << 6 | P, 0, table],
        [7 << 6 | P, 0, table],
        [FIRST | P, 0, table | 2 << 2],
        [FIRST | P, 0, table | 3 << 2],
        [table | SECOND | P, 0, 0],
        [table | SECOND | 4 << 2 | P, 0, 0],
        [table | 3 << 6 | P, 0, table],
    ];
    for words in cases {
        machine.pasid(DEVICE, 0, words);
        machine.invalidate_all();
        machine.refused(machine.read(DEVICE, 0), 0x5b);
    }
    // Valid types that this hardware lacks.
    let config = Machine::full_with(|config, scalable| {
        config.pass_through = false;
        scalable.second_stage = false;
        scalable.second_stage_flags = false;
        scalable.nested = false;
        scalable.first_stage_five_level = false;
    });
    let mut machine = Machine::scalable_with(config);
    let table = machine.allocate();
    for words in [
        [table | SECOND | AW_48 | P, 0, 0],
        [table | 3 << 6 | AW_48 | P, 0, table],
        [PASS | P, 0, 0],
        [FIRST | P, 0, table | 1 << 2],
    ] {
        machine.pasid(DEVICE, 0, words);
        machine.invalidate_all();
        machine.refused(machine.read(DEVICE, 0), 0x5b);
    }
}

#[test]
fn fields_of_features_that_are_not_there_are_reserved() {
    let config = Machine::full_with(|config, scalable| {
        config.snoop_control = false;
        scalable.page_walk_coherency = false;
        scalable.supervisor = false;
        scalable.extended_accessed = false;
        scalable.second_stage_flags = false;
        scalable.rid_pasid = false;
        scalable.rid_priv = false;
        scalable.pasid_bits = None;
    });
    let mut machine = Machine::scalable_with(config);
    let table = machine.allocate();
    let context = machine.scalable_entry(DEVICE);
    let directory = machine.allocate();
    machine.put(context, directory | P);
    let good = [FIRST | P, 0, table];
    for (word, bit) in [(0, 9), (1, 23), (1, 24), (1, 25), (1, 26), (1, 32), (2, 0), (2, 4), (2, 7)] {
        let mut words = good;
        words[word] |= 1 << bit;
        machine.pasid(DEVICE, 0, words);
        machine.invalidate_all();
        machine.refused(machine.read(DEVICE, 0), 0x5a);
    }
    machine.pasid(DEVICE, 0, good);
    for (word, bit) in [(0, 3), (1, 0), (1, 20)] {
        let old = machine.get(context + 8 * word);
        machine.put(context + 8 * word, old | 1 << bit);
        machine.invalidate_all();
        machine.refused(machine.read(DEVICE, 0), 0x42);
        machine.put(context + 8 * word, old);
    }
    machine.invalidate_all();
    machine.refused(machine.read(DEVICE, 0), 0x71);
}

#[test]
fn first_stage_faults() {
    let (mut machine, table) = first_stage(0);
    // SGN.1: not canonical for 48 bits.
    machine.refused(machine.read(DEVICE, 1 << 47), 0x80);
    machine.refused(machine.read(DEVICE, 0xfffe << 47), 0x80);
    // SFS.2: not present, at any level.
    machine.refused(machine.read(DEVICE, 0), 0x71);
    machine.map_first(table, 0xffff_ffff_ffff_f000 & 0xffff_ffff_ffff, PAGE, USER_RW);
    assert!(machine.read(DEVICE, 0xffff_ffff_ffff_f000).is_ok());
    // SFS.3: reserved bits: PS in a PML4E, a large page's low address bits.
    machine.map_at(table, 4, 1, 0x20_0000, USER_RW, 0x2000 | USER_RW | PS);
    machine.refused(machine.read(DEVICE, 0x20_0000), 0x72);
    machine.map_at(table, 4, 3, 1 << 39, USER_RW, 0x1000 | USER_RW | PS);
    machine.refused(machine.read(DEVICE, 1 << 39), 0x72);
    // SFS.1: a table that is no memory; SFS.4: the root.
    machine.map_at(table, 4, 3, 2 << 39, USER_RW, MEMORY | USER_RW);
    machine.refused(machine.read(DEVICE, 2 << 39), 0x70);
    machine.pasid(DEVICE, 0, [FIRST | P, PWSNP | 7, MEMORY]);
    machine.invalidate_all();
    machine.refused(machine.read(DEVICE, 0), 0x73);
}

#[test]
fn five_level_first_stage_and_large_pages_translate() {
    let (mut machine, table) = first_stage(1 << 2);
    machine.map_at(table, 5, 0, 0xff_8080_8040_3000, USER_RW, PAGE | USER_RW);
    machine.write(DEVICE, 0xff_8080_8040_3000, 1).unwrap();
    assert_eq!(machine.get(PAGE), 1);
    let (mut machine, table) = first_stage(0);
    machine.map_at(table, 4, 1, 0x20_0000, USER_RW, PAGE | USER_RW | PS);
    machine.map_at(table, 4, 2, 0x4000_0000, USER_RW, USER_RW | PS);
    machine.write(DEVICE, 0x20_1000, 2).unwrap();
    assert_eq!(machine.get(OTHER_PAGE), 2);
    machine.write(DEVICE, 0x4000_0000 + PAGE, 3).unwrap();
    assert_eq!(machine.get(PAGE), 3);
}

#[test]
fn user_requests_need_us_and_rw_in_every_entry() {
    // VT-d 3.6.1: SGN.2 without U/S, SGN.6 without R/W.
    let (mut machine, table) = first_stage(0);
    machine.map_first(table, 0x1000, PAGE, P | US);
    machine.map_first(table, 0x2000, PAGE, P | RW_);
    assert!(machine.read(DEVICE, 0x1000).is_ok());
    machine.refused(machine.write(DEVICE, 0x1000, 1), 0x85);
    machine.refused(machine.read(DEVICE, 0x2000), 0x81);
    machine.map_at(table, 4, 0, 1 << 39, P | RW_, PAGE | USER_RW);
    machine.refused(machine.read(DEVICE, 1 << 39), 0x81);
}

#[test]
fn privileged_requests_need_sre_and_obey_wpe() {
    // VT-d 9.6: SRE (SPT.6), WPE.
    let privileged = |machine: &Machine| machine.pasid_port(DEVICE, 1).privileged();
    let machine_with = |word2| {
        let mut machine = Machine::scalable();
        let table = machine.allocate();
        machine.pasid(DEVICE, 1, [FIRST | P, PWSNP | 7, table | word2]);
        machine.map_first(table, 0x1000, PAGE, P);
        machine.map_first(table, 0x2000, PAGE, P | RW_);
        machine.map_first(table, 0x3000, PAGE, USER_RW);
        machine
    };
    let machine = machine_with(0);
    let fault = machine.refused(read(&privileged(&machine), 0x3000), 0x5d);
    assert!(fault.privileged);
    assert!(read(&machine.pasid_port(DEVICE, 1), 0x3000).is_ok());

    let machine = machine_with(SRE);
    assert!(read(&privileged(&machine), 0x1000).is_ok());
    assert!(write(&privileged(&machine), 0x1000, 1).is_ok(), "WPE clear: read-only pages too");
    assert!(write(&privileged(&machine), 0x3000, 1).is_ok(), "user pages too");
    machine.refused(read(&machine.pasid_port(DEVICE, 1), 0x2000), 0x81);

    let machine = machine_with(SRE | WPE);
    machine.refused(write(&privileged(&machine), 0x1000, 1), 0x85);
    assert!(write(&privileged(&machine), 0x2000, 1).is_ok());
}

#[test]
fn rid_priv_makes_requests_without_pasid_privileged() {
    // VT-d 9.4, RID_PRIV.
    let (mut machine, table) = first_stage(SRE);
    machine.map_first(table, 0x1000, PAGE, P | RW_);
    machine.refused(machine.read(DEVICE, 0x1000), 0x81);
    let context = machine.scalable_entry(DEVICE);
    machine.put(context + 8, 1 << 20);
    machine.invalidate_all();
    assert!(machine.read(DEVICE, 0x1000).is_ok());
}

#[test]
fn execute_requests_are_refused() {
    // Execute requests are gone since revision 4; ECAP.ERS is clear, and SPT.5 is what remains of them.
    let mut machine = Machine::scalable();
    let table = machine.allocate();
    machine.pasid(DEVICE, 1, [FIRST | P, PWSNP | 7, table]);
    machine.map_first(table, 0, PAGE, USER_RW);
    let port = machine.pasid_port(DEVICE, 1);
    let transaction: Transaction = port.transaction(Iova(0), 8, EXECUTE);
    let fault = port.translate(&transaction).unwrap_err();
    assert_eq!(fault.code, 0x5c);
    // XD is ignored.
    machine.map_first(table, 0x1000, PAGE, USER_RW | 1 << 63);
    assert!(read(&port, 0x1000).is_ok());
}

#[test]
fn second_stage_faults() {
    let (mut machine, table) = second_stage(0, 0);
    // SGN.5 above the 48 bits of AW.
    machine.refused(machine.read(DEVICE, 1 << 48), 0x84);
    // SSS.2: neither R nor W, in an entry or in all together.
    machine.refused(machine.read(DEVICE, 0), 0x79);
    machine.map_at(table, 4, 0, 0x1000, W, PAGE | R);
    machine.refused(machine.read(DEVICE, 0x1000), 0x79);
    // SGN.6 and SGN.7.
    machine.map_at(table, 4, 0, 1 << 39, RW, PAGE | R);
    machine.map_at(table, 4, 0, (1 << 39) + 0x1000, RW, PAGE | W);
    machine.refused(machine.write(DEVICE, 1 << 39, 1), 0x85);
    machine.refused(machine.read(DEVICE, (1 << 39) + 0x1000), 0x86);
    // SSS.3, SSS.1, SSS.4.
    machine.map_at(table, 4, 3, 2 << 39, RW, 0x1000 | RW | PS);
    machine.refused(machine.read(DEVICE, 2 << 39), 0x7a);
    machine.map_at(table, 4, 3, 3 << 39, RW, MEMORY | RW);
    machine.refused(machine.read(DEVICE, 3 << 39), 0x78);
    machine.pasid(DEVICE, 0, [MEMORY | SECOND | AW_48 | P, 7, 0]);
    machine.invalidate_all();
    machine.refused(machine.read(DEVICE, 0), 0x7b);
}

#[test]
fn snp_is_a_leafs_where_snoop_control_is_reported() {
    let (mut machine, table) = second_stage(0, 0);
    machine.map(table, 0, PAGE, RW | 1 << 11);
    let port = machine.port(DEVICE);
    let translation = port.translate(&port.transaction(Iova(0), 8, Access::READ)).unwrap();
    assert!(translation.attributes.force_snoop);
    assert_eq!(translation.access, Access::READ_WRITE | Access::EXECUTE | Access::ATOMIC);
}

#[test]
fn pass_through_is_bounded_by_the_host_address_width() {
    // VT-d 7.1.3, SGN.4.
    let mut machine = Machine::scalable();
    machine.pasid(DEVICE, 0, [PASS | P, 7, 0]);
    machine.write(DEVICE, PAGE, 4).unwrap();
    assert_eq!(machine.get(PAGE), 4);
    machine.refused(machine.read(DEVICE, 1 << 52), 0x83);
}

#[test]
fn the_interrupt_range_is_no_memory_for_requests_with_pasid() {
    // VT-d 3.15: requests with PASID are translated there too; the result may not lie in the range (SGN.8).
    let mut machine = Machine::scalable();
    let table = machine.allocate();
    machine.pasid(DEVICE, 1, [FIRST | P, PWSNP | 7, table]);
    machine.pasid(DEVICE, 2, [PASS | P, 7, 0]);
    machine.map_first(table, 0xfee0_0000, PAGE, USER_RW);
    machine.map_first(table, 0x1000, 0xfee0_0000, USER_RW);
    let port = machine.pasid_port(DEVICE, 1);
    port.write(Iova(0xfee0_0000), &5u32.to_le_bytes()).unwrap();
    assert_eq!(machine.get(PAGE), 5);
    machine.refused(write(&port, 0x1000, 1), 0x87);
    machine.refused(read(&machine.pasid_port(DEVICE, 2), 0xfee0_0000), 0x87);
    assert!(machine.sink.0.lock().unwrap().is_empty());
}

#[test]
fn an_unsupported_mode_is_rta_1_and_abort_dma_refuses_silently() {
    // VT-d 11.4.5, TTM: 10b is reserved, 01b needs SMTS, 11b needs ADMS.
    for (config, ttm, code) in [
        (VtdConfig::full(), 2u64, Some(0x30)),
        (VtdConfig::default(), 1, Some(0x30)),
        (VtdConfig::default(), 3, Some(0x30)),
        (VtdConfig::full(), 3, None),
    ] {
        let machine = Machine::new(config);
        machine.set_root(machine.root | ttm << 10);
        machine.command(TE);
        match code {
            Some(code) => drop(machine.refused(machine.read(DEVICE, PAGE), code)),
            None => machine.refused_silently(machine.write(DEVICE, PAGE, 1)),
        }
        assert_eq!(machine.get(PAGE), 0);
    }
}

#[test]
fn fpd_anywhere_on_the_way_suppresses_qualified_faults() {
    // VT-d 7.1.3: context entry, PASID directory entry and PASID table entry have FPD; it counts even in entries that are
    // not present.
    let (mut machine, table) = first_stage(0);
    machine.map_first(table, 0, PAGE, USER_RW);
    let context = machine.scalable_entry(DEVICE);
    let directory = machine.get(context) & !0xfff;
    let entry = machine.pasid_entry(DEVICE, 0);
    for at in [context, directory, entry] {
        let old = machine.get(at);
        machine.put(at, old | 2);
        machine.invalidate_all();
        machine.refused_silently(machine.read(DEVICE, 0x1000));
        assert!(machine.read(DEVICE, 0).is_ok());
        machine.put(at, 2);
        machine.invalidate_all();
        machine.refused_silently(machine.read(DEVICE, 0));
        machine.put(at, old);
    }
    // Failing to access an entry is not qualified.
    machine.put(directory, MEMORY | 2 | P);
    machine.invalidate_all();
    machine.refused(machine.read(DEVICE, 0), 0x58);
}
