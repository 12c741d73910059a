//! Static grants: what configuration gives to devices whose drivers know nothing of the service.

use portcullis_spec::{Access, Iova};

use super::{Asked, ClientId, Core, MapFrom, Refusal};

/// One static grant: the device reaches a physical range at the same addresses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StaticGrant {
    /// Number of the grant.
    pub grant: u64,
    /// The device.
    pub device: String,
    /// First byte, rounded down to a page.
    pub first: u64,
    /// Bytes, rounded up to whole pages.
    pub length: u64,
    /// What it may do.
    pub access: Access,
}

impl Core {
    /// Gives `length` bytes from physical `first` on to the devices that `words` mean, as long as no client claims them.
    /// Both ends are rounded outward to whole pages, as smmuman does.
    ///
    /// # Errors
    ///
    /// As for claiming, attaching and mapping; [`Refusal::Unsupported`] where the back end maps client memory only.
    pub fn allow(
        &mut self,
        words: &str,
        first: u64,
        length: u64,
        access: Access,
    ) -> Result<Vec<StaticGrant>, Refusal> {
        self.alive()?;
        let wraps = Refusal::Wraps { first, length };
        let end = first.checked_add(length).ok_or(wraps)?;
        let mut made = Vec::new();
        for id in self.resolve(words)? {
            let name = self.device_name(id);
            self.claim(ClientId::STATIC, &name)?;
            let existing = self.devices.get(&id).and_then(|d| d.attached.get(&None).copied());
            let space = match existing {
                Some(space) => space,
                None => {
                    let space = self.create_space(ClientId::STATIC)?;
                    if let Err(refusal) = self.attach(ClientId::STATIC, space, &name, None) {
                        self.drop_space(space);
                        let _ = self.release(Some(ClientId::STATIC), &name);
                        return Err(refusal);
                    }
                    space
                }
            };
            let state = self.space_of(ClientId::STATIC, space)?;
            let granularity = self.granularity(state);
            let low = first - first % granularity;
            let high = end.checked_next_multiple_of(granularity).ok_or(Refusal::Wraps { first, length })?;
            let asked = Asked { offset: low, iova: Some(Iova(low)), length: high - low, access };
            let granted = self.map(ClientId::STATIC, space, MapFrom::Physical, &[asked])?;
            made.extend(granted.into_iter().map(|g| StaticGrant {
                grant: g.grant,
                device: name.clone(),
                first: low,
                length: high - low,
                access: g.access,
            }));
        }
        self.statics.extend(made.iter().cloned());
        Ok(made)
    }

    /// The static grants.
    #[must_use]
    pub fn statics(&self) -> &[StaticGrant] {
        &self.statics
    }
}
