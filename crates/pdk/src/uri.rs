//! Paths: percent-escaping, and normalisation (RFC 3986, section 6) as Kong's `kong.tools.uri` does it.

/// Bytes that keep their percent-encoding when a path is normalised.
const RESERVED: &[u8] = b"!*'();:@&=+$,/?%#[]";

/// Escapes what may not stand in a path as it is. What looks like an escape already, `?` and `#` are kept.
pub(crate) fn escape(path: &[u8]) -> String {
    let mut out = String::with_capacity(path.len());
    for &byte in path {
        if byte.is_ascii_alphanumeric() || b"!#$&'()*+,/:;=?@[]-_.~%".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Decodes escapes of bytes that are not reserved, writes the others in upper case, resolves `.` and `..`, and merges
/// slashes.
pub(crate) fn normalise(path: &[u8]) -> Vec<u8> {
    if path.is_empty() || path == b"/" {
        return path.to_vec();
    }
    let decoded = decode_unreserved(path);
    if !decoded.contains(&b'.') && !decoded.windows(2).any(|pair| pair == b"//") {
        return decoded;
    }
    remove_dot_segments(&decoded)
}

fn decode_unreserved(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&first, tail)) = rest.split_first() {
        let escape = (first == b'%').then(|| tail.get(..2)).flatten();
        if let (Some(digits), Some(byte)) = (escape, escape.and_then(hex_byte)) {
            if RESERVED.contains(&byte) {
                out.push(b'%');
                out.extend(digits.iter().map(u8::to_ascii_uppercase));
            } else {
                out.push(byte);
            }
            rest = tail.get(2..).unwrap_or_default();
        } else {
            out.push(first);
            rest = tail;
        }
    }
    out
}

/// The byte that two hexadecimal digits name.
pub(crate) fn hex_byte(digits: &[u8]) -> Option<u8> {
    let [high, low] = digits else { return None };
    let high = char::from(*high).to_digit(16)?;
    let low = char::from(*low).to_digit(16)?;
    u8::try_from(high * 16 + low).ok()
}

/// RFC 3986, section 5.2.4, merging slashes on the way.
fn remove_dot_segments(path: &[u8]) -> Vec<u8> {
    let mut segments: Vec<&[u8]> = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if rest == b"/." {
            rest = b"/";
        } else if rest == b"/.." {
            segments.pop();
            rest = b"/";
        } else if rest == b"." || rest == b".." {
            break;
        } else if let Some(tail) = rest.strip_prefix(b"../") {
            rest = tail;
        } else if let Some(tail) = rest.strip_prefix(b"./") {
            rest = tail;
        } else if rest.starts_with(b"/./") {
            rest = &rest[2..];
        } else if rest.starts_with(b"/../") {
            segments.pop();
            rest = &rest[3..];
        } else if rest.starts_with(b"//") {
            rest = &rest[1..];
        } else {
            let end = rest.iter().skip(1).position(|&byte| byte == b'/').map_or(rest.len(), |at| at + 1);
            let (segment, tail) = rest.split_at(end);
            segments.push(segment);
            rest = tail;
        }
    }
    segments.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_paths() {
        for (path, expect) in [
            ("/a b/c", "/a%20b/c"),
            ("/a%2Fb%zz", "/a%2Fb%zz"),
            ("/ä", "/%C3%A4"),
            ("/a?b=c#d", "/a?b=c#d"),
            ("/{}|\\^`<>\"", "/%7B%7D%7C%5C%5E%60%3C%3E%22"),
        ] {
            assert_eq!(escape(path.as_bytes()), expect);
        }
    }

    #[test]
    fn normalises_paths() {
        for (path, expect) in [
            ("", ""),
            ("/", "/"),
            ("/a//b", "/a/b"),
            ("/a/./b/../c", "/a/c"),
            ("/a/..", "/"),
            ("/../a", "/a"),
            ("/%61%2f%zz", "/a%2F%zz"),
            ("/a/.", "/a/"),
            ("/a%20b", "/a b"),
            ("//", "/"),
        ] {
            assert_eq!(normalise(path.as_bytes()), expect.as_bytes(), "{path}");
        }
    }
}
