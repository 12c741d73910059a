//! Numbers that stand for connections: never used twice, so that an old one is answered and not followed.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use rustix::io::Errno;

use crate::{connection::Connection, failure::Failure};

/// Connections that one process may have.
const LIMIT: usize = 1 << 16;

#[derive(Default)]
struct Registry {
    last: u64,
    connections: Option<HashMap<u64, Arc<Mutex<Connection>>>>,
}

static REGISTRY: Mutex<Registry> = Mutex::new(Registry { last: 0, connections: None });

fn unknown(handle: u64) -> Failure {
    Failure::new(Errno::BADF, format!("there is no connection {handle}"))
}

/// Gives a connection its number.
pub(crate) fn add(connection: Connection) -> Result<u64, Failure> {
    let mut registry = REGISTRY.lock().unwrap_or_else(PoisonError::into_inner);
    let number = registry.last + 1;
    let connections = registry.connections.get_or_insert_default();
    if connections.len() >= LIMIT {
        return Err(Failure::new(Errno::NOSPC, format!("more than {LIMIT} connections")));
    }
    connections.insert(number, Arc::new(Mutex::new(connection)));
    registry.last = number;
    Ok(number)
}

/// Forgets a number; the connection ends when the last call on it has.
pub(crate) fn remove(handle: u64) -> Result<(), Failure> {
    let removed = {
        let mut registry = REGISTRY.lock().unwrap_or_else(PoisonError::into_inner);
        registry.connections.as_mut().and_then(|connections| connections.remove(&handle))
    };
    removed.map(drop).ok_or_else(|| unknown(handle))
}

/// Does something with a connection, when other calls on it are through.
pub(crate) fn with<T>(
    handle: u64,
    call: impl FnOnce(&mut Connection) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let found = {
        let registry = REGISTRY.lock().unwrap_or_else(PoisonError::into_inner);
        registry.connections.as_ref().and_then(|connections| connections.get(&handle)).cloned()
    };
    let found = found.ok_or_else(|| unknown(handle))?;
    let mut connection = found
        .lock()
        .map_err(|_| Failure::new(Errno::NOTRECOVERABLE, "a call on this connection broke; end it"))?;
    call(&mut connection)
}
