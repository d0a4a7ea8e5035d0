//! Servers that say when they want to be asked again.

use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderMap, Response, StatusCode};
use tower::BoxError;

/// Nobody is sent away for longer; Kubernetes' own servers say half of it at most.
const LONGEST: Duration = Duration::from_secs(60);

/// The server wants to be left alone for a while.
#[derive(Debug, thiserror::Error)]
#[error("{status}: the server wants to be asked again after {} s", after.as_secs())]
pub(crate) struct Busy {
    pub(super) status: StatusCode,
    /// For how long.
    pub(crate) after: Duration,
}

/// Passes on what is an answer. To be put around the client, because kube does not hand on the headers of errors.
pub(super) async fn heed<Body>(answer: Response<Body>) -> Result<Response<Body>, BoxError> {
    let status = answer.status();
    match after(status, answer.headers()) {
        Some(after) => Err(Busy { status, after }.into()),
        None => Ok(answer),
    }
}

fn after(status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
    let may_say = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
    // A date, which the header may be as well, is not written by any API server.
    let seconds = headers.get(RETRY_AFTER).filter(|_| may_say)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST))
}

impl Busy {
    /// What is behind an error, if it is this.
    pub(super) fn of(error: &kube::Error) -> Option<&Self> {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(error) = cause {
            if let Some(busy) = error.downcast_ref() {
                return Some(busy);
            }
            cause = error.source();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_and_what_is_not() {
        let after = |status: u16, value: &str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, value.parse().expect("a value"))]);
            after(StatusCode::from_u16(status).expect("a status"), &headers).map(|after| after.as_secs())
        };
        assert_eq!((after(429, "7"), after(503, " 1 ")), (Some(7), Some(1)));
        assert_eq!((after(429, "86400"), after(500, "7"), after(200, "7")), (Some(60), None, None));
        assert_eq!((after(429, "soon"), after(429, "Wed, 21 Oct 2015 07:28:00 GMT")), (None, None));
    }
}
