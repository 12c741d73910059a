//! What a unit is to have, chosen at construction and told to software in IDR0 to IDR5 (SMMUv3 6.3.1 to 6.3.6).

use portcullis_spec::smmuv3::registers::{Idr0, Idr1, Idr3, Idr5, address_size_field};

/// Which faults may stall and which terminate (IDR0.STALL_MODEL).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub enum StallModel {
    /// Each context and stream chooses.
    StallAndTerminate,
    /// Faults terminate.
    #[default]
    Terminate,
    /// Faults stall.
    Stall,
}

/// Which flags of paging entries the unit updates (IDR0.HTTU).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub enum FlagUpdates {
    /// None.
    #[default]
    None,
    /// The Access flag.
    Accessed,
    /// The Access flag and dirty state.
    AccessedAndDirty,
}

/// Byte orders of paging entries (IDR0.TTENDIAN).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub enum TableByteOrder {
    /// Each context and stream chooses.
    Mixed,
    /// Little-endian.
    #[default]
    Little,
    /// Big-endian.
    Big,
}

/// What an SMMUv3 is to have. The default has stage 1 with one context a stream, 4 KiB granules and no options.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Smmuv3Config {
    /// AIDR.ArchMinorRev: 1 to 3. Revision 0 leaves more to the implementation than this model decides.
    pub revision: u8,
    /// IIDR as a whole.
    pub implementation: u32,
    /// IDR1.SIDSIZE: StreamID bits, 0 to 32.
    pub stream_id_bits: u8,
    /// IDR1.SSIDSIZE: SubstreamID bits, 0 to 20; 0 without substreams.
    pub substream_id_bits: u8,
    /// IDR0.S1P.
    pub stage1: bool,
    /// IDR0.S2P.
    pub stage2: bool,
    /// IDR5.OAS: output address bits: 32, 36, 40, 42, 44, 48 or 52.
    pub output_bits: u8,
    /// IDR5.VAX: stage-1 input addresses of up to 52 bits with 64 KiB granules.
    pub wide_input: bool,
    /// IDR5.GRAN4K.
    pub granule_4k: bool,
    /// IDR5.GRAN16K.
    pub granule_16k: bool,
    /// IDR5.GRAN64K.
    pub granule_64k: bool,
    /// IDR0.ASID16: 16-bit ASIDs, 8-bit otherwise.
    pub asid_16: bool,
    /// IDR0.VMID16: 16-bit VMIDs, 8-bit otherwise.
    pub vmid_16: bool,
    /// IDR0.ST_LEVEL: two-level stream tables.
    pub two_level_streams: bool,
    /// IDR0.CD2L: two-level context descriptor tables.
    pub two_level_contexts: bool,
    /// IDR0.HTTU.
    pub flag_updates: FlagUpdates,
    /// IDR0.HYP: EL2 and EL2-E2H contexts.
    pub hypervisor: bool,
    /// IDR0.TTENDIAN.
    pub table_byte_order: TableByteOrder,
    /// IDR0.COHACC. The model is always coherent; without this it does not say so.
    pub coherent: bool,
    /// IDR0.STALL_MODEL.
    pub stall_model: StallModel,
    /// IDR5.STALL_MAX: transactions that may be stalled at once; more wait to be stalled.
    pub stall_max: u16,
    /// IDR0.TERM_MODEL clear: terminated transactions may read zeros and write nothing instead of aborting.
    pub read_as_zero: bool,
    /// IDR0.MSI: the unit's own interrupts can be messages.
    pub messages: bool,
    /// IDR0.SEV: the unit wakes waiting processors.
    pub wake_events: bool,
    /// IDR0.ATOS: address translation operations.
    pub translation_operations: bool,
    /// IDR1.CMDQS: log2 of the most command queue entries, 0 to 19.
    pub command_queue_log2: u8,
    /// IDR1.EVENTQS: log2 of the most event queue entries, 0 to 19.
    pub event_queue_log2: u8,
    /// IDR1.ATTR_PERMS_OVR: PRIVCFG and INSTCFG override what devices say of themselves.
    pub permission_overrides: bool,
    /// IDR3.HAD: hierarchical permissions can be switched off.
    pub hierarchical_disable: bool,
    /// IDR3.XNX: stage 2 tells privileged from unprivileged fetches.
    pub stage2_execute_by_privilege: bool,
    /// IDR3.STT: small translation tables.
    pub small_tables: bool,
    /// IDR3.RIL: invalidation by range.
    pub range_invalidation: bool,
    /// IDR3.BBML: 0, 1 or 2. The model never reports a conflict of entries of different sizes, whatever this says.
    pub break_before_make_level: u8,
}

/// Why a configuration makes no unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConfigError {
    /// A number is not one that the register can say.
    #[error("{field} can't be {value}")]
    OutOfRange {
        /// The field of [`Smmuv3Config`].
        field: &'static str,
        /// What it was set to.
        value: u64,
    },
    /// No granule at all.
    #[error("a unit needs at least one granule")]
    NoGranule,
    /// Neither stage.
    #[error("a unit needs a stage of translation")]
    NoStage,
    /// An option without what it is an option of.
    #[error("{option} needs {needs}")]
    Needs {
        /// The field that is set.
        option: &'static str,
        /// The field that is not.
        needs: &'static str,
    },
}

impl Default for Smmuv3Config {
    fn default() -> Self {
        Self {
            revision: 1,
            implementation: 0,
            stream_id_bits: 16,
            substream_id_bits: 0,
            stage1: true,
            stage2: false,
            output_bits: 44,
            wide_input: false,
            granule_4k: true,
            granule_16k: false,
            granule_64k: false,
            asid_16: true,
            vmid_16: false,
            two_level_streams: true,
            two_level_contexts: false,
            flag_updates: FlagUpdates::None,
            hypervisor: false,
            table_byte_order: TableByteOrder::Little,
            coherent: true,
            stall_model: StallModel::Terminate,
            stall_max: 0,
            read_as_zero: false,
            messages: false,
            wake_events: false,
            translation_operations: false,
            command_queue_log2: 8,
            event_queue_log2: 8,
            permission_overrides: false,
            hierarchical_disable: false,
            stage2_execute_by_privilege: false,
            small_tables: false,
            range_invalidation: false,
            break_before_make_level: 0,
        }
    }
}

impl Smmuv3Config {
    /// Everything that the model has.
    #[must_use]
    pub fn full() -> Self {
        Self {
            revision: 3,
            stream_id_bits: 32,
            substream_id_bits: 20,
            stage2: true,
            output_bits: 52,
            wide_input: true,
            granule_16k: true,
            granule_64k: true,
            vmid_16: true,
            two_level_contexts: true,
            flag_updates: FlagUpdates::AccessedAndDirty,
            hypervisor: true,
            table_byte_order: TableByteOrder::Mixed,
            stall_model: StallModel::StallAndTerminate,
            stall_max: 64,
            read_as_zero: true,
            messages: true,
            wake_events: true,
            translation_operations: true,
            command_queue_log2: 19,
            event_queue_log2: 19,
            permission_overrides: true,
            hierarchical_disable: true,
            stage2_execute_by_privilege: true,
            small_tables: true,
            range_invalidation: true,
            break_before_make_level: 2,
            ..Self::default()
        }
    }

    /// The identification registers.
    ///
    /// # Errors
    /// Where the configuration contradicts itself.
    pub(super) fn registers(&self) -> Result<Identification, ConfigError> {
        let oas = self.check()?;
        let idr0 = Idr0::new()
            .with_s2p(self.stage2)
            .with_s1p(self.stage1)
            .with_ttf(0b10)
            .with_cohacc(self.coherent)
            .with_httu(match self.flag_updates {
                FlagUpdates::None => 0,
                FlagUpdates::Accessed => 1,
                FlagUpdates::AccessedAndDirty => 2,
            })
            .with_hyp(self.hypervisor)
            .with_asid16(self.asid_16)
            .with_msi(self.messages)
            .with_sev(self.wake_events)
            .with_atos(self.translation_operations)
            .with_vmid16(self.vmid_16)
            .with_cd2l(self.two_level_contexts)
            .with_ttendian(match self.table_byte_order {
                TableByteOrder::Mixed => 0,
                TableByteOrder::Little => 2,
                TableByteOrder::Big => 3,
            })
            .with_stall_model(match self.stall_model {
                StallModel::StallAndTerminate => 0,
                StallModel::Terminate => 1,
                StallModel::Stall => 2,
            })
            .with_term_model(!self.read_as_zero)
            .with_st_level(u8::from(self.two_level_streams));
        let idr1 = Idr1::new()
            .with_sidsize(self.stream_id_bits)
            .with_ssidsize(self.substream_id_bits)
            .with_eventqs(self.event_queue_log2)
            .with_cmdqs(self.command_queue_log2)
            .with_attr_perms_ovr(self.permission_overrides);
        let idr3 = Idr3::new()
            .with_had(self.hierarchical_disable)
            .with_xnx(self.stage2_execute_by_privilege)
            .with_stt(self.small_tables)
            .with_ril(self.range_invalidation)
            .with_bbml(self.break_before_make_level);
        let idr5 = Idr5::new()
            .with_oas(oas)
            .with_gran4k(self.granule_4k)
            .with_gran16k(self.granule_16k)
            .with_gran64k(self.granule_64k)
            .with_vax(u8::from(self.wide_input))
            .with_stall_max(self.stall_max);
        Ok(Identification { idr0, idr1, idr3, idr5, aidr: self.revision.into(), iidr: self.implementation })
    }

    /// OAS, where nothing contradicts.
    fn check(&self) -> Result<u8, ConfigError> {
        let numbers = [
            ("revision", self.revision, 1, 3),
            ("stream_id_bits", self.stream_id_bits, 0, 32),
            ("substream_id_bits", self.substream_id_bits, 0, 20),
            ("command_queue_log2", self.command_queue_log2, 0, 19),
            ("event_queue_log2", self.event_queue_log2, 0, 19),
            ("break_before_make_level", self.break_before_make_level, 0, 2),
        ];
        for (field, value, least, most) in numbers {
            if !(least..=most).contains(&value) {
                return Err(ConfigError::OutOfRange { field, value: value.into() });
            }
        }
        let oas = address_size_field(self.output_bits)
            .ok_or(ConfigError::OutOfRange { field: "output_bits", value: self.output_bits.into() })?;
        if !(self.granule_4k || self.granule_16k || self.granule_64k) {
            return Err(ConfigError::NoGranule);
        }
        if !(self.stage1 || self.stage2) {
            return Err(ConfigError::NoStage);
        }
        let terminates = self.stall_model == StallModel::Terminate;
        if !terminates && self.stall_max == 0 {
            return Err(ConfigError::Needs { option: "stall_model", needs: "stall_max" });
        }
        let needs = [
            (terminates && self.stall_max != 0, "stall_max", "stall_model"),
            (self.substream_id_bits != 0 && !self.stage1, "substream_id_bits", "stage1"),
            (
                self.two_level_contexts && self.substream_id_bits == 0,
                "two_level_contexts",
                "substream_id_bits",
            ),
            (self.asid_16 && !self.stage1, "asid_16", "stage1"),
            (self.vmid_16 && !self.stage2, "vmid_16", "stage2"),
            (self.hypervisor && !self.stage1, "hypervisor", "stage1"),
            // 6.3.1, ST_LEVEL: more than 64 streams with substreams need two levels; 3.3.1: 64 without.
            (
                self.stream_id_bits > 6 && !self.two_level_streams,
                "stream_id_bits above 6",
                "two_level_streams",
            ),
            (self.wide_input && !self.granule_64k, "wide_input", "granule_64k"),
            (self.stage2_execute_by_privilege && !self.stage2, "stage2_execute_by_privilege", "stage2"),
        ];
        for (wrong, option, needs) in needs {
            if wrong {
                return Err(ConfigError::Needs { option, needs });
            }
        }
        Ok(oas)
    }
}

/// The identification registers, and what follows from them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Identification {
    /// IDR0.
    pub(super) idr0: Idr0,
    /// IDR1.
    pub(super) idr1: Idr1,
    /// IDR3.
    pub(super) idr3: Idr3,
    /// IDR5.
    pub(super) idr5: Idr5,
    /// AIDR.
    pub(super) aidr: u32,
    /// IIDR.
    pub(super) iidr: u32,
}

impl Identification {
    /// Output address bits.
    pub(super) const fn output_bits(&self) -> u8 {
        portcullis_spec::smmuv3::registers::address_bits(self.idr5.oas())
    }

    /// Whether an address lies beyond the output size.
    pub(super) const fn is_beyond(&self, address: u64) -> bool {
        address >> self.output_bits() != 0
    }
}
