//! What a look-up remembers beside its context, and why it may stop.

use portcullis_spec::smmuv3::event::{EventClass, EventNumber};
use portcullis_spec::{Ipa, PhysAddr, StageNumber};

/// What becomes of the four translation-related faults of a stage (5.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FaultFlags {
    /// Terminated transactions abort; otherwise they read zeros and write nothing (CD.A; stage 2 always aborts).
    pub abort: bool,
    /// They are recorded (CD.R, STE.S2R).
    pub record: bool,
    /// They stall (CD.S, STE.S2S).
    pub stall: bool,
}

/// What an attribute of a transaction is replaced by (STE.PRIVCFG and STE.INSTCFG).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Override {
    /// Nothing.
    #[default]
    Incoming,
    /// Unprivileged, data.
    Clear,
    /// Privileged, instruction.
    Set,
}

impl Override {
    /// From the two bits of the field (5.2: 0b00 and the reserved 0b01 use the incoming attribute).
    pub(super) const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            2 => Self::Clear,
            3 => Self::Set,
            _ => Self::Incoming,
        }
    }

    /// The attribute as it counts.
    pub(super) const fn apply(self, incoming: bool) -> bool {
        match self {
            Self::Incoming => incoming,
            Self::Clear => false,
            Self::Set => true,
        }
    }
}

/// Why a look-up came to nothing, with what the event record says of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stop {
    /// The event; none where the stream aborts silently.
    pub event: Option<EventNumber>,
    /// The stage, for faults of a stage.
    pub stage: Option<StageNumber>,
    /// What was being accessed.
    pub class: EventClass,
    /// The address that stage 2 refused.
    pub ipa: Option<Ipa>,
    /// The address that could not be fetched.
    pub fetch: Option<PhysAddr>,
}

impl Stop {
    /// Nothing passes, and nothing is recorded.
    pub(super) const SILENT: Self =
        Self { event: None, stage: None, class: EventClass::Cd, ipa: None, fetch: None };

    /// An event of which there is nothing more to say.
    pub(super) const fn at(event: EventNumber) -> Self {
        Self { event: Some(event), ..Self::SILENT }
    }

    /// A fetch that failed.
    pub(super) const fn fetch(event: EventNumber, at: PhysAddr) -> Self {
        Self { fetch: Some(at), ..Self::at(event) }
    }
}

/// What a look-up remembers beside its context.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Note {
    /// Why everything is blocked, where it is.
    pub stop: Option<Stop>,
    /// Nothing is recorded: translation is disabled.
    pub quiet: bool,
    /// What becomes of stage-1 faults, where a stage 1 translates.
    pub first: Option<FaultFlags>,
    /// What becomes of stage-2 faults, where a stage 2 translates.
    pub second: Option<FaultFlags>,
    /// STE.PRIVCFG.
    pub privilege: Override,
    /// STE.INSTCFG.
    pub instruction: Override,
    /// Address bits 63:56 are ignored (CD.TBI0, TBI1).
    pub ignores_top_byte: bool,
    /// Input address bits that may be set where stage 1 is bypassed (3.4).
    pub bypass_bits: Option<u8>,
    /// The stage 1 knows no privilege (EL2).
    pub one_privilege: bool,
}
