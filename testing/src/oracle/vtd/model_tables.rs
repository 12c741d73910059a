//! Hand-made tables before our model, judged by the reference: every shape that there is.

use super::judge::{self, Vtd};
use super::tables::{Kind, Shape};
use crate::machine::MachineError;
use crate::machine::vtd::{VtdMachine, model};
use crate::oracle::tables::bench::{Bench, ask};
use crate::oracle::tables::run::on_model;
use crate::oracle::{Failure, Tally};
use portcullis_model::vtd::config::VtdConfig;
use rand::seq::IndexedRandom as _;
use rand::{Rng, RngExt as _};

/// A model of this configuration, with translation in force.
///
/// # Errors
/// Where it can't be built.
pub fn bench(config: VtdConfig) -> Result<Bench<Vtd, VtdMachine>, MachineError> {
    let haw = u32::from(config.host_address_bits);
    let machine = model(config)?;
    judge::enable(&machine);
    let unit = judge::unit(&machine, haw);
    Ok(Bench::new(machine, unit, ask::<Vtd, _>))
}

/// A shape that a unit with everything has.
pub fn random_shape(random: &mut impl Rng) -> Shape {
    let kinds = [
        Kind::Legacy,
        Kind::LegacyPassThrough,
        Kind::First,
        Kind::First,
        Kind::Second,
        Kind::Nested,
        Kind::Nested,
        Kind::PassThrough,
    ];
    let kind = *kinds.choose(random).unwrap_or(&Kind::Legacy);
    let first_levels = random.random_range(4..=5);
    // 9.3: the largest width, where addresses pass unchanged.
    let passes = matches!(kind, Kind::LegacyPassThrough | Kind::PassThrough);
    let second_levels = if passes { 5 } else { random.random_range(3..=5) };
    let with_pasid = kind.is_scalable() && random.random();
    let address = *[0, 0x4000_0000, 0x3f_c000_0000, 0x7f_c000_0000].choose(random).unwrap_or(&0);
    // The upper half of canonical addresses, where a first stage alone decides.
    let upper = kind == Kind::First && random.random_ratio(1, 4);
    let pasid = with_pasid.then(|| *[0, 1, 63, 64, 0x1234, 0x1fff].choose(random).unwrap_or(&0));
    Shape {
        kind,
        first_levels,
        second_levels,
        leaf: random.random_range(0..3),
        flags: random.random(),
        snoop: random.random_ratio(7, 8),
        requester_id: *[0x10, 0x19, 0xa8, 0x100, 0xfff8].choose(random).unwrap_or(&0x10),
        pasid,
        privileged: pasid.is_some() && random.random_ratio(1, 4),
        address: if upper { address | u64::MAX << (11 + 9 * first_levels) } else { address },
    }
}

/// A unit with everything, and one fault record, so that the first fault of a case is the one that is kept.
#[must_use]
pub fn everything() -> VtdConfig {
    VtdConfig { fault_records: 1, ..VtdConfig::full() }
}

/// Judge `cases` random cases on models with everything.
///
/// # Errors
/// The simplest case in which the model does not what the specification says.
pub fn run(cases: u64, seed: u64) -> Result<Tally, Failure> {
    on_model(|_| bench(everything()), &mut |random| random_shape(random), (cases, seed))
}
