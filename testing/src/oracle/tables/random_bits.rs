//! Bad input: every field of every table entry and of every command, set to random bits.
//!
//! Each round takes valid tables, sets fields of some entries to random bits, and lets the reference say what must come of
//! it; and hands random commands to the unit. Beside, at every step, a neighbour reads and writes through tables that are right; then
//! another requester, whose tables lie where the others' were. Both must do what theirs say, with no record of a fault.

use super::bench::{Asked, Bench};
use super::neighbour::Neighbour;
use super::{Case, Change, Layout, Shape, Subject};
use crate::machine::{Machine, MachineError};
use crate::oracle::{Failure, Tally};
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::time::{Duration, Instant};

/// What the specification says of a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rule {
    /// It is done.
    Done,
    /// It is an error, which stops the queue at it.
    Error,
    /// Units may do either: reserved fields are set, or its operands are open.
    Either,
}

/// A command: its words, as many as the queue has.
pub type Command = [u64; 4];

/// An architecture whose model is to take anything.
pub trait BadInput: Subject {
    /// A machine with our model.
    type Model: Machine + Asked;

    /// The model with everything that it has.
    ///
    /// # Errors
    /// Where it can't be built.
    fn everything() -> Result<Bench<Self, Self::Model>, MachineError>;

    /// The same tables for another requester, reached by other entries of the table that the same registers lead to, and how many
    /// bytes that table has; `None` where it has no room.
    fn neighbour(shape: &Self::Shape) -> Option<(Self::Shape, u64)>;

    /// Tables of any shape.
    fn shape(random: &mut ChaCha8Rng) -> Self::Shape;

    /// What chooses a command, in its first word: the bits, and the values that are defined.
    const OPCODES: (u64, &'static [u64]);
    /// Where a command writes, were its words these.
    fn target(command: &Command) -> u64;

    /// What the specification says of a command.
    fn rule(command: &Command) -> Rule;

    /// Hand commands to the unit: how many it did, and whether it reported an error. The queue is empty and at its start before
    /// and afterwards.
    fn submit(machine: &Self::Model, commands: &[Command]) -> (usize, bool);
}

/// How much was tried, and the slowest round.
#[derive(Clone, Copy, Default, Debug)]
pub struct Tried {
    /// Entries that were set to random bits.
    pub entries: u64,
    /// Commands.
    pub commands: u64,
    /// Reads and writes of neighbours meanwhile.
    pub beside: u64,
    /// The longest that a round took.
    pub slowest: Duration,
}

/// Entries and commands that every run of an oracle tries.
pub const RANDOM_BITS: u64 = 200_000;

/// A round that takes longer is a failure: it takes some microseconds, and the machine may be busy.
const LONGEST: Duration = Duration::from_secs(20);
/// Bytes by which the process may grow.
const MOST_GROWTH: u64 = 512 << 20;
/// Commands of a round: they fit into every queue.
const MOST_COMMANDS: usize = 48;
/// Rounds on one model. A new one now and then, so that one begins with empty caches.
const ROUNDS_A_MODEL: u64 = 50_000;

/// Resident bytes of this process.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

/// A field of a word set to random bits: any stretch of it, or all of it.
fn random_field(random: &mut ChaCha8Rng) -> u64 {
    let bits = *[1, 1, 2, 3, 4, 6, 8, 12, 20, 44, 64].choose(random).unwrap_or(&64);
    let mask = if bits == 64 { u64::MAX } else { ((1 << bits) - 1) << random.random_range(0..=64 - bits) };
    random.random::<u64>() & mask
}

fn random_case<S: BadInput>(layout: Layout, random: &mut ChaCha8Rng) -> Case<S::Shape> {
    let shape = S::shape(random);
    let words = shape.words(layout).len();
    let count = *[1, 1, 2, 3, 4, 8, 16, 32, 64, 128].choose(random).unwrap_or(&1);
    let changes =
        (0..count).map(|_| Change { word: random.random_range(0..words), flip: random_field(random) });
    Case::with_changes(shape, changes.collect(), layout, random)
}

fn random_command<S: BadInput>(layout: Layout, random: &mut ChaCha8Rng) -> Command {
    let (mask, defined) = S::OPCODES;
    let opcode = defined.choose(random).copied().unwrap_or(0);
    let mut command = match random.random_range(0..16) {
        0 => [random.next_u64(), random.next_u64(), random.next_u64(), random.next_u64()],
        1 => [random.next_u64() & mask, 0, 0, 0],
        2 => [random.next_u64() & !mask | opcode, random.next_u64(), random.next_u64(), random.next_u64()],
        // A defined one, with some fields set.
        _ => [random_field(random) & !mask | opcode, random_field(random), 0, 0],
    };
    // What a command writes must hit neither tables nor queues: software's own mistake would show in another requester.
    let scratch = layout.data + 0x10_0000..layout.data + 0x11_0000;
    let base = layout.tables & !0xff_ffff;
    let is_ram = (base..base + crate::machine::ram::RAM_BYTES).contains(&S::target(&command));
    if is_ram && !scratch.contains(&S::target(&command)) {
        command[1] = 0;
        if S::target(&command) >= base && S::target(&command) < base + crate::machine::ram::RAM_BYTES {
            command[1] = scratch.start;
        }
    }
    command
}

/// Try, in two threads.
#[must_use]
pub fn run_both<S: BadInput>(entries: u64, seed: u64) -> Vec<Result<(Tally, Tried), Failure>> {
    let half = entries.div_ceil(2);
    std::thread::scope(|scope| {
        let threads = [seed, !seed].map(|seed| scope.spawn(move || run::<S>(half, seed)));
        threads.map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).into()
    })
}

/// Try until `entries` entries and commands were tried.
///
/// # Errors
/// The first round in which the model does not what the reference says.
pub fn run<S: BadInput>(entries: u64, seed: u64) -> Result<(Tally, Tried), Failure> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut bench = S::everything()?;
    let mut tried = Tried::default();
    let mut tally = Tally::default();
    let mut rounds = 0u64;
    let before = resident();
    while tried.entries + tried.commands < entries {
        let begun = Instant::now();
        let case = random_case::<S>(bench.layout, &mut random);
        let neighbour = Neighbour::<S>::settle(&bench, &case);
        let mut disturbed = None;
        let mut go_on = || {
            if let Some(Err(what)) = neighbour.as_ref().map(|neighbour| neighbour.go_on(&bench)) {
                disturbed.get_or_insert(what);
            }
        };
        let foreign = |at| neighbour.as_ref().is_some_and(|neighbour| neighbour.owns(at));
        let judged = bench.run_beside(&case, foreign, &mut go_on);
        let is_installed = judged.is_some();
        if let Some(judged) = judged {
            tried.entries += case.changes.len() as u64;
            tally.checks += 1;
            if judged.expected != judged.observed {
                return Err(Failure::Difference(bench.show(&case, &judged, "model")));
            }
        }
        let count = random.random_range(1..=MOST_COMMANDS);
        let commands: Vec<Command> =
            (0..count).map(|_| random_command::<S>(bench.layout, &mut random)).collect();
        let mut rest = &commands[..];
        while !rest.is_empty() {
            // Some at once, so that the neighbour comes in between.
            let some = &rest[..rest.len().min(random.random_range(1..=MOST_COMMANDS))];
            let (done, error) = S::submit(&bench.machine, some);
            check::<S>(some, done, error).map_err(Failure::Difference)?;
            // The one that is an error, too.
            rest = rest.get((done + usize::from(error)).max(1)..).unwrap_or_default();
            if is_installed {
                go_on();
            }
        }
        tried.commands += commands.len() as u64;
        if let Some(neighbour) = neighbour {
            tried.beside += neighbour.asked();
            neighbour.leave(&bench);
        }
        if let Some(what) = disturbed {
            let shown = case.show(bench.layout);
            return Err(Failure::Difference(format!("{what}\nbeside {commands:x?}\nand {shown}")));
        }
        // Another requester, with tables that are right.
        let shape = S::shape(&mut random);
        let start = shape.start(bench.layout);
        let case = Case { shape, changes: Vec::new(), read: start, write: start + 0x88 };
        if let Some(judged) = bench.run(&case)
            && judged.expected != judged.observed
        {
            let shown = bench.show(&case, &judged, "model");
            return Err(Failure::Difference(format!("after {commands:x?}\n{shown}")));
        }
        rounds += 1;
        tried.slowest = tried.slowest.max(begun.elapsed());
        if tried.slowest > LONGEST {
            return Err(Failure::Difference(format!("round {rounds} took {:?}", tried.slowest)));
        }
        let growth = resident().saturating_sub(before);
        if rounds.is_multiple_of(1000) && growth > MOST_GROWTH {
            return Err(Failure::Difference(format!("after {rounds} rounds {growth} bytes are in use more")));
        }
        if rounds.is_multiple_of(ROUNDS_A_MODEL) {
            bench = S::everything()?;
        }
    }
    Ok((tally, tried))
}

/// Whether a unit that did so many commands and then reported an error or none did what the specification says.
fn check<S: BadInput>(commands: &[Command], done: usize, error: bool) -> Result<(), String> {
    if let Some(wrong) = commands[..done.min(commands.len())].iter().find(|it| S::rule(it) == Rule::Error) {
        return Err(format!("command {wrong:x?} was done, and is an error"));
    }
    match commands.get(done) {
        Some(stopped) if !error => Err(format!("the queue stopped at {stopped:x?} without an error")),
        Some(stopped) if S::rule(stopped) == Rule::Done => Err(format!("command {stopped:x?} was refused")),
        None if error => Err(format!("an error was reported after {commands:x?}, all of which were done")),
        _ => Ok(()),
    }
}
