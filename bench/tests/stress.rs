//! The short form of `cargo xtask stress`: enough to meet a drain that does not wait or a walk that fills too late.

use portcullis_bench::machine::{Kind, riscv, smmuv3, vtd};
use portcullis_bench::stress::{Counts, run, run_nested};
use std::time::Duration;

/// On a busy machine the devices are behind, or the driver is.
fn is_enough(elapsed: Duration, counts: Counts) -> bool {
    let Counts { translations, unmaps, tables, .. } = counts;
    let least = translations > 1000 && unmaps > 200 && tables > 20;
    least && elapsed > Duration::from_secs(5) || translations > 200_000 && unmaps > 2000
}

fn judge(counts: Counts) {
    assert_eq!(counts.stale, 0, "{counts:?}");
}

fn nothing_is_stale<K: Kind>() {
    judge(run::<K>(is_enough));
}

#[test]
fn nothing_is_stale_on_vtd() {
    nothing_is_stale::<vtd::Legacy>();
}

#[test]
fn nothing_is_stale_on_vtd_in_scalable_mode() {
    nothing_is_stale::<vtd::Scalable>();
}

#[test]
fn nothing_is_stale_on_vtd_behind_a_guest() {
    judge(run_nested(is_enough));
}

#[test]
fn nothing_is_stale_on_smmuv3() {
    nothing_is_stale::<smmuv3::Smmuv3>();
}

#[test]
fn nothing_is_stale_on_riscv() {
    nothing_is_stale::<riscv::Riscv>();
}
