//! Installing Debian packages, as root.

use super::sources::{self, Entry};
use crate::process;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const LISTS: &str = "/etc/apt/sources.list.d";

/// Whether we may install.
pub(crate) fn is_root() -> bool {
    process::output(&mut process::command("id", &["-u"])).is_some_and(|text| text.trim() == "0")
}

/// Install `packages`; with `backports` from the release's backports where they exist, beside what is there.
pub(crate) fn install(packages: &[&str], backports: bool) -> Result<(), String> {
    let release = if backports { release_with_backports()? } else { None };
    process::run(&mut apt_get(&["update", "--quiet=2"]))?;
    let mut arguments = vec!["install", "--yes", "--quiet=2", "--no-install-recommends"];
    let target = release.map(|release| format!("{release}-backports"));
    if let Some(target) = &target {
        arguments.extend(["--target-release", target]);
    }
    arguments.extend(packages);
    process::run(&mut apt_get(&arguments))
}

/// Let apt know what the release and its backports hold.
pub(crate) fn know_backports() -> Result<(), String> {
    release_with_backports()?;
    process::run(&mut apt_get(&["update", "--quiet=2"]))
}

/// Bookworm's QEMU is too old, so its backports are added where no entry names them; later releases need none.
fn release_with_backports() -> Result<Option<String>, String> {
    let about = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let value = |name: &str| {
        let line = about.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
        Some(line.trim_matches('"').to_owned())
    };
    let release = value("VERSION_CODENAME").ok_or("/etc/os-release names no release")?;
    if release != "bookworm" {
        return Ok(None);
    }
    let mut files = source_files();
    files.sort();
    let texts: Vec<(PathBuf, String)> = files
        .into_iter()
        .filter_map(|path| fs::read_to_string(&path).ok().map(|text| (path, text)))
        .collect();
    let suite = format!("{release}-backports");
    let reads = |path: &Path, text: &str, release: &str| match path.extension().and_then(|end| end.to_str()) {
        Some("sources") => sources::from_paragraphs(text, release),
        _ => sources::from_lines(text, release),
    };
    if texts.iter().any(|(path, text)| reads(path, text, &suite).is_some()) {
        return Ok(Some(release));
    }
    let entry = texts
        .iter()
        .find_map(|(path, text)| reads(path, text, &release))
        .ok_or_else(|| format!("no apt source names {release}, so its backports can't be added"))?;
    let (name, text) = match entry {
        Entry::Paragraph(text) => ("portcullis-backports.sources", text),
        Entry::Line(text) => ("portcullis-backports.list", text),
    };
    let path = Path::new(LISTS).join(name);
    println!("adding {} for {suite}, from the mirror that {release} already comes from", path.display());
    fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(Some(release))
}

/// The files that apt reads (sources.list(5)): other endings are ignored.
fn source_files() -> Vec<PathBuf> {
    let folder = fs::read_dir(LISTS).into_iter().flatten().flatten().map(|entry| entry.path());
    let named = folder
        .filter(|path| matches!(path.extension().and_then(|end| end.to_str()), Some("sources" | "list")));
    std::iter::once(PathBuf::from("/etc/apt/sources.list")).chain(named).collect()
}

fn apt_get(arguments: &[&str]) -> Command {
    let mut command = process::command("apt-get", arguments);
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}
