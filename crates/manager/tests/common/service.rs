//! A service of a test's own, in its process.

use std::{os::fd::OwnedFd, path::PathBuf, time::Duration};

use portcullis_client::Client;
use portcullis_manager::{
    Backend,
    core::{Accepted, Core, Policy, Refusal},
    service::{self, Inherited, Policies, Settings},
};

/// It ends with the test's process.
pub(crate) struct Service {
    pub(crate) socket: PathBuf,
    /// Where the socket lies; gone with this.
    pub(crate) folder: tempfile::TempDir,
}

impl Service {
    /// A service on a back end, whose clients are all of this process's user.
    pub(crate) fn over(backend: Box<dyn Backend>, clients: impl IntoIterator<Item = Policy>) -> Self {
        Self::with(backend, clients, Inherited::default())
    }

    /// With what was opened for it before.
    pub(crate) fn with(
        backend: Box<dyn Backend>,
        clients: impl IntoIterator<Item = Policy>,
        inherited: Inherited,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let core = Core::start::<Refusal>(backend, Accepted::default(), Ok).unwrap();
        let settings = Settings::new(&socket, Policies::for_own_user(clients));
        service::start(core, settings, inherited).expect("the service starts");
        Self { socket, folder }
    }

    pub(crate) fn client(&self, name: &str) -> Client {
        let mut client = Client::connect(Some(&self.socket)).unwrap();
        client.set_timeout(Some(Duration::from_secs(60))).unwrap();
        client.introduce(name).unwrap();
        client
    }
}

/// Claims a device, and says where it takes commands.
pub(crate) fn claim(client: &mut Client, device: &str) -> OwnedFd {
    client.claim(device).unwrap().remove(0).1.expect("simulated devices have descriptors")
}
