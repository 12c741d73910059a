//! What a client was given: the outer bound of every grant that it can ask for.

use std::ops::RangeInclusive;

use portcullis_spec::Iova;

use crate::inventory::Device;

/// A name with `*` for any run of characters and `?` for any one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pattern(String);

impl Pattern {
    /// The pattern that `text` spells.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether nothing in it is a wildcard.
    #[must_use]
    pub fn is_literal(&self) -> bool {
        !self.0.contains(['*', '?'])
    }

    /// Whether `name` fits. Time is at most the product of the two lengths.
    #[must_use]
    pub fn fits(&self, name: &str) -> bool {
        let (pattern, name) = (self.0.as_bytes(), name.as_bytes());
        let (mut p, mut n) = (0, 0);
        // Where to go on if the last `*` has to take one character more.
        let mut retry: Option<(usize, usize)> = None;
        while n < name.len() {
            match pattern.get(p) {
                Some(b'*') => {
                    retry = Some((p + 1, n + 1));
                    p += 1;
                }
                Some(&c) if c == b'?' || c == name[n] => {
                    p += 1;
                    n += 1;
                }
                _ => {
                    let Some((after_star, next)) = retry else { return false };
                    (p, n) = (after_star, next);
                    retry = Some((after_star, next + 1));
                }
            }
        }
        pattern[p..].iter().all(|&c| c == b'*')
    }

    /// Whether the device is meant: by name, or as `mmio:BASE` by the address of its registers.
    #[must_use]
    pub fn means(&self, device: &Device) -> bool {
        match self.0.strip_prefix("mmio:") {
            Some(base) => {
                let digits = base.strip_prefix("0x").unwrap_or(base);
                let base = u64::from_str_radix(digits, 16).ok();
                base.is_some() && base == device.registers.map(|(base, _)| base)
            }
            None => self.fits(&device.name),
        }
    }
}

/// Upper bounds that no client can pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Bytes mapped at one time, over all spaces.
    pub bytes: u64,
    /// Mappings at one time, over all spaces.
    pub mappings: u64,
    /// Spaces.
    pub spaces: u64,
    /// Registered memories.
    pub memories: u64,
}

impl Default for Limits {
    /// 1 TiB in a million mappings, 256 spaces, 256 memories.
    fn default() -> Self {
        Self { bytes: 1 << 40, mappings: 1 << 20, spaces: 256, memories: 256 }
    }
}

/// What a client was given.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Policy {
    /// Name for people and for records.
    pub name: String,
    /// Devices that it may claim.
    pub devices: Vec<Pattern>,
    /// Addresses that its devices may use; `None` is all that the unit has. A guest's memory, in a host's manager.
    pub windows: Option<Vec<RangeInclusive<Iova>>>,
    /// Physical ranges, first and last byte, that its devices reach unchanged: a guest that is mapped to itself.
    pub unity: Vec<RangeInclusive<u64>>,
    /// Physical ranges, first and last byte, that it may map: a guest's memory, in the guest's manager.
    pub physical: Vec<RangeInclusive<u64>>,
    /// Bounds.
    pub limits: Limits,
}

impl Policy {
    /// What lets a client claim the devices that fit one of the patterns, without bounds on addresses.
    pub fn new<P: Into<String>>(name: impl Into<String>, devices: impl IntoIterator<Item = P>) -> Self {
        let devices = devices.into_iter().map(Pattern::new).collect();
        Self { name: name.into(), devices, ..Self::default() }
    }

    /// Whether the client may claim the device.
    #[must_use]
    pub fn permits(&self, device: &Device) -> bool {
        self.devices.iter().any(|pattern| pattern.means(device))
    }

    /// Whether a range lies in one of the windows.
    #[must_use]
    pub fn window_holds(&self, asked: &RangeInclusive<Iova>) -> bool {
        match &self.windows {
            None => true,
            Some(windows) => windows.iter().any(|w| w.start() <= asked.start() && asked.end() <= w.end()),
        }
    }

    /// Whether a physical range lies in one of those that the client may map.
    #[must_use]
    pub fn physical_holds(&self, first: u64, last: u64) -> bool {
        self.physical.iter().any(|p| *p.start() <= first && last <= *p.end())
    }
}

#[cfg(test)]
mod tests {
    use super::Pattern;

    #[test]
    fn wildcards_match_runs_and_single_characters() {
        for (pattern, name, fits) in [
            ("nic0", "nic0", true),
            ("nic0", "nic00", false),
            ("*", "", true),
            ("0000:03:*", "0000:03:00.1", true),
            ("0000:03:*", "0000:04:00.1", false),
            ("0000:*.0", "0000:03:00.0", true),
            ("0000:*.0", "0000:03:00.1", false),
            ("*a*b?c", "xxaybaabzc", true),
            ("*a*b?c", "xxaybaabc", false),
            ("?", "", false),
        ] {
            assert_eq!(Pattern::new(pattern).fits(name), fits, "{pattern} on {name}");
        }
    }

    #[test]
    fn a_pattern_of_stars_takes_no_exponential_time() {
        let pattern = Pattern::new("*a".repeat(200));
        assert!(!pattern.fits(&"a".repeat(199)));
        assert!(pattern.fits(&"a".repeat(5000)));
    }
}
