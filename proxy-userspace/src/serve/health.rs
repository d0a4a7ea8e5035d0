//! `/healthz` and `/livez`, with kube-proxy's codes and bodies (`pkg/proxy/healthcheck/proxy_health.go`); `/readyz`, which
//! kube-proxy has not.
//!
//! `/livez` answers 200 while no change has waited too long, which also means: before the first sync; and while the hooks
//! are in force, and nothing that somebody else has done to maps and pins is left as it is. `/healthz` also wants a node that
//! stays. `/readyz` answers 200 once tables are complete and programs attached.
//!
//! That a map is full is said in every body, and does not change a code: the nodes of a cluster have the same maps, so all of
//! them would leave all load balancers at once, and what is served would go with what is not.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::any,
};
use serde::Serialize;

use crate::controller::{
    health::{Health, Hooks},
    status::Status,
};

pub(super) fn router(status: Arc<Status>) -> Router {
    Router::new()
        .route("/healthz", any(healthz))
        .route("/livez", any(livez))
        .route("/readyz", any(readyz))
        .with_state(status)
}

async fn healthz(State(status): State<Arc<Status>>) -> impl IntoResponse {
    let health = status.health();
    let code = code(health.is_healthy && health.is_node_eligible);
    status.metrics.kube_proxy.healthz(code.as_u16());
    answer(code, &health, Some(health.is_node_eligible))
}

async fn livez(State(status): State<Arc<Status>>) -> impl IntoResponse {
    let health = status.health();
    // Not the hooks: the kubelet starts anew who does not live, and that would not mend them.
    let code = code(health.is_in_time);
    status.metrics.kube_proxy.livez(code.as_u16());
    answer(code, &Health { is_healthy: health.is_in_time, ..health }, None)
}

async fn readyz(State(status): State<Arc<Status>>) -> impl IntoResponse {
    let health = status.health();
    answer(code(health.is_healthy && health.is_serving), &health, None)
}

fn code(is_well: bool) -> StatusCode {
    if is_well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

/// As kube-proxy writes it; behind that, what only we have.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    last_updated: String,
    current_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
    status: BTreeMap<String, FamilyStatus>,
    serving: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    hooks: Option<HookStatus>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    faults: BTreeMap<&'static str, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    without_room: Option<WithoutRoom>,
}

/// Services that are not served as they should be because a map is full.
#[derive(Serialize)]
struct WithoutRoom {
    count: usize,
    /// The first few.
    services: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FamilyStatus {
    last_updated: String,
    healthy: bool,
}

#[derive(Serialize)]
struct HookStatus {
    effective: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

fn answer(code: StatusCode, health: &Health, node_eligible: Option<bool>) -> impl IntoResponse + use<> {
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    let body = body(SystemTime::now(), code == StatusCode::OK, health, node_eligible);
    (code, headers, serde_json::to_string(&body).unwrap_or_default())
}

fn body(now: SystemTime, is_well: bool, health: &Health, node_eligible: Option<bool>) -> Body {
    let (now, updated) = (time(now), time(health.last_updated));
    let of_family = |family: &_| {
        let status = FamilyStatus { last_updated: updated.clone(), healthy: health.is_in_time };
        (ToString::to_string(family), status)
    };
    Body {
        // Who is well is up to date.
        last_updated: if is_well { now.clone() } else { updated.clone() },
        current_time: now,
        node_eligible,
        healthy: health.is_healthy,
        status: health.families.iter().map(of_family).collect(),
        serving: health.is_serving,
        hooks: match &health.hooks {
            Hooks::NotYet => None,
            Hooks::Effective => Some(HookStatus { effective: true, reason: None }),
            Hooks::Failing(reason) => Some(HookStatus { effective: false, reason: Some(reason.clone()) }),
        },
        faults: health.faults.clone(),
        without_room: (health.without_room.0 > 0).then(|| WithoutRoom {
            count: health.without_room.0,
            services: health.without_room.1.iter().map(ToString::to_string).collect(),
        }),
    }
}

/// As Go's RFC3339Nano.
fn time(at: SystemTime) -> String {
    jiff::Timestamp::try_from(at).map(|time| time.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::cluster::model::Family;

    fn health() -> Health {
        Health {
            is_healthy: true,
            is_in_time: true,
            is_node_eligible: true,
            is_serving: true,
            last_updated: UNIX_EPOCH + Duration::from_millis(1_500),
            hooks: Hooks::NotYet,
            faults: BTreeMap::new(),
            without_room: (0, Vec::new()),
            families: vec![Family::V4, Family::V6],
        }
    }

    fn text(is_well: bool, health: &Health, node_eligible: Option<bool>) -> String {
        let now = UNIX_EPOCH + Duration::from_nanos(86_400_000_000_001);
        serde_json::to_string(&body(now, is_well, health, node_eligible)).expect("it is plain")
    }

    #[test]
    fn the_body_begins_as_kube_proxys_does() {
        let (now, then) = ("1970-01-02T00:00:00.000000001Z", "1970-01-01T00:00:01.5Z");
        assert_eq!(
            text(true, &health(), Some(true)),
            format!(
                "{{\"lastUpdated\":\"{now}\",\"currentTime\":\"{now}\",\"nodeEligible\":true,\"healthy\":true,\
                 \"status\":{{\"IPv4\":{{\"lastUpdated\":\"{then}\",\"healthy\":true}},\
                 \"IPv6\":{{\"lastUpdated\":\"{then}\",\"healthy\":true}}}},\"serving\":true}}"
            )
        );
        assert!(!text(true, &health(), None).contains("nodeEligible"));
    }

    #[test]
    fn who_finds_no_room_is_named_and_the_node_stays_well() {
        let name = crate::cluster::model::ServiceName { namespace: "shop".into(), name: "web".into() };
        let text = text(true, &Health { without_room: (12, vec![name]), ..health() }, None);
        assert!(text.contains("\"healthy\":true"), "{text}");
        assert!(text.ends_with(",\"withoutRoom\":{\"count\":12,\"services\":[\"shop/web\"]}}"), "{text}");
    }

    #[test]
    fn who_is_not_well_says_since_when_and_why() {
        let hooks = Hooks::Failing("connect4 is \"gone\"".to_owned());
        let faults = BTreeMap::from([("pins", "no bpffs".to_owned())]);
        let failing = Health { is_healthy: false, hooks, faults, ..health() };
        let text = text(false, &failing, None);
        assert!(text.starts_with("{\"lastUpdated\":\"1970-01-01T00:00:01.5Z\""), "{text}");
        assert!(text.contains("\"healthy\":false,\"status\":{\"IPv4\":{\"lastUpdated\":"), "{text}");
        let reason = "\"hooks\":{\"effective\":false,\"reason\":\"connect4 is \\\"gone\\\"\"}";
        assert!(text.contains(reason), "{text}");
        assert!(text.ends_with(",\"faults\":{\"pins\":\"no bpffs\"}}"), "{text}");
    }
}
