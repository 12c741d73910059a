//! An initial RAM file system in cpio's "newc" format (Linux Documentation/driver-api/early-userspace/buffer-format.rst).

use std::io;
use std::path::Path;

/// File type bits of the mode field, as in stat(2).
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const CHARACTER: u32 = 0o020_000;
const LINK: u32 = 0o120_000;

/// An archive in the making. Folders must be added before what lies in them.
#[derive(Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Add a folder that everyone may enter.
    pub(crate) fn folder(&mut self, name: &str) {
        self.entry(name, DIRECTORY | 0o755, (0, 0), &[]);
    }

    /// Add a character device.
    pub(crate) fn device(&mut self, name: &str, number: (u32, u32)) {
        self.entry(name, CHARACTER | 0o600, number, &[]);
    }

    /// Add a file that everyone may read and execute.
    pub(crate) fn file(&mut self, name: &str, content: &[u8]) {
        self.entry(name, REGULAR | 0o755, (0, 0), content);
    }

    /// Add a symbolic link.
    pub(crate) fn link(&mut self, name: &str, target: &str) {
        self.entry(name, LINK | 0o777, (0, 0), target.as_bytes());
    }

    /// Add a file with these permission bits.
    pub(crate) fn file_with(&mut self, name: &str, permissions: u32, content: &[u8]) {
        self.entry(name, REGULAR | permissions & 0o7777, (0, 0), content);
    }

    /// Add what lies in the folder at `path`, and below it, under `name`, which is there; `wanted` says of each by its name whether.
    pub(crate) fn tree(&mut self, name: &str, path: &Path, wanted: &dyn Fn(&str) -> bool) -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let mut entries: Vec<_> = std::fs::read_dir(path)?.collect::<io::Result<_>>()?;
        entries.sort_by_key(std::fs::DirEntry::file_name);
        for entry in entries {
            let inside = format!("{name}/{}", entry.file_name().to_string_lossy());
            let (path, kind) = (entry.path(), entry.file_type()?);
            if !wanted(&inside) {
                continue;
            }
            if kind.is_symlink() {
                self.link(&inside, &std::fs::read_link(&path)?.to_string_lossy());
            } else if kind.is_dir() {
                self.folder(&inside);
                self.tree(&inside, &path, wanted)?;
            } else {
                let permissions = entry.metadata()?.permissions().mode();
                self.file_with(&inside, permissions, &std::fs::read(&path)?);
            }
        }
        Ok(())
    }

    /// Add the file at `path` under `name`.
    pub(crate) fn copy(&mut self, name: &str, path: &Path) -> io::Result<()> {
        self.file(name, &std::fs::read(path)?);
        Ok(())
    }

    /// The whole archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.entries += 1;
        let length = u32::try_from(content.len()).expect("a file of 4 GiB does not belong into RAM");
        let name_length = u32::try_from(name.len() + 1).expect("a name is short");
        let fields = [
            self.entries, // c_ino: links are recognised by it, so no two may be equal
            mode,
            0, // c_uid
            0, // c_gid
            1, // c_nlink
            0, // c_mtime
            length,
            0, // c_maj
            0, // c_min
            device.0,
            device.1,
            name_length,
            0, // c_chksum, not used by this magic
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}
