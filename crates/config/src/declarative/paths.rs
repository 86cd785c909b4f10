//! Route paths: their normal form, and what Kong makes of those of formats before 3.0.

use std::fmt::Write as _;

/// Characters that stay percent-encoded, because decoding them would change the meaning (RFC 3986, section 2.2).
const RESERVED: &[u8] = b"!*'();:@&=+$,/?%#[]";

/// The normal form of a path: encoded characters that need no encoding are decoded, dot segments resolved, empty
/// segments removed. Kong: `kong/tools/uri.lua`.
pub(super) fn normalize(path: &str) -> String {
    if path.is_empty() || path == "/" {
        return path.to_owned();
    }
    let decoded = decode(path, |byte| (!RESERVED.contains(&byte)).then(|| vec![byte]));
    if !decoded.contains(&b'.') && !decoded.windows(2).any(|pair| pair == b"//") {
        return String::from_utf8_lossy(&decoded).into_owned();
    }
    let mut out: Vec<&[u8]> = Vec::new();
    let mut rest = decoded.as_slice();
    while !rest.is_empty() {
        rest = match rest {
            b"/." => b"/",
            b"/.." => {
                out.pop();
                b"/"
            }
            b"." | b".." => b"",
            [b'.', b'.', b'/', tail @ ..] | [b'.', b'/', tail @ ..] => tail,
            [b'/', b'.', b'/', ..] => rest.get(2..).unwrap_or_default(),
            [b'/', b'.', b'.', b'/', ..] => {
                out.pop();
                rest.get(3..).unwrap_or_default()
            }
            [b'/', b'/', ..] => rest.get(1..).unwrap_or_default(),
            _ => {
                let end = rest.iter().skip(1).position(|&b| b == b'/').map_or(rest.len(), |at| at + 1);
                let (segment, tail) = rest.split_at(end);
                out.push(segment);
                tail
            }
        };
    }
    String::from_utf8_lossy(&out.concat()).into_owned()
}

/// Replaces percent-encoded bytes by what `replace` gives; where it gives nothing, the hexadecimal digits become upper
/// case.
fn decode(text: &str, replace: impl Fn(u8) -> Option<Vec<u8>>) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let encoded = (byte == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match encoded.and_then(|digits| u8::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'))) {
            Some(value) => {
                match replace(value) {
                    Some(replacement) => out.extend(replacement),
                    None => out.extend(format!("%{value:02X}").bytes()),
                }
                at += 3;
            }
            None => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

/// A path of format 1.1 or 2.1 as format 3.0 writes it: what only a regular expression can be gets its `~`.
/// Kong: `kong/db/migrations/migrate_path_280_300.lua`.
pub(super) fn migrate(path: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'~' | b'/' | b'%');
    if path.bytes().all(plain) {
        return normalize(path);
    }
    let mut migrated = String::from("~");
    if path.contains('%') {
        let decoded = decode(path, |byte| match byte {
            b'.' | b'^' | b'-' | b'{' | b'}' | b'\\' | b'|' => Some(vec![b'\\', byte]),
            reserved if RESERVED.contains(&reserved) => None,
            other => Some(vec![other]),
        });
        migrated.push_str(&String::from_utf8_lossy(&decoded));
    } else {
        let _ = write!(migrated, "{path}");
    }
    migrated
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_forms() {
        for (path, expect) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a//b", "/a/b"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/..", "/"),
            ("/a/.", "/a/"),
            ("/%61", "/a"),
            ("/a%2fb", "/a%2Fb"),
            ("/a%20b", "/a b"),
            ("/..", "/"),
            ("/x.y", "/x.y"),
        ] {
            assert_eq!(normalize(path), expect, "{path}");
        }
    }

    #[test]
    fn older_paths() {
        for (path, expect) in [
            ("/a/b", "/a/b"),
            ("/a//b", "/a/b"),
            ("/a/\\d+", "~/a/\\d+"),
            ("/a$", "~/a$"),
            ("/%2e(x)", "~/\\.(x)"),
            ("/%28x)", "~/%28x)"),
            ("/a%62", "/ab"),
        ] {
            assert_eq!(migrate(path), expect, "{path}");
        }
    }
}
