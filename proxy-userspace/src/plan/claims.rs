//! Who may have a frontend when several Services name it.
//!
//! kube-proxy leaves that to the order of its maps. Here it is decided, and the same on every node: a ClusterIP
//! before a load-balancer IP before an external IP, then the older Service, then the name.

use proxy_common::layout::Frontend;

use crate::tables::PortName;

/// One service port's wish for a frontend. Ordered: the least is the best.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Claim {
    /// One of `frontend_kind`.
    pub(super) kind: u32,
    /// Unix seconds.
    pub(super) created: i64,
    /// Whose.
    pub(super) name: PortName,
    /// Its id.
    pub(super) service: u32,
}

/// All claims to one frontend, and what the map says of it.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// Best first. Hardly ever more than one.
    claims: Vec<Claim>,
    /// The value in the map.
    pub(super) in_map: Option<Frontend>,
}

impl Claims {
    /// Found in the map; nobody has claimed it yet.
    pub(super) fn found(frontend: Frontend) -> Self {
        Self { claims: Vec::new(), in_map: Some(frontend) }
    }

    pub(super) fn add(&mut self, claim: Claim) {
        let at = self.claims.partition_point(|known| *known < claim);
        self.claims.insert(at, claim);
    }

    pub(super) fn withdraw(&mut self, service: u32) {
        self.claims.retain(|claim| claim.service != service);
    }

    pub(super) fn best(&self) -> Option<&Claim> {
        self.claims.first()
    }

    pub(super) fn losers(&self) -> impl Iterator<Item = &Claim> {
        self.claims.iter().skip(1)
    }
}
