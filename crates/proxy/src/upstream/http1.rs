//! A connection to an upstream for HTTP/1.1, which carries one request at a time.
//!
//! The request that is on it drives it: it writes what it sends and reads what comes, until the answer's head is there
//! ([`ask`]), and then the answer's body ([`AnswerBody`]). Only a request whose answer begins before it was sent to its end
//! is sent on by a task of its own: the answer may be read more slowly.

mod answer_body;
mod sending;
mod socket;

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::BytesMut;
use tokio::io::{AsyncRead, ReadBuf};

pub(crate) use self::{answer_body::AnswerBody, socket::Socket};
use self::{
    answer_body::Upload,
    sending::{SendError, Sending},
};
use crate::{
    body::UpstreamRequestBody,
    http1::{
        answer_head::{Head, HeadError, Heads},
        encoder::Encoder,
        incoming::poll_fill,
    },
    timer::Timer,
};

/// A connection, idle or under way.
pub(crate) struct Connection {
    socket: Socket,
    /// What has come and is not looked at yet.
    read: BytesMut,
    timer: Timer,
    /// Requests it has carried.
    pub(crate) served: u64,
}

/// A request as it is sent.
pub(crate) struct Question {
    /// To its empty line.
    pub(crate) head: Vec<u8>,
    pub(crate) encoder: Encoder,
    pub(crate) body: UpstreamRequestBody,
    /// HEAD: the answer has no body, whatever its head says.
    pub(crate) is_head: bool,
}

/// What bounds an exchange.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Between two pieces of the request that the upstream takes.
    pub(crate) write: Duration,
    /// Between two pieces of the answer.
    pub(crate) read: Duration,
    /// Bytes of the answer's head.
    pub(crate) head: usize,
}

/// Why there is no answer, in nginx's words.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error("upstream timed out (110: Connection timed out)")]
    Timeout,
    #[error("upstream prematurely closed connection")]
    Closed,
    #[error("recv() failed ({0})")]
    Read(#[source] io::Error),
    #[error("send() failed ({0})")]
    Write(#[source] io::Error),
    #[error(transparent)]
    Head(#[from] HeadError),
    /// The request's body tells why.
    #[error("the request's body failed")]
    Body,
}

/// A request that has no answer.
pub(crate) struct Unanswered {
    pub(crate) why: AskError,
    /// Something of it may have reached the upstream.
    pub(crate) sent: bool,
    /// The body, if nothing of it was taken.
    pub(crate) body: Option<UpstreamRequestBody>,
}

impl Connection {
    pub(crate) fn new(socket: Socket) -> Self {
        Self { socket, read: BytesMut::new(), timer: Timer::default(), served: 0 }
    }

    /// Whether it can carry another request. An upstream that waits for one says nothing: what there is to read is the
    /// connection's end, or belongs to no answer.
    pub(crate) fn is_idle(&mut self) -> bool {
        let mut byte = [0];
        let mut cx = Context::from_waker(Waker::noop());
        self.read.is_empty() && Pin::new(&mut self.socket).poll_read(&mut cx, &mut ReadBuf::new(&mut byte)).is_pending()
    }

    fn poll_head(&mut self, heads: &mut Heads, cx: &mut Context<'_>) -> Poll<Result<Head, AskError>> {
        loop {
            if !self.read.is_empty()
                && let Some(head) = heads.take(&mut self.read)?
            {
                return Poll::Ready(Ok(head));
            }
            match ready!(poll_fill(&mut self.socket, &mut self.read, cx)) {
                Ok(0) => return Poll::Ready(Err(AskError::Closed)),
                Ok(_) => self.timer.clear(),
                Err(error) => return Poll::Ready(Err(AskError::Read(error))),
            }
        }
    }
}

/// Sends a request, and waits for the head of its answer.
pub(crate) async fn ask(
    mut connection: Connection,
    question: Question,
    limits: Limits,
) -> Result<(Head, AnswerBody), Unanswered> {
    connection.served += 1;
    let mut heads = Heads::new(limits.head, question.is_head);
    let mut sending = Sending::new(question);
    // A connection that takes no more may still have an answer: why the request is not wanted, for example.
    let mut refused = None;
    let answered = poll_fn(|cx| {
        if !sending.is_over() && refused.is_none() {
            let before = sending.written();
            match sending.poll(&mut connection.socket, cx) {
                Poll::Ready(Err(SendError::Body)) => return Poll::Ready(Err(AskError::Body)),
                Poll::Ready(Err(SendError::Io(error))) => {
                    refused = Some(error);
                    connection.timer.clear();
                }
                Poll::Ready(Ok(())) => connection.timer.clear(),
                Poll::Pending if sending.waits_for_body() || sending.written() != before => connection.timer.clear(),
                Poll::Pending => {}
            }
        }
        if let Poll::Ready(answered) = connection.poll_head(&mut heads, cx) {
            return Poll::Ready(answered);
        }
        if !connection.timer.is_set() {
            let is_sending = !sending.is_over() && refused.is_none();
            // A client that takes its time is not the upstream's fault: its own limit is with its body.
            if !(is_sending && sending.waits_for_body()) {
                connection.timer.set(if is_sending { limits.write } else { limits.read });
            }
        }
        connection.timer.poll(cx).map(|()| Err(AskError::Timeout))
    })
    .await;
    connection.timer.clear();
    match answered {
        Ok(head) => {
            let reusable = head.keeps_alive && sending.is_over();
            let upload = (!sending.is_over() && refused.is_none())
                .then(|| Upload::start(&mut connection.socket, sending, limits.write));
            let body = AnswerBody::new(connection, head.framing, reusable, upload);
            Ok((head, body))
        }
        Err(why) => {
            let why = match (why, refused) {
                (AskError::Closed | AskError::Read(_), Some(error)) => AskError::Write(error),
                (why, _) => why,
            };
            Err(Unanswered { why, sent: sending.written() > 0, body: sending.into_untouched() })
        }
    }
}

#[cfg(test)]
mod tests;
