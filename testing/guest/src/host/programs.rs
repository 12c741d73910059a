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

/// All of them, for every suite: what is built together is built once, as what it depends on has the same features each time.
pub(crate) const ALL: [Program; 2] = [AGENT, Program { package: "portcullis", name: "portcullis" }];

/// The target that the guests' kernels run.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Build them with the `guest` profile below `target`, and return where each lies.
///
/// # Errors
///
/// Cargo can't run or fails.
pub(crate) fn build(workspace: &Path, target: &Path) -> Result<Vec<(Program, PathBuf)>> {
    let folder = target.join("build");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--profile", "guest", "--target", TARGET, "--target-dir"]).arg(&folder);
    for program in ALL {
        command.args(["--package", program.package, "--bin", program.name]);
    }
    // glibc's own archives serve: no other target has to be installed.
    command.env("RUSTFLAGS", "-C target-feature=+crt-static").env_remove("CARGO_ENCODED_RUSTFLAGS");
    let status = command.current_dir(workspace).status().context("cargo")?;
    if !status.success() {
        bail!("building the guest's programs: {status}");
    }
    let built = folder.join(TARGET).join("guest");
    Ok(ALL.map(|program| (program, built.join(program.name))).into())
}
