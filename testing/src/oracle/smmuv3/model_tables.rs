//! Tables of SMMUv3 before our model, judged by the reference: every shape that there is.

use super::judge::{self, Smmuv3};
use super::shapes::Limits;
use super::tables::{Config, Shape};
use crate::machine::MachineError;
use crate::machine::smmuv3::{Smmuv3Machine, model};
use crate::oracle::tables::bench::{Bench, ask};
use crate::oracle::tables::run::on_model;
use crate::oracle::{Failure, Tally};
use portcullis_model::smmuv3::config::{Smmuv3Config, StallModel};
use rand::seq::IndexedRandom as _;
use rand::{Rng, RngExt as _};

/// A model of this configuration, with its queues.
///
/// # Errors
/// Where it can't be built.
pub fn bench(config: Smmuv3Config) -> Result<Bench<Smmuv3, Smmuv3Machine>, MachineError> {
    let machine = model(config)?;
    let unit = judge::enable(&machine);
    Ok(Bench::new(machine, unit, ask::<Smmuv3, _>))
}

/// Everything, but nothing stalls: the thread that drives the device would wait.
#[must_use]
pub fn everything() -> Smmuv3Config {
    Smmuv3Config { stall_model: StallModel::Terminate, stall_max: 0, ..Smmuv3Config::full() }
}

const LIMITS: Limits =
    Limits { granules: &[12, 14, 16], bits: (25, 48), output: 48, flags: 2, both_endians: true };

/// A shape that the unit with everything has.
pub fn random_shape(random: &mut impl Rng) -> Shape {
    use Config::{Abort, Bypass, Nested, Stage1, Stage2};
    let configs = [Abort, Bypass, Stage1, Stage1, Stage1, Stage2, Stage2, Nested, Nested, Nested];
    let shape = LIMITS.shape(*configs.choose(random).unwrap_or(&Bypass), random);
    let stream = *[0, 0x3f, 0xa8, 0x1ff, 0xffff].choose(random).unwrap_or(&0);
    let least = u32::BITS - u32::leading_zeros(stream);
    let split =
        if least > 9 || random.random() { Some(*[6, 8, 10].choose(random).unwrap_or(&8)) } else { None };
    let most = if split.is_some() { 16 } else { 9 };
    // Few, so that a linear table is small.
    let cdmax = if shape.config.stage1() && random.random() { random.random_range(1..=12) } else { 0 };
    let s1fmt = if cdmax == 0 { 0 } else { random.random_range(u8::from(cdmax > 6)..3) };
    let s1dss = random.random_range(0..3);
    let with_substream = cdmax > 0 && (s1dss != 2 || random.random());
    let least_substream = u32::from(s1dss == 2);
    let substream = with_substream.then(|| random.random_range(least_substream..1 << cdmax));
    Shape {
        stream,
        split,
        log2size: random.random_range(least as u8..=most),
        substream,
        cdmax,
        s1fmt,
        s1dss,
        overrides: if random.random_ratio(1, 4) { random.random_range(0..16) } else { 0 },
        privileged: substream.is_some() && random.random_ratio(1, 4),
        ..shape
    }
}

/// Judge `cases` random cases on models with everything.
///
/// # Errors
/// The simplest case in which the model does not what the specification says.
pub fn run(cases: u64, seed: u64) -> Result<Tally, Failure> {
    on_model(|_| bench(everything()), &mut |random| random_shape(random), (cases, seed))
}
