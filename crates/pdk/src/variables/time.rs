//! Time in the forms of nginx's logs, in the zone of the system.

use std::cell::RefCell;

use jiff::{Timestamp, tz::TimeZone};

fn milliseconds(seconds: f64) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "saturates; times are far from the limits")]
    let milliseconds = (seconds * 1000.0).round() as i64;
    milliseconds
}

fn zoned(seconds: f64) -> jiff::Zoned {
    Timestamp::from_millisecond(milliseconds(seconds)).unwrap_or_default().to_zoned(TimeZone::system())
}

/// `$time_iso8601`: `2025-01-31T12:00:00+00:00`.
pub(super) fn iso8601(seconds: f64) -> String {
    zoned(seconds).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
}

/// `$time_local`: `31/Jan/2025:12:00:00 +0000`.
pub(super) fn local(seconds: f64) -> String {
    with_local(seconds, str::to_owned)
}

/// The same, lent.
pub(super) fn with_local<T>(seconds: f64, take: impl FnOnce(&str) -> T) -> T {
    thread_local! {
        /// The second that was asked for last: a busy gateway writes many lines in each.
        static LAST: RefCell<(i64, String)> = const { RefCell::new((i64::MIN, String::new())) };
    }
    let wanted = milliseconds(seconds).div_euclid(1000);
    LAST.with_borrow_mut(|(second, text)| {
        if *second != wanted {
            *text = zoned(seconds).strftime("%d/%b/%Y:%H:%M:%S %z").to_string();
            *second = wanted;
        }
        take(text)
    })
}
