//! The qtest protocol: a line per command, a line per answer, in order (QEMU `system/qtest.c`).

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// How long an answer may take. Commands are answered in microseconds; only a dead QEMU takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Commands sent ahead of their answers at most. Both directions stay far below a socket's buffer, so neither side can
/// wait for the other to read.
const AHEAD: usize = 128;

/// Why QEMU could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum QtestError {
    /// The socket failed, or no answer came in time.
    #[error("qtest: {0}")]
    Socket(#[from] std::io::Error),
    /// QEMU closed the socket: it has ended.
    #[error("qtest: QEMU ended")]
    Ended,
    /// QEMU refused a command.
    #[error("qtest: answered {0:?}")]
    Refused(String),
}

/// One connection. Commands without a result are collected and sent together with the next that has one.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    pending: String,
    unanswered: usize,
    line: String,
}

impl Client {
    /// A client over a connected socket.
    ///
    /// # Errors
    /// Where the socket's time-outs can't be set.
    pub fn new(stream: UnixStream) -> Result<Self, QtestError> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream: BufReader::new(stream),
            pending: String::new(),
            unanswered: 0,
            line: String::new(),
        })
    }

    /// Store `value` in `width` bytes (1, 2, 4 or 8) of the physical address space.
    ///
    /// # Errors
    /// Where QEMU has ended or refuses; possibly only with a later command.
    pub fn write(&mut self, address: u64, width: u8, value: u64) -> Result<(), QtestError> {
        let letter = letter(width);
        self.post(format_args!("write{letter} {address:#x} {value:#x}"))
    }

    /// Load `width` bytes (1, 2, 4 or 8) from the physical address space.
    ///
    /// # Errors
    /// Where QEMU has ended or refuses.
    pub fn read(&mut self, address: u64, width: u8) -> Result<u64, QtestError> {
        let letter = letter(width);
        self.ask(format_args!("read{letter} {address:#x}"))
    }

    /// Store `value` in `width` bytes (1, 2 or 4) at an I/O port.
    ///
    /// # Errors
    /// Where QEMU has ended or refuses; possibly only with a later command.
    pub fn port_write(&mut self, port: u16, width: u8, value: u32) -> Result<(), QtestError> {
        let letter = letter(width);
        self.post(format_args!("out{letter} {port:#x} {value:#x}"))
    }

    /// Load `width` bytes (1, 2 or 4) from an I/O port.
    ///
    /// # Errors
    /// Where QEMU has ended or refuses.
    pub fn port_read(&mut self, port: u16, width: u8) -> Result<u32, QtestError> {
        let letter = letter(width);
        let value = self.ask(format_args!("in{letter} {port:#x}"))?;
        // The port protocol prints 32 bits whatever the width.
        let bits = u32::from(width) * 8;
        Ok(value as u32 & u32::MAX >> (32 - bits.min(32)))
    }

    /// Wait until everything sent so far has happened.
    ///
    /// # Errors
    /// Where QEMU has ended or refused one of the commands.
    pub fn settle(&mut self) -> Result<(), QtestError> {
        self.stream.get_mut().write_all(self.pending.as_bytes())?;
        self.pending.clear();
        while self.unanswered > 0 {
            self.answer()?;
        }
        Ok(())
    }

    fn post(&mut self, command: std::fmt::Arguments<'_>) -> Result<(), QtestError> {
        if self.unanswered >= AHEAD {
            self.settle()?;
        }
        // Writing to a String can't fail.
        let _ = writeln!(self.pending, "{command}");
        self.unanswered += 1;
        Ok(())
    }

    fn ask(&mut self, command: std::fmt::Arguments<'_>) -> Result<u64, QtestError> {
        self.post(command)?;
        self.settle()?;
        let value = self.line.strip_prefix("OK 0x").and_then(|digits| u64::from_str_radix(digits, 16).ok());
        value.ok_or_else(|| QtestError::Refused(self.line.clone()))
    }

    /// Read one answer into `self.line`.
    fn answer(&mut self) -> Result<(), QtestError> {
        loop {
            self.line.clear();
            if self.stream.read_line(&mut self.line)? == 0 {
                return Err(QtestError::Ended);
            }
            self.line.truncate(self.line.trim_end().len());
            // Interrupt lines that were asked for are reported in between.
            if !self.line.starts_with("IRQ ") {
                break;
            }
        }
        self.unanswered -= 1;
        if self.line == "OK" || self.line.starts_with("OK ") {
            Ok(())
        } else {
            Err(QtestError::Refused(self.line.clone()))
        }
    }
}

fn letter(width: u8) -> char {
    match width {
        1 => 'b',
        2 => 'w',
        4 => 'l',
        _ => 'q',
    }
}
