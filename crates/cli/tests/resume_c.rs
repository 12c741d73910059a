//! The C client over a service that is killed: the calls of its header, against the real service.
#![allow(unsafe_code, reason = "the calls are C's")]

mod common;

use std::{
    ffi::{CStr, CString},
    os::fd::{FromRawFd, OwnedFd},
};

use common::Running;
use portcullis_c::ffi::{
    Entry, portcullis_device_add_generic, portcullis_device_descriptor, portcullis_error, portcullis_fini,
    portcullis_init, portcullis_mapping_add, portcullis_object_create, portcullis_resume,
};
use portcullis_client::device::SharedMemory;
use portcullis_manager::embedded::device::{Command, Operation, Outcome};
use rustix::{fd::AsRawFd, io::Errno};

const RUN: [&str; 2] = ["--platform", "embedded"];
const PAGE: u64 = 4096;
const READ_WRITE: u32 = 3;

/// A connection with an object.
fn connect(service: &Running) -> (u64, u64) {
    let socket = CString::new(service.socket().to_str().expect("text")).expect("no zero");
    let (mut connection, mut object) = (0, 0);
    // SAFETY: text that ends with a zero, and places that can be written.
    unsafe {
        assert_eq!(portcullis_init(socket.as_ptr(), std::ptr::null(), &mut connection), 0, "{}", why());
        assert_eq!(portcullis_object_create(connection, &mut object), 0, "{}", why());
    }
    (connection, object)
}

fn why() -> String {
    // SAFETY: the text lives until this thread's next call.
    unsafe { CStr::from_ptr(portcullis_error()) }.to_string_lossy().into_owned()
}

fn add(connection: u64, object: u64, device: &CStr) -> i32 {
    // SAFETY: text that ends with a zero.
    unsafe { portcullis_device_add_generic(connection, object, device.as_ptr()) }
}

fn map(connection: u64, object: u64, memory: &SharedMemory, at: u64, page: u64) -> i32 {
    use std::os::fd::AsFd;
    let entry = Entry::new(page * PAGE, PAGE);
    let mut address = at;
    let memfd = memory.as_fd().as_raw_fd();
    // SAFETY: one entry, and an address that can be written.
    unsafe { portcullis_mapping_add(connection, object, READ_WRITE, memfd, 1, &entry, &mut address) }
}

fn descriptor(connection: u64, device: &CStr) -> Result<OwnedFd, i32> {
    // SAFETY: text that ends with a zero; the descriptor is the caller's.
    unsafe {
        match portcullis_device_descriptor(connection, device.as_ptr()) {
            raw @ 0.. => Ok(OwnedFd::from_raw_fd(raw)),
            error => Err(error),
        }
    }
}

fn read(device: &OwnedFd, address: u64) -> Outcome {
    Command::new(Operation::Read, address, 8, 0).send(device).expect("the device answers").outcome
}

#[test]
fn a_connection_has_back_what_it_had() {
    let mut service = Running::kept(&RUN);
    // One without a device, which any other could be taken for.
    let (lonely, _) = connect(&service);
    let (first, object) = connect(&service);
    let (second, other) = connect(&service);
    let memory = SharedMemory::new("test", 4 * PAGE).expect("memory");
    assert_eq!(add(first, object, c"nic0"), 0, "{}", why());
    assert_eq!(add(second, other, c"disk0"), 0, "{}", why());
    assert_eq!(map(first, object, &memory, 0x10_0000, 1), 0, "{}", why());
    let nic = descriptor(first, c"nic0").expect("its descriptor");
    assert_eq!(portcullis_resume(first), 0, "the service lives: {}", why());
    service.kill();
    assert_eq!(portcullis_resume(first), -Errno::CONNREFUSED.raw_os_error(), "{}", why());
    service.again(&RUN);
    assert_eq!(map(first, object, &memory, 0x20_0000, 2), -Errno::CONNRESET.raw_os_error(), "{}", why());
    // Each as itself, though both are this process.
    assert_eq!(portcullis_resume(second), 0, "{}", why());
    assert_eq!(portcullis_resume(first), 0, "{}", why());
    assert_eq!(portcullis_resume(lonely), 0, "{}", why());
    assert_eq!(read(&nic, 0x10_0000), Outcome::Done);
    assert_eq!(map(first, object, &memory, 0x20_0000, 2), 0, "{}", why());
    assert_eq!(read(&nic, 0x20_0000), Outcome::Done);
    assert!(descriptor(first, c"nic0").is_ok() && descriptor(second, c"disk0").is_ok());
    assert_eq!(descriptor(second, c"nic0").unwrap_err(), -Errno::NOENT.raw_os_error());
    assert_eq!((portcullis_fini(first), portcullis_fini(second)), (0, 0));
}

#[test]
fn what_nobody_kept_is_stale_and_can_be_had_anew() {
    let mut service = Running::start(&RUN);
    let (connection, object) = connect(&service);
    let memory = SharedMemory::new("test", 4 * PAGE).expect("memory");
    assert_eq!(add(connection, object, c"nic0"), 0, "{}", why());
    assert_eq!(map(connection, object, &memory, 0x10_0000, 1), 0, "{}", why());
    service.kill();
    service.again(&RUN);
    assert_eq!(portcullis_resume(connection), -Errno::STALE.raw_os_error());
    assert!(why().contains("nic0 is blocked"), "{}", why());
    assert_eq!(descriptor(connection, c"nic0").unwrap_err(), -Errno::NOENT.raw_os_error());
    assert_eq!(map(connection, object, &memory, 0x10_0000, 1), -Errno::BADF.raw_os_error(), "{}", why());
    let mut object = 0;
    // SAFETY: a place that can be written.
    assert_eq!(unsafe { portcullis_object_create(connection, &mut object) }, 0, "{}", why());
    assert_eq!(add(connection, object, c"nic0"), 0, "{}", why());
    assert_eq!(map(connection, object, &memory, 0x10_0000, 1), 0, "{}", why());
    assert_eq!(read(&descriptor(connection, c"nic0").expect("its descriptor"), 0x10_0000), Outcome::Done);
    assert_eq!(portcullis_fini(connection), 0);
}
