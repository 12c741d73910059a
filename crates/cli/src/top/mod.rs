//! `portcullis top`.

mod sample;
mod state;
mod view;

use std::{
    io::{IsTerminal, stdout},
    time::{Duration, Instant},
};

use ratatui::crossterm::event::{self, Event, KeyEventKind};

use crate::{
    exit::{Exit, Failure},
    output::Output,
    service::At,
};
use sample::Source;
use state::{State, Then};

/// Watch devices: who has them, DMA requests and refused accesses a second, and the newest of those.
///
/// Where nobody looks (standard output is no terminal) it prints one table and ends; with --json a line for every interval.
///
/// Keys: q ends; the arrows up and down choose a device, Enter shows only its refused accesses; the arrows left and right choose
/// the column to sort by, r turns the order round; p pauses.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Seconds between two looks, and over which rates are taken.
    #[arg(short, long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    interval: Duration,
    /// End after so many looks.
    #[arg(short = 'n', long, value_name = "LOOKS")]
    count: Option<u64>,
    #[command(flatten)]
    at: At,
}

fn interval(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("write seconds, from 0.1 to 3600".into()),
    }
}

pub(crate) fn run(arguments: &Args, output: &mut Output) -> Result<Exit, Failure> {
    let mut source = Source::connect(&arguments.at)?;
    let mut state = State::new(arguments.interval);
    state.take(source.sample()?);
    if !output.json() && stdout().is_terminal() {
        return live(arguments, source, state);
    }
    // A rate needs two looks.
    let mut left = arguments.count.or(if output.json() { None } else { Some(1) });
    while left != Some(0) {
        std::thread::sleep(arguments.interval);
        state.take(source.sample()?);
        output.show(&state.report(), |_, out| view::plain(&state, out))?;
        left = left.map(|left| left - 1);
    }
    Ok(Exit::Done)
}

fn live(arguments: &Args, mut source: Source<'_>, mut state: State) -> Result<Exit, Failure> {
    let mut terminal = ratatui::try_init()?;
    let mut watch = || -> Result<Exit, Failure> {
        let mut due = Instant::now() + arguments.interval;
        let mut left = arguments.count;
        loop {
            terminal.draw(|frame| view::draw(frame, &mut state))?;
            if left == Some(0) {
                return Ok(Exit::Done);
            }
            if event::poll(due.saturating_duration_since(Instant::now()))?
                && let Event::Key(key) = event::read()?
                && key.kind != KeyEventKind::Release
                && state.key(key) == Then::End
            {
                return Ok(Exit::Done);
            }
            if Instant::now() >= due {
                due = Instant::now() + arguments.interval;
                left = left.map(|left| left - 1);
                if !state.paused {
                    match source.sample() {
                        Ok(sample) => state.take(sample),
                        // What was seen last stays, until the service is back.
                        Err(failure) => state.trouble = Some(failure.error.to_string()),
                    }
                }
            }
        }
    };
    let ended = watch();
    ratatui::restore();
    ended
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    #[test]
    fn an_interval_is_neither_nothing_nor_for_ever() {
        assert_eq!(super::interval("0.5"), Ok(Duration::from_millis(500)));
        for text in ["0", "-1", "0.01", "1e9", "NaN", "inf", "x"] {
            assert!(super::interval(text).is_err(), "{text}");
        }
    }
}
