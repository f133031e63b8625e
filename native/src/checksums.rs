//! CRC32C of the blocks of a sealed file, and which blocks have been compared with theirs since the file was mapped.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// Bytes covered by one checksum: little enough that the first touch of a row costs microseconds.
pub const CHECKSUM_BLOCK: usize = 1 << 16;

/// Files sealed by earlier versions have one checksum for each MiB.
const OLD_BLOCK: usize = 1 << 20;

/// Bytes covered by each of `count` checksums of a file of `size` bytes: its blocks are as long as gives so many. None if
/// no known length does. Where several do, the file is a single block and they mean the same.
pub fn checksum_block(size: usize, count: usize) -> Option<usize> {
    [CHECKSUM_BLOCK, OLD_BLOCK].into_iter().find(|block| size.div_ceil(*block) == count)
}

/// CRC32C of each `block` bytes, as little-endian u32.
pub fn crc32c_blocks(bytes: &[u8], block: usize) -> Vec<u8> {
    bytes.chunks(block).flat_map(|block| crc32c::crc32c(block).to_le_bytes()).collect()
}

/// The checksums of a file, each of which is compared once.
pub struct Checksums {
    sums: Vec<u32>,
    /// A bit for each block, set once the block was found to be what was sealed. Relaxed is enough: a bit guards no other
    /// memory, it states something about pages that never change.
    sound: Vec<AtomicU64>,
    size: usize,
    /// The base-two logarithm of a block's length.
    shift: u32,
}

impl Checksums {
    /// For a file of `size` bytes, as `crc32c_blocks` gives them. `Error::Value` if they are too many or too few.
    pub fn new(sums: &[u8], size: usize) -> Result<Self> {
        let (words, rest) = sums.as_chunks();
        let block = checksum_block(size, words.len()).filter(|_| rest.is_empty());
        let block = block.ok_or_else(|| {
            let (new, old) = (size.div_ceil(CHECKSUM_BLOCK), size.div_ceil(OLD_BLOCK));
            let got = sums.len();
            Error::value(format!("expected {new} or {old} checksums of 4 bytes for {size} bytes, got {got} bytes"))
        })?;
        let sums: Vec<u32> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
        let sound = (0..sums.len().div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Ok(Self { sums, sound, size, shift: block.ilog2() })
    }

    /// Compare the blocks of a range of the file's bytes that have not been compared; the offset of a wrong one if there is
    /// one. `file` begins with the bytes that were sealed, and may be longer.
    #[inline]
    pub fn check(&self, file: &[u8], range: Range<usize>) -> std::result::Result<(), u64> {
        let block = 1 << self.shift;
        for number in range.start >> self.shift..(range.end + block - 1) >> self.shift {
            if self.sound[number / 64].load(Ordering::Relaxed) >> (number % 64) & 1 == 0 {
                self.compare(file, number)?;
            }
        }
        Ok(())
    }

    /// The block with a byte, if it has not been compared.
    #[inline]
    pub fn uncompared(&self, byte: usize) -> Option<Range<usize>> {
        let number = byte >> self.shift;
        let is_sound = self.sound[number / 64].load(Ordering::Relaxed) >> (number % 64) & 1 == 1;
        (!is_sound).then(|| number << self.shift..self.size.min((number + 1) << self.shift))
    }

    #[cold]
    #[inline(never)]
    fn compare(&self, file: &[u8], number: usize) -> std::result::Result<(), u64> {
        let start = number << self.shift;
        let end = self.size.min(start + (1 << self.shift));
        if crc32c::crc32c(&file[start..end]) != self.sums[number] {
            return Err(start as u64);
        }
        self.sound[number / 64].fetch_or(1 << (number % 64), Ordering::Relaxed);
        Ok(())
    }

    /// Bytes of memory by capacity.
    pub fn bytes(&self) -> usize {
        self.sums.capacity() * size_of::<u32>() + self.sound.capacity() * size_of::<AtomicU64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_length_of_blocks_follows_from_their_count(size in 0..40 * OLD_BLOCK) {
            for block in [CHECKSUM_BLOCK, OLD_BLOCK] {
                let count = size.div_ceil(block);
                let found = checksum_block(size, count).expect("a length that was used");
                prop_assert!(found == block || count <= 1);
                prop_assert_eq!(size.div_ceil(found), count);
            }
            prop_assert_eq!(checksum_block(size, size / CHECKSUM_BLOCK + 2), None);
        }

        /// Whatever is read in whatever order, a range is refused exactly if it meets the damaged block.
        #[test]
        fn a_range_is_refused_if_it_meets_a_wrong_block(
            size in 1..5 * OLD_BLOCK, at: prop::sample::Index, bit in 0..8_u32, is_old: bool,
            reads in prop::collection::vec((any::<prop::sample::Index>(), 0..300_000_usize), 1..20),
        ) {
            let mut file: Vec<u8> = (0..size).map(|i| (i * 31 % 251) as u8).collect();
            let block = if is_old { OLD_BLOCK } else { CHECKSUM_BLOCK };
            let checksums = Checksums::new(&crc32c_blocks(&file, block), size).expect("as many as there are blocks");
            let at = at.index(size);
            file[at] ^= 1_u8 << bit;
            file.extend([7; 100]);
            let block = 1 << checksums.shift;
            let wrong = at / block * block;
            for (start, len) in reads {
                let start = start.index(size);
                let end = size.min(start + len);
                let is_met = start < end && start / block <= wrong / block && wrong < end;
                let got = checksums.check(&file, start..end);
                let expected = if is_met { Err(wrong as u64) } else { Ok(()) };
                prop_assert!(got == expected || start == end);
            }
        }
    }

    #[test]
    fn a_block_is_compared_once() {
        let mut file = vec![5; 3 * CHECKSUM_BLOCK];
        let checksums = Checksums::new(&crc32c_blocks(&file, CHECKSUM_BLOCK), file.len()).expect("three");
        assert_eq!(checksums.check(&file, 10..20), Ok(()));
        file.fill(6);
        assert_eq!(checksums.check(&file, 0..CHECKSUM_BLOCK), Ok(()));
        assert_eq!(checksums.check(&file, 0..CHECKSUM_BLOCK + 1), Err(CHECKSUM_BLOCK as u64));
        // What was wrong is looked at again.
        file.fill(5);
        assert_eq!(checksums.check(&file, 0..file.len()), Ok(()));
    }

    #[test]
    fn checksums_that_do_not_fit_the_file_are_refused() {
        for (sums, size) in [(4, 0), (0, 1), (7, 100), (8, 100), (12, 2 * CHECKSUM_BLOCK), (8, OLD_BLOCK)] {
            let message = Checksums::new(&vec![0; sums], size).err().expect("a refusal").to_string();
            assert!(message.contains(&format!("got {sums} bytes")), "{message}");
        }
        assert!(Checksums::new(&[], 0).is_ok());
    }
}
