//! Who is who: from a peer's credentials to what it was given.

use std::sync::Arc;

use crate::core::{Pattern, Policy};

/// Who is at the other end of a socket, as the kernel says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Process.
    pub pid: i32,
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
}

/// Users and groups.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Who {
    /// Users by number.
    pub users: Vec<u32>,
    /// Groups by number.
    pub groups: Vec<u32>,
}

impl Who {
    /// Whether the peer is one of them.
    #[must_use]
    pub fn is(&self, peer: &Peer) -> bool {
        self.users.contains(&peer.uid) || self.groups.contains(&peer.gid)
    }
}

/// What everyone was given.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    /// In the order of configuration; the first that fits is what a peer has unless it asks for another that fits.
    pub clients: Vec<(Who, Arc<Policy>)>,
    /// May act on others and see everything. Root and the service's own user always may.
    pub operators: Who,
    /// Operators may claim any device although no configuration names them: where nothing real is protected.
    pub operators_have_all: bool,
}

impl Policies {
    /// Clients that are all of the service's own user.
    #[must_use]
    pub fn for_own_user(clients: impl IntoIterator<Item = Policy>) -> Self {
        let own = Who { users: vec![rustix::process::geteuid().as_raw()], groups: Vec::new() };
        let clients = clients.into_iter().map(|policy| (own.clone(), Arc::new(policy))).collect();
        Self { clients, ..Self::default() }
    }

    /// Whether the peer may act on others.
    #[must_use]
    pub fn is_operator(&self, peer: &Peer) -> bool {
        peer.uid == 0 || peer.uid == rustix::process::geteuid().as_raw() || self.operators.is(peer)
    }

    /// What the peer has. One that no configuration fits may look, but has nothing.
    #[must_use]
    pub fn of(&self, peer: &Peer) -> Arc<Policy> {
        if let Some((_, policy)) = self.clients.iter().find(|(who, _)| who.is(peer)) {
            return policy.clone();
        }
        let all = self.operators_have_all && self.is_operator(peer);
        Arc::new(Policy {
            name: format!("uid {}", peer.uid),
            devices: if all { vec![Pattern::new("*")] } else { Vec::new() },
            ..Policy::default()
        })
    }

    /// The configuration called `name`, if it fits the peer; operators can be anyone.
    #[must_use]
    pub fn named(&self, peer: &Peer, name: &str) -> Option<Arc<Policy>> {
        let mut fitting = self.clients.iter().filter(|(who, _)| who.is(peer) || self.is_operator(peer));
        fitting.find(|(_, policy)| policy.name == name).map(|(_, policy)| policy.clone())
    }
}
