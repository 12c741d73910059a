//! The short form of `cargo xtask stress`: enough to meet a drain that does not wait or a walk that fills too late.

use portcullis_bench::machine::{Kind, riscv, smmuv3, vtd};
use portcullis_bench::stress::run;
use std::time::Duration;

fn nothing_is_stale<K: Kind>() {
    let counts = run::<K>(|elapsed, counts| {
        elapsed > Duration::from_secs(5) || counts.translations > 200_000 && counts.unmaps > 2000
    });
    assert_eq!(counts.stale, 0, "of {} translations, {} unmaps", counts.translations, counts.unmaps);
    assert!(counts.translations > 0);
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
fn nothing_is_stale_on_smmuv3() {
    nothing_is_stale::<smmuv3::Smmuv3>();
}

#[test]
fn nothing_is_stale_on_riscv() {
    nothing_is_stale::<riscv::Riscv>();
}
