//! What is on the screen after looks and keys.

use std::time::Duration;

use portcullis_client::api::{Access, Device, DeviceStatistics, Fault, Statistics, Status};
use ratatui::{
    Terminal,
    backend::TestBackend,
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
};

use super::{draw, plain, rate};
use crate::top::{
    sample::Sample,
    state::{State, Then},
};

const SECOND: u64 = 1_000_000_000;

/// A look at three devices: name, holder, requests, refused accesses.
fn look(time: u64, devices: [(&str, Option<&str>, Option<u64>, u64); 3], faults: Vec<Fault>) -> Sample {
    Sample {
        time,
        status: Status {
            backend: "plain".into(),
            simulated: true,
            devices: 3,
            started: 1,
            ..Status::default()
        },
        devices: devices
            .iter()
            .map(|&(name, holder, ..)| Device {
                name: name.into(),
                holder: holder.map(Into::into),
                driver: Some("e1000e".into()),
                ..Device::default()
            })
            .collect(),
        statistics: Statistics {
            devices: devices
                .iter()
                .map(|&(name, _, requests, faults)| DeviceStatistics {
                    device: name.into(),
                    requests,
                    faults,
                    ..DeviceStatistics::default()
                })
                .collect(),
            faults: devices.iter().map(|device| device.3).sum(),
            lost: 7,
            ..Statistics::default()
        },
        faults,
    }
}

fn fault(number: u64, device: &str) -> Fault {
    Fault {
        number,
        // 2023-11-14T22:13:20Z.
        time: 1_700_000_000 * SECOND + number,
        devices: vec![device.into()],
        client: Some("storage".into()),
        address: 0xdead_0000 + number,
        access: Access::WRITE,
        reason: "not-mapped".into(),
        count: 1,
        ..Fault::default()
    }
}

/// Two looks, two seconds apart.
fn state() -> State {
    let mut state = State::new(Duration::from_secs(2));
    let first = [
        ("nic0", Some("vm0"), Some(1000), 0),
        ("disk0", None, None, 5),
        ("rogue0", Some("vm1"), Some(50), 10),
    ];
    state.take(look(10 * SECOND, first, vec![fault(1, "rogue0")]));
    let second = [
        ("nic0", Some("vm0"), Some(31_000), 0),
        ("disk0", None, None, 5),
        ("rogue0", Some("vm1"), Some(20), 14),
    ];
    state.take(look(12 * SECOND, second, vec![fault(2, "rogue0"), fault(3, "disk0")]));
    state
}

fn screen(state: &mut State, width: u16, height: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, state)).unwrap();
    let buffer = terminal.backend().buffer().clone();
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..height).map(line).collect()
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

fn press(state: &mut State, code: KeyCode) -> Then {
    state.key(KeyEvent::new(code, KeyModifiers::NONE))
}

/// Devices in the order of the screen.
fn order(state: &mut State) -> Vec<String> {
    let lines = screen(state, 100, 20);
    lines[4..7].iter().map(|line| words(line)[0].to_owned()).collect()
}

#[test]
fn rates_and_holders_are_shown() {
    let lines = screen(&mut state(), 100, 20);
    assert!(lines[0].starts_with("plain (simulated: protects nothing real): 3 devices"), "{}", lines[0]);
    // 19 refused, 4 of them in these 2 seconds.
    assert_eq!(lines[1], "refused 2.0/s, 19 in all, 7 of them without a record");
    assert_eq!(words(&lines[4]), ["disk0", "driver", "e1000e", "none", "0", "?", "?", "0", "5"]);
    assert_eq!(words(&lines[5]), ["nic0", "vm0", "none", "0", "15.0k", "31000", "0", "0"]);
    // It was claimed anew: its requests count from then on.
    assert_eq!(words(&lines[6]), ["rogue0", "vm1", "none", "0", "10", "20", "2.0", "14"]);
    let newest: Vec<_> = lines.iter().filter(|line| line.contains("not-mapped")).collect();
    assert_eq!(words(newest[0]), ["22:13:20.000000", "disk0", "storage", "w", "0xdead0003", "not-mapped"]);
    assert_eq!(newest.len(), 3);
    assert!(newest[2].contains("0xdead0001"));
}

#[test]
fn keys_sort_choose_narrow_pause_and_end() {
    let mut state = state();
    assert_eq!(order(&mut state), ["disk0", "nic0", "rogue0"]);
    press(&mut state, KeyCode::Right);
    assert_eq!(order(&mut state), ["nic0", "rogue0", "disk0"]);
    press(&mut state, KeyCode::Right);
    assert_eq!(order(&mut state), ["nic0", "rogue0", "disk0"]);
    press(&mut state, KeyCode::Char('r'));
    assert_eq!(order(&mut state), ["disk0", "rogue0", "nic0"]);
    press(&mut state, KeyCode::Char('s'));
    assert_eq!(order(&mut state), ["rogue0", "disk0", "nic0"]);

    press(&mut state, KeyCode::Enter);
    assert_eq!(state.only(), None);
    press(&mut state, KeyCode::Down);
    press(&mut state, KeyCode::Down);
    press(&mut state, KeyCode::Enter);
    assert_eq!(state.only(), Some("disk0"));
    let lines = screen(&mut state, 100, 20);
    assert!(lines.iter().any(|line| line.contains("newest refusals of disk0")));
    assert_eq!(lines.iter().filter(|line| line.contains("not-mapped")).count(), 1);
    // Wherever it is sorted to.
    press(&mut state, KeyCode::Left);
    press(&mut state, KeyCode::Left);
    press(&mut state, KeyCode::Left);
    assert_eq!((order(&mut state)[0].as_str(), state.chosen()), ("disk0", Some(0)));
    for (key, at) in [(KeyCode::End, 2), (KeyCode::Down, 2), (KeyCode::PageUp, 0), (KeyCode::Up, 0)] {
        press(&mut state, key);
        assert_eq!(state.chosen(), Some(at), "{key:?}");
    }

    press(&mut state, KeyCode::Char('p'));
    assert!(state.paused && screen(&mut state, 100, 20)[19].starts_with(" PAUSED "));
    assert_eq!(press(&mut state, KeyCode::Esc), Then::GoOn);
    assert_eq!(state.chosen(), None);
    assert_eq!(press(&mut state, KeyCode::Esc), Then::End);
    assert_eq!(press(&mut state, KeyCode::Char('q')), Then::End);
    assert_eq!(state.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Then::End);
}

#[test]
fn trouble_and_the_safe_state_stand_first() {
    let mut state = state();
    state.trouble = Some("the service is not running".into());
    state.sample.status.safe_state = Some("a unit answers nonsense".into());
    let lines = screen(&mut state, 100, 20);
    assert_eq!(lines[0], "EVERYTHING IS BLOCKED: a unit answers nonsense");
    assert!(lines[1].ends_with("the service is not running"), "{}", lines[1]);
    // Another service: its counts have nothing to do with those before, and its records neither.
    let mut fresh =
        look(13 * SECOND, [("nic0", None, Some(9), 9), ("a", None, None, 0), ("b", None, None, 0)], vec![]);
    fresh.status.started = 2;
    state.take(fresh);
    assert_eq!((state.trouble.as_deref(), state.refused_per_second, state.newest().count()), (None, 0.0, 0));
    assert!(state.rows.iter().all(|row| row.requests_per_second.is_none() && row.faults_per_second == 0.0));
}

#[test]
fn no_screen_is_too_small() {
    let mut state = state();
    press(&mut state, KeyCode::Down);
    for (width, height) in [(1, 1), (3, 2), (20, 5), (80, 4), (300, 100)] {
        screen(&mut state, width, height);
    }
    let mut empty = State::new(Duration::from_secs(1));
    for key in [KeyCode::Down, KeyCode::Up, KeyCode::End, KeyCode::Enter] {
        press(&mut empty, key);
    }
    screen(&mut empty, 80, 24);
}

#[test]
fn a_narrow_screen_shows_fewer_columns_and_those_whole() {
    let mut state = state();
    let header = |state: &mut State, width| {
        let lines = screen(state, width, 20);
        let at = lines.iter().position(|line| line.starts_with("DEVICE")).unwrap();
        (words(&lines[at]).join(" "), words(&lines[at + 3]).join(" "))
    };
    assert_eq!(header(&mut state, 80).0, "DEVICE▲ HOLDER UNIT GROUP DMA/S DMA REFUSED/S REFUSED");
    assert_eq!(header(&mut state, 60).0, "DEVICE▲ HOLDER DMA/S REFUSED/S REFUSED");
    assert_eq!(header(&mut state, 30), ("DEVICE▲ DMA/S REFUSED/S".into(), "rogue0 10 2.0".into()));
}

#[test]
fn numbers_in_names_are_numbers() {
    let mut state = state();
    let names = ["nic10", "nic2", "0000:00:1f.2"];
    state.take(look(13 * SECOND, names.map(|name| (name, None, None, 0)), vec![]));
    assert_eq!(order(&mut state), ["0000:00:1f.2", "nic2", "nic10"]);
}

#[test]
fn without_a_terminal_it_is_one_table() {
    let mut out = Vec::new();
    plain(&state(), &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    let nic = text.lines().find(|line| line.starts_with("nic0")).unwrap();
    assert_eq!(words(nic), ["nic0", "vm0", "none", "0", "15.0k", "31000", "0", "0"]);
    let report = serde_json::to_value(state().report()).unwrap();
    assert_eq!(report["devices"][1]["requestsPerSecond"], 15_000.0);
    assert_eq!(report["faults"][1]["number"], 3);
}

#[test]
fn rates_are_short() {
    let all = [0.0, 0.5, 9.94, 9.96, 9999.0, 9999.9, 15_000.0, 999_940.0, 999_960.0, 2.5e9];
    let shown: Vec<String> = all.into_iter().map(rate).collect();
    assert_eq!(shown, ["0", "0.5", "9.9", "10", "9999", "10.0k", "15.0k", "999.9k", "1.0M", "2.5G"]);
}
