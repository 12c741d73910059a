//! The manager: what issue 6 asks of its speed, its idleness and its size, measured on the program itself over its socket, and on its
//! journal in this process. Exits with 1 where a figure is missed.
//!
//! `cargo bench --bench manager`; a word behind `--` chooses the rows whose names hold it. An idle half minute is among them.

mod process;
mod requests;
mod rows;
mod violations;

use std::process::ExitCode;

use anyhow::Result;
use process::Service;
use rows::Rows;

/// Devices of the machine that the service guards.
const DEVICES: u32 = 1000;

fn main() -> ExitCode {
    match measure() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:?}");
            ExitCode::FAILURE
        }
    }
}

fn measure() -> Result<bool> {
    let mut rows = Rows::chosen();
    if rows.wants(&[process::SIZE, process::SIZE_FULL, process::IDLE, process::SWITCHES])
        || rows.wants(&requests::NAMES)
    {
        let service = Service::start(DEVICES)?;
        process::size(&service, &mut rows)?;
        process::idle(&service, &mut rows)?;
        requests::measure(&service, &mut rows)?;
        process::size_after_all(&service, &mut rows)?;
    }
    if rows.wants(&violations::NAMES) {
        violations::measure(&mut rows)?;
    }
    Ok(rows.all_met())
}
