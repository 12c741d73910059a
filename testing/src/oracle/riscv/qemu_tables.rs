//! Tables of the RISC-V IOMMU before QEMU, judged by the reference, and the departures that QEMU is known for.

use super::departures::DEPARTURES;
use super::judge::{self, Riscv};
use super::shapes::Limits;
use super::tables::Shape;
use crate::machine::MachineError;
use crate::machine::qemu::QemuMachine;
use crate::machine::riscv::{Stages, board, requester};
use crate::oracle::tables::bench::{Bench, touch};
use crate::oracle::tables::run::{assert_departures as assert, on_qemu};
use crate::oracle::tables::{Case, Word};
use crate::oracle::{Failure, Tally};
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

fn start(stages: Stages) -> Result<Bench<Riscv, QemuMachine>, MachineError> {
    let board = board(stages);
    let machine = QemuMachine::start(&board, requester)?;
    let unit = judge::enable(&machine, false);
    let mut bench = Bench::new(machine, unit, touch);
    // Devices, and what PCI has above 4 GiB.
    bench.elsewhere = vec![0..board.ram, 0x4_0000_0000..0x8_0000_0000];
    Ok(bench)
}

const fn limits(stages: Stages) -> Limits {
    let levels = &[0, 3, 3, 4, 4, 5];
    Limits {
        devices: &[0xa8],
        first: if matches!(stages, Stages::Second) { &[0] } else { levels },
        second: if matches!(stages, Stages::First) { &[0] } else { levels },
        processes: &[0, 0, 0, 1],
        with_process: false,
        flags: false,
        big_endian: false,
        both_endians: false,
        extended: matches!(stages, Stages::Extended),
    }
}

/// Whether the reference can judge: QEMU has Sv32, which SXL asks for, and the reference has not; and of its MSI page tables devices
/// see nothing (see below).
fn is_judged(words: &[Word]) -> bool {
    words.iter().all(|word| match word.name {
        "device context, tc" => word.value >> 11 & 1 == 0,
        "device context, msiptp" => word.value >> 60 != 1,
        _ => true,
    })
}

/// Judge `cases` random cases.
///
/// # Errors
/// The simplest case in which QEMU does what neither the specification nor a known departure says, or why QEMU can't be
/// asked.
pub fn run(stages: Stages, cases: u64, seed: u64) -> Result<Tally, Failure> {
    // QEMU does not know Svnapot; see the departures.
    let draw = &mut |random: &mut ChaCha8Rng| {
        // To its MSI page tables come only messages that name their sender, which DMA of its devices does not.
        let shape = Shape { napot: false, files: false, ..limits(stages).shape(random) };
        // Nor does it find process directories through a second stage.
        let processes = if shape.second > 0 && random.random_ratio(7, 8) { 0 } else { shape.processes };
        Shape { processes, ..shape }
    };
    on_qemu(&start(stages)?, DEPARTURES, (draw, is_judged), (cases, seed))
}

/// Make sure that QEMU still departs from the specification where it is said to.
///
/// # Errors
/// The departures that it no longer shows.
pub fn assert_departures() -> Result<Tally, Failure> {
    let benches =
        [start(Stages::First)?, start(Stages::Second)?, start(Stages::Both)?, start(Stages::Extended)?];
    let layout = benches[0].layout;
    let bench = |case: &Case<Shape>| match (case.shape.first, case.shape.second) {
        _ if case.shape.extended => &benches[3],
        (_, 0) => &benches[0],
        (0, _) => &benches[1],
        _ => &benches[2],
    };
    assert(DEPARTURES, bench, layout)
}
