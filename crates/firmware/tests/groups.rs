//! Groups of PCI functions: the rules of Linux (`pci_device_group`), each on the smallest machine that shows it.

mod common;

use portcullis_firmware::groups::{
    Acs, AcsState, Cause, ConfigError, Function, Functions, PortType, TranslationServices, groups,
};
use portcullis_spec::PciAddress;

const ALL_ON: Option<(Acs, Acs)> = Some((Acs::ISOLATION, Acs::ISOLATION));

/// A configuration space under construction.
struct Config(Vec<u8>);

impl Config {
    fn endpoint(vendor: u16, device: u16) -> Self {
        let mut space = vec![0; 4096];
        space[0..2].copy_from_slice(&vendor.to_le_bytes());
        space[2..4].copy_from_slice(&device.to_le_bytes());
        Self(space)
    }

    fn bridge(secondary: u8, subordinate: u8) -> Self {
        let mut config = Self::endpoint(0x1b36, 0x000c);
        config.0[0x0e] = 1;
        config.0[0x0b] = 6;
        config.0[0x0a] = 4;
        config.0[0x19] = secondary;
        config.0[0x1a] = subordinate;
        config
    }

    fn express(mut self, port_type: u8) -> Self {
        self.0[0x06] |= 1 << 4;
        self.0[0x34] = 0x40;
        self.0[0x40] = 0x10;
        self.0[0x42] = port_type << 4 | 2;
        self
    }

    fn acs(mut self, acs: Option<(Acs, Acs)>) -> Self {
        if let Some((capability, control)) = acs {
            self.0[0x100..0x104].copy_from_slice(&0x0001_000du32.to_le_bytes());
            self.0[0x104..0x106].copy_from_slice(&capability.bits().to_le_bytes());
            self.0[0x106..0x108].copy_from_slice(&control.bits().to_le_bytes());
        }
        self
    }

    fn multifunction(mut self) -> Self {
        self.0[0x0e] |= 0x80;
        self
    }

    fn at(self, address: &str) -> Function {
        Function::from_config(self::address(address), &self.0).expect("a configuration space")
    }
}

fn address(text: &str) -> PciAddress {
    let hex = |range: std::ops::Range<usize>| u8::from_str_radix(&text[range], 16).expect("an address");
    PciAddress::new(0, hex(0..2), hex(3..5), hex(6..7))
}

fn endpoint(at: &str) -> Function {
    Config::endpoint(0x144d, 0xa808).express(0).at(at)
}

fn root_port(at: &str, secondary: u8, subordinate: u8, acs: Option<(Acs, Acs)>) -> Function {
    Config::bridge(secondary, subordinate).express(4).acs(acs).at(at)
}

/// The groups as text, members by `,`.
fn of(functions: Vec<Function>) -> Vec<String> {
    groups(&Functions::new(functions), None)
        .iter()
        .map(|group| {
            assert_eq!(group.memberships.len() + 1, group.members.len(), "every join has its reason");
            let names: Vec<String> =
                group.members.iter().map(|member| member.to_string()[5..].to_owned()).collect();
            names.join(",")
        })
        .collect()
}

#[test]
fn endpoints_behind_ports_with_acs_stand_alone() {
    let machine = vec![
        root_port("00:1c.0", 1, 1, ALL_ON),
        root_port("00:1d.0", 2, 2, ALL_ON),
        endpoint("01:00.0"),
        endpoint("02:00.0"),
    ];
    assert_eq!(of(machine), ["00:1c.0", "00:1d.0", "01:00.0", "02:00.0"]);
}

#[test]
fn a_port_without_acs_takes_what_is_behind_it() {
    let machine = vec![root_port("00:1c.0", 1, 1, None), endpoint("01:00.0"), endpoint("00:02.0")];
    assert_eq!(of(machine.clone()), ["00:02.0", "00:1c.0,01:00.0"]);
    let group = groups(&Functions::new(machine), None).remove(1);
    assert_eq!(
        group.memberships[0].to_string(),
        "0000:01:00.0 shares with 0000:00:1c.0: behind that port, which has no ACS"
    );
}

#[test]
fn a_port_with_acs_switched_off_takes_what_is_behind_it() {
    let off = Some((Acs::ISOLATION | Acs::TB, Acs::SV | Acs::UF));
    let machine = vec![root_port("00:1c.0", 1, 1, off), endpoint("01:00.0")];
    assert_eq!(of(machine.clone()), ["00:1c.0,01:00.0"]);
    let group = groups(&Functions::new(machine), None).remove(0);
    assert_eq!(
        group.memberships[0].cause,
        Cause::PathWithoutAcs { at: address("00:1c.0"), lacks: AcsState::Off(Acs::RR | Acs::CR) }
    );
    // A service that the port does not have, it need not switch on.
    let only = Acs::SV | Acs::UF;
    let machine = vec![root_port("00:1c.0", 1, 1, Some((only, only))), endpoint("01:00.0")];
    assert_eq!(of(machine), ["00:1c.0", "01:00.0"]);
}

#[test]
fn functions_of_a_device_without_acs_stand_together() {
    let function = |at: &str| Config::endpoint(0x10de, 0x1b80).express(0).multifunction().at(at);
    let machine = vec![root_port("00:01.0", 3, 3, ALL_ON), function("03:00.0"), function("03:00.1")];
    assert_eq!(of(machine.clone()), ["00:01.0", "03:00.0,03:00.1"]);
    let group = groups(&Functions::new(machine), None).remove(1);
    let text = group.memberships[0].to_string();
    assert!(
        text == "0000:03:00.1 shares with 0000:03:00.0: multifunction without ACS"
            || text == "0000:03:00.0 shares with 0000:03:00.1: multifunction without ACS",
        "{text}"
    );
    // With ACS on each they are apart.
    let function = |at: &str| Config::endpoint(0x10de, 0x1b80).express(0).multifunction().acs(ALL_ON).at(at);
    let machine = vec![root_port("00:01.0", 3, 3, ALL_ON), function("03:00.0"), function("03:00.1")];
    assert_eq!(of(machine), ["00:01.0", "03:00.0", "03:00.1"]);
}

#[test]
fn conventional_pci_is_one_group_with_its_bridge() {
    let bridge = Config::bridge(4, 4).express(7).at("03:00.0");
    let plain = |at: &str| Config::endpoint(0x104c, 0x8023).at(at);
    let machine = vec![
        root_port("00:1c.0", 3, 4, ALL_ON),
        bridge,
        plain("04:00.0"),
        plain("04:01.0"),
        endpoint("00:02.0"),
    ];
    // The bridge itself passes nothing on between others: it and what is behind it are one, the root port is apart.
    assert_eq!(of(machine), ["00:02.0", "00:1c.0", "03:00.0,04:00.0,04:01.0"]);
}

#[test]
fn a_switch_without_acs_is_one_group() {
    let upstream = Config::bridge(2, 4).express(5).at("01:00.0");
    let downstream = |at: &str, bus: u8, acs| Config::bridge(bus, bus).express(6).acs(acs).at(at);
    let machine = |acs| {
        vec![
            root_port("00:01.0", 1, 4, ALL_ON),
            upstream.clone(),
            downstream("02:00.0", 3, acs),
            downstream("02:01.0", 4, acs),
            endpoint("03:00.0"),
            endpoint("04:00.0"),
        ]
    };
    assert_eq!(of(machine(ALL_ON)), ["00:01.0", "01:00.0", "02:00.0", "02:01.0", "03:00.0", "04:00.0"]);
    assert_eq!(of(machine(None)), ["00:01.0", "01:00.0", "02:00.0,03:00.0", "02:01.0,04:00.0"]);
    // Below a root port without ACS, everything is one.
    let mut open = machine(ALL_ON);
    open[0] = root_port("00:01.0", 1, 4, None);
    assert_eq!(of(open), ["00:01.0,01:00.0,02:00.0,02:01.0,03:00.0,04:00.0"]);
}

#[test]
fn virtual_functions_are_judged_by_the_way_of_their_physical_one() {
    let physical = endpoint("05:00.0");
    let mut virtual_function = endpoint("06:10.1");
    virtual_function.physical = Some(address("05:00.0"));
    let machine = |acs| vec![root_port("00:01.0", 5, 5, acs), physical.clone(), virtual_function.clone()];
    assert_eq!(of(machine(ALL_ON)), ["00:01.0", "05:00.0", "06:10.1"]);
    assert_eq!(of(machine(None)), ["00:01.0,05:00.0,06:10.1"]);
}

#[test]
fn known_defects_count() {
    // Marvell 88SE9230 sends requests as function 1, which some boards have.
    let marvell = |at: &str| Config::endpoint(0x1b4b, 0x9230).express(1).acs(ALL_ON).multifunction().at(at);
    let machine = vec![root_port("00:01.0", 7, 7, ALL_ON), marvell("07:00.0"), marvell("07:00.1")];
    assert_eq!(of(machine), ["00:01.0", "07:00.0,07:00.1"]);
    // I350 functions do not talk to each other though they have no ACS.
    let i350 = |at: &str| Config::endpoint(0x8086, 0x1521).express(0).multifunction().at(at);
    let machine = vec![root_port("00:01.0", 8, 8, ALL_ON), i350("08:00.0"), i350("08:00.1")];
    assert_eq!(of(machine), ["00:01.0", "08:00.0", "08:00.1"]);
    // Intel 200 series chipsets have the ACS control register at 8.
    let mut port = Config::bridge(9, 9).express(4).acs(Some((Acs::ISOLATION, Acs::empty())));
    port.0[0..4].copy_from_slice(&[0x86, 0x80, 0x90, 0xa2]);
    port.0[0x108] = Acs::ISOLATION.bits() as u8;
    assert_eq!(of(vec![port.at("00:1b.0"), endpoint("09:00.0")]), ["00:1b.0", "09:00.0"]);
}

#[test]
fn a_configuration_space_is_read_as_far_as_it_goes() {
    let config = Config::bridge(1, 1).express(4).acs(ALL_ON);
    let whole = Function::from_config(address("00:1c.0"), &config.0).expect("whole");
    assert_eq!(whole.express.map(|express| express.port_type), Some(PortType::RootPort));
    assert_eq!(whole.acs, ALL_ON);
    assert_eq!(whole.services, TranslationServices::default());
    let header = Function::from_config(address("00:1c.0"), &config.0[..64]).expect("a header");
    assert_eq!((header.buses, header.express, header.acs), (Some((1, 1)), None, None));
    assert_eq!(Function::from_config(address("00:1c.0"), &config.0[..63]), Err(ConfigError::TooShort(63)));
    assert_eq!(Function::from_config(address("00:1c.0"), &[0xff; 4096]), Err(ConfigError::Gone));
}

/// Any bytes cost bounded time: capability lists that loop, bridges that are above themselves.
#[test]
fn hostile_configuration_spaces_end() {
    let mut looped = Config::endpoint(1, 1).express(0);
    looped.0[0x40] = 0x01;
    looped.0[0x41] = 0x40;
    looped.0[0x100..0x104].copy_from_slice(&0x1000_0001u32.to_le_bytes());
    assert_eq!(looped.at("00:03.0").express, None);
    let mut random = common::random();
    for _ in 0..200 {
        let machine: Vec<Function> = (0..40)
            .filter_map(|_| {
                let mut space =
                    Config::bridge(random() as u8 % 8, random() as u8 % 8).express(random() as u8 % 16).0;
                for _ in 0..random() % 32 {
                    let at = random() as usize % space.len();
                    space[at] = random() as u8;
                }
                let at = PciAddress::new(0, random() as u8 % 8, random() as u8 % 4, random() as u8 % 8);
                Function::from_config(at, &space[..64 + random() as usize % 4033]).ok()
            })
            .collect();
        let functions = Functions::new(machine);
        let members: usize = groups(&functions, None).iter().map(|group| group.members.len()).sum();
        assert_eq!(members, functions.len());
    }
}
