//! How the test machine's unit remaps interrupts (VT-d 5.1, 9.9), bit by bit, with a cache that forgets nothing by itself.

use super::Machine;

/// What a message came to: the destination and the vector, or the fault reason.
pub(crate) type Delivered = Result<(u32, u8), u8>;

impl Machine {
    /// A device's write of `data` to `address` in the interrupt address range.
    pub(crate) fn interrupt(&self, sid: u16, address: u64, data: u32) -> Delivered {
        let (status, irta) = {
            let registers = self.registers.borrow();
            (registers.status, registers.interrupt_table)
        };
        assert_ne!(status & 1 << 25, 0, "without remapping everything passes");
        if address & 1 << 4 == 0 {
            // 5.1.4: blocked in x2APIC mode, and unless CFIS is set.
            assert!(status & 1 << 23 == 0 || irta & 1 << 11 != 0, "compatibility format requests pass");
            return Err(0x25);
        }
        let mut index = (address >> 5 & 0x7fff) | (address & 4) << 13;
        if address & 8 != 0 {
            if data >> 16 != 0 {
                return Err(0x20);
            }
            index += u64::from(data);
        }
        if index >= 2 << (irta & 0xf) {
            return Err(0x21);
        }
        let index = index as u16;
        let cached = self.caches.borrow().interrupts.get(&index).copied();
        let [low, high] = cached.unwrap_or_else(|| {
            let at = (irta & !0xfff) + 16 * u64::from(index);
            let words = [self.unit_load(at), self.unit_load(at + 8)];
            if words[0] & 1 != 0 || self.traits.caching_mode() {
                self.caches.borrow_mut().interrupts.insert(index, words);
            }
            words
        });
        if low & 1 == 0 {
            return Err(0x22);
        }
        let extended = irta & 1 << 11 != 0;
        let reserved_destination = if extended { 0 } else { 0xffff_00ff << 32 };
        assert_eq!(low & (0xff00_f000 | reserved_destination), 0, "reserved bits of an entry");
        assert_eq!(high >> 20, 0, "reserved bits of an entry");
        let ignored = [0, 4, 6, 7][(high >> 16 & 3) as usize];
        let admitted = match high >> 18 & 3 {
            1 => (u64::from(sid) ^ high & 0xffff) & !ignored == 0,
            2 => (high >> 8 & 0xff..=high & 0xff).contains(&u64::from(sid >> 8)),
            kind => panic!("source validation {kind}"),
        };
        if !admitted {
            return Err(0x26);
        }
        let destination = if extended { (low >> 32) as u32 } else { (low >> 40) as u32 & 0xff };
        Ok((destination, (low >> 16) as u8))
    }
}
