//! Files of a running host, or of a directory that holds a copy of them.
//!
//! Paths are below the root and links lead nowhere outside it, so that a copy from an untrusted machine can be read (kernels before
//! 5.6 cannot resolve so; there links are followed as they are). What could not be read is kept: a report must say what it
//! does not know.

use std::{
    cell::RefCell,
    io::{self, Read},
    os::fd::OwnedFd,
    path::Path,
};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use serde::Serialize;

/// Largest file that is read, in bytes. The largest file of interest, a devicetree, is far smaller.
const MAX_FILE: u64 = 4 << 20;
/// Entries of one directory that are read.
const MAX_ENTRIES: usize = 1 << 17;
/// Notes on unreadable files that are kept.
const MAX_UNREAD: usize = 64;

/// A file that could not be read.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Unread {
    /// The file, below the root.
    pub path: String,
    /// Why.
    pub reason: String,
}

/// Where files are read from.
pub struct Root {
    directory: Directory,
    unread: RefCell<Vec<Unread>>,
}

impl Root {
    /// The directory `path`; `/` for the running host.
    ///
    /// # Errors
    /// Where it is not a directory that can be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self { directory: Directory { fd, path: String::new() }, unread: RefCell::default() })
    }

    /// What could not be read so far, though it is there.
    #[must_use]
    pub fn unread(&self) -> Vec<Unread> {
        self.unread.borrow().clone()
    }

    /// Notes that something of interest is not known.
    pub fn note(&self, path: impl Into<String>, reason: impl Into<String>) {
        let mut unread = self.unread.borrow_mut();
        if unread.len() < MAX_UNREAD {
            unread.push(Unread { path: path.into(), reason: reason.into() });
        }
    }

    fn noted<T>(&self, path: &str, result: io::Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                // A file that is not there is an answer.
                if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) {
                    self.note(path, error.to_string());
                }
                None
            }
        }
    }

    /// The directory `path`.
    pub fn directory(&self, path: &str) -> Option<Directory> {
        self.noted(path, self.directory.directory(path))
    }

    /// The names in the directory `path`, in order; none where it is not there.
    pub fn list(&self, path: &str) -> Vec<String> {
        self.directory(path).and_then(|directory| self.noted(path, directory.list())).unwrap_or_default()
    }

    /// The bytes of the file `path`.
    pub fn bytes(&self, path: &str) -> Option<Vec<u8>> {
        self.noted(path, self.directory.bytes(path))
    }

    /// The text of the file `path` without white space around it.
    pub fn text(&self, path: &str) -> Option<String> {
        self.bytes(path).map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// Whether `path` is there.
    pub fn exists(&self, path: &str) -> bool {
        self.directory.open(path, OFlags::PATH).is_ok()
    }
}

/// A directory below a [`Root`]. Its paths are relative to it.
pub struct Directory {
    fd: OwnedFd,
    path: String,
}

impl Directory {
    /// Its path below the root.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    fn open(&self, path: &str, flags: OFlags) -> io::Result<OwnedFd> {
        // Beneath the root of a whole tree, links resolve as if it were `/`.
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let relative = path.trim_start_matches('/');
        let flags = flags | OFlags::CLOEXEC;
        match rustix::fs::openat2(&self.fd, relative, flags, Mode::empty(), resolve) {
            // Kernels before 5.6, and sandboxes that forbid the call.
            Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => {
                Ok(rustix::fs::openat(&self.fd, relative, flags, Mode::empty())?)
            }
            other => Ok(other?),
        }
    }

    fn directory(&self, path: &str) -> io::Result<Self> {
        let fd = self.open(path, OFlags::PATH | OFlags::DIRECTORY)?;
        Ok(Self { fd, path: format!("{}/{}", self.path, path.trim_matches('/')) })
    }

    /// The directory that `name` in it is, or links to. `root` is where the link may lead.
    #[must_use]
    pub(super) fn follow(&self, root: &Root, name: &str) -> Option<Self> {
        root.directory.directory(&format!("{}/{name}", self.path)).ok()
    }

    /// The directory `name` in it.
    #[must_use]
    pub fn inner(&self, name: &str) -> Option<Self> {
        self.directory(name).ok()
    }

    /// The names in it, in order.
    ///
    /// # Errors
    /// As the system says.
    pub fn list(&self) -> io::Result<Vec<String>> {
        let fd = rustix::fs::openat(
            &self.fd,
            ".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::new(fd)?.take(MAX_ENTRIES) {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy();
            if name != "." && name != ".." {
                names.push(name.into_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn bytes(&self, path: &str) -> io::Result<Vec<u8>> {
        let file = std::fs::File::from(self.open(path, OFlags::RDONLY | OFlags::NONBLOCK)?);
        let mut bytes = Vec::new();
        file.take(MAX_FILE).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// The bytes of the file `name` in it, at most `limit`; `None` where it cannot be read.
    #[must_use]
    pub fn read(&self, name: &str, limit: u64) -> Option<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::empty()).ok()?;
        let mut bytes = Vec::new();
        std::fs::File::from(fd).take(limit).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    /// The text of the file `name` in it without white space around it; `None` where it cannot be read.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<String> {
        self.read(name, MAX_FILE).map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// What the link `name` in it points to; `None` where it is none.
    #[must_use]
    pub fn target(&self, name: &str) -> Option<String> {
        let target = rustix::fs::readlinkat(&self.fd, name, Vec::new()).ok()?;
        Some(target.to_string_lossy().into_owned())
    }

    /// The last part of what the link `name` in it points to.
    #[must_use]
    pub fn link(&self, name: &str) -> Option<String> {
        let target = self.target(name)?;
        target.rsplit('/').next().filter(|last| !last.is_empty()).map(str::to_owned)
    }
}
