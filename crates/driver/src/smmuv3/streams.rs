//! Changing what a stream, or one PASID of it, comes to.

use portcullis_spec::smmuv3::cd::Cd;
use portcullis_spec::smmuv3::command::Command;
use portcullis_spec::smmuv3::ste::{Config, Ste};
use portcullis_spec::{Context, Pasid, PhysAddr, StageNumber, Unnumbered};

use super::entries::INVALID;
use super::live::{Entry, Plan, Words};
use super::tables::{Exchange, Stream, load_entry, store, store_entry};
use super::{Smmuv3, Unconfirmed};
use crate::common::architecture::ContextError;
use crate::error::{Error, Feature, UnitError};
use crate::platform::{Lock, Mmio, Platform};

/// log2 of a second-level descriptor table's bytes.
const LEAF_LOG2: u8 = 12;

impl<M: Mmio, P: Platform> Smmuv3<M, P> {
    /// Makes a stream, or one PASID of it, come to a context, from whatever it was.
    pub(super) fn change(
        &self,
        streamid: u32,
        pasid: Option<Pasid>,
        context: &Context,
    ) -> Result<(), ContextError> {
        let known = self.streams.with(|streams| streams.get(&streamid).copied());
        let Some(mut stream) = known else {
            return Err(ContextError::Refused(Error::UnknownDevice(portcullis_spec::Requester::Stream(
                streamid,
            ))));
        };
        let result = match pasid {
            None => self.set_unnumbered(streamid, &mut stream, context),
            Some(pasid) => self.set_numbered(streamid, &mut stream, pasid, context),
        };
        self.streams.with(|streams| streams.insert(streamid, stream));
        result
    }

    /// What transactions without PASID come to.
    fn set_unnumbered(
        &self,
        streamid: u32,
        stream: &mut Stream,
        context: &Context,
    ) -> Result<(), ContextError> {
        let before = *stream;
        let in_descriptor = match context {
            Context::OneStage { number: StageNumber::First, .. } => true,
            Context::Blocked(None) => stream.pasids > 0,
            Context::Blocked(Some(_)) | Context::Bypass { .. } => false,
            _ if stream.pasids > 0 => return Err(ContextError::Refused(Error::Unsupported(Feature::Pasid))),
            _ => false,
        };
        let mut former = None;
        if in_descriptor {
            let words = self.encoder.descriptor(context).map_err(ContextError::Refused)?.unwrap_or(INVALID);
            former = self.write_descriptor(streamid, stream, None, &words)?;
        }
        stream.context = *context;
        self.write_stream(streamid, stream, before, former)?;
        // Descriptor 0 is out of use, but a transaction with PASID 0 would find it.
        match stream.descriptors {
            Some(descriptors) if !in_descriptor && stream.pasid_bits > 0 => {
                let space = self.space();
                let (at, _) = descriptors.entry(&space, None).map_err(ContextError::Refused)?;
                self.follow::<Cd>(at, &INVALID, &[Command::CfgiCd { streamid, substreamid: 0, leaf: true }])
            }
            _ => Ok(()),
        }
    }

    /// What transactions with a PASID come to.
    fn set_numbered(
        &self,
        streamid: u32,
        stream: &mut Stream,
        pasid: Pasid,
        context: &Context,
    ) -> Result<(), ContextError> {
        stream.check_pasid(pasid).map_err(ContextError::Refused)?;
        if let Context::Bypass { .. } = context {
            return Err(ContextError::Refused(Error::Unsupported(Feature::Identity)));
        }
        let words = self.encoder.descriptor(context).map_err(ContextError::Refused)?.unwrap_or(INVALID);
        // Those of a second stage leave no room for descriptors of the host's.
        let alone = matches!(
            stream.context,
            Context::OneStage { number: StageNumber::Second, .. } | Context::TwoStages { .. }
        );
        if alone {
            return Err(ContextError::Refused(Error::Unsupported(Feature::Pasid)));
        }
        let before = *stream;
        let space = self.space();
        let descriptors =
            stream.descriptors(&space, self.capabilities.idr0.cd2l()).map_err(ContextError::Refused)?;
        let (at, _) = descriptors.entry(&space, Some(pasid)).map_err(ContextError::Refused)?;
        let was_valid = load_entry(&space, at)[0] & Cd::VALID != 0;
        let is_valid = words[0] & Cd::VALID != 0;
        if was_valid && !is_valid && stream.pasids == 1 {
            // The last one: the entry first, so that nobody sees the way there end in the middle.
            stream.pasids = 0;
            let entry = self.write_stream(streamid, stream, before, None);
            stream.pasids = 0;
            let descriptor = self.write_descriptor(streamid, stream, Some(pasid), &words);
            return entry.and(descriptor.map(drop));
        }
        let result = self.write_descriptor(streamid, stream, Some(pasid), &words);
        if !matches!(result, Err(ContextError::Refused(_))) {
            stream.pasids = stream.pasids + u32::from(is_valid) - u32::from(was_valid);
        }
        let former = result?;
        // The first PASID changes how the entry leads to it, and to what has none.
        if former.is_none() && (before.pasids == 0) == (stream.pasids == 0) {
            return Ok(());
        }
        if stream.pasids > 0 && before.pasids == 0 && matches!(stream.context, Context::Blocked(None)) {
            let silent = self.encoder.descriptor(&stream.context).map_err(ContextError::Refused)?;
            self.write_descriptor(streamid, stream, None, &silent.unwrap_or(INVALID))?;
        }
        let result = self.write_stream(streamid, stream, before, former);
        if matches!(result, Err(ContextError::Refused(_))) && !self.is_reachable(stream) {
            store_entry(&space, at, &INVALID);
        }
        result
    }

    /// Writes the stream's entry as its state says. `former` is the descriptor table that it led to, where that is to be freed.
    fn write_stream(
        &self,
        streamid: u32,
        stream: &mut Stream,
        before: Stream,
        former: Option<PhysAddr>,
    ) -> Result<(), ContextError> {
        let result = self.stream_entry(stream).map_err(ContextError::Refused).and_then(|words| {
            self.follow::<Ste>(stream.entry, &words, &[Command::CfgiSte { streamid, leaf: true }])
        });
        let space = self.space();
        match (result, former, stream.descriptors) {
            (Ok(()), Some(former), Some(descriptors)) => descriptors.free_former(&space, former, false),
            (Err(ContextError::Uncertain(_)), Some(former), Some(descriptors)) => {
                self.condemned.push(Unconfirmed::Block(former, descriptors.block()));
            }
            (Err(ContextError::Refused(_)), former, Some(descriptors)) => {
                // The entry leads where it led. The table that was to take the place of another is nobody's.
                if former.is_some() {
                    descriptors.free_former(&space, PhysAddr(descriptors.table().base), false);
                }
                let made = before.descriptors.is_none().then_some(descriptors);
                *stream = before;
                stream.descriptors = before.descriptors.or(made);
            }
            _ => {}
        }
        result
    }

    fn stream_entry(&self, stream: &Stream) -> Result<Words, Error> {
        let first_stage = matches!(stream.context, Context::OneStage { number: StageNumber::First, .. });
        let unnumbered = match stream.context {
            _ if stream.pasids == 0 && !first_stage => return self.encoder.plain(&stream.context),
            Context::Blocked(Some(_)) => Unnumbered::Refused,
            Context::Bypass { .. } => Unnumbered::Bypass,
            _ => Unnumbered::Zero,
        };
        let descriptors = stream.descriptors.ok_or(Error::Unsupported(Feature::Pasid))?;
        Ok(self.encoder.first_stage(descriptors.table(), unnumbered))
    }

    /// Whether the stream's entry leads to its descriptors.
    fn is_reachable(&self, stream: &Stream) -> bool {
        let ste = Ste::decode(load_entry(&self.space(), stream.entry));
        ste.q0.v() && ste.q0.config() == Config::Stage1
    }

    /// Writes a descriptor. Where it comes to lie in another table, with the table that the stream's entry must not lead to any more.
    fn write_descriptor(
        &self,
        streamid: u32,
        stream: &mut Stream,
        pasid: Option<Pasid>,
        words: &Words,
    ) -> Result<Option<PhysAddr>, ContextError> {
        let space = self.space();
        let refused = ContextError::Refused;
        let two_level = self.capabilities.idr0.cd2l();
        let mut descriptors = stream.descriptors(&space, two_level).map_err(refused)?;
        let (at, made) = descriptors.entry(&space, pasid).map_err(refused)?;
        let reachable = self.is_reachable(stream);
        if !reachable && stream.pasid_bits > 0 {
            store_entry(&space, at, words);
            return Ok(None);
        }
        let substreamid = pasid.map_or(0, Pasid::value);
        if stream.pasid_bits > 0 && !Plan::new::<Cd>(&load_entry(&space, at), words).breaks {
            let forget = Command::CfgiCd { streamid, substreamid, leaf: !made };
            return self.follow::<Cd>(at, words, &[forget]).map(|()| None);
        }
        let exchange = descriptors.move_entry(&space, pasid, words).map_err(refused)?;
        stream.descriptors = Some(descriptors);
        match exchange {
            Exchange::Table(former) => Ok(former),
            Exchange::Leaf { at, descriptor, former } => {
                store(&space, at, descriptor);
                match self.send(&[Command::CfgiCdAll { streamid }]) {
                    Ok(()) => descriptors.free_former(&space, former, true),
                    Err(error) => {
                        self.condemned.push(Unconfirmed::Block(former, LEAF_LOG2));
                        return Err(ContextError::Uncertain(error));
                    }
                }
                Ok(None)
            }
        }
    }

    /// Changes an entry that the unit may be using, making it forget the entry after each stretch of the way.
    fn follow<E: Entry>(&self, at: PhysAddr, new: &Words, forget: &[Command]) -> Result<(), ContextError> {
        let space = self.space();
        let mut before = load_entry(&space, at);
        let plan = Plan::new::<E>(&before, new);
        for (index, after) in plan.stretches.into_iter().enumerate() {
            if after == before {
                continue;
            }
            for word in (0..8).filter(|word| before[*word] != after[*word]) {
                store(&space, PhysAddr(at.0 + 8 * word as u64), after[word]);
            }
            before = after;
            self.send(forget).map_err(|error| match index < plan.turn {
                true => ContextError::Refused(Error::Unit(error)),
                false => ContextError::Uncertain(error),
            })?;
        }
        Ok(())
    }

    /// Makes a stream's entry invalid, and the unit forget it and its descriptors.
    pub(super) fn invalidate_entry(&self, streamid: u32, stream: &Stream) -> Result<(), UnitError> {
        let forget = Command::CfgiSte { streamid, leaf: true };
        match self.follow::<Ste>(stream.entry, &INVALID, &[forget]) {
            Ok(()) => self.send(&[forget]),
            Err(ContextError::Uncertain(error)) => Err(error),
            Err(ContextError::Refused(_)) => Err(UnitError::Stopped),
        }
    }
}
