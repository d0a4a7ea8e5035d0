//! Readers of what others write, run over a corpus and over what chance makes of it: nothing panics, nothing is taken in that
//! was not meant for us.
//!
//! What is found to break a reader joins the corpus, `proxy-userspace/tests/corpora`. A run is repeated with the seed it says
//! (`KUBESHUNT_SEED`), and is longer with `KUBESHUNT_FUZZ=rounds`.

use std::env;
use std::fs;
use std::path::Path;

use super::kubernetes::fuzzed as kubernetes;
use super::manifests::fuzzed as manifests;
use crate::cluster::Cluster;
use crate::cluster::change::{Change, Kind};
use crate::configuration::document;

const KINDS: [Kind; 5] = [Kind::Service, Kind::EndpointSlice, Kind::Node, Kind::Pod, Kind::ServiceCidr];

/// Variants of the corpus, unless it is said otherwise.
const ROUNDS: u32 = 3_000;

/// Words that mean something somewhere, or nearly.
const WORDS: [&str; 16] = [
    "null",
    "-1",
    "65536",
    "1e999",
    "\"\"",
    "[]",
    "{}",
    "true",
    "0.0.0.0",
    "::ffff:1.2.3.4",
    "fe80::1%eth0",
    "\u{0}",
    "---\n",
    "&a",
    "*a",
    "99999999999999999999",
];

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

fn corpus() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpora");
    let files = fs::read_dir(folder).expect("the corpus").map(|file| file.expect("a file").path());
    let mut files: Vec<_> = files.collect();
    files.sort();
    files
        .iter()
        .map(|file| String::from_utf8_lossy(&fs::read(file).expect("readable")).into_owned())
        .collect()
}

/// A text with a few places changed, cut, doubled, or taken from another one.
fn variant(corpus: &[String], random: &mut fastrand::Rng) -> String {
    let mut bytes = corpus[random.usize(..corpus.len())].clone().into_bytes();
    for _ in 0..random.usize(1..6) {
        let at = random.usize(..=bytes.len());
        let end = (at + random.usize(..40)).min(bytes.len());
        match random.u8(..5) {
            0 if at < bytes.len() => bytes[at] = random.u8(..),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
            3 => {
                let other = corpus[random.usize(..corpus.len())].as_bytes();
                let from = random.usize(..other.len());
                let to = (from + random.usize(..80)).min(other.len());
                bytes.splice(at..end, other[from..to].iter().copied());
            }
            _ => drop(bytes.splice(at..end, WORDS[random.usize(..WORDS.len())].bytes())),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Everything that reads what others write reads this.
fn read(text: &str, cluster: &mut Cluster) {
    for kind in KINDS {
        if let Some(change) = kubernetes::event(kind, text) {
            assert!(!matches!(&change, Change::Listed(..)), "an event is no list");
            // What is rejected is said in one line.
            for reject in cluster.apply(change) {
                assert!(!reject.to_string().contains('\n'), "{reject:?}");
            }
        }
        drop(kubernetes::page(kind, text).map(|objects| cluster.apply(Change::Listed(kind, objects))));
    }
    for name in ["a.yaml", "a.json"] {
        for object in manifests::objects(name, text) {
            cluster.apply(Change::Applied(object));
        }
    }
    if let Ok(read) = document::read(text) {
        drop(document::write(&read.configuration).expect("what was read can be written"));
    }
}

#[test]
fn whatever_is_written_readers_survive_it() {
    let seed = number("KUBESHUNT_SEED").unwrap_or_else(|| fastrand::u64(..));
    let rounds = number("KUBESHUNT_FUZZ").unwrap_or(ROUNDS.into());
    println!("KUBESHUNT_SEED={seed}");
    let (corpus, mut random) = (corpus(), fastrand::Rng::with_seed(seed));
    let mut cluster = Cluster::new("node-a");
    let mut meant = 0;
    for text in &corpus {
        read(text, &mut cluster);
        meant += cluster.counts().services + cluster.counts().endpoints;
    }
    assert!(meant > 0, "the corpus means something");
    for round in 0..rounds {
        let text = variant(&corpus, &mut random);
        // A panic says no more than where: this says of what.
        let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| read(&text, &mut cluster)));
        assert!(read.is_ok(), "KUBESHUNT_SEED={seed}, round {round}: {text:?}");
    }
}
