//! Has a device, grants it one mebibyte, and tells what it was refused: `cargo run --example grant -- DEVICE`.

use portcullis_client::{
    Client, Error,
    api::{Access, ListFaults, MapRequest},
    device::SharedMemory,
};

/// Bytes that the device may reach.
const LENGTH: u64 = 1 << 20;

fn main() -> Result<(), Error> {
    let Some(device) = std::env::args().nth(1) else {
        eprintln!("name a device; `portcullis devices` lists them");
        std::process::exit(2);
    };
    have(&device)
}

pub(crate) fn have(device: &str) -> Result<(), Error> {
    // Whatever is had below ends with this connection.
    let mut client = Client::connect(None)?;

    // The device and everything in its group: blocked, until it is attached to a space that maps something.
    for (name, descriptor) in client.claim(device)? {
        let how = if descriptor.is_some() { "with its descriptor" } else { "without a descriptor" };
        println!("claimed {name}, {how}");
    }
    let space = client.create_space()?;
    client.attach(space, device, None)?;

    // A memfd: mapped here, and granted to the device at an address that the manager chooses.
    let ring = SharedMemory::new("ring", LENGTH)?;
    let memory = client.add_memory(&ring)?.memory;
    let asked = MapRequest { offset: 0, iova: None, length: LENGTH, access: Access::READ_WRITE };
    for granted in client.map(space, Some(memory), vec![asked])? {
        println!("granted {} bytes at {:#x}, {}", LENGTH, granted.iova, granted.access);
    }

    // Here a driver would drive the device. What it is refused is recorded meanwhile.
    let which = ListFaults { device: Some(device.into()), ..ListFaults::default() };
    for fault in client.faults(&which)?.faults {
        println!("refused {} at {:#x}: {}", fault.access, fault.address, fault.reason);
    }

    // Stopped, cut off, reset.
    for name in client.release(device, false)? {
        println!("released {name}");
    }
    Ok(())
}
