//! From a configuration to what the service runs with.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use portcullis_firmware::{topology::NoBridges, user::Mode};
use portcullis_manager::{
    Device, Inventory,
    configuration::{
        Account, Accounts, Configuration, Place, Problem,
        topology::{describe, put_in_force},
    },
    core::{Accepted, Core, Pattern, Policy},
    host::Host,
    journal::{Disk, EventsOnDisk},
    service::{Policies, Who},
};
use portcullis_spec::{Iova, Requester};

use crate::{exit::Failure, output::count};

/// Bytes of the file of events, and of the one before it.
const EVENTS_ON_DISK: u64 = 1 << 20;

/// Reads a configuration; every problem of it is in the error.
pub(super) fn load(file: &str) -> Result<Configuration, Failure> {
    let (text, checked) = crate::check::load(file)?;
    checked.map_err(|problems| {
        let pictures: Vec<String> =
            problems.iter().map(|problem| crate::check::picture(problem, &text)).collect();
        Failure::usage(format!(
            "{file} cannot be put in force: {}\n{}",
            count(problems.len(), "problem"),
            pictures.join("\n")
        ))
    })
}

/// What is accepted by name.
pub(super) fn accepted(configuration: &Configuration) -> Accepted {
    Accepted {
        unsafe_interrupts: named(configuration, &configuration.unsafe_interrupts),
        direct_regions: named(configuration, &configuration.direct_regions),
    }
}

/// Who is given what.
pub(super) fn policies(configuration: &Configuration) -> Result<Policies, Failure> {
    let mut policies = Policies { operators: who(&configuration.operators)?, ..Policies::default() };
    for client in &configuration.clients {
        let windows = client.windows.as_ref();
        let policy = Policy {
            name: client.name.clone(),
            devices: named(configuration, &client.devices),
            windows: windows.map(|all| all.iter().map(|w| Iova(*w.start())..=Iova(*w.end())).collect()),
            unity: client.unity.clone(),
            physical: client.physical.clone(),
            limits: client.limits,
        };
        policies.clients.push((who(&client.who)?, Arc::new(policy)));
    }
    Ok(policies)
}

/// The inventory with what configuration says of units, devices and regions put in force, and the names that it gives to devices.
pub(super) fn adjust(
    configuration: &Configuration,
    name: &str,
    inventory: Inventory,
) -> Result<Inventory, Failure> {
    let user = &configuration.firmware;
    let stated = user.units.len() + user.devices.len() + user.reserved.len();
    let mut inventory = if stated == 0 && !matches!(user.mode, Mode::Ignore | Mode::Require) {
        inventory
    } else if name == portcullis_manager::vfio::NAME {
        let host = Host::read(Path::new("/"))?;
        put_in_force(user, host.firmware.topology, &host.functions, inventory)?
    } else {
        // A simulated machine's firmware says what it has; so does the manager above.
        put_in_force(user, describe(&inventory), &NoBridges, inventory)?
    };
    for alias in &configuration.aliases {
        let pattern = Pattern::new(&alias.device);
        // By name, or by the number under which its unit sees it.
        let number = alias.device.strip_prefix("stream:").and_then(|number| number.parse().ok());
        let is = |device: &Device| {
            let seen = |r: &Requester| r.to_string() == alias.device || Some(r.index()) == number;
            pattern.is_literal() && pattern.means(device) || device.requesters.iter().any(seen)
        };
        let Some((_, device)) = inventory.devices.iter_mut().find(|(_, device)| is(device)) else {
            return Err(Failure::new(format!(
                "{}:{}:{}: no device is called `{}`, so `{}` stands for nothing",
                alias.place.file, alias.place.line, alias.place.column, alias.device, alias.name
            )));
        };
        device.description = format!("{} ({})", device.description, device.name);
        device.name.clone_from(&alias.name);
    }
    Ok(inventory)
}

/// Makes the static grants.
pub(super) fn allow(configuration: &Configuration, core: &mut Core) -> Result<(), Failure> {
    for allow in &configuration.allows {
        core.allow(renamed(configuration, &allow.device), allow.first, allow.length, allow.access).map_err(
            |refusal| {
                let place = &allow.place;
                Failure::new(format!("{}:{}:{}: {refusal}", place.file, place.line, place.column))
            },
        )?;
    }
    Ok(())
}

/// The journal on disk, where there is to be one.
pub(super) fn disk(configuration: &Configuration) -> Result<Option<Disk>, Failure> {
    let Some(directory) = &configuration.journal.directory else { return Ok(None) };
    std::fs::create_dir_all(directory)
        .map_err(|error| Failure::new(format!("{}: {error}", directory.display())))?;
    // Two files share the bytes.
    Ok(Some(Disk::open(&directory.join("violations.json"), configuration.journal.size / 2)?))
}

/// What happens, on disk, where there is to be a journal.
pub(super) fn events(configuration: &Configuration) -> Result<Option<EventsOnDisk>, Failure> {
    let Some(directory) = &configuration.journal.directory else { return Ok(None) };
    Ok(Some(EventsOnDisk::open(&directory.join("events.json"), EVENTS_ON_DISK)?))
}

/// Patterns that name a device which has another name now mean that.
fn named(configuration: &Configuration, patterns: &[Pattern]) -> Vec<Pattern> {
    patterns.iter().map(|pattern| Pattern::new(renamed(configuration, pattern.as_str()))).collect()
}

fn renamed<'a>(configuration: &'a Configuration, device: &'a str) -> &'a str {
    configuration.aliases.iter().find(|alias| alias.device == device).map_or(device, |alias| &alias.name)
}

/// Users and groups that are named, and that this host does not have.
pub(crate) fn strangers(configuration: &Configuration) -> Vec<Problem> {
    let mut problems = Vec::new();
    let all = configuration.clients.iter().map(|client| &client.who).chain([&configuration.operators]);
    for Accounts { users, groups, places } in all {
        let mut unknown = |account: &Account, what: &str, known: &dyn Fn(&str) -> bool| {
            let Account::Name(name) = account else { return };
            if known(name) {
                return;
            }
            let place = places.iter().find(|(named, _)| named == name).map(|(_, place)| place.clone());
            let Place { file, line, column, span } = place.unwrap_or_default();
            let message = format!("this host has no {what} `{name}`");
            let help = Some(format!("make it, or use the name of a {what} that is there, or its number"));
            problems.push(Problem { file, line, column, span, message, help });
        };
        for user in users {
            unknown(user, "user", &|name| uzers::get_user_by_name(name).is_some());
        }
        for group in groups {
            unknown(group, "group", &|name| uzers::get_group_by_name(name).is_some());
        }
    }
    problems
}

fn who(accounts: &Accounts) -> Result<Who, Failure> {
    let number = |account: &Account, what: &str, find: &dyn Fn(&str) -> Option<u32>| match account {
        Account::Number(number) => Ok(*number),
        Account::Name(name) => {
            find(name).ok_or_else(|| Failure::new(format!("this host has no {what} `{name}`")))
        }
    };
    let user = |name: &str| uzers::get_user_by_name(name).map(|user| user.uid());
    let group = |name: &str| uzers::get_group_by_name(name).map(|group| group.gid());
    Ok(Who {
        users: accounts.users.iter().map(|a| number(a, "user", &user)).collect::<Result<_, _>>()?,
        groups: accounts.groups.iter().map(|a| number(a, "group", &group)).collect::<Result<_, _>>()?,
    })
}

/// Warns of a configuration that others than root can change.
pub(super) fn writable_by_others(file: &str) -> Option<String> {
    let path = PathBuf::from(file.strip_prefix('@').unwrap_or(file));
    let metadata = std::fs::metadata(&path).ok()?;
    (metadata.mode() & 0o022 != 0)
        .then(|| format!("{} can be changed by others than its owner", path.display()))
}
