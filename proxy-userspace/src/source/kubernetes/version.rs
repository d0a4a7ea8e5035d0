//! Which of two versions of the API is the older one. Pure.
//!
//! They are decimal numbers without bound, and grow with every write to the store (KEP-5504; API servers have always
//! counted so). Of what is no number nothing is known.

use std::cmp::Ordering;

/// The order in which a server has reached them, if that can be told.
pub(super) fn order(one: &str, other: &str) -> Option<Ordering> {
    let number = |text: &str| {
        !text.is_empty() && !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    (number(one) && number(other)).then(|| one.len().cmp(&other.len()).then_with(|| one.cmp(other)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_an_order_and_nothing_else_has() {
        assert_eq!(order("99", "100"), Some(Ordering::Less));
        assert_eq!(order("101", "100"), Some(Ordering::Greater));
        let long = "184467440737095516160";
        assert_eq!(order(long, long), Some(Ordering::Equal));
        for other in ["", "0", "07", "1a", "-1"] {
            assert_eq!((order("5", other), order(other, "5")), (None, None), "{other:?}");
        }
    }
}
