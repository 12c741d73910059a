//! Tables that tests read.

use std::path::Path;

/// The tables of real machines, by file name, where they are at hand; otherwise none, and a word about it.
pub(crate) fn real_tables() -> Vec<(String, Vec<u8>)> {
    let mut above =
        Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|above| above.join("shared/data/acpi"));
    let Some(entries) = above.find_map(|directory| std::fs::read_dir(directory).ok()) else {
        println!("skipped: the tables of real machines (shared/data/acpi) are not here");
        return Vec::new();
    };
    let mut tables: Vec<_> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let name = path.file_name()?.to_str()?.to_owned();
            name.ends_with(".bin").then(|| Some((name, std::fs::read(path).ok()?)))?
        })
        .collect();
    tables.sort();
    tables
}
