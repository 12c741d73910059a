//! The manager: what is wanted of its speed, its idleness and its size. Its requests are measured on the program itself, over its
//! socket, on a simulated machine of 1,000 devices; its journal in this process.

mod process;
mod requests;
mod violations;

use crate::Effort;
use anyhow::Result;
use portcullis_bench::result::Row;
use process::Service;

/// Devices of the machine.
const DEVICES: u32 = 1000;

/// Requests, memory and idleness.
pub(crate) fn service(effort: Effort) -> Vec<Row> {
    let measure = || -> Result<Vec<Row>> {
        let service = Service::start(DEVICES)?;
        let mut rows = process::rows(&service, effort)?;
        rows.extend(requests::rows(&service, effort)?);
        rows.push(process::after_all(&service)?);
        Ok(rows)
    };
    measure().unwrap_or_else(|error| panic!("the service: {error:?}"))
}

/// A flood of violations.
pub(crate) fn violations(effort: Effort) -> Vec<Row> {
    violations::rows(effort).unwrap_or_else(|error| panic!("violations: {error:?}"))
}
