//! What systemd does for a service: it keeps descriptors, and passes them on when it starts the service again (sd_notify(3),
//! sd_listen_fds(3)).

use std::{
    collections::BTreeMap,
    io::IoSliceMut,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::net::UnixDatagram,
    },
    path::PathBuf,
    process::Command,
    sync::{Arc, Mutex},
    thread,
};

use rustix::{
    io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd},
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg},
};

/// What is kept, by name.
#[derive(Clone)]
pub(crate) struct Store {
    path: PathBuf,
    kept: Arc<Mutex<BTreeMap<String, OwnedFd>>>,
}

impl Store {
    /// One that listens at `path`.
    pub(crate) fn new(path: PathBuf) -> Self {
        let socket = UnixDatagram::bind(&path).expect("a socket");
        let kept = Arc::<Mutex<BTreeMap<String, OwnedFd>>>::default();
        let heard = kept.clone();
        thread::spawn(move || {
            loop {
                let (text, descriptors) = receive(&socket);
                let value = |name: &str| text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix('='));
                let mut kept = heard.lock().expect("nobody panicked");
                match value("FDNAME") {
                    Some(name) if value("FDSTOREREMOVE") == Some("1") => _ = kept.remove(name),
                    Some(name) => kept.extend(descriptors.into_iter().map(|d| (name.to_owned(), d))),
                    None => {}
                }
            }
        });
        Self { path, kept }
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.kept.lock().expect("nobody panicked").keys().cloned().collect()
    }

    /// Cuts the last bytes off the file whose name begins so, of several the last.
    pub(crate) fn cut(&self, name: &str, bytes: u64) {
        let kept = self.kept.lock().expect("nobody panicked");
        let (_, file) = kept.iter().rfind(|(kept, _)| kept.starts_with(name)).expect("it is kept");
        let length = u64::try_from(rustix::fs::fstat(file).expect("a file").st_size).expect("a length");
        rustix::fs::ftruncate(file, length - bytes).expect("cut");
    }

    /// The program, with what is kept where it looks for it.
    pub(crate) fn command(&self, program: &str) -> Command {
        let kept = self.kept.lock().expect("nobody panicked");
        let mut redirections = String::new();
        // Above all numbers that they get.
        let first = 100 + kept.len() as i32;
        for (at, descriptor) in kept.values().enumerate() {
            let high = fcntl_dupfd_cloexec(descriptor, first).expect("a number");
            fcntl_setfd(&high, FdFlags::empty()).expect("it is passed on");
            redirections.push_str(&format!(" {}<&{}", at + 3, high.as_raw_fd()));
            // This process is one test; that the number stays open in it harms nobody.
            std::mem::forget(high);
        }
        let names: Vec<&str> = kept.keys().map(String::as_str).collect();
        let mut command = Command::new("bash");
        command.env("NOTIFY_SOCKET", &self.path);
        let variables = match names.len() {
            0 => String::new(),
            count => format!("LISTEN_PID=$$ LISTEN_FDS={count} LISTEN_FDNAMES={} ", names.join(":")),
        };
        command.args(["-c", &format!("{variables}exec \"$0\" \"$@\"{redirections}"), program]);
        command
    }
}

fn receive(socket: &UnixDatagram) -> (String, Vec<OwnedFd>) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 4096];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let got = recvmsg(socket.as_fd(), &mut [IoSliceMut::new(&mut bytes)], &mut control, flags);
    let got = got.expect("a message");
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    (String::from_utf8_lossy(&bytes[..got.bytes]).into_owned(), descriptors)
}
