//! `metav1.Duration`: a length of time as Go writes it, which may be negative, and then is refused where it makes no sense.

use std::{fmt, str::FromStr};

use jiff::SignedDuration;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A length of time, to the nanosecond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duration(SignedDuration);

impl Duration {
    /// None at all; in most fields "not said".
    pub const ZERO: Self = Self(SignedDuration::ZERO);

    /// Whole seconds.
    #[must_use]
    pub const fn from_secs(seconds: i64) -> Self {
        Self(SignedDuration::from_secs(seconds))
    }

    /// Nanoseconds.
    #[must_use]
    pub const fn from_nanos(nanoseconds: i64) -> Self {
        Self(SignedDuration::from_nanos(nanoseconds))
    }

    /// Whether it is none.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self.0.is_zero()
    }

    /// Whether it is less than none.
    #[must_use]
    pub fn is_negative(self) -> bool {
        self.0.is_negative()
    }

    /// The same for everybody else; a negative one is none.
    #[must_use]
    pub fn to_std(self) -> std::time::Duration {
        self.0.try_into().unwrap_or_default()
    }
}

impl FromStr for Duration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // What Go takes without a unit.
        if text == "0" {
            return Ok(Self::ZERO);
        }
        // The crate reads more than Go does ("5 minutes", "PT5M"), and none of it has these characters alone.
        let is_gos = |c: char| c.is_ascii_digit() || "+-.hmsnuµμ".contains(c);
        let read = text.parse().ok().filter(|_| text.chars().all(is_gos));
        read.map(Self).ok_or_else(|| format!("{text:?} is no duration; write it as in 30s, 1m30s or 24h0m0s"))
    }
}

/// As `time.Duration.String()` has it: 24h0m0s, 1.5s, 300ms.
impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanoseconds = self.0.as_nanos().unsigned_abs();
        if self.is_negative() {
            f.write_str("-")?;
        }
        // f64 prints the shortest form, and is exact for what a fraction of a minute has digits.
        #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
        let in_units = |nanoseconds: u128, unit: u32| nanoseconds as f64 / f64::from(unit);
        match nanoseconds {
            0 => f.write_str("0s"),
            1..1_000 => write!(f, "{nanoseconds}ns"),
            1_000..1_000_000 => write!(f, "{}µs", in_units(nanoseconds, 1_000)),
            1_000_000..1_000_000_000 => write!(f, "{}ms", in_units(nanoseconds, 1_000_000)),
            _ => {
                let minutes = nanoseconds / 60_000_000_000;
                if minutes >= 60 {
                    write!(f, "{}h", minutes / 60)?;
                }
                if minutes > 0 {
                    write!(f, "{}m", minutes % 60)?;
                }
                write!(f, "{}s", in_units(nanoseconds % 60_000_000_000, 1_000_000_000))
            }
        }
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// `TimeOrMetaDuration`: a duration, or nanoseconds as a number.
pub(super) fn or_nanoseconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    struct Visitor;
    impl de::Visitor<'_> for Visitor {
        type Value = Duration;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a duration, as in 5s, or a number of nanoseconds")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
            text.parse().map_err(E::custom)
        }

        fn visit_i64<E: de::Error>(self, nanoseconds: i64) -> Result<Duration, E> {
            Ok(Duration::from_nanos(nanoseconds))
        }

        fn visit_u64<E: de::Error>(self, nanoseconds: u64) -> Result<Duration, E> {
            i64::try_from(nanoseconds).map(Duration::from_nanos).map_err(E::custom)
        }

        fn visit_unit<E: de::Error>(self) -> Result<Duration, E> {
            Ok(Duration::ZERO)
        }
    }
    deserializer.deserialize_any(Visitor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        // What is read, and what Go writes for it.
        for (text, written) in [
            ("24h0m0s", "24h0m0s"),
            ("1h30m", "1h30m0s"),
            ("1.5h", "1h30m0s"),
            ("90s", "1m30s"),
            ("300ms", "300ms"),
            ("1500ms", "1.5s"),
            ("1.5ms", "1.5ms"),
            ("2us", "2µs"),
            ("7ns", "7ns"),
            ("61.000000001s", "1m1.000000001s"),
            ("0", "0s"),
            ("0s", "0s"),
            ("-5s", "-5s"),
        ] {
            assert_eq!(text.parse::<Duration>().unwrap().to_string(), written, "{text}");
        }
        for text in ["", "5", "5x", "5 minutes", "PT5M", "99999999999999999999h"] {
            assert!(text.parse::<Duration>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_negative_duration_is_none_to_everybody_else() {
        assert_eq!("-5s".parse::<Duration>().unwrap().to_std(), std::time::Duration::ZERO);
        assert_eq!("1.5h".parse::<Duration>().unwrap().to_std(), std::time::Duration::from_secs(5400));
    }
}
