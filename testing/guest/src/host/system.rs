//! A system with Debian's systemd as its first process, unpacked from packages and never installed.

use crate::initramfs::Archive;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the system lies in the initial RAM file system, until the agent makes it the root.
pub(crate) const ROOT: &str = "system";

/// Folders that are mounted over, or made to be written to.
const FOLDERS: [&str; 8] = ["dev", "proc", "sys", "run", "tmp", "root", "home", "modules"];

/// Nothing of the manuals, of other alphabets, and of what looks for devices.
const LEFT_OUT: [&str; 5] = [
    "system/usr/share",
    "system/usr/lib/udev",
    "system/usr/lib/x86_64-linux-gnu/gconv",
    "system/usr/lib/x86_64-linux-gnu/ossl-modules",
    "system/usr/lib/locale",
];

/// What Debian's `base-files` and `base-passwd` would bring, as far as it is needed: all of `usr` is merged; the users and groups
/// that the units and the cases name.
const FILES: [(&str, &str); 6] = [
    ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
    ("etc/group", "root:x:0:\ntty:x:5:\nsystemd-journal:x:101:\nportcullis:x:900:\nnogroup:x:65534:\n"),
    ("etc/nsswitch.conf", "passwd: files\ngroup: files\n"),
    ("etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
    ("etc/os-release", "NAME=\"Portcullis test guest\"\nID=portcullis-guest\n"),
    ("etc/fstab", ""),
];

/// The cases' unit, and the target that wants it: the machine has nothing else to do.
const CASES: [(&str, &str); 2] = [
    (
        "usr/lib/systemd/system/portcullis-guest.service",
        "[Unit]\nDescription=Cases\n\n[Service]\nType=exec\nExecStart=/init cases\nKillMode=process\n",
    ),
    (
        "usr/lib/systemd/system/portcullis-guest.target",
        "[Unit]\nDescription=The cases of a guest\nRequires=basic.target\nAfter=basic.target\n\
         Wants=portcullis-guest.service\nAllowIsolate=yes\n",
    ),
];

/// Adds the system; its first target is `portcullis-guest.target`.
///
/// # Errors
///
/// The packages are not there, or cannot be unpacked.
pub(crate) fn add(contents: &mut Archive, target: &Path) -> Result<()> {
    let root = unpacked(&target.join("systemd"))?;
    contents.folder(ROOT);
    for folder in FOLDERS {
        contents.folder(&format!("{ROOT}/{folder}"));
    }
    for (link, to) in [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")] {
        contents.link(&format!("{ROOT}/{link}"), to);
    }
    let wanted = |name: &str| !LEFT_OUT.contains(&name);
    contents.tree(ROOT, &root, &wanted).with_context(|| root.display().to_string())?;
    for (name, text) in FILES.into_iter().chain(CASES) {
        contents.file_with(&format!("{ROOT}/{name}"), 0o644, text.as_bytes());
    }
    Ok(())
}

/// The packages' contents: from `cache` if they are there, otherwise unpacked.
fn unpacked(cache: &Path) -> Result<PathBuf> {
    let (packages, root) = (cache.join("packages"), cache.join("root"));
    if root.is_dir() {
        return Ok(root);
    }
    ensure!(
        packages.is_dir(),
        "{} is not there: `cargo xtask guest systemd` downloads it",
        packages.display()
    );
    // Beside the folder, so that an interrupted run leaves nothing that looks whole.
    let staging = cache.join("root.partial");
    if staging.exists() {
        fs::remove_dir_all(&staging)?;
    }
    fs::create_dir_all(&staging)?;
    for package in fs::read_dir(&packages)? {
        let package = package?.path();
        if package.extension().is_some_and(|ending| ending == "deb") {
            let status = Command::new("dpkg-deb").arg("--extract").arg(&package).arg(&staging).status();
            let status = status.context("dpkg-deb")?;
            ensure!(status.success(), "dpkg-deb --extract {}: {status}", package.display());
        }
    }
    fs::rename(&staging, &root)?;
    Ok(root)
}
