//! What devices may do.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What devices may do: `r`, `w`, `x`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Access {
    /// Read.
    pub read: bool,
    /// Write.
    pub write: bool,
    /// Execute.
    pub execute: bool,
}

impl Access {
    /// Read.
    pub const READ: Self = Self { read: true, write: false, execute: false };
    /// Write.
    pub const WRITE: Self = Self { read: false, write: true, execute: false };
    /// Read and write.
    pub const READ_WRITE: Self = Self { read: true, write: true, execute: false };
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.read, self.write, self.execute) {
            (false, false, false) => "",
            (true, false, false) => "r",
            (false, true, false) => "w",
            (true, true, false) => "rw",
            (false, false, true) => "x",
            (true, false, true) => "rx",
            (false, true, true) => "wx",
            (true, true, true) => "rwx",
        })
    }
}

impl std::str::FromStr for Access {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut access = Self::default();
        for letter in text.chars() {
            let right = match letter {
                'r' => &mut access.read,
                'w' => &mut access.write,
                'x' => &mut access.execute,
                other => return Err(format!("`{other}` is not an access; r, w and x are")),
            };
            if std::mem::replace(right, true) {
                return Err(format!("`{letter}` stands twice in the access `{text}`"));
            }
        }
        Ok(access)
    }
}

impl Serialize for Access {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Access {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Letters;
        impl de::Visitor<'_> for Letters {
            type Value = Access;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an access such as \"rw\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Access, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Letters)
    }
}

#[cfg(test)]
mod tests {
    use super::Access;

    #[test]
    fn access_is_written_in_letters() {
        for text in ["", "r", "w", "rw", "x", "rx", "wx", "rwx"] {
            assert_eq!(text.parse::<Access>().unwrap().to_string(), text);
        }
        assert_eq!("wr".parse::<Access>(), Ok(Access::READ_WRITE));
        assert!("rr".parse::<Access>().is_err());
        assert!("q".parse::<Access>().is_err());
    }
}
