//! Counting what a test program says it has run.
//!
//! Invariant: only the line that closes a test program is believed; a program that dies before has
//! counted nothing, and its exit code says that it failed.

/// What was run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Tests that passed.
    pub(crate) passed: u64,
    /// Tests that failed.
    pub(crate) failed: u64,
    /// Tests that were not run.
    pub(crate) skipped: u64,
}

impl Counts {
    /// Takes the counts from a line such as
    /// `test result: ok. 13 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 3.52s`.
    pub(crate) fn of_line(line: &str) -> Option<Self> {
        let rest = line.trim().strip_prefix("test result: ")?;
        let (_, list) = rest.split_once(". ")?;
        let mut counts = Self::default();
        for item in list.split("; ") {
            match item.split_once(' ') {
                Some((number, "passed")) => counts.passed = number.parse().ok()?,
                Some((number, "failed")) => counts.failed = number.parse().ok()?,
                Some((number, "ignored")) => counts.skipped = number.parse().ok()?,
                _ => {}
            }
        }
        Some(counts)
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

#[cfg(test)]
mod tests {
    use super::Counts;

    #[test]
    fn closing_lines_are_counted() {
        let ok =
            "test result: ok. 13 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 3.52s";
        assert_eq!(Counts::of_line(ok), Some(Counts { passed: 13, failed: 0, skipped: 1 }));
        let bad = "test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(Counts::of_line(bad), Some(Counts { passed: 1, failed: 2, skipped: 0 }));
    }

    #[test]
    fn other_lines_are_not() {
        for line in ["", "running 13 tests", "test a ... ok", "failures:", "error: test failed"] {
            assert_eq!(Counts::of_line(line), None, "{line}");
        }
    }
}
