//! Debian packages: installing them, as root; and downloading those of another release.

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
    let release = release()?;
    if release != "bookworm" {
        return Ok(None);
    }
    let suite = format!("{release}-backports");
    if derived(&suite, &suite).is_some() {
        return Ok(Some(release));
    }
    let entry = derived(&release, &suite)
        .ok_or_else(|| format!("no apt source names {release}, so its backports can't be added"))?;
    let path = write_entry(Path::new(LISTS), "portcullis-backports", entry)?;
    println!("added {} for {suite}, from the mirror that {release} already comes from", path.display());
    Ok(Some(release))
}

/// This machine's release, by its name.
fn release() -> Result<String, String> {
    let about = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let line = about.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(line.ok_or("/etc/os-release names no release")?.trim_matches('"').to_owned())
}

/// The entry for `suite`, from the first that names `release`.
fn derived(release: &str, suite: &str) -> Option<Entry> {
    let mut files = source_files();
    files.sort();
    files.iter().find_map(|path| {
        let text = fs::read_to_string(path).ok()?;
        match path.extension().and_then(|end| end.to_str()) {
            Some("sources") => sources::from_paragraphs(&text, release, suite),
            _ => sources::from_lines(&text, release, suite),
        }
    })
}

/// Writes an entry where apt reads it; `name` without its ending.
fn write_entry(folder: &Path, name: &str, entry: Entry) -> Result<PathBuf, String> {
    let (ending, text) = match entry {
        Entry::Paragraph(text) => ("sources", text),
        Entry::Line(text) => ("list", text),
    };
    let path = folder.join(format!("{name}.{ending}"));
    fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(path)
}

/// Downloads `packages` of another release, and all that they depend on, into `folder`; nothing is installed, and what apt knows of
/// this machine is left alone. From the mirror that this machine's own release comes from.
pub(crate) fn download(release: &str, packages: &[&str], folder: &Path) -> Result<(), String> {
    let own = self::release()?;
    let entry = derived(&own, release)
        .ok_or_else(|| format!("no apt source names {own}, so {release} cannot be derived from it"))?;
    // Beside the folder, so that an interrupted download leaves nothing that looks whole.
    let state = folder.with_extension("partial");
    let system = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    if state.exists() {
        fs::remove_dir_all(&state).map_err(|error| system(&state, error))?;
    }
    for part in ["lists/partial", "cache/archives/partial", "sources"] {
        let path = state.join(part);
        fs::create_dir_all(&path).map_err(|error| system(&path, error))?;
    }
    // As if nothing was installed: then all that is depended on is downloaded too.
    let status = state.join("status");
    fs::write(&status, "").map_err(|error| system(&status, error))?;
    write_entry(&state.join("sources"), "release", entry)?;
    let apt = |words: &[&str]| {
        let mut command = apt_get(&["--quiet=2"]);
        for (option, value) in [
            ("Dir::Etc::sourcelist", "/dev/null".into()),
            ("Dir::Etc::sourceparts", state.join("sources")),
            ("Dir::Etc::preferences", "/dev/null".into()),
            ("Dir::Etc::preferencesparts", "/dev/null".into()),
            ("Dir::State::lists", state.join("lists")),
            ("Dir::State::status", status.clone()),
            ("Dir::State::extended_states", state.join("extended_states")),
            ("Dir::Cache", state.join("cache")),
        ] {
            command.arg("-o").arg(format!("{option}={}", value.display()));
        }
        for option in ["APT::Sandbox::User=root", "APT::Install-Recommends=false", "Acquire::Languages=none"]
        {
            command.args(["-o", option]);
        }
        command.args(words);
        command
    };
    process::run(&mut apt(&["update"]))?;
    process::run(apt(&["install", "--download-only", "--yes"]).args(packages))?;
    fs::rename(state.join("cache/archives"), folder).map_err(|error| system(folder, error))?;
    fs::remove_dir_all(&state).map_err(|error| system(&state, error))
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
