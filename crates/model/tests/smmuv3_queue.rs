//! The command queue: errors, completion signals, and what each command forgets (SMMUv3 4, 7.1).

mod smmuv3_machine;

use portcullis_model::Message;
use portcullis_model::Registers;
use portcullis_model::smmuv3::config::Smmuv3Config;
use portcullis_model::smmuv3::wire;
use smmuv3_machine::*;

const SYNC: [u64; 2] = [0x46, 0];

/// CMDQ_CONS.ERR.
fn error(machine: &Machine) -> u32 {
    machine.unit.read32(CMDQ_CONS) >> 24
}

fn active_errors(machine: &Machine) -> u32 {
    machine.unit.read32(GERROR) ^ machine.unit.read32(GERRORN)
}

#[test]
fn an_illegal_command_stops_the_queue_until_it_is_acknowledged() {
    let machine = Machine::new();
    for _ in 0..3 {
        let before = machine.unit.read32(CMDQ_CONS) & 0x1ff;
        assert_eq!(machine.submit(&[SYNC, [0xff, 0], SYNC]), 1);
        assert_eq!((error(&machine), active_errors(&machine)), (1, 1));
        // The index stays on it, and a new producer does not help.
        machine.unit.write32(CMDQ_PROD, machine.unit.read32(CMDQ_PROD));
        let at = (machine.unit.read32(CMDQ_CONS) & 0x1ff) as u64;
        assert_eq!(at as u32, (before + 1) & 0x1ff);
        // Mended and acknowledged, it goes on by itself.
        machine.put_words(COMMANDS + (at & 0xff) * 16, &SYNC);
        machine.unit.write32(GERRORN, machine.unit.read32(GERROR));
        assert_eq!(machine.unit.read32(CMDQ_CONS) & 0x1ff, machine.unit.read32(CMDQ_PROD));
        assert_eq!(active_errors(&machine), 0);
    }
}

#[test]
fn commands_for_what_is_not_there_are_illegal() {
    let stop = |config: &Smmuv3Config, command: [u64; 2]| {
        let machine = Machine::with(config.clone());
        let consumed = machine.submit(&[command]);
        if consumed == 0 {
            assert_eq!((error(&machine), active_errors(&machine)), (1, 1));
        }
        consumed == 0
    };
    let full = Smmuv3Config::full();
    let only1 = Smmuv3Config { stall_model: Default::default(), ..Smmuv3Config::default() };
    let only2 = Smmuv3Config { stage1: false, stage2: true, asid_16: false, ..Smmuv3Config::default() };
    // Reserved, secure, EL3, realm and virtual-machine-structure commands; ATS and PRI; SSec; CS reserved; MPAM.
    for command in [
        [0, 0],
        [0x18, 0],
        [0x50, 0],
        [0x60, 0],
        [0x70, 0],
        [0x07, 0],
        [0x40, 0],
        [0x41, 0],
        [0x03 | 1 << 10, 0],
        [0x46 | 3 << 12, 0],
        // A granule with neither range nor level (4.4.1.1).
        [0x12, 1 << 10],
    ] {
        assert!(stop(&full, command), "{command:x?}");
    }
    for code in
        [0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x10, 0x11, 0x12, 0x13, 0x20, 0x21, 0x22, 0x23, 0x28, 0x2a, 0x30]
    {
        assert!(!stop(&full, [code, 0]), "{code:#x}");
        // 4.3.3, 4.3.4, 4.4.2, 4.4.3: stages; HYP.
        let stage1 = matches!(code, 0x05 | 0x06 | 0x10..=0x13);
        let el2 = matches!(code, 0x20..=0x23);
        assert_eq!(stop(&only1, [code, 0]), el2 || matches!(code, 0x28 | 0x2a), "{code:#x}");
        assert_eq!(stop(&only2, [code, 0]), stage1 || el2, "{code:#x}");
    }
    // Without range invalidation its fields are ignored.
    assert!(!stop(&only1, [0x12, 1 << 10]));
    // 4.7.1, 4.7.2: where nothing stalls.
    for code in [0x44, 0x45] {
        assert!(stop(&only1, [code, 0]) && !stop(&full, [code, 0]));
    }
}

#[test]
fn a_queue_outside_of_memory_is_an_abort() {
    let machine = Machine::new();
    machine.unit.write32(CR0, EVENTQEN | SMMUEN);
    machine.unit.write64(0x90, 0xf_0000_0008);
    machine.unit.write32(CR0, CMDQEN | EVENTQEN | SMMUEN);
    machine.unit.write32(CMDQ_PROD, 1);
    assert_eq!((error(&machine), active_errors(&machine)), (2, 1));
    // Put right, as software would: the queue is disabled meanwhile.
    machine.unit.write32(CR0, EVENTQEN | SMMUEN);
    machine.unit.write64(0x90, COMMANDS | 8);
    machine.put_words(COMMANDS, &SYNC);
    machine.unit.write32(GERRORN, machine.unit.read32(GERROR));
    assert_eq!(machine.unit.read32(CMDQ_CONS) & 0x1ff, 0, "disabled");
    machine.unit.write32(CR0, CMDQEN | EVENTQEN | SMMUEN);
    assert_eq!(machine.unit.read32(CMDQ_CONS) & 0x1ff, 1);
}

#[test]
fn a_sync_completes_by_message_wire_or_event() {
    let machine = Machine::new();
    // To an interrupt controller, and to memory.
    machine.command(&[[0x46 | 1 << 12 | 0x55 << 32, 0xfee0_0040]]);
    machine.command(&[[0x46 | 1 << 12 | 0x66 << 32, PAGE + 4]]);
    let message = Message { source: None, address: 0xfee0_0040, data: 0x55 };
    assert_eq!(*machine.sink.messages.lock().unwrap(), [message]);
    assert_eq!(machine.get(PAGE), 0x66 << 32);
    assert_eq!(*machine.sink.edges.lock().unwrap(), [wire::SYNC; 2]);
    machine.command(&[[0x46 | 2 << 12, 0]]);
    assert_eq!(*machine.sink.wakes.lock().unwrap(), 1);
    assert_eq!(machine.sink.messages.lock().unwrap().len(), 1);
    // Aborted (6.3.19, MSI_CMDQ_ABT_ERR): the queue goes on.
    machine.command(&[[0x46 | 1 << 12, NOWHERE]]);
    assert_eq!(active_errors(&machine), 1 << 4);
    // Without MSIs and SEV: the wire alone, and nothing.
    let machine = Machine::with(Smmuv3Config::default());
    machine.command(&[[0x46 | 1 << 12 | 0x66 << 32, PAGE]]);
    machine.command(&[[0x46 | 2 << 12, 0]]);
    assert_eq!(machine.get(PAGE), 0);
    assert_eq!((machine.sink.edges.lock().unwrap().len(), *machine.sink.wakes.lock().unwrap()), (1, 0));
}

#[test]
fn the_queue_wraps() {
    let machine = Machine::new();
    for _ in 0..3 {
        assert_eq!(machine.submit(&[SYNC; 256]), 256);
    }
    assert_eq!(machine.unit.read32(CMDQ_CONS), 0x100);
    // A producer beyond what the queue holds: at most one round is done, and nothing hangs.
    machine.unit.write32(CMDQ_PROD, 0xf_ffff);
    assert_eq!(machine.unit.read32(CMDQ_CONS) & !0x1ff, 0);
}

/// Two streams with a stage 1 each in VM 3 (ASIDs 1 and 2), one in VM 4, and a stage 2 alone in VM 3, of which each sees
/// 0x1000 and 0x20_3000 on PAGE.
struct World {
    machine: Machine,
    leaves: Vec<u64>,
    entries: Vec<u64>,
}

const WORLD: [(u32, u64, u64); 4] = [(1, 3, 1), (2, 3, 2), (3, 4, 1), (4, 3, 0)];
const HERE: u64 = 1;
const THERE: u64 = 2;

impl World {
    fn new() -> Self {
        let mut machine = Machine::new();
        machine.unit.retain_translations();
        let (mut leaves, mut entries) = (Vec::new(), Vec::new());
        for (stream, vmid, asid) in WORLD {
            let table = machine.allocate();
            let bits = if asid == 0 { S2 } else { S1 | USER };
            for iova in [0x1000, 0x20_3000] {
                leaves.push(machine.map(table, iova, PAGE, bits));
            }
            let entry = if asid == 0 {
                Entry::new(0).stage2(table, vmid)
            } else {
                let at = machine.context(descriptor(table, asid));
                Entry::stage1(at).with(2, vmid)
            };
            machine.stream(stream, entry);
            entries.push(STREAMS + u64::from(stream) * 64);
        }
        machine.put(PAGE, HERE);
        machine.put(OTHER_PAGE, THERE);
        Self { machine, leaves, entries }
    }

    fn see(&self) -> [[bool; 2]; 4] {
        WORLD.map(|(stream, ..)| {
            [0x1000, 0x20_3000].map(|iova| self.machine.read(stream, iova).unwrap() == THERE)
        })
    }

    /// Which of the streams' two pages `command` made the unit forget.
    fn forgotten(&self, command: [u64; 2]) -> [[bool; 2]; 4] {
        let point = |page: u64| {
            for leaf in &self.leaves {
                let bits = self.machine.get(*leaf) & 0xfff;
                self.machine.put(*leaf, page | bits);
            }
        };
        point(PAGE);
        self.machine.forget();
        assert_eq!(self.see(), [[false; 2]; 4]);
        point(OTHER_PAGE);
        assert_eq!(self.see(), [[false; 2]; 4], "cached");
        self.machine.command(&[command]);
        self.see()
    }
}

#[test]
fn tlb_invalidations_forget_what_they_name() {
    let world = World::new();
    const ALL: [bool; 2] = [true, true];
    const NONE: [bool; 2] = [false, false];
    const FIRST: [bool; 2] = [true, false];
    const SECOND: [bool; 2] = [false, true];
    let vm = |vmid: u64| vmid << 32;
    for (command, expected) in [
        // NH_ALL by VMID: stage 1 alone.
        ([0x10 | vm(3), 0], [ALL, ALL, NONE, NONE]),
        ([0x10 | vm(4), 0], [NONE, NONE, ALL, NONE]),
        // NH_ASID.
        ([0x11 | vm(3) | 1 << 48, 0], [ALL, NONE, NONE, NONE]),
        ([0x11 | vm(3) | 7 << 48, 0], [NONE, NONE, NONE, NONE]),
        // NH_VAA: every ASID.
        ([0x13 | vm(3), 0x1000], [FIRST, FIRST, NONE, NONE]),
        ([0x13 | vm(4), 0x20_3000 | 1], [NONE, NONE, SECOND, NONE]),
        // S12_VMALL: both stages.
        ([0x28 | vm(3), 0], [ALL, ALL, NONE, ALL]),
        // S2_IPA.
        ([0x2a | vm(3), 0x1000], [NONE, NONE, NONE, FIRST]),
        // By range: 4 KiB granules from 0 on, 32 of them, and 512 + 4.
        ([0x13 | vm(3) | 31 << 12, 1 << 10], [FIRST, FIRST, NONE, NONE]),
        ([0x2a | vm(3) | 8 << 12 | 6 << 20, 1 << 10 | 0x2000], [NONE, NONE, NONE, SECOND]),
        ([0x2a | vm(3) | 8 << 12 | 6 << 20, 1 << 10], [NONE, NONE, NONE, ALL]),
        // NSNH_ALL.
        ([0x30, 0], [ALL, ALL, ALL, ALL]),
    ] {
        assert_eq!(world.forgotten(command), expected, "{command:x?}");
    }
    // NH_VA: at least its ASID's.
    let seen = world.forgotten([0x12 | vm(3) | 1 << 48, 0x1000]);
    assert_eq!((seen[0], seen[2], seen[3]), (FIRST, NONE, NONE));
}

#[test]
fn a_global_page_goes_by_any_asid() {
    let mut machine = Machine::new();
    machine.unit.retain_translations();
    let table = machine.attach(STREAM, 1);
    // nG clear.
    let leaf = machine.map(table, 0x1000, PAGE, 1 << 10 | USER);
    machine.put(PAGE, 1);
    assert_eq!(machine.read(STREAM, 0x1000), Ok(1));
    machine.put(leaf, OTHER_PAGE | 1 << 10 | USER | 3);
    machine.command(&[[0x12 | 9 << 48, 0x1000]]);
    assert_eq!(machine.read(STREAM, 0x1000), Ok(0));
}

#[test]
fn a_stage_2_invalidation_forgets_what_is_nested_on_it() {
    let mut machine = Machine::new();
    machine.unit.retain_translations();
    let (second, first) = (machine.allocate(), machine.allocate());
    let at = machine.context(descriptor(first, 1));
    machine.stream(STREAM, Entry::stage1(at).stage2(second, 3));
    machine.map(first, 0x1000, 0x5000, S1 | USER);
    for page in (TABLES..TABLES + 0x2_0000).step_by(0x1000) {
        machine.map(second, page, page, S2);
    }
    let leaf = machine.map(second, 0x5000, PAGE, S2);
    machine.put(PAGE, 1);
    assert_eq!(machine.read(STREAM, 0x1000), Ok(1));
    machine.put(leaf, OTHER_PAGE | S2 | 3);
    assert_eq!(machine.read(STREAM, 0x1000), Ok(1));
    machine.command(&[[0x2a | 3 << 32, 0x5000]]);
    assert_eq!(machine.read(STREAM, 0x1000), Ok(0));
}

#[test]
fn configuration_invalidations_forget_what_they_name() {
    let world = World::new();
    let machine = &world.machine;
    // Which streams' entries went: a stream whose entry aborts now is refused once that is known.
    let forgotten = |command: [u64; 2]| {
        for at in &world.entries {
            machine.put(*at, machine.get(*at) | 1);
        }
        machine.forget();
        assert_eq!(world.see().map(|pages| pages[0]), [false; 4]);
        for at in &world.entries {
            machine.put(*at, machine.get(*at) & !1);
        }
        machine.command(&[command]);
        let gone = WORLD.map(|(stream, ..)| machine.read(stream, 0x1000).is_err());
        machine.take_events();
        gone
    };
    for (command, expected) in [
        ([0x03 | 2 << 32, 1], [false, true, false, false]),
        ([0x03 | 2 << 32, 0], [false, true, false, false]),
        // Aligned ranges of 2 and 4 streams, and all.
        ([0x04 | 2 << 32, 0], [false, true, true, false]),
        ([0x04 | 3 << 32, 1], [true, true, true, false]),
        ([0x04, 31], [true; 4]),
        ([0x05 | 1 << 32, 0], [true, false, false, false]),
        // The descriptor of another substream.
        ([0x05 | 1 << 32 | 3 << 12, 0], [false; 4]),
        ([0x06 | 3 << 32, 0], [false, false, true, false]),
        // Hints.
        ([0x01 | 1 << 32, 0], [false; 4]),
        ([0x02 | 1 << 32, 0x1000], [false; 4]),
    ] {
        assert_eq!(forgotten(command), expected, "{command:x?}");
    }
}

#[test]
fn what_was_not_there_is_never_cached() {
    let mut machine = Machine::new();
    machine.refused(machine.read(STREAM, 0x1000), 0x04);
    let table = machine.attach(STREAM, 1);
    machine.refused(machine.read(STREAM, 0x1000), 0x10);
    let leaf = machine.map(table, 0x1000, PAGE, S1 | USER & !(1 << 10));
    machine.put(leaf, PAGE | USER | 3);
    machine.refused(machine.read(STREAM, 0x1000), 0x12);
    machine.put(leaf, PAGE | S1 | USER | READ_ONLY | 3);
    assert_eq!(machine.read(STREAM, 0x1000), Ok(0));
}
