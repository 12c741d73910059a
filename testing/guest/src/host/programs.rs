//! Our own programs, linked statically, because the guest has no libraries.

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A binary of the workspace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Program {
    /// The package it is in.
    pub(crate) package: &'static str,
    /// Its name, which it keeps in the guest's `/bin`.
    pub(crate) name: &'static str,
}

/// The first process inside.
pub(crate) const AGENT: Program = Program { package: "portcullis-guest", name: "portcullis-guest" };

/// The target that the guests' kernels run.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Build them with the `guest` profile below `target`, and return where each lies.
///
/// # Errors
///
/// Cargo can't run or fails.
pub(crate) fn build(programs: &[Program], workspace: &Path, target: &Path) -> Result<Vec<PathBuf>> {
    let folder = target.join("build");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--profile", "guest", "--target", TARGET, "--target-dir"]).arg(&folder);
    for program in programs {
        command.args(["--package", program.package, "--bin", program.name]);
    }
    // glibc's own archives serve: no other target has to be installed.
    command.env("RUSTFLAGS", "-C target-feature=+crt-static").env_remove("CARGO_ENCODED_RUSTFLAGS");
    let status = command.current_dir(workspace).status().context("cargo")?;
    if !status.success() {
        bail!("building the guest's programs: {status}");
    }
    let built = folder.join(TARGET).join("guest");
    Ok(programs.iter().map(|program| built.join(program.name)).collect())
}
