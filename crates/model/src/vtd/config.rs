//! What a unit is to have, chosen at construction and told to software in CAP_REG and ECAP_REG.

use portcullis_spec::vtd::registers::{Cap, Ecap, Ver};

/// What a VT-d unit is to have. The default is a legacy-mode unit with 3- and 4-level tables.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct VtdConfig {
    /// VER_REG: major and minor architecture version. From major version 6 on there is no register-based invalidation.
    pub version: (u8, u8),
    /// The PCI segment whose requesters the unit serves.
    pub segment: u16,
    /// Host address width in bits, 32 to 52: table addresses above it are reserved.
    pub host_address_bits: u8,
    /// CAP.MGAW: widest second-stage input address in bits, 30 to 57.
    pub guest_address_bits: u8,
    /// CAP.SAGAW: 3-level (39-bit) second-stage tables.
    pub three_level: bool,
    /// CAP.SAGAW: 4-level (48-bit) second-stage tables.
    pub four_level: bool,
    /// CAP.SAGAW: 5-level (57-bit) second-stage tables.
    pub five_level: bool,
    /// CAP.ND: domain ID width in bits: 4, 6, 8, 10, 12, 14 or 16.
    pub domain_id_bits: u8,
    /// CAP.SSLPS: 2 MiB second-stage pages.
    pub pages_2m: bool,
    /// CAP.SSLPS: 1 GiB second-stage pages.
    pub pages_1g: bool,
    /// CAP.NFR: fault recording registers, 1 to 256.
    pub fault_records: u16,
    /// CAP.FRO: byte offset of the fault recording registers, a multiple of 16.
    pub fault_record_offset: u16,
    /// ECAP.IRO: byte offset of IVA_REG and IOTLB_REG, a multiple of 16.
    pub iotlb_offset: u16,
    /// Whether a fault is dropped while an earlier one of the same source stands in a record, as VT-d 7.2.1 allows.
    pub collapse_faults: bool,
    /// ECAP.QI: queued invalidation.
    pub queued_invalidation: bool,
    /// CAP.PSI and CAP.MAMV: page-selective invalidation of up to `2^MAMV` pages.
    pub page_selective: Option<u8>,
    /// ECAP.PT: pass-through.
    pub pass_through: bool,
    /// CAP.CM: caching mode. What is not present or not valid is cached too, except in first-stage tables.
    pub caching_mode: bool,
    /// CAP.PLMR: the protected low-memory region.
    pub protected_low: bool,
    /// CAP.PHMR: the protected high-memory region.
    pub protected_high: bool,
    /// CAP.ZLR: zero-length reads succeed on write-only pages.
    pub zero_length_reads: bool,
    /// CAP.ESRTPS: setting the root table pointer invalidates all caches.
    pub enhanced_set_root: bool,
    /// ECAP.ADMS: abort-DMA mode.
    pub abort_dma: bool,
    /// ECAP.C: page-walk coherency. The model is always coherent; without this it does not say so.
    pub coherent: bool,
    /// ECAP.SC: snoop control. Every access is coherent, so the bits are accepted and change nothing.
    pub snoop_control: bool,
    /// ECAP.IR and all that belongs to interrupt remapping.
    pub interrupts: Option<InterruptConfig>,
    /// ECAP.SMTS and all that belongs to scalable mode.
    pub scalable: Option<ScalableConfig>,
}

/// What a unit with interrupt remapping is to have.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InterruptConfig {
    /// ECAP.EIM: extended interrupt mode, with x2APIC destinations.
    pub extended: bool,
    /// ECAP.MHMV: an invalidation names up to `2^MHMV` entries, 0 to 15.
    pub index_mask_bits: u8,
    /// CAP.ESIRTPS: setting the table pointer invalidates the interrupt entry cache.
    pub enhanced_set_table: bool,
}

impl Default for InterruptConfig {
    fn default() -> Self {
        Self { extended: true, index_mask_bits: 15, enhanced_set_table: true }
    }
}

/// What a unit with scalable mode is to have.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScalableConfig {
    /// ECAP.FSTS: first-stage translation, 4 levels.
    pub first_stage: bool,
    /// CAP.FS5LP: 5-level first stage.
    pub first_stage_five_level: bool,
    /// CAP.FS1GP: 1 GiB first-stage pages.
    pub first_stage_1g: bool,
    /// ECAP.SSTS: second-stage translation.
    pub second_stage: bool,
    /// ECAP.NEST: nested translation; needs both stages.
    pub nested: bool,
    /// ECAP.SSADS: second-stage accessed and dirty flags.
    pub second_stage_flags: bool,
    /// ECAP.PASID and ECAP.PSS: requests with PASIDs of this many bits, 1 to 20.
    pub pasid_bits: Option<u8>,
    /// ECAP.SRS: privileged requests.
    pub supervisor: bool,
    /// ECAP.EAFS: extended accessed flags.
    pub extended_accessed: bool,
    /// ECAP.SMPWCS: page walks can snoop (PWSNP). Without it no accessed or dirty flag is ever set, and an entry that
    /// would need one faults (SFS.9, SSS.5).
    pub page_walk_coherency: bool,
    /// ECAP.RPS: the RID_PASID field.
    pub rid_pasid: bool,
    /// ECAP.RPRIVS: the RID_PRIV field.
    pub rid_priv: bool,
}

impl Default for VtdConfig {
    fn default() -> Self {
        Self {
            version: (5, 0),
            segment: 0,
            host_address_bits: 48,
            guest_address_bits: 48,
            three_level: true,
            four_level: true,
            five_level: false,
            domain_id_bits: 16,
            pages_2m: true,
            pages_1g: true,
            fault_records: 8,
            fault_record_offset: 0x220,
            iotlb_offset: 0xf0,
            collapse_faults: false,
            queued_invalidation: true,
            page_selective: Some(18),
            pass_through: true,
            caching_mode: false,
            protected_low: false,
            protected_high: false,
            zero_length_reads: true,
            enhanced_set_root: true,
            abort_dma: false,
            coherent: true,
            snoop_control: false,
            interrupts: None,
            scalable: None,
        }
    }
}

impl Default for ScalableConfig {
    fn default() -> Self {
        Self {
            first_stage: true,
            first_stage_five_level: false,
            first_stage_1g: true,
            second_stage: true,
            nested: true,
            second_stage_flags: true,
            pasid_bits: Some(20),
            supervisor: true,
            extended_accessed: true,
            page_walk_coherency: true,
            rid_pasid: true,
            rid_priv: true,
        }
    }
}

impl VtdConfig {
    /// Everything that the model has.
    #[must_use]
    pub fn full() -> Self {
        Self {
            host_address_bits: 52,
            guest_address_bits: 57,
            five_level: true,
            protected_low: true,
            protected_high: true,
            abort_dma: true,
            snoop_control: true,
            interrupts: Some(InterruptConfig::default()),
            scalable: Some(ScalableConfig { first_stage_five_level: true, ..ScalableConfig::default() }),
            ..Self::default()
        }
    }
}

/// Why a configuration makes no unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not 32 to 52.
    #[error("a host address width of {0} bits is not 32 to 52")]
    HostAddressBits(u8),
    /// Beyond the widest tables, or below 30.
    #[error("a guest address width of {0} bits is below 30 or wider than the tables")]
    GuestAddressBits(u8),
    /// No number of second-stage levels.
    #[error("no number of second-stage levels is supported")]
    NoLevels,
    /// Not an even number from 4 to 16.
    #[error("a domain ID width of {0} bits is not 4, 6, 8, 10, 12, 14 or 16")]
    DomainIdBits(u8),
    /// Not 1 to 256.
    #[error("{0} fault recording registers are not 1 to 256")]
    FaultRecords(u16),
    /// An offset is not a multiple of 16, is above 3ff0h, or the registers there would overlap others.
    #[error("registers at offset {0:#x} are misaligned, out of reach or overlap others")]
    Offset(u16),
    /// MAMV has 6 bits, of which no more than 52 make sense.
    #[error("a maximum address mask of {0} is above 52")]
    AddressMask(u8),
    /// MHMV has 4 bits.
    #[error("a maximum interrupt index mask of {0} is above 15")]
    IndexMask(u8),
    /// A version has two digits below 16.
    #[error("a version's numbers are below 16")]
    Version,
    /// Scalable mode's and interrupt entries' invalidations exist in the queue alone.
    #[error("scalable mode needs queued invalidation, and so do interrupt remapping and version 6")]
    QueuedInvalidation,
    /// Nested needs both stages.
    #[error("nested translation needs both stages")]
    Nested,
    /// Scalable mode without any translation type.
    #[error("scalable mode needs a first stage, a second stage or pass-through")]
    NoTranslation,
    /// Not 1 to 20.
    #[error("a PASID width of {0} bits is not 1 to 20")]
    PasidBits(u8),
    /// A first-stage feature without a first stage, or second-stage flags without a second stage.
    #[error("a feature of a stage that the unit lacks")]
    StageFeature,
}

impl VtdConfig {
    /// Checks the configuration and says it in registers.
    pub(super) fn registers(&self) -> Result<(Ver, Cap, Ecap), ConfigError> {
        self.check()?;
        let (major, minor) = self.version;
        let ver = Ver::new().with_max(major).with_min(minor);
        let sagaw =
            u8::from(self.three_level) << 1 | u8::from(self.four_level) << 2 | u8::from(self.five_level) << 3;
        let mut cap = Cap::new()
            .with_nd((self.domain_id_bits - 4) / 2)
            .with_plmr(self.protected_low)
            .with_phmr(self.protected_high)
            .with_cm(self.caching_mode)
            .with_sagaw(sagaw)
            .with_mgaw(self.guest_address_bits - 1)
            .with_zlr(self.zero_length_reads)
            .with_fro(self.fault_record_offset / 16)
            .with_sslps(u8::from(self.pages_2m) | u8::from(self.pages_1g) << 1)
            .with_psi(self.page_selective.is_some())
            .with_mamv(self.page_selective.unwrap_or(0))
            .with_nfr((self.fault_records - 1) as u8)
            // Every invalidation drains reads and writes.
            .with_dwd(true)
            .with_drd(true)
            .with_esrtps(self.enhanced_set_root);
        let mut ecap = Ecap::new()
            .with_c(self.coherent)
            .with_qi(self.queued_invalidation)
            .with_pt(self.pass_through)
            .with_sc(self.snoop_control)
            .with_iro(self.iotlb_offset / 16)
            .with_adms(self.abort_dma);
        if let Some(interrupts) = &self.interrupts {
            cap = cap.with_esirtps(interrupts.enhanced_set_table);
            ecap = ecap.with_ir(true).with_eim(interrupts.extended).with_mhmv(interrupts.index_mask_bits);
        }
        if let Some(scalable) = &self.scalable {
            cap = cap.with_fs1gp(scalable.first_stage_1g).with_fs5lp(scalable.first_stage_five_level);
            ecap = ecap
                .with_smts(true)
                .with_fsts(scalable.first_stage)
                .with_ssts(scalable.second_stage)
                .with_nest(scalable.nested)
                .with_ssads(scalable.second_stage_flags)
                .with_pasid(scalable.pasid_bits.is_some())
                .with_pss(scalable.pasid_bits.map_or(0, |bits| bits - 1))
                .with_srs(scalable.supervisor)
                .with_eafs(scalable.extended_accessed)
                .with_smpwcs(scalable.page_walk_coherency)
                .with_rps(scalable.rid_pasid)
                .with_rprivs(scalable.rid_priv);
        }
        Ok((ver, cap, ecap))
    }

    fn check(&self) -> Result<(), ConfigError> {
        let widest = match (self.three_level, self.four_level, self.five_level) {
            (_, _, true) => 57,
            (_, true, _) => 48,
            (true, _, _) => 39,
            _ => return Err(ConfigError::NoLevels),
        };
        if !(32..=52).contains(&self.host_address_bits) {
            return Err(ConfigError::HostAddressBits(self.host_address_bits));
        }
        if !(30..=widest).contains(&self.guest_address_bits) {
            return Err(ConfigError::GuestAddressBits(self.guest_address_bits));
        }
        if !(4..=16).contains(&self.domain_id_bits) || !self.domain_id_bits.is_multiple_of(2) {
            return Err(ConfigError::DomainIdBits(self.domain_id_bits));
        }
        if !(1..=256).contains(&self.fault_records) {
            return Err(ConfigError::FaultRecords(self.fault_records));
        }
        if let Some(mask) = self.page_selective.filter(|mask| *mask > 52) {
            return Err(ConfigError::AddressMask(mask));
        }
        if self.version.0 > 15 || self.version.1 > 15 {
            return Err(ConfigError::Version);
        }
        let queue_needed = self.scalable.is_some() || self.interrupts.is_some() || self.version.0 >= 6;
        if !self.queued_invalidation && queue_needed {
            return Err(ConfigError::QueuedInvalidation);
        }
        if let Some(interrupts) =
            self.interrupts.as_ref().filter(|interrupts| interrupts.index_mask_bits > 15)
        {
            return Err(ConfigError::IndexMask(interrupts.index_mask_bits));
        }
        self.check_offsets()?;
        self.scalable.as_ref().map_or(Ok(()), |scalable| self.check_scalable(scalable))
    }

    fn check_offsets(&self) -> Result<(), ConfigError> {
        for offset in [self.iotlb_offset, self.fault_record_offset] {
            if !offset.is_multiple_of(16) || !(0xf0..=0x3ff0).contains(&offset) {
                return Err(ConfigError::Offset(offset));
            }
        }
        let records_end = self.fault_record_offset + 16 * self.fault_records;
        if (self.fault_record_offset..records_end).contains(&self.iotlb_offset) {
            return Err(ConfigError::Offset(self.iotlb_offset));
        }
        Ok(())
    }

    fn check_scalable(&self, scalable: &ScalableConfig) -> Result<(), ConfigError> {
        if scalable.nested && !(scalable.first_stage && scalable.second_stage) {
            return Err(ConfigError::Nested);
        }
        if !scalable.first_stage && !scalable.second_stage && !self.pass_through {
            return Err(ConfigError::NoTranslation);
        }
        if let Some(bits) = scalable.pasid_bits.filter(|bits| !(1..=20).contains(bits)) {
            return Err(ConfigError::PasidBits(bits));
        }
        let first = scalable.first_stage_five_level
            || scalable.first_stage_1g
            || scalable.supervisor
            || scalable.extended_accessed;
        if (first && !scalable.first_stage) || (scalable.second_stage_flags && !scalable.second_stage) {
            return Err(ConfigError::StageFeature);
        }
        Ok(())
    }
}
