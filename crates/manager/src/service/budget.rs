//! How much of the service one user can occupy: connections, and bytes of messages that are not complete.

use std::{cell::RefCell, collections::HashMap, rc::Rc};

/// Bytes of unfinished messages.
const BYTES: usize = 32 << 20;

#[derive(Default, Debug)]
struct Used {
    connections: usize,
    bytes: usize,
}

/// What every user occupies.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    users: Rc<RefCell<HashMap<u32, Used>>>,
    connections: usize,
}

/// One connection's share of the connections; given back when dropped.
#[derive(Debug)]
pub(super) struct Place(Budget, u32);

/// One connection's share of the bytes; given back when dropped.
#[derive(Debug)]
pub(super) struct Share<'a> {
    budget: &'a Budget,
    user: u32,
    bytes: usize,
}

impl Budget {
    /// Every user may have so many connections.
    pub(super) fn new(connections: usize) -> Self {
        Self { users: Rc::default(), connections }
    }

    /// A place for one more connection of a user, if there is one.
    pub(super) fn place(&self, user: u32) -> Option<Place> {
        let mut users = self.users.borrow_mut();
        let used = users.entry(user).or_default();
        if used.connections >= self.connections {
            return None;
        }
        used.connections += 1;
        Some(Place(self.clone(), user))
    }

    /// A share of the user's bytes, none yet.
    pub(super) fn hold(&self, user: u32) -> Share<'_> {
        Share { budget: self, user, bytes: 0 }
    }
}

impl Share<'_> {
    /// Makes the share so many bytes, unless that is more than the user has left.
    pub(super) fn set(&mut self, bytes: usize) -> bool {
        let mut users = self.budget.users.borrow_mut();
        let used = users.entry(self.user).or_default();
        let others = used.bytes - self.bytes;
        if others + bytes > BYTES {
            return false;
        }
        used.bytes = others + bytes;
        self.bytes = bytes;
        true
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        if let Some(used) = self.budget.users.borrow_mut().get_mut(&self.user) {
            used.bytes -= self.bytes;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut users = self.0.users.borrow_mut();
        if let Some(used) = users.get_mut(&self.1) {
            used.connections -= 1;
            if used.connections == 0 && used.bytes == 0 {
                users.remove(&self.1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{BYTES, Budget};

    #[test]
    fn what_one_user_occupies_is_bounded_and_comes_back() {
        let budget = Budget::new(2);
        let first = budget.place(1);
        let second = budget.place(1);
        assert!(first.is_some() && second.is_some() && budget.place(1).is_none());
        assert!(budget.place(2).is_some());
        drop(first);
        assert!(budget.place(1).is_some());
        let mut share = budget.hold(1);
        assert!(share.set(BYTES) && !budget.hold(1).set(1));
        assert!(share.set(10) && budget.hold(1).set(BYTES - 10));
        drop((share, second));
        assert!(budget.users.borrow().get(&1).is_none());
    }
}
