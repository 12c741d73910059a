//! Programs in C, compiled against the header, against a service in this process.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use portcullis_c::ffi::{Entry, Record, Region};
use portcullis_manager::{
    DeviceId, RawRecord, ReservedKind, ReservedRegion, Source, UnitId, Violation, core::Policy,
};
use portcullis_spec::{Access, Fault, FaultReason, Iova, PciAddress, RequestType, Requester};

#[path = "../../manager/tests/common/mod.rs"]
mod common;

use common::{Leads, PAGE, Plain, service::Service};

struct Running {
    service: Service,
    plain: Plain,
    refuse: mpsc::Sender<Violation>,
}

impl Running {
    /// A service whose devices are `dev0`, `dev1`, `0001:02:03.4`, `forbidden`, behind two units in turn.
    fn start() -> Self {
        let mut inventory = common::inventory(2, 4);
        inventory.devices[2].1.name = "0001:02:03.4".into();
        inventory.devices[3].1.name = "forbidden".into();
        inventory.devices[0].1.reserved = [
            (0xfee0_0000, 0xfeef_ffff, ReservedKind::Msi),
            (0xf_0000_0000, 0xf_0000_ffff, ReservedKind::Reserved),
        ]
        .map(|(first, last, kind)| ReservedRegion {
            range: Iova(first)..=Iova(last),
            kind,
            access: Access::empty(),
            source: "test".into(),
        })
        .into();
        let plain = Plain::new(inventory);
        let (refuse, refused) = mpsc::channel();
        plain.0.lock().unwrap().violations = Some(refused);
        let clients = [Policy::new("storage", ["dev*", "0001:*"])];
        Self { service: Service::over(Box::new(plain.clone()), clients), plain, refuse }
    }

    fn socket(&self) -> &Path {
        &self.service.socket
    }

    /// Compiles a program of this crate; `None`, with a word, where there is no compiler.
    fn compile(&self, source: &str) -> Option<PathBuf> {
        let Ok(version) = Command::new("cc").arg("--version").output() else {
            println!("skipped: there is no C compiler");
            return None;
        };
        assert!(version.status.success());
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let libraries = std::env::current_exe().unwrap().parent().unwrap().to_owned();
        let program = self.service.folder.path().join("program");
        let mut compile = Command::new("cc");
        compile.args(["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O1", "-o"]);
        compile.arg(&program).arg(here.join(source)).arg("-I").arg(here.join("include"));
        compile.arg("-L").arg(&libraries).arg("-lportcullis_c");
        compile.arg(format!("-Wl,-rpath,{}", libraries.display()));
        let compiled = compile.output().unwrap();
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        Some(program)
    }

    fn refuse(&self, address: u64) {
        let fault = Fault {
            requester: Requester::Pci(PciAddress::new(0, 0, 0, 0)),
            pasid: None,
            address: Iova(address),
            ipa: None,
            access: Access::WRITE,
            privileged: false,
            request_type: RequestType::Untranslated,
            reason: FaultReason::NotMapped,
            stage: None,
            code: 6,
        };
        let time = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let raw = RawRecord { words: [1, 0x1122_3344_5566_7788, 0, 0], length: 2 };
        let violation = Violation {
            unit: Some(UnitId(0)),
            device: Some(DeviceId(0)),
            fault,
            time: time.as_nanos() as u64,
            raw,
            count: 3,
        };
        self.refuse.send(violation).unwrap();
    }

    /// Pages that a device reaches, with where in a memory they lead.
    fn reach(&self, device: u32) -> BTreeMap<u64, (u64, Access)> {
        let page = |(iova, leads): (u64, Leads)| match leads.source {
            Source::Memory(_, offset) => (iova, (offset, leads.access)),
            Source::Physical(_) => panic!("physical"),
        };
        self.plain.reach(DeviceId(device), None).into_iter().map(page).collect()
    }
}

/// What `client.c` maps first: two entries, one behind the other.
fn both() -> BTreeMap<u64, (u64, Access)> {
    let rw = Access::READ_WRITE;
    [(0x10_0000, 0x3000), (0x10_1000, 0x8000), (0x10_2000, 0x9000)]
        .map(|(at, offset)| (at, (offset, rw)))
        .into()
}

#[test]
fn the_calls_do_what_the_header_says() {
    let running = Running::start();
    let Some(program) = running.compile("tests/client.c") else { return };
    let mut child = Command::new(program)
        .arg(running.socket())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut go_on = child.stdin.take().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let numbers = |line: Option<String>| -> Vec<usize> {
        line.unwrap().split(' ').map(|word| word.parse().unwrap()).collect()
    };
    let of_rust = [size_of::<Entry>(), size_of::<Region>(), size_of::<Record>()];
    assert_eq!(numbers(lines.next()), of_rust);
    assert_eq!(numbers(lines.next()), Record::OFFSETS);
    let mut refused = 0;
    let mut words = Vec::new();
    for word in lines {
        match word.as_str() {
            "mapped" => assert_eq!(running.reach(0), both()),
            "joined" => assert_eq!((running.reach(1), running.reach(2)), (both(), both())),
            "halved" => {
                let mut half = both();
                half.remove(&0x10_0000);
                assert_eq!((running.reach(0), running.reach(1)), (half.clone(), half));
            }
            "refuse" => {
                running.refuse(0x0dea_d000 + refused);
                refused += 1;
            }
            "gave back" => {
                assert!(running.reach(0).is_empty());
                assert_eq!(running.plain.0.lock().unwrap().resets, [DeviceId(0)]);
            }
            "ended" => {
                let until = Instant::now() + Duration::from_secs(10);
                while !running.plain.0.lock().unwrap().claimed.is_empty() {
                    assert!(Instant::now() < until, "devices are still had");
                    std::thread::sleep(Duration::from_millis(5));
                }
                assert!((0..4).all(|device| running.reach(device).is_empty()));
            }
            other => panic!("{other}"),
        }
        words.push(word);
        writeln!(go_on, "on").unwrap();
    }
    assert!(child.wait().unwrap().success());
    assert_eq!(words, ["mapped", "joined", "halved", "refuse", "refuse", "gave back", "ended"]);
    assert_eq!(PAGE, 4096);
}

#[test]
fn the_example_of_the_clients_page_runs() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(here.join("../../docs/clients.md")).unwrap();
    let example = std::fs::read_to_string(here.join("examples/grant.c")).unwrap();
    assert!(page.contains(&format!("```c\n{example}```\n")), "docs/clients.md shows another program");

    let running = Running::start();
    let Some(program) = running.compile("examples/grant.c") else { return };
    let run = |device: &str| {
        Command::new(&program).arg(device).env("PORTCULLIS_SOCKET", running.socket()).output().unwrap()
    };
    let good = run("dev1");
    let said = String::from_utf8(good.stdout).unwrap();
    assert!(good.status.success() && said.starts_with("dev1 reaches the ring at 0x"), "{said}");
    let bad = run("forbidden");
    assert!(String::from_utf8(bad.stderr).unwrap().contains("storage may not have forbidden"));
    assert_eq!(bad.status.code(), Some(1));
}

#[test]
fn the_calls_of_the_clients_page_are_understood() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(here.join("../../docs/clients.md")).unwrap();
    let running = Running::start();
    let mut called = 0;
    for line in page
        .lines()
        .filter_map(|line| line.strip_prefix("$ varlinkctl call "))
        .filter(|line| line.contains("$S "))
    {
        let (more, line) = line.strip_prefix("--more ").map_or((false, line), |rest| (true, rest));
        let mut words = line.splitn(3, ' ').skip(1);
        let (method, parameters) = (words.next().unwrap(), words.next().unwrap());
        let parameters = parameters.trim_matches('\'');
        let mut stream = std::os::unix::net::UnixStream::connect(running.socket()).unwrap();
        write!(stream, "{{\"method\":\"{method}\",\"parameters\":{parameters},\"more\":{more}}}\0").unwrap();
        let mut answer = Vec::new();
        BufReader::new(stream).read_until(0, &mut answer).unwrap();
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.contains("\"parameters\"") && !answer.contains("\"error\""), "{line}: {answer}");
        called += 1;
    }
    assert!(called >= 8);
}

/// Of libsmmu's calls none is without a row, no row names what is not there, and each of ours is called by `client.c`.
#[test]
fn every_call_of_libsmmu_has_its_counterpart_and_each_is_called() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read_to_string(here.join(path)).unwrap();
    let (page, header) = (read("../../docs/smmuman.md"), read("include/portcullis.h"));
    let called = read("tests/client.c");
    let words = |row: &str| -> Vec<String> {
        let marked = row.split('`').skip(1).step_by(2);
        marked.map(|word| word.split('(').next().unwrap_or(word).to_owned()).collect()
    };
    let rows: Vec<Vec<String>> = page.lines().filter(|line| line.starts_with("| ")).map(words).collect();
    // libsmmu's own list (QNX Hypervisor, "SMMUMAN user's guide").
    for call in [
        "smmu_init",
        "smmu_fini",
        "smmu_obj_create",
        "smmu_obj_destroy",
        "smmu_device_add_generic",
        "smmu_device_add_pci",
        "smmu_device_add_mmio",
        "smmu_device_report_reserved",
        "smmu_mapping_add",
        "smmu_xfer_notify",
        "smmu_xfer_status",
        "smmu_safety",
    ] {
        assert!(rows.iter().any(|row| row.first().is_some_and(|word| word == call)), "{call} has no row");
    }
    let ours = |word: &&String| word.starts_with("portcullis_");
    for call in rows.iter().flatten().filter(ours) {
        assert!(header.contains(&format!("{call}(")), "the header has no {call}");
        assert!(called.contains(&format!("{call}(")), "client.c does not call {call}");
    }
    let methods = rows.iter().filter_map(|row| row.iter().find(|word| ours(word))).count();
    assert!(methods >= 10, "{methods}");
}
