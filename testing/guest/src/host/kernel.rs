//! Debian's kernels, unpacked into a cache and never installed.

use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The series that the guests run. Bookworm has it in its backports, trixie in the release.
const SERIES: &str = "6.12.";

/// Which of Debian's builds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flavour {
    /// Small and quick to boot; NVMe is built in; no AMD IOMMU.
    Cloud,
    /// For every machine; AMD IOMMU; NVMe is a module.
    Plain,
}

impl Flavour {
    /// The package that depends on the newest kernel of this flavour.
    fn package(self) -> &'static str {
        match self {
            Self::Cloud => "linux-image-cloud-amd64",
            Self::Plain => "linux-image-amd64",
        }
    }

    /// Modules in the order in which they load, as paths below the release's `kernel` folder. Each stands after what
    /// it depends on, which the packages do not say (depmod runs on installation).
    pub(crate) fn modules(self) -> &'static [&'static str] {
        const VFIO: &[&str] = &[
            "virt/lib/irqbypass",
            "drivers/vfio/vfio",
            "drivers/vfio/vfio_iommu_type1",
            "drivers/vfio/pci/vfio-pci-core",
            "drivers/vfio/pci/vfio-pci",
        ];
        const PLAIN: &[&str] = &[
            "virt/lib/irqbypass",
            "drivers/vfio/vfio",
            "drivers/vfio/vfio_iommu_type1",
            "drivers/vfio/pci/vfio-pci-core",
            "drivers/vfio/pci/vfio-pci",
            "drivers/nvme/common/nvme-auth",
            "drivers/nvme/host/nvme-core",
            "drivers/nvme/host/nvme",
            "drivers/net/ethernet/intel/e1000e/e1000e",
        ];
        match self {
            Self::Cloud => VFIO,
            Self::Plain => PLAIN,
        }
    }
}

/// An unpacked kernel.
pub(crate) struct Kernel {
    /// The bootable image.
    pub(crate) image: PathBuf,
    /// The folder below which [`Flavour::modules`] lie.
    pub(crate) modules: PathBuf,
}

/// The kernel of this flavour: from `cache` if it is there, otherwise downloaded with apt.
///
/// # Errors
///
/// Apt knows no such package, or the download or the unpacking fails.
pub(crate) fn obtain(flavour: Flavour, cache: &Path) -> Result<Kernel> {
    let folder = cache.join(flavour.package());
    if !folder.is_dir() {
        download(flavour, cache, &folder).with_context(|| format!("obtaining {}", flavour.package()))?;
    }
    let release = only_entry(&folder.join("lib/modules"))?;
    let name = release.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(Kernel { image: folder.join("boot").join(format!("vmlinuz-{name}")), modules: release.join("kernel") })
}

fn download(flavour: Flavour, cache: &Path, folder: &Path) -> Result<()> {
    let shown = Command::new("apt-cache").args(["show", flavour.package()]).output().context("apt-cache")?;
    let shown = String::from_utf8_lossy(&shown.stdout);
    let Some(package) = newest(&shown) else {
        bail!(
            "apt knows no {} of series {SERIES}x: `cargo xtask guest` as root adds backports",
            flavour.package()
        );
    };
    println!("guest: downloading {package}");
    // Beside the folder, so that an interrupted run leaves nothing that looks whole.
    let staging = cache.join(format!("{}.partial", flavour.package()));
    if staging.exists() {
        fs::remove_dir_all(&staging)?;
    }
    fs::create_dir_all(&staging)?;
    succeed(
        Command::new("apt-get")
            .args(["--quiet=2", "-o", "APT::Sandbox::User=root", "download", &package])
            .current_dir(&staging),
    )?;
    let archive = only_entry(&staging)?;
    let root = staging.join("root");
    succeed(Command::new("dpkg-deb").arg("--extract").arg(&archive).arg(&root))?;
    fs::rename(&root, folder)?;
    fs::remove_dir_all(&staging)?;
    Ok(())
}

/// From what `apt-cache show` prints, newest version first: the kernel of our series, as `PACKAGE=VERSION`.
fn newest(shown: &str) -> Option<String> {
    shown.split("\n\n").find_map(|stanza| {
        let field = |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let version = field("Version")?;
        let depends = field("Depends")?;
        let package = depends.split([' ', ',']).find(|word| word.starts_with("linux-image-"))?;
        version.starts_with(SERIES).then(|| format!("{package}={version}"))
    })
}

fn only_entry(folder: &Path) -> Result<PathBuf> {
    let mut entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    match (entries.next().transpose()?, entries.next().is_none()) {
        (Some(entry), true) => Ok(entry.path()),
        _ => bail!("{} should hold exactly one entry", folder.display()),
    }
}

fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{command:?}"))?;
    if !status.success() {
        bail!("{command:?}: {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::newest;

    #[test]
    fn package_is_read_from_the_stanza_of_our_series() {
        let shown = "\
Package: linux-image-cloud-amd64
Source: linux-signed-amd64 (6.1.192+2)
Version: 6.1.192-2
Depends: linux-image-6.1.0-50-cloud-amd64 (= 6.1.192-2)

Package: linux-image-cloud-amd64
Version: 6.12.95-1~bpo12+1
Installed-Size: 13
Depends: linux-image-6.12.95+deb12-cloud-amd64 (= 6.12.95-1~bpo12+1)
";
        assert_eq!(newest(shown).as_deref(), Some("linux-image-6.12.95+deb12-cloud-amd64=6.12.95-1~bpo12+1"));
        assert_eq!(newest("Package: x\nVersion: 6.1.1\nDepends: linux-image-6.1.0\n"), None);
    }
}
