//! Which events have been written already. Pure: time is an argument.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use super::Event;

/// Events of which it is remembered that they were written.
const REMEMBERED: usize = 512;

/// An API server forgets an event after an hour (`--event-ttl`): what comes again later is written again.
const LIFETIME: Duration = Duration::from_secs(60 * 60);

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
}
