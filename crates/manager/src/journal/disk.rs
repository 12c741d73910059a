//! The journal on disk: one JSON object a line, in a file that is exchanged when it is full.
//!
//! At most two files of the configured length are kept. In a flood only the first records of each batch are written, and a
//! line says how many were not.

use std::{
    collections::VecDeque,
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use portcullis_client::api;
use serde::{Deserialize, Serialize};

use super::Record;

/// A line that is longer is none of ours.
const LONGEST: u64 = 16 << 10;

/// Why the journal cannot be on disk.
#[derive(Debug, thiserror::Error)]
#[error("the journal {path} cannot be written: {source}")]
pub struct DiskError {
    /// The file.
    pub path: PathBuf,
    /// The system's answer.
    pub source: io::Error,
}

/// Lines in a file, which is exchanged when it is full.
#[derive(Debug)]
struct Lines {
    path: PathBuf,
    file: BufWriter<File>,
    written: u64,
    limit: u64,
}

impl Lines {
    /// Opens or makes the file, which is exchanged when it has `limit` bytes. A line that was begun and never ended is ended.
    ///
    /// # Errors
    ///
    /// [`DiskError`].
    fn open(path: &Path, limit: u64) -> Result<Self, DiskError> {
        let fail = |source| DiskError { path: path.into(), source };
        let mut file = open(path).map_err(fail)?;
        let mut written = file.metadata().map_err(fail)?.len();
        if written != 0 {
            let mut last = [0];
            file.seek(SeekFrom::End(-1)).and_then(|_| file.read_exact(&mut last)).map_err(fail)?;
            if last != *b"\n" {
                file.write_all(b"\n").map_err(fail)?;
                written += 1;
            }
        }
        Ok(Self { path: path.into(), file: BufWriter::new(file), written, limit: limit.max(4096) })
    }

    fn line(&mut self, value: &impl Serialize) -> io::Result<()> {
        let mut text = serde_json::to_vec(value)?;
        text.push(b'\n');
        if self.written + text.len() as u64 > self.limit {
            self.file.flush()?;
            std::fs::rename(&self.path, older(&self.path))?;
            self.file = BufWriter::new(open(&self.path)?);
            self.written = 0;
        }
        self.file.write_all(&text)?;
        self.written += text.len() as u64;
        Ok(())
    }

    /// Every line that is in the files, oldest first, of no more bytes than are kept; those that cannot be read are counted.
    fn each(&self, mut take: impl FnMut(&[u8]) -> bool) -> u64 {
        let mut unreadable = 0;
        for path in [older(&self.path), self.path.clone()] {
            match lines(&path, self.limit, &mut take) {
                Ok(not) => unreadable += not,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "the journal of before is not read whole");
                }
            }
        }
        unreadable
    }
}

/// Hands on the lines in the last `most` bytes of a file; how many were refused, or too long.
fn lines(path: &Path, most: u64, take: &mut impl FnMut(&[u8]) -> bool) -> io::Result<u64> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut amid = length > most;
    file.seek(SeekFrom::Start(length.saturating_sub(most)))?;
    let mut file = BufReader::new(file.take(most));
    let mut unreadable = 0;
    let mut line = Vec::new();
    loop {
        line.clear();
        if (&mut file).take(LONGEST).read_until(b'\n', &mut line)? == 0 {
            return Ok(unreadable);
        }
        let whole = line.pop_if(|last| *last == b'\n').is_some();
        // What is begun amid a line, or goes on after so many bytes, or was never ended, is no line.
        if !std::mem::replace(&mut amid, !whole) && !(whole && (line.is_empty() || take(&line))) {
            unreadable += 1;
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new().read(true).append(true).create(true).mode(0o640).open(path)
}

fn older(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// The line that says how many records have none of their own.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NotWritten {
    not_written: u64,
}

/// What is on disk of earlier processes.
#[derive(Debug, Default)]
pub struct Former<T> {
    /// The newest records, oldest first.
    pub records: VecDeque<T>,
    /// The highest number that any can have had.
    pub last: u64,
    /// Lines that make no sense: torn by a crash, or written by somebody else.
    pub unreadable: u64,
}

/// The journal of violations on disk.
#[derive(Debug)]
pub struct Disk {
    lines: Lines,
    /// Records that could not be written since the last that could.
    failed: u64,
}

impl Disk {
    /// Opens or makes the file, which is exchanged when it has `limit` bytes.
    ///
    /// # Errors
    ///
    /// [`DiskError`].
    pub fn open(path: &Path, limit: u64) -> Result<Self, DiskError> {
        Ok(Self { lines: Lines::open(path, limit)?, failed: 0 })
    }

    /// What earlier processes wrote: at most `most` records, the newest.
    #[must_use]
    pub fn former(&self, most: usize) -> Former<api::Fault> {
        let mut former = Former::default();
        former.unreadable = self.lines.each(|line| {
            if let Ok(fault) = serde_json::from_slice::<api::Fault>(line) {
                keep(&mut former, most, fault.number, fault);
            } else if let Ok(NotWritten { not_written }) = serde_json::from_slice(line) {
                former.last = former.last.saturating_add(not_written);
            } else {
                return false;
            }
            true
        });
        former
    }

    /// Writes records, and how many more there were. A disk that is full costs records, not the service; their number is
    /// written as soon as there is room again.
    pub fn write(&mut self, records: &[Record], more: u64) {
        if let Err(error) = self.try_write(records, more) {
            if self.failed == 0 {
                tracing::warn!(path = %self.lines.path.display(), %error, "violations are not written to disk");
            }
            self.failed += records.len() as u64 + more;
        }
    }

    fn try_write(&mut self, records: &[Record], more: u64) -> io::Result<()> {
        for record in records {
            self.lines.line(&crate::service::fault_message(record))?;
        }
        let not_written = more + std::mem::take(&mut self.failed);
        if not_written != 0 {
            self.lines.line(&NotWritten { not_written })?;
        }
        self.lines.file.flush()
    }
}

fn keep<T>(former: &mut Former<T>, most: usize, number: u64, record: T) {
    former.last = former.last.max(number);
    if former.records.len() >= most {
        former.records.pop_front();
    }
    former.records.push_back(record);
}

/// What happened, on disk.
#[derive(Debug)]
pub struct EventsOnDisk {
    lines: Lines,
    failing: bool,
    /// Something was written and is not in the file yet.
    waiting: bool,
}

impl EventsOnDisk {
    /// Opens or makes the file, which is exchanged when it has `limit` bytes.
    ///
    /// # Errors
    ///
    /// [`DiskError`].
    pub fn open(path: &Path, limit: u64) -> Result<Self, DiskError> {
        Ok(Self { lines: Lines::open(path, limit)?, failing: false, waiting: false })
    }

    /// What earlier processes wrote: at most `most` events, the newest.
    #[must_use]
    pub fn former(&self, most: usize) -> Former<api::Event> {
        let mut former = Former::default();
        former.unreadable = self.lines.each(|line| match serde_json::from_slice::<api::Event>(line) {
            Ok(event) => {
                keep(&mut former, most, event.number.unwrap_or(0), event);
                true
            }
            Err(_) => false,
        });
        former
    }

    /// Writes an event; it is in the file after [`EventsOnDisk::flush`]. A disk that is full costs events, not the service.
    pub fn write(&mut self, event: &api::Event) {
        let written = self.lines.line(event);
        self.waiting = true;
        self.take(written);
    }

    /// Brings what was written into the file.
    pub fn flush(&mut self) {
        if std::mem::take(&mut self.waiting) {
            let flushed = self.lines.file.flush();
            self.take(flushed);
        }
    }

    fn take(&mut self, outcome: io::Result<()>) {
        match outcome {
            Ok(()) => self.failing = false,
            Err(error) if !std::mem::replace(&mut self.failing, true) => {
                tracing::warn!(path = %self.lines.path.display(), %error, "events are not written to disk");
            }
            Err(_) => {}
        }
    }
}
