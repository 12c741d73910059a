//! `ddtp`, device and process directories (RISC-V IOMMU 2.1 to 2.3).

mod riscv_machine;

use portcullis_model::Registers;
use portcullis_model::riscv::config::RiscvConfig;
use portcullis_spec::{Access, Iova, RequestType};
use riscv_machine::*;

const READ: Access = Access::READ;

#[test]
fn off_refuses_everything_and_bare_passes_everything() {
    let bench = Bench::new(RiscvConfig::default());
    bench.queues_on();
    assert_eq!(bench.read(DEVICE, 0x1234), Err(256));
    bench.unit.write64(DDTP, BARE);
    assert_eq!(bench.read(DEVICE, 0x1234), Ok(0x1234));
    assert_eq!(bench.write(0xff_ffff, 0xffff_ffff_f123), Ok(0xffff_ffff_f123));
    bench.memory_holds_what_devices_write();
    bench.unit.write64(DDTP, OFF);
    assert_eq!(bench.write(DEVICE, 0x1234), Err(256));
    // 5.2: the mode after reset is a choice.
    let bench = Bench::new(RiscvConfig { bare_after_reset: true, ..RiscvConfig::default() });
    assert_eq!(bench.read(DEVICE, 0x1234), Ok(0x1234));
}

trait Moves {
    fn memory_holds_what_devices_write(&self);
}

impl Moves for Bench {
    fn memory_holds_what_devices_write(&self) {
        let port = self.port(DEVICE, None);
        port.write(Iova(TARGET + 0xffc), &[1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
        assert_eq!(self.get(TARGET + 0x1000) & 0xffff_ffff, 0x0807_0605);
    }
}

#[test]
fn requests_with_translated_addresses_are_disallowed() {
    // Steps 1, 2 and 7 of 2.3: Off comes first; Bare and every device without EN_ATS disallow them (260).
    let bench = Bench::new(RiscvConfig::default());
    bench.queues_on();
    let cause = |bench: &Bench, request_type| {
        let port = bench.port(DEVICE, None);
        let transaction =
            portcullis_spec::Transaction { request_type, ..port.transaction(Iova(0x5000), 1, READ) };
        let code = port.translate(&transaction).unwrap_err().code;
        let ttyp = bench.records()[0][0] >> 34 & 0x3f;
        assert_eq!(ttyp, if request_type == RequestType::Translated { 6 } else { 8 });
        code
    };
    for request_type in [RequestType::Translated, RequestType::TranslationRequest] {
        bench.unit.write64(DDTP, OFF);
        assert_eq!(cause(&bench, request_type), 256);
        bench.unit.write64(DDTP, BARE);
        assert_eq!(cause(&bench, request_type), 260);
        bench.set_levels(3);
        assert_eq!(cause(&bench, request_type), 258);
        bench.device(DEVICE, [V, 0, 0, 0]);
        assert_eq!(cause(&bench, request_type), 260);
        // Before the process directory is looked at (step 14).
        bench.device(DEVICE, [V | PDTV | DPE, 0, 0, 1 << 60 | MEMORY >> 12]);
        bench.forget();
        assert_eq!(cause(&bench, request_type), 260);
        bench.device(DEVICE, [0; 4]);
    }
}

#[test]
fn directories_of_one_two_and_three_levels() {
    for levels in 1..=3 {
        let bench = Bench::on(RiscvConfig::default());
        bench.set_levels(levels);
        // 2.1: base-format contexts leave 7, 16 and 24 bits.
        let width = [7, 16, 24][levels as usize - 1];
        let highest = (1u32 << width) - 1;
        for device in [0, 1, highest] {
            assert_eq!(bench.read(device, 0x1000), Err(258));
            bench.device(device, [V, 0, 0, 0]);
            assert_eq!(bench.read(device, 0x1000), Ok(0x1000));
        }
        if levels < 3 {
            // Step 5.
            assert_eq!(bench.read(highest + 1, 0x1000), Err(260));
        }
    }
}

#[test]
fn device_ids_have_24_bits() {
    let bench = Bench::on(RiscvConfig::default());
    bench.device(DEVICE, [V, 0, 0, 0]);
    assert_eq!(bench.port(0x5500_0000 | DEVICE, None).requester(), bench.port(DEVICE, None).requester());
}

#[test]
fn directory_entries_are_checked_on_the_way() {
    let bench = Bench::on(RiscvConfig { physical_bits: 32, ..RiscvConfig::default() });
    let leaf = bench.device(DEVICE, [V, 0, 0, 0]);
    let top = bench.root + 2 * 8;
    let middle = (bench.get(top) >> 10 << 12) + (0x1234 >> 7) * 8;
    for at in [top, middle] {
        let good = bench.get(at);
        let causes = [
            (good & !1, 258),
            // 2.1.1: bits 9:1 and 63:54 are reserved.
            (good | 1 << 1, 259),
            (good | 1 << 9, 259),
            (good | 1 << 54, 259),
            (good | 1 << 63, 259),
            // Nothing is there to read; and beyond PAS nothing can be.
            (pte(MEMORY, 1), 257),
            (pte(1 << 32, 1), 257),
        ];
        for (entry, cause) in causes {
            bench.put(at, entry);
            assert_eq!(bench.read(DEVICE, 0x1000), Err(cause), "{entry:#x}");
        }
        bench.put(at, good);
    }
    // What is not valid was not cached (2.8); what is valid is, until it is invalidated.
    assert_eq!(bench.read(DEVICE, 0x1000), Ok(0x1000));
    bench.put(leaf, 0);
    assert_eq!(bench.read(DEVICE, 0x1000), Ok(0x1000));
    bench.forget();
    assert_eq!(bench.read(DEVICE, 0x1000), Err(258));
}

/// Every cause of a misconfigured device context that this unit can have (2.1.4).
#[test]
fn misconfigured_device_contexts() {
    let config = RiscvConfig { sv57: false, sv57x4: false, pd17: false, ..RiscvConfig::default() };
    let bench = Bench::on(config.clone());
    let good = [
        [V, 0, 0, 0],
        [V, sv(3) | 4, 0xf_ffff << 12, sv(3)],
        [V | GADE | SADE, sv(4), 0, sv(4)],
        [V | PDTV | DPE, 0, 0, 1 << 60],
        [V | PDTV, 0, 0, 3 << 60],
        // tc 31:24 is for custom use, and iohgatp is all fields.
        [V | 0xff << 24, 0xffff << 44 | sv(3) | 0xfff_ffff_fffc, 0, 0],
    ];
    for words in good {
        bench.device(DEVICE, words);
        bench.forget();
        assert_ne!(bench.read(DEVICE, 0x1000), Err(259), "{words:x?}");
    }
    let mut bad = vec![
        // EN_ATS, EN_PRI, T2GPA, PRPR without ATS; DPE without PDTV; SBE unlike fctl.BE; SXL where GXL is fixed.
        [V | 1 << 1, 0, 0, 0],
        [V | 1 << 2, 0, 0, 0],
        [V | 1 << 3, sv(3), 0, 0],
        [V | 1 << 6, 0, 0, 0],
        [V | DPE, 0, 0, 0],
        [V | SBE, 0, 0, 0],
        [V | SXL, 0, 0, 0],
        // Modes that are reserved or not there.
        [V, 0, 0, 1 << 60],
        [V, 0, 0, 7 << 60],
        [V, 0, 0, sv(5)],
        [V, 0, 0, 15 << 60],
        [V, 1 << 60, 0, 0],
        [V, sv(5), 0, 0],
        [V, 11 << 60, 0, 0],
        [V | PDTV, 0, 0, 2 << 60],
        [V | PDTV, 0, 0, 4 << 60],
        [V | PDTV, 0, 0, 8 << 60],
        // A second stage's root is a multiple of 16 KiB.
        [V, sv(3) | 1, 0, 0],
        [V, sv(3) | 2, 0, 0],
    ];
    bad.extend((12..24).chain(32..64).map(|bit| [V | 1 << bit, 0, 0, 0]));
    bad.extend((0..12).chain(32..64).map(|bit| [V, 0, 1 << bit, 0]));
    bad.extend((44..60).map(|bit| [V, 0, 0, sv(3) | 1 << bit]));
    for words in bad {
        bench.device(DEVICE, words);
        bench.forget();
        assert_eq!(bench.read(DEVICE, 0x1000), Err(259), "{words:x?}");
    }
    // Without AMO_HWAD, GADE and SADE are reserved.
    let bench = Bench::on(RiscvConfig { flag_updates: false, ..config });
    for tc in [V | GADE, V | SADE] {
        bench.device(DEVICE, [tc, 0, 0, 0]);
        assert_eq!(bench.read(DEVICE, 0x1000), Err(259));
    }
}

/// A context that does not exist: what it holds does not matter.
#[test]
fn contexts_without_v_are_not_looked_at() {
    let bench = Bench::on(RiscvConfig::default());
    bench.device(DEVICE, [!1, !0, !0, !0]);
    assert_eq!(bench.read(DEVICE, 0x1000), Err(258));
}

/// A process directory of the mode (1 to 3); a process whose first stage maps 0x5000 to the page behind [`TARGET`].
fn with_process(bench: &Bench, mode: u64, process: u64, tc: u64) -> u64 {
    let directory = bench.page();
    bench.device(DEVICE, [V | PDTV | tc, 0, 0, mode << 60 | directory >> 12]);
    let mut table = directory;
    for level in (1..mode).rev() {
        let index = if level == 2 { process >> 17 } else { process >> 8 & 0x1ff };
        let next = bench.page();
        bench.put(table + index * 8, pte(next, V));
        table = next;
    }
    let root = bench.page();
    bench.map(root, 3, 0, 0x5000, pte(TARGET + PAGE, LEAF));
    let at = table + (process & 0xff) * 16;
    bench.put(at, V | 9 << 12);
    bench.put(at + 8, sv(3) | root >> 12);
    at
}

#[test]
fn process_directories_of_8_17_and_20_bits() {
    for (mode, width) in [(1, 8), (2, 17), (3, 20)] {
        let bench = Bench::on(RiscvConfig::default());
        let highest = (1u32 << width) - 1;
        with_process(&bench, mode, highest.into(), 0);
        let port = bench.port(DEVICE, Some(highest));
        assert_eq!(bench.access(&port, 0x5123, READ), Ok(TARGET + PAGE + 0x123));
        assert_eq!(bench.access(&port, 0x6000, READ), Err(13));
        // Step 12: without a process_id and DPE, the first stage is Bare.
        assert_eq!(bench.read(DEVICE, 0x5123), Ok(0x5123));
        if width < 20 {
            // Step 7.
            assert_eq!(bench.access(&bench.port(DEVICE, Some(highest + 1)), 0x5000, READ), Err(260));
        }
        assert_eq!(bench.access(&bench.port(DEVICE, Some(1)), 0x5000, READ), Err(266));
    }
}

#[test]
fn dpe_makes_requests_without_a_process_id_process_0s() {
    let bench = Bench::on(RiscvConfig::default());
    with_process(&bench, 2, 0, DPE);
    assert_eq!(bench.read(DEVICE, 0x5000), Ok(TARGET + PAGE));
    assert_eq!(bench.read(DEVICE, 0x6000), Err(13));
}

#[test]
fn a_process_id_needs_a_process_directory() {
    let bench = Bench::on(RiscvConfig::default());
    bench.device(DEVICE, [V, 0, 0, 0]);
    let port = bench.port(DEVICE, Some(0));
    assert_eq!(bench.access(&port, 0x5000, READ), Err(260));
    // A Bare one has no first stage for anybody (step 13).
    bench.device(DEVICE, [V | PDTV, 0, 0, 0]);
    bench.forget();
    assert_eq!(bench.access(&bench.port(DEVICE, Some(0xf_ffff)), 0x5000, READ), Ok(0x5000));
}

#[test]
fn process_directory_entries_are_checked_on_the_way() {
    let bench = Bench::on(RiscvConfig { sv48: false, sv48x4: false, ..RiscvConfig::default() });
    let at = with_process(&bench, 2, 0x1_0203, 0);
    let directory = (bench.get(bench.context_at(DEVICE) + 24) & 0xfff_ffff_ffff) << 12;
    let port = bench.port(DEVICE, Some(0x1_0203));
    let entry = directory + 0x102 * 8;
    let good = bench.get(entry);
    let causes = [
        (good & !V, 266),
        (good | 1 << 1, 267),
        (good | 1 << 9, 267),
        (good | 1 << 54, 267),
        (pte(MEMORY, V), 265),
    ];
    for (raw, cause) in causes {
        bench.put(entry, raw);
        assert_eq!(bench.access(&port, 0x5000, READ), Err(cause), "{raw:#x}");
    }
    bench.put(entry, good);
    // 2.2.4: reserved bits of both words, and modes that are not there.
    let (ta, fsc) = (bench.get(at), bench.get(at + 8));
    for bit in (3..12).chain(32..64) {
        bench.put(at, ta | 1 << bit);
        assert_eq!(bench.access(&port, 0x5000, READ), Err(267), "{bit}");
    }
    bench.put(at, ta);
    for bit in (44..60).chain([60, 61]) {
        bench.put(at + 8, fsc | 1 << bit);
        assert_eq!(bench.access(&port, 0x5000, READ), Err(267), "{bit}");
    }
    bench.put(at + 8, fsc);
    bench.put(at, 0);
    assert_eq!(bench.access(&port, 0x5000, READ), Err(266));
    bench.put(at, ta);
    assert_eq!(bench.access(&port, 0x5000, READ), Ok(TARGET + PAGE));
}

#[test]
fn the_process_directory_lies_in_guest_memory_where_there_is_a_second_stage() {
    let bench = Bench::on(RiscvConfig::default());
    let at = with_process(&bench, 1, 3, 0);
    let second = bench.pages(4);
    let context = bench.context_at(DEVICE);
    bench.put(context + 8, sv(3) | 5 << 44 | second >> 12);
    let port = bench.port(DEVICE, Some(3));
    // 3.2: an implicit read for first-stage translation: iotval2 bit 0, with the cause of the request's own kind.
    assert_eq!(bench.access(&port, 0x5000, Access::WRITE), Err(23));
    assert_eq!(bench.iotval2(), at | 1);
    assert_eq!(bench.access(&port, 0x5000, Access::EXECUTE), Err(20));
    // All of memory, 2 MiB at a time, to itself; but that the directory must be readable.
    for block in (0..MEMORY).step_by(0x20_0000) {
        bench.map_guest(second, 3, 1, block, pte(block, LEAF));
    }
    assert_eq!(bench.access(&port, 0x5000, READ), Ok(TARGET + PAGE));
    // The directory's entry is cached, whatever becomes of the second stage.
    let directory = at & !0xfff;
    bench.map_guest(second, 3, 1, directory & !0x1f_ffff, pte(directory & !0x1f_ffff, V | X | U | A | D));
    bench.forget();
    assert_eq!(bench.access(&port, 0x5000, READ), Err(21));
    assert_eq!(bench.iotval2(), at | 1);
}

#[test]
fn privileged_requests_need_ens() {
    let bench = Bench::on(RiscvConfig::default());
    let at = with_process(&bench, 1, 3, 0);
    let port = bench.port(DEVICE, Some(3)).privileged();
    assert_eq!(bench.access(&port, 0x5000, READ), Err(260));
    // ENS and SUM: users' pages can be read and written.
    bench.put(at, V | 1 << 1 | 1 << 2);
    bench.forget();
    assert_eq!(bench.access(&port, 0x5000, READ), Ok(TARGET + PAGE));
    // Without a process_id there is nothing privileged.
    let bench = Bench::on(RiscvConfig::default());
    bench.first_stage(DEVICE, 3, 0x5000);
    assert_eq!(bench.access(&bench.port(DEVICE, None).privileged(), 0x5000, READ), Ok(TARGET));
}

#[test]
fn dtf_leaves_out_what_3_2_says_and_no_more() {
    let bench = Bench::on(RiscvConfig::default());
    let refused = |bench: &Bench, pasid, iova| {
        let port = bench.port(DEVICE, pasid);
        let code = port.translate(&port.transaction(Iova(iova), 1, READ)).unwrap_err().code;
        (code, bench.records().len())
    };
    // The context is not there, or is misconfigured: its DTF does not count.
    bench.device(DEVICE, [DTF, 0, 0, 0]);
    assert_eq!(refused(&bench, None, 0x5000), (258, 1));
    bench.device(DEVICE, [V | DTF | 1 << 1, 0, 0, 0]);
    assert_eq!(refused(&bench, None, 0x5000), (259, 1));
    // Transaction type, page faults, access faults, guest-page faults, process directory faults.
    bench.device(DEVICE, [V | DTF, 0, 0, sv(3) | bench.page() >> 12]);
    bench.forget();
    assert_eq!(refused(&bench, Some(1), 0x5000), (260, 0));
    assert_eq!(refused(&bench, None, 0x5000), (13, 0));
    bench.device(DEVICE, [V | DTF, 0, 0, sv(3) | MEMORY >> 12]);
    bench.forget();
    assert_eq!(refused(&bench, None, 0x5000), (5, 0));
    bench.device(DEVICE, [V | DTF, sv(3) | bench.pages(4) >> 12, 0, 0]);
    bench.forget();
    assert_eq!(refused(&bench, None, 0x5000), (21, 0));
    for (directory, cause) in [(bench.page(), 266), (MEMORY, 265)] {
        bench.device(DEVICE, [V | DTF | PDTV, 0, 0, 1 << 60 | directory >> 12]);
        bench.forget();
        assert_eq!(refused(&bench, Some(1), 0x5000), (cause, 0));
    }
    bench.unit.write64(DDTP, OFF);
    assert_eq!(refused(&bench, None, 0x5000), (256, 1));
}
