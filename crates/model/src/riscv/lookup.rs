//! From a device_id and process_id through the device and process directories to a [`Context`] (RISC-V IOMMU 2.1 to 2.3). Steps are
//! numbered as in 2.3, "Process to translate an IOVA".

use portcullis_pagetable::AnyFormat;
use portcullis_pagetable::format::Riscv as RiscvFormat;
use portcullis_spec::riscv::device::{
    BASE_CONTEXT_SIZE, DeviceContext, DeviceDirectoryEntry, EXTENDED_CONTEXT_SIZE, Fsc, IohgatpMode,
    IosatpMode, MsiptpMode, PdtpMode, index_bits,
};
use portcullis_spec::riscv::process::{INDEX_BITS, PROCESS_CONTEXT_SIZE, ProcessContext};
use portcullis_spec::riscv::registers::{Capabilities, Ddtp, Fctl, HpmEvent, IommuMode};
use portcullis_spec::riscv::{Cause, ProcessDirectoryEntry};
use portcullis_spec::{
    Access, Context, DomainTag, FaultReason, Ipa, MemoryAttributes, PagingFormat, Pasid, PhysAddr, SpaceTag,
    Stage, StageNumber, StageRules, Tags,
};

use super::Riscv;
use super::counters::Ids;
use super::msi::MsiTable;
use crate::contexts::Resolved;
use crate::memory::{GuestMemory, MemoryError, load_words};
use crate::refusal::{FirstStageTable, Refusal};
use crate::translate::{FormattedStage, TABLE_READ, one_stage};

/// The domain of contexts without a second stage, whose translations `IOTINVAL.VMA` without GSCID names. GSCIDs have 16 bits.
pub(super) const HOST: DomainTag = DomainTag(1 << 16);

/// What a look-up remembers beside its context.
#[derive(Clone, Copy, Debug)]
pub struct Note {
    /// Why everything is blocked, where it is.
    pub stop: Option<Stop>,
    /// DTF of the device context: faults of translation are not reported.
    pub dtf: bool,
    /// Whether requests with translated addresses and translation requests are disallowed, rather than refused for another reason:
    /// the device context was found, or there are none.
    pub untranslated_only: bool,
    /// Whether privileged requests are allowed: ENS of the process context, where there is one.
    pub privileged: bool,
    /// The MSI page table, where there is one.
    pub(super) msi: Option<MsiTable>,
}

impl Note {
    const ALLOWED: Self =
        Self { stop: None, dtf: false, untranslated_only: true, privileged: true, msi: None };

    /// Of a device whose context was found.
    fn of(device: &DeviceContext) -> Self {
        Self { dtf: device.tc.dtf(), msi: MsiTable::of(device), ..Self::ALLOWED }
    }
}

/// Why a look-up ended without a context.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// The cause that the specification gives it.
    Cause(Cause),
    /// The second stage refused a read of the process directory.
    Refused(Refusal),
}

impl From<Cause> for Stop {
    fn from(cause: Cause) -> Self {
        Self::Cause(cause)
    }
}

impl Stop {
    const fn reason(self) -> FaultReason {
        match self {
            Self::Cause(cause) => cause.reason(),
            Self::Refused(refusal) => refusal.reason,
        }
    }
}

/// What decides a look-up beside the tables.
#[derive(Clone, Copy, Debug)]
pub(super) struct Root {
    /// `ddtp`.
    pub(super) ddtp: Ddtp,
    /// `fctl`.
    pub(super) fctl: Fctl,
}

/// A look-up by a unit.
pub(super) struct Lookup<'a> {
    pub(super) memory: &'a dyn GuestMemory,
    pub(super) unit: &'a Riscv,
    pub(super) root: Root,
}

/// The page-table format of the shape, or `None` where it is not one of these.
pub(super) fn format(capabilities: Capabilities, shape: PagingFormat) -> Option<AnyFormat> {
    let format = match shape {
        PagingFormat::RiscvSv { levels } => RiscvFormat::new(levels),
        PagingFormat::RiscvSvX4 { levels } => RiscvFormat::new_x4(levels),
        _ => return None,
    };
    // A page number reaches 56 bits. What lies above `PAS` is not memory, of whatever stage (see `Riscv::new`).
    Some(AnyFormat::Riscv(RiscvFormat { svpbmt: capabilities.svpbmt(), host_bits: 56, ..format }))
}

/// Everything passes unchanged.
const fn bypass() -> Context {
    Context::Bypass {
        tags: Tags { domain: HOST, space: None },
        access: Access::all(),
        output_bits: 64,
        attributes: MemoryAttributes {
            cacheability: portcullis_spec::Cacheability::Default,
            shareability: portcullis_spec::Shareability::Default,
            force_snoop: false,
        },
    }
}

fn blocked(stop: Stop, note: Note, pasid: Option<Pasid>, cacheable: bool) -> Resolved<Note> {
    Resolved {
        context: Context::Blocked(Some(stop.reason())),
        pasid,
        cacheable,
        note: Note { stop: Some(stop), ..note },
    }
}

/// Swaps bytes where memory holds them in the other order.
fn ordered<const N: usize>(big_endian: bool, words: [u64; N]) -> [u64; N] {
    if big_endian { words.map(u64::swap_bytes) } else { words }
}

impl Lookup<'_> {
    /// Looks up the context of a device_id and process_id.
    pub(super) fn context(&self, device_id: u32, pasid: Option<Pasid>) -> Resolved<Note> {
        // Steps 1 and 2.
        let mode = IommuMode::decode(self.root.ddtp.iommu_mode()).unwrap_or(IommuMode::Off);
        let note = match mode {
            IommuMode::Off => {
                let note = Note { untranslated_only: false, ..Note::ALLOWED };
                return blocked(Cause::AllInboundDisallowed.into(), note, pasid, true);
            }
            IommuMode::Bare => {
                return Resolved { context: bypass(), pasid, cacheable: true, note: Note::ALLOWED };
            }
            _ => Note { untranslated_only: false, ..Note::ALLOWED },
        };
        let device = match self.device(mode, device_id, pasid) {
            Ok(device) => device,
            Err(cause) => return blocked(cause.into(), note, pasid, false),
        };
        let note = Note::of(&device);
        let found = self.process_of(&device, device_id, pasid);
        found.unwrap_or_else(|stop| blocked(stop, note, pasid, false))
    }

    /// Steps 3 to 6, and 2.3.1.
    fn device(&self, mode: IommuMode, device_id: u32, pasid: Option<Pasid>) -> Result<DeviceContext, Cause> {
        let extended = self.unit.capabilities.msi_flat();
        let bits = index_bits(extended);
        let levels = usize::from(mode.levels());
        let reach: u8 = bits[..levels].iter().sum();
        if u64::from(device_id) >> reach != 0 {
            return Err(Cause::TransactionTypeDisallowed);
        }
        self.unit.count(HpmEvent::DeviceDirectoryWalks, Ids::of(device_id, pasid));
        let big_endian = self.root.fctl.be();
        let mut table = self.root.ddtp.ppn() << 12;
        for level in (1..levels).rev() {
            let below: u8 = bits[..level].iter().sum();
            let index = u64::from(device_id >> below) & ((1 << bits[level]) - 1);
            let at = PhysAddr(table + index * 8);
            let [entry] = self.load(at, big_endian).map_err(|_| Cause::DdtLoadFault)?;
            let entry = DeviceDirectoryEntry::from_bits(entry);
            if !entry.v() {
                return Err(Cause::DdtInvalid);
            }
            if entry.reserved_bits() != 0 {
                return Err(Cause::DdtMisconfigured);
            }
            table = entry.ppn() << 12;
        }
        let index = u64::from(device_id) & ((1 << bits[0]) - 1);
        let words = if extended {
            self.load(PhysAddr(table + index * EXTENDED_CONTEXT_SIZE), big_endian)
        } else {
            self.load(PhysAddr(table + index * BASE_CONTEXT_SIZE), big_endian)
                .map(|[tc, iohgatp, ta, fsc]| [tc, iohgatp, ta, fsc, 0, 0, 0, 0])
        };
        let device = DeviceContext::decode(words.map_err(|_| Cause::DdtLoadFault)?);
        if !device.tc.v() {
            return Err(Cause::DdtInvalid);
        }
        if self.is_misconfigured(&device) {
            return Err(Cause::DdtMisconfigured);
        }
        Ok(device)
    }

    fn load<const N: usize>(&self, at: PhysAddr, big_endian: bool) -> Result<[u64; N], MemoryError> {
        Ok(ordered(big_endian, load_words(self.memory, at)?))
    }

    /// 2.1.4. Neither ATS nor Sv32 is there, so what asks for them is misconfigured; and `fctl.GXL` is 0 and can't be written.
    fn is_misconfigured(&self, device: &DeviceContext) -> bool {
        let DeviceContext { tc, iohgatp, ta, fsc, .. } = *device;
        let has_first_stage = if tc.pdtv() {
            self.levels_of_directory(fsc).is_some()
        } else {
            self.first_stage_levels(fsc).is_some() && !tc.dpe()
        };
        tc.reserved_bits() != 0
            || ta.reserved_bits(false) != 0
            || fsc.reserved_bits() != 0
            || tc.en_ats()
            || tc.en_pri()
            || tc.prpr()
            || tc.t2gpa()
            || !has_first_stage
            || self.second_stage_levels(iohgatp.mode()).is_none()
            || (iohgatp.mode() != 0 && !iohgatp.ppn().is_multiple_of(4))
            || (!self.unit.capabilities.amo_hwad() && (tc.sade() || tc.gade()))
            || (!self.unit.capabilities.end() && tc.sbe() != self.root.fctl.be())
            || tc.sxl()
            || device.msiptp.reserved_bits() != 0
            || MsiptpMode::decode(device.msiptp.mode()).is_none()
            || device.msi_addr_mask.reserved_bits() != 0
            || device.msi_addr_pattern.reserved_bits() != 0
            || device.reserved != 0
    }

    /// Levels of the process directory, 0 for none; `None` where the mode is not supported.
    fn levels_of_directory(&self, pdtp: Fsc) -> Option<u8> {
        let mode = PdtpMode::decode(pdtp.mode())?;
        let supported = match mode {
            PdtpMode::Bare => true,
            PdtpMode::Pd8 => self.unit.capabilities.pd8(),
            PdtpMode::Pd17 => self.unit.capabilities.pd17(),
            PdtpMode::Pd20 => self.unit.capabilities.pd20(),
        };
        supported.then_some(mode.levels())
    }

    /// Levels of the first stage, 0 for none; `None` where the mode is not supported.
    fn first_stage_levels(&self, iosatp: Fsc) -> Option<u8> {
        let (supported, levels) = match IosatpMode::decode(iosatp.mode())? {
            IosatpMode::Bare => (true, 0),
            IosatpMode::Sv39 => (self.unit.capabilities.sv39(), 3),
            IosatpMode::Sv48 => (self.unit.capabilities.sv48(), 4),
            IosatpMode::Sv57 => (self.unit.capabilities.sv57(), 5),
        };
        supported.then_some(levels)
    }

    /// Levels of the second stage, 0 for none; `None` where the mode is not supported.
    fn second_stage_levels(&self, mode: u8) -> Option<u8> {
        let (supported, levels) = match IohgatpMode::decode(mode)? {
            IohgatpMode::Bare => (true, 0),
            IohgatpMode::Sv39x4 => (self.unit.capabilities.sv39x4(), 3),
            IohgatpMode::Sv48x4 => (self.unit.capabilities.sv48x4(), 4),
            IohgatpMode::Sv57x4 => (self.unit.capabilities.sv57x4(), 5),
        };
        supported.then_some(levels)
    }

    /// Steps 7 to 16.
    fn process_of(
        &self,
        device: &DeviceContext,
        device_id: u32,
        pasid: Option<Pasid>,
    ) -> Result<Resolved<Note>, Stop> {
        let tc = device.tc;
        let note = Note::of(device);
        let second = self.second_stage(device);
        let directory = PdtpMode::decode(device.fsc.mode()).filter(|_| tc.pdtv());
        if let Some(process) = pasid {
            // Step 7. A Bare directory has no width.
            let reach = match directory {
                None => return Err(Cause::TransactionTypeDisallowed.into()),
                Some(PdtpMode::Bare) => 20,
                Some(mode) => mode.bits(),
            };
            if process.value() >> reach != 0 {
                return Err(Cause::TransactionTypeDisallowed.into());
            }
        }
        let resolved = |context, pasid, note| Resolved { context, pasid, cacheable: true, note };
        let Some(directory) = directory else {
            // Step 10.
            let context = self.stages(device, device.fsc, device.ta.pscid(), second, FIRST_STAGE);
            return Ok(resolved(context, pasid, note));
        };
        // Steps 11 to 13.
        let process = pasid.or_else(|| if tc.dpe() { Pasid::new(0) } else { None });
        let Some(process) = process.filter(|_| directory != PdtpMode::Bare) else {
            return Ok(resolved(self.stages(device, Fsc::new(), 0, second, FIRST_STAGE), pasid, note));
        };
        // Steps 14 to 16.
        self.unit.count(HpmEvent::ProcessDirectoryWalks, Ids::of(device_id, pasid));
        let context = self.process_context(device, directory, process.value(), second.as_ref())?;
        let rules =
            if context.ta.sum() { FIRST_STAGE - StageRules::NO_PRIVILEGED_USER_ACCESS } else { FIRST_STAGE };
        let note = Note { privileged: context.ta.ens(), ..note };
        let stages = self.stages(device, context.fsc, context.ta.pscid(), second, rules);
        Ok(resolved(stages, Some(process), note))
    }

    /// The device's second stage, where it is not Bare.
    fn second_stage(&self, device: &DeviceContext) -> Option<FormattedStage<PhysAddr>> {
        let levels = self.second_stage_levels(device.iohgatp.mode()).filter(|levels| *levels != 0)?;
        let shape = PagingFormat::RiscvSvX4 { levels };
        let stage = Stage {
            format: shape,
            root: PhysAddr(device.iohgatp.ppn() << 12),
            rules: SECOND_STAGE | flag_rules(device.tc.gade()) | byte_order(self.root.fctl.be()),
            input_bits: 64,
        };
        Some(FormattedStage { stage, format: format(self.unit.capabilities, shape)? })
    }

    /// Step 17's information: what the stages come to.
    fn stages(
        &self,
        device: &DeviceContext,
        iosatp: Fsc,
        pscid: u32,
        second: Option<FormattedStage<PhysAddr>>,
        rules: StageRules,
    ) -> Context {
        let domain = second.map_or(HOST, |_| DomainTag(device.iohgatp.gscid().into()));
        let levels = self.first_stage_levels(iosatp).unwrap_or(0);
        let space = (levels != 0).then_some(SpaceTag(pscid));
        let tags = Tags { domain, space };
        let shape = PagingFormat::RiscvSv { levels };
        let root = iosatp.ppn() << 12;
        let rules = rules | flag_rules(device.tc.sade()) | byte_order(device.tc.sbe());
        match (levels, second) {
            (0, None) => bypass(),
            (0, Some(second)) => Context::OneStage { tags, stage: second.stage, number: StageNumber::Second },
            (_, None) => Context::OneStage {
                tags,
                stage: Stage { format: shape, root: PhysAddr(root), rules, input_bits: 64 },
                number: StageNumber::First,
            },
            (_, Some(second)) => Context::TwoStages {
                tags,
                first: Stage { format: shape, root: Ipa(root), rules, input_bits: 64 }.into(),
                second: second.stage,
            },
        }
    }

    /// 2.3.2.
    fn process_context(
        &self,
        device: &DeviceContext,
        directory: PdtpMode,
        process: u32,
        second: Option<&FormattedStage<PhysAddr>>,
    ) -> Result<ProcessContext, Stop> {
        let big_endian = device.tc.sbe();
        let mut table = device.fsc.ppn() << 12;
        for level in (1..usize::from(directory.levels())).rev() {
            let below: u8 = INDEX_BITS[..level].iter().sum();
            let index = u64::from(process >> below) & ((1 << INDEX_BITS[level]) - 1);
            let at = Self::implicit(self.memory, second, Ipa(table + index * 8))?;
            let [entry] = self.load(at, big_endian).map_err(|_| Cause::PdtLoadFault)?;
            let entry = ProcessDirectoryEntry::from_bits(entry);
            if !entry.v() {
                return Err(Cause::PdtInvalid.into());
            }
            if entry.reserved_bits() != 0 {
                return Err(Cause::PdtMisconfigured.into());
            }
            table = entry.ppn() << 12;
        }
        let index = u64::from(process) & ((1 << INDEX_BITS[0]) - 1);
        let at = Self::implicit(self.memory, second, Ipa(table + index * PROCESS_CONTEXT_SIZE))?;
        let context = ProcessContext::decode(self.load(at, big_endian).map_err(|_| Cause::PdtLoadFault)?);
        if !context.ta.v() {
            return Err(Cause::PdtInvalid.into());
        }
        // 2.2.4.
        if context.ta.reserved_bits() != 0
            || context.fsc.reserved_bits() != 0
            || self.first_stage_levels(context.fsc).is_none()
        {
            return Err(Cause::PdtMisconfigured.into());
        }
        Ok(context)
    }

    /// Where an entry of the process directory lies: an implicit read by the second stage, where there is one (2.3.2, step 2).
    fn implicit(
        memory: &dyn GuestMemory,
        second: Option<&FormattedStage<PhysAddr>>,
        at: Ipa,
    ) -> Result<PhysAddr, Stop> {
        let Some(second) = second else { return Ok(PhysAddr(at.0)) };
        let page = one_stage(memory, second, StageNumber::Second, at, TABLE_READ).map_err(|refusal| {
            let table = Some(FirstStageTable { root: false, write: false });
            Stop::Refused(Refusal { ipa: Some(at), table, ..refusal })
        })?;
        Ok(page.address(at.0))
    }
}

/// 2.2.3: privileged requests never execute users' pages, and without SUM don't access them. Rights are checked as they are.
const FIRST_STAGE: StageRules = StageRules::WRITE_PROTECT
    .union(StageRules::EXECUTE_CHECKED)
    .union(StageRules::NO_PRIVILEGED_USER_EXECUTE)
    .union(StageRules::NO_PRIVILEGED_USER_ACCESS);

/// 2.3: the second stage takes every request for a user's.
const SECOND_STAGE: StageRules = StageRules::WRITE_PROTECT.union(StageRules::EXECUTE_CHECKED);

/// 2.1.3.1, GADE and SADE.
const fn flag_rules(update: bool) -> StageRules {
    if update {
        StageRules::SET_ACCESSED.union(StageRules::SET_DIRTY)
    } else {
        StageRules::ACCESSED_REQUIRED.union(StageRules::DIRTY_REQUIRED)
    }
}

const fn byte_order(big_endian: bool) -> StageRules {
    if big_endian { StageRules::BIG_ENDIAN } else { StageRules::empty() }
}
