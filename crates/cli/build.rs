//! Collects what the specification's types say of their fields, so that `portcullis decode` can say it too: the documentation in
//! `crates/spec` is the one place where a field is explained.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// The folders of `crates/spec/src`, one an architecture.
const ARCHITECTURES: [&str; 4] = ["amdvi", "riscv", "smmuv3", "vtd"];

fn main() {
    let manifest =
        PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo names the package's folder"));
    let source = manifest.join("../spec/src");
    println!("cargo::rerun-if-changed={}", source.display());
    let mut entries = Vec::new();
    for architecture in ARCHITECTURES {
        let mut files = Vec::new();
        rust_files(&source.join(architecture), &mut files);
        for file in files {
            let text = fs::read_to_string(&file).expect("a source file is text");
            collect(architecture, &text, &mut entries);
        }
    }
    entries.sort();
    entries.dedup_by(|one, other| one.0 == other.0 && one.1 == other.1 && one.2 == other.2);
    let mut out = String::from(
        "/// Architecture, type, field or variant, and what it is.\nstatic DOCS: &[(&str, &str, &str, &str)] = &[\n",
    );
    for (architecture, name, field, text) in &entries {
        out.push_str(&format!("    ({architecture:?}, {name:?}, {field:?}, {text:?}),\n"));
    }
    out.push_str("];\n");
    let target = PathBuf::from(env::var_os("OUT_DIR").expect("cargo names a folder for output"));
    fs::write(target.join("docs.rs"), out).expect("the folder for output can be written");
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Fields of structs and variants of enums, with the lines of documentation above them.
fn collect(architecture: &str, text: &str, entries: &mut Vec<(String, String, String, String)>) {
    let mut inside: Option<String> = None;
    let mut documentation = String::new();
    for line in text.lines() {
        let line = line.trim();
        if let Some(words) = line.strip_prefix("///") {
            if !documentation.is_empty() {
                documentation.push(' ');
            }
            documentation.push_str(words.trim());
            continue;
        }
        if line.starts_with("#[") {
            continue;
        }
        let opened = line.strip_prefix("pub struct ").or_else(|| line.strip_prefix("pub enum "));
        if let Some(name) = opened.and_then(|rest| rest.strip_suffix(" {")) {
            inside = Some(name.to_owned());
        } else if line == "}" {
            inside = None;
        } else if let Some(name) = &inside {
            let field = line.strip_prefix("pub ").map_or(line, |rest| rest);
            let end = field.find([':', ',', '(', ' ']).unwrap_or(field.len());
            let field = &field[..end];
            if !field.is_empty() && !documentation.is_empty() && !field.starts_with('_') {
                // Links to other items mean nothing on a terminal.
                let plain = documentation.replace("[`", "").replace("`]", "").replace('`', "");
                entries.push((architecture.to_owned(), name.clone(), field.to_owned(), plain));
            }
        }
        documentation.clear();
    }
}
