//! The flattened form (Devicetree Specification 0.4, chapter 5).

use alloc::borrow::Cow;
use alloc::vec::Vec;

const MAGIC: u32 = 0xd00d_feed;
const VERSION: u32 = 17;
/// The version with which this one is compatible.
const COMPATIBLE: u32 = 16;
const HEADER_SIZE: usize = 40;

const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;

/// Nodes within nodes that are read; real trees have less than ten.
const MAX_DEPTH: usize = 32;
/// Bytes of a node's name; the specification allows 31 and a unit address. Bounds what a path can cost.
const MAX_NAME: usize = 128;

/// Why a blob cannot be read, and where: bytes from its start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BlobError {
    /// Less than a header, or than the header says.
    #[error("{available} bytes are too few: {needed} are needed")]
    TooShort {
        /// Bytes needed.
        needed: usize,
        /// Bytes there.
        available: usize,
    },
    /// Not a devicetree.
    #[error("{0:#010x} is not the magic number of a devicetree")]
    Magic(u32),
    /// Of a version that this reader does not know.
    #[error("version {version}, compatible with {compatible}, is not one that is known (16, 17)")]
    Version {
        /// Version.
        version: u32,
        /// The oldest version that it is compatible with.
        compatible: u32,
    },
    /// A token that is none, or in a place where it cannot be.
    #[error("token {token:#x} at {offset:#x} cannot be there")]
    Token {
        /// Token.
        token: u32,
        /// Where.
        offset: usize,
    },
    /// Something reaches beyond the block that it is in.
    #[error("{what} at {offset:#x} reaches beyond the blob")]
    Beyond {
        /// What.
        what: &'static str,
        /// Where.
        offset: usize,
    },
    /// A name that is not text, or far too long.
    #[error("the name at {offset:#x} is not text, or has more than {MAX_NAME} bytes")]
    Name {
        /// Where.
        offset: usize,
    },
    /// More nodes within nodes than any real tree has.
    #[error("more than {MAX_DEPTH} nodes within each other at {offset:#x}")]
    Depth {
        /// Where.
        offset: usize,
    },
}

/// A property.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Property<'a> {
    /// Its name.
    pub name: Cow<'a, str>,
    /// Its value, as it stands.
    pub value: Cow<'a, [u8]>,
}

/// A node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Node<'a> {
    /// Its name with its unit address; empty for the root.
    pub name: Cow<'a, str>,
    /// Its properties, in order.
    pub properties: Vec<Property<'a>>,
    /// Its children, in order.
    pub children: Vec<Node<'a>>,
}

impl<'a> Node<'a> {
    /// A node without anything.
    #[must_use]
    pub fn new(name: impl Into<Cow<'a, str>>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// The value of the property `name`; of two with one name the first.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<&[u8]> {
        self.properties.iter().find(|property| property.name == name).map(|property| &*property.value)
    }

    /// Adds a property.
    #[must_use]
    pub fn with(mut self, name: impl Into<Cow<'a, str>>, value: impl Into<Cow<'a, [u8]>>) -> Self {
        self.properties.push(Property { name: name.into(), value: value.into() });
        self
    }

    /// Adds a property of 32-bit cells.
    #[must_use]
    pub fn with_cells(self, name: impl Into<Cow<'a, str>>, cells: &[u32]) -> Self {
        let value: Vec<u8> = cells.iter().flat_map(|cell| cell.to_be_bytes()).collect();
        self.with(name, value)
    }

    /// Adds a property of texts, each with its end.
    #[must_use]
    pub fn with_texts(self, name: impl Into<Cow<'a, str>>, texts: &[&str]) -> Self {
        let value: Vec<u8> = texts.iter().flat_map(|text| text.bytes().chain([0])).collect();
        self.with(name, value)
    }

    /// Adds a child.
    #[must_use]
    pub fn with_child(mut self, child: Node<'a>) -> Self {
        self.children.push(child);
        self
    }
}

/// A flattened devicetree.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Blob<'a> {
    /// Processor that boots (`boot_cpuid_phys`).
    pub boot_cpu: u32,
    /// Reserved memory: address and size.
    pub reservations: Vec<(u64, u64)>,
    /// The root node.
    pub root: Node<'a>,
}

impl<'a> Blob<'a> {
    /// Reads a blob.
    ///
    /// # Errors
    /// Where it is broken; reading stops at the first defect, for nothing after it can be trusted.
    pub fn read(bytes: &'a [u8]) -> Result<Self, BlobError> {
        let header = |index: usize| word(bytes, index * 4).ok_or(short(HEADER_SIZE, bytes));
        let magic = header(0)?;
        if magic != MAGIC {
            return Err(BlobError::Magic(magic));
        }
        let total = header(1)? as usize;
        let bytes = bytes.get(..total).ok_or(short(total, bytes))?;
        if total < HEADER_SIZE {
            return Err(short(HEADER_SIZE, bytes));
        }
        let (version, compatible) = (header(5)?, header(6)?);
        if version < COMPATIBLE || compatible > VERSION {
            return Err(BlobError::Version { version, compatible });
        }
        let (structure, strings, reservations) =
            (header(2)? as usize, header(3)? as usize, header(4)? as usize);
        let strings = bytes
            .get(strings..)
            .and_then(|strings| strings.get(..header(8).ok()? as usize))
            .ok_or(BlobError::Beyond { what: "the strings block", offset: strings })?;
        // Version 16 has no size of the structure block.
        let end = match version {
            16 => bytes.len(),
            _ => structure.saturating_add(header(9)? as usize),
        };
        let body = bytes
            .get(..end)
            .filter(|_| structure <= end)
            .ok_or(BlobError::Beyond { what: "the structure block", offset: structure })?;
        Ok(Self {
            boot_cpu: header(7)?,
            reservations: read_reservations(bytes, reservations)?,
            root: Reader { body, strings, at: structure }.root()?,
        })
    }

    /// The blob's bytes, version 17.
    #[must_use]
    pub fn write(&self) -> Vec<u8> {
        let mut structure = Vec::new();
        let mut strings = Vec::new();
        write_node(&self.root, &mut structure, &mut strings);
        structure.extend(END.to_be_bytes());
        let reservations = HEADER_SIZE;
        let body = reservations + (self.reservations.len() + 1) * 16;
        let names = body + structure.len();
        let words = [
            MAGIC,
            (names + strings.len()) as u32,
            body as u32,
            names as u32,
            reservations as u32,
            VERSION,
            COMPATIBLE,
            self.boot_cpu,
            strings.len() as u32,
            structure.len() as u32,
        ];
        let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
        for (address, size) in self.reservations.iter().chain([&(0, 0)]) {
            bytes.extend(address.to_be_bytes());
            bytes.extend(size.to_be_bytes());
        }
        bytes.extend(structure);
        bytes.extend(strings);
        bytes
    }
}

fn short(needed: usize, bytes: &[u8]) -> BlobError {
    BlobError::TooShort { needed, available: bytes.len() }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(word.try_into().ok()?))
}

fn read_reservations(bytes: &[u8], mut at: usize) -> Result<Vec<(u64, u64)>, BlobError> {
    let mut list = Vec::new();
    loop {
        let beyond = BlobError::Beyond { what: "the memory reservation block", offset: at };
        let long =
            |at: usize| Some(u64::from(word(bytes, at)?) << 32 | u64::from(word(bytes, at.checked_add(4)?)?));
        let pair = long(at).zip(at.checked_add(8).and_then(long)).ok_or(beyond)?;
        if pair == (0, 0) {
            return Ok(list);
        }
        list.push(pair);
        at += 16;
    }
}

/// Reads the structure block. Every step takes at least four bytes of it.
struct Reader<'a> {
    body: &'a [u8],
    strings: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn token(&mut self) -> Result<(u32, usize), BlobError> {
        loop {
            let offset = self.at;
            let token = word(self.body, offset).ok_or(BlobError::Beyond { what: "a token", offset })?;
            self.at += 4;
            if token != NOP {
                return Ok((token, offset));
            }
        }
    }

    /// `length` bytes, and the padding behind them.
    fn take(&mut self, length: usize, what: &'static str) -> Result<&'a [u8], BlobError> {
        let offset = self.at;
        let end = offset.checked_add(length).ok_or(BlobError::Beyond { what, offset })?;
        let bytes = self.body.get(offset..end).ok_or(BlobError::Beyond { what, offset })?;
        self.at = end.next_multiple_of(4);
        Ok(bytes)
    }

    fn root(&mut self) -> Result<Node<'a>, BlobError> {
        let (token, offset) = self.token()?;
        if token != BEGIN_NODE {
            return Err(BlobError::Token { token, offset });
        }
        let root = self.node(0)?;
        match self.token()? {
            (END, _) => Ok(root),
            (token, offset) => Err(BlobError::Token { token, offset }),
        }
    }

    fn node(&mut self, depth: usize) -> Result<Node<'a>, BlobError> {
        if depth >= MAX_DEPTH {
            return Err(BlobError::Depth { offset: self.at });
        }
        let rest = self.body.get(self.at..).unwrap_or_default();
        let name = terminated(rest).ok_or(BlobError::Beyond { what: "a node's name", offset: self.at })?;
        let name = core::str::from_utf8(name)
            .ok()
            .filter(|name| name.len() <= MAX_NAME)
            .ok_or(BlobError::Name { offset: self.at })?;
        self.take(name.len() + 1, "a node's name")?;
        let mut node = Node::new(name);
        loop {
            match self.token()? {
                (PROP, offset) => {
                    // Properties stand before children; what comes later is taken all the same.
                    let beyond = BlobError::Beyond { what: "a property", offset };
                    let (length, name) =
                        word(self.body, self.at).zip(word(self.body, self.at + 4)).ok_or(beyond)?;
                    self.at += 8;
                    let name = self.strings.get(name as usize..).and_then(terminated).ok_or(beyond)?;
                    let name = core::str::from_utf8(name).map_err(|_| BlobError::Name { offset })?;
                    let value = self.take(length as usize, "a property")?;
                    node.properties.push(Property { name: name.into(), value: value.into() });
                }
                (BEGIN_NODE, _) => node.children.push(self.node(depth + 1)?),
                (END_NODE, _) => return Ok(node),
                (token, offset) => return Err(BlobError::Token { token, offset }),
            }
        }
    }
}

/// The bytes before the first NUL; `None` where there is none.
fn terminated(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    Some(&bytes[..end])
}

fn write_node(node: &Node<'_>, structure: &mut Vec<u8>, strings: &mut Vec<u8>) {
    let pad = |structure: &mut Vec<u8>| structure.resize(structure.len().next_multiple_of(4), 0);
    structure.extend(BEGIN_NODE.to_be_bytes());
    structure.extend(node.name.bytes().chain([0]));
    pad(structure);
    for property in &node.properties {
        let name: Vec<u8> = property.name.bytes().chain([0]).collect();
        let at = strings.windows(name.len()).position(|window| window == name).unwrap_or_else(|| {
            strings.extend(&name);
            strings.len() - name.len()
        });
        structure.extend(PROP.to_be_bytes());
        structure.extend((property.value.len() as u32).to_be_bytes());
        structure.extend((at as u32).to_be_bytes());
        structure.extend(&*property.value);
        pad(structure);
    }
    for child in &node.children {
        write_node(child, structure, strings);
    }
    structure.extend(END_NODE.to_be_bytes());
}
