//! What the test disks hold: both sides work it out, so neither has to believe the other.

/// Bytes of a block.
pub const BLOCK: usize = 512;
/// Blocks of the disk.
pub const BLOCKS: u64 = 32 << 10;
/// Blocks that are read and written in one go.
pub const PROBED: u64 = 256;
/// The evidence that names the sum of blocks that were read.
pub const READ: &str = "disk-read";
/// The evidence that names the first block that was written.
pub const WRITTEN: &str = "disk-written";

/// What block `number` holds at first.
#[must_use]
pub fn original(number: u64) -> [u8; BLOCK] {
    fill(number ^ 0x5eed_0000_0000_0000)
}

/// What block `number` holds after it was written.
#[must_use]
pub fn changed(number: u64) -> [u8; BLOCK] {
    fill(number ^ 0xc4a6_0000_0000_0000)
}

/// Marsaglia's xorshift64, from a seed that is never 0.
fn fill(seed: u64) -> [u8; BLOCK] {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut block = [0; BLOCK];
    for word in block.as_chunks_mut::<8>().0 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *word = state.to_le_bytes();
    }
    block
}

/// FNV-1a over blocks, as text.
#[must_use]
pub fn sum(blocks: impl IntoIterator<Item = [u8; BLOCK]>) -> String {
    let mut sum = 0xcbf2_9ce4_8422_2325u64;
    for byte in blocks.into_iter().flatten() {
        sum = (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("{sum:016x}")
}

/// A file that can be fetched over the machine's network, and what it says.
pub const FILE: &str = "portcullis.txt";
/// See [`FILE`].
pub const FILE_TEXT: &str = "fetched over the network";
