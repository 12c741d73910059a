//! VFIO's ioctls (Linux include/uapi/linux/vfio.h), as safe functions over descriptors.
//!
//! Nothing here decides anything. Each function fills one structure, makes one call and reads the answer.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_void};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl};
use vfio_bindings::bindings::vfio::{
    VFIO_API_VERSION, VFIO_BASE, VFIO_DEVICE_FLAGS_RESET, VFIO_DMA_MAP_FLAG_READ, VFIO_DMA_MAP_FLAG_WRITE,
    VFIO_DMA_UNMAP_FLAG_ALL, VFIO_GROUP_FLAGS_VIABLE, VFIO_IOMMU_INFO_CAPS, VFIO_IOMMU_INFO_PGSIZES,
    VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, VFIO_IRQ_SET_ACTION_TRIGGER,
    VFIO_IRQ_SET_DATA_NONE, VFIO_PCI_CONFIG_REGION_INDEX, VFIO_TYPE, VFIO_TYPE1v2_IOMMU, vfio_device_info,
    vfio_group_status, vfio_iommu_type1_dma_map, vfio_region_info,
};

use super::kernel::{Grant, SpaceFacts};

/// `_IO(VFIO_TYPE, VFIO_BASE + number)`: VFIO puts neither direction nor size into its numbers.
const fn opcode(number: u32) -> Opcode {
    (((VFIO_TYPE as u32) << 8) | (VFIO_BASE + number)) as Opcode
}

const GET_API_VERSION: Opcode = opcode(0);
const CHECK_EXTENSION: Opcode = opcode(1);
const SET_IOMMU: Opcode = opcode(2);
const GROUP_GET_STATUS: Opcode = opcode(3);
const GROUP_SET_CONTAINER: Opcode = opcode(4);
const GROUP_UNSET_CONTAINER: Opcode = opcode(5);
const GROUP_GET_DEVICE_FD: Opcode = opcode(6);
const DEVICE_GET_INFO: Opcode = opcode(7);
const DEVICE_GET_REGION_INFO: Opcode = opcode(8);
const DEVICE_SET_IRQS: Opcode = opcode(10);
const DEVICE_RESET: Opcode = opcode(11);
const IOMMU_GET_INFO: Opcode = opcode(12);
const IOMMU_MAP_DMA: Opcode = opcode(13);
const IOMMU_UNMAP_DMA: Opcode = opcode(14);

/// A call whose return value counts.
struct Call {
    opcode: Opcode,
    argument: *mut c_void,
}

// SAFETY: opcode and pointer are passed through unchanged, and the return value is only a number. Whoever makes a `Call` answers
// for the two fitting together.
unsafe impl Ioctl for Call {
    type Output = i32;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.opcode
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.argument
    }

    unsafe fn output_from_ptr(out: IoctlOutput, _: *mut c_void) -> rustix::io::Result<i32> {
        Ok(out)
    }
}

/// A call with a number for its argument, or none (0).
fn number(fd: BorrowedFd<'_>, opcode: Opcode, value: usize) -> io::Result<i32> {
    let argument = std::ptr::without_provenance_mut(value);
    // SAFETY: the calls that come here (see their documentation) take a number and dereference nothing.
    Ok(unsafe { ioctl(fd, Call { opcode, argument }) }?)
}

/// A call with a structure for its argument.
fn structure<T>(fd: BorrowedFd<'_>, opcode: Opcode, value: &mut T) -> io::Result<i32> {
    let argument = std::ptr::from_mut(value).cast();
    // SAFETY: `value` is the structure of this call, its `argsz` (where it has one) is its size, and the kernel writes at most
    // `argsz` bytes.
    Ok(unsafe { ioctl(fd, Call { opcode, argument }) }?)
}

const fn size<T>() -> u32 {
    size_of::<T>() as u32
}

/// Whether the container speaks the interface that this was written for, with type 1 version 2.
pub(super) fn speaks_type1(container: BorrowedFd<'_>) -> io::Result<bool> {
    let version = number(container, GET_API_VERSION, 0)?;
    let extension = number(container, CHECK_EXTENSION, VFIO_TYPE1v2_IOMMU as usize)?;
    Ok(version.cast_unsigned() == VFIO_API_VERSION && extension == 1)
}

/// Whether every device of the group is without a driver, or with one that leaves DMA to VFIO.
pub(super) fn is_viable(group: BorrowedFd<'_>) -> io::Result<bool> {
    let mut status = vfio_group_status { argsz: size::<vfio_group_status>(), flags: 0 };
    structure(group, GROUP_GET_STATUS, &mut status)?;
    Ok(status.flags & VFIO_GROUP_FLAGS_VIABLE != 0)
}

/// Puts the group into the container.
pub(super) fn set_container(group: BorrowedFd<'_>, container: BorrowedFd<'_>) -> io::Result<()> {
    let mut fd: i32 = container.as_raw_fd();
    structure(group, GROUP_SET_CONTAINER, &mut fd).map(drop)
}

/// Takes the group out of its container; EBUSY while any of its devices' descriptors is open.
pub(super) fn unset_container(group: BorrowedFd<'_>) -> io::Result<()> {
    number(group, GROUP_UNSET_CONTAINER, 0).map(drop)
}

/// Gives the container an empty space of type 1; EPERM where interrupts are not isolated and the module does not allow that.
pub(super) fn set_type1(container: BorrowedFd<'_>) -> io::Result<()> {
    number(container, SET_IOMMU, VFIO_TYPE1v2_IOMMU as usize).map(drop)
}

/// A descriptor of a device, by the name that it has in sysfs.
pub(super) fn device(group: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    let argument = name.as_ptr().cast_mut().cast();
    // SAFETY: the call takes a string that ends with 0 and does not change it.
    let fd = unsafe { ioctl(group, Call { opcode: GROUP_GET_DEVICE_FD, argument }) }?;
    // SAFETY: the call succeeded, so this is a new descriptor that nobody else knows of.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether the device can be reset.
pub(super) fn can_reset(device: BorrowedFd<'_>) -> io::Result<bool> {
    let mut info = vfio_device_info { argsz: size::<vfio_device_info>(), ..Default::default() };
    structure(device, DEVICE_GET_INFO, &mut info)?;
    Ok(info.flags & VFIO_DEVICE_FLAGS_RESET != 0)
}

/// Resets the device.
pub(super) fn reset(device: BorrowedFd<'_>) -> io::Result<()> {
    number(device, DEVICE_RESET, 0).map(drop)
}

/// Where the configuration space of a PCI device lies in its descriptor.
pub(super) fn configuration_offset(device: BorrowedFd<'_>) -> io::Result<u64> {
    let mut info = vfio_region_info {
        argsz: size::<vfio_region_info>(),
        index: VFIO_PCI_CONFIG_REGION_INDEX,
        ..Default::default()
    };
    structure(device, DEVICE_GET_REGION_INFO, &mut info)?;
    Ok(info.offset)
}

/// `struct vfio_irq_set` without its data.
#[repr(C)]
struct IrqSet {
    argsz: u32,
    flags: u32,
    index: u32,
    start: u32,
    count: u32,
}

/// Takes the interrupts of one kind (INTx, MSI, MSI-X, …) away from whoever waits for them.
pub(super) fn disable_interrupts(device: BorrowedFd<'_>, index: u32) -> io::Result<()> {
    let flags = VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER;
    let mut set = IrqSet { argsz: size::<IrqSet>(), flags, index, start: 0, count: 0 };
    structure(device, DEVICE_SET_IRQS, &mut set).map(drop)
}

/// What the container's space can do.
pub(super) fn facts(container: BorrowedFd<'_>) -> io::Result<SpaceFacts> {
    // `argsz` answers with what is needed; the list of addresses is the only long part.
    let mut words = [0u64; 512];
    words[0] = u64::from(size::<[u64; 512]>());
    structure(container, IOMMU_GET_INFO, &mut words)?;
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    Ok(read_facts(&bytes))
}

/// Reads `struct vfio_iommu_type1_info` and the capabilities that hang on it.
fn read_facts(bytes: &[u8]) -> SpaceFacts {
    let u16_at = |at: usize| Some(u16::from_ne_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?));
    let u32_at = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?));
    let u64_at = |at: usize| Some(u64::from_ne_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?));
    let flags = u32_at(4).unwrap_or(0);
    let mut facts = SpaceFacts::default();
    if flags & VFIO_IOMMU_INFO_PGSIZES != 0 {
        facts.page_sizes = u64_at(8).unwrap_or(0);
    }
    let mut at = if flags & VFIO_IOMMU_INFO_CAPS != 0 { u32_at(16).unwrap_or(0) as usize } else { 0 };
    // Offsets lead forward only, so that the chain ends whatever it says.
    while at != 0 {
        let (Some(id), Some(next)) = (u16_at(at), u32_at(at + 4)) else { break };
        match u32::from(id) {
            VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE => {
                let count = u32_at(at + 8).unwrap_or(0) as usize;
                let ranges = (0..count).map_while(|index| {
                    let start = at + 16 + index.checked_mul(16)?;
                    Some(u64_at(start)?..=u64_at(start + 8)?)
                });
                facts.addresses = ranges.collect();
            }
            VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL => facts.mappings_left = u32_at(at + 8),
            _ => {}
        }
        let next = next as usize;
        at = if next > at { next } else { 0 };
    }
    facts
}

/// Maps and pins a client's memory; EFAULT where the grant is not inside it.
pub(super) fn map(container: BorrowedFd<'_>, grant: &Grant<'_>) -> io::Result<()> {
    let mut flags = 0;
    if grant.read {
        flags |= VFIO_DMA_MAP_FLAG_READ;
    }
    if grant.write {
        flags |= VFIO_DMA_MAP_FLAG_WRITE;
    }
    // Only a window's own bytes: devices will write there, and nothing in this process looks at them.
    let vaddr = grant.window.address(grant.offset, grant.length).ok_or(rustix::io::Errno::FAULT)?;
    let argsz = size::<vfio_iommu_type1_dma_map>();
    let mut map = vfio_iommu_type1_dma_map { argsz, flags, vaddr, iova: grant.iova, size: grant.length };
    structure(container, IOMMU_MAP_DMA, &mut map).map(drop)
}

/// `struct vfio_iommu_type1_dma_unmap` without its data.
#[repr(C)]
struct Unmap {
    argsz: u32,
    flags: u32,
    iova: u64,
    size: u64,
}

/// Removes every mapping that lies whole in the range, and returns the bytes that were mapped.
pub(super) fn unmap(container: BorrowedFd<'_>, iova: u64, length: u64) -> io::Result<u64> {
    let mut unmap = Unmap { argsz: size::<Unmap>(), flags: 0, iova, size: length };
    structure(container, IOMMU_UNMAP_DMA, &mut unmap)?;
    Ok(unmap.size)
}

/// Removes every mapping.
pub(super) fn unmap_all(container: BorrowedFd<'_>) -> io::Result<()> {
    let mut unmap = Unmap { argsz: size::<Unmap>(), flags: VFIO_DMA_UNMAP_FLAG_ALL, iova: 0, size: 0 };
    structure(container, IOMMU_UNMAP_DMA, &mut unmap).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As include/uapi/linux/vfio.h lays it out: argsz, flags, iova_pgsizes, cap_offset, pad; then capabilities of id,
    /// version, next.
    fn info(capabilities: &[(u16, u32, &[u64])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(4096u32.to_ne_bytes());
        bytes.extend(3u32.to_ne_bytes());
        bytes.extend(0x4020_1000u64.to_ne_bytes());
        bytes.extend(24u32.to_ne_bytes());
        bytes.extend(0u32.to_ne_bytes());
        for (id, next, words) in capabilities {
            bytes.extend(id.to_ne_bytes());
            bytes.extend(1u16.to_ne_bytes());
            bytes.extend(next.to_ne_bytes());
            bytes.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
        }
        bytes
    }

    #[test]
    fn chain_of_capabilities_is_read() {
        let ranges = [2, 0, 0xfedf_ffff, 0xfef0_0000, 0x7fff_ffff_ffff];
        let bytes = info(&[(1, 24 + 8 + 40, &ranges), (3, 0, &[65535])]);
        let facts = read_facts(&bytes);
        assert_eq!(facts.page_sizes, 0x4020_1000);
        assert_eq!(facts.addresses, [0..=0xfedf_ffff, 0xfef0_0000..=0x7fff_ffff_ffff]);
        assert_eq!(facts.mappings_left, Some(65535));
    }

    #[test]
    fn chain_that_leads_back_or_out_ends() {
        let back = info(&[(3, 24, &[7])]);
        assert_eq!(read_facts(&back).mappings_left, Some(7));
        let out = info(&[(1, 0, &[u64::MAX])]);
        assert_eq!(read_facts(&out).addresses, []);
        for length in 0..back.len() {
            let _ = read_facts(&back[..length]);
        }
    }
}
