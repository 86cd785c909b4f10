//! A request as browsers send it.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Its header lines.
pub(super) const HEADERS: [(&str, &str); 12] = [
    ("host", "gateway.example.com"),
    ("connection", "keep-alive"),
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    ("accept-language", "en-US,en;q=0.5"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("referer", "https://shop.example.com/items?page=3"),
    ("cookie", "session=2f6c1d9a7b3e4f50; theme=dark; consent=1"),
    ("authorization", "Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiI0MiJ9.aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
    ("x-request-id", "7c9e6679-7425-40de-944b-e07fc1f90ae7"),
    ("x-tenant", "acme"),
    ("cache-control", "no-cache"),
];

pub(super) fn headers() -> HeaderMap {
    let lines = HEADERS.into_iter();
    lines.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
}
