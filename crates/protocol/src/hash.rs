//! Hashing of keys that nobody chooses to do harm: names of our own functions, ids that the operator gives.

use std::hash::{BuildHasherDefault, Hasher};

/// For tables of such keys, in a third of the time that the standard library's hash takes. What is looked up may be anything,
/// since it is not put in.
pub type OfKnownKeys = BuildHasherDefault<KnownKeys>;

/// See [`OfKnownKeys`].
#[derive(Clone, Copy, Debug, Default)]
pub struct KnownKeys(u64);

impl KnownKeys {
    fn add(&mut self, word: u64) {
        // 2^64 divided by the golden ratio, which is odd and has its bits well spread.
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

impl Hasher for KnownKeys {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks();
        words.iter().for_each(|word| self.add(u64::from_le_bytes(*word)));
        if !rest.is_empty() {
            self.add(rest.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)));
        }
    }

    fn write_usize(&mut self, word: usize) {
        self.add(word as u64);
    }

    fn write_u8(&mut self, byte: u8) {
        self.add(byte.into());
    }

    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, hash::BuildHasher as _};

    use super::OfKnownKeys;

    #[test]
    fn keys_that_are_alike_are_told_apart() {
        let hash = |key: &str| OfKnownKeys::default().hash_one(key);
        let names = (0..10_000).map(|number| format!("kong.function_{number}"));
        let hashes: HashSet<u64> = names.map(|name| hash(&name)).collect();
        assert_eq!(hashes.len(), 10_000);
        for bits in [0, 57] {
            let parts: HashSet<u64> = hashes.iter().map(|hash| hash >> bits & 127).collect();
            assert_eq!(parts.len(), 128, "the bits that tables look at, from {bits}, are used");
        }
    }
}
