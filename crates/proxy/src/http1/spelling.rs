//! How header names were written. Names are known in lower case only, and written in Title-Case; nginx passes them on
//! as they came. Most come in Title-Case: only heads in which one does not are remembered, by the names of all their lines.

use bytes::Bytes;

/// A head whose names are to be written as they are there: one of them would be written otherwise. The head itself is
/// kept, which its values are parts of anyway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spelling(Option<Bytes>);

impl Spelling {
    /// Of a whole head, its first line included.
    pub(crate) fn of_head(head: &Bytes) -> Self {
        Self(Some(head.clone()))
    }

    /// Writes the names in header lines as they were, in place. Of several lines of one name the first is written as the
    /// first was.
    pub(crate) fn restore(&self, head: &mut [u8]) {
        let Some(spelt) = &self.0 else { return };
        let mut spelt: Vec<Option<&[u8]>> = names(spelt).map(Some).collect();
        let mut at = 0;
        while at < head.len() {
            let end = memchr::memchr(b'\n', &head[at..]).map_or(head.len(), |length| at + length + 1);
            if let Some(colon) = memchr::memchr(b':', &head[at..end]) {
                let name = &mut head[at..at + colon];
                let is_it = |spelt: &&mut Option<&[u8]>| spelt.is_some_and(|spelt| spelt.eq_ignore_ascii_case(name));
                if let Some(spelt) = spelt.iter_mut().find(is_it).and_then(Option::take) {
                    name.copy_from_slice(spelt);
                }
            }
            at = end;
        }
    }
}

/// The names of a head's lines, but for its first.
fn names(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    let lines = memchr::memchr_iter(b'\n', head).map(|end| &head[end + 1..]);
    lines.filter_map(|line| {
        let end = line.iter().position(|byte| matches!(byte, b':' | b'\n' | b'\r'))?;
        (line[end] == b':').then_some(&line[..end])
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::title_case::is_title_case, Bytes, Spelling};

    fn check(came: &str, goes: &str, expect: &str) {
        let spelling = Spelling::of_head(&Bytes::copy_from_slice(came.as_bytes()));
        let mut head = goes.as_bytes().to_vec();
        spelling.restore(&mut head);
        assert_eq!(String::from_utf8(head).unwrap(), expect);
    }

    #[test]
    fn names_are_written_as_they_came() {
        check(
            "GET / HTTP/1.1\r\nhost: a\r\nETag: 1\r\nX-A: 1\r\n\r\n",
            "GET / HTTP/1.1\r\nVia: b\r\nX-A: host:\r\nEtag: 1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nVia: b\r\nX-A: host:\r\nETag: 1\r\nhost: a\r\n\r\n",
        );
        check("GET / HTTP/1.1\r\nX-A: 1\r\n\r\n", "X-A: 1\r\n\r\n", "X-A: 1\r\n\r\n");
    }

    #[test]
    fn lines_of_one_name_keep_each_its_own_spelling() {
        check(
            "\r\nX-A: 1\r\nx-a: 2\r\nX-a: 3\r\n\r\n",
            "X-A: 1\r\nX-A: 2\r\nX-A: 3\r\nX-A: 4\r\n",
            "X-A: 1\r\nx-a: 2\r\nX-a: 3\r\nX-A: 4\r\n",
        );
    }

    proptest! {
        /// Names come back as they were, whatever else the head holds.
        #[test]
        fn names_come_back(names in proptest::collection::vec("[A-Za-z0-9-]{1,9}", 0..9), value in "[ -~]{0,9}") {
            let head: String = names.iter().map(|name| format!("{name}: {value}\r\n")).collect();
            let head = format!("GET / HTTP/1.1\r\n{head}\r\n");
            let spelling = Spelling::of_head(&Bytes::copy_from_slice(head.as_bytes()));
            let lines = head.split_once("\r\n").unwrap().1;
            let mut written: Vec<u8> = Vec::new();
            for line in lines.split_inclusive("\r\n") {
                let (name, rest) = line.split_once(':').map_or((line, String::new()), |(name, rest)| (name, format!(":{rest}")));
                let mut hyphen = true;
                for byte in name.bytes() {
                    written.push(if hyphen { byte.to_ascii_uppercase() } else { byte.to_ascii_lowercase() });
                    hyphen = byte == b'-';
                }
                written.extend_from_slice(rest.as_bytes());
            }
            prop_assert_eq!(written == lines.as_bytes(), names.iter().all(|name| is_title_case(name.as_bytes())));
            spelling.restore(&mut written);
            prop_assert_eq!(String::from_utf8(written).unwrap(), lines);
        }

        #[test]
        fn no_bytes_confuse_it(head in proptest::collection::vec(any::<u8>(), 0..99), mut other in proptest::collection::vec(any::<u8>(), 0..99)) {
            let length = other.len();
            Spelling::of_head(&head.into()).restore(&mut other);
            prop_assert_eq!(other.len(), length);
        }
    }
}
