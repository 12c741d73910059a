//! The service over VFIO with a configuration made here.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use portcullis_manager::Backend;
use portcullis_manager::core::{Accepted, Core, Pattern, Policy};
use portcullis_manager::service::{Inherited, Policies, Settings, Who, serve};
use portcullis_manager::vfio::Vfio;

use crate::bench::RUNTIME;

/// Serves: `accept` names units and devices whose interrupts need not be isolated, `clients` are `NAME=USER=DEVICE,DEVICE…`.
pub(crate) fn run(accept: &str, clients: &[&str]) -> Result<()> {
    let mut inherited = Inherited::take();
    let mut backend = Vfio::open(Path::new(RUNTIME))?;
    backend.adopt(std::mem::take(&mut inherited.kept));
    let patterns = |text: &str| text.split(',').filter(|word| !word.is_empty()).map(Pattern::new).collect();
    let accepted = Accepted { unsafe_interrupts: patterns(accept), ..Accepted::default() };
    let core = Core::start::<anyhow::Error>(Box::new(backend), accepted, Ok)?;
    let mut policies = Policies::default();
    for client in clients {
        let mut parts = client.split('=');
        let mut part = || parts.next().context("NAME=USER=DEVICES");
        let (name, user, devices) = (part()?, part()?, part()?);
        let who = Who { users: vec![user.parse()?], groups: Vec::new() };
        let policy = Policy { name: name.into(), devices: patterns(devices), ..Policy::default() };
        policies.clients.push((who, Arc::new(policy)));
    }
    let settings = Settings {
        socket: portcullis_client::api::SOCKET.into(),
        socket_mode: 0o666,
        policies,
        warnings: Vec::new(),
        journal: 10_000,
        disk: None,
        connections: 64,
    };
    Ok(serve(core, settings, inherited, |_| Ok(()))?)
}
