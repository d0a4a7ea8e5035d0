//! Golden scenarios: objects in; tables, map writes and the fate of connections out, as text.
//!
//! Every `golden/*.yaml` is a scenario, see [`scenario`]; the `.txt` beside it is what must come out. After a
//! change that is meant, write the expectations anew and read their diff:
//!
//! ```text
//! KUBESHUNT_BLESS=1 cargo test -p proxy-userspace --test golden
//! ```
//!
//! Beyond the text, [`world`] checks in every scenario, step by step, what must hold in all of them: an
//! interrupted plan misdirects nothing, a new process goes on where another one stopped, and when all objects
//! are gone nothing of them is left in the maps.

#[path = "golden/scenario.rs"]
mod scenario;
#[path = "golden/words.rs"]
mod words;
#[path = "golden/world.rs"]
mod world;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

const BLESS: &str = "KUBESHUNT_BLESS=1 cargo test -p proxy-userspace --test golden";

/// Scenarios there are at least: finding none would otherwise pass.
const AT_LEAST: usize = 20;

fn with_extension(extension: &str) -> BTreeSet<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let files = fs::read_dir(&folder).expect("the scenarios").map(|entry| entry.expect("an entry").path());
    files.filter(|path| path.extension().is_some_and(|own| own == extension)).collect()
}

#[test]
fn every_scenario_comes_out_as_written() {
    let bless = std::env::var_os("KUBESHUNT_BLESS").is_some();
    assert!(!bless || std::env::var_os("CI").is_none(), "expectations are not blessed by CI");
    let scenarios = with_extension("yaml");
    assert!(scenarios.len() >= AT_LEAST, "only {} scenarios found", scenarios.len());
    let mut failures = Vec::new();
    for path in &scenarios {
        let expectation = path.with_extension("txt");
        let name = path.file_stem().and_then(|stem| stem.to_str()).expect("a name in UTF-8");
        let actual = world::play(name, &scenario::read(name, &fs::read_to_string(path).expect("readable")));
        if bless {
            fs::write(&expectation, actual).expect("writable");
            continue;
        }
        match fs::read_to_string(&expectation) {
            Ok(expected) if expected == actual => {}
            Ok(expected) => failures.push(format!("{name}:\n{}", difference(&expected, &actual))),
            Err(error) => {
                failures.push(format!("{name}: its expectation {}: {error}", expectation.display()))
            }
        }
    }
    assert!(failures.is_empty(), "{}\nIf this is meant: {BLESS}", failures.join("\n"));
}

#[test]
fn every_expectation_belongs_to_a_scenario() {
    let scenarios = with_extension("yaml");
    let orphans: Vec<PathBuf> = with_extension("txt")
        .into_iter()
        .filter(|path| !scenarios.contains(&path.with_extension("yaml")))
        .collect();
    assert!(orphans.is_empty(), "without a scenario: {orphans:?}");
}

/// The steps that differ: of each, its heading and what stands between the common beginning and the common end.
fn difference(expected: &str, actual: &str) -> String {
    let (expected, actual): (Vec<&str>, Vec<&str>) = (steps(expected), steps(actual));
    let mut text = String::new();
    for number in 0..expected.len().max(actual.len()) {
        let of = |steps: &[&'_ str]| steps.get(number).copied().unwrap_or_default().to_owned();
        let (expected, actual) = (of(&expected), of(&actual));
        if expected != actual {
            text += &difference_in_step(&expected, &actual);
        }
    }
    text
}

fn steps(text: &str) -> Vec<&str> {
    text.split("\n== ").collect()
}

fn difference_in_step(expected: &str, actual: &str) -> String {
    let (expected, actual): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), actual.lines().collect());
    let begin = expected.iter().zip(&actual).take_while(|(a, b)| a == b).count();
    let end = expected[begin..].iter().rev().zip(actual[begin..].iter().rev());
    let end = end.take_while(|(a, b)| a == b).count();
    let mut text = String::new();
    if begin > 0 {
        text += &format!("== {}\n", expected[0]);
    }
    for (sign, lines) in [("-", &expected), ("+", &actual)] {
        for line in &lines[begin..lines.len() - end] {
            text += &format!("{sign} {line}\n");
        }
    }
    text
}

#[test]
fn a_difference_is_shown_by_step() {
    let expected = "about\n\n== 1. a\nx\ny\nz\n\n== 2. b\nsame\n\n== 3. c\none\n";
    let actual = "about\n\n== 1. a\nx\nq\nz\n\n== 2. b\nsame\n\n== 3. c\none\ntwo\n\n== 4. d\n";
    assert_eq!(difference(expected, actual), "== 1. a\n- y\n+ q\n== 3. c\n+ two\n+ 4. d\n");
    assert_eq!(difference("a\n", "a\n"), "");
}
