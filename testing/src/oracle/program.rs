//! Programs: what a driver and its devices are made to do, the same on every machine.

use portcullis_spec::Access;
use std::fmt;

/// Names one of a program's spaces (domains).
pub type Space = usize;
/// Names one of a machine's engines.
pub type Engine = usize;

/// One step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Let a space's addresses lead to memory.
    Map {
        /// Which space.
        space: Space,
        /// First address.
        iova: u64,
        /// First physical address, from the start of the machine's memory.
        target: u64,
        /// Bytes.
        length: u64,
        /// What may be done.
        access: Access,
    },
    /// Let a space's addresses lead nowhere.
    Unmap {
        /// Which space.
        space: Space,
        /// First address.
        iova: u64,
        /// Bytes.
        length: u64,
    },
    /// Change what may be done.
    Protect {
        /// Which space.
        space: Space,
        /// First address.
        iova: u64,
        /// Bytes.
        length: u64,
        /// What may be done from now on.
        access: Access,
    },
    /// Attach an engine to a space; it leaves the one it was attached to.
    Attach {
        /// Which engine.
        engine: Engine,
        /// Which space.
        space: Space,
    },
    /// Detach an engine: it is blocked.
    Detach {
        /// Which engine.
        engine: Engine,
    },
    /// Copy by DMA.
    Copy {
        /// Which engine.
        engine: Engine,
        /// First address read.
        source: u32,
        /// First address written.
        destination: u32,
        /// Bytes.
        length: u32,
    },
    /// Read and write by DMA, with 64 address bits.
    Touch {
        /// Address read.
        read: u64,
        /// Address written.
        write: u64,
    },
}

fn rights(access: Access) -> &'static str {
    match (access.contains(Access::READ), access.contains(Access::WRITE)) {
        (true, true) => "read-write",
        (true, false) => "read-only",
        (false, true) => "write-only",
        (false, false) => "nothing",
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Map { space, iova, target, length, access } => {
                write!(
                    f,
                    "map space {space}: {iova:#x} + {length:#x} to RAM + {target:#x}, {}",
                    rights(access)
                )
            }
            Self::Unmap { space, iova, length } => write!(f, "unmap space {space}: {iova:#x} + {length:#x}"),
            Self::Protect { space, iova, length, access } => {
                write!(f, "protect space {space}: {iova:#x} + {length:#x}, {}", rights(access))
            }
            Self::Attach { engine, space } => write!(f, "attach engine {engine} to space {space}"),
            Self::Detach { engine } => write!(f, "detach engine {engine}"),
            Self::Copy { engine, source, destination, length } => {
                write!(f, "copy with engine {engine}: {length:#x} bytes from {source:#x} to {destination:#x}")
            }
            Self::Touch { read, write } => write!(f, "touch: read {read:#x}, write {write:#x}"),
        }
    }
}

impl Step {
    /// Simpler steps of the same kind, the simplest first.
    #[must_use]
    pub fn simpler(&self) -> Vec<Self> {
        const PAGE: u64 = 4096;
        let mut simpler = Vec::new();
        match *self {
            Self::Map { space, iova, target, length, access } => {
                if length > PAGE {
                    simpler.push(Self::Map { space, iova, target, length: PAGE, access });
                    simpler.push(Self::Map {
                        space,
                        iova,
                        target,
                        length: (length / 2) & !(PAGE - 1),
                        access,
                    });
                }
                if space > 0 {
                    simpler.push(Self::Map { space: 0, iova, target, length, access });
                }
            }
            Self::Unmap { space, iova, length } if length > PAGE => {
                simpler.push(Self::Unmap { space, iova, length: PAGE });
            }
            Self::Protect { space, iova, length, access } if length > PAGE => {
                simpler.push(Self::Protect { space, iova, length: PAGE, access });
            }
            Self::Attach { engine, space } if space > 0 => simpler.push(Self::Attach { engine, space: 0 }),
            Self::Copy { engine, source, destination, length } => {
                if length > 4 {
                    simpler.push(Self::Copy { engine, source, destination, length: 4 });
                    simpler.push(Self::Copy { engine, source, destination, length: length / 2 });
                }
                if engine > 0 {
                    simpler.push(Self::Copy { engine: 0, source, destination, length });
                }
            }
            _ => {}
        }
        simpler
    }
}
