//! The frame itself: every machine boots, and has the IOMMU that it should.

use super::Suite;
use crate::machine::{Iommu, Machine};

/// The suite `boot`.
pub(crate) struct Boot;

impl Suite for Boot {
    fn name(&self) -> &'static str {
        "boot"
    }

    fn about(&self) -> &'static str {
        "every machine boots with the IOMMU it should have, and VFIO loads"
    }

    fn machines(&self) -> Vec<Machine> {
        Iommu::ALL.map(|iommu| Machine::new(iommu).with("-device edu")).into()
    }
}
