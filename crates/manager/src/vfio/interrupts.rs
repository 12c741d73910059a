//! Interrupts that are not isolated.
//!
//! Where interrupts are not remapped, a device that may write to the interrupt controller's address can raise any interrupt of
//! the host. VFIO then refuses unless its module's `allow_unsafe_interrupts` is set, for everybody and for good. The core
//! asks for such a device only where configuration accepts that by name; here the parameter is set for the one call that needs it.

use std::fs;
use std::io;
use std::path::Path;

use rustix::io::Errno;

use super::kernel::Kernel;
use super::sysfs;

const PARAMETER: &str = "/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts";
/// In the runtime folder while the parameter is set by us: what it was.
const RECORD: &str = "allow_unsafe_interrupts";

/// Does `join`, if need be with unsafe interrupts allowed for as long as it takes.
pub(super) fn allowing(
    kernel: &dyn Kernel,
    runtime: &Path,
    join: impl Fn() -> io::Result<()>,
) -> io::Result<()> {
    match join() {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::PERM) => {}
        other => return other,
    }
    let before = sysfs::text(kernel, PARAMETER)?;
    fs::create_dir_all(runtime)?;
    fs::write(runtime.join(RECORD), &before)?;
    kernel.write(Path::new(PARAMETER), "Y")?;
    let joined = join();
    recover(kernel, runtime)?;
    joined
}

/// Sets the parameter back where a manager, this one or one that crashed, had set it.
pub(super) fn recover(kernel: &dyn Kernel, runtime: &Path) -> io::Result<()> {
    let record = runtime.join(RECORD);
    let before = match fs::read_to_string(&record) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    kernel.write(Path::new(PARAMETER), before.trim())?;
    fs::remove_file(record)
}
