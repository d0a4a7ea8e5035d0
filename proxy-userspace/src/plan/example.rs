//! A frontend to try the hooks with.

use proxy_common::layout::{FrontendKey, Range, frontend_kind, protocol, scope};

use super::{Planner, Port};

/// A cluster IP that leads every process of this node to a backend.
#[derive(Clone, Copy, Debug)]
pub struct Example {
    /// The frontend.
    pub key: FrontendKey,
    /// The id it leads to.
    pub id: u32,
    /// The slots of those it may lead to.
    pub backends: Range,
}

impl Planner {
    /// One of that family, if there is any: not one with affinity, which would remember who asked.
    #[must_use]
    pub fn example(&self, is_v4: bool) -> Option<Example> {
        let ids = self.by_service.values().flatten();
        ids.filter_map(|id| Some((*id, self.ports.get(id)?))).find_map(|(id, port)| {
            let sets = port.sets;
            let backends = if sets.internal_local() { sets.local() } else { sets.cluster() };
            if backends.len == 0 || port.traits.affinity_seconds() != 0 {
                return None;
            }
            let found = port.frontends.iter().find(|(key, kind)| self.leads(key, *kind, is_v4, port));
            found.map(|(key, _)| Example { key: *key, id, backends })
        })
    }

    /// Whether it is a cluster IP of that family whose sockets are led to the port.
    fn leads(&self, key: &FrontendKey, kind: u32, is_v4: bool, port: &Port) -> bool {
        kind == frontend_kind::CLUSTER_IP
            && key.scope == scope::VIP
            && key.address.is_v4() == is_v4
            && matches!(key.protocol, protocol::TCP | protocol::UDP)
            && self.frontends.get(key).is_some_and(|claims| claims.in_map.is_some())
            && self.holder(key) == Some(&port.name)
    }
}
