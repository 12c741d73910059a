//! Varlink's frames: JSON ended by a zero byte, with descriptors beside the first byte of their message.
//!
//! Neither side blocks here; both the blocking client and the service build on it.

use std::{
    collections::VecDeque,
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use crate::api::DESCRIPTOR_LIMIT;

/// Bytes that one read asks for at least.
const CHUNK: usize = 16 << 10;

/// Sends as much as fits, the descriptors beside the first byte. Returns how many bytes went.
///
/// # Errors
///
/// The system's.
pub fn send(socket: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTOR_LIMIT))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors in one message"));
    }
    Ok(rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
}

/// Why no frame can come any more.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The other side closed the socket.
    #[error("the connection was closed")]
    Closed,
    /// The message is longer than allowed.
    #[error("a message of more than {0} bytes")]
    TooLong(usize),
    /// More descriptors came than any message takes.
    #[error("more than {DESCRIPTOR_LIMIT} descriptors in one message")]
    TooManyDescriptors,
    /// The system's.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Messages as they come in, cut at their zero bytes.
#[derive(Debug, Default)]
pub struct Frames {
    bytes: Vec<u8>,
    /// First byte that was not handed out.
    begin: usize,
    /// First byte that was not searched for a zero.
    searched: usize,
    /// Descriptors, with the place of a byte that they came beside.
    descriptors: VecDeque<(usize, OwnedFd)>,
}

impl Frames {
    /// Reads once. Returns whether the next message is complete.
    ///
    /// # Errors
    ///
    /// [`FrameError::Io`] of kind `WouldBlock` where nothing is there yet; anything else ends the connection.
    pub fn read(&mut self, socket: impl AsFd, limit: usize) -> Result<bool, FrameError> {
        if self.begin > 0 {
            self.bytes.drain(..self.begin);
            self.searched -= self.begin;
            for (place, _) in &mut self.descriptors {
                *place = place.saturating_sub(self.begin);
            }
            self.begin = 0;
        }
        let had = self.bytes.len();
        self.bytes.resize(had + CHUNK.max(had).min(limit.saturating_sub(had).max(1)), 0);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTOR_LIMIT))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received =
            rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut self.bytes[had..])], &mut control, flags);
        self.bytes.truncate(had + received.as_ref().map_or(0, |r| r.bytes));
        let received = received.map_err(io::Error::from)?;
        // Linux ends a read with the bytes that descriptors came beside, so they belong to the last byte's message.
        let place = self.bytes.len().saturating_sub(1);
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors.map(|descriptor| (place, descriptor)));
            }
        }
        if self.descriptors.len() > DESCRIPTOR_LIMIT || received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(FrameError::TooManyDescriptors);
        }
        if received.bytes == 0 {
            return Err(FrameError::Closed);
        }
        let complete = self.end().is_some();
        if !complete && self.bytes.len() >= limit {
            return Err(FrameError::TooLong(limit));
        }
        Ok(complete)
    }

    /// Where the next message ends.
    fn end(&mut self) -> Option<usize> {
        let from = self.searched.max(self.begin);
        let found = self.bytes[from..].iter().position(|&byte| byte == 0).map(|at| from + at);
        self.searched = found.unwrap_or(self.bytes.len());
        found
    }

    /// The next message, without its zero, and the descriptors that came with it.
    pub fn next_message(&mut self) -> Option<(&[u8], Vec<OwnedFd>)> {
        let end = self.end()?;
        let mut descriptors = Vec::new();
        while self.descriptors.front().is_some_and(|&(place, _)| place <= end) {
            descriptors.extend(self.descriptors.pop_front().map(|(_, descriptor)| descriptor));
        }
        let begin = std::mem::replace(&mut self.begin, end + 1);
        self.searched = end + 1;
        Some((&self.bytes[begin..end], descriptors))
    }

    /// Bytes that wait for the rest of their message, or to be handed out.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.bytes.len() - self.begin
    }

    /// Gives memory back that a long message needed.
    pub fn shrink(&mut self) {
        if self.pending() == 0 {
            self.bytes.clear();
            self.bytes.shrink_to(CHUNK);
            (self.begin, self.searched) = (0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        os::{fd::AsFd, unix::net::UnixStream},
    };

    use super::{FrameError, Frames, send};

    #[test]
    fn messages_are_cut_at_zeros_wherever_reads_end() {
        let (mut a, b) = UnixStream::pair().unwrap();
        let mut frames = Frames::default();
        a.write_all(b"one\0tw").unwrap();
        assert!(frames.read(&b, 100).unwrap());
        assert_eq!(frames.next_message().unwrap().0, b"one");
        assert!(frames.next_message().is_none());
        a.write_all(b"o\0\0th").unwrap();
        assert!(frames.read(&b, 100).unwrap());
        assert_eq!(frames.next_message().unwrap().0, b"two");
        assert_eq!(frames.next_message().unwrap().0, b"");
        assert!(frames.next_message().is_none());
        assert_eq!(frames.pending(), 2);
    }

    #[test]
    fn descriptors_belong_to_the_message_that_they_came_with() {
        let (mut a, b) = UnixStream::pair().unwrap();
        let (mut mine, theirs) = UnixStream::pair().unwrap();
        a.write_all(b"first\0").unwrap();
        send(&a, b"second\0", &[theirs.as_fd()]).unwrap();
        a.write_all(b"third\0").unwrap();
        drop(theirs);
        let mut frames = Frames::default();
        let mut seen = Vec::new();
        while seen.len() < 3 {
            frames.read(&b, 100).unwrap();
            while let Some((message, descriptors)) = frames.next_message() {
                seen.push((message.to_vec(), descriptors));
            }
        }
        let counts: Vec<usize> = seen.iter().map(|(_, d)| d.len()).collect();
        assert_eq!(counts, [0, 1, 0]);
        UnixStream::from(seen.remove(1).1.remove(0)).write_all(b"x").unwrap();
        let mut byte = [0];
        mine.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }

    #[test]
    fn a_message_without_an_end_is_refused_at_the_limit() {
        let (mut a, b) = UnixStream::pair().unwrap();
        let mut frames = Frames::default();
        a.write_all(&[b' '; 60_000]).unwrap();
        let refused = loop {
            match frames.read(&b, 50_000) {
                Ok(complete) => assert!(!complete),
                Err(error) => break error,
            }
        };
        assert!(matches!(refused, FrameError::TooLong(50_000)), "{refused}");
        assert_eq!(frames.pending(), 50_000);
    }

    #[test]
    fn too_many_descriptors_are_refused_and_closed() {
        let (a, b) = UnixStream::pair().unwrap();
        let all = vec![a.as_fd(); 16];
        send(&a, b"x", &all).unwrap();
        send(&a, b"y\0", &all[..1]).unwrap();
        let mut frames = Frames::default();
        assert!(!frames.read(&b, 100).unwrap());
        assert!(matches!(frames.read(&b, 100), Err(FrameError::TooManyDescriptors)));
    }
}
