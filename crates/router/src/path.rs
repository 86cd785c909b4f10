//! The path that routes are matched against, and the way back to one that may be sent.

use std::borrow::Cow;

use memchr::{memchr, memchr2};

/// The path to match, from the request target up to its `?`.
///
/// Percent-encoded characters other than the reserved ones are decoded (the escapes that stay get upper-case digits),
/// `.` and `..` segments are resolved as RFC 3986 5.2.4 says, and runs of slashes become one (Kong:
/// `tools/uri.lua`, `normalize` with `merge_slashes`). Decoding may give bytes that are no UTF-8.
pub fn normalize_path(raw: &[u8]) -> Cow<'_, [u8]> {
    if memchr2(b'%', b'.', raw).is_none() && !has_empty_segment(raw) {
        return Cow::Borrowed(raw);
    }
    let decoded = decode(raw);
    if memchr(b'.', &decoded).is_none() && !has_empty_segment(&decoded) {
        return decoded;
    }
    Cow::Owned(remove_dots_and_empty_segments(&decoded))
}

/// A substring search would take longer to set up than most paths take to walk along.
fn has_empty_segment(path: &[u8]) -> bool {
    path.windows(2).any(|pair| pair == b"//")
}

fn decode(raw: &[u8]) -> Cow<'_, [u8]> {
    let Some(first) = memchr(b'%', raw) else { return Cow::Borrowed(raw) };
    let mut out = Vec::with_capacity(raw.len());
    let (head, mut rest) = raw.split_at(first);
    out.extend_from_slice(head);
    while let [byte, tail @ ..] = rest {
        let escape = match (byte, tail) {
            (b'%', [high, low, after @ ..]) => hex(*high).zip(hex(*low)).map(|(h, l)| (h << 4 | l, after)),
            _ => None,
        };
        match escape {
            Some((value, after)) => {
                if is_reserved(value) {
                    push_escape(&mut out, value);
                } else {
                    out.push(value);
                }
                rest = after;
            }
            None => {
                out.push(*byte);
                rest = tail;
            }
        }
    }
    Cow::Owned(out)
}

/// What is left of the path is consumed from its front, and the output is a stack of segments, each but the first with
/// the slash before it.
fn remove_dots_and_empty_segments(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut segments = Vec::new();
    let mut rest = path;
    loop {
        rest = match rest {
            b"" => return out,
            b"/." => b"/",
            b"/.." => {
                out.truncate(segments.pop().unwrap_or(0));
                b"/"
            }
            b"." | b".." => b"",
            [b'.', b'.', b'/', after @ ..] | [b'.', b'/', after @ ..] => after,
            [b'/', b'.', after @ ..] if after.starts_with(b"/") => after,
            [b'/', b'.', b'.', after @ ..] if after.starts_with(b"/") => {
                out.truncate(segments.pop().unwrap_or(0));
                after
            }
            [b'/', after @ ..] if after.starts_with(b"/") => after,
            [_, tail @ ..] => {
                let (segment, after) = rest.split_at(1 + memchr(b'/', tail).unwrap_or(tail.len()));
                segments.push(out.len());
                out.extend_from_slice(segment);
                after
            }
        };
    }
}

/// Percent-encodes what may not stand in a request target; `%` itself is taken for an escape (Kong: `tools/uri.lua`,
/// `escape`).
pub(crate) fn escape(path: Vec<u8>) -> String {
    let path = match path.iter().position(|byte| !IN_TARGETS[usize::from(*byte)]) {
        None => path,
        Some(first) => {
            let (head, rest) = path.split_at(first);
            let mut out = head.to_vec();
            for &byte in rest {
                if IN_TARGETS[usize::from(byte)] {
                    out.push(byte);
                } else {
                    push_escape(&mut out, byte);
                }
            }
            out
        }
    };
    // Only ASCII is left: that is always text.
    String::from_utf8(path).unwrap_or_default()
}

/// The bytes that may stand in a request target.
const IN_TARGETS: [bool; 256] = {
    let mut bytes = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        bytes[byte as usize] =
            byte.is_ascii_alphanumeric() || is_reserved(byte) || matches!(byte, b'-' | b'_' | b'.' | b'~');
        byte += 1;
    }
    bytes
};

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

fn push_escape(out: &mut Vec<u8>, byte: u8) {
    let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'A' + nibble - 10 };
    out.extend([b'%', digit(byte >> 4), digit(byte & 15)]);
}

/// RFC 3986's reserved characters, and `%`.
const fn is_reserved(byte: u8) -> bool {
    matches!(
        byte,
        b'!' | b'*'
            | b'\''
            | b'('
            | b')'
            | b';'
            | b':'
            | b'@'
            | b'&'
            | b'='
            | b'+'
            | b'$'
            | b','
            | b'/'
            | b'?'
            | b'%'
            | b'#'
            | b'['
            | b']'
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(raw: &[u8], expect: &[u8]) {
        let path = normalize_path(raw);
        assert_eq!(path, expect, "{} gave {}", raw.escape_ascii(), path.escape_ascii());
    }

    #[test]
    fn escapes_are_decoded_unless_reserved() {
        check(b"/plain", b"/plain");
        check(b"", b"");
        check(b"/%61%62/%7e%2D", b"/ab/~-");
        check(b"/a%2fb%3f%23%25", b"/a%2Fb%3F%23%25");
        check(b"/sp%20ace", b"/sp ace");
        check(b"/%e2%82%ac", "/\u{20ac}".as_bytes());
        check(b"/%ff", b"/\xff");
        check(b"/%2561", b"/%2561");
        check(b"/100%", b"/100%");
        check(b"/%4/%zz", b"/%4/%zz");
    }

    #[test]
    fn dots_and_slashes_are_resolved() {
        check(b"//", b"/");
        check(b"/a///b//", b"/a/b/");
        check(b"/a/./b/.", b"/a/b/");
        check(b"/a/b/../c", b"/a/c");
        check(b"/a/b/..", b"/a/");
        check(b"/../../x", b"/x");
        check(b"/a//../b", b"/b");
        check(b"/a/%2E%2e/b", b"/b");
        check(b"/a/..%2fb", b"/a/..%2Fb");
        check(b"/a/...", b"/a/...");
        check(b"/.a/b.", b"/.a/b.");
        check(b"a/../b", b"/b");
        check(b"../b", b"b");
        check(b"..", b"");
    }

    #[test]
    fn escaping_keeps_what_a_target_may_hold() {
        assert_eq!(escape(b"/a b\"<>\x00\xff".to_vec()), "/a%20b%22%3C%3E%00%FF");
        assert_eq!(escape(b"/%2F-._~!$&'()*+,;=:@?#[]".to_vec()), "/%2F-._~!$&'()*+,;=:@?#[]");
    }

    proptest! {
        #[test]
        fn normalizing_twice_changes_nothing(path in "(/|\\.|[a-z]|%[0-9a-fA-F]{2}|\\PC){0,24}") {
            // A lone `%` may become part of an escape once what follows it is decoded.
            let path = path.replace("%%", "");
            prop_assume!(!has_broken_escape(path.as_bytes()));
            let once = normalize_path(path.as_bytes()).into_owned();
            prop_assert_eq!(normalize_path(&once).into_owned(), once);
        }

        #[test]
        fn any_bytes_may_be_normalized_and_escaped(path in prop::collection::vec(any::<u8>(), 0..64)) {
            let path = normalize_path(&path);
            prop_assert!(!has_empty_segment(&path));
            prop_assert!(escape(path.into_owned()).bytes().all(|byte| byte.is_ascii_graphic()));
        }

        #[test]
        fn no_dot_segment_survives(path in "(/|\\.|a|%2[eE]){0,16}") {
            let raw = format!("/{path}");
            let path = normalize_path(raw.as_bytes());
            prop_assert!(path.split(|&byte| byte == b'/').all(|segment| segment != b"." && segment != b".."));
            prop_assert!(path.starts_with(b"/"));
        }
    }

    fn has_broken_escape(path: &[u8]) -> bool {
        path.iter().enumerate().any(|(at, &byte)| {
            byte == b'%' && !path.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
        })
    }
}
