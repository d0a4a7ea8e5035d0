//! What was seen of all schedules.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::life::Lived;
use crate::schedule::Schedule;
use crate::weather::Fault;

/// What each kind of fault must have done at least in a thousand schedules.
const LEAST: u32 = 40;

#[derive(Debug, Default)]
pub(crate) struct Report {
    lived: u64,
    failures: Vec<String>,
    faults: BTreeMap<&'static str, Seen>,
}

/// Of one kind of fault.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    schedules: u32,
    times: u64,
    /// Until the maps were right again, in schedules that had this kind of fault alone, but for watches that end.
    longest_alone: Option<Duration>,
    longest: Duration,
}

impl Seen {
    fn with(self, other: Self) -> Self {
        Self {
            schedules: self.schedules + other.schedules,
            times: self.times + other.times,
            longest_alone: self.longest_alone.max(other.longest_alone),
            longest: self.longest.max(other.longest),
        }
    }
}

impl Report {
    pub(crate) fn add(&mut self, schedule: &Schedule, lived: &Lived) {
        self.lived += 1;
        for (name, times) in &lived.acted {
            let mut others = schedule.spells.iter().map(|spell| spell.fault.name());
            let is_alone = others.all(|own| own == *name || own == Fault::Hasty.name());
            let seen = Seen {
                schedules: 1,
                times: u64::from(*times),
                longest_alone: is_alone.then_some(lived.took),
                longest: lived.took,
            };
            let known = self.faults.entry(name).or_default();
            *known = known.with(seen);
        }
    }

    pub(crate) fn failed(&mut self, seed: u64, schedule: &Schedule, problem: &str) {
        let spells: Vec<_> = schedule.spells.iter().map(|spell| format!("  {spell:?}")).collect();
        let spells = spells.join("\n");
        self.failures.push(format!("KUBESHUNT_SEED={seed} KUBESHUNT_SCHEDULES=1\n{spells}\n{problem}"));
    }

    pub(crate) fn with(mut self, other: Self) -> Self {
        self.lived += other.lived;
        self.failures.extend(other.failures);
        for (name, seen) in other.faults {
            let known = self.faults.entry(name).or_default();
            *known = known.with(seen);
        }
        self
    }

    pub(crate) fn assert_faultless(&self) {
        let some: Vec<_> = self.failures.iter().take(3).map(String::as_str).collect();
        let count = self.failures.len();
        assert!(some.is_empty(), "{count} schedules failed, among them\n{}", some.join("\n\n"));
        assert!(self.lived > 0, "no schedule was lived through");
    }

    pub(crate) fn assert_everything_came(&self) {
        for (name, seen) in &self.faults {
            assert!(seen.schedules >= LEAST, "{name} came in {} schedules only", seen.schedules);
        }
        assert_eq!(self.faults.len(), 19, "faults that never came");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} schedules, each ended in the exact state; {} did not",
            self.lived,
            self.failures.len()
        )?;
        writeln!(f, "schedules  acts  longest until equal: alone, with others")?;
        for (name, seen) in &self.faults {
            let alone = seen.longest_alone.map_or_else(|| "-".to_owned(), |time| format!("{time:.1?}"));
            writeln!(
                f,
                "{:>9} {:>7}  {alone:>9} {:>9.1?}  {name}",
                seen.schedules, seen.times, seen.longest
            )?;
        }
        Ok(())
    }
}
