//! Tables that tests read, and numbers.
#![allow(dead_code, reason = "every test program uses a part of its own")]

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

/// Numbers that look random and are always the same: Marsaglia's xorshift64.
pub(crate) fn random() -> impl FnMut() -> u64 {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

/// A table around `body`, put together byte by byte as ACPI 5.2.6 has it.
pub(crate) fn table(signature: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let mut bytes = signature.to_vec();
    bytes.extend(u32::try_from(36 + body.len()).unwrap().to_le_bytes());
    bytes.extend([1, 0]);
    bytes.extend(b"OEMID_OEMTABLE");
    bytes.extend([1, 0, 0, 0]);
    bytes.extend(b"TEST");
    bytes.extend([1, 0, 0, 0]);
    bytes.extend(body);
    bytes[9] = 0u8.wrapping_sub(bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte)));
    bytes
}

/// The bytes that a string of hexadecimal digits, blanks and remarks after `#` stands for.
pub(crate) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .lines()
        .flat_map(|line| line.split('#').next().unwrap().bytes())
        .filter(u8::is_ascii_hexdigit)
        .collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks_exact(2).map(byte).collect()
}

/// Findings as text, one a line.
pub(crate) fn findings(topology: &portcullis_firmware::Topology) -> Vec<String> {
    topology.findings.iter().map(ToString::to_string).collect()
}
