//! Which object is defined in which file, and what follows when a file changes.
//!
//! Input: readings of files. Output: [`Change`]s. No I/O.
//!
//! Invariants: the same object in two files counts from the file whose name sorts first. No object is dropped
//! while a file that defined it does not parse. Only names and fingerprints are kept, not the objects.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

use super::document::Reading;
use crate::cluster::change::{Change, Kind, Object, ObjectRef};
use crate::cluster::reject::{Problem, Reject};

/// What is known about the files.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    files: BTreeMap<String, BTreeMap<ObjectRef, Entry>>,
    definers: HashMap<ObjectRef, BTreeSet<String>>,
}

#[derive(Debug)]
struct Entry {
    /// Of the last version sent from this file, if one was.
    sent: Option<u64>,
}

/// What follows from a change of a file.
#[derive(Debug, Default)]
pub(super) struct Effects {
    /// To be sent, in this order.
    pub(super) changes: Vec<Change>,
    /// Files that have to be read again, because they now define an object that another file did before.
    pub(super) reread: BTreeSet<String>,
}

impl Ledger {
    /// A file now says this.
    pub(super) fn update(&mut self, file: &str, reading: Reading) -> Effects {
        let mut effects = Effects::default();
        effects.changes.extend(reading.rejects.into_iter().map(Change::Unreadable));
        let mut old = self.files.remove(file).unwrap_or_default();
        let mut new = BTreeMap::new();

        for (object, place) in reading.objects {
            let reference = object.reference();
            if new.contains_key(&reference) {
                effects.changes.push(defined_twice(reference, file, &place));
                continue;
            }
            let fingerprint = fingerprint(&object);
            let before = old.remove(&reference).and_then(|entry| entry.sent);
            let definers = self.definers.entry(reference.clone()).or_default();
            definers.insert(file.to_owned());
            let first = definers.first().map(String::as_str).unwrap_or_default();
            let sent = if first == file {
                effects.changes.extend(
                    definers.iter().skip(1).map(|other| defined_twice(reference.clone(), file, other)),
                );
                if before != Some(fingerprint) {
                    effects.changes.push(Change::Applied(object));
                }
                Some(fingerprint)
            } else {
                effects.changes.push(defined_twice(reference.clone(), first, &place));
                None
            };
            // Should this file lose its place to another one, that one's version will be sent over it.
            new.insert(reference, Entry { sent });
        }
        for (reference, entry) in old {
            if reading.broken || reading.unreadable.contains(&reference) {
                new.entry(reference).or_insert(entry);
            } else {
                self.release(file, reference, &mut effects);
            }
        }
        self.files.insert(file.to_owned(), new);
        self.forget_overruled(&effects.changes, file);
        effects
    }

    /// A file is gone.
    pub(super) fn remove(&mut self, file: &str) -> Effects {
        let mut effects = Effects::default();
        for (reference, _) in self.files.remove(file).unwrap_or_default() {
            self.release(file, reference, &mut effects);
        }
        effects
    }

    /// The names of all files.
    pub(super) fn files(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// A file no longer defines an object: it is gone, or another file's version comes to bear.
    fn release(&mut self, file: &str, reference: ObjectRef, effects: &mut Effects) {
        let Some(definers) = self.definers.get_mut(&reference) else { return };
        let was_first = definers.first().is_some_and(|first| first == file);
        definers.remove(file);
        match definers.first() {
            Some(next) if was_first => drop(effects.reread.insert(next.clone())),
            Some(_) => {}
            None => {
                self.definers.remove(&reference);
                effects.changes.push(Change::Deleted(reference));
            }
        }
    }

    /// What this file just sent has replaced what others sent before.
    fn forget_overruled(&mut self, changes: &[Change], file: &str) {
        for change in changes {
            let Change::Applied(object) = change else { continue };
            let reference = object.reference();
            let others = self.definers.get(&reference).into_iter().flatten().filter(|other| *other != file);
            for other in others {
                if let Some(entry) = self.files.get_mut(other).and_then(|entries| entries.get_mut(&reference))
                {
                    entry.sent = None;
                }
            }
        }
    }
}

/// Turns what the first readings led to into whole lists.
pub(super) fn lists(changes: Vec<Change>) -> Vec<Change> {
    let mut listed: BTreeMap<ObjectRef, Object> = BTreeMap::new();
    let mut result = Vec::new();
    for change in changes {
        match change {
            Change::Applied(object) => drop(listed.insert(object.reference(), object)),
            Change::Deleted(reference) => drop(listed.remove(&reference)),
            other => result.push(other),
        }
    }
    let mut by_kind: BTreeMap<Kind, Vec<Object>> = BTreeMap::new();
    for (reference, object) in listed {
        by_kind.entry(reference.kind).or_default().push(object);
    }
    let kinds = [Kind::Node, Kind::ServiceCidr, Kind::Pod, Kind::Service, Kind::EndpointSlice];
    result.extend(kinds.map(|kind| Change::Listed(kind, by_kind.remove(&kind).unwrap_or_default())));
    result
}

fn defined_twice(object: ObjectRef, first: &str, second: &str) -> Change {
    let problem = Problem::DefinedTwice { first: first.to_owned(), second: second.to_owned() };
    Change::Unreadable(Reject { object, field: String::new(), problem })
}

fn fingerprint(object: &Object) -> u64 {
    let mut hasher = DefaultHasher::new();
    match object {
        Object::Service(service) => service.hash(&mut hasher),
        Object::EndpointSlice(slice) => slice.hash(&mut hasher),
        Object::Node(node) => node.hash(&mut hasher),
        Object::Pod(pod) => pod.hash(&mut hasher),
        Object::ServiceCidr(cidr) => cidr.hash(&mut hasher),
        Object::Unreadable(_) => {}
    }
    hasher.finish()
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
