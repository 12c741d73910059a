//! Intel VT-d.
//!
//! [`probe`] reads what a unit can do; [`Vtd::start`] takes it over with every device blocked in the tables, and
//! [`crate::Unit::enable`] puts them in force. What must be invalidated after which change is chapter 6 of the specification; each
//! place here cites its section.

mod capabilities;
mod faults;
mod invalidate;
mod queue;
mod registers;
mod tables;

use core::time::Duration;

use portcullis_spec::vtd::context::{
    ContextEntry, ContextEntryHigh, ContextEntryLow, TranslationType, address_width,
};
use portcullis_spec::vtd::invalidation::{
    ContextCacheScope, InvalidationDescriptor, IotlbScope, PasidCacheScope,
};
use portcullis_spec::vtd::pasid::{Fspm, PasidEntry, PasidEntry0, PasidEntry1, PasidEntry2, Pgtt};
use portcullis_spec::vtd::registers::{Gsts, Rtaddr, Ttm};
use portcullis_spec::{
    Context, DomainTag, Invalidation, PagingFormat, Pasid, Requester, SpaceTag, Stage, StageNumber,
    StageRules, Tags,
};

use crate::common::architecture::{Architecture, ContextError, FaultCounts, FaultRecord, Features};
use crate::error::{Error, Feature, UnitError};
use crate::platform::{Lock, Mmio, Platform};
use crate::turn::Turn;
use queue::{FENCE, Queue};
use registers::Registers;
use tables::{RID_PASID, Tables};

pub use capabilities::{Capabilities, Mode, probe};

/// How a unit is to be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// PCI segment that the unit serves (DMAR, DRHD).
    pub segment: u16,
    /// Physical address bits of the platform (DMAR, host address width).
    pub host_address_bits: u8,
    /// Translation table mode; [`Capabilities::best_mode`] where not said.
    pub mode: Option<Mode>,
    /// Whether to invalidate by registers even where the unit has a queue. Legacy mode only.
    pub avoid_queue: bool,
    /// log2 of the pages of the invalidation queue, at most 7.
    pub queue_size: u8,
    /// How long the unit may take to answer.
    pub timeout: Duration,
}

impl Default for Options {
    /// Segment 0, 52 address bits, the best mode, a queue of one page, and one second to answer.
    fn default() -> Self {
        Self {
            segment: 0,
            host_address_bits: 52,
            mode: None,
            avoid_queue: false,
            queue_size: 0,
            timeout: Duration::from_secs(1),
        }
    }
}

/// A unit in the driver's hands.
pub struct Vtd<M: Mmio, P: Platform> {
    platform: P,
    options: Options,
    capabilities: Capabilities,
    mode: Mode,
    features: Features,
    registers: Registers<M, P>,
    queue: Option<Queue<P>>,
    tables: P::Lock<Tables>,
    /// Requester IDs whose PASID directories the unit may still read.
    condemned: P::Lock<alloc::vec::Vec<u16>>,
    recovery: Turn<P>,
}

impl<M: Mmio, P: Platform> Vtd<M, P> {
    /// Takes a unit over: an empty root table (all blocked), an invalidation queue where there is one, and everything cached
    /// forgotten. Translation is in force afterwards only where it was before; [`crate::Unit::enable`] puts it in force.
    ///
    /// Whoever had the unit before (firmware, a former kernel) must not use it any more. Where it was translating in the other
    /// mode, it stops for the moment of the change, as the specification demands; the protected memory ranges, where
    /// set, hold through it.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the unit can't do what the options ask for or this driver needs, [`Error::OutOfMemory`], or
    /// [`Error::Unit`]. Memory that the unit may have been told of stays allocated in the last case.
    pub fn start(mmio: M, platform: P, options: Options) -> Result<Self, Error> {
        let capabilities = probe(&mmio).map_err(Error::Unit)?;
        let mode = options.mode.unwrap_or(capabilities.best_mode());
        let features = capabilities.features(mode, options.host_address_bits)?;
        let wide = mode == Mode::Scalable;
        let coherent = capabilities.ecap.c();
        let avoid_queue = options.avoid_queue && mode == Mode::Legacy;
        let tables = Tables::allocate(&platform, mode, coherent).ok_or(Error::OutOfMemory)?;
        let queue = if capabilities.ecap.qi() && !avoid_queue {
            let Some(queue) = Queue::allocate(&platform, options.queue_size.min(7), wide, coherent) else {
                let mut tables = tables;
                tables.free(&platform);
                return Err(Error::OutOfMemory);
            };
            Some(queue)
        } else {
            None
        };
        let this = Self {
            registers: Registers::new(mmio, capabilities.ecap, options.timeout),
            platform,
            options,
            capabilities,
            mode,
            features,
            queue,
            tables: Lock::new(tables),
            condemned: Lock::new(alloc::vec::Vec::new()),
            recovery: Turn::new(),
        };
        this.take_over().map_err(Error::Unit)?;
        Ok(this)
    }

    /// The capability registers.
    #[must_use]
    pub const fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    /// The translation table mode in use.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether translation is in force (GSTS.TES).
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.registers.gsts().tes()
    }

    fn take_over(&self) -> Result<(), UnitError> {
        let ttm = match self.mode {
            Mode::Legacy => Ttm::Legacy,
            Mode::Scalable => Ttm::Scalable,
        };
        let status = self.registers.gsts();
        if status.into_bits() == u32::MAX {
            return Err(UnitError::Absent);
        }
        // 11.4.4.2, 11.4.5: TTM is not to be changed while translation is in force.
        if status.tes() && self.registers.rtaddr().ttm() != ttm {
            self.registers.set_translation(&self.platform, false)?;
        }
        self.take_over_queue(status)?;
        let root = self.tables.with(|tables| tables.root());
        let rtaddr = Rtaddr::new().with_ttm(ttm).with_rta(root.0 >> 12);
        self.registers.set_root_table(&self.platform, rtaddr)?;
        // 6.6, 11.4.4.1 SRTP: context cache, PASID cache and IOTLB are invalidated globally, in this order, by software,
        // unless CAP.ESRTPS says that setting the pointer does it.
        if !self.capabilities.cap.esrtps() {
            self.invalidate_everything()?;
        }
        Ok(())
    }

    fn take_over_queue(&self, status: Gsts) -> Result<(), UnitError> {
        match &self.queue {
            Some(queue) => {
                if status.qies() {
                    self.registers.drain_foreign_queue(&self.platform)?;
                }
                queue.start(&self.registers, &self.platform)
            }
            None if status.qies() => self.registers.drain_foreign_queue(&self.platform),
            None => Ok(()),
        }
    }

    /// The requester ID, where the requester is this unit's.
    fn requester_id(&self, requester: Requester) -> Result<u16, Error> {
        match requester {
            Requester::Pci(address) if address.segment == self.options.segment => Ok(address.requester_id),
            other => Err(Error::Unsupported(Feature::Requester(other))),
        }
    }

    /// The address width, root pointer and domain ID of a second stage.
    fn second_stage(stage: &Stage<portcullis_spec::PhysAddr>) -> Result<(u8, u64), Error> {
        let unsupported = Error::Unsupported(Feature::Format(stage.format));
        let PagingFormat::VtdSecondStage { levels } = stage.format else { return Err(unsupported) };
        Ok((address_width(levels).ok_or(unsupported)?, stage.root.0 >> 12))
    }

    /// 9.3: the legacy context entry for a context that isn't blocked.
    fn context_entry(&self, context: &Context) -> Result<ContextEntry, Error> {
        let low = ContextEntryLow::new().with_p(true);
        match context {
            Context::Bypass { tags, .. } if self.features.identity => Ok(ContextEntry {
                low: low.with_tt(TranslationType::PassThrough),
                // 9.3, AW: with pass-through it must be the largest that the unit supports.
                high: ContextEntryHigh::new().with_did(did(*tags)).with_aw(self.largest_width()),
            }),
            Context::OneStage { tags, stage, number: StageNumber::Second } => {
                let (aw, ssptptr) = Self::second_stage(stage)?;
                Ok(ContextEntry {
                    low: low.with_tt(TranslationType::Untranslated).with_ssptptr(ssptptr),
                    high: ContextEntryHigh::new().with_did(did(*tags)).with_aw(aw),
                })
            }
            Context::Bypass { .. } => Err(Error::Unsupported(Feature::Identity)),
            Context::OneStage { stage, .. } => Err(Error::Unsupported(Feature::Format(stage.format))),
            _ => Err(Error::Unsupported(Feature::Nested)),
        }
    }

    /// The AW of the deepest second-stage tables that the unit supports.
    fn largest_width(&self) -> u8 {
        [5, 4, 3]
            .into_iter()
            .find(|levels| self.capabilities.cap.supports_levels(*levels))
            .and_then(address_width)
            .unwrap_or(0)
    }

    /// 9.6: the PASID table entry for a context that isn't blocked.
    fn pasid_entry(&self, context: &Context) -> Result<PasidEntry, Error> {
        let ecap = self.capabilities.ecap;
        let word0 = PasidEntry0::new().with_p(true);
        let word1 = PasidEntry1::new().with_pwsnp(ecap.smpwcs());
        Ok(match context {
            Context::Bypass { tags, .. } if self.features.identity => PasidEntry {
                word0: word0.with_pgtt(Pgtt::PassThrough).with_aw(self.largest_width()),
                word1: word1.with_did(did(*tags)),
                ..PasidEntry::default()
            },
            Context::OneStage { tags, stage, number: StageNumber::Second } => {
                let (aw, ssptptr) = Self::second_stage(stage)?;
                let ssade = ecap.ssads() && stage.rules.contains(StageRules::SET_DIRTY);
                PasidEntry {
                    word0: word0
                        .with_pgtt(Pgtt::SecondStage)
                        .with_aw(aw)
                        .with_ssptptr(ssptptr)
                        .with_ssade(ssade),
                    word1: word1.with_did(did(*tags)),
                    ..PasidEntry::default()
                }
            }
            Context::OneStage { tags, stage, number: StageNumber::First } => PasidEntry {
                word0: word0.with_pgtt(Pgtt::FirstStage),
                word1: word1.with_did(did(*tags)),
                word2: self.first_stage(stage)?,
                ..PasidEntry::default()
            },
            Context::TwoStages { tags, first, second } if !self.features.nested.is_empty() => {
                let (aw, ssptptr) = Self::second_stage(second)?;
                let ssade = ecap.ssads() && second.rules.contains(StageRules::SET_DIRTY);
                PasidEntry {
                    word0: word0.with_pgtt(Pgtt::Nested).with_aw(aw).with_ssptptr(ssptptr).with_ssade(ssade),
                    word1: word1.with_did(did(*tags)),
                    word2: self.first_stage(first)?,
                    ..PasidEntry::default()
                }
            }
            Context::Bypass { .. } => return Err(Error::Unsupported(Feature::Identity)),
            _ => return Err(Error::Unsupported(Feature::Nested)),
        })
    }

    /// Bits 191:128 of the PASID table entry: the first stage and its rules.
    fn first_stage<A: FirstStageRoot>(&self, stage: &Stage<A>) -> Result<PasidEntry2, Error> {
        let unsupported = Error::Unsupported(Feature::Format(stage.format));
        let fspm = match stage.format {
            PagingFormat::X86 { levels: 4 } => Fspm::Level4,
            PagingFormat::X86 { levels: 5 } if self.capabilities.cap.fs5lp() => Fspm::Level5,
            _ => return Err(unsupported),
        };
        let ecap = self.capabilities.ecap;
        let rules = stage.rules;
        let privileged = rules.contains(StageRules::PRIVILEGED_ALLOWED);
        let write_protect = rules.contains(StageRules::WRITE_PROTECT);
        let extended = rules.contains(StageRules::SET_EXTENDED_ACCESSED);
        if ((privileged || write_protect) && !ecap.srs()) || (extended && !ecap.eafs()) {
            return Err(unsupported);
        }
        Ok(PasidEntry2::new()
            .with_fspm(fspm)
            .with_sre(privileged)
            .with_wpe(write_protect)
            .with_eafe(extended)
            .with_fsptptr(stage.root.number() >> 12))
    }

    /// Writes a requester's entry. Returns what must be invalidated then.
    fn write_context(
        &self,
        requester_id: u16,
        pasid: Option<Pasid>,
        former: &Context,
        context: &Context,
    ) -> Result<alloc::vec::Vec<InvalidationDescriptor>, Error> {
        let platform = &self.platform;
        match (self.mode, context) {
            (Mode::Legacy, _) if pasid.is_some() => Err(Error::Unsupported(Feature::Pasid)),
            (Mode::Legacy, Context::Blocked(report)) => {
                let fpd = report.is_none();
                self.tables.with(|tables| tables.clear_context(platform, requester_id, fpd))?;
                Ok(self.forget_context(requester_id, former))
            }
            (Mode::Legacy, context) => {
                let entry = self.context_entry(context)?;
                self.tables.with(|tables| tables.set_context(platform, requester_id, entry))?;
                Ok(self.notice_context(requester_id, context))
            }
            (Mode::Scalable, Context::Blocked(report)) => {
                let fpd = report.is_none();
                let number = pasid.unwrap_or(RID_PASID);
                self.tables.with(|tables| tables.clear_pasid(platform, requester_id, number, fpd))?;
                Ok(self.forget_pasid(number, former))
            }
            (Mode::Scalable, context) => {
                let entry = self.pasid_entry(context)?;
                let number = pasid.unwrap_or(RID_PASID);
                self.tables.with(|tables| tables.set_pasid(platform, requester_id, number, entry))?;
                Ok(self.notice_pasid(number, context))
            }
        }
    }

    /// 6.5.3.3 (guidance to software), a context entry that was present: its cached copy, and then everything that was
    /// translated under its domain ID. Of one that was not present, the copy that FPD is in, with caching mode.
    fn forget_context(&self, sid: u16, former: &Context) -> alloc::vec::Vec<InvalidationDescriptor> {
        let device =
            |did| InvalidationDescriptor::ContextCache(ContextCacheScope::Device { did, sid, fm: 0 });
        match tags_of(former) {
            Some(tags) => {
                let did = did(tags);
                alloc::vec![device(did), FENCE, self.iotlb(IotlbScope::Domain { did })]
            }
            None if self.capabilities.cap.cm() => alloc::vec![device(0)],
            None => alloc::vec::Vec::new(),
        }
    }

    /// 6.1: a context entry that was not present may be cached only with caching mode, under domain ID 0 (6.2.2.1).
    fn notice_context(&self, sid: u16, context: &Context) -> alloc::vec::Vec<InvalidationDescriptor> {
        match tags_of(context) {
            Some(tags) if self.capabilities.cap.cm() => alloc::vec![
                InvalidationDescriptor::ContextCache(ContextCacheScope::Device { did: 0, sid, fm: 0 }),
                FENCE,
                self.iotlb(IotlbScope::Domain { did: did(tags) }),
            ],
            _ => alloc::vec::Vec::new(),
        }
    }

    /// 6.5.3.3, a PASID table entry that was present: its cached copy, and then what was translated through it. First
    /// stages and pass-through are tagged by domain ID and PASID, second stages by domain ID.
    fn forget_pasid(&self, pasid: Pasid, former: &Context) -> alloc::vec::Vec<InvalidationDescriptor> {
        let Some(tags) = tags_of(former) else {
            return match self.capabilities.cap.cm() {
                true => alloc::vec![InvalidationDescriptor::PasidCache(PasidCacheScope::Pasid {
                    did: 0,
                    pasid: pasid.value(),
                })],
                false => alloc::vec::Vec::new(),
            };
        };
        self.pasid_and_translations(pasid, former, did(tags))
    }

    /// 6.1, as [`Self::notice_context`].
    fn notice_pasid(&self, pasid: Pasid, context: &Context) -> alloc::vec::Vec<InvalidationDescriptor> {
        match tags_of(context) {
            Some(tags) if self.capabilities.cap.cm() => {
                let mut list = self.pasid_and_translations(pasid, context, did(tags));
                let scope = PasidCacheScope::Pasid { did: 0, pasid: pasid.value() };
                list.insert(0, InvalidationDescriptor::PasidCache(scope));
                list
            }
            _ => alloc::vec::Vec::new(),
        }
    }

    fn pasid_and_translations(
        &self,
        pasid: Pasid,
        context: &Context,
        did: u16,
    ) -> alloc::vec::Vec<InvalidationDescriptor> {
        let pasid = pasid.value();
        let translations = match context {
            Context::Bypass { .. } | Context::OneStage { number: StageNumber::First, .. } => {
                InvalidationDescriptor::PasidIotlb { did, pasid, pages: None }
            }
            _ => self.iotlb(IotlbScope::Domain { did }),
        };
        let entry = InvalidationDescriptor::PasidCache(PasidCacheScope::Pasid { did, pasid });
        alloc::vec![entry, FENCE, translations]
    }

    fn free_condemned(&self) {
        let condemned = self.condemned.with(core::mem::take);
        self.tables.with(|tables| {
            for requester_id in condemned {
                tables.free_directory(&self.platform, requester_id);
            }
        });
    }
}

/// Where the root of a first stage lies: for a nested one, an address of the guest's.
trait FirstStageRoot {
    fn number(&self) -> u64;
}

impl FirstStageRoot for portcullis_spec::PhysAddr {
    fn number(&self) -> u64 {
        self.0
    }
}

impl FirstStageRoot for portcullis_spec::Ipa {
    fn number(&self) -> u64 {
        self.0
    }
}

/// The tags of a context that isn't blocked.
const fn tags_of(context: &Context) -> Option<Tags> {
    match context {
        Context::Blocked(_) => None,
        Context::Bypass { tags, .. } | Context::OneStage { tags, .. } | Context::TwoStages { tags, .. } => {
            Some(*tags)
        }
    }
}

/// The domain ID. Tags come from the features' range, which is at most 16 bits.
const fn did(tags: Tags) -> u16 {
    tags.domain.0 as u16
}

impl<M: Mmio, P: Platform> Architecture for Vtd<M, P> {
    type Platform = P;

    fn platform(&self) -> &P {
        &self.platform
    }

    fn features(&self) -> &Features {
        &self.features
    }

    fn add_requester(&self, requester: Requester, pasid_bits: u8) -> Result<(), Error> {
        let sid = self.requester_id(requester)?;
        let platform = &self.platform;
        if self.condemned.with(|condemned| condemned.contains(&sid)) {
            return Err(Error::Unit(UnitError::Stopped));
        }
        match self.mode {
            Mode::Legacy => self.tables.with(|tables| tables.prepare(platform, sid)),
            Mode::Scalable => {
                self.tables.with(|tables| tables.add_directory(platform, sid, pasid_bits))?;
                let seen = match self.capabilities.cap.cm() {
                    true => self.send(&[InvalidationDescriptor::ContextCache(ContextCacheScope::Device {
                        did: 0,
                        sid,
                        fm: 0,
                    })]),
                    false => self.flush_write_buffer(),
                };
                seen.map_err(|error| {
                    let _unconfirmed = self.remove_requester(requester);
                    Error::NotInvalidated(error)
                })
            }
        }
    }

    fn remove_requester(&self, requester: Requester) -> Result<(), UnitError> {
        let Ok(sid) = self.requester_id(requester) else { return Ok(()) };
        let platform = &self.platform;
        match self.mode {
            Mode::Legacy => {
                // Back to reporting faults, had a silent domain been the last.
                let cleared = self.tables.with(|tables| tables.clear_context(platform, sid, false));
                match cleared {
                    Ok(()) => self.send(&self.forget_context(sid, &Context::Blocked(None))),
                    Err(_) => Ok(()),
                }
            }
            Mode::Scalable => {
                self.tables.with(|tables| tables.clear_directory(platform, sid));
                // 6.5.3.3: the context entry, and all PASID entries found through it. They had no translations any more.
                let forgotten = self.send(&[
                    InvalidationDescriptor::ContextCache(ContextCacheScope::Device { did: 0, sid, fm: 0 }),
                    FENCE,
                    InvalidationDescriptor::PasidCache(PasidCacheScope::Global),
                ]);
                match forgotten {
                    Ok(()) => self.tables.with(|tables| tables.free_directory(platform, sid)),
                    Err(_) => self.condemned.with(|condemned| condemned.push(sid)),
                }
                forgotten
            }
        }
    }

    fn tags(&self, domain: DomainTag, pasid: Option<Pasid>, first_stage: bool) -> Tags {
        let space = first_stage.then(|| SpaceTag(pasid.unwrap_or(RID_PASID).value()));
        Tags { domain, space }
    }

    fn set_context(
        &self,
        requester: Requester,
        pasid: Option<Pasid>,
        former: &Context,
        context: &Context,
    ) -> Result<(), ContextError> {
        let descriptors = self
            .requester_id(requester)
            .and_then(|sid| self.write_context(sid, pasid, former, context))
            .map_err(ContextError::Refused)?;
        if descriptors.is_empty() {
            return self.flush_write_buffer().map_err(ContextError::Uncertain);
        }
        self.send(&descriptors).map_err(ContextError::Uncertain)
    }

    fn invalidate(&self, what: &[Invalidation]) -> Result<(), UnitError> {
        if what.is_empty() {
            return self.flush_write_buffer();
        }
        self.send(&self.descriptors(what))
    }

    fn recover(&self) -> Result<(), UnitError> {
        self.recovery.take(&self.platform, || {
            if let Some(queue) = &self.queue {
                queue.stop(UnitError::Stopped);
                queue.turn_off(&self.registers, &self.platform)?;
                queue.start(&self.registers, &self.platform)?;
            }
            self.invalidate_everything()?;
            self.free_condemned();
            Ok(())
        })
    }

    /// Translation on, and then the protected memory ranges off: there is no moment at which neither holds (11.4.8).
    fn enable(&self) -> Result<(), UnitError> {
        self.registers.set_translation(&self.platform, true)?;
        let cap = self.capabilities.cap;
        if cap.plmr() || cap.phmr() {
            self.registers.disable_protected_memory(&self.platform)?;
        }
        Ok(())
    }

    fn disable(&self) -> Result<(), UnitError> {
        self.registers.set_translation(&self.platform, false)
    }

    fn shut_down(&self) -> Result<(), UnitError> {
        self.registers.set_translation(&self.platform, false)?;
        if let Some(queue) = &self.queue {
            queue.stop(UnitError::Stopped);
            queue.turn_off(&self.registers, &self.platform)?;
            queue.free(&self.platform);
        }
        self.tables.with(|tables| tables.free(&self.platform));
        Ok(())
    }

    fn read_faults(&self, sink: &mut dyn FnMut(FaultRecord)) -> FaultCounts {
        faults::read(&self.registers, self.capabilities.cap, self.options.segment, sink)
    }
}
