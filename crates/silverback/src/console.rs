//! What a command says to who called it, in the forms of the `kong` command: plain lines on standard output, dated and
//! levelled ones for warnings (standard error) and when `--v` or `--vv` is given.

use std::{
    fmt::Display,
    io::{self, Write as _},
};

use jiff::Zoned;

/// How a command talks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Console {
    /// `--v` or `--vv`
    talkative: bool,
}

impl Console {
    pub(crate) const fn new(talkative: bool) -> Self {
        Self { talkative }
    }

    pub(crate) const fn is_talkative(self) -> bool {
        self.talkative
    }

    pub(crate) fn verbose(self, message: impl Display) {
        if self.talkative {
            self.out(&dated("verbose", message));
        }
    }

    pub(crate) fn info(self, message: impl Display) {
        if self.talkative {
            self.out(&dated("info", message));
        } else {
            self.out(&message.to_string());
        }
    }

    pub(crate) fn warn(self, message: impl Display) {
        self.err(&dated("warn", message));
    }

    pub(crate) fn error(self, message: impl Display) {
        self.err(&dated("error", message));
    }

    /// The last words of a command that failed.
    pub(crate) fn failed(self, error: impl Display) {
        self.err(&format!("Error: {error}"));
        if !self.talkative {
            self.err("\n  Run with --v (verbose) or --vv (debug) for more details");
        }
    }

    #[expect(clippy::unused_self, reason = "all output goes through a console")]
    fn out(self, line: &str) {
        // A reader that went away is no reason to fail.
        let _ = writeln!(io::stdout(), "{line}");
    }

    #[expect(clippy::unused_self, reason = "all output goes through a console")]
    fn err(self, line: &str) {
        let _ = writeln!(io::stderr(), "{line}");
    }
}

fn dated(level: &str, message: impl Display) -> String {
    format!("{} [{level}] {message}", Zoned::now().strftime("%Y/%m/%d %H:%M:%S"))
}
