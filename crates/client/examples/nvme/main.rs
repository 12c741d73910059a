//! Drives an NVMe disk from user space, with the memory that the manager granted and no more.
//!
//! `cargo run -p portcullis-client --example nvme -- 0000:01:00.0` on a host where the service runs over VFIO and its configuration
//! gives you that disk. The disk's own driver has it back afterwards. Nothing is written to it without `--write-back`, which writes its first block
//! as it was.

mod driver;

use std::io;

use driver::Nvme;
use portcullis_client::Client;
use portcullis_client::api::{Access, MapRequest};
use portcullis_client::device::SharedMemory;

/// Where the disk sees our memory: any address will do that is not reserved.
const IOVA: u64 = 0x100_0000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let name = std::env::args().nth(1).ok_or("which disk? its address, as `portcullis devices` lists it")?;

    // What the manager knows of us ends with this connection: then the disk is stopped, cut off, reset, and given back.
    let mut manager = Client::connect(None)?;
    let claimed = manager.claim(&name)?;
    let descriptor =
        claimed.into_iter().find_map(|(device, descriptor)| descriptor.filter(|_| device == name));
    let device = descriptor.ok_or("the disk has no descriptor: the service runs on the embedded platform")?;

    // The disk reaches what this space maps: one piece of our memory.
    let space = manager.create_space()?;
    manager.attach(space, &name, None)?;
    let memory = SharedMemory::new("nvme", driver::MEMORY)?;
    let known = manager.add_memory(&memory)?;
    let all = MapRequest { offset: 0, iova: Some(IOVA), length: driver::MEMORY, access: Access::READ_WRITE };
    manager.map(space, Some(known.memory), vec![all])?;

    let mut disk = Nvme::start(device.into(), memory, IOVA)?;
    println!("{}: {} blocks of {} bytes", disk.name, disk.blocks, disk.block);
    let mut block = vec![0; disk.block];
    disk.read(0, &mut block)?;
    println!("block 0 begins {:02x?}", &block[..16.min(block.len())]);
    // Written back as it was, to show how; a disk that is worth something deserves better.
    if std::env::args().nth(2).as_deref() == Some("--write-back") {
        disk.write(0, &block)?;
    }

    // An address that was not granted: the disk is told to write there, and the IOMMU does not let it.
    let answer: io::Result<()> = disk.read_to(0, block.len(), IOVA + driver::MEMORY);
    println!("reading beyond the grant: {answer:?}; see `portcullis faults`");
    Ok(())
}
