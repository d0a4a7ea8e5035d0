//! Which events have been written already, and how fast others may be. Pure: time is an argument.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use super::Event;

/// Events of which it is remembered that they were written.
const REMEMBERED: usize = 512;

/// An API server forgets an event after an hour (`--event-ttl`): what comes again later is written again.
const LIFETIME: Duration = Duration::from_secs(60 * 60);

/// So many may be written in a row...
const BURST: u32 = 25;
/// ...and one more each time this has passed.
const REFILL: Duration = Duration::from_secs(10);

/// The events written so far, and when.
#[derive(Debug, Default)]
pub(super) struct Known {
    written: HashMap<Event, Instant>,
}

impl Known {
    /// Whether an event has to be written, which is remembered from now on.
    pub(super) fn is_new(&mut self, event: &Event, now: Instant) -> bool {
        if self.is_fresh(event, now) {
            return false;
        }
        self.make_room(now);
        self.written.insert(event.clone(), now);
        true
    }

    /// It was not written after all.
    pub(super) fn forget(&mut self, event: &Event) {
        self.written.remove(event);
    }

    fn is_fresh(&self, event: &Event, now: Instant) -> bool {
        self.written.get(event).is_some_and(|written| now.duration_since(*written) < LIFETIME)
    }

    fn make_room(&mut self, now: Instant) {
        if self.written.len() < REMEMBERED {
            return;
        }
        self.written.retain(|_, written| now.duration_since(*written) < LIFETIME);
        // Seldom enough to be looked for.
        let oldest = self.written.iter().min_by_key(|(_, written)| **written).map(|(event, _)| event.clone());
        if let Some(oldest) = oldest.filter(|_| self.written.len() >= REMEMBERED) {
            self.written.remove(&oldest);
        }
    }
}

/// How fast may be written: a bucket of tokens.
#[derive(Debug)]
pub(super) struct Pace {
    left: u32,
    since: Instant,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { left: BURST, since: now }
    }

    /// How long to wait before the next one, which is counted from now on.
    pub(super) fn take(&mut self, now: Instant) -> Duration {
        while self.left < BURST && now.duration_since(self.since) >= REFILL {
            self.left += 1;
            self.since += REFILL;
        }
        if self.left == BURST {
            self.since = now;
        }
        if self.left > 0 {
            self.left -= 1;
            return Duration::ZERO;
        }
        // The token that comes next is spent already.
        self.since += REFILL;
        self.since.duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::model::ServiceName;

    fn event(number: usize) -> Event {
        Event::no_health_of_service(
            &ServiceName { namespace: "ns".into(), name: format!("s{number}").into() },
            "taken".to_owned(),
        )
    }

    #[test]
    fn what_lasts_is_written_once_an_hour() {
        let (mut known, mut now) = (Known::default(), Instant::now());
        assert!(known.is_new(&event(1), now));
        assert!(!known.is_new(&event(1), now) && known.is_new(&event(2), now));
        now += LIFETIME - Duration::from_secs(1);
        assert!(!known.is_new(&event(1), now));
        now += Duration::from_secs(1);
        assert!(known.is_new(&event(1), now), "the server has forgotten it");
        known.forget(&event(1));
        assert!(known.is_new(&event(1), now));
    }

    #[test]
    fn memory_has_an_end() {
        let (mut known, mut now) = (Known::default(), Instant::now());
        for number in 0..REMEMBERED * 2 {
            now += Duration::from_millis(1);
            assert!(known.is_new(&event(number), now));
            assert!(known.written.len() <= REMEMBERED);
        }
        assert!(!known.is_new(&event(REMEMBERED * 2 - 1), now));
    }

    #[test]
    fn a_burst_and_then_one_after_the_other() {
        let begin = Instant::now();
        let mut pace = Pace::new(begin);
        for _ in 0..BURST {
            assert_eq!(pace.take(begin), Duration::ZERO);
        }
        assert_eq!(pace.take(begin), REFILL);
        let later = begin + REFILL;
        assert_eq!(pace.take(later), REFILL);
        // After a long silence there is room for a burst again, and for no more.
        let much_later = later + REFILL * 1000;
        for _ in 0..BURST {
            assert_eq!(pace.take(much_later), Duration::ZERO);
        }
        assert_eq!(pace.take(much_later), REFILL);
    }
}
