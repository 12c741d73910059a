//! What must hold for any bytes at all, and the bytes that are tried.

use super::generate::{Generator, Range};
use portcullis_firmware::acpi::{self, Table, fields};
use rand::{Rng, RngExt};
use rand_chacha::ChaCha8Rng;

/// Statements about devices that a table of any size may be turned into, beside those that its size allows: the bounds
/// on segments (VIOT) and on devices of reserved memory ranges (IORT).
const STATEMENTS: usize = 1 << 17;

/// Reads `bytes` in every way and checks what must hold.
///
/// # Errors
///
/// The rule that does not hold. (A panic or a loop is for the caller to notice.)
pub fn hold(bytes: &[u8]) -> Result<(), String> {
    let topology = acpi::topology(bytes);
    let statements = topology.routes.len()
        + topology.message_routes.len()
        + topology.units.len()
        + topology.reserved.iter().map(|region| 1 + region.devices.len()).sum::<usize>();
    if statements > bytes.len() + STATEMENTS {
        return Err(format!("{statements} statements come from {} bytes", bytes.len()));
    }
    if (0..).zip(&topology.units).any(|(number, unit)| unit.id.0 != number) {
        return Err("a unit's id is not its place in the list".into());
    }
    let mut units = topology.routes.iter().filter_map(|route| route.unit);
    if let Some(unit) = units.find(|unit| topology.unit(*unit).is_none()) {
        return Err(format!("a route leads to {unit:?}, which is not there"));
    }
    if let Some(blocks) = acpi::decode(bytes) {
        every_byte_is_shown(bytes, &blocks)?;
    }
    let (table, _) = Table::read(bytes);
    if let Some(table) = table
        && let Ok(written) = table.write()
    {
        read_back(&table, &written)?;
    }
    Ok(())
}

/// What was written is read as what it was written from, and nothing is found wrong with its form.
///
/// # Errors
///
/// The difference.
pub fn read_back(table: &Table, written: &[u8]) -> Result<(), String> {
    let sum = written.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    if sum != 0 {
        return Err(format!("the bytes written add up to {sum:#x}"));
    }
    let (again, findings) = Table::read(written);
    if again.as_ref() != Some(table) {
        return Err(format!("read back differently: {findings:?}\n was {table:?}\n is {again:?}"));
    }
    Ok(())
}

fn every_byte_is_shown(bytes: &[u8], blocks: &[acpi::Block<'_>]) -> Result<(), String> {
    let stated =
        bytes.get(4..8).map_or(0, |length| u32::from_le_bytes(length.try_into().unwrap_or_default()));
    let length = if (36..=bytes.len()).contains(&(stated as usize)) { stated as usize } else { bytes.len() };
    let mut shown = vec![false; length];
    for field in fields(blocks) {
        let end = field.offset as usize + field.length as usize;
        let Some(place) = shown.get_mut(field.offset as usize..end) else {
            return Err(format!("{} at {:#x} lies outside of the table", field.name, field.offset));
        };
        place.fill(true);
    }
    match shown.iter().position(|shown| !shown) {
        Some(offset) => Err(format!("no field shows byte {offset:#x}")),
        None => Ok(()),
    }
}

/// Sets the header's length to that of the bytes, and the checksum so that they add up.
pub fn seal(bytes: &mut [u8]) {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    if let Some(place) = bytes.get_mut(4..8) {
        place.copy_from_slice(&length.to_le_bytes());
    }
    let sum = bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    if let Some(checksum) = bytes.get_mut(9) {
        *checksum = checksum.wrapping_sub(sum);
    }
}

/// Every beginning of a table, as it is and with length and checksum made to fit.
pub fn truncations(table: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    (0..table.len()).flat_map(|length| {
        let cut = table[..length].to_vec();
        let mut sealed = cut.clone();
        seal(&mut sealed);
        [cut, sealed]
    })
}

/// A table with something changed: one of `tables`, or one made up.
pub fn mutation(random: &mut ChaCha8Rng, tables: &[Vec<u8>]) -> Vec<u8> {
    let made_up = tables.is_empty() || random.random_bool(0.5);
    let mut bytes = if made_up {
        Generator::new(random, Range::Everything).table().write().unwrap_or_default()
    } else {
        tables[random.random_range(0..tables.len())].clone()
    };
    for _ in 0..random.random_range(1..=6) {
        mutate(random, &mut bytes);
    }
    if random.random_bool(0.7) {
        seal(&mut bytes);
    }
    bytes
}

fn mutate(random: &mut ChaCha8Rng, bytes: &mut Vec<u8>) {
    if bytes.is_empty() {
        bytes.push(0);
    }
    let at = random.random_range(0..bytes.len());
    match random.random_range(0..7) {
        0 => bytes[at] ^= 1 << random.random_range(0..8),
        1 => bytes[at] = random.next_u32() as u8,
        2 => {
            let values =
                [0, 1, 2, 3, 4, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0x8000, 0xffff, 0x7fff_ffff, u32::MAX];
            let value = values[random.random_range(0..values.len())].to_le_bytes();
            let width = [1, 2, 4][random.random_range(0..3)];
            for (place, byte) in bytes[at..].iter_mut().zip(&value[..width]) {
                *place = *byte;
            }
        }
        3 => bytes.truncate(at),
        4 => bytes.extend((0..random.random_range(0..40)).map(|_| random.next_u32() as u8)),
        5 => {
            let end = (at + random.random_range(0..64)).min(bytes.len());
            let piece = bytes[at..end].to_vec();
            let to = random.random_range(0..=bytes.len());
            bytes.splice(to..to, piece);
        }
        _ => {
            let end = (at + random.random_range(0..16)).min(bytes.len());
            bytes.drain(at..end);
        }
    }
}
