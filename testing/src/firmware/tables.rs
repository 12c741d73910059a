//! Tables to be judged.

use std::path::{Path, PathBuf};

/// Tables of real machines, by file name; `None` where they are not at hand. They lie beside the repository, in
/// `shared/data/acpi`.
#[must_use]
pub fn real() -> Option<Vec<(String, Vec<u8>)>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let directory =
        here.ancestors().map(|above| above.join("shared/data/acpi")).find(|path| path.is_dir())?;
    Some(files(&directory, "bin"))
}

/// The sources of tables that are written by hand, by file name.
#[must_use]
pub fn sources() -> Vec<(String, String)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/firmware");
    files(&directory, "asl")
        .into_iter()
        .map(|(name, bytes)| (name, String::from_utf8_lossy(&bytes).into_owned()))
        .collect()
}

fn files(directory: &Path, extension: &str) -> Vec<(String, Vec<u8>)> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|found| found == extension));
    paths.sort();
    let read = |path: PathBuf| Some((path.file_name()?.to_str()?.to_owned(), std::fs::read(&path).ok()?));
    paths.into_iter().filter_map(read).collect()
}
