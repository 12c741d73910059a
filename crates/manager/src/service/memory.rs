//! Descriptors that clients bring, and whether they are memory that can be granted.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FileType, OFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fcntl_getfl, fstat};

/// Memory that cannot shrink.
#[derive(Debug)]
pub struct Sealed {
    /// Its descriptor.
    pub file: OwnedFd,
    /// Bytes.
    pub length: u64,
    /// The descriptor allows writing.
    pub writable: bool,
}

/// Why a descriptor is not memory that can be granted.
#[derive(Debug, thiserror::Error)]
pub enum BadMemory {
    /// None came.
    #[error("no descriptor came with the call; send one memfd beside its first byte")]
    Missing,
    /// More than one came.
    #[error("{0} descriptors came with the call; send one memfd")]
    TooMany(usize),
    /// Not a memfd.
    #[error("the descriptor is not a memfd: it has no seals")]
    NotMemfd,
    /// It can shrink, and that cannot be changed.
    #[error(
        "the memfd can shrink, and this descriptor cannot change that; add F_SEAL_SHRINK before F_SEAL_SEAL, and before a descriptor that only reads is made"
    )]
    CanShrink,
    /// It is sealed against writing, but devices could still write.
    #[error(
        "the memfd is sealed against writing in a way that does not bind devices; leave F_SEAL_WRITE out"
    )]
    WriteSealed,
    /// No bytes.
    #[error("the memfd is empty")]
    Empty,
    /// Its length is no multiple of a page.
    #[error("the memfd has {0:#x} bytes, which is not a multiple of 4096")]
    NotPages(u64),
    /// The descriptor cannot even read.
    #[error("the descriptor cannot read")]
    Unreadable,
}

impl Sealed {
    /// Checks what came with a call, and seals it against shrinking.
    ///
    /// # Errors
    ///
    /// [`BadMemory`].
    pub fn of(mut descriptors: Vec<OwnedFd>) -> Result<Self, BadMemory> {
        if descriptors.len() > 1 {
            return Err(BadMemory::TooMany(descriptors.len()));
        }
        let file = descriptors.pop().ok_or(BadMemory::Missing)?;
        let stat = fstat(&file).map_err(|_| BadMemory::NotMemfd)?;
        // Only memfds and files of tmpfs have seals; the latter only F_SEAL_SEAL.
        let seals = fcntl_get_seals(&file).map_err(|_| BadMemory::NotMemfd)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(BadMemory::NotMemfd);
        }
        if seals.intersects(SealFlags::WRITE | SealFlags::FUTURE_WRITE) {
            return Err(BadMemory::WriteSealed);
        }
        if !seals.contains(SealFlags::SHRINK) {
            fcntl_add_seals(&file, SealFlags::SHRINK).map_err(|_| BadMemory::CanShrink)?;
        }
        let flags = fcntl_getfl(&file).map_err(|_| BadMemory::NotMemfd)?;
        let mode = flags & OFlags::ACCMODE;
        if mode == OFlags::WRONLY || flags.contains(OFlags::PATH) {
            return Err(BadMemory::Unreadable);
        }
        // Only now: before the seal its owner could have shrunk it after this look.
        let length = fstat(file.as_fd()).map_err(|_| BadMemory::NotMemfd)?.st_size;
        match u64::try_from(length) {
            Ok(0) | Err(_) => Err(BadMemory::Empty),
            Ok(length) if !length.is_multiple_of(4096) => Err(BadMemory::NotPages(length)),
            Ok(length) => Ok(Self { file, length, writable: mode == OFlags::RDWR }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::fd::OwnedFd};

    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

    use super::{BadMemory, Sealed};

    fn memfd(length: u64, seals: SealFlags) -> OwnedFd {
        let file = memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&file, length).unwrap();
        fcntl_add_seals(&file, seals).unwrap();
        file
    }

    #[test]
    fn memory_that_was_taken_in_cannot_shrink() {
        let file = memfd(8192, SealFlags::empty());
        let mine = file.try_clone().unwrap();
        let sealed = Sealed::of(vec![file]).unwrap();
        assert_eq!((sealed.length, sealed.writable), (8192, true));
        assert!(ftruncate(&mine, 4096).is_err());
        ftruncate(&mine, 16384).unwrap();
    }

    #[test]
    fn anything_else_is_refused_with_the_exact_reason() {
        let pipe: OwnedFd = std::os::unix::net::UnixStream::pair().unwrap().0.into();
        let file: OwnedFd = File::open("/proc/self/exe").unwrap().into();
        let no_seals = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&no_seals, 4096).unwrap();
        let read_only = |seals| {
            use std::os::fd::AsRawFd;
            let file = memfd(4096, seals);
            OwnedFd::from(File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap())
        };
        // fcntl(2), F_ADD_SEALS: EPERM where the descriptor cannot write. Its owner must have sealed it.
        assert!(matches!(Sealed::of(vec![read_only(SealFlags::empty())]), Err(BadMemory::CanShrink)));
        assert!(!Sealed::of(vec![read_only(SealFlags::SHRINK)]).unwrap().writable);
        assert!(matches!(Sealed::of(vec![]), Err(BadMemory::Missing)));
        assert!(matches!(
            Sealed::of(vec![memfd(4096, SealFlags::empty()), memfd(4096, SealFlags::empty())]),
            Err(BadMemory::TooMany(2))
        ));
        assert!(matches!(Sealed::of(vec![pipe]), Err(BadMemory::NotMemfd)));
        assert!(matches!(Sealed::of(vec![file]), Err(BadMemory::NotMemfd)));
        assert!(matches!(Sealed::of(vec![no_seals]), Err(BadMemory::CanShrink)));
        assert!(matches!(Sealed::of(vec![memfd(0, SealFlags::empty())]), Err(BadMemory::Empty)));
        assert!(matches!(Sealed::of(vec![memfd(100, SealFlags::empty())]), Err(BadMemory::NotPages(100))));
        assert!(matches!(Sealed::of(vec![memfd(4096, SealFlags::WRITE)]), Err(BadMemory::WriteSealed)));
    }
}
