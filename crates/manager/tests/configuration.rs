//! Configuration: every problem has its place, and every contradiction is named.

use std::path::Path;

use portcullis_firmware::user::Mode;
use portcullis_manager::configuration::{
    Account, BackendChoice, Configuration, Problem, from_smmuman, from_toml,
};
use portcullis_spec::Access;

fn no_files(path: &Path) -> std::io::Result<String> {
    Err(std::io::Error::new(std::io::ErrorKind::NotFound, path.display().to_string()))
}

fn toml(text: &str) -> Result<Configuration, Vec<Problem>> {
    from_toml("portcullis.toml", text, no_files)
}

/// Line and column of each problem with the start of its message.
fn places(problems: &[Problem]) -> Vec<(usize, usize, &str)> {
    problems.iter().map(|it| (it.line, it.column, it.message.as_str())).collect()
}

const SAMPLE: &str = r#"
[service]
socket = "/run/portcullis/manager"
socket-mode = "0660"
connections = 16
resume-within = 300
backend = "vfio"

[journal]
records = 1000
directory = "/var/log/portcullis"
size = "16M"

[metrics]
listen = "127.0.0.1:9475"

[firmware]
mode = "require"

[accept]
unsafe-interrupts = ["0000:00:04.0"]

[operators]
groups = ["wheel"]

[[alias]]
name = "disk"
device = "0000:00:03.0"

[[client]]
name = "storage"
users = ["nvme", 1001]
devices = ["disk", "0000:04:*"]
windows = ["0-0xffffffff"]
unity = ["0x80000000,1M"]
limits = { bytes = "1G", spaces = 4 }

[[allow]]
device = "0000:00:05.0"
range = "0x4000,8K"
access = "r"
"#;

#[test]
fn clients_are_waited_for_a_second_to_a_day() {
    for (seconds, fits) in [("0", false), ("1", true), ("86400", true), ("86401", false)] {
        let read = toml(&format!("[service]\nresume-within = {seconds}\n"));
        match read {
            Ok(read) => {
                assert!(fits, "{seconds}");
                assert_eq!(read.resume_within.map(|it| it.as_secs().to_string()).as_deref(), Some(seconds));
            }
            Err(problems) => {
                assert!(!fits, "{problems:?}");
                let message = format!("a client cannot come back within {seconds} seconds");
                assert_eq!(places(&problems), [(2, 17, message.as_str())]);
                assert!(problems[0].help.as_ref().is_some_and(|help| help.contains("from 1 to 86400")));
            }
        }
    }
    assert_eq!(toml("").unwrap().resume_within, None);
}

#[test]
fn a_whole_file_is_understood() {
    let configuration = toml(SAMPLE).unwrap();
    assert_eq!(configuration.backend, BackendChoice::Vfio);
    assert_eq!(configuration.socket_mode, Some(0o660));
    assert_eq!(configuration.resume_within, Some(std::time::Duration::from_secs(300)));
    assert_eq!(configuration.journal.size, 16 << 20);
    assert_eq!(configuration.mode(), Mode::Require);
    assert_eq!(configuration.device("disk"), "0000:00:03.0");
    let client = &configuration.clients[0];
    assert_eq!(client.who.users, [Account::Name("nvme".into()), Account::Number(1001)]);
    assert_eq!(client.windows, Some(vec![0..=0xffff_ffff]));
    assert_eq!(client.unity, [0x8000_0000..=0x800f_ffff]);
    assert_eq!((client.limits.bytes, client.limits.spaces), (1 << 30, 4));
    let allow = &configuration.allows[0];
    assert_eq!((allow.first, allow.length, allow.access), (0x4000, 0x2000, Access::READ));
    configuration.check().unwrap();
    let remarks = configuration.remarks().join("\n");
    assert!(remarks.contains("0x80000000-0x800fffff") && remarks.contains("0000:00:04.0"), "{remarks}");
}

#[test]
fn an_empty_file_is_a_configuration() {
    let configuration = toml("").unwrap();
    assert_eq!(configuration.backend, BackendChoice::Auto);
    configuration.check().unwrap();
}

#[test]
fn problems_have_their_place_and_what_mends_them() {
    let text = "[service]\nsocket-mode = \"rw\"\n\n[[client]]\nname = \"a\"\nusers = [1]\nwindows = [\"9-5\", \"x\"]\n\n[metrics]\nlisten = \"0.0.0.0:1\"\n";
    let problems = toml(text).unwrap_err();
    assert_eq!(
        places(&problems),
        [
            (2, 15, "`rw` is not a file mode"),
            (7, 12, "the range ends before it begins"),
            (7, 19, "`x` is not a range"),
            (10, 10, "0.0.0.0:1 can be reached from elsewhere"),
        ]
    );
    assert!(problems.iter().all(|problem| problem.help.is_some()));
}

#[test]
fn unknown_words_and_broken_syntax_are_placed() {
    let problems = toml("[service]\nsockt = \"/run/x\"\n").unwrap_err();
    assert_eq!((problems[0].line, problems[0].column), (2, 1));
    assert!(problems[0].message.contains("unknown field `sockt`"), "{}", problems[0].message);
    let problems = toml("[service\n").unwrap_err();
    assert_eq!(problems[0].line, 1);
}

/// Words of the wrong kind, unknown and missing ones, values that say nothing, and contradictions: all in one go, in the order of the
/// file, and nothing that only seems wrong because something else could not be read.
#[test]
fn mistakes_of_every_kind_are_named_together() {
    let text = r#"[service]
backend = "vfioo"
upstream = "/run/host"
colour = 3
connections = "many"
[journal]
size = true
[[client]]
name = "a"
users = [1, true, "b"]
windows = ["0-0xfff", "x"]
unity = ["0x1000,4K"]
[[client]]
users = [1]
surname = "b"
[[client]]
name = "a"
users = 7
[client.limits]
bytes = "lots"
[[allow]]
device = "disk"
range = "0x1000,4K"
[[allow]]
device = "disk"
range = "0x1000,4K"
access = "r"
"#;
    let problems = toml(text).unwrap_err();
    let found: Vec<_> = problems.iter().map(|it| (it.line, it.column)).collect();
    let expected = [
        (2, 11),
        (4, 1),
        (5, 15),
        (7, 8),
        (10, 13),
        (11, 23),
        (13, 1),
        (15, 1),
        (17, 8),
        (18, 9),
        (20, 9),
        (24, 1),
    ];
    assert_eq!(found, expected, "{problems:#?}");
    assert!(problems.iter().all(|problem| problem.help.is_some()));
}

#[test]
fn every_broken_line_is_named() {
    let problems = toml("[service]\nsocket = \n[journal]\nrecords = 1 1\n= 3\n").unwrap_err();
    let lines: Vec<_> = problems.iter().map(|it| it.line).collect();
    assert_eq!(lines, [2, 4, 5], "{problems:#?}");
    assert!(problems.iter().all(|problem| problem.help.is_some()));
}

#[test]
fn contradictions_of_the_service_have_their_own_place() {
    let text = "[[client]]\nname = \"a\"\nusers = [1]\n\n[service]\nbackend = \"vfio\"\niommu = \"vtd\"\nupstream = \"/x\"\n";
    let problems = toml(text).unwrap().check().unwrap_err();
    let found: Vec<_> = problems.iter().map(|it| (it.line, it.column)).collect();
    assert_eq!(found, [(8, 12), (7, 9)]);
    let problems = toml("[service]\nbackend = \"upstream\"\n").unwrap().check().unwrap_err();
    assert_eq!((problems[0].line, problems[0].column), (2, 11));
}

#[test]
fn every_contradiction_is_named() {
    let text = r#"
[service]
backend = "vfio"
iommu = "vtd"
[[alias]]
name = "dma"
device = "0000:00:01.0"
[[alias]]
name = "dma"
device = "0000:00:02.0"
[[client]]
name = "a"
devices = ["0000:00:01.0"]
unity = ["0x1000,4K"]
[[client]]
name = "a"
users = [1]
unity = ["0x1800-0x27ff"]
windows = ["0,4K"]
[[allow]]
device = "dma"
range = "0x1000,4K"
[[allow]]
device = "dma"
range = "0x1800,1"
access = "r"
"#;
    let problems = toml(text).unwrap().check().unwrap_err();
    let all = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    for expected in [
        "service.iommu",
        "client `a` is there twice",
        "`dma` is 0000:00:01.0",
        "nobody may be client `a`",
        "outside of its windows",
        "which is not whole pages",
        "belongs in part to client `a` too",
        "may only read here, and read and write in line 20, in the same page",
        "has a static grant, and client `a`",
    ] {
        assert!(all.contains(expected), "{expected} is missing from:\n{all}");
    }
    assert!(problems.iter().all(|problem| problem.line > 0 && problem.help.is_some()));
}

/// A board's file in QNX's grammar, with the notation that its documentation shows.
#[test]
fn smmuman_options_carry_over() {
    let text = "# board\nsmmu arm foreground debug 2\ndevice pci:0:18.0 gfx\ndevice mmio:0xe6800000,0x1000 eth\ndevice 33 usb\nallow gfx 4000,4096\nallow eth 0d16384,0x1000,s allow usb 4K,1k,t\nreserved 80000000,1M\nsafety\n";
    let configuration = from_smmuman("board.smmu", text).unwrap();
    assert_eq!(configuration.device("gfx"), "0000:00:12.0");
    assert_eq!(configuration.device("eth"), "mmio:0xe6800000");
    assert_eq!(configuration.device("usb"), "stream:33");
    let allows: Vec<_> =
        configuration.allows.iter().map(|it| (it.device.as_str(), it.first, it.length, it.access)).collect();
    assert_eq!(
        allows,
        [
            ("gfx", 0x4000, 0x1000, Access::READ_WRITE),
            ("eth", 0x4000, 0x1000, Access::READ),
            ("usb", 0x1000, 0x400, Access::WRITE),
        ]
    );
    let reserved = configuration.firmware.reserved[0].range.value;
    assert_eq!((reserved.first, reserved.last), (0x8000_0000, 0x800f_ffff));
    assert_eq!(configuration.warnings.len(), 4, "{:?}", configuration.warnings);
    configuration.check().unwrap();
}

#[test]
fn smmuman_problems_have_their_place() {
    let text = "device pci:0:32.0 gfx\nallow gfx 4000\nfrobnicate\nreserved ffffffffffffffff,2\ndevice\n";
    let problems = from_smmuman("board.smmu", text).unwrap_err();
    assert_eq!(
        places(&problems),
        [
            (1, 8, "`pci:0:32.0` is no PCI function"),
            (2, 11, "`4000` is not START,LEN"),
            (3, 1, "`frobnicate` is no option"),
            (4, 10, "`ffffffffffffffff,2` is empty, or wraps around"),
            (5, 1, "`device` with 0 arguments"),
        ]
    );
}

proptest::proptest! {
    #[test]
    fn any_text_is_answered(text in "[ -~\n]{0,200}") {
        let _ = toml(&text);
        let _ = from_smmuman("x", &text);
    }

    #[test]
    fn any_words_in_smmumans_grammar_are_answered(words in proptest::collection::vec(
        proptest::sample::select(vec![
            "allow", "device", "reserved", "unit", "smmu", "gfx", "4000,4096", "pci:0:1.0", "mmio:0,0", "ffffffffffffffff,1", "0,0", ",", "s",
        ]), 0..20)) {
        if let Ok(configuration) = from_smmuman("x", &words.join(" ")) {
            let _ = configuration.check();
        }
    }
}
