//! How many changes are followed: a bucket of tokens. Pure: time is an argument.

use std::time::{Duration, Instant};

/// So many in a row...
const BURST: u32 = 50;
/// ...and one more each time this has passed.
const REFILL: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(super) struct Pace {
    left: u32,
    since: Instant,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { left: BURST, since: now }
    }

    /// Whether one more may be followed.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let passed = now.duration_since(self.since).as_nanos() / REFILL.as_nanos();
        let refills = u32::try_from(passed).unwrap_or(u32::MAX);
        if refills > 0 {
            self.left = self.left.saturating_add(refills).min(BURST);
            self.since = now;
        }
        let is_left = self.left > 0;
        self.left = self.left.saturating_sub(1);
        is_left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_flood_a_few_are_followed() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        let mut followed = 0;
        for _ in 0..100_000 {
            now += Duration::from_micros(100);
            followed += u32::from(pace.take(now));
        }
        assert!((500..=600).contains(&followed), "{followed} in ten seconds");
        now += Duration::from_secs(3600);
        let burst = (0..1000).filter(|_| pace.take(now)).count();
        assert_eq!(burst, 50);
    }
}
