//! The remapping hardware registers (VT-d 11.4), each a type named as the specification names the register, and
//! their offsets.

mod capability;
mod command;
mod fault_event;
mod invalidation;
mod memory;
pub mod offset;
mod page_request;

pub use capability::{Cap, Ecap, Ver};
pub use command::{Ccmd, CcmdGranularity, Gcmd, Gsts, Rtaddr, Ttm};
pub use fault_event::{Aflog, EventAddress, EventControl, EventData, FrcdHigh, FrcdLow, Fsts};
pub use invalidation::{Ics, Iotlb, IotlbGranularity, Iqa, Iqei, Iqercd, Iqh, Iqt, Irta, Iva};
pub use memory::{Phmbase, Phmlimit, Plmbase, Plmlimit, Pmen};
pub use page_request::{Pqa, Pqh, Pqt, Prs};
