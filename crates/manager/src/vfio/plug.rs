//! Devices that come and go, as the kernel says when they do: its uevents (Linux lib/kobject_uevent.c).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::thread;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{Errno, write};
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};

/// The group to which the kernel itself sends; udev's is another.
const KERNEL: u32 = 1;

/// A descriptor that can be read once functions have come or gone.
pub(super) fn signal() -> io::Result<OwnedFd> {
    let uevents =
        socket_with(AddressFamily::NETLINK, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(KOBJECT_UEVENT))?;
    bind(&uevents, &SocketAddrNetlink::new(0, KERNEL))?;
    let ours = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let theirs = ours.as_fd().try_clone_to_owned()?;
    thread::Builder::new().name("uevents".into()).spawn(move || {
        let mut bytes = vec![0; 1 << 16];
        loop {
            let counts = match recv(&uevents, &mut bytes[..], RecvFlags::empty()) {
                Ok((length, _)) => is_plug(&bytes[..length]),
                // ENOBUFS: some were lost, and one of them may have counted.
                Err(Errno::NOBUFS) => true,
                Err(Errno::INTR) => false,
                Err(error) => {
                    tracing::warn!(%error, "devices that come and go are seen late: uevents can no longer be read");
                    return;
                }
            };
            if counts {
                // A counter that is full says what is to be said.
                let _ = write(&theirs, &1u64.to_ne_bytes());
            }
        }
    })?;
    Ok(ours)
}

/// Whether a uevent says that a PCI function came or went: `add@/devices/…`, then `KEY=value`, each ended by a zero.
fn is_plug(message: &[u8]) -> bool {
    let mut words = message.split(|byte| *byte == 0);
    let action =
        words.next().is_some_and(|first| first.starts_with(b"add@") || first.starts_with(b"remove@"));
    action && words.any(|word| word == b"SUBSYSTEM=pci")
}

#[cfg(test)]
mod tests {
    use super::is_plug;

    #[test]
    fn only_pci_functions_that_come_or_go_count() {
        let add = b"add@/devices/pci0000:00/0000:00:05.0\0ACTION=add\0SUBSYSTEM=pci\0SEQNUM=7\0";
        assert!(is_plug(add));
        assert!(is_plug(b"remove@/devices/x\0SUBSYSTEM=pci\0"));
        assert!(!is_plug(b"bind@/devices/x\0SUBSYSTEM=pci\0"));
        assert!(!is_plug(b"add@/devices/x\0SUBSYSTEM=pci_express\0"));
        assert!(!is_plug(b""));
    }
}
