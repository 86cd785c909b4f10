//! The Prometheus text format, version 0.0.4.

use std::fmt::{self, Write as _};

/// The media type of what [`Exposition`] writes.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Writes metrics, one family after the other.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
    family: &'static str,
}

/// Name and value, in the order in which they are written.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

impl Exposition {
    /// Begins a family: the samples that follow are its.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        self.family = name;
    }

    pub fn sample(&mut self, labels: Labels<'_>, value: impl fmt::Display) {
        self.line("", labels, None, value);
    }

    /// A histogram: how many values were within each bound, all that were counted, and their sum.
    pub fn histogram(&mut self, labels: Labels<'_>, bounds: &[f64], within: &[u64], count: u64, sum: f64) {
        for (bound, within) in bounds.iter().zip(within) {
            self.line("_bucket", labels, Some(&bound.to_string()), within);
        }
        self.line("_bucket", labels, Some("+Inf"), count);
        self.line("_sum", labels, None, sum);
        self.line("_count", labels, None, count);
    }

    fn line(&mut self, suffix: &str, labels: Labels<'_>, bound: Option<&str>, value: impl fmt::Display) {
        let _ = write!(self.text, "{}{suffix}", self.family);
        let all = labels.iter().copied().chain(bound.map(|bound| ("le", bound)));
        for (index, (name, value)) in all.enumerate() {
            let _ = write!(self.text, "{}{name}=\"", if index == 0 { '{' } else { ',' });
            for c in value.chars() {
                match c {
                    '\\' => self.text.push_str("\\\\"),
                    '"' => self.text.push_str("\\\""),
                    '\n' => self.text.push_str("\\n"),
                    c => self.text.push(c),
                }
            }
            self.text.push('"');
        }
        let close = if labels.is_empty() && bound.is_none() { "" } else { "}" };
        let _ = writeln!(self.text, "{close} {value}");
    }

    pub(crate) fn into_text(self) -> String {
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_written_as_prometheus_reads_them() {
        let mut exposition = Exposition::default();
        exposition.family("a_total", Kind::Counter, "What it counts");
        exposition.sample(&[], 1);
        exposition.sample(&[("name", "a\"b\\c\nd"), ("x", "")], 2.5);
        exposition.family("b_ms", Kind::Histogram, "How long");
        exposition.histogram(&[("p", "q")], &[0.5, 10.0], &[1, 2], 3, 99.5);
        assert_eq!(
            exposition.into_text(),
            "# HELP a_total What it counts\n# TYPE a_total counter\na_total 1\n\
             a_total{name=\"a\\\"b\\\\c\\nd\",x=\"\"} 2.5\n\
             # HELP b_ms How long\n# TYPE b_ms histogram\n\
             b_ms_bucket{p=\"q\",le=\"0.5\"} 1\nb_ms_bucket{p=\"q\",le=\"10\"} 2\nb_ms_bucket{p=\"q\",le=\"+Inf\"} 3\n\
             b_ms_sum{p=\"q\"} 99.5\nb_ms_count{p=\"q\"} 3\n"
        );
    }
}
