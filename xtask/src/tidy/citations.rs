//! Tests that documents name exist: a table that promises a test for each rule is worth as much as this check.
//!
//! A document names a test as `file.rs::test`, and a golden scenario as `golden scenario`. The file is looked for
//! below [`ROOTS`].

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::verdict;
use crate::workspace;

/// Where a name of a file may begin. It must be in exactly one of them.
const ROOTS: [&str; 6] = [
    "tests/tests",
    "proxy-userspace/tests",
    "proxy-userspace/src",
    "proxy-common/src",
    "xtask/src",
    "tests/src",
];
const SCENARIOS: &str = "proxy-userspace/tests/golden";
/// Begins the mark of a test that does not run with the others.
const PASSED_OVER: &str = concat!("#[", "ignore");
/// Makes tests of the functions it names.
const LIST: &str = "in_every_setting!(";

/// Rules of kube-proxy, each with a test or with the difference it stands among.
const RULES: &str = "docs/kube-proxy.md";
/// Threats, each with the tests that show what becomes of it.
const THREATS: &str = "SECURITY.md";
/// Deliberate differences.
const DIFFERENCES: &str = "docs/differences.md";

/// Looks through these pages.
pub(super) fn check() -> Result<()> {
    let read = |name: &str| {
        fs::read_to_string(workspace::root().join(name)).with_context(|| format!("cannot read {name}"))
    };
    let (rules, differences, threats) = (read(RULES)?, read(DIFFERENCES)?, read(THREATS)?);
    let mut complaints = Vec::new();
    for (page, text) in [(RULES, &rules), (DIFFERENCES, &differences), (THREATS, &threats)] {
        for name in code(text) {
            if let Err(why) = find(name) {
                complaints.push(format!("{page}: `{name}`: {why}"));
            }
        }
    }
    let titles: BTreeSet<&str> = rows(&differences).map(|cells| cells[0]).collect();
    for cells in rows(&rules) {
        let last = cells.last().copied().unwrap_or_default();
        let links: Vec<&str> = cells.iter().flat_map(|cell| differences_in(cell)).collect();
        if code(last).next().is_none() && links.is_empty() {
            complaints.push(format!("{RULES}: no test and no difference: {}", cells[0]));
        }
        for link in links.into_iter().filter(|link| !titles.contains(link)) {
            complaints.push(format!("{RULES}: {DIFFERENCES} has no row {link:?}"));
        }
    }
    complaints.extend(unproved(&threats).map(|row| format!("{THREATS}: no test: {row}")));
    verdict(&complaints)
}

/// Rows that name no test in their last cell.
fn unproved(text: &str) -> impl Iterator<Item = &str> {
    rows(text).filter_map(|cells| {
        let last = cells.last().copied().unwrap_or_default();
        code(last).next().is_none().then_some(cells[0])
    })
}

/// The rows of all tables, without their headings.
fn rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
    let is_row = |line: &&str| line.starts_with('|');
    let lines: Vec<&str> = text.lines().collect();
    let headings: BTreeSet<usize> = (0..lines.len())
        .filter(|index| lines[*index].starts_with("|---"))
        .flat_map(|index| [index.saturating_sub(1), index])
        .collect();
    let rows =
        lines.into_iter().enumerate().filter(move |(index, line)| is_row(line) && !headings.contains(index));
    rows.map(|(_, line)| line.trim_matches('|').split('|').map(str::trim).collect())
}

/// What stands between backticks and names a test.
fn code(text: &str) -> impl Iterator<Item = &str> {
    let spans = text.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
    spans.filter(|span| span.contains(".rs") || span.starts_with("golden "))
}

/// The rows of the other page that a cell links to: `[title](differences.md)`.
fn differences_in(cell: &str) -> Vec<&str> {
    cell.match_indices("](differences.md)")
        .filter_map(|(end, _)| cell[..end].rsplit_once('[').map(|(_, title)| title))
        .collect()
}

/// Why there is no such test, if so.
fn find(name: &str) -> Result<(), String> {
    if let Some(scenario) = name.strip_prefix("golden ") {
        let file = workspace::root().join(SCENARIOS).join(format!("{scenario}.yaml"));
        return if file.is_file() { Ok(()) } else { Err("no such scenario".to_owned()) };
    }
    let (file, test) = name.split_once("::").ok_or("say which test: file.rs::test")?;
    let found: Vec<PathBuf> = ROOTS
        .iter()
        .map(|root| workspace::root().join(root).join(file))
        .filter(|path| path.is_file())
        .collect();
    let [path] = &*found else { return Err(format!("{} files of that name", found.len())) };
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    if tests(&text).contains(test) { Ok(()) } else { Err("no such test in that file".to_owned()) }
}

/// The tests of a file: functions marked as such, and those that a list makes tests of. One that is passed over when the
/// others run proves nothing.
fn tests(text: &str) -> BTreeSet<&str> {
    let mut found = BTreeSet::new();
    let (mut is_marked, mut is_passed_over) = (false, false);
    for line in text.lines().map(str::trim) {
        let declared = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
        if let Some((name, _)) = declared.and_then(|rest| rest.split_once('(')) {
            if is_marked && !is_passed_over {
                found.insert(name);
            }
            (is_marked, is_passed_over) = (false, false);
        } else if line == "#[test]" || line == "#[tokio::test]" {
            is_marked = true;
        } else if line.starts_with(PASSED_OVER) {
            is_passed_over = true;
        } else if !line.starts_with("#[") && !line.starts_with("//") {
            (is_marked, is_passed_over) = (false, false);
        }
    }
    for (_, list) in text.match_indices(LIST).map(|(at, list)| (list, &text[at + list.len()..])) {
        let names = list.split(')').next().unwrap_or_default().split(',').map(str::trim);
        found.extend(names.filter(|name| !name.is_empty()));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_what_is_marked_or_listed() {
        let text = "#[test]\n/// Words.\n#[cfg(x)]\nfn one() {}\nfn two() {}\n    #[test]\n    fn three() {}\n\
                    in_every_setting!(four, five);\nin_every_setting!(\n    six,\n);\n#[test]\nlet x;\nfn seven() {}\n#[tokio::test]\nasync fn eight() {}\n\
                    async fn nine() {}";
        assert_eq!(tests(text), BTreeSet::from(["one", "three", "four", "five", "six", "eight"]));
    }

    #[test]
    fn a_test_that_does_not_run_proves_nothing() {
        for mark in [format!("{PASSED_OVER}]"), format!("{PASSED_OVER} = \"slow\"]")] {
            let text = format!(
                "#[test]\n{mark}\nfn one() {{}}\n{mark}\n#[test]\nfn two() {{}}\n#[test]\nfn three() {{}}"
            );
            assert_eq!(tests(&text), BTreeSet::from(["three"]), "{mark}");
        }
    }

    #[test]
    fn a_table_has_rows_without_its_heading() {
        let text = "words\n\n| a | b |\n|---|---|\n| `x.rs::y` | [c d](differences.md) e |\n| f | g |\n";
        let rows: Vec<_> = rows(text).collect();
        assert_eq!(rows, [["`x.rs::y`", "[c d](differences.md) e"], ["f", "g"]]);
        assert_eq!(code(text).collect::<Vec<_>>(), ["x.rs::y"]);
        assert_eq!(differences_in(rows[0][1]), ["c d"]);
    }

    #[test]
    fn what_is_cited_is_there() {
        check().unwrap();
    }

    #[test]
    fn a_row_that_names_no_test_is_missed() {
        let text = "| | proved by |\n|---|---|\n| a | `x.rs::y` |\n| b `z.rs::y` | by construction |\n| c | golden `s` |\n";
        assert_eq!(unproved(text).collect::<Vec<_>>(), ["b `z.rs::y`", "c"]);
    }

    #[test]
    fn what_is_not_there_is_missed() {
        assert_eq!(find("tidy/citations.rs::what_is_not_there_is_missed"), Ok(()));
        assert_eq!(find("golden clusterip-basics"), Ok(()));
        for name in
            ["tidy/citations.rs::what_is_there", "tidy/nothing.rs::a", "tidy/citations.rs", "golden nothing"]
        {
            assert!(find(name).is_err(), "{name}");
        }
    }
}
