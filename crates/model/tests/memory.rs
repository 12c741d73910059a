//! Both kinds of memory behave alike: atomic accesses, bounds, byte order.

use std::sync::Arc;

use portcullis_model::{GuestMemory, MemoryError, OwnedMemory, VmMemory};
use portcullis_spec::PhysAddr;
use vm_memory::{GuestAddress, GuestMemoryMmap};

const SIZE: u64 = 0x3000;

fn memories() -> Vec<(&'static str, Arc<dyn GuestMemory>)> {
    // Two regions that touch, as VMMs have them.
    let ranges = [(GuestAddress(0), 0x2000), (GuestAddress(0x2000), 0x1000)];
    let mapped: GuestMemoryMmap<()> = GuestMemoryMmap::from_ranges(&ranges).unwrap();
    vec![("owned", Arc::new(OwnedMemory::new(SIZE as usize))), ("vm-memory", Arc::new(VmMemory(mapped)))]
}

#[test]
fn bytes_go_where_they_should() {
    for (name, memory) in memories() {
        let bytes: Vec<u8> = (1..=100).collect();
        memory.write(PhysAddr(0x1fc3), &bytes).unwrap();
        let mut back = [0; 102];
        memory.read(PhysAddr(0x1fc2), &mut back).unwrap();
        assert_eq!((back[0], back[101]), (0, 0), "{name}");
        assert_eq!(back[1..101], bytes[..], "{name}");
        memory.read(PhysAddr(SIZE), &mut []).unwrap();
    }
}

#[test]
fn words_are_little_endian() {
    for (name, memory) in memories() {
        memory.store64(PhysAddr(8), 0x8877_6655_4433_2211).unwrap();
        assert_eq!(memory.load32(PhysAddr(8)), Ok(0x4433_2211), "{name}");
        assert_eq!(memory.load32(PhysAddr(12)), Ok(0x8877_6655), "{name}");
        memory.store32(PhysAddr(12), 0xdead_beef).unwrap();
        let mut bytes = [0; 8];
        memory.read(PhysAddr(8), &mut bytes).unwrap();
        assert_eq!(bytes, [0x11, 0x22, 0x33, 0x44, 0xef, 0xbe, 0xad, 0xde], "{name}");
        assert_eq!(memory.load64(PhysAddr(8)), Ok(0xdead_beef_4433_2211), "{name}");
    }
}

#[test]
fn an_exchange_happens_only_on_the_expected_value() {
    for (name, memory) in memories() {
        memory.store64(PhysAddr(16), 5).unwrap();
        assert_eq!(memory.compare_exchange64(PhysAddr(16), 4, 6), Ok(5), "{name}");
        assert_eq!(memory.load64(PhysAddr(16)), Ok(5));
        assert_eq!(memory.compare_exchange64(PhysAddr(16), 5, 6), Ok(5));
        assert_eq!(memory.load64(PhysAddr(16)), Ok(6));
    }
}

#[test]
fn what_is_not_memory_is_refused() {
    for (name, memory) in memories() {
        for address in [SIZE, SIZE + 8, u64::MAX - 7, !0xfff] {
            let at = PhysAddr(address);
            let absent = Err(MemoryError::NotMemory { address: at });
            assert_eq!(memory.read(at, &mut [0; 4]), absent, "{name} {address:#x}");
            assert_eq!(memory.write(at, &[0; 4]), absent, "{name} {address:#x}");
            assert_eq!(memory.load64(at).map(|_| ()), absent, "{name} {address:#x}");
            assert_eq!(memory.store64(at, 0), absent, "{name} {address:#x}");
            assert_eq!(memory.store32(at, 0), absent, "{name} {address:#x}");
            assert_eq!(memory.compare_exchange64(at, 0, 0).map(|_| ()), absent, "{name} {address:#x}");
        }
        assert!(memory.read(PhysAddr(SIZE - 4), &mut [0; 8]).is_err(), "{name}");
        assert!(memory.write(PhysAddr(SIZE - 4), &[1; 8]).is_err(), "{name}");
        for misaligned in [1, 2, 3, 5] {
            let at = PhysAddr(misaligned);
            assert_eq!(memory.load32(at), Err(MemoryError::Misaligned { address: at }), "{name}");
            assert_eq!(memory.load64(at), Err(MemoryError::Misaligned { address: at }), "{name}");
        }
        assert_eq!(
            memory.load64(PhysAddr(4)),
            Err(MemoryError::Misaligned { address: PhysAddr(4) }),
            "{name}"
        );
    }
}

#[test]
fn memory_has_host_pointers_within_a_region() {
    for (name, memory) in memories() {
        let one = memory.host_pointer(PhysAddr(0x100), 0x100).expect(name);
        let other = memory.host_pointer(PhysAddr(0x180), 8).expect(name);
        assert_eq!(other.as_ptr() as usize - one.as_ptr() as usize, 0x80, "{name}");
        assert_eq!(one.as_ptr() as usize % 0x1000, 0x100, "{name}");
        assert!(memory.host_pointer(PhysAddr(SIZE - 8), 9).is_none(), "{name}");
        assert!(memory.host_pointer(PhysAddr(SIZE), 1).is_none(), "{name}");
        assert!(memory.host_pointer(PhysAddr(u64::MAX), 2).is_none(), "{name}");
    }
    let memories = memories();
    assert!(memories[1].1.host_pointer(PhysAddr(0x1f80), 0x100).is_none());
}

#[test]
fn neighbours_of_a_byte_keep_what_others_write() {
    let memory = Arc::new(OwnedMemory::new(64));
    let threads: Vec<_> = (0..4u64)
        .map(|lane| {
            let memory = memory.clone();
            std::thread::spawn(move || {
                for value in 0..5000u64 {
                    memory.write(PhysAddr(lane * 2), &(value as u16).to_le_bytes()).unwrap();
                    let mut back = [0; 2];
                    memory.read(PhysAddr(lane * 2), &mut back).unwrap();
                    assert_eq!(u16::from_le_bytes(back), value as u16);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}
