//! Threads that run only where nobody else wants to.
#![allow(unsafe_code)]

use std::io;

/// From now on this thread has what the others leave of a processor, and gives way at once (Linux SCHED_IDLE).
///
/// # Errors
/// The kernel's.
pub fn take_only_leftovers() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the parameters live for the call; it changes nothing but how the calling thread is scheduled.
    match unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
