//! From a configuration to what the service runs with.

use std::{os::unix::fs::MetadataExt, path::PathBuf, sync::Arc};

use portcullis_firmware::user::Mode;
use portcullis_manager::{
    Inventory,
    configuration::{Account, Accounts, Configuration},
    core::{Accepted, Core, Pattern, Policy},
    journal::Disk,
    service::{Policies, Who},
};
use portcullis_spec::Iova;

use crate::exit::Failure;

/// Reads a configuration; every problem of it is in the error.
pub(super) fn load(file: &str) -> Result<Configuration, Failure> {
    let (text, checked) = crate::check::load(file)?;
    checked.map_err(|problems| {
        let pictures: Vec<String> =
            problems.iter().map(|problem| crate::check::picture(problem, &text)).collect();
        Failure::usage(format!(
            "{file} cannot be put in force: {} problems\n{}",
            problems.len(),
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

/// The inventory with the names that configuration gives to devices.
pub(super) fn adjust(configuration: &Configuration, mut inventory: Inventory) -> Result<Inventory, Failure> {
    let firmware = &configuration.firmware;
    if firmware.mode == Mode::Require && inventory.units.is_empty() {
        return Err(Failure::new(
            "the configuration requires firmware to describe an IOMMU, and none is described",
        ));
    }
    let stated = firmware.units.len() + firmware.devices.len() + firmware.reserved.len();
    if stated != 0 || firmware.mode == Mode::Ignore {
        return Err(Failure::new(
            "the configuration states units, devices or reserved regions of its own, or ignores firmware: this back end takes \
             them from the running machine and cannot put that in force; leave them out",
        ));
    }
    for alias in &configuration.aliases {
        let pattern = Pattern::new(&alias.device);
        let meant =
            inventory.devices.iter_mut().find(|(_, device)| pattern.is_literal() && pattern.means(device));
        let Some((_, device)) = meant else {
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
    std::fs::create_dir_all(directory)?;
    // Two files share the bytes.
    Ok(Some(Disk::open(&directory.join("violations.json"), configuration.journal.size / 2)?))
}

/// Patterns that name a device which has another name now mean that.
fn named(configuration: &Configuration, patterns: &[Pattern]) -> Vec<Pattern> {
    patterns.iter().map(|pattern| Pattern::new(renamed(configuration, pattern.as_str()))).collect()
}

fn renamed<'a>(configuration: &'a Configuration, device: &'a str) -> &'a str {
    configuration.aliases.iter().find(|alias| alias.device == device).map_or(device, |alias| &alias.name)
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
