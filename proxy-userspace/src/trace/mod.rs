//! Follows changes from the API event to the map write, for whoever wants to see where the time goes.
//!
//! Off, each step costs one comparison. On, every change becomes a trace:
//!
//! ```text
//! change                                            received by the source ... written to the maps
//! ├─ queue                                          until the loop took it out
//! ├─ take in                                        parsed, and found what it touches
//! └─ sync                                           once for all changes that came together
//!    ├─ tables   what the maps should hold
//!    ├─ plan     the difference
//!    └─ write    the operations
//! ```
//!
//! A sync that serves several changes belongs to the trace of the first; it is linked to the others, and they to it.
//!
//! Bounds: of thousands of changes per second some fifty are followed, no more than [`WAITING`] at a time; of several
//! waiting changes of one object the first. What the exporter cannot send in time is dropped there.

mod export;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    bucket::Bucket,
    cluster::change::{Change, ObjectRef},
};
pub use export::{Exporter, Settings, check};

/// Changes that are followed at a time.
const WAITING: usize = 256;

/// So many are followed in a row...
const BURST: u32 = 50;
/// ...and one more each time this has passed.
const REFILL: Duration = Duration::from_millis(20);

/// Follows changes, or does nothing. Clones follow the same changes.
#[derive(Clone, Debug, Default)]
pub struct Trace(Option<Arc<Followed>>);

#[derive(Debug)]
struct Followed {
    state: Mutex<State>,
    exporter: Exporter,
}

#[derive(Debug)]
struct State {
    pace: Bucket,
    /// Received and not taken in yet.
    waiting: HashMap<ObjectRef, Received>,
    /// Taken in and not written yet.
    taken: Vec<Journey>,
}

/// A change that has been received.
#[derive(Debug)]
struct Received {
    verb: &'static str,
    version: Option<Box<str>>,
    at: Instant,
}

/// A change that is being taken in.
#[derive(Debug)]
pub struct TakingIn {
    object: ObjectRef,
    received: Received,
    begin: Instant,
}

/// A change on its way, as far as it has come.
#[derive(Debug)]
struct Journey {
    object: ObjectRef,
    received: Received,
    begin: Instant,
    end: Instant,
}

/// A sync, as far as it has come; nothing if it serves no change that is followed.
#[derive(Debug)]
pub struct Course(Option<Steps>);

#[derive(Debug)]
struct Steps {
    begin: Instant,
    done: Vec<(&'static str, Instant)>,
}

impl Course {
    /// A step has been done.
    pub fn passed(&mut self, step: &'static str) {
        if let Some(steps) = &mut self.0 {
            steps.done.push((step, Instant::now()));
        }
    }
}

impl Trace {
    /// Follows changes for this exporter.
    #[must_use]
    pub fn new(exporter: Exporter) -> Self {
        let state = State {
            pace: Bucket::full(BURST, REFILL, Instant::now()),
            waiting: HashMap::new(),
            taken: Vec::new(),
        };
        Self(Some(Arc::new(Followed { state: Mutex::new(state), exporter })))
    }

    /// A source has received a change, and is about to queue it.
    pub fn received(&self, change: &Change) {
        let Some(followed) = &self.0 else { return };
        let Some((verb, object)) = name(change) else { return };
        let now = Instant::now();
        let mut state = followed.state();
        if state.waiting.len() >= WAITING || state.waiting.contains_key(&object) || !state.pace.try_take(now)
        {
            return;
        }
        let received = Received { verb, version: version(change), at: now };
        state.waiting.insert(object, received);
    }

    /// The loop begins to take a change in.
    #[must_use]
    pub fn takes_in(&self, change: &Change) -> Option<TakingIn> {
        let followed = self.0.as_ref()?;
        let (_, object) = name(change)?;
        let received = followed.state().waiting.remove(&object)?;
        Some(TakingIn { object, received, begin: Instant::now() })
    }

    /// The loop has taken it in.
    pub fn taken_in(&self, taking: Option<TakingIn>) {
        let (Some(followed), Some(TakingIn { object, received, begin })) = (&self.0, taking) else { return };
        let mut state = followed.state();
        if state.taken.len() < WAITING {
            state.taken.push(Journey { object, received, begin, end: Instant::now() });
        }
    }

    /// A sync begins.
    #[must_use]
    pub fn sync(&self) -> Course {
        let is_followed = self.0.as_ref().is_some_and(|followed| !followed.state().taken.is_empty());
        Course(is_followed.then(|| Steps { begin: Instant::now(), done: Vec::with_capacity(3) }))
    }

    /// The maps say what they should.
    pub fn synced(&self, course: Course, operations: usize) {
        let (Some(followed), Some(steps)) = (&self.0, course.0) else { return };
        let journeys = std::mem::take(&mut followed.state().taken);
        followed.exporter.export(&journeys, &steps, operations);
    }

    /// Sends what is ready, before the end.
    pub async fn finish(&self) {
        if let Some(followed) = &self.0 {
            followed.exporter.finish().await;
        }
    }
}

impl Followed {
    fn state(&self) -> MutexGuard<'_, State> {
        // Whatever a panic left of it is only seen by who looks at traces.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a change is, and of what. A list is one of a kind.
fn name(change: &Change) -> Option<(&'static str, ObjectRef)> {
    match change {
        Change::Applied(object) => Some(("applied", object.reference())),
        Change::Deleted(reference) => Some(("deleted", reference.clone())),
        Change::Listed(kind, _) => Some(("listed", ObjectRef::new(*kind, "", ""))),
        Change::Unreadable(_) | Change::Whole(_) => None,
    }
}

fn version(change: &Change) -> Option<Box<str>> {
    use crate::cluster::change::Object;
    let Change::Applied(object) = change else { return None };
    let version = match object {
        Object::Service(service) => &service.metadata.resource_version,
        Object::EndpointSlice(slice) => &slice.metadata.resource_version,
        Object::Node(node) => &node.metadata.resource_version,
        Object::ServiceCidr(cidr) => &cidr.metadata.resource_version,
        Object::Pod(_) | Object::Unreadable(_) => return None,
    };
    (!version.is_empty()).then(|| version.as_str().into())
}
