//! The frame itself: the machine is the one that its name says.

use crate::case::{Case, On, World};
use anyhow::{Context, Result, ensure};
use std::fs;

pub(crate) const CASES: &[Case] = &[
    Case { name: "iommu_is_the_one_named", seconds: 120, on: On::Every, run: iommu_is_the_one_named },
    Case {
        name: "scalable_mode_is_on_where_named",
        seconds: 120,
        on: On::Only("intel"),
        run: scalable_mode_is_on_where_named,
    },
    Case {
        name: "edu_stands_in_a_group_of_its_own",
        seconds: 120,
        on: On::Except("none"),
        run: edu_stands_in_a_group_of_its_own,
    },
    Case { name: "vfio_is_loaded", seconds: 120, on: On::Every, run: vfio_is_loaded },
];

fn iommu_is_the_one_named(world: &World) -> Result<()> {
    let mut units = Vec::new();
    for entry in fs::read_dir("/sys/class/iommu").into_iter().flatten() {
        units.push(entry?.file_name().to_string_lossy().into_owned());
    }
    println!("units: {units:?}");
    let expected: &[&str] = match world.machine.as_str() {
        "none" => &[],
        "amd" => &["ivhd0"],
        _ => &["dmar0"],
    };
    ensure!(units == expected);
    Ok(())
}

fn scalable_mode_is_on_where_named(world: &World) -> Result<()> {
    // VT-d 11.4.3: SMTS is bit 43 of the extended capability register.
    let text = fs::read_to_string("/sys/class/iommu/dmar0/intel-iommu/ecap").context("ecap")?;
    let scalable = u64::from_str_radix(text.trim(), 16)? >> 43 & 1 == 1;
    ensure!(scalable == (world.machine == "intel-scalable"), "scalable mode: {scalable}");
    Ok(())
}

fn edu_stands_in_a_group_of_its_own(_: &World) -> Result<()> {
    for entry in fs::read_dir("/sys/bus/pci/devices")? {
        let path = entry?.path();
        if fs::read_to_string(path.join("vendor"))?.trim() != "0x1234" {
            continue;
        }
        let members = fs::read_dir(path.join("iommu_group/devices"))?.count();
        ensure!(members == 1, "{members} devices in its group");
        return Ok(());
    }
    anyhow::bail!("there is no edu device");
}

fn vfio_is_loaded(_: &World) -> Result<()> {
    ensure!(fs::exists("/dev/vfio/vfio")?, "/dev/vfio/vfio is missing");
    ensure!(fs::exists("/sys/bus/pci/drivers/vfio-pci/new_id")?, "vfio-pci is missing");
    Ok(())
}
