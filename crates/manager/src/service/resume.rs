//! Clients of a former process: they have what they had, and are waited for.
//!
//! A client is a process, known by its number and the moment of its start. While it lives, what it had stays its own as long as
//! configured; when it dies, or does not come back, that is released as it would have been.

use std::rc::Rc;

use portcullis_client::api;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{Peer, Policies, Service, Session, calls::Failure, watch::watch};
use crate::{
    backend::MemoryId,
    core::{ClientId, Core, Identity, Kept, Refusal, Restored},
};

/// Who the peer is, where the kernel shows it.
pub(super) fn identity(peer: &Peer) -> Option<Identity> {
    use std::os::unix::fs::MetadataExt;
    // Another process that has the number by now is another's.
    let owner = std::fs::metadata(format!("/proc/{}", peer.pid)).ok()?.uid();
    let started = started(peer.pid)?;
    (owner == peer.uid).then_some(Identity { pid: peer.pid, started, uid: peer.uid, gid: peer.gid })
}

/// When a process was started, in ticks since the machine was: field 22 of its `stat`, the twentieth behind its name.
fn started(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything, parentheses and spaces too.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Whether the very process still runs.
pub(super) fn lives(identity: &Identity) -> bool {
    started(identity.pid) == Some(identity.started)
}

/// Takes up what a former process left, for clients that live; from here on what clients have outlives this process too.
pub(super) fn take_up(core: &mut Core, policies: &Policies, kept: Kept) -> Vec<Restored> {
    let (restored, number) = core.restore(kept, |identity, name| {
        let peer = Peer { pid: identity.pid, uid: identity.uid, gid: identity.gid };
        if !lives(identity) {
            return None;
        }
        let own = policies.of(&peer);
        if own.name == name { Some(own) } else { policies.named(&peer, name) }
    });
    if super::systemd::keeps()
        && let Err(error) = core.write_ledger(number + 1)
    {
        tracing::warn!(%error, "what clients have does not survive a crash");
    }
    restored
}

/// Waits for clients that have not come back.
pub(super) fn wait_for(service: &Rc<Service>, restored: Vec<Restored>) {
    for one in restored {
        let Restored { client, identity, ref policy } = one;
        tracing::info!(CLIENT = policy.name, ID = client.0, "taken up; it is waited for");
        service
            .peers
            .borrow_mut()
            .insert(client, Peer { pid: identity.pid, uid: identity.uid, gid: identity.gid });
        service.absent.borrow_mut().insert(client, one);
        let service = service.clone();
        tokio::task::spawn_local(async move {
            let end = async {
                let pid = Pid::from_raw(identity.pid)?;
                let process = pidfd_open(pid, PidfdFlags::NONBLOCK).ok()?;
                if lives(&identity) {
                    let process = watch(process).ok()?;
                    process.readable().await.ok()?.retain_ready();
                }
                Some(())
            };
            let _ = tokio::time::timeout(service.resume_within, end).await;
            service.give_up_on(client);
        });
    }
}

impl Service {
    /// Releases what a client had that did not come back.
    fn give_up_on(&self, client: ClientId) {
        if let Some(one) = self.absent.borrow_mut().remove(&client) {
            tracing::info!(CLIENT = one.policy.name, ID = client.0, "did not come back");
            self.core().disconnect(client);
            self.peers.borrow_mut().remove(&client);
            self.publish();
        }
    }

    /// The connection's process has back what it had.
    pub(super) fn resume(&self, session: &mut Session, which: Option<u64>) -> Result<api::Resumed, Failure> {
        if session.client.is_some() {
            let (what, by) = ("your name", "what you already asked for; resume first");
            return Err(Refusal::InUse { what: what.into(), by: by.into() }.into());
        }
        let mut absent = self.absent.borrow_mut();
        let me = identity(&session.peer);
        let mine: Vec<ClientId> = absent
            .values()
            .filter(|one| Some(one.identity) == me && which.is_none_or(|which| which == one.client.0))
            .map(|one| one.client)
            .collect();
        let client = match mine.as_slice() {
            [] => {
                let lost = me.map(|me| self.holders.lost(&me, which)).unwrap_or_default();
                let refusal = if lost.is_empty() { Refusal::NoSuchClient } else { Refusal::Lost(lost) };
                return Err(refusal.into());
            }
            [one] => *one,
            several => {
                let numbers: Vec<String> = several.iter().map(|client| client.0.to_string()).collect();
                return Err(Failure::Parameter(format!("client: you were {}", numbers.join(" and "))));
            }
        };
        let Some(one) = absent.remove(&client) else { return Err(Refusal::NoSuchClient.into()) };
        session.client = Some(client);
        session.policy = one.policy;
        self.peers.borrow_mut().insert(client, session.peer);
        let core = self.core();
        let memory =
            |(id, length, writable): (MemoryId, _, _)| api::Memory { memory: id.0, length, writable };
        Ok(api::Resumed {
            client: client.0,
            name: session.policy.name.clone(),
            devices: core.devices_of(client),
            spaces: core.spaces(client).map(|(space, _)| space).collect(),
            memories: core.memories_of(client).map(memory).collect(),
            lost: self.holders.lost(&one.identity, Some(client.0)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{identity, started};
    use crate::service::Peer;

    #[test]
    fn a_process_is_known_by_its_number_and_its_start() {
        let me = std::process::id() as i32;
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let known = identity(&Peer { pid: me, uid, gid }).expect("this process");
        assert_eq!((known.pid, Some(known.started)), (me, started(me)));
        assert_eq!(identity(&Peer { pid: me, uid: uid + 1, gid }), None);
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().expect("a child");
        let later = started(child.id() as i32).expect("its start");
        assert!(later >= known.started);
        child.kill().expect("killed");
        child.wait().expect("gone");
        assert_eq!(started(child.id() as i32), None);
    }
}
