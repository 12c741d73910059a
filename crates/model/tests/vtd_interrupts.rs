//! Interrupt remapping (VT-d 5.1, 6.5.2.7, 9.9, 11.4.10.1). Entries and requests are raw numbers, by the specification's layouts.

mod common;
mod random;

use std::sync::{Arc, Barrier, mpsc};
use std::time::Duration;

use common::*;
use portcullis_model::vtd::VtdUnit;
use portcullis_model::vtd::config::{ConfigError, InterruptConfig, VtdConfig};
use portcullis_model::{
    AccessError, InterruptSink, Message, NoInterrupts, OwnedMemory, Registers, Undelivered,
};
use portcullis_spec::{Iova, Pasid};
use random::{Random, rounds};

const CFI: u32 = 1 << 23;
const SIRTP: u32 = 1 << 24;
const IRE: u32 = 1 << 25;
const EIME: u64 = 1 << 11;
/// Where the table lies: 256 entries, so that it is one page.
const TABLE: u64 = 0x6000;
const SIZE: u64 = 7;
/// Global, and by index and mask.
const IEC_ALL: [u64; 2] = [4, 0];

fn iec(index: u64, mask: u64) -> [u64; 2] {
    [4 | 1 << 4 | mask << 27 | index << 32, 0]
}

/// The address of a remappable request (5.1.2.2): handle bits 14:0 in 19:5, bit 15 in 2, format in 4, SHV in 3.
fn address(handle: u64, shv: bool) -> u64 {
    0xfee0_0010 | (handle & 0x7fff) << 5 | (handle >> 15) << 2 | u64::from(shv) << 3
}

fn machine_with(interrupts: InterruptConfig, caching_mode: bool) -> Machine {
    Machine::legacy_with(VtdConfig {
        interrupts: Some(interrupts),
        caching_mode,
        fault_records: 64,
        ..VtdConfig::default()
    })
}

/// A machine whose remapping is on, with an empty table of 256 entries.
fn remapping(eime: bool) -> Machine {
    let machine = machine_with(InterruptConfig::default(), false);
    switch_on(&machine, eime);
    machine
}

fn switch_on(machine: &Machine, eime: bool) {
    machine.unit.write64(0xb8, TABLE | SIZE | if eime { EIME } else { 0 });
    machine.command(SIRTP);
    machine.command(IRE);
}

fn entry(machine: &Machine, index: u64, low: u64, high: u64) {
    machine.put(TABLE + 16 * index + 8, high);
    machine.put(TABLE + 16 * index, low);
}

fn send(machine: &Machine, source: u16, address: u64, data: u32) -> Result<(), AccessError> {
    machine.port(source).write(Iova(address), &data.to_le_bytes())
}

/// What was delivered since the last time: source, address, data.
fn delivered(machine: &Machine) -> Vec<(u32, u64, u32)> {
    let messages = std::mem::take(&mut *machine.sink.0.lock().unwrap());
    let source = |message: &Message| message.source.expect("a device's").index();
    messages.iter().map(|message| (source(message), message.address, message.data)).collect()
}

/// Expects a refusal with `code`, recorded with `index` where it says so.
#[track_caller]
fn refused(machine: &Machine, done: Result<(), AccessError>, code: u64, recorded: Option<u64>) {
    let fault = *done.expect_err("not refused").fault().expect("refused by the unit");
    assert_eq!(u64::from(fault.code), code);
    let records = machine.take_faults();
    let Some(index) = recorded else {
        assert_eq!(records, Vec::<[u64; 2]>::new());
        return assert!(delivered(machine).is_empty());
    };
    // 11.4.7.6: FI holds the index in bits 63:48; T is clear for what is a write.
    let source = u64::from(fault.requester.index());
    assert_eq!(records, [[index << 48, 1 << 63 | code << 32 | source]]);
    assert!(delivered(machine).is_empty());
}

const EXACT: u64 = 1 << 18;

#[test]
fn without_remapping_requests_pass_as_they_are_and_nothing_is_recorded() {
    for config in [None, Some(InterruptConfig::default())] {
        let machine = Machine::legacy_with(VtdConfig { interrupts: config, ..VtdConfig::default() });
        // Also those that look remappable.
        for address in [0xfee0_1000, address(5, true)] {
            send(&machine, DEVICE, address, 0x4041).unwrap();
            assert_eq!(delivered(&machine), [(DEVICE.into(), address, 0x4041)]);
        }
        machine.refused_silently(machine.port(DEVICE).write(Iova(0xfee0_1000), &[0; 8]));
        machine.refused_silently(machine.port(DEVICE).read(Iova(0xfee0_1000), &mut [0; 4]));
    }
}

#[test]
fn a_unit_without_remapping_has_neither_its_registers_nor_its_invalidations() {
    let mut machine = Machine::legacy();
    assert_eq!(machine.unit.read64(0x10) >> 3 & 3, 0);
    machine.unit.write64(0xb8, u64::MAX);
    assert_eq!(machine.unit.read64(0xb8), 0);
    machine.unit.write32(0x18, machine.unit.read32(GSTS) | SIRTP | IRE | CFI);
    assert_eq!(machine.unit.read32(GSTS) & (SIRTP | IRE | CFI), 0);
    assert!(!machine.submit(&[IEC_ALL]));
}

#[test]
fn what_is_there_is_what_the_capabilities_say() {
    // 11.4.2 ESIRTPS 62, PI 59; 11.4.3 IR 3, EIM 4, MHMV 23:20. 11.4.10.1: EIME is reserved without EIM.
    let of = |extended, index_mask_bits, enhanced_set_table| {
        let machine = machine_with(InterruptConfig { extended, index_mask_bits, enhanced_set_table }, false);
        machine.unit.write64(0xb8, u64::MAX);
        let [cap, ecap, irta] = [0x08, 0x10, 0xb8].map(|at| machine.unit.read64(at));
        (cap >> 62 & 1, cap >> 59 & 1, ecap >> 3 & 3, ecap >> 20 & 15, irta & 0xfff)
    };
    assert_eq!(of(true, 15, true), (1, 0, 3, 15, 0x80f));
    assert_eq!(of(false, 4, false), (0, 0, 1, 4, 0x00f));
    let refused =
        |config| VtdUnit::new(config, Arc::new(OwnedMemory::new(0x1000)), Arc::new(NoInterrupts)).err();
    let interrupts = Some(InterruptConfig { index_mask_bits: 16, ..InterruptConfig::default() });
    let config = VtdConfig { interrupts, ..VtdConfig::default() };
    assert_eq!(refused(config), Some(ConfigError::IndexMask(16)));
    let interrupts = Some(InterruptConfig::default());
    let config = VtdConfig { interrupts, queued_invalidation: false, ..VtdConfig::default() };
    assert_eq!(refused(config), Some(ConfigError::QueuedInvalidation));
}

#[test]
fn the_table_that_was_set_counts_and_not_what_the_register_says() {
    // 11.4.4.1, SIRTP.
    let mut machine = remapping(false);
    entry(&machine, 0, 0x41 << 16 | 1, 0);
    machine.unit.write64(0xb8, (TABLE + 0x1000) | SIZE);
    send(&machine, DEVICE, address(0, false), 0).unwrap();
    machine.command(SIRTP);
    // ESIRTPS: nothing is left in the cache.
    refused(
        &machine,
        send(&machine, DEVICE, address(0, false), 0).inspect_err(|_| drop(delivered(&machine))),
        0x22,
        Some(0),
    );
    assert!(machine.submit(&[IEC_ALL]));
}

#[test]
fn an_entry_says_where_and_how() {
    // 9.9: P 0, DM 2, RH 3, TM 4, DLM 7:5, V 23:16, DST 63:32 (xAPIC: 47:40). Message: SDM volume 3, 11.11.
    for (dm, rh, tm, dlm) in
        [(0, 0, 0, 0), (1, 0, 0, 1), (0, 1, 1, 2), (1, 1, 0, 4), (0, 0, 1, 5), (1, 0, 1, 7)]
    {
        let low = 1 | dm << 2 | rh << 3 | tm << 4 | dlm << 5 | 0x91 << 16;
        let data = (0x91 | dlm << 8 | 1 << 14 | tm << 15) as u32;
        let machine = remapping(false);
        entry(&machine, 9, low | 0xab << 40, 0);
        send(&machine, DEVICE, address(9, false), 0xffff_ffff).unwrap();
        assert_eq!(
            delivered(&machine),
            [(DEVICE.into(), 0xfee0_0000 | 0xab << 12 | rh << 3 | dm << 2, data)]
        );
        let machine = remapping(true);
        entry(&machine, 9, low | 0x1234_56ab << 32, 0);
        send(&machine, DEVICE, address(9, false), 0).unwrap();
        // The destination's upper bits stand above the low 40 of the address, as KVM takes them.
        let at = 0x0012_3456 << 40 | 0xfee0_0000 | 0xab << 12 | rh << 3 | dm << 2;
        assert_eq!(delivered(&machine), [(DEVICE.into(), at, data)]);
    }
}

#[test]
fn the_index_is_the_handle_and_where_said_the_subhandle_added() {
    // 5.1.3.
    let machine = remapping(false);
    for index in [0, 5, 7, 255] {
        entry(&machine, index, index << 16 | 1, 0);
    }
    let vector = |handle, shv, data| {
        send(&machine, DEVICE, address(handle, shv), data).unwrap();
        let [(_, _, data)] = delivered(&machine)[..] else { panic!("one message") };
        data & 0xff
    };
    assert_eq!(vector(5, false, 2), 5);
    assert_eq!(vector(5, true, 2), 7);
    assert_eq!(vector(0, true, 255), 255);
    // Where SHV is clear, all data are ignored.
    assert_eq!(vector(7, false, 0xffff_ffff), 7);
    // 20h: reserved data where SHV is set.
    refused(&machine, send(&machine, DEVICE, address(5, true), 0x1_0002), 0x20, Some(0));
    // 21h: beyond the table, also where 16 bits would not hold the sum.
    refused(&machine, send(&machine, DEVICE, address(256, false), 0), 0x21, Some(256));
    refused(&machine, send(&machine, DEVICE, address(255, true), 1), 0x21, Some(256));
    refused(&machine, send(&machine, DEVICE, address(0xffff, true), 0xffff), 0x21, Some(0xfffe));
    refused(&machine, send(&machine, DEVICE, address(0x8000, false), 0), 0x21, Some(0x8000));
}

#[test]
fn a_table_of_all_entries_is_used_to_its_end() {
    let machine = machine_with(InterruptConfig::default(), false);
    machine.unit.write64(0xb8, 0x20_0000 | 15);
    machine.command(SIRTP);
    machine.command(IRE);
    machine.put(0x20_0000 + 16 * 0xffff, 0x77 << 16 | 1);
    send(&machine, DEVICE, address(0xffff, false), 0).unwrap();
    assert_eq!(delivered(&machine)[0].2, 0x4077);
    // 23h and 21h: where there is no memory, and where no host address leads.
    for (table, code) in [(0xf000_0000, 0x23), (1 << 50, 0x21)] {
        machine.unit.write64(0xb8, table);
        machine.command(SIRTP);
        refused(&machine, send(&machine, DEVICE, address(1, false), 0), code, Some(1));
    }
}

#[test]
fn entries_that_are_not_present_or_not_valid_block() {
    let machine = remapping(false);
    let mut next = 4;
    let mut try_entry = |low: u64, high: u64, code: u64| {
        entry(&machine, next, low, high);
        refused(&machine, send(&machine, DEVICE, address(next, false), 0), code, Some(next));
        // FPD: only what the entry itself refuses goes unrecorded (5.1.4.1: qualified).
        entry(&machine, next + 1, low | 2, high);
        refused(&machine, send(&machine, DEVICE, address(next + 1, false), 0), code, None);
        next += 2;
    };
    try_entry(0, 0, 0x22);
    try_entry(!3, !0, 0x22);
    // Reserved bits in low and high halves; posted, which the unit does not have; reserved DLM and SVT.
    for bit in [12, 13, 14, 15, 24, 31, 32, 39, 48, 63] {
        try_entry(1 | 1 << bit, 0, 0x24);
    }
    for bit in [20, 31, 32, 63] {
        try_entry(1, 1 << bit, 0x24);
    }
    try_entry(1 | 3 << 5, 0, 0x24);
    try_entry(1 | 6 << 5, 0, 0x24);
    try_entry(1, 3 << 18, 0x24);
    // 26h: not this source.
    try_entry(1, EXACT | u64::from(OTHER_DEVICE), 0x26);
    // What is not about the entry is recorded in spite of FPD.
    entry(&machine, 3, 3, 0);
    refused(&machine, send(&machine, DEVICE, address(3, true), 1 << 16), 0x20, Some(0));
    // Available bits are software's.
    entry(&machine, 3, 1 | 0xf << 8, 0);
    send(&machine, DEVICE, address(3, false), 0).unwrap();
    // x2APIC: all of DST counts.
    let machine = remapping(true);
    entry(&machine, 3, 1 | 0xffff_ffff << 32, 0);
    send(&machine, DEVICE, address(3, false), 0).unwrap();
    assert_eq!(delivered(&machine)[0].1, 0xffff_ff00_fee0_0000 | 0xff << 12);
}

#[test]
fn the_source_is_validated() {
    // 9.9, SVT 19:18, SQ 17:16, SID 15:0.
    let machine = remapping(false);
    let mut next = 0;
    let mut passes = |high: u64, source: u16| {
        next += 1;
        entry(&machine, next, 1, high);
        let sent = send(&machine, source, address(next, false), 0);
        delivered(&machine);
        if let Err(AccessError::Refused(fault)) = sent {
            assert_eq!(fault.code, 0x26);
        }
        sent.is_ok()
    };
    let sid = 0x1234u16;
    for flipped in 0..16 {
        let source = sid ^ 1 << flipped;
        assert!(passes(0, source));
        assert!(!passes(EXACT | 0x1234, source), "bit {flipped}");
        assert_eq!(passes(EXACT | 1 << 16 | 0x1234, source), flipped == 2);
        assert_eq!(passes(EXACT | 2 << 16 | 0x1234, source), matches!(flipped, 1 | 2));
        assert_eq!(passes(EXACT | 3 << 16 | 0x1234, source), flipped < 3);
    }
    assert!(passes(EXACT | 0x1234, sid));
    let buses = 2 << 18 | 0x1214;
    for (source, expected) in [(0x11ff, false), (0x1200, true), (0x14ff, true), (0x1500, false)] {
        assert_eq!(passes(buses, source), expected, "{source:#x}");
    }
    // First above last: nobody.
    assert!(!passes(2 << 18 | 0x1412, 0x1300));
}

#[test]
fn compatibility_requests_pass_only_where_software_lets_them_and_never_in_x2apic_mode() {
    // 5.1.4, attack 15.
    let machine = remapping(false);
    let forged = 0xfee0_1000;
    refused(&machine, send(&machine, DEVICE, forged, 0x4041), 0x25, Some(0));
    // NMI, INIT and start-up requests to all.
    for data in [0x400, 0x500, 0x600] {
        refused(&machine, send(&machine, DEVICE, 0xfeef_f00c, data), 0x25, Some(0));
    }
    machine.command(CFI);
    send(&machine, DEVICE, forged, 0x4041).unwrap();
    assert_eq!(delivered(&machine), [(DEVICE.into(), forged, 0x4041)]);
    let lasting = machine.unit.read32(GSTS) & 0x96ff_ffff;
    machine.unit.write32(0x18, lasting & !CFI);
    refused(&machine, send(&machine, DEVICE, forged, 0x4041), 0x25, Some(0));
    let machine = remapping(true);
    machine.command(CFI);
    refused(&machine, send(&machine, DEVICE, forged, 0x4041), 0x25, Some(0));
}

#[test]
fn what_is_no_request_is_refused_and_said_so() {
    // 29h, attack 13: reads, and writes that are not of one aligned doubleword.
    let machine = remapping(false);
    entry(&machine, 0, 1, 0);
    let at = address(0, false);
    let port = machine.port(DEVICE);
    refused(&machine, port.write(Iova(at), &[0; 8]), 0x29, Some(0));
    refused(&machine, port.write(Iova(at), &[0; 2]), 0x29, Some(0));
    refused(&machine, port.write(Iova(at + 2), &[0; 4]), 0x29, Some(0));
    refused(&machine, port.write(Iova(0xfeef_ffff), &[0]), 0x29, Some(0));
    refused(&machine, port.read(Iova(at), &mut [0; 4]), 0x29, Some(0));
    let added = port.fetch_add(Iova(at), portcullis_model::Width::Four, 1);
    refused(&machine, added.map(drop), 0x29, Some(0));
    // A write that begins below and runs into the range is two requests, of which one is none.
    let crossing = port.write(Iova(0xfedf_fffc), &[0; 8]);
    assert!(crossing.is_err());
    assert!(delivered(&machine).is_empty());
}

#[test]
fn requests_with_a_pasid_are_no_interrupts() {
    // 3.15: they are translated as everything else; and what translates to the range is refused.
    let machine = Machine::scalable_with(VtdConfig { fault_records: 64, ..VtdConfig::full() });
    switch_on(&machine, false);
    entry(&machine, 0, 1, 0);
    let port = machine.unit.port(DEVICE, Pasid::new(3));
    let fault = port.write(Iova(address(0, false)), &[0; 4]).unwrap_err();
    assert_eq!(fault.fault().unwrap().code, 0x39);
    assert!(delivered(&machine).is_empty());
}

#[test]
fn what_was_used_stays_until_it_is_invalidated() {
    // 6.5.2.7.
    let mut machine =
        machine_with(InterruptConfig { index_mask_bits: 3, ..InterruptConfig::default() }, false);
    switch_on(&machine, false);
    let all = |machine: &Machine| -> Vec<u64> {
        let works = |index: &u64| send(machine, DEVICE, address(*index, false), 0).is_ok();
        let working = (0..32).filter(works).collect();
        delivered(machine);
        machine.take_faults();
        machine.unit.write32(FSTS, !0);
        working
    };
    let fill = |machine: &Machine| {
        (0..32).for_each(|index| entry(machine, index, 1, 0));
        assert_eq!(all(machine).len(), 32);
        (0..32).for_each(|index| entry(machine, index, 0, 0));
        assert_eq!(all(machine).len(), 32);
    };
    fill(&machine);
    assert!(machine.submit(&[iec(5, 0)]));
    assert_eq!(all(&machine), (0..32).filter(|index| *index != 5).collect::<Vec<_>>());
    // The index's low bits do not count.
    assert!(machine.submit(&[iec(19, 3)]));
    assert_eq!(all(&machine), (0..32).filter(|index| !matches!(index, 5 | 16..24)).collect::<Vec<_>>());
    assert!(machine.submit(&[IEC_ALL]));
    assert!(all(&machine).is_empty());
    // More than MHMV is everything.
    fill(&machine);
    assert!(machine.submit(&[iec(0, 4)]));
    assert!(all(&machine).is_empty());
    // Nothing else forgets them.
    fill(&machine);
    assert!(machine.submit(&[[1 | 1 << 4, 0], [2 | 1 << 4, 0]]));
    assert_eq!(all(&machine).len(), 32);
    // Reserved bits stop the queue.
    assert!(!machine.submit(&[[4, 1]]));
}

#[test]
fn what_is_not_present_is_cached_in_caching_mode_alone() {
    // 6.1.
    for caching_mode in [false, true] {
        let mut machine = machine_with(InterruptConfig::default(), caching_mode);
        switch_on(&machine, false);
        send(&machine, DEVICE, address(1, false), 0).unwrap_err();
        entry(&machine, 1, 1, 0);
        assert_eq!(send(&machine, DEVICE, address(1, false), 0).is_err(), caching_mode);
        assert!(machine.submit(&[iec(1, 0)]));
        send(&machine, DEVICE, address(1, false), 0).unwrap();
    }
}

#[test]
fn state_is_saved_and_restored_and_reset() {
    let machine = remapping(false);
    entry(&machine, 1, 1, 0);
    send(&machine, DEVICE, address(1, false), 0).unwrap();
    let state = machine.unit.save();
    entry(&machine, 1, 0, 0);
    machine.unit.reset();
    assert_eq!(machine.unit.read32(GSTS), 0);
    send(&machine, DEVICE, 0xfee0_0000, 0).unwrap();
    machine.unit.restore(&state).unwrap();
    // Caches are no state.
    refused(
        &machine,
        send(&machine, DEVICE, address(1, false), 0).inspect_err(|_| drop(delivered(&machine))),
        0x22,
        Some(1),
    );
    let text = serde_json::to_string(&state).unwrap();
    let bad = text.replacen("\"irta_set\":24583", "\"irta_set\":24599", 1);
    assert_ne!(text, bad);
    let bad = serde_json::from_str(&bad).unwrap();
    machine.unit.restore(&bad).unwrap_err();
}

/// Holds a message back until it is told to let go.
struct Slow {
    sending: mpsc::SyncSender<()>,
    go_on: std::sync::Mutex<mpsc::Receiver<()>>,
}

impl InterruptSink for Slow {
    fn send(&self, _message: Message) -> Result<(), Undelivered> {
        self.sending.send(()).unwrap();
        self.go_on.lock().unwrap().recv().unwrap();
        Ok(())
    }
}

/// Invariant 1, for interrupts: a wait completes only when what was sent through older entries is delivered (6.5.2.7, and attack 14).
#[test]
fn a_wait_is_not_written_while_an_interrupt_is_under_way() {
    let (sending, is_sending) = mpsc::sync_channel(1);
    let (let_go, go_on) = mpsc::channel();
    let memory = Arc::new(OwnedMemory::new(MEMORY as usize));
    let config = VtdConfig { interrupts: Some(InterruptConfig::default()), ..VtdConfig::default() };
    let sink = Slow { sending, go_on: std::sync::Mutex::new(go_on) };
    let unit = VtdUnit::new(config, memory.clone(), Arc::new(sink)).unwrap();
    let mut machine = Machine::new(VtdConfig::default());
    machine.memory = memory;
    machine.unit = unit;
    machine.enable_queue(false);
    switch_on(&machine, false);
    entry(&machine, 1, 1, 0);
    let port = machine.port(DEVICE);
    let device = std::thread::spawn(move || port.write(Iova(address(1, false)), &[0; 4]));
    is_sending.recv().unwrap();
    entry(&machine, 1, 0, 0);
    machine.put(STATUS, 0);
    machine.queue(&[iec(1, 0), [5 | 1 << 5 | 1 << 32, STATUS]]);
    let (unit, ready) = (machine.unit.clone(), Arc::new(Barrier::new(2)));
    let software = std::thread::spawn({
        let ready = ready.clone();
        move || {
            ready.wait();
            unit.write64(0x88, 32);
        }
    });
    ready.wait();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(machine.get(STATUS), 0, "completed while the interrupt was still being delivered");
    let_go.send(()).unwrap();
    device.join().unwrap().unwrap();
    software.join().unwrap();
    assert_eq!(machine.get(STATUS), 1);
}

/// Invariant 2, for interrupts: an entry read before it was invalidated is not kept.
#[test]
fn an_entry_that_races_its_invalidation_is_not_kept() {
    let config = VtdConfig { interrupts: Some(InterruptConfig::default()), ..VtdConfig::default() };
    let (mut machine, memory) = hooked::over(|view| Machine::over(config, view));
    machine.enable_queue(false);
    switch_on(&machine, false);
    entry(&machine, 1, 1, 0);
    machine.queue(&[iec(1, 0)]);
    let (asked, is_asked) = mpsc::channel();
    let (unit, plain) = (machine.unit.clone(), machine.memory.clone());
    let software = std::thread::spawn(move || {
        is_asked.recv().unwrap();
        // The drain waits for the device, so this ends when the device has ended.
        unit.write64(0x88, 16);
    });
    let unit = machine.unit.clone();
    // After the last load of the entry, which is read twice.
    *memory.after_load.lock().unwrap() = Some((
        TABLE + 24,
        1,
        Box::new(move || {
            portcullis_model::GuestMemory::store64(&*plain, portcullis_spec::PhysAddr(TABLE + 16), 0)
                .unwrap();
            asked.send(()).unwrap();
            while unit.read64(0x80) == 0 {
                std::thread::yield_now();
            }
        }),
    ));
    // Begun before: it may still pass.
    send(&machine, DEVICE, address(1, false), 0).unwrap();
    software.join().unwrap();
    assert!(memory.after_load.lock().unwrap().is_none());
    delivered(&machine);
    refused(&machine, send(&machine, DEVICE, address(1, false), 0), 0x22, Some(1));
}

/// Random requests and entries, many nearly right: what they come to is what the specification's text says, read once more here in
/// the plainest way.
#[test]
fn random_bits_in_entries_and_requests() {
    let mut random = Random(7);
    for eime in [false, true] {
        let mut machine = remapping(eime);
        let mut counts = [0u32; 2];
        for round in 0..2 * rounds() {
            let index = random.below(256);
            let source = [DEVICE, OTHER_DEVICE, random.next() as u16][random.below(3) as usize];
            let high = [0, EXACT | u64::from(source), 2 << 18 | 0x00ff, EXACT | random.below(4) << 16]
                [random.below(4) as usize];
            let good = [1 | random.below(256) << 16 | random.below(256) << 40, high];
            let mut words = good;
            if random.below(2) == 0 {
                let word = random.below(2) as usize;
                words[word] = random.disturb(words[word]);
            }
            entry(&machine, index, words[0], words[1]);
            assert!(machine.submit(&[if random.below(2) == 0 {
                IEC_ALL
            } else {
                iec(index, random.below(16))
            }]));
            let shv = random.below(4) == 0;
            let (at, data) = match random.below(8) {
                0 => (0xfee0_0000 | random.below(1 << 20) & !3, random.next() as u32),
                1 => (address(index, true), random.disturb(0) as u32),
                _ => (address(index, shv), if shv { 0 } else { random.next() as u32 }),
            };
            let sent = send(&machine, source, at, data);
            let seen = delivered(&machine);
            let records = machine.take_faults();
            let read = |index: u64| [machine.get(TABLE + 16 * index), machine.get(TABLE + 16 * index + 8)];
            // Entries that were not rewritten in this round were not disturbed since they were last invalidated.
            match expected(eime, read, source, at, data) {
                Ok((address, data)) => {
                    counts[0] += 1;
                    assert_eq!((sent, seen), (Ok(()), vec![(source.into(), address, data)]), "round {round}");
                    assert!(records.is_empty(), "round {round}");
                }
                Err((code, record)) => {
                    counts[1] += 1;
                    let told = sent.expect_err("refused").fault().map(|fault| fault.code);
                    assert_eq!((told, seen), (Some(code), vec![]), "round {round}");
                    let record = record
                        .map(|index| [index << 48, 1 << 63 | u64::from(code) << 32 | u64::from(source)]);
                    assert_eq!(records, record.into_iter().collect::<Vec<_>>(), "round {round}");
                }
            }
        }
        assert!(counts.iter().all(|count| *count > rounds() as u32 / 4), "{counts:?}");
    }
}

type Expected = Result<(u64, u32), (u32, Option<u64>)>;

/// VT-d 5.1.3 to 5.1.5 and 9.9 read bit by bit, for a table of 256 entries. A refusal: the code, and the index that is recorded.
fn expected(eime: bool, entry: impl Fn(u64) -> [u64; 2], source: u16, address: u64, data: u32) -> Expected {
    let bit = |word: u64, at: u32| word >> at & 1 == 1;
    if !bit(address, 4) {
        return Err((0x25, Some(0)));
    }
    let mut index = (address >> 5 & 0x7fff) + if bit(address, 2) { 0x8000 } else { 0 };
    if bit(address, 3) {
        if data > 0xffff {
            return Err((0x20, Some(0)));
        }
        index += u64::from(data);
    }
    if index > 255 {
        return Err((0x21, Some(index & 0xffff)));
    }
    let [low, high] = entry(index);
    let recorded = if bit(low, 1) { None } else { Some(index) };
    if !bit(low, 0) {
        return Err((0x22, recorded));
    }
    let reserved = (12..=15).chain(24..=31).any(|at| bit(low, at))
        || (!eime && (32..=39).chain(48..=63).any(|at| bit(low, at)))
        || (20..=63).any(|at| bit(high, at))
        || matches!(low >> 5 & 7, 3 | 6)
        || high >> 18 & 3 == 3;
    if reserved {
        return Err((0x24, recorded));
    }
    let (source, sid) = (u64::from(source), high & 0xffff);
    let differing = |from: u32| (from..16).any(|at| bit(source, at) != bit(sid, at));
    let same_but =
        |ignored: &[u32]| (0..16).all(|at| ignored.contains(&at) || bit(source, at) == bit(sid, at));
    let admitted = match (high >> 18 & 3, high >> 16 & 3) {
        (0, _) => true,
        (1, 0) => !differing(0),
        (1, 1) => same_but(&[2]),
        (1, 2) => same_but(&[1, 2]),
        (1, _) => !differing(3),
        _ => (sid >> 8..=sid & 0xff).contains(&(source >> 8)),
    };
    if !admitted {
        return Err((0x26, recorded));
    }
    let destination = if eime { low >> 32 } else { low >> 40 & 0xff };
    let at = (destination >> 8) << 40 | 0xfee << 20 | (destination & 0xff) << 12 | (low >> 2 & 3) << 2;
    let data = (low >> 16 & 0xff) | (low >> 5 & 7) << 8 | 1 << 14 | (low >> 4 & 1) << 15;
    Ok((at, data as u32))
}
