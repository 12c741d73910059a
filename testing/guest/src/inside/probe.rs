//! What a process can do that runs under the service's own directives: each deed by itself, told as a line `NAME yes` or `NAME no`.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use rustix::net::{AddressFamily, SocketType, socket};

/// A deed, and whether the unit's directives leave it.
pub(crate) struct Deed {
    pub(crate) name: &'static str,
    pub(crate) left: bool,
    attempt: fn() -> io::Result<()>,
}

const fn left(name: &'static str, attempt: fn() -> io::Result<()>) -> Deed {
    Deed { name, left: true, attempt }
}

const fn taken(name: &'static str, attempt: fn() -> io::Result<()>) -> Deed {
    Deed { name, left: false, attempt }
}

fn read_and_write(path: &str) -> io::Result<()> {
    OpenOptions::new().read(true).write(true).open(path).map(|_| ())
}

fn write(path: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(path).map(|_| ())
}

fn family(family: AddressFamily, kind: SocketType) -> io::Result<()> {
    Ok(socket(family, kind, None).map(|_| ())?)
}

/// A datagram to ourselves over an address of the loopback interface.
fn loop_back(address: &str) -> io::Result<()> {
    let socket = UdpSocket::bind((address, 0))?;
    socket.send_to(b"x", socket.local_addr()?).map(|_| ())
}

/// What systemd.exec(5) and systemd.resource-control(5) say of each line of the unit.
pub(crate) const DEEDS: &[Deed] = &[
    // ProtectSystem=strict, ProtectHome=read-only, RuntimeDirectory=, LogsDirectory=
    taken("writing-etc", || fs::write("/etc/portcullis/probe", "x")),
    taken("writing-usr", || fs::write("/usr/probe", "x")),
    taken("writing-home", || fs::write("/home/probe", "x")),
    left("looking-into-home", || fs::read_dir("/home").map(|_| ())),
    left("writing-the-runtime-directory", || fs::write("/run/portcullis/probe", "x")),
    left("writing-the-logs-directory", || fs::write("/var/log/portcullis/probe", "x")),
    // PrivateTmp=
    taken("seeing-others-tmp", || fs::metadata("/tmp/case.output").map(|_| ())),
    // DevicePolicy=closed, DeviceAllow=
    left("the-container-of-vfio", || read_and_write("/dev/vfio/vfio")),
    left("reading-the-kernels-log", || File::open("/dev/kmsg").map(|_| ())),
    taken("writing-the-kernels-log", || write("/dev/kmsg")),
    taken("a-serial-line", || read_and_write("/dev/ttyS1")),
    taken("physical-memory", || File::open("/dev/mem").map(|_| ())),
    left("nothing", || read_and_write("/dev/null")),
    // Drivers are bound there; ProtectControlGroups=
    left("binding-drivers", || write("/sys/bus/pci/drivers_probe")),
    taken("making-control-groups", || fs::create_dir(format!("/sys/fs/cgroup/probe-{}", std::process::id()))),
    // ProtectHostname=, ProtectClock=
    taken("the-hosts-name", || Ok(rustix::system::sethostname(b"probe")?)),
    // RestrictAddressFamilies=, IPAddressDeny=, IPAddressAllow=
    left("unix-sockets", || family(AddressFamily::UNIX, SocketType::STREAM)),
    taken("packet-sockets", || family(AddressFamily::PACKET, SocketType::DGRAM)),
    left("loopback", || loop_back("127.0.0.1")),
    // RestrictSUIDSGID=
    taken("programs-for-everyone", || {
        fs::write("/run/portcullis/probe", "x")?;
        fs::set_permissions("/run/portcullis/probe", Permissions::from_mode(0o4755))
    }),
    // ProtectKernelModules=
    taken("modules", || {
        let module = File::open("/dev/null")?;
        match rustix::system::finit_module(&module, c"", 0) {
            // The kernel would look into the file before it refuses it.
            Err(rustix::io::Errno::NOEXEC | rustix::io::Errno::INVAL) => Ok(()),
            other => Ok(other?),
        }
    }),
    // SystemCallFilter=
    taken("mounting", || {
        let mut mount = Command::new("/usr/bin/mount");
        mount.args(["-t", "tmpfs", "probe", "/home"]).stderr(Stdio::null());
        if mount.status()?.success() { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
    }),
];

/// Tries each.
pub(crate) fn run() {
    for deed in DEEDS {
        match (deed.attempt)() {
            Ok(()) => println!("{} yes", deed.name),
            Err(error) => println!("{} no {error}", deed.name),
        }
    }
}
