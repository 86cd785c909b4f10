//! What is done when: the states of one seat, a place for a process that a server has.
//!
//! ```text
//! Starting --up--> Ready --renewal due--> Renewing --up (the old one drains)--> Ready
//!    |               |                       |  \--failed (the old one goes on)--> Ready
//!  failed          ended                   ended
//!    v               v                       v
//! Backoff <----------+                   Starting
//!    \--pause over--> Starting               any --stop--> Ended
//! ```
//!
//! Nothing here knows processes or waits: [`Seat::on`] says what is to be done about what happened.

use std::time::Duration;

use silverback_config::settings::RestartBackoff;
use tokio::time::Instant;

use crate::ServerState;

/// A process that served this long is not one that cannot.
const STABLE: Duration = Duration::from_secs(30);

/// So many processes in a row that ended soon are a crash loop.
const CRASH_LOOP: u32 = 5;

/// So many processes in a row that ended before they could serve: requests do not wait for the next one.
const HOPELESS: u32 = 3;

/// How long a renewal is put off that came to nothing.
const RENEWAL_PAUSE: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// A process was begun; none serves.
    Starting,
    /// One serves.
    Ready,
    /// One serves, and another was begun to take its place.
    Renewing,
    /// None runs; one is begun after a pause.
    Backoff,
    /// None runs, and none will.
    Ended,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The process that was begun can serve.
    Up,
    /// It came to nothing.
    Failed,
    /// It came to nothing by itself: it could not be started, or ended before it could serve.
    Crashed,
    /// The process that served is gone.
    Ended,
    /// The process that serves has done its share.
    RenewalDue,
    PauseOver,
    Stop,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Nothing,
    /// Begin a process.
    Begin,
    /// The process that was begun serves.
    Admit,
    /// The process that was begun serves, and the one that served drains and ends.
    Shift,
    /// Tell in a while that the pause is over.
    Pause(Duration),
    /// End all that runs.
    End,
}

/// A place for a process.
#[derive(Debug)]
pub(crate) struct Seat {
    state: State,
    backoff: RestartBackoff,
    /// The next pause before a process is begun.
    pause: Duration,
    /// Processes in a row that ended soon, or never served.
    row: u32,
    /// Processes in a row that ended by themselves before they could serve.
    crashes: u32,
    /// Whether the last process that is gone served.
    served: bool,
    /// When the process that serves began to.
    up: Option<Instant>,
    /// When a renewal that came to nothing is tried again.
    renewal: Option<Instant>,
}

impl Seat {
    /// A seat whose first process is to be begun.
    pub(crate) const fn new(backoff: RestartBackoff) -> Self {
        Self {
            state: State::Starting,
            backoff,
            pause: Duration::ZERO,
            row: 0,
            crashes: 0,
            served: false,
            up: None,
            renewal: None,
        }
    }

    pub(crate) const fn state(&self) -> State {
        self.state
    }

    /// Processes in a row that ended soon, or never served.
    pub(crate) const fn row(&self) -> u32 {
        self.row
    }

    /// Whether the next process can be expected to come up: the last one did, and it is no crash loop.
    pub(crate) const fn is_promising(&self) -> bool {
        self.served && self.row <= CRASH_LOOP
    }

    /// Whether nobody should wait for the next process: so many have ended before they could serve.
    pub(crate) const fn is_hopeless(&self) -> bool {
        self.crashes >= HOPELESS
    }

    /// What others see of it.
    pub(crate) const fn shown(&self) -> ServerState {
        match self.state {
            State::Starting => ServerState::Starting,
            State::Ready | State::Renewing => ServerState::Ready,
            State::Backoff => ServerState::Backoff,
            State::Ended => ServerState::Dead,
        }
    }

    /// Whether a renewal that came to nothing is to be tried again.
    pub(crate) fn renewal_due(&self, now: Instant) -> bool {
        self.state == State::Ready && self.renewal.is_some_and(|at| at <= now)
    }

    /// Whether a renewal that came to nothing waits to be tried again.
    pub(crate) const fn awaits_renewal(&self) -> bool {
        self.renewal.is_some()
    }

    /// What ended does not count: the next process is begun at once.
    pub(crate) const fn forgive(&mut self) {
        self.pause = Duration::ZERO;
        self.row = 0;
    }

    /// `last`: a process that did not come up is not begun again.
    pub(crate) fn on(&mut self, event: Event, now: Instant, last: bool) -> Step {
        let (state, step) = match (self.state, event) {
            (State::Ended, _) => (State::Ended, Step::Nothing),
            (_, Event::Stop) => (State::Ended, Step::End),
            (State::Starting, Event::Up) => {
                self.up = Some(now);
                self.crashes = 0;
                (State::Ready, Step::Admit)
            }
            (State::Renewing, Event::Up) => {
                self.up = Some(now);
                self.renewal = None;
                (State::Ready, Step::Shift)
            }
            (State::Renewing, Event::Failed | Event::Crashed) => {
                self.renewal = Some(now + RENEWAL_PAUSE);
                (State::Ready, Step::Nothing)
            }
            (State::Renewing, Event::Ended) => {
                self.count(now);
                (State::Starting, Step::Nothing)
            }
            (State::Starting, Event::Failed | Event::Crashed) if last => (State::Ended, Step::End),
            (State::Starting, Event::Failed | Event::Crashed) | (State::Ready, Event::Ended) => {
                if event == Event::Crashed {
                    self.crashes = self.crashes.saturating_add(1);
                }
                let pause = self.count(now);
                if pause.is_zero() { (State::Starting, Step::Begin) } else { (State::Backoff, Step::Pause(pause)) }
            }
            (State::Ready, Event::RenewalDue) => {
                self.renewal = None;
                (State::Renewing, Step::Begin)
            }
            (State::Backoff, Event::PauseOver) => (State::Starting, Step::Begin),
            // what comes too late changes nothing
            (state, _) => (state, Step::Nothing),
        };
        self.state = state;
        step
    }

    /// Counts a process that is gone; the pause before the next one.
    fn count(&mut self, now: Instant) -> Duration {
        let up = self.up.take();
        if up.is_some_and(|up| now.duration_since(up) >= STABLE) {
            self.pause = Duration::ZERO;
            self.row = 0;
        }
        self.served = up.is_some();
        self.row = self.row.saturating_add(1);
        let pause = self.pause;
        self.pause = (pause * 2).clamp(self.backoff.first, self.backoff.cap);
        self.renewal = None;
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: RestartBackoff =
        RestartBackoff { first: Duration::from_millis(100), cap: Duration::from_millis(500) };

    /// A seat to which this has happened, a second apart, and what was to be done each time.
    fn after(events: &[Event]) -> (Seat, Vec<Step>) {
        let mut seat = Seat::new(BACKOFF);
        let mut now = Instant::now();
        let mut steps = Vec::new();
        for event in events {
            now += Duration::from_secs(1);
            steps.push(seat.on(*event, now, false));
        }
        (seat, steps)
    }

    #[test]
    fn what_is_done_when() {
        use Event::{Ended, Failed, PauseOver, RenewalDue, Stop, Up};
        let pause = |ms| Step::Pause(Duration::from_millis(ms));
        let check = |events: &[Event], steps: &[Step], state| {
            let (seat, done) = after(events);
            assert_eq!((done.as_slice(), seat.state()), (steps, state), "{events:?}");
        };
        check(&[Up], &[Step::Admit], State::Ready);
        check(&[Up, Ended], &[Step::Admit, Step::Begin], State::Starting);
        check(&[Failed], &[Step::Begin], State::Starting);
        check(&[Failed, Failed], &[Step::Begin, pause(100)], State::Backoff);
        check(&[Failed, Failed, PauseOver], &[Step::Begin, pause(100), Step::Begin], State::Starting);
        check(&[Up, RenewalDue], &[Step::Admit, Step::Begin], State::Renewing);
        check(&[Up, RenewalDue, Up], &[Step::Admit, Step::Begin, Step::Shift], State::Ready);
        check(&[Up, RenewalDue, Failed], &[Step::Admit, Step::Begin, Step::Nothing], State::Ready);
        check(&[Up, RenewalDue, Ended], &[Step::Admit, Step::Begin, Step::Nothing], State::Starting);
        check(&[Up, RenewalDue, Ended, Up], &[Step::Admit, Step::Begin, Step::Nothing, Step::Admit], State::Ready);
        check(&[Up, Stop], &[Step::Admit, Step::End], State::Ended);
        check(&[Stop, Failed], &[Step::End, Step::Nothing], State::Ended);
        // what comes too late
        check(&[Up, PauseOver], &[Step::Admit, Step::Nothing], State::Ready);
        check(&[RenewalDue], &[Step::Nothing], State::Starting);
        check(&[Failed, Failed, Ended], &[Step::Begin, pause(100), Step::Nothing], State::Backoff);
    }

    #[test]
    fn pauses_double_up_to_the_cap_and_health_resets_them() {
        let mut seat = Seat::new(BACKOFF);
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..6 {
            match seat.on(Event::Failed, now, false) {
                Step::Pause(pause) => {
                    pauses.push(pause.as_millis());
                    seat.on(Event::PauseOver, now, false);
                }
                step => assert_eq!(step, Step::Begin),
            }
        }
        assert_eq!((pauses, seat.row()), (vec![100, 200, 400, 500, 500], 6));
        seat.on(Event::Up, now, false);
        now += STABLE;
        assert_eq!((seat.on(Event::Ended, now, false), seat.row()), (Step::Begin, 1));
    }

    #[test]
    fn a_short_life_is_not_health() {
        let mut seat = Seat::new(BACKOFF);
        let now = Instant::now();
        for expect in [Step::Begin, Step::Pause(BACKOFF.first)] {
            seat.on(Event::Up, now, false);
            assert_eq!(seat.on(Event::Ended, now + STABLE / 2, false), expect);
        }
    }

    #[test]
    fn a_renewal_that_failed_is_tried_again_later() {
        let (seat, _) = after(&[Event::Up, Event::RenewalDue, Event::Failed]);
        let now = Instant::now();
        assert!(!seat.renewal_due(now));
        assert!(seat.renewal_due(now + RENEWAL_PAUSE + Duration::from_secs(5)));
    }

    #[test]
    fn what_served_is_expected_to_serve_again() {
        use Event::{Ended, Failed, PauseOver, RenewalDue, Up};
        let check = |events: &[Event], expect| assert_eq!(after(events).0.is_promising(), expect, "{events:?}");
        check(&[], false);
        check(&[Failed], false);
        check(&[Up, Ended], true);
        check(&[Up, RenewalDue, Ended], true);
        check(&[Up, Ended, Failed], false);
        check(&[Up, Ended, Up, Ended], true);
        let crashes = [Up, Ended, PauseOver].repeat(6);
        check(&crashes, false);
    }

    #[test]
    fn what_crashes_again_and_again_before_it_serves_is_not_waited_for() {
        use Event::{Crashed, Ended, Failed, PauseOver, RenewalDue, Up};
        let check = |events: &[Event], expect| assert_eq!(after(events).0.is_hopeless(), expect, "{events:?}");
        check(&[Crashed, Crashed, PauseOver], false);
        check(&[Crashed, Crashed, PauseOver, Crashed], true);
        // the next one is begun, and is not waited for either
        check(&[Crashed, Crashed, PauseOver, Crashed, PauseOver], true);
        check(&[Crashed, Crashed, PauseOver, Crashed, PauseOver, Up], false);
        check(&[Crashed, Crashed, PauseOver, Up, Ended, PauseOver, Crashed], false);
        // it may just be slow
        check(&[Failed, Failed, PauseOver, Failed, PauseOver, Failed], false);
        check(&[Crashed, Crashed, PauseOver, Failed, PauseOver, Crashed], true);
        // another one serves
        check(&[Up, RenewalDue, Crashed, RenewalDue, Crashed, RenewalDue, Crashed], false);
    }

    #[test]
    fn one_on_trial_that_does_not_come_up_is_not_begun_again() {
        let check = |events: &[Event], step, state| {
            let mut seat = Seat::new(BACKOFF);
            let steps: Vec<_> = events.iter().map(|event| seat.on(*event, Instant::now(), true)).collect();
            assert_eq!((steps.last(), seat.state()), (Some(&step), state), "{events:?}");
        };
        check(&[Event::Failed], Step::End, State::Ended);
        check(&[Event::Up, Event::Ended, Event::Failed], Step::End, State::Ended);
        // its trial may be over by the time that this one is up
        check(&[Event::Up, Event::Ended], Step::Begin, State::Starting);
    }
}
