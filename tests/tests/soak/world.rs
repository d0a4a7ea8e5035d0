//! A cluster that never rests: its Services and slices as an API server tells them, and what becomes of them next.

use std::fmt::Write as _;
use std::ops::Range;

/// Endpoints of a Service at most.
const ENDPOINTS: u8 = 12;

/// Services that have a NodePort: there are no more such ports in the usual range.
const WITH_NODE_PORT: usize = 2_000;

/// What a server lists and watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Services,
    Slices,
}

impl Kind {
    pub(crate) fn of(path: &str) -> Option<Self> {
        match path {
            "/api/v1/services" => Some(Self::Services),
            "/apis/discovery.k8s.io/v1/endpointslices" => Some(Self::Slices),
            _ => None,
        }
    }
}

/// A Service, and its slice.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Each has a name of its own.
    generation: u32,
    service: u8,
    slice_generation: u32,
    /// Which endpoints there are, a bit for each.
    endpoints: u16,
    terminating: u16,
}

/// So many Services, each with one slice.
#[derive(Debug)]
pub(crate) struct World {
    random: fastrand::Rng,
    places: Vec<Place>,
    /// Of the last thing that happened to any object.
    version: u64,
    /// The same by kind.
    versions: [u64; 2],
}

impl World {
    pub(crate) fn new(services: usize, seed: u64) -> Self {
        let place = Place { generation: 0, service: 0, slice_generation: 0, endpoints: 0b11, terminating: 0 };
        Self {
            random: fastrand::Rng::with_seed(seed),
            places: vec![place; services],
            version: 1,
            versions: [1; 2],
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// The version at which a watch of that kind goes on where the last one ended.
    pub(crate) fn version(&self, kind: Kind) -> u64 {
        self.versions[kind as usize]
    }

    /// These objects, separated by commas.
    pub(crate) fn list(&self, kind: Kind, places: Range<usize>) -> String {
        let mut text = String::new();
        for place in places {
            if !text.is_empty() {
                text.push(',');
            }
            self.write(&mut text, kind, place);
        }
        text
    }

    /// Something happens to an object of that kind: the lines of a watch that say so.
    pub(crate) fn churn(&mut self, kind: Kind, lines: &mut String) {
        let index = self.random.usize(..self.places.len());
        let is_replaced = self.random.u8(..4) == 0;
        if is_replaced {
            self.event(lines, "DELETED", kind, index);
        }
        let place = &mut self.places[index];
        match kind {
            Kind::Services => {
                place.generation += u32::from(is_replaced);
                place.service = place.service.wrapping_add(1);
            }
            Kind::Slices => {
                place.slice_generation += u32::from(is_replaced);
                place.endpoints = self.random.u16(..1 << ENDPOINTS);
                place.terminating = self.random.u16(..) & self.random.u16(..);
            }
        }
        self.event(lines, if is_replaced { "ADDED" } else { "MODIFIED" }, kind, index);
    }

    fn event(&mut self, lines: &mut String, event: &str, kind: Kind, index: usize) {
        self.version += 1;
        self.versions[kind as usize] = self.version;
        // Writing to a String does not fail; so below.
        let _ = write!(lines, "{{\"type\":\"{event}\",\"object\":");
        self.write(lines, kind, index);
        lines.push_str("}\n");
    }

    fn write(&self, text: &mut String, kind: Kind, index: usize) {
        match kind {
            Kind::Services => self.service(text, index),
            Kind::Slices => self.slice(text, index),
        }
    }

    fn service(&self, text: &mut String, index: usize) {
        let Place { generation, service, .. } = self.places[index];
        let (high, low) = (index / 250, index % 250 + 1);
        let node_port = match index {
            0..WITH_NODE_PORT if service.is_multiple_of(2) => format!(",\"nodePort\":{}", 30_000 + index),
            _ => String::new(),
        };
        let external = match service % 3 {
            0 => format!("\"203.0.{high}.{low}\""),
            _ => String::new(),
        };
        let affinity = if service.is_multiple_of(5) { "ClientIP" } else { "None" };
        let _ = write!(
            text,
            "{{\"metadata\":{{\"namespace\":\"ns-{}\",\"name\":\"s-{index}-{generation}\",\
             \"resourceVersion\":\"{}\",\"annotations\":{{\"note\":\"{:0>200}\"}}}},\
             \"spec\":{{\"clusterIP\":\"10.96.{high}.{low}\",\"clusterIPs\":[\"10.96.{high}.{low}\",\"fd00:96::{high:x}:{low:x}\"],\
             \"ipFamilies\":[\"IPv4\",\"IPv6\"],\"sessionAffinity\":\"{affinity}\",\"externalIPs\":[{external}],\
             \"ports\":[{{\"name\":\"http\",\"port\":80,\"protocol\":\"TCP\"{node_port}}},\
             {{\"name\":\"dns\",\"port\":53,\"protocol\":\"UDP\"}}]}}}}",
            index % 50,
            self.version,
            service,
        );
    }

    fn slice(&self, text: &mut String, index: usize) {
        let Place { generation, slice_generation, endpoints, terminating, .. } = self.places[index];
        let (high, low) = (index / 250, index % 250 + 1);
        let _ = write!(
            text,
            "{{\"metadata\":{{\"namespace\":\"ns-{}\",\"name\":\"e-{index}-{slice_generation}\",\
             \"resourceVersion\":\"{}\",\"labels\":{{\"kubernetes.io/service-name\":\"s-{index}-{generation}\"}},\
             \"annotations\":{{\"endpoints.kubernetes.io/last-change-trigger-time\":\"2026-01-01T00:00:00Z\"}}}},\
             \"addressType\":\"IPv4\",\"ports\":[{{\"name\":\"http\",\"port\":8080,\"protocol\":\"TCP\"}},\
             {{\"name\":\"dns\",\"port\":5353,\"protocol\":\"UDP\"}}],\"endpoints\":[",
            index % 50,
            self.version,
        );
        let mut is_first = true;
        for endpoint in (0..ENDPOINTS).filter(|endpoint| endpoints & (1 << endpoint) != 0) {
            let goes = terminating & (1 << endpoint) != 0;
            let _ = write!(
                text,
                "{}{{\"addresses\":[\"10.{}.{high}.{low}\"],\"nodeName\":\"node-{}\",\
                 \"conditions\":{{\"ready\":{},\"serving\":true,\"terminating\":{goes}}},\
                 \"hints\":{{\"forZones\":[{{\"name\":\"zone-{}\"}}]}}}}",
                if is_first { "" } else { "," },
                100 + endpoint,
                if endpoint == 0 { "a".to_owned() } else { endpoint.to_string() },
                !goes,
                endpoint % 3,
            );
            is_first = false;
        }
        text.push_str("]}");
    }
}
