//! What the API holds, and every state it has ever had. Pure.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// What is followed and may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Service,
    Slice,
}

/// A Service. Its stamp tells it from every other version of every other object, in the maps as well: as affinity.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Service {
    pub(crate) stamp: u16,
    /// Its cluster IP's last byte.
    pub(crate) vip: u8,
    pub(crate) has_two_ports: bool,
    revision: u64,
}

/// A slice. Its stamp is in the addresses of its endpoints.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Slice {
    pub(crate) stamp: u16,
    /// The Service it belongs to, which need not exist.
    pub(crate) of: u8,
    /// How many endpoints there are, at least one.
    pub(crate) endpoints: u8,
    revision: u64,
}

/// One state of everything.
#[derive(Clone, Debug, Default)]
pub(crate) struct Moment {
    pub(crate) services: BTreeMap<u8, Service>,
    pub(crate) slices: BTreeMap<u8, Slice>,
    pub(crate) revision: u64,
}

/// Something that happened, as a watch tells it.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) kind: Kind,
    pub(crate) revision: u64,
    pub(crate) line: String,
}

#[derive(Debug)]
pub(crate) struct Store {
    /// In the order of time, the present at the end. One that is restored comes again.
    pub(crate) moments: Vec<Moment>,
    /// Of the history that is in force, oldest first.
    events: Vec<Event>,
    /// Events up to this revision are forgotten.
    pub(crate) compacted: u64,
    /// How many times it was restored: what was begun before cannot be gone on with.
    pub(crate) restored: u32,
    stamp: u16,
    /// Whether a cluster IP may be another Service's later.
    hands_on_addresses: bool,
    /// How much a write adds to the revision at most; others write as well.
    stride: u64,
}

/// A store that is restored against the book is that far behind at least, so that it does not catch up unnoticed.
const SETBACK: u64 = 1000;

pub(crate) const SERVICES: u8 = 5;
pub(crate) const SLICES: u8 = 7;

impl Store {
    pub(crate) fn new(hands_on_addresses: bool) -> Self {
        Self {
            hands_on_addresses,
            moments: vec![Moment { revision: 5000, ..Moment::default() }],
            events: Vec::new(),
            compacted: 5000,
            restored: 0,
            stamp: 0,
            stride: 500,
        }
    }

    pub(crate) fn now(&self) -> &Moment {
        self.moments.last().expect("there is always a present")
    }

    /// Somebody writes something.
    pub(crate) fn change(&mut self, rng: &mut fastrand::Rng) {
        let mut next = self.now().clone();
        next.revision += rng.u64(1..=self.stride);
        self.stamp += 1;
        let stamp = self.stamp;
        let revision = next.revision;
        let is_gone = rng.u8(..4) == 0;
        let (kind, event) = if rng.u8(..3) == 0 {
            let id = rng.u8(..SERVICES);
            let before = next.services.remove(&id);
            let free: Vec<u8> =
                (1..=SERVICES + 1).filter(|vip| next.services.values().all(|own| own.vip != *vip)).collect();
            if !is_gone || before.is_none() {
                // An address is for life; who comes again under the same name may get another.
                let drawn = if self.hands_on_addresses { free[rng.usize(..free.len())] } else { 1 + id };
                let vip = before.as_ref().map_or(drawn, |own| own.vip);
                next.services.insert(id, Service { stamp, vip, has_two_ports: rng.bool(), revision });
            }
            (
                Kind::Service,
                told(
                    before.map(|own| own.json(id)),
                    next.services.get(&id).map(|own| own.json(id)),
                    revision,
                ),
            )
        } else {
            let id = rng.u8(..SLICES);
            let before = next.slices.remove(&id);
            if !is_gone || before.is_none() {
                let slice = Slice { stamp, of: rng.u8(..SERVICES), endpoints: rng.u8(1..=3), revision };
                next.slices.insert(id, slice);
            }
            (
                Kind::Slice,
                told(before.map(|own| own.json(id)), next.slices.get(&id).map(|own| own.json(id)), revision),
            )
        };
        self.events.push(Event { kind, revision, line: format!("{event}\n") });
        self.moments.push(next);
    }

    /// What happened after a revision, in order.
    pub(crate) fn since(&self, kind: Kind, revision: u64) -> impl Iterator<Item = &Event> {
        self.events.iter().filter(move |event| event.kind == kind && event.revision > revision)
    }

    pub(crate) fn compact(&mut self) {
        self.compacted = self.now().revision;
    }

    /// The store is lost, and an older one takes its place: by the book, so that who knows the lost one is told, or as it
    /// was. False if there is none that is old enough.
    pub(crate) fn restore(&mut self, by_the_book: bool, rng: &mut fastrand::Rng) -> bool {
        let newest = self.now().revision;
        let setback = if by_the_book { 0 } else { SETBACK };
        let old = self.moments.iter().filter(|moment| moment.revision + setback <= newest).count();
        if old == 0 {
            return false;
        }
        let mut moment = self.moments[rng.usize(..old)].clone();
        self.restored += 1;
        if by_the_book {
            moment.revision = newest + 1_000_000;
            self.events.clear();
            self.compacted = moment.revision;
        } else {
            self.events.retain(|event| event.revision <= moment.revision);
            self.compacted = self.compacted.min(moment.revision);
            self.stride = 1;
        }
        self.moments.push(moment);
        true
    }
}

/// The event for an object that was one thing and is another.
fn told(before: Option<Value>, after: Option<Value>, revision: u64) -> Value {
    match (before, after) {
        (None, Some(object)) => json!({"type": "ADDED", "object": object}),
        (Some(_), Some(object)) => json!({"type": "MODIFIED", "object": object}),
        (Some(mut object), None) => {
            object["metadata"]["resourceVersion"] = revision.to_string().into();
            json!({"type": "DELETED", "object": object})
        }
        (None, None) => unreachable!("a write leaves something where nothing was"),
    }
}

impl Service {
    fn json(&self, id: u8) -> Value {
        let mut ports = vec![json!({"name": "http", "port": 80, "protocol": "TCP"})];
        if self.has_two_ports {
            ports.push(json!({"name": "extra", "port": 81, "protocol": "TCP"}));
        }
        let ip = format!("10.96.0.{}", self.vip);
        json!({
            "kind": "Service", "apiVersion": "v1",
            "metadata": {"name": format!("service-{id}"), "namespace": "ns",
                "resourceVersion": self.revision.to_string()},
            "spec": {"clusterIP": ip, "clusterIPs": [ip], "ports": ports, "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": self.stamp}}},
        })
    }
}

impl Slice {
    /// `10.NUMBER.STAMP`.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = [u8; 4]> {
        let [high, low] = self.stamp.to_be_bytes();
        (1..=self.endpoints).map(move |number| [10, number, high, low])
    }

    fn json(&self, id: u8) -> Value {
        let endpoints =
            self.addresses().map(|[a, b, c, d]| json!({"addresses": [format!("{a}.{b}.{c}.{d}")]}));
        json!({
            "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
            "metadata": {"name": format!("slice-{id}"), "namespace": "ns",
                "resourceVersion": self.revision.to_string(),
                "labels": {"kubernetes.io/service-name": format!("service-{}", self.of)}},
            "addressType": "IPv4",
            "endpoints": endpoints.collect::<Vec<_>>(),
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"},
                {"name": "extra", "port": 9090, "protocol": "TCP"}],
        })
    }
}

impl Moment {
    /// All objects of a kind.
    pub(crate) fn objects(&self, kind: Kind) -> Vec<Value> {
        match kind {
            Kind::Service => self.services.iter().map(|(id, own)| own.json(*id)).collect(),
            Kind::Slice => self.slices.iter().map(|(id, own)| own.json(*id)).collect(),
        }
    }
}
