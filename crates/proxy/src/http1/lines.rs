//! Header lines as they are written. nginx passes names on as they came ([`Spelling`](super::spelling::Spelling)); those that
//! plugins set go in Title-Case, but for a few.

use http::HeaderMap;

use super::title_case::make_title_case;

/// Writes a header line, its name in Title-Case, or as Kong spells it.
pub(crate) fn put(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    put_name(out, name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Writes all of them.
pub(crate) fn put_all(out: &mut Vec<u8>, headers: &HeaderMap) {
    for (name, value) in headers {
        put(out, name.as_str(), value.as_bytes());
    }
}

fn put_name(out: &mut Vec<u8>, name: &str) {
    let known = match name {
        "te" => "TE",
        "dnt" => "DNT",
        "x-real-ip" => "X-Real-IP",
        "x-consumer-id" => "X-Consumer-ID",
        "x-consumer-custom-id" => "X-Consumer-Custom-ID",
        _ => {
            let begin = out.len();
            out.extend_from_slice(name.as_bytes());
            make_title_case(&mut out[begin..]);
            return;
        }
    };
    out.extend_from_slice(known.as_bytes());
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    #[test]
    fn names_are_written_as_kong_writes_them() {
        let mut headers = HeaderMap::new();
        for name in ["x-real-ip", "x-kong-request-id", "te", "x-consumer-custom-id", "etag", "x-a", "x-a", "-a--b-"] {
            headers.append(name, HeaderValue::from_static("1"));
        }
        let mut out = Vec::new();
        super::put_all(&mut out, &headers);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "X-Real-IP: 1\r\nX-Kong-Request-Id: 1\r\nTE: 1\r\nX-Consumer-Custom-ID: 1\r\nEtag: 1\r\nX-A: 1\r\nX-A: 1\r\n\
             -A--B-: 1\r\n"
        );
    }
}
