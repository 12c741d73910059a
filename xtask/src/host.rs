//! What the commands need of the machine beside Rust, and how it gets there.

mod apt;
mod sources;

use crate::process;
use std::fmt;
use std::path::PathBuf;

/// A program that a step needs, and the Debian package it comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Tool {
    program: &'static str,
    package: &'static str,
    /// Lowest major version, where it matters; Debian 12 has newer ones in its backports.
    major: Option<u32>,
}

const fn qemu(program: &'static str, package: &'static str) -> Tool {
    Tool { program, package, major: Some(10) }
}

/// What every step of `cargo xtask test` together needs.
pub(crate) const ALL: &[Tool] = &[
    qemu("qemu-system-x86_64", "qemu-system-x86"),
    qemu("qemu-system-aarch64", "qemu-system-arm"),
    qemu("qemu-system-riscv64", "qemu-system-misc"),
    Tool { program: "iasl", package: "acpica-tools", major: None },
];

/// What judges firmware tables.
pub(crate) const FIRMWARE: &[Tool] = &[Tool { program: "iasl", package: "acpica-tools", major: None }];

/// What judges x86's units.
pub(crate) const QEMU_X86: &[Tool] = &[qemu("qemu-system-x86_64", "qemu-system-x86")];

/// What judges Arm's units.
pub(crate) const QEMU_ARM: &[Tool] = &[qemu("qemu-system-aarch64", "qemu-system-arm")];

/// What judges RISC-V's units.
pub(crate) const QEMU_RISCV: &[Tool] = &[qemu("qemu-system-riscv64", "qemu-system-misc")];

/// What the guests need.
pub(crate) const GUEST: &[Tool] = QEMU_X86;

/// Tools that are not here, and why they could not be installed.
#[derive(Debug)]
pub(crate) struct Missing {
    tools: Vec<Tool>,
    reason: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "missing")?;
        for (index, tool) in self.tools.iter().enumerate() {
            let separator = if index == 0 { " " } else { ", " };
            write!(f, "{separator}{}", tool.program)?;
            if let Some(major) = tool.major {
                write!(f, " {major} or later")?;
            }
            write!(f, " (package {})", tool.package)?;
        }
        write!(f, "; {}", self.reason)
    }
}

impl Tool {
    fn is_here(&self) -> bool {
        let Some(major) = self.major else {
            return which(self.program);
        };
        process::output(&mut process::command(self.program, &["--version"]))
            .and_then(|text| major_version(&text))
            .is_some_and(|found| found >= major)
    }
}

/// Make sure of `tools`: those that are missing are installed where we are root on a Debian machine.
pub(crate) fn ensure(tools: &[Tool]) -> Result<(), Missing> {
    let absent = |tools: &[Tool]| tools.iter().copied().filter(|tool| !tool.is_here()).collect::<Vec<_>>();
    let missing = absent(tools);
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
    let from_backports = missing.iter().any(|tool| tool.major.is_some());
    let outcome = if !which("apt-get") {
        Err("this is not a Debian machine: install them yourself".to_owned())
    } else if !apt::is_root() {
        let release = if from_backports { " from your release's backports" } else { "" };
        Err(format!("run as root: apt-get install {}{release}", packages.join(" ")))
    } else {
        println!("installing {}", packages.join(", "));
        apt::install(&packages, from_backports)
    };
    let still = absent(&missing);
    match (still.is_empty(), outcome) {
        (true, _) => Ok(()),
        (false, Err(reason)) => Err(Missing { tools: still, reason }),
        (false, Ok(())) => {
            Err(Missing { tools: still, reason: "apt installed the packages, but they are too old".into() })
        }
    }
}

/// Make sure that apt knows the kernels that the guests download: on Debian 12 they are in its backports.
pub(crate) fn kernels() -> Result<(), String> {
    let known = || {
        let mut show =
            process::command("apt-cache", &["show", "linux-image-cloud-amd64", "linux-image-amd64"]);
        let text = process::output(&mut show).unwrap_or_default();
        text.lines().filter(|line| line.starts_with("Version: 6.12.")).count() >= 2
    };
    if known() {
        return Ok(());
    }
    if !which("apt-get") {
        return Err("the guests run Debian's kernels, and there is no apt here to download them".into());
    }
    if !apt::is_root() {
        return Err("apt knows no kernel 6.12: add your release's backports, then apt-get update".into());
    }
    apt::know_backports()?;
    if known() { Ok(()) } else { Err("apt knows no kernel 6.12".into()) }
}

/// The release whose systemd the guests run: the first with `varlinkctl` for service managers of our time (257).
const SYSTEMD_RELEASE: &str = "trixie";

/// Make sure that systemd's packages, and those that it needs, are in the guests' cache, to be unpacked there.
pub(crate) fn systemd() -> Result<(), String> {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| process::root().join("target"), PathBuf::from);
    let folder = target.join("guest/systemd/packages");
    if folder.is_dir() {
        return Ok(());
    }
    if !which("apt-get") {
        return Err("the guest runs Debian's systemd, and there is no apt here to download it".into());
    }
    println!("downloading {SYSTEMD_RELEASE}'s systemd");
    std::fs::create_dir_all(target.join("guest/systemd")).map_err(|error| error.to_string())?;
    apt::download(SYSTEMD_RELEASE, &["systemd"], &folder)
}

/// Whether `cargo nextest` is here, after an attempt to install it.
pub(crate) fn nextest() -> bool {
    let here = || process::output(&mut process::cargo(&["nextest", "--version"])).is_some();
    if here() {
        return true;
    }
    println!("installing cargo-nextest (takes some minutes, once)");
    let installed = process::run(&mut process::cargo(&["install", "--quiet", "--locked", "cargo-nextest"]));
    if let Err(reason) = installed {
        println!("{reason}");
    }
    here()
}

/// Make sure of a component of the Rust toolchain (rustfmt, clippy), which minimal installations leave out.
pub(crate) fn component(subcommand: &str, name: &str) -> Result<(), String> {
    let here = || process::output(&mut process::cargo(&[subcommand, "--version"])).is_some();
    if here() {
        return Ok(());
    }
    process::run(&mut process::command("rustup", &["component", "add", name]))?;
    if here() {
        Ok(())
    } else {
        Err(format!("`cargo {subcommand}` is missing: install the toolchain's {name}"))
    }
}

fn which(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// The first number after the word "version" in what `--version` prints.
fn major_version(text: &str) -> Option<u32> {
    let after = text.split_once("version ")?.1;
    after.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::major_version;

    #[test]
    fn version_is_read_from_what_qemu_prints() {
        let text =
            "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2+deb13u1~bpo12+1)\nCopyright (c) 2003-2025";
        assert_eq!(major_version(text), Some(10));
        assert_eq!(major_version("QEMU emulator version 7.2.17 (Debian 1:7.2)"), Some(7));
        assert_eq!(major_version("something else"), None);
    }
}
