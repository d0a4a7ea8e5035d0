//! Things that fill up, each said once.

use std::{collections::HashSet, hash::Hash};

/// Beyond this share it is said.
const RINGS: f64 = 0.8;
/// Below this one it may be said again.
const RESTS: f64 = 0.7;

/// Who was said to be nearly full, and has not been clearly less since.
#[derive(Clone, Debug)]
pub struct Alarm<K>(HashSet<K>);

impl<K> Default for Alarm<K> {
    fn default() -> Self {
        Self(HashSet::new())
    }
}

impl<K: Copy + Eq + Hash> Alarm<K> {
    /// Takes everybody's share, and returns those of whom it is to be said now.
    pub fn hear(&mut self, shares: impl Iterator<Item = (K, f64)>) -> Vec<K> {
        let before = std::mem::take(&mut self.0);
        let mut ringing = Vec::new();
        for (who, share) in shares {
            let is_known = before.contains(&who);
            if share > RINGS || is_known && share >= RESTS {
                self.0.insert(who);
                if !is_known {
                    ringing.push(who);
                }
            }
        }
        ringing
    }
}
