//! C's side, as `include/portcullis.h` describes it: pointers, text, structures.
//!
//! What C hands over is checked as far as that is possible: null and misaligned pointers, numbers without a meaning and text
//! that is not UTF-8 are answered with `-EINVAL`. That a pointer leads to as much memory as the header asks for cannot be
//! checked; it is what every `# Safety` below means. No panic leaves this module.
#![allow(unsafe_code)]

use std::{
    cell::RefCell,
    ffi::{CStr, CString, OsStr, c_char, c_int, c_uint},
    os::{
        fd::{BorrowedFd, IntoRawFd},
        unix::ffi::OsStrExt,
    },
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
};

use portcullis_client::api::{Access, Fault};
use rustix::io::Errno;

use crate::{
    connection::{Address, Connection},
    failure::Failure,
    registry,
};

/// Entries of one call: the service takes no more.
const MOST_ENTRIES: c_uint = 1 << 14;

const READ: c_uint = 1;
const WRITE: c_uint = 2;
const EXECUTE: c_uint = 4;

const PHYSICAL: c_int = -1;
const ANY_ADDRESS: u64 = u64::MAX;
const SAME_ADDRESS: u64 = u64::MAX - 1;
const NO_PASID: u32 = u32::MAX;

/// `struct portcullis_entry`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    offset: u64,
    length: u64,
}

impl Entry {
    /// So many bytes from there on.
    #[must_use]
    pub const fn new(offset: u64, length: u64) -> Self {
        Self { offset, length }
    }
}

/// `struct portcullis_region`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Region {
    first: u64,
    last: u64,
    kind: u32,
    access: u32,
}

/// `struct portcullis_fault`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Record {
    number: u64,
    time: u64,
    address: u64,
    grant: u64,
    count: u64,
    lost: u64,
    raw: [u64; 8],
    raw_length: u32,
    access: u32,
    pasid: u32,
    code: u32,
    device: [c_char; 64],
    requester: [c_char; 64],
    unit: [c_char; 64],
    reason: [c_char; 32],
}

impl Record {
    /// Where `raw_length` and `reason` stand, for whoever compares this with the header.
    pub const OFFSETS: [usize; 2] =
        [std::mem::offset_of!(Record, raw_length), std::mem::offset_of!(Record, reason)];
}

thread_local! {
    static WHY: RefCell<CString> = RefCell::default();
}

fn remember(message: &str) {
    let text: Vec<u8> = message.bytes().filter(|&byte| byte != 0).collect();
    // Only a thread that ends has no place for it any more.
    let _ = WHY.try_with(|why| {
        if let Ok(mut why) = why.try_borrow_mut() {
            *why = CString::new(text).unwrap_or_default();
        }
    });
}

/// Runs a call: what it returns, or the negative error number.
fn answer(call: impl FnOnce() -> Result<c_int, Failure>) -> c_int {
    let outcome = catch_unwind(AssertUnwindSafe(call))
        .unwrap_or_else(|_| Err(Failure::new(Errno::IO, "the call broke; this is a defect of portcullis")));
    match outcome {
        Ok(value) => {
            remember("");
            value
        }
        Err(failure) => {
            remember(&failure.message);
            -failure.code.raw_os_error()
        }
    }
}

/// Refuses a pointer that cannot be one.
fn pointer<T>(pointer: *const T, what: &str) -> Result<(), Failure> {
    if pointer.is_null() {
        return Err(Failure::argument(format!("{what} is null")));
    }
    if !pointer.is_aligned() {
        return Err(Failure::argument(format!("{what} is misaligned")));
    }
    Ok(())
}

/// # Safety
///
/// `text` is null, or leads to text that ends with a zero.
unsafe fn text<'a>(text: *const c_char, what: &str) -> Result<&'a str, Failure> {
    pointer(text, what)?;
    // SAFETY: not null; the caller promises the rest, and uses it only during this call.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str().map_err(|_| Failure::argument(format!("{what} is not UTF-8")))
}

/// # Safety
///
/// As for the header's out parameters: null, or leads to a `T` that may be written.
unsafe fn put<T>(to: *mut T, value: T, what: &str) -> Result<(), Failure> {
    pointer(to, what)?;
    // SAFETY: neither null nor misaligned; the caller promises the rest.
    unsafe { to.write(value) };
    Ok(())
}

fn access(flags: c_uint) -> Access {
    Access { read: flags & READ != 0, write: flags & WRITE != 0, execute: flags & EXECUTE != 0 }
}

fn flags(access: Access) -> u32 {
    (if access.read { READ } else { 0 })
        | (if access.write { WRITE } else { 0 })
        | (if access.execute { EXECUTE } else { 0 })
}

/// Text as C has it; what does not fit is cut between characters.
fn cut<const N: usize>(text: &str) -> [c_char; N] {
    let mut out = [0; N];
    let end = text.floor_char_boundary(N - 1);
    for (to, &byte) in out.iter_mut().zip(&text.as_bytes()[..end]) {
        *to = byte.cast_signed() as c_char;
    }
    out
}

fn record(fault: &Fault, lost: u64) -> Record {
    let mut raw = [0; 8];
    let words =
        fault.raw.iter().filter_map(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok());
    let mut raw_length = 0;
    for (to, word) in raw.iter_mut().zip(words) {
        *to = word;
        raw_length += 1;
    }
    Record {
        number: fault.number,
        time: fault.time,
        address: fault.address,
        grant: fault.grant.unwrap_or(0),
        count: fault.count,
        lost,
        raw,
        raw_length,
        access: flags(fault.access),
        pasid: fault.pasid.unwrap_or(NO_PASID),
        code: fault.code,
        device: cut(&fault.devices.join(" ")),
        requester: cut(&fault.requester),
        unit: cut(fault.unit.as_deref().unwrap_or("")),
        reason: cut(&fault.reason),
    }
}

/// Why the last call of this thread failed.
#[unsafe(no_mangle)]
pub extern "C" fn portcullis_error() -> *const c_char {
    // The text lives until `remember` replaces it, at the thread's next call.
    WHY.try_with(|why| why.try_borrow().map_or(c"".as_ptr(), |why| why.as_ptr())).unwrap_or(c"".as_ptr())
}

/// Connects.
///
/// # Safety
///
/// `socket` and `client` are null or text; `connection` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_init(
    socket: *const c_char,
    client: *const c_char,
    connection: *mut u64,
) -> c_int {
    answer(|| {
        pointer(connection, "connection")?;
        let socket = if socket.is_null() {
            None
        } else {
            // SAFETY: not null; the caller promises that it is text.
            let bytes = unsafe { CStr::from_ptr(socket) }.to_bytes();
            Some(PathBuf::from(OsStr::from_bytes(bytes)))
        };
        let client = if client.is_null() {
            None
        } else {
            // SAFETY: as the caller promises.
            Some(unsafe { text(client, "client") }?.to_owned())
        };
        let handle = registry::add(Connection::open(socket, client)?)?;
        // SAFETY: as the caller promises.
        unsafe { put(connection, handle, "connection") }?;
        Ok(0)
    })
}

/// Ends a connection.
#[unsafe(no_mangle)]
pub extern "C" fn portcullis_fini(connection: u64) -> c_int {
    answer(|| registry::remove(connection).map(|()| 0))
}

/// Has back what the connection had, after the service was started again.
#[unsafe(no_mangle)]
pub extern "C" fn portcullis_resume(connection: u64) -> c_int {
    answer(|| registry::with(connection, |c| c.resume().map(|all| c_int::from(!all))))
}

/// Makes an object.
///
/// # Safety
///
/// `object` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_object_create(connection: u64, object: *mut u64) -> c_int {
    answer(|| {
        pointer(object, "object")?;
        let made = registry::with(connection, Connection::create_object)?;
        // SAFETY: as the caller promises.
        unsafe { put(object, made, "object") }?;
        Ok(0)
    })
}

/// Removes an object.
#[unsafe(no_mangle)]
pub extern "C" fn portcullis_object_destroy(connection: u64, object: u64) -> c_int {
    answer(|| registry::with(connection, |c| c.destroy_object(object)).map(|()| 0))
}

fn add(connection: u64, object: u64, words: &str) -> Result<c_int, Failure> {
    registry::with(connection, |c| match object {
        0 => c.remove_device(words).map(|()| 0),
        object => c.add_device(object, words).map(c_int::from),
    })
}

/// Adds a device by name or pattern, or removes it.
///
/// # Safety
///
/// `device` is text.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_device_add_generic(
    connection: u64,
    object: u64,
    device: *const c_char,
) -> c_int {
    answer(|| {
        // SAFETY: as the caller promises.
        let words = unsafe { text(device, "device") }?;
        add(connection, object, words)
    })
}

/// Adds a PCI function, or removes it.
#[unsafe(no_mangle)]
pub extern "C" fn portcullis_device_add_pci(
    connection: u64,
    object: u64,
    segment: c_uint,
    bus: c_uint,
    device: c_uint,
    function: c_uint,
) -> c_int {
    answer(|| {
        if segment > 0xffff || bus > 0xff || device > 31 || function > 7 {
            let what = format!("{segment:x}:{bus:x}:{device:x}.{function} is not a PCI function");
            return Err(Failure::argument(what));
        }
        add(connection, object, &format!("{segment:04x}:{bus:02x}:{device:02x}.{function}"))
    })
}

/// Adds a device by the address of its registers, or removes it.
#[unsafe(no_mangle)]
pub extern "C" fn portcullis_device_add_mmio(connection: u64, object: u64, address: u64) -> c_int {
    answer(|| add(connection, object, &format!("mmio:{address:#x}")))
}

/// The descriptor that a device came with.
///
/// # Safety
///
/// `device` is text.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_device_descriptor(connection: u64, device: *const c_char) -> c_int {
    answer(|| {
        // SAFETY: as the caller promises.
        let name = unsafe { text(device, "device") }?;
        registry::with(connection, |c| c.descriptor(name)).map(IntoRawFd::into_raw_fd)
    })
}

/// The addresses that a device cannot use.
///
/// # Safety
///
/// `device` is text; `regions` has room for `capacity`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_device_report_reserved(
    connection: u64,
    device: *const c_char,
    capacity: c_uint,
    regions: *mut Region,
) -> c_int {
    answer(|| {
        // SAFETY: as the caller promises.
        let name = unsafe { text(device, "device") }?;
        if capacity != 0 {
            pointer(regions, "regions")?;
        }
        let found = registry::with(connection, |c| c.reserved(name))?;
        for (at, region) in found.iter().take(capacity as usize).enumerate() {
            let kind = match region.kind.as_str() {
                "direct" => 1,
                "direct-relaxable" => 2,
                "reserved" => 3,
                "msi" => 4,
                _ => 0,
            };
            let region =
                Region { first: region.first, last: region.last, kind, access: flags(region.access) };
            // SAFETY: `at` is less than the capacity that the caller promises.
            unsafe { put(regions.add(at), region, "regions") }?;
        }
        c_int::try_from(found.len()).map_err(|_| Failure::new(Errno::OVERFLOW, "too many regions"))
    })
}

/// Maps, or removes mappings.
///
/// # Safety
///
/// `entries` leads to `count` of them; `address` may be read and written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_mapping_add(
    connection: u64,
    object: u64,
    permissions: c_uint,
    memfd: c_int,
    count: c_uint,
    entries: *const Entry,
    address: *mut u64,
) -> c_int {
    answer(|| {
        pointer(entries, "entries")?;
        pointer(address, "address")?;
        if permissions & !(READ | WRITE | EXECUTE) != 0 {
            return Err(Failure::argument(format!("{permissions:#x} has flags without a meaning")));
        }
        if count > MOST_ENTRIES {
            return Err(Failure::new(Errno::TOOBIG, format!("{count} entries; at most {MOST_ENTRIES}")));
        }
        // SAFETY: neither null nor misaligned; the caller promises `count` of them, which is at most 256 KiB.
        let entries = unsafe { std::slice::from_raw_parts(entries, count as usize) };
        let entries: Vec<(u64, u64)> = entries.iter().map(|entry| (entry.offset, entry.length)).collect();
        // SAFETY: neither null nor misaligned; the caller promises the rest.
        let wanted = match unsafe { address.read() } {
            ANY_ADDRESS => Address::Any,
            SAME_ADDRESS => Address::Same,
            at => Address::At(at),
        };
        let first = if permissions == 0 {
            registry::with(connection, |c| c.unmap(object, &entries, wanted))?
        } else {
            let memfd = match memfd {
                PHYSICAL => None,
                ..PHYSICAL => return Err(Failure::new(Errno::BADF, format!("{memfd} is no descriptor"))),
                // SAFETY: not negative, and used during this call only; one that is not open is answered with EBADF.
                open => Some(unsafe { BorrowedFd::borrow_raw(open) }),
            };
            registry::with(connection, |c| c.map(object, access(permissions), memfd, &entries, wanted))?
        };
        // SAFETY: as the caller promises.
        unsafe { put(address, first, "address") }?;
        Ok(0)
    })
}

/// An event that is raised at every refusal.
#[unsafe(no_mangle)]
pub extern "C" fn portcullis_fault_descriptor(connection: u64) -> c_int {
    answer(|| registry::with(connection, |c| c.faults().0.event()).map(IntoRawFd::into_raw_fd))
}

/// The next refused access.
///
/// # Safety
///
/// `fault` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn portcullis_fault_fetch(connection: u64, fault: *mut Record) -> c_int {
    answer(|| {
        pointer(fault, "fault")?;
        let next = registry::with(connection, |c| {
            let (faults, client) = c.faults();
            faults.next(client)
        })?;
        let Some((next, lost)) = next else { return Ok(0) };
        // SAFETY: as the caller promises.
        unsafe { put(fault, record(&next, lost), "fault") }?;
        Ok(1)
    })
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use rustix::io::Errno;

    use super::{answer, cut, portcullis_error};

    #[test]
    fn a_panic_becomes_an_error() {
        assert_eq!(answer(|| panic!("broken on purpose")), -Errno::IO.raw_os_error());
        // SAFETY: the text lives until this thread's next call.
        let why = unsafe { CStr::from_ptr(portcullis_error()) };
        assert!(why.to_str().unwrap().contains("broke"));
        assert_eq!(answer(|| Ok(7)), 7);
    }

    #[test]
    fn text_is_cut_between_characters() {
        let text = |cut: &[std::ffi::c_char]| cut.iter().map(|&c| c as u8).collect::<Vec<u8>>();
        assert_eq!(text(&cut::<4>("abcdef")), b"abc\0");
        assert_eq!(text(&cut::<4>("abä")), b"ab\0\0");
        assert_eq!(text(&cut::<4>("")), b"\0\0\0\0");
    }
}
