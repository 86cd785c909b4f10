//! Why an upstream gives no answer, and what follows from it.

use crate::{
    body::BodyFault,
    request_body::BodyError,
    upstream::{balancer::BalanceError, connect::ConnectError, health::Outcome, http1::AskError, tls::TlsError},
};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendFailure {
    #[error(transparent)]
    Balance(#[from] BalanceError),
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("upstream timed out (110: Connection timed out)")]
    Timeout,
    #[error(transparent)]
    Http1(AskError),
    #[error("{}", in_words(.0))]
    Http2(#[source] hyper::Error),
    #[error(transparent)]
    ClientBody(BodyError),
    #[error("the request cannot be written ({0})")]
    Request(#[from] http::Error),
    #[error("the spooled body cannot be read ({0})")]
    Spool(#[source] std::io::Error),
    #[error("invalid URL prefix in \"{0}://\"")]
    Protocol(String),
}

impl From<BodyFault> for SendFailure {
    fn from(fault: BodyFault) -> Self {
        match fault {
            BodyFault::Client(error) => Self::ClientBody(error),
            BodyFault::Spool(error) => Self::Spool(error),
        }
    }
}

impl SendFailure {
    /// What the gateway was doing, in nginx's words.
    pub(crate) const fn activity(&self) -> &'static str {
        match self {
            Self::Connect(ConnectError::Tls(TlsError::Setup(_) | TlsError::Name(_))) => "",
            Self::Connect(ConnectError::Tls(_)) => " while SSL handshaking to upstream",
            Self::Connect(_) => " while connecting to upstream",
            Self::Http1(AskError::Write(_)) => " while sending request to upstream",
            Self::Timeout | Self::Http1(_) | Self::Http2(_) => " while reading response header from upstream",
            Self::Spool(_) | Self::ClientBody(_) => " while sending request to upstream",
            Self::Balance(_) | Self::Request(_) | Self::Protocol(_) => "",
        }
    }

    /// The status that the client gets.
    pub(crate) const fn status(&self) -> u16 {
        match self {
            Self::Timeout | Self::Connect(ConnectError::Timeout) => 504,
            Self::Request(_) | Self::Spool(_) | Self::Protocol(_) | Self::ClientBody(_) => 500,
            Self::Balance(_) => 503,
            Self::Connect(_) | Self::Http1(_) | Self::Http2(_) => 502,
        }
    }

    /// What nginx counts it as, when it tries again or gives up (`ngx_http_upstream_next`).
    pub(super) const fn code(&self) -> u16 {
        match self {
            Self::Timeout | Self::Connect(ConnectError::Timeout) => 504,
            _ => 502,
        }
    }

    /// What it says of the target's health.
    pub(super) const fn outcome(&self) -> Option<Outcome> {
        match self {
            Self::Timeout | Self::Connect(ConnectError::Timeout) => Some(Outcome::Timeout),
            Self::Connect(ConnectError::Tls(TlsError::Name(_) | TlsError::Setup(_))) => None,
            // As nginx has it, it did answer.
            Self::Http1(AskError::Head(_)) => Some(Outcome::Status(502)),
            Self::Connect(_) | Self::Http1(_) | Self::Http2(_) => Some(Outcome::TcpFailure),
            _ => None,
        }
    }

    /// What Kong tells the client where no address could be had: status and message. `chosen`: a plugin named the host.
    pub(crate) fn no_address(&self, chosen: bool) -> (u16, String) {
        match self {
            Self::Balance(BalanceError::Resolve { error, .. }) if error.is_not_found() && !chosen => {
                (503, "name resolution failed".to_owned())
            }
            Self::Balance(BalanceError::Resolve { host, error }) => {
                (500, format!("failed the initial dns/balancer resolve for '{host}' with: {error}"))
            }
            _ => (503, BalanceError::NoTargets.to_string()),
        }
    }
}

/// What nginx would say.
fn in_words(error: &hyper::Error) -> String {
    if error.is_incomplete_message() {
        "upstream prematurely closed connection".to_owned()
    } else if error.is_parse_too_large() {
        "upstream sent too big header".to_owned()
    } else if error.is_parse() {
        format!("upstream sent invalid header ({error})")
    } else {
        match std::error::Error::source(error) {
            Some(source) if source.is::<std::io::Error>() => format!("recv() failed ({source})"),
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        }
    }
}

/// How one attempt failed.
pub(super) struct Failed {
    pub(super) why: SendFailure,
    /// Something of the request may have reached the upstream.
    pub(super) sent: bool,
    /// The connection had served before: it may have been closed while idle, which says nothing of the upstream.
    pub(super) reused: bool,
}

impl Failed {
    /// Before anything of the request was sent.
    pub(super) fn unsent(why: impl Into<SendFailure>) -> Self {
        Self { why: why.into(), sent: false, reused: false }
    }

    /// The upstream ended a connection that had been idle before it answered anything: it is no failure to connect.
    pub(super) fn was_idle(&self) -> bool {
        self.reused
            && match &self.why {
                SendFailure::Http1(error) => matches!(error, AskError::Closed | AskError::Read(_) | AskError::Write(_)),
                SendFailure::Http2(error) => is_lost(error),
                _ => false,
            }
    }

    /// Whether nginx tries again after it (`proxy_next_upstream` by default): an answer, though a wrong one, is no error.
    pub(super) fn is_error(&self) -> bool {
        match &self.why {
            SendFailure::Connect(_) | SendFailure::Timeout => true,
            SendFailure::Http1(error) => !matches!(error, AskError::Head(_)),
            SendFailure::Http2(error) => !error.is_parse(),
            _ => false,
        }
    }
}

/// Whether a connection ended, as against an answer that was wrong.
fn is_lost(error: &hyper::Error) -> bool {
    error.is_incomplete_message()
        || error.is_closed()
        || error.is_canceled()
        || std::error::Error::source(error).is_some_and(<dyn std::error::Error>::is::<std::io::Error>)
}

/// Whether an upstream said that it did nothing for a request: a stream that it refused, or that it had not come to when
/// it said that it goes (RFC 9113, 8.7).
pub(super) fn is_refused(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<h2::Error>());
    source.is_some_and(|error| {
        error.is_remote()
            && match error.reason() {
                Some(h2::Reason::REFUSED_STREAM) => error.is_reset(),
                Some(h2::Reason::NO_ERROR) => error.is_go_away(),
                _ => false,
            }
    })
}

#[cfg(test)]
mod tests {
    use super::{AskError, Outcome, SendFailure};
    use crate::http1::answer_head::HeadError;

    #[test]
    fn a_target_that_answers_nonsense_can_be_reached() {
        for (why, expect) in [
            (AskError::Head(HeadError::TooBig), Outcome::Status(502)),
            (AskError::Head(HeadError::Invalid("status line")), Outcome::Status(502)),
            (AskError::Head(HeadError::Framing("x")), Outcome::Status(502)),
            (AskError::Closed, Outcome::TcpFailure),
        ] {
            assert_eq!(SendFailure::Http1(why).outcome(), Some(expect));
        }
    }
}
