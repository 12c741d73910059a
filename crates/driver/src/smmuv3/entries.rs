//! What a context is in bits (5.2, 5.4).

use portcullis_spec::smmuv3::cd::{Cd, Cd0, Cd1, Cd3};
use portcullis_spec::smmuv3::registers::address_size_field;
use portcullis_spec::smmuv3::ste::{Config, Ste, Ste0, Ste1, Ste2, Ste3};
use portcullis_spec::{
    Context, DescriptorLayout, DirectoryFormat, FirstStage, Granule, GuestDirectory, PagingFormat, PhysAddr,
    Stage, StageNumber, StageRules, Tags, Unnumbered,
};

use super::capabilities::Capabilities;
use crate::error::{Error, Feature};

/// Cacheability of table walks and descriptor fetches: write-back, read- and write-allocate (5.2, S1CIR; 5.4, IR0).
const WRITE_BACK: u8 = 1;
/// Inner shareable.
const INNER: u8 = 3;
/// 5.2, SHCFG: shareability as the transaction has it.
const AS_INCOMING: u8 = 1;
/// MAIR attribute 0: ordinary write-back memory, which is what the driver's mappings say at index 0.
const MAIR_WRITE_BACK: u32 = 0xff;

/// Where a stream's context descriptors are, in the words of its entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct DescriptorTable {
    /// First byte: a physical address, or a guest's where there is a second stage.
    pub(super) base: u64,
    /// log2 of the descriptors; 0 for one that transactions without substream use.
    pub(super) bits: u8,
    /// Layout.
    pub(super) layout: DescriptorLayout,
}

impl DescriptorTable {
    /// A guest's.
    fn of_guest(directory: &GuestDirectory) -> Result<Self, Error> {
        let base = directory.root.0;
        match directory.format {
            // 5.2, S1ContextPtr: bits 55:6. Descriptors say for themselves what RISC-V has rules for in the device's entry.
            DirectoryFormat::ArmContextDescriptors { pasid_bits: bits, layout }
                if base.trailing_zeros() >= 6 && base >> 56 == 0 && directory.rules.is_empty() =>
            {
                Ok(Self { base, bits, layout })
            }
            format => Err(Error::Unsupported(Feature::Directory(format))),
        }
    }
}

/// The entry of a stream whose transactions are refused with C_BAD_STE.
pub(super) const INVALID: [u64; 8] = [0; 8];

/// What depends on the unit alone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Encoder {
    pub(super) capabilities: Capabilities,
}

impl Encoder {
    const fn cached(self) -> (u8, u8) {
        if self.capabilities.coherent() { (WRITE_BACK, INNER) } else { (0, 0) }
    }

    /// The stream table entry for one of the contexts that need no descriptor.
    pub(super) fn plain(self, context: &Context) -> Result<[u64; 8], Error> {
        let q1 = Ste1::new().with_shcfg(AS_INCOMING);
        let config = |config| Ste0::new().with_v(true).with_config(config);
        let ste = match context {
            Context::Blocked(Some(_)) => return Ok(INVALID),
            Context::Blocked(None) => Ste { q0: config(Config::Abort(0)), ..Ste::default() },
            Context::Bypass { .. } => Ste { q0: config(Config::Bypass), q1, ..Ste::default() },
            Context::OneStage { tags, stage, number: StageNumber::Second } => {
                let (q2, q3) = self.second_stage(stage, *tags)?;
                Ste { q0: config(Config::Stage2), q1, q2, q3, ..Ste::default() }
            }
            Context::OneStage { stage, .. } => return Err(unsupported(stage)),
            Context::TwoStages { tags, first: FirstStage::Directory(directory), second } => {
                let (q2, q3) = self.second_stage(second, *tags)?;
                let table = DescriptorTable::of_guest(directory)?;
                Ste { q2, q3, ..self.descriptors(Config::Nested, table, directory.unnumbered) }
            }
            Context::TwoStages { .. } => return Err(Error::Unsupported(Feature::Nested)),
        };
        Ok(ste.encode())
    }

    /// The stream table entry that leads to context descriptors of the host's.
    pub(super) fn first_stage(self, table: DescriptorTable, unnumbered: Unnumbered) -> [u64; 8] {
        self.descriptors(Config::Stage1, table, unnumbered).encode()
    }

    fn descriptors(self, config: Config, table: DescriptorTable, unnumbered: Unnumbered) -> Ste {
        let (cached, shared) = self.cached();
        let q0 = Ste0::new().with_v(true).with_config(config).with_layout(table.layout);
        let q0 = q0.with_s1contextptr(table.base >> 6).with_s1cdmax(table.bits);
        let q1 = Ste1::new().with_shcfg(AS_INCOMING);
        let q1 = q1.with_s1cir(cached).with_s1cor(cached).with_s1csh(shared).with_unnumbered(unnumbered);
        Ste { q0, q1, ..Ste::default() }
    }

    fn second_stage(self, stage: &Stage<PhysAddr>, tags: Tags) -> Result<(Ste2, Ste3), Error> {
        let PagingFormat::ArmStage2 { granule, input_bits, output_bits, start_level } = stage.format else {
            return Err(unsupported(stage));
        };
        let (Some(s2ps), Some(s2sl0)) = (address_size_field(output_bits), start_field(granule, start_level))
        else {
            return Err(unsupported(stage));
        };
        let (cached, shared) = self.cached();
        let dirty = self.sets_dirty(stage.rules);
        let q2 = Ste2::new()
            .with_s2vmid(tags.domain.0 as u16)
            .with_s2t0sz(64 - input_bits)
            .with_s2sl0(s2sl0)
            .with_s2ir0(cached)
            .with_s2or0(cached)
            .with_s2sh0(shared)
            .with_s2tg(granule_field(granule))
            .with_s2ps(s2ps)
            .with_s2aa64(true)
            .with_s2ha(dirty)
            .with_s2hd(dirty)
            .with_s2s(self.capabilities.always_stalls())
            .with_s2r(true);
        Ok((q2, Ste3::new().with_s2ttb(stage.root.0 >> 4)))
    }

    /// The context descriptor for a first stage, or for [`Context::Blocked`] without a record: one that walks nothing, and whose faults are
    /// not recorded. `None` for what needs none.
    pub(super) fn descriptor(self, context: &Context) -> Result<Option<[u64; 8]>, Error> {
        let q0 = Cd0::new()
            .with_v(true)
            .with_aa64(true)
            .with_a(true)
            .with_aset(true)
            .with_s(self.capabilities.always_stalls())
            .with_epd1(true);
        let cd = match context {
            Context::Blocked(None) => Cd { q0: q0.with_epd0(true).with_s(false), ..Cd::default() },
            Context::OneStage { tags, stage, number: StageNumber::First } => {
                let PagingFormat::ArmStage1 { granule, input_bits, output_bits, upper: false } = stage.format
                else {
                    return Err(unsupported(stage));
                };
                let ips = address_size_field(output_bits).ok_or(unsupported(stage))?;
                let (cached, shared) = self.cached();
                let dirty = self.sets_dirty(stage.rules);
                let q0 = q0.with_r(true).with_ips(ips).with_ha(dirty).with_hd(dirty);
                let q0 = q0.with_t0sz(64 - input_bits).with_tg0(granule_field(granule));
                let q0 = q0.with_ir0(cached).with_or0(cached).with_sh0(shared);
                Cd {
                    q0: q0.with_asid(asid(*tags)),
                    q1: Cd1::new().with_ttb0(stage.root.0 >> 4),
                    q3: Cd3::new().with_mair0(MAIR_WRITE_BACK),
                    ..Cd::default()
                }
            }
            Context::OneStage { stage, .. } => return Err(unsupported(stage)),
            Context::TwoStages { .. } => return Err(Error::Unsupported(Feature::Nested)),
            Context::Blocked(Some(_)) | Context::Bypass { .. } => return Ok(None),
        };
        Ok(Some(cd.encode()))
    }

    const fn sets_dirty(self, rules: StageRules) -> bool {
        self.capabilities.sets_dirty() && rules.contains(StageRules::SET_DIRTY)
    }
}

fn unsupported<A>(stage: &Stage<A>) -> Error {
    Error::Unsupported(Feature::Format(stage.format))
}

/// The ASID. Tags come from the features' range, which is at most 16 bits.
pub(super) const fn asid(tags: Tags) -> u16 {
    match tags.space {
        Some(space) => space.0 as u16,
        None => tags.domain.0 as u16,
    }
}

/// 5.2, S2TG; 5.4, TG0.
const fn granule_field(granule: Granule) -> u8 {
    match granule {
        Granule::Size4K => 0,
        Granule::Size64K => 1,
        Granule::Size16K => 2,
    }
}

/// 5.2, S2SL0, for start levels that need no more than its two bits.
const fn start_field(granule: Granule, start_level: i8) -> Option<u8> {
    match (granule, start_level) {
        (Granule::Size4K, level @ 0..=2) => Some(2 - level as u8),
        (Granule::Size16K | Granule::Size64K, level @ 1..=3) => Some(3 - level as u8),
        _ => None,
    }
}
