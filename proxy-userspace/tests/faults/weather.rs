//! What goes wrong at a time.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::store::Kind;

/// What may go wrong. Nothing of it is lost without a trace: of an event that somebody has taken out of an unbroken
/// stream no client can know.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    /// Nobody takes connections.
    Refused,
    /// Every answer is this error.
    Errors(u16),
    /// Every answer is 429, and to come back after so many seconds, if that is said.
    TooMany(Option<u8>),
    /// No version is recent enough to be watched from, nor a list to be gone on with.
    Gone,
    /// The token is taken no more; the next one comes with the end.
    Expired,
    /// Somebody else answers, in JSON or not, or talks in between.
    Nonsense,
    /// Watches end as soon as they have begun.
    Hasty,
    /// Bytes take up to that long.
    Slow(Duration),
    /// Connections are cut, some in the middle of what they carry.
    Resets,
    /// Nothing passes; in the end all that was held up does.
    Silence,
    /// Connections lead nowhere any more, for good. Either TCP notices, or somebody in between acknowledges everything.
    HalfOpen { is_noticed: bool },
    /// Events end in the middle, and the connection as well or the line alone.
    Torn,
    /// Events come twice, some after later ones.
    Twice,
    /// Events come after later ones.
    Late,
    /// At the beginning the history is forgotten.
    Compacted,
    /// At the beginning the store is replaced by an older one; whether versions go on so that clients are told.
    Restored { by_the_book: bool },
}

impl Fault {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Refused => "connections refused",
            Self::Errors(_) => "5xx",
            Self::TooMany(None) => "429",
            Self::TooMany(Some(_)) => "429 with Retry-After",
            Self::Gone => "410 to everything",
            Self::Expired => "the token expired",
            Self::Nonsense => "answers that are none",
            Self::Hasty => "watches that end at once",
            Self::Slow(_) => "latency",
            Self::Resets => "resets",
            Self::Silence => "silence",
            Self::HalfOpen { is_noticed: true } => "half-open, noticed by TCP",
            Self::HalfOpen { is_noticed: false } => "half-open, acknowledged",
            Self::Torn => "truncated events",
            Self::Twice => "duplicated events",
            Self::Late => "events out of order",
            Self::Compacted => "the history forgotten",
            Self::Restored { by_the_book: true } => "restored by the book",
            Self::Restored { by_the_book: false } => "restored as it was",
        }
    }
}

/// For how long something goes wrong.
#[derive(Clone, Debug)]
pub(crate) struct Spell {
    pub(crate) fault: Fault,
    pub(crate) from: Duration,
    pub(crate) until: Duration,
    /// For whom; `None` for all.
    pub(crate) only: Option<Kind>,
}

/// The spells of a schedule, the dice, and what came of them.
#[derive(Debug)]
pub(crate) struct Weather {
    begin: Instant,
    spells: Vec<Spell>,
    rng: Mutex<fastrand::Rng>,
    acted: Mutex<BTreeMap<&'static str, u32>>,
}

impl Weather {
    pub(crate) fn new(begin: Instant, spells: Vec<Spell>, rng: fastrand::Rng) -> Self {
        Self { begin, spells, rng: Mutex::new(rng), acted: Mutex::default() }
    }

    /// What is wrong now of what is asked for, and until when.
    pub(crate) fn now<T>(
        &self,
        kind: Option<Kind>,
        pick: impl Fn(Fault) -> Option<T>,
    ) -> Option<(T, Instant)> {
        let now = self.begin.elapsed();
        let mut own = self.spells.iter().filter(|spell| (spell.from..spell.until).contains(&now));
        let concerns = |spell: &&Spell| spell.only.is_none() || spell.only == kind;
        own.by_ref().filter(concerns).find_map(|spell| Some((pick(spell.fault)?, self.begin + spell.until)))
    }

    /// Whether this is wrong now.
    pub(crate) fn is(&self, fault: Fault, kind: Option<Kind>) -> bool {
        let is = self.now(kind, |own| (own == fault).then_some(())).is_some();
        if is {
            self.acted(fault);
        }
        is
    }

    /// The next time at which connections are harmed as such, and how.
    pub(crate) fn next_harm(&self) -> Option<(Instant, Fault)> {
        let now = self.begin.elapsed();
        let harms = self.spells.iter().filter(|spell| {
            matches!(spell.fault, Fault::Resets | Fault::HalfOpen { .. }) && spell.until > now
        });
        // Who is reset may come again at once; a line that is half-open now is so from its first byte.
        let harms = harms.filter(|spell| spell.fault != Fault::Resets || spell.from > now);
        let next = harms.min_by_key(|spell| spell.from)?;
        Some((self.begin + next.from, next.fault))
    }

    /// Something has come of it.
    pub(crate) fn acted(&self, fault: Fault) {
        *lock(&self.acted).entry(fault.name()).or_default() += 1;
    }

    pub(crate) fn all_that_acted(&self) -> BTreeMap<&'static str, u32> {
        lock(&self.acted).clone()
    }

    /// Throws the dice.
    pub(crate) fn dice<T>(&self, throw: impl FnOnce(&mut fastrand::Rng) -> T) -> T {
        throw(&mut lock(&self.rng))
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
