//! Several that do the same thing, measured in turns, so that whatever else the machine does meets all of them.

use std::time::{Duration, Instant};

/// What one contestant's turns took, in nanoseconds for each operation, in rising order.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Of turns in any order.
    #[must_use]
    pub fn new(mut turns: Vec<f64>) -> Self {
        turns.sort_by(f64::total_cmp);
        Self(turns)
    }

    /// The fastest turn: what it takes where nobody else wants the processor. 0 where there was none.
    #[must_use]
    pub fn best(&self) -> f64 {
        self.0.first().copied().unwrap_or(0.0)
    }

    /// The value below which `share` of the turns lie.
    #[must_use]
    pub fn quantile(&self, share: f64) -> f64 {
        let last = self.0.len().saturating_sub(1);
        self.0.get((last as f64 * share) as usize).copied().unwrap_or(0.0)
    }

    /// The middle one.
    #[must_use]
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }
}

/// One turn: how long it took, and how many operations it did.
pub type Turn = (Duration, u64);

/// A name, and what does and times one turn.
type Contestant<'a> = (&'static str, Box<dyn FnMut() -> Turn + 'a>);

/// Those who compete, by name.
#[derive(Default)]
pub struct Contest<'a> {
    contestants: Vec<Contestant<'a>>,
    /// Turns that everybody has one after the other, less one.
    more: u32,
}

impl<'a> Contest<'a> {
    /// Nobody yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets everybody have `turns` turns before it is the next one's: as many as bring what they work on into the processor's
    /// caches, from where the others have driven it.
    #[must_use]
    pub fn sitting(mut self, turns: u32) -> Self {
        self.more = turns.saturating_sub(1);
        self
    }

    /// Adds one whose turn `turn` does and counts: everything in it is timed.
    #[must_use]
    pub fn with(self, name: &'static str, mut turn: impl FnMut() -> u64 + 'a) -> Self {
        self.with_own_clock(name, move || {
            let start = Instant::now();
            let operations = turn();
            (start.elapsed(), operations)
        })
    }

    /// Adds one that says itself how long its turn took.
    #[must_use]
    pub fn with_own_clock(mut self, name: &'static str, turn: impl FnMut() -> Turn + 'a) -> Self {
        self.contestants.push((name, Box::new(turn)));
        self
    }

    /// Lets everybody have a turn, again and again for `length` all together, but 3 times at least after one that does not count.
    #[must_use]
    pub fn run(mut self, length: Duration) -> Outcome {
        let mut turns: Vec<Vec<f64>> = self.contestants.iter().map(|_| Vec::new()).collect();
        for (_, turn) in &mut self.contestants {
            turn();
        }
        let start = Instant::now();
        let mut round = 0;
        while round < 3 || start.elapsed() < length {
            for ((_, turn), turns) in self.contestants.iter_mut().zip(&mut turns) {
                for _ in 0..=self.more {
                    let (took, operations) = turn();
                    turns.push(took.as_secs_f64() * 1e9 / operations.max(1) as f64);
                }
            }
            round += 1;
        }
        let names = self.contestants.iter().map(|(name, _)| *name);
        Outcome(names.zip(turns.into_iter().map(Samples::new)).collect())
    }
}

/// Everybody's samples, in the order in which they were added.
#[derive(Clone, Debug)]
pub struct Outcome(Vec<(&'static str, Samples)>);

impl Outcome {
    /// Of the contestant called `name`; of nobody where there is none.
    #[must_use]
    pub fn of(&self, name: &str) -> Samples {
        self.0.iter().find(|(it, _)| *it == name).map(|(_, samples)| samples.clone()).unwrap_or_default()
    }

    /// The fastest turn of everybody but `ours`.
    #[must_use]
    pub fn peers(&self, ours: &str) -> Vec<(&'static str, f64)> {
        self.0
            .iter()
            .filter(|(name, _)| *name != ours)
            .map(|(name, samples)| (*name, samples.best()))
            .collect()
    }
}
