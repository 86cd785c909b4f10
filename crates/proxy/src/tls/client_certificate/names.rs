//! Distinguished names as OpenSSL prints them.

use std::fmt::Write as _;

use x509_parser::{
    objects::{oid_registry, oid2abbrev},
    prelude::{AttributeTypeAndValue, X509Name},
};

/// RFC 2253, the most specific part first, bytes beyond ASCII escaped: `CN=a,O=b\C3\A4`.
pub(super) fn rfc2253(name: &X509Name<'_>) -> String {
    let parts: Vec<Vec<String>> = name
        .iter_rdn()
        .map(|part| part.iter().map(|attribute| format!("{}={}", key(attribute), escaped(&value(attribute)))).collect())
        .collect();
    parts.iter().rev().map(|part| part.join("+")).collect::<Vec<_>>().join(",")
}

/// OpenSSL's old form, in the order of the certificate: `/O=b/CN=a`.
pub(super) fn one_line(name: &X509Name<'_>) -> String {
    name.iter_attributes().fold(String::new(), |mut line, attribute| {
        let _ = write!(line, "/{}=", key(attribute));
        for byte in value(attribute).bytes() {
            match byte {
                b' '..=b'~' => line.push(char::from(byte)),
                _ => {
                    let _ = write!(line, "\\x{byte:02X}");
                }
            }
        }
        line
    })
}

fn key(attribute: &AttributeTypeAndValue<'_>) -> String {
    let oid = attribute.attr_type();
    oid2abbrev(oid, oid_registry()).map_or_else(|_| oid.to_id_string(), str::to_owned)
}

fn value(attribute: &AttributeTypeAndValue<'_>) -> String {
    match attribute.as_str() {
        Ok(text) => text.to_owned(),
        Err(_) => String::from_utf8_lossy(attribute.as_slice()).into_owned(),
    }
}

fn escaped(value: &str) -> String {
    let last = value.len().saturating_sub(1);
    let mut text = String::with_capacity(value.len());
    for (at, byte) in value.bytes().enumerate() {
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => {
                text.push('\\');
                text.push(char::from(byte));
            }
            b'#' if at == 0 => text.push_str("\\#"),
            b' ' if at == 0 || at == last => text.push_str("\\ "),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => {
                let _ = write!(text, "\\{byte:02X}");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::escaped;

    #[test]
    fn values_are_escaped_as_rfc_2253_says() {
        for (value, expect) in [
            ("plain", "plain"),
            ("a, b+c", "a\\, b\\+c"),
            (" #x ", "\\ #x\\ "),
            ("#x", "\\#x"),
            ("b\u{e4}", "b\\C3\\A4"),
        ] {
            assert_eq!(escaped(value), expect);
        }
    }
}
