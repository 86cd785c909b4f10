//! Time in the forms of nginx's logs, in the zone of the system.

use jiff::{Timestamp, tz::TimeZone};

fn zoned(seconds: f64) -> jiff::Zoned {
    let milliseconds = (seconds * 1000.0).round();
    #[expect(clippy::cast_possible_truncation, reason = "saturates; times are far from the limits")]
    let timestamp = Timestamp::from_millisecond(milliseconds as i64).unwrap_or_default();
    timestamp.to_zoned(TimeZone::system())
}

/// `$time_iso8601`: `2025-01-31T12:00:00+00:00`.
pub(super) fn iso8601(seconds: f64) -> String {
    zoned(seconds).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
}

/// `$time_local`: `31/Jan/2025:12:00:00 +0000`.
pub(super) fn local(seconds: f64) -> String {
    zoned(seconds).strftime("%d/%b/%Y:%H:%M:%S %z").to_string()
}
