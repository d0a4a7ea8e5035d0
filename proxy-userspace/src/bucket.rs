//! A bucket of tokens: so many things may be done in a row, and one more each time a while has passed. Pure: time is an
//! argument.

use std::time::{Duration, Instant};

#[derive(Debug)]
pub(crate) struct Bucket {
    burst: u32,
    refill: Duration,
    left: u32,
    /// Up to when tokens have come in; later than now, if some were taken that are still to come.
    since: Instant,
}

impl Bucket {
    /// One with `burst` tokens, which is as many as fit; each time `refill` has passed another one comes in.
    pub(crate) fn full(burst: u32, refill: Duration, now: Instant) -> Self {
        Self { burst, refill, left: burst, since: now }
    }

    /// Takes a token, if there is one.
    pub(crate) fn try_take(&mut self, now: Instant) -> bool {
        while self.left < self.burst && now.saturating_duration_since(self.since) >= self.refill {
            self.left += 1;
            self.since += self.refill;
        }
        if self.left == self.burst {
            self.since = now;
        }
        let is_left = self.left > 0;
        self.left = self.left.saturating_sub(1);
        is_left
    }

    /// Takes a token, if need be one that is still to come: for how long to wait for it.
    pub(crate) fn take(&mut self, now: Instant) -> Duration {
        if self.try_take(now) {
            return Duration::ZERO;
        }
        self.since += self.refill;
        self.since.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BURST: u32 = 25;
    const REFILL: Duration = Duration::from_secs(10);

    #[test]
    fn a_burst_and_then_one_after_the_other() {
        let begin = Instant::now();
        let mut bucket = Bucket::full(BURST, REFILL, begin);
        for _ in 0..BURST {
            assert_eq!(bucket.take(begin), Duration::ZERO);
        }
        assert_eq!(bucket.take(begin), REFILL);
        assert_eq!(bucket.take(begin), REFILL * 2, "the next one is spoken for");
        let later = begin + REFILL * 2;
        assert_eq!(bucket.take(later), REFILL);
        // After a long silence there is room for a burst again, and for no more.
        let much_later = later + REFILL * 1000;
        for _ in 0..BURST {
            assert_eq!(bucket.take(much_later), Duration::ZERO);
        }
        assert_eq!(bucket.take(much_later), REFILL);
    }

    #[test]
    fn of_a_flood_a_few_get_through() {
        let mut now = Instant::now();
        let mut bucket = Bucket::full(50, Duration::from_millis(20), now);
        let mut through = 0;
        for _ in 0..100_000 {
            now += Duration::from_micros(100);
            through += u32::from(bucket.try_take(now));
        }
        // The last token of the ten seconds comes in 100 µs after them: the first was taken so late.
        assert_eq!(through, 50 + 499);
        now += Duration::from_secs(3600);
        assert_eq!((0..1000).filter(|_| bucket.try_take(now)).count(), 50);
    }
}
