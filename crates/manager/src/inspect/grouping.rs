//! The report's groups.

use std::collections::{BTreeMap, BTreeSet};

use portcullis_spec::PciAddress;

use super::report::GroupReport;
use crate::host::{Host, KernelGroup};

pub(super) fn groups(host: &Host) -> Vec<GroupReport> {
    if host.groups.is_empty() {
        return host
            .computed
            .iter()
            .map(|group| GroupReport {
                number: None,
                domain: None,
                functions: group.members.clone(),
                others: Vec::new(),
                reasons: group.memberships.iter().map(ToString::to_string).collect(),
                as_computed: None,
                reserved: Vec::new(),
                holders: Vec::new(),
            })
            .collect();
    }
    let of_member: BTreeMap<PciAddress, usize> = host
        .computed
        .iter()
        .enumerate()
        .flat_map(|(place, group)| group.members.iter().map(move |member| (*member, place)))
        .collect();
    host.groups.iter().map(|group| group_report(host, group, &of_member)).collect()
}

fn group_report(host: &Host, group: &KernelGroup, of_member: &BTreeMap<PciAddress, usize>) -> GroupReport {
    let members: BTreeSet<_> = group.functions.iter().copied().collect();
    let places: BTreeSet<_> = members.iter().filter_map(|member| of_member.get(member)).collect();
    let reasons = places
        .iter()
        .filter_map(|place| host.computed.get(**place))
        .flat_map(|computed| &computed.memberships)
        .filter(|membership| members.contains(&membership.member) && members.contains(&membership.with))
        .map(ToString::to_string)
        .collect();
    // Functions that the kernel has in no group cannot make a difference.
    let grouped = |member: &&PciAddress| host.device(**member).is_some_and(|device| device.group.is_some());
    let as_computed = match places.iter().next().and_then(|place| host.computed.get(**place)) {
        Some(computed) if places.len() == 1 => {
            Some(computed.members.iter().filter(grouped).copied().collect::<BTreeSet<_>>() == members)
        }
        Some(_) => Some(false),
        None => None,
    };
    GroupReport {
        number: Some(group.number),
        domain: group.domain,
        functions: group.functions.clone(),
        others: group.others.clone(),
        reasons,
        as_computed,
        reserved: group.reserved.clone(),
        holders: host
            .vfio
            .holders
            .iter()
            .filter(|holder| {
                holder.groups.contains(&group.number)
                    || holder.devices.iter().any(|device| members.contains(device))
            })
            .map(|holder| holder.process)
            .collect(),
    }
}
