//! How the names in answers are written, seen as the answers come.

use std::sync::{PoisonError, atomic::Ordering};

use super::Announced;
use crate::http1::spelling::Spelling;

/// Finds the heads of answers in what upstreams send.
#[derive(Default)]
pub(super) struct AnswerHeads {
    /// The requests whose answers have come, as far as is known.
    answered: usize,
    /// What has come of a head that is not whole yet.
    partial: Vec<u8>,
}

/// Of longer heads it is not remembered how they are written. hyper refuses them, or soon will.
const MAX_ANSWER_HEAD: usize = 256 * 1024;

impl AnswerHeads {
    /// Looks at what was read.
    pub(super) fn see(&mut self, read: &[u8], announced: &Announced) {
        let asked = announced.0.asked.load(Ordering::Relaxed);
        if self.answered == asked || read.is_empty() {
            return;
        }
        let mut joined = std::mem::take(&mut self.partial);
        // What has been searched is not searched again: a head may come byte by byte.
        let mut searched = joined.len().saturating_sub(2);
        let is_first = joined.is_empty();
        if !is_first {
            joined.extend_from_slice(read);
        }
        let bytes = if is_first { read } else { &joined };
        let mut at = 0;
        while let Some(end) = end_of_any_head(&bytes[at..], searched) {
            let head = &bytes[at..at + end];
            // An interim answer goes before the answer itself; one that switches protocols is the answer.
            let is_interim = head.get(8..10) == Some(b" 1") && head.get(8..12) != Some(b" 101");
            if !is_interim {
                self.answered = asked;
                *announced.0.answer.lock().unwrap_or_else(PoisonError::into_inner) = Spelling::of_head(head);
                return;
            }
            at += end;
            searched = 0;
        }
        if bytes.len() - at > MAX_ANSWER_HEAD {
            self.answered = asked;
        } else if is_first || at > 0 {
            self.partial = bytes[at..].to_vec();
        } else {
            self.partial = joined;
        }
    }
}

/// How long a head is that these bytes begin with, with the empty line that ends it. Lines may end without CR. None ends
/// in the first `searched` bytes.
fn end_of_any_head(bytes: &[u8], searched: usize) -> Option<usize> {
    memchr::memchr_iter(b'\n', &bytes[searched..]).map(|at| searched + at).find_map(|at| match bytes.get(at + 1..)? {
        [b'\n', ..] => Some(at + 2),
        [b'\r', b'\n', ..] => Some(at + 3),
        _ => None,
    })
}
