//! One connection: reads calls, writes answers, follows what happens, and says goodbye for a client that vanished.
//!
//! Every connection is a task of its own, so that one that reads slowly or says nothing keeps nobody waiting, and its
//! messages are bounded while they come in. (The server that comes with the `zlink` crate answers all connections from one
//! task, waits for each to take its reply, and lets a message grow to 100 MiB; the frames are our client's for that reason.)

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    rc::Rc,
    sync::{Arc, PoisonError},
    time::Duration,
};

use portcullis_client::{
    api::{self, MESSAGE_LIMIT},
    frame::{self, FrameError, Frames},
};
use tokio::{io::Interest, net::UnixStream, sync::broadcast};

use super::{
    Service, Session,
    calls::{Failure, Steps, Then, complain, map_reply, say},
};
use crate::core::{Asked, Granted, Refusal};

/// Bytes that one step of a long mapping covers.
pub(super) const STEP: u64 = 256 << 20;
/// How long a client may take to read an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Answers are collected up to so many bytes.
const COLLECT: usize = 256 << 10;
/// Calls that one connection answers before others have their turn.
const TURN: usize = 64;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("did not read its answers for {PATIENCE:?}")]
    Slow,
    #[error("what came was not a varlink call: {0}")]
    NotVarlink(String),
    #[error("too many bytes of unfinished messages from this user")]
    Budget,
}

/// Serves a connection to its end, then releases what its client had.
pub(super) async fn serve(service: Rc<Service>, stream: UnixStream, mut session: Session) {
    let ended = talk(&service, &stream, &mut session).await;
    if let Err(why) = &ended
        && !matches!(why, Ended::Frame(FrameError::Closed))
    {
        let text = why.to_string();
        match why {
            Ended::NotVarlink(_) => last_words(&stream, &Failure::NoCall(text)),
            Ended::Frame(FrameError::TooLong(_) | FrameError::TooManyDescriptors) | Ended::Budget => {
                last_words(&stream, &Failure::Limit(text));
            }
            Ended::Frame(_) | Ended::Io(_) | Ended::Slow => {}
        }
        tracing::info!(CLIENT = session.policy.name, PEER_PID = session.peer.pid, "connection ended: {why}");
    }
    service.goodbye(&session);
}

/// Says why a connection ends, if there is room for it; nobody waits for one who misbehaves.
pub(super) fn last_words(stream: &UnixStream, failure: &Failure) {
    let mut out = Vec::new();
    complain(&mut out, failure);
    let _ = frame::send(stream.as_fd(), &out, &[]);
}

async fn talk(service: &Rc<Service>, stream: &UnixStream, session: &mut Session) -> Result<(), Ended> {
    let mut frames = Frames::default();
    let mut out = Vec::new();
    loop {
        let mut turn = 0;
        while let Some((message, descriptors)) = frames.next_message() {
            let then = service.answer(session, message, descriptors, &mut out);
            service.publish();
            match then {
                Then::Next if out.len() < COLLECT => {}
                Then::Next => flush(stream, &mut out, &[]).await?,
                Then::Send(descriptors) => {
                    // The answer is the last message in `out`; descriptors go beside its first byte.
                    let end = out.len().saturating_sub(1);
                    let begin = out[..end].iter().rposition(|&byte| byte == 0).map_or(0, |at| at + 1);
                    let mut answer = out.split_off(begin);
                    flush(stream, &mut out, &[]).await?;
                    flush(stream, &mut answer, &descriptors).await?;
                }
                Then::Steps(steps) => in_steps(service, stream, session, *steps, &mut out).await?,
                Then::Follow(which) => {
                    flush(stream, &mut out, &[]).await?;
                    return follow(service, stream, session, &which, frames).await;
                }
                Then::Close(why) => {
                    flush(stream, &mut out, &[]).await?;
                    return Err(Ended::NotVarlink(why));
                }
            }
            turn += 1;
            if turn == TURN {
                flush(stream, &mut out, &[]).await?;
                tokio::task::yield_now().await;
                turn = 0;
            }
        }
        flush(stream, &mut out, &[]).await?;
        frames.shrink();
        out.shrink_to(COLLECT);
        fill(service, stream, session, &mut frames).await?;
    }
}

/// Reads until a message is complete, within what the user may leave unfinished.
async fn fill(
    service: &Service,
    stream: &UnixStream,
    session: &Session,
    frames: &mut Frames,
) -> Result<(), Ended> {
    let mut held = service.budget.hold(session.peer.uid);
    loop {
        let complete = stream
            .async_io(Interest::READABLE, || match frames.read(stream.as_fd(), MESSAGE_LIMIT) {
                Err(FrameError::Io(error)) => Err(error),
                other => Ok(other),
            })
            .await??;
        if complete {
            return Ok(());
        }
        if !held.set(frames.pending()) {
            return Err(Ended::Budget);
        }
    }
}

/// Writes everything, the descriptors beside the first byte.
async fn flush(stream: &UnixStream, out: &mut Vec<u8>, descriptors: &[OwnedFd]) -> Result<(), Ended> {
    let beside: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    let mut sent = 0;
    while sent < out.len() {
        let beside: &[_] = if sent == 0 { &beside } else { &[] };
        // Mostly there is room, and then no timer is needed.
        match frame::send(stream.as_fd(), &out[sent..], beside) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let write =
                    stream.async_io(Interest::WRITABLE, || frame::send(stream.as_fd(), &out[sent..], beside));
                sent += tokio::time::timeout(PATIENCE, write).await.map_err(|_| Ended::Slow)??;
            }
            Err(error) => return Err(error.into()),
        }
    }
    out.clear();
    Ok(())
}

/// Maps a long request in steps on another thread, so that the service answers others meanwhile.
async fn in_steps(
    service: &Rc<Service>,
    stream: &UnixStream,
    session: &Session,
    steps: Steps,
    out: &mut Vec<u8>,
) -> Result<(), Ended> {
    let Some(client) = session.client else { return Ok(()) };
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let core = service.core.clone();
    let Steps { space, from, asked, more, oneway } = steps;
    let work = move || -> Result<Vec<Granted>, Refusal> {
        let mut done = 0;
        let mut whole = Vec::new();
        let mut made = Vec::new();
        for request in &asked {
            let mut first = None;
            let mut at = 0;
            while at < request.length || at == 0 {
                let length = (request.length - at).min(STEP);
                let piece = Asked {
                    offset: request.offset.saturating_add(at),
                    // Pieces follow each other; where the first went is where the others go.
                    iova: match first {
                        None => request.iova,
                        Some(Granted { iova, .. }) => iova.checked_add(at),
                    },
                    length,
                    access: request.access,
                };
                let mut core = core.lock().unwrap_or_else(PoisonError::into_inner);
                match core.map(client, space, from, &[piece]) {
                    Ok(granted) => {
                        made.extend(granted.iter().map(|g| (g.iova, length)));
                        first = first.or(granted.first().copied());
                    }
                    Err(refusal) => {
                        if !made.is_empty() {
                            let _ = core.unmap(client, space, &made);
                        }
                        return Err(refusal);
                    }
                }
                drop(core);
                at += length.max(1);
                done += length;
                let _ = tell.send(done);
            }
            whole.extend(first);
        }
        Ok(whole)
    };
    let mut work = tokio::task::spawn_blocking(work);
    let result = loop {
        tokio::select! {
            Some(done) = told.recv(), if more => {
                say(out, &api::MapReply { granted: Vec::new(), done: Some(done) }, true);
                flush(stream, out, &[]).await?;
            }
            result = &mut work => break result,
        }
    };
    match result {
        Ok(Ok(granted)) => say(out, &map_reply(&granted), false),
        Ok(Err(refusal)) => complain(out, &Failure::Refused(refusal)),
        Err(panicked) => {
            service.core().enter_safe_state(format!("a mapping was abandoned: {panicked}"));
            complain(out, &Failure::Refused(Refusal::SafeState(panicked.to_string())));
        }
    }
    if oneway {
        out.clear();
    }
    service.publish();
    Ok(())
}

/// Tells what happens until the other side closes.
async fn follow(
    service: &Rc<Service>,
    stream: &UnixStream,
    session: &Session,
    which: &api::Follow,
    mut frames: Frames,
) -> Result<(), Ended> {
    let both = which.events.is_none() && which.faults.is_none();
    let (events, faults) = (both || which.events == Some(true), both || which.faults == Some(true));
    let mut followed = service.followers.subscribe();
    let mut out = Vec::new();
    say(&mut out, &api::Followed::default(), true);
    flush(stream, &mut out, &[]).await?;
    loop {
        tokio::select! {
            next = followed.recv() => match next {
                Ok(next) => {
                    let own = session.operator || next.public || next.client.as_deref() == Some(session.policy.name.as_str());
                    let wanted = (events && next.said.event.is_some()) || (faults && next.said.fault.is_some());
                    if next.said.missed.is_some() && faults || own && wanted {
                        say(&mut out, &*next.said, true);
                    }
                    if followed.is_empty() || out.len() >= COLLECT {
                        flush(stream, &mut out, &[]).await?;
                    }
                }
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    say(&mut out, &api::Followed { missed: Some(missed), ..api::Followed::default() }, true);
                }
                Err(broadcast::error::RecvError::Closed) => return Ok(()),
            },
            // Nothing is expected any more but the end.
            read = stream.async_io(Interest::READABLE, || match frames.read(stream.as_fd(), MESSAGE_LIMIT) {
                Err(FrameError::Io(error)) => Err(error),
                other => Ok(other),
            }) => { read??; }
        }
    }
}

/// What one who follows is told. Small, as there is room for many from the start.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) said: Arc<api::Followed>,
    /// Whose it is; others who are not operators do not see it.
    pub(super) client: Option<Arc<str>>,
    /// Everyone sees it.
    pub(super) public: bool,
}
