//! What a unit is to have, chosen at construction and told to software in `capabilities` (RISC-V IOMMU 5.3).

use portcullis_spec::riscv::registers::{Capabilities, Ddtp, Fctl, Igs, IommuMode};

use super::events::Events;

/// How a unit interrupts (`capabilities.IGS`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
pub enum Interrupts {
    /// By messages alone.
    Messages,
    /// By wires alone.
    Wires,
    /// By either; `fctl.WSI` chooses, and is clear after reset.
    Both,
}

/// What a RISC-V IOMMU is to have. The default is a unit of version 1.0 with everything that is common: all table depths, both
/// stages of 39 and 48 bits, process directories, accessed and dirty flags, the debug port and 7 counters.
///
/// Svnapot is always there (5.3: "must support"). What no choice names is not there: Sv32 and Sv32x4, ATS and page
/// requests, QoS identifiers.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RiscvConfig {
    /// `version`: major in bits 7:4, minor in 3:0; not 0.
    pub version: u8,
    /// `Sv39`.
    pub sv39: bool,
    /// `Sv48`; needs Sv39.
    pub sv48: bool,
    /// `Sv57`; needs Sv48.
    pub sv57: bool,
    /// `Sv39x4`.
    pub sv39x4: bool,
    /// `Sv48x4`.
    pub sv48x4: bool,
    /// `Sv57x4`.
    pub sv57x4: bool,
    /// `Svpbmt`: page-based memory types.
    pub svpbmt: bool,
    /// `AMO_HWAD`: the unit sets Accessed and Dirty where GADE and SADE ask for it.
    pub flag_updates: bool,
    /// `END`: both byte orders; `fctl.BE` chooses.
    pub both_byte_orders: bool,
    /// The unit's only byte order is big-endian (`fctl.BE` is fixed at 1), without `END`.
    pub big_endian: bool,
    /// `IGS`.
    pub interrupts: Interrupts,
    /// `MSI_FLAT`: MSI page tables, and with them device contexts of the extended format.
    pub msi_tables: bool,
    /// `MSI_MRIF`: memory-resident interrupt files; needs MSI page tables.
    pub interrupt_files: bool,
    /// `AMO_MRIF`: their bits are set atomically; needs them. The model always does so, and says so where this is set.
    pub atomic_interrupt_files: bool,
    /// Interrupt vectors, 1, 2, 4, 8 or 16: how many bits of each `icvec` field can be set, and how many entries of `msi_cfg_tbl`
    /// are there.
    pub vectors: u8,
    /// `HPM` with this many event counters, 1 to 31, beside the cycle counter.
    pub counters: Option<u8>,
    /// `DBG`: the translation-request interface.
    pub debug: bool,
    /// `PAS`: physical address bits, 32 to 56. What lies above can't be reached by anything.
    pub physical_bits: u8,
    /// `PD8`.
    pub pd8: bool,
    /// `PD17`.
    pub pd17: bool,
    /// `PD20`.
    pub pd20: bool,
    /// `NL`: invalidation of non-leaf entries by address.
    pub non_leaf: bool,
    /// `S`: invalidation of address ranges.
    pub ranges: bool,
    /// Device directories of one level.
    pub one_level: bool,
    /// Device directories of two levels.
    pub two_level: bool,
    /// Device directories of three levels.
    pub three_level: bool,
    /// log2 of the most entries that a queue can have, 1 to 20: `LOG2SZ-1` holds no larger value.
    pub queue_entries_log2: u8,
    /// After reset everything passes (`ddtp.iommu_mode` is Bare) rather than nothing (Off).
    pub bare_after_reset: bool,
}

impl Default for RiscvConfig {
    fn default() -> Self {
        Self {
            version: 0x10,
            sv39: true,
            sv48: true,
            sv57: false,
            sv39x4: true,
            sv48x4: true,
            sv57x4: false,
            svpbmt: true,
            flag_updates: true,
            both_byte_orders: false,
            big_endian: false,
            interrupts: Interrupts::Both,
            msi_tables: false,
            interrupt_files: false,
            atomic_interrupt_files: false,
            vectors: 16,
            counters: Some(7),
            debug: true,
            physical_bits: 56,
            pd8: true,
            pd17: true,
            pd20: true,
            non_leaf: false,
            ranges: false,
            one_level: true,
            two_level: true,
            three_level: true,
            queue_entries_log2: 16,
            bare_after_reset: false,
        }
    }
}

impl RiscvConfig {
    /// Everything that the model has.
    #[must_use]
    pub fn full() -> Self {
        Self {
            sv57: true,
            sv57x4: true,
            both_byte_orders: true,
            msi_tables: true,
            interrupt_files: true,
            atomic_interrupt_files: true,
            counters: Some(31),
            non_leaf: true,
            ranges: true,
            ..Self::default()
        }
    }

    /// The least that the specification allows: no stage, one-level directories, wires.
    #[must_use]
    pub fn least() -> Self {
        Self {
            sv39: false,
            sv48: false,
            sv39x4: false,
            sv48x4: false,
            svpbmt: false,
            flag_updates: false,
            interrupts: Interrupts::Wires,
            vectors: 1,
            counters: None,
            debug: false,
            physical_bits: 32,
            pd8: false,
            pd17: false,
            pd20: false,
            two_level: false,
            three_level: false,
            ..Self::default()
        }
    }
}

/// Why a configuration makes no unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConfigError {
    /// Major version 0.
    #[error("version {0:#x} is below 1.0")]
    Version(u8),
    /// 5.3: Sv48 needs Sv39, and Sv57 needs Sv48.
    #[error("a first stage needs the shallower ones too")]
    FirstStage,
    /// Memory-resident interrupt files without MSI page tables, or atomic ones without any.
    #[error("interrupt files in memory need MSI page tables, and atomic ones interrupt files in memory")]
    InterruptFiles,
    /// Not 32 to 56.
    #[error("{0} physical address bits are not 32 to 56")]
    PhysicalBits(u8),
    /// Not 1, 2, 4, 8 or 16.
    #[error("{0} interrupt vectors are not 1, 2, 4, 8 or 16")]
    Vectors(u8),
    /// Not 1 to 31.
    #[error("{0} event counters are not 1 to 31")]
    Counters(u8),
    /// 5.5: at least one depth must be supported.
    #[error("no depth of the device directory is supported")]
    NoDirectory,
    /// Not 1 to 20.
    #[error("queues of 2^{0} entries are not 2^1 to 2^20")]
    QueueEntries(u8),
    /// Both byte orders, and one only.
    #[error("a unit with both byte orders is not fixed to big-endian")]
    ByteOrder,
}

impl RiscvConfig {
    /// Checks the configuration and says it in the register.
    pub(super) fn capabilities(&self) -> Result<Capabilities, ConfigError> {
        self.check()?;
        let igs = match self.interrupts {
            Interrupts::Messages => Igs::Msi,
            Interrupts::Wires => Igs::Wsi,
            Interrupts::Both => Igs::Both,
        };
        Ok(Capabilities::new()
            .with_version(self.version)
            .with_sv39(self.sv39)
            .with_sv48(self.sv48)
            .with_sv57(self.sv57)
            .with_sv39x4(self.sv39x4)
            .with_sv48x4(self.sv48x4)
            .with_sv57x4(self.sv57x4)
            .with_svpbmt(self.svpbmt)
            .with_amo_hwad(self.flag_updates)
            .with_end(self.both_byte_orders)
            .with_igs(igs)
            .with_msi_flat(self.msi_tables)
            .with_msi_mrif(self.interrupt_files)
            .with_amo_mrif(self.atomic_interrupt_files)
            .with_hpm(self.counters.is_some())
            .with_dbg(self.debug)
            .with_pas(self.physical_bits)
            .with_pd8(self.pd8)
            .with_pd17(self.pd17)
            .with_pd20(self.pd20)
            .with_nl(self.non_leaf)
            .with_s(self.ranges))
    }

    fn check(&self) -> Result<(), ConfigError> {
        if self.version >> 4 == 0 {
            return Err(ConfigError::Version(self.version));
        }
        if (self.sv48 && !self.sv39) || (self.sv57 && !self.sv48) {
            return Err(ConfigError::FirstStage);
        }
        if (self.interrupt_files && !self.msi_tables)
            || (self.atomic_interrupt_files && !self.interrupt_files)
        {
            return Err(ConfigError::InterruptFiles);
        }
        if !(32..=56).contains(&self.physical_bits) {
            return Err(ConfigError::PhysicalBits(self.physical_bits));
        }
        if !(1..=16).contains(&self.vectors) || !self.vectors.is_power_of_two() {
            return Err(ConfigError::Vectors(self.vectors));
        }
        if let Some(counters) = self.counters.filter(|counters| !(1..=31).contains(counters)) {
            return Err(ConfigError::Counters(counters));
        }
        if !(self.one_level || self.two_level || self.three_level) {
            return Err(ConfigError::NoDirectory);
        }
        if !(1..=20).contains(&self.queue_entries_log2) {
            return Err(ConfigError::QueueEntries(self.queue_entries_log2));
        }
        if self.both_byte_orders && self.big_endian {
            return Err(ConfigError::ByteOrder);
        }
        Ok(())
    }

    /// `fctl` with what software can't change (5.4).
    pub(super) fn legal_features(&self, value: Fctl) -> Fctl {
        let wires = match self.interrupts {
            Interrupts::Messages => false,
            Interrupts::Wires => true,
            Interrupts::Both => value.wsi(),
        };
        Fctl::new().with_wsi(wires).with_be(if self.both_byte_orders { value.be() } else { self.big_endian })
    }

    /// `fctl` after reset.
    pub(super) fn initial_features(&self) -> Fctl {
        self.legal_features(Fctl::new())
    }

    /// `ddtp` after reset (5.2).
    pub(super) fn initial_directory(&self) -> Ddtp {
        let mode = if self.bare_after_reset { IommuMode::Bare } else { IommuMode::Off };
        Ddtp::new().with_iommu_mode(mode.encode())
    }

    /// The reporting registers after reset.
    pub(super) fn initial_events(&self) -> Events {
        let fctl = self.initial_features();
        Events::new(self.vectors, self.interrupts != Interrupts::Wires, fctl.wsi(), fctl.be())
    }

    /// Whether `ddtp.iommu_mode` can hold the mode.
    pub(super) const fn has_mode(&self, mode: IommuMode) -> bool {
        match mode {
            IommuMode::Off | IommuMode::Bare => true,
            IommuMode::OneLevel => self.one_level,
            IommuMode::TwoLevel => self.two_level,
            IommuMode::ThreeLevel => self.three_level,
        }
    }
}
