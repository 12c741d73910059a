//! Whose a violation was: a table that readers of violations use without disturbing the core.

use std::{collections::HashMap, sync::Arc};

use portcullis_spec::Requester;

use crate::{
    core::{ClientId, Core},
    inventory::{DeviceId, UnitId},
    violation::Violation,
};

/// Whose a violation was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attribution {
    /// The device that sent it.
    pub device: DeviceId,
    /// Its name, then those that cannot be told apart from it or share its group.
    pub devices: Vec<String>,
    /// The unit that guards it.
    pub unit: Option<String>,
    /// Name of the client that had it.
    pub client: Option<Arc<str>>,
    /// Number of that client.
    pub client_id: Option<ClientId>,
}

impl Default for Attribution {
    fn default() -> Self {
        Self { device: DeviceId(0), devices: Vec::new(), unit: None, client: None, client_id: None }
    }
}

/// Everyone's devices at one time.
#[derive(Debug, Default)]
pub struct Attributions {
    by_device: HashMap<DeviceId, Arc<Attribution>>,
    /// With and without the unit: some reporters do not say which.
    by_requester: HashMap<(Option<UnitId>, Requester), DeviceId>,
}

impl Attributions {
    /// As things are now.
    #[must_use]
    pub fn of(core: &Core) -> Self {
        let mut siblings: HashMap<DeviceId, Vec<String>> = HashMap::new();
        let name = |id: &DeviceId| core.device(*id).map(|d| d.device.name.clone());
        for (_, members, _) in core.groups().filter(|(_, members, _)| members.len() > 1) {
            for member in members {
                let others = members.iter().filter(|other| *other != member).filter_map(name);
                siblings.insert(*member, others.collect());
            }
        }
        let mut all = Self::default();
        for view in core.devices() {
            let mut devices = vec![view.device.name.clone()];
            devices.extend(siblings.remove(&view.id).unwrap_or_default());
            let attribution = Attribution {
                device: view.id,
                devices,
                unit: view.unit.map(|u| u.name.clone()),
                client: view.holder.map(|(_, name)| name.into()),
                client_id: view.holder.map(|(id, _)| id),
            };
            all.by_device.insert(view.id, Arc::new(attribution));
            for &requester in &view.device.requesters {
                all.by_requester.insert((view.device.unit, requester), view.id);
                all.by_requester.entry((None, requester)).or_insert(view.id);
            }
        }
        all
    }

    /// Whose the violation is.
    #[must_use]
    pub fn find(&self, violation: &Violation) -> Option<&Arc<Attribution>> {
        let by_requester = || self.by_requester.get(&(violation.unit, violation.fault.requester)).copied();
        self.by_device.get(&violation.device.or_else(by_requester)?)
    }
}
