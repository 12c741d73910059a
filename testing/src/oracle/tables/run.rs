//! Random cases, one after the other.

use super::bench::Bench;
use super::departures::{Departure, Evidence, Verdict};
use super::{Case, Layout, Subject, Word};
use crate::machine::{Machine, MachineError};
use crate::oracle::shrink::simplest;
use crate::oracle::{Failure, Tally};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

/// Whether a machine can be asked about these tables.
pub type Survives = fn(&[Word]) -> bool;

/// How a shape is drawn.
pub type Draw<'a, S> = dyn FnMut(&mut ChaCha8Rng) -> <S as Subject>::Shape + 'a;

fn health<M: Machine>(machine: &M) -> Result<(), Failure> {
    machine.health().map_err(|reason| Failure::Difference(format!("QEMU failed: {reason}")))
}

/// Differences that one comparison shows before it ends.
const MOST_DIFFERENCES: usize = 4;

/// Judge `cases` random cases of QEMU by the reference. `survives` says before which tables QEMU does not abort.
///
/// # Errors
/// The simplest case in which QEMU does what neither the specification nor a known departure says, or why QEMU can't be
/// asked.
pub fn on_qemu<S: Subject, M: Machine>(
    bench: &Bench<S, M>,
    departures: &'static [Departure<S>],
    (draw, survives): (&mut Draw<'_, S>, Survives),
    (cases, seed): (u64, u64),
) -> Result<Tally, Failure> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut tally = Tally::default();
    let run = |case: &Case<S::Shape>| {
        let words = case.words(bench.layout);
        survives(&words).then(|| bench.run(case)).flatten()
    };
    let mut differences = Vec::new();
    while tally.checks < cases && differences.len() < MOST_DIFFERENCES {
        let case = Case::random(draw(&mut random), bench.layout, &mut random);
        let Some(judged) = run(&case) else { continue };
        match Evidence::new(&case, &judged).verdict(departures) {
            Verdict::Same => tally.checks += 1,
            Verdict::Departs(departure) => *tally.departures.entry(departure.what).or_default() += 1,
            Verdict::Differs => {
                health(&bench.machine)?;
                let differs = |case: &Case<S::Shape>| {
                    let judged = run(case);
                    judged.is_some_and(|judged| {
                        matches!(Evidence::new(case, &judged).verdict(departures), Verdict::Differs)
                    })
                };
                let case = simplest(case, Case::simpler, differs);
                let judged = run(&case).unwrap_or(judged);
                differences.push(bench.show(&case, &judged, "QEMU"));
            }
        }
    }
    health(&bench.machine)?;
    if differences.is_empty() { Ok(tally) } else { Err(Failure::Difference(differences.join("\n"))) }
}

/// Make sure that QEMU still departs from the specification where it is said to. `benches` has a machine for each case.
///
/// # Errors
/// The departures that it no longer shows.
pub fn assert_departures<'b, S, M>(
    departures: &'static [Departure<S>],
    bench_of: impl Fn(&Case<S::Shape>) -> &'b Bench<S, M>,
    layout: Layout,
) -> Result<Tally, Failure>
where
    S: Subject,
    M: Machine + 'b,
{
    let mut gone = Vec::new();
    let mut tally = Tally::default();
    for departure in departures {
        let case = (departure.example)(layout);
        let bench = bench_of(&case);
        let Some(judged) = bench.run(&case) else {
            return Err(Failure::Difference(format!("can't be run: {}", case.show(layout))));
        };
        health(&bench.machine)?;
        if Evidence::new(&case, &judged).shows(departure, departures) {
            *tally.departures.entry(departure.what).or_default() += 1;
        } else {
            let shown = bench.show(&case, &judged, "QEMU");
            gone.push(format!("QEMU no longer {}:\n{shown}", departure.what));
        }
    }
    if gone.is_empty() { Ok(tally) } else { Err(Failure::Difference(gone.join("\n"))) }
}

/// Cases on one model. A new one now and then, so that what one case leaves in caches does not add up.
const CASES_A_MODEL: u64 = 2000;

/// Judge `cases` random cases of our model by the reference.
///
/// # Errors
/// The simplest case in which the model does not what the specification says.
pub fn on_model<S: Subject, M: Machine>(
    make: impl Fn(&mut ChaCha8Rng) -> Result<Bench<S, M>, MachineError>,
    draw: &mut Draw<'_, S>,
    (cases, seed): (u64, u64),
) -> Result<Tally, Failure> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut bench = make(&mut random)?;
    let mut tally = Tally::default();
    while tally.checks < cases {
        let case = Case::random(draw(&mut random), bench.layout, &mut random);
        let Some(judged) = bench.run(&case) else { continue };
        if judged.expected == judged.observed {
            tally.checks += 1;
            tally.by_reference += 1;
            if tally.checks.is_multiple_of(CASES_A_MODEL) {
                bench = make(&mut random)?;
            }
            continue;
        }
        let differs =
            |case: &Case<S::Shape>| bench.run(case).is_some_and(|judged| judged.expected != judged.observed);
        let case = simplest(case, Case::simpler, differs);
        let judged = bench.run(&case).unwrap_or(judged);
        return Err(Failure::Difference(bench.show(&case, &judged, "model")));
    }
    Ok(tally)
}
