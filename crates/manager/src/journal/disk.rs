//! The journal on disk: one JSON object a line, in a file that is exchanged when it is full.
//!
//! At most two files of the configured length are kept. In a flood only the first records of each batch are written, and a
//! line says how many were not.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use super::Record;

/// Why the journal cannot be on disk.
#[derive(Debug, thiserror::Error)]
#[error("the journal {path} cannot be written: {source}")]
pub struct DiskError {
    /// The file.
    pub path: PathBuf,
    /// The system's answer.
    pub source: io::Error,
}

/// The journal on disk.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
    file: BufWriter<File>,
    written: u64,
    limit: u64,
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
        let fail = |source| DiskError { path: path.into(), source };
        let file = open(path).map_err(fail)?;
        let written = file.metadata().map_err(fail)?.len();
        Ok(Self { path: path.into(), file: BufWriter::new(file), written, limit: limit.max(4096), failed: 0 })
    }

    /// Writes records, and how many more there were. A disk that is full costs records, not the service; their number is
    /// written as soon as there is room again.
    pub fn write(&mut self, records: &[Record], more: u64) {
        if let Err(error) = self.try_write(records, more) {
            if self.failed == 0 {
                tracing::warn!(path = %self.path.display(), %error, "violations are not written to disk");
            }
            self.failed += records.len() as u64 + more;
        }
    }

    fn try_write(&mut self, records: &[Record], more: u64) -> io::Result<()> {
        for record in records {
            self.line(&line(record))?;
        }
        let more = more + std::mem::take(&mut self.failed);
        if more != 0 {
            self.line(&serde_json::json!({ "notWritten": more }))?;
        }
        self.file.flush()
    }

    fn line(&mut self, value: &serde_json::Value) -> io::Result<()> {
        let mut text = value.to_string();
        text.push('\n');
        if self.written + text.len() as u64 > self.limit {
            self.file.flush()?;
            std::fs::rename(&self.path, older(&self.path))?;
            self.file = BufWriter::new(open(&self.path)?);
            self.written = 0;
        }
        self.file.write_all(text.as_bytes())?;
        self.written += text.len() as u64;
        Ok(())
    }
}

fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

fn older(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

fn line(record: &Record) -> serde_json::Value {
    serde_json::to_value(crate::service::fault_message(record)).unwrap_or_default()
}
