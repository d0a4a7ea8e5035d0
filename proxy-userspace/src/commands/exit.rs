//! What the program ends with when it failed.

use std::process::ExitCode;

use crate::{datapath::pins, serve, settings::Mistake, source::kubernetes::AccessError};

/// `kubeshunt verify` has found differences.
#[must_use]
pub fn different() -> ExitCode {
    ExitCode::from(5)
}

/// The number for an error: [`crate::settings::EXIT_CODES`].
#[must_use]
pub fn code(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(number(error))
}

fn number(error: &anyhow::Error) -> u8 {
    let is_mistake = error.is::<Mistake>() || error.chain().any(|cause| cause.is::<AccessError>());
    match () {
        () if is_mistake => 2,
        () if error.is::<pins::Taken>() => 3,
        () if error.is::<serve::Taken>() => 4,
        () => 1,
    }
}

#[cfg(test)]
mod tests {
    use anyhow::{Context as _, anyhow};

    use super::*;

    #[test]
    fn causes_have_numbers() {
        assert_eq!(number(&anyhow!("the disk is full")), 1);
        let access = AccessError::Token { path: "t".into(), reason: "it is empty".to_owned() };
        let source: Result<(), AccessError> = Err(access);
        assert_eq!(number(&source.context("cannot set up access to the API server").unwrap_err()), 2);
    }
}
