//! Waiting for registers.

use core::time::Duration;

use crate::error::UnitError;
use crate::platform::Clock;

/// Waits until `done`, which reads `register`.
///
/// # Errors
/// [`UnitError::RegisterTimeout`] after `timeout`.
pub(crate) fn wait(
    clock: &impl Clock,
    timeout: Duration,
    register: &'static str,
    done: impl Fn() -> bool,
) -> Result<(), UnitError> {
    let start = clock.now();
    while !done() {
        let waited = clock.now().saturating_sub(start);
        if waited >= timeout {
            return Err(UnitError::RegisterTimeout { register, waited });
        }
        clock.relax();
    }
    Ok(())
}
