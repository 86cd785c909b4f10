//! Title-Case, in which most header names are written: the first letter, and each after a hyphen, as a capital. Each head has
//! a dozen names: they are looked at eight bytes at a time.

/// Eight bytes.
type Word = u64;

const SIZE: usize = size_of::<Word>();

/// The lowest bit of each byte.
const ONES: Word = Word::from_ne_bytes([1; SIZE]);

/// The highest bit of each byte: what says yes of it in the sets of bytes below.
const HIGH: Word = ONES << 7;

/// The byte before is a hyphen, or there is none: said of the first byte of a word.
const BEGINS: Word = 0x80;

/// Whether a name is written so.
pub(super) fn is_title_case(name: &[u8]) -> bool {
    let mut begins = BEGINS;
    let (words, rest) = name.as_chunks::<SIZE>();
    let mut all = words.iter().all(|bytes| is_so(Word::from_le_bytes(*bytes), &mut begins));
    if !rest.is_empty() {
        all &= is_so(padded(rest), &mut begins);
    }
    all
}

/// Writes a name so whose letters are small.
pub(super) fn make_title_case(name: &mut [u8]) {
    let mut begins = BEGINS;
    let (words, rest) = name.as_chunks_mut::<SIZE>();
    for bytes in words {
        *bytes = written_so(Word::from_le_bytes(*bytes), &mut begins).to_le_bytes();
    }
    if !rest.is_empty() {
        let bytes = written_so(padded(rest), &mut begins).to_le_bytes();
        for (byte, written) in rest.iter_mut().zip(bytes) {
            *byte = written;
        }
    }
}

/// Less than a word, with nothing after it.
fn padded(rest: &[u8]) -> Word {
    rest.iter().rev().fold(0, |word, byte| word << 8 | Word::from(*byte))
}

fn is_so(word: Word, begins: &mut Word) -> bool {
    let first = first_of_parts(word, begins);
    (first & between(word, b'a', b'z')) | (!first & between(word, b'A', b'Z')) == 0
}

fn written_so(word: Word, begins: &mut Word) -> Word {
    // Small letters and capitals differ in one bit, of value 0x20.
    word ^ (first_of_parts(word, begins) & between(word, b'a', b'z')) >> 2
}

/// The bytes of a word that are the first, or come after a hyphen. `begins` is of this word, and then of the next.
fn first_of_parts(word: Word, begins: &mut Word) -> Word {
    let hyphens = between(word, b'-', b'-');
    let first = hyphens << 8 | *begins;
    *begins = hyphens >> (Word::BITS - 8);
    first
}

/// The bytes of a word that are, in ASCII, between these two.
const fn between(word: Word, from: u8, to: u8) -> Word {
    // Seven bits of each byte, so that no sum runs over into the next one.
    let bits = word & !HIGH;
    let from_on = bits + ONES * (0x80 - from as Word);
    let beyond = bits + ONES * (0x7f - to as Word);
    from_on & !beyond & !word & HIGH
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{is_title_case, make_title_case};

    #[test]
    fn title_case_is_told() {
        for name in ["Host", "X-Real-Ip", "A", "X-1a", "-A", "X--Y", "Content-Type", "X-Forwarded-For", "Content-", ""]
        {
            assert!(is_title_case(name.as_bytes()), "{name}");
        }
        for name in ["host", "ETag", "X-Real-IP", "x-A", "TE", "Content-type", "X-Kong-request-Id", "Content-TYpe"] {
            assert!(!is_title_case(name.as_bytes()), "{name}");
        }
    }

    /// Byte by byte.
    fn as_defined(name: &[u8]) -> Vec<u8> {
        let before = std::iter::once(&b'-').chain(name);
        let pairs = before.zip(name);
        pairs.map(|(before, byte)| if *before == b'-' { byte.to_ascii_uppercase() } else { *byte }).collect()
    }

    proptest! {
        #[test]
        fn names_are_written_as_defined(name in "[a-z0-9_!~@`{\\[/-]{0,40}") {
            let mut written = name.clone().into_bytes();
            make_title_case(&mut written);
            prop_assert_eq!(&written, &as_defined(name.as_bytes()));
            prop_assert!(is_title_case(&written));
        }

        #[test]
        fn names_are_told_as_defined(name in prop_oneof![
            "[A-Za-z-]{0,20}".prop_map(String::into_bytes),
            proptest::collection::vec(any::<u8>(), 0..40),
        ]) {
            prop_assert_eq!(is_title_case(&name), as_defined(&name.to_ascii_lowercase()) == name);
        }
    }
}
