//! SMMUv3: `event 0x10 received:` and four raw words, since 6.12 followed by the same in words:
//! `event: F_TRANSLATION client: 0000:00:02.0 sid: 0x10 ssid: 0 iova: 0x… ipa: 0x…` and `unpriv data write s1 "…" stag: 0x0`.

use std::time::Duration;

use portcullis_spec::{
    Access, Fault, FaultReason, Iova, Ipa, Pasid, RequestType, Requester, StageNumber,
    smmuv3::event::EventNumber,
};

use super::{KernelFault, KernelRecord, Line, Missing, Source, scan};

fn event(code: u32) -> Option<EventNumber> {
    EventNumber::decode(u8::try_from(code).ok()?)
}

fn reason(code: u32) -> FaultReason {
    event(code).map_or(FaultReason::Internal, EventNumber::reason)
}

/// Whether the event carries an input address (SMMUv3 7.3.2, 7.3.6, 7.3.8, 7.3.12 to 7.3.17).
fn has_address(code: u32) -> bool {
    matches!(code, 0x01 | 0x05 | 0x07 | 0x0b | 0x10..=0x13 | 0x20 | 0x24)
}

/// A report of which more lines may come.
pub(super) struct Half {
    since_boot: Option<Duration>,
    unit: Option<String>,
    code: Option<u32>,
    words: Vec<u64>,
    described: Option<Described>,
    rights: Option<Rights>,
    raw: String,
}

/// What the line `event: …` says.
struct Described {
    event: String,
    client: Option<String>,
    sid: u32,
    ssid: u32,
    iova: Option<u64>,
    ipa: Option<u64>,
}

/// What the line `unpriv data write s1 …` says.
struct Rights {
    privileged: bool,
    instruction: bool,
    read: bool,
    stage: StageNumber,
}

/// The unit's name and the message, where the driver wrote the line.
fn of_driver<'a>(line: &Line<'a>) -> Option<(Option<&'a str>, &'a str)> {
    let (_, rest) = line.text.split_once("arm-smmu-v3 ")?;
    let (unit, message) = rest.split_once(": ").or_else(|| rest.split_once(":\t"))?;
    Some((Some(unit), message.trim()))
}

/// The report that begins with `line`.
pub(super) fn first_line(line: &Line<'_>) -> Option<Half> {
    let (unit, message) = of_driver(line).unwrap_or((None, line.text.trim()));
    let mut half = Half {
        since_boot: line.since_boot,
        unit: unit.map(str::to_owned),
        code: None,
        words: Vec::new(),
        described: None,
        rights: None,
        raw: line.text.to_owned(),
    };
    if let Some(code) = message.strip_prefix("event 0x").and_then(|rest| rest.strip_suffix(" received:")) {
        half.code = Some(scan::hex32(code)?);
        return Some(half);
    }
    half.described = Some(described(message)?);
    Some(half)
}

fn described(message: &str) -> Option<Described> {
    let (event, rest) = message.strip_prefix("event: ")?.split_once(" client: ")?;
    let (client, rest) = rest.split_once(" sid: ")?;
    let hex = |key| scan::field(rest, key).and_then(scan::hex);
    Some(Described {
        event: event.to_owned(),
        client: (client != "(unassigned sid)").then(|| client.to_owned()),
        sid: scan::hex32(rest.split(' ').next()?)?,
        ssid: hex("ssid:")?.try_into().ok()?,
        iova: hex("iova:"),
        ipa: hex("ipa:"),
    })
}

fn rights(message: &str) -> Option<Rights> {
    let mut words = message.split(' ');
    let privileged = match words.next()? {
        "priv" => true,
        "unpriv" => false,
        _ => return None,
    };
    let instruction = words.next()? == "inst";
    let read = words.next()? == "read";
    let stage = if words.next()? == "s2" { StageNumber::Second } else { StageNumber::First };
    Some(Rights { privileged, instruction, read, stage })
}

impl Half {
    /// Whether `line` belongs to this report, and is taken into it.
    pub(super) fn take(&mut self, line: &Line<'_>) -> bool {
        let (unit, message) = of_driver(line).unwrap_or((None, line.text.trim()));
        if unit != self.unit.as_deref() || self.rights.is_some() {
            return false;
        }
        let taken = if self.words.len() < 4 && self.described.is_none() && message.starts_with("0x") {
            scan::hex(message).map(|word| self.words.push(word)).is_some()
        } else if self.described.is_none() {
            self.described = described(message);
            self.described.is_some()
        } else {
            self.rights = rights(message);
            self.rights.is_some()
        };
        if taken {
            self.raw.push('\n');
            self.raw.push_str(line.text);
        }
        taken
    }

    pub(super) fn is_complete(&self) -> bool {
        self.rights.is_some()
    }

    /// The record, or `None` where too few lines came to say whose it is.
    pub(super) fn finish(self) -> Option<KernelRecord> {
        let named = self.described.as_ref().and_then(|described| {
            let event = EventNumber::ALL.iter().find(|event| event.name() == described.event)?;
            Some(u32::from(event.encode()))
        });
        let code = self.code.or(named).unwrap_or(0);
        let event = match &self.described {
            Some(described) => described.event.clone(),
            None => event(code).map_or_else(|| format!("event {code:#04x}"), |event| event.name().to_owned()),
        };
        let mut missing = Vec::new();
        let fault = match <[u64; 4]>::try_from(self.words.as_slice()) {
            Ok(words) => from_raw(code, words),
            Err(_) => {
                let Some(described) = &self.described else {
                    return Some(KernelRecord::Unit {
                        source: Source::Smmuv3,
                        since_boot: self.since_boot,
                        unit: self.unit,
                        event,
                        lost: false,
                        raw: self.raw,
                    });
                };
                if self.rights.is_none() {
                    missing.push(Missing::Access);
                }
                from_words(code, described, self.rights.as_ref())
            }
        };
        if !has_address(code) {
            missing.push(Missing::Address);
            if !missing.contains(&Missing::Access) {
                missing.push(Missing::Access);
            }
        }
        Some(KernelRecord::Fault(Box::new(KernelFault {
            source: Source::Smmuv3,
            since_boot: self.since_boot,
            unit: self.unit,
            device: self.described.and_then(|described| described.client),
            driver: None,
            fault,
            missing,
            event,
            domain: None,
            interrupt_index: None,
            raw: self.raw,
        })))
    }
}

/// An event record's words (SMMUv3 7.3): SSV 11, SubstreamID 31:12, StreamID 63:32; then STAG, PnU 33, InD 34, RnW 35, S2 39;
/// then the input address; then the IPA in bits 51:12.
fn from_raw(code: u32, [first, second, address, last]: [u64; 4]) -> Fault {
    let has_address = has_address(code);
    let bit = |number: u32| second >> number & 1 != 0;
    let (privileged, instruction, read, second_stage) = (bit(33), bit(34), bit(35), bit(39));
    let stage = matches!(code, 0x0b | 0x10..=0x13).then_some(if second_stage {
        StageNumber::Second
    } else {
        StageNumber::First
    });
    Fault {
        requester: Requester::Stream((first >> 32) as u32),
        pasid: (first >> 11 & 1 != 0).then(|| Pasid::new((first >> 12) as u32 & 0xf_ffff)).flatten(),
        address: Iova(if has_address { address } else { 0 }),
        ipa: (stage == Some(StageNumber::Second)).then_some(Ipa(last & 0x000f_ffff_ffff_f000)),
        access: if has_address { access(read, instruction) } else { Access::empty() },
        privileged: has_address && privileged,
        request_type: match code {
            0x05 => RequestType::TranslationRequest,
            0x07 => RequestType::Translated,
            _ => RequestType::Untranslated,
        },
        reason: reason(code),
        stage,
        code,
    }
}

fn access(read: bool, instruction: bool) -> Access {
    match (read, instruction) {
        (true, true) => Access::EXECUTE,
        (true, false) => Access::READ,
        (false, _) => Access::WRITE,
    }
}

fn from_words(code: u32, described: &Described, rights: Option<&Rights>) -> Fault {
    Fault {
        requester: Requester::Stream(described.sid),
        // The kernel writes 0 where no SubstreamID came.
        pasid: Some(described.ssid).filter(|ssid| *ssid != 0).and_then(Pasid::new),
        address: Iova(described.iova.unwrap_or(0)),
        ipa: described
            .ipa
            .filter(|_| rights.is_some_and(|rights| rights.stage == StageNumber::Second))
            .map(Ipa),
        access: rights.map_or(Access::empty(), |rights| access(rights.read, rights.instruction)),
        privileged: rights.is_some_and(|rights| rights.privileged),
        request_type: RequestType::Untranslated,
        reason: reason(code),
        stage: rights.map(|rights| rights.stage),
        code,
    }
}

/// What the driver says of the unit itself.
pub(super) fn unit_line(line: &Line<'_>) -> Option<KernelRecord> {
    let (unit, message) = of_driver(line)?;
    let lost = message.starts_with("EVTQ overflow") || message.starts_with("PRIQ overflow");
    let known = lost
        || message.starts_with("CMDQ error")
        || message.starts_with("CMDQ timeout")
        || message.starts_with("unexpected global error")
        || message.contains("write aborted")
        || message.starts_with("device has entered Service Failure Mode");
    known.then(|| KernelRecord::Unit {
        source: Source::Smmuv3,
        since_boot: line.since_boot,
        unit: unit.map(str::to_owned),
        event: message.to_owned(),
        lost,
        raw: line.text.to_owned(),
    })
}
