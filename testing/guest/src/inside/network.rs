//! The network behind a card: QEMU's own, which gives addresses to whoever asks and has a file to fetch.

use std::fs;
use std::net::UdpSocket;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use portcullis_guest::content::{FILE, FILE_TEXT};

/// The interface of a PCI function, as a folder of sysfs.
pub(crate) fn interface(function: &str) -> Option<PathBuf> {
    let mut entries = fs::read_dir(format!("/sys/bus/pci/devices/{function}/net")).ok()?;
    Some(entries.next()?.ok()?.path())
}

/// Brings the interface up, and fetches the file: frames go out and come in, by DMA.
pub(crate) fn fetches(function: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(90);
    let interface = loop {
        match interface(function) {
            Some(interface) => break interface,
            None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
            None => bail!("{function} has no interface"),
        }
    };
    // include/uapi/linux/if.h: IFF_UP, IFF_BROADCAST, IFF_MULTICAST. The kernel then finds itself an address (RFC 4862).
    fs::write(interface.join("flags"), "0x1003").context("bringing it up")?;
    let mut last = None;
    while Instant::now() < deadline {
        match fetch() {
            Ok(text) => {
                ensure!(text == FILE_TEXT.as_bytes(), "the file reads {}", String::from_utf8_lossy(&text));
                return Ok(());
            }
            Err(error) => last = Some(error),
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let carrier = fs::read_to_string(interface.join("carrier"));
    bail!("nothing was fetched: {last:?}; carrier {carrier:?}")
}

/// TFTP (RFC 1350): a read request is answered with the first block.
fn fetch() -> Result<Vec<u8>> {
    let socket = UdpSocket::bind("[::]:0")?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    let request = [&[0, 1], FILE.as_bytes(), b"\0octet\0"].concat();
    // QEMU's user-mode network: the prefix is fec0::/64, the host fec0::2.
    socket.send_to(&request, "[fec0::2]:69")?;
    let mut answer = [0; 516];
    let (length, _) = socket.recv_from(&mut answer)?;
    match answer[..length] {
        [0, 3, 0, 1, ref data @ ..] => Ok(data.to_vec()),
        ref other => bail!("answered {other:?}"),
    }
}
