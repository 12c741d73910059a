//! Where QEMU 10.0.2's `arm-smmuv3` departs from the specification.

use super::judge::Smmuv3;
use crate::oracle::tables::departures::Departure;

/// Every departure. Those that only translate come first.
pub const DEPARTURES: &[Departure<Smmuv3>] = &[];
