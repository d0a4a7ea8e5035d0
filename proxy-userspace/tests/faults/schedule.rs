//! Random schedules: what goes wrong and when, and what changes meanwhile.

use std::time::Duration;

use crate::store::Kind;
use crate::weather::{Fault, Spell};

/// What a connection that somebody keeps open without serving it costs at most: a watch's whole time.
const WATCH: Duration = Duration::from_secs(296);
/// Until TCP has noticed that nobody is there.
pub(crate) const TCP_NOTICES: Duration = Duration::from_secs(11);
/// Long enough to end watches.
const MOMENT: Duration = Duration::from_millis(1);
/// All that is left to be promised.
pub(crate) const SECOND: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    pub(crate) spells: Vec<Spell>,
    /// When something changes.
    pub(crate) changes: Vec<Duration>,
}

impl Schedule {
    pub(crate) fn random(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        // Who shuffles a stream and cuts it loses events without a trace.
        let in_order = rng.u8(..5) != 0;
        let mut spells: Vec<Spell> = Vec::new();
        for _ in 0..rng.u8(1..=5) {
            let fault = if in_order { any(&mut rng) } else { harmless(&mut rng) };
            let is_unique = |own: &Spell| own.fault == Fault::Restored { by_the_book: false };
            if fault == (Fault::Restored { by_the_book: false }) && spells.iter().any(is_unique) {
                continue;
            }
            let spell = spell(fault, &mut rng);
            // What befalls requests is felt by those who have to make some.
            if spell.is_of_requests() {
                let ends = if fault == Fault::Refused { Fault::Resets } else { Fault::Hasty };
                spells.push(Spell { fault: ends, until: spell.from + MOMENT, ..spell.clone() });
            }
            spells.push(spell);
        }
        let mut schedule = Self { spells, changes: Vec::new() };
        let end = schedule.end();
        let soon = end.min(Duration::from_secs(30));
        for _ in 0..rng.u8(10..=60) {
            let at = if rng.bool() && !schedule.spells.is_empty() {
                let spell = &schedule.spells[rng.usize(..schedule.spells.len())];
                spell.from + (spell.until - spell.from).mul_f64(rng.f64())
            } else {
                soon.mul_f64(rng.f64())
            };
            schedule.changes.push(at);
        }
        schedule
    }

    /// When all is well again.
    pub(crate) fn end(&self) -> Duration {
        self.spells.iter().map(|spell| spell.until).max().unwrap_or_default()
    }

    /// Until when the maps have to say what the API says, but for those who were told to wait.
    pub(crate) fn bound(&self) -> Duration {
        let holds = |fault| matches!(fault, Fault::Silence | Fault::Slow(_) | Fault::HalfOpen { .. });
        let is_held = self.spells.iter().any(|spell| holds(spell.fault));
        let later = self.spells.iter().map(|spell| match spell.fault {
            Fault::HalfOpen { is_noticed: true } => spell.until + TCP_NOTICES,
            Fault::HalfOpen { is_noticed: false } => spell.until + WATCH,
            // Asked of the lost store, answered by the other one: nothing shows that but the silence.
            Fault::Restored { by_the_book: false } if is_held => self.end() + WATCH,
            _ => spell.until,
        });
        later.max().unwrap_or_default() + SECOND
    }
}

impl Spell {
    fn is_of_requests(&self) -> bool {
        use Fault::{Errors, Expired, Gone, Nonsense, Refused, TooMany};
        matches!(self.fault, Errors(_) | Expired | Gone | Nonsense | Refused | TooMany(_))
    }
}

fn spell(fault: Fault, rng: &mut fastrand::Rng) -> Spell {
    let from = Duration::from_millis(rng.u64(..20_000));
    // From moments to half a minute, most of them short; silence for hours.
    let most = if fault == Fault::Silence { 1e6 } else { 3e3 };
    let lasts = Duration::from_millis(10).mul_f64(f64::powf(most, rng.f64()));
    let is_for_one = !matches!(
        fault,
        Fault::Refused
            | Fault::Slow(_)
            | Fault::Resets
            | Fault::Silence
            | Fault::HalfOpen { .. }
            | Fault::Expired
            | Fault::Compacted
            | Fault::Restored { .. }
    );
    let only = [None, Some(Kind::Service), Some(Kind::Slice)][rng.usize(..3)].filter(|_| is_for_one);
    Spell { fault, from, until: from + lasts, only }
}

/// One that breaks no stream between two events.
fn harmless(rng: &mut fastrand::Rng) -> Fault {
    match rng.u8(..9) {
        0..3 => Fault::Late,
        3 => Fault::Errors([500, 502, 503, 504][rng.usize(..4)]),
        4 => Fault::TooMany(None),
        5 => Fault::Gone,
        6 => Fault::Expired,
        7 => Fault::Twice,
        _ => Fault::Compacted,
    }
}

fn any(rng: &mut fastrand::Rng) -> Fault {
    match rng.u8(..16) {
        0 => Fault::Refused,
        1 => Fault::Errors([500, 502, 503, 504][rng.usize(..4)]),
        2 => Fault::TooMany(None),
        3 => Fault::TooMany(Some(rng.u8(1..=4))),
        4 => Fault::Gone,
        5 => Fault::Expired,
        6 => Fault::Nonsense,
        7 => Fault::Hasty,
        8 => Fault::Slow(Duration::from_millis(rng.u64(1..=800))),
        9 => Fault::Resets,
        10 => Fault::Silence,
        11 => Fault::HalfOpen { is_noticed: rng.bool() },
        12 => Fault::Torn,
        13 => Fault::Twice,
        14 => Fault::Compacted,
        _ => Fault::Restored { by_the_book: rng.bool() },
    }
}
