//! Hand-made tables before our model, judged by the reference: every shape that there is.

use super::judge::{self, Outcome};
use super::qemu_tables::LAYOUT;
use super::tables::{Case, Kind, Shape};
use crate::machine::model::Sender;
use crate::machine::vtd::{VtdMachine, model, requester};
use crate::machine::{Machine as _, MachineError, Touch};
use crate::oracle::shrink::simplest;
use crate::oracle::{Failure, Tally};
use crate::reference::vtd::Unit;
use portcullis_model::vtd::config::VtdConfig;
use portcullis_spec::{Pasid, PhysAddr};
use rand::seq::IndexedRandom as _;
use rand::{Rng, RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// A model and what it says of itself.
pub struct Bench {
    machine: VtdMachine,
    unit: Unit,
    pattern: Vec<u8>,
}

impl Bench {
    /// A model of this configuration.
    ///
    /// # Errors
    /// Where it can't be built.
    pub fn new(config: VtdConfig) -> Result<Self, MachineError> {
        let haw = u32::from(config.host_address_bits);
        let machine = model(config)?;
        let pattern = judge::pattern(LAYOUT);
        machine.ram().write(PhysAddr(LAYOUT.data), &pattern);
        judge::enable(&machine);
        let unit = judge::unit(&machine, haw);
        Ok(Self { machine, unit, pattern })
    }

    /// What the specification says of a case and what the model does; `None` where the case can't be judged.
    pub fn run(&self, case: &Case) -> Option<(Outcome, Outcome)> {
        let ram = self.machine.ram();
        let tables = case.tables(LAYOUT);
        judge::put(ram, &tables);
        let expected = judge::expect(&self.unit, ram, case, tables.root, LAYOUT);
        let outcomes = expected.map(|(expected, refused)| {
            judge::set_root(&self.machine, tables.root);
            let (case, data) = ((case, &tables), (LAYOUT, &self.pattern[..]));
            let observed = judge::observe(&self.machine, &self.unit, case, data, refused, &ask);
            (expected, observed)
        });
        judge::clear(ram, &tables);
        outcomes
    }

    fn differs(&self, case: &Case) -> bool {
        self.run(case).is_some_and(|(expected, observed)| expected != observed)
    }
}

fn ask(machine: &VtdMachine, case: &Case) -> u8 {
    let sender = Sender {
        requester: requester(case.shape.requester_id),
        pasid: case.shape.pasid.and_then(Pasid::new),
        privileged: case.privileged,
    };
    machine.touch_as(sender, Touch { read: case.read, write: case.write })
}

/// A shape that a unit with everything has.
fn random_shape(random: &mut impl Rng) -> Shape {
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
    Shape {
        kind,
        first_levels,
        second_levels,
        leaf: random.random_range(0..3),
        flags: random.random(),
        snoop: random.random_ratio(7, 8),
        requester_id: *[0x10, 0x19, 0xa8, 0x100, 0xfff8].choose(random).unwrap_or(&0x10),
        pasid: with_pasid.then(|| *[0, 1, 63, 64, 0x1234, 0x1fff].choose(random).unwrap_or(&0)),
        address: if upper { address | u64::MAX << (11 + 9 * first_levels) } else { address },
    }
}

/// A unit with everything, and one fault record, so that the first fault of a case is the one that is kept.
fn everything() -> VtdConfig {
    VtdConfig { fault_records: 1, ..VtdConfig::full() }
}

/// Cases on one model. A new one now and then, so that what one case leaves in caches does not add up.
const CASES_A_MODEL: u64 = 2000;

/// Judge `cases` random cases on models with everything.
///
/// # Errors
/// The simplest case in which the model does not what the specification says.
pub fn run(cases: u64, seed: u64) -> Result<Tally, Failure> {
    let mut bench = Bench::new(everything())?;
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut tally = Tally::default();
    while tally.checks < cases {
        let case = Case::random(random_shape(&mut random), LAYOUT, &mut random);
        let Some((expected, observed)) = bench.run(&case) else { continue };
        if expected == observed {
            tally.checks += 1;
            tally.by_reference += 1;
            if tally.checks.is_multiple_of(CASES_A_MODEL) {
                bench = Bench::new(everything())?;
            }
            continue;
        }
        let case = simplest(case, Case::simpler, |case| bench.differs(case));
        let (expected, observed) = bench.run(&case).unwrap_or((expected, observed));
        return Err(Failure::Difference(format!(
            "{case}\n  specification: {expected:x?}\n  model: {observed:x?}"
        )));
    }
    Ok(tally)
}
