//! What a source says happened: the input of [`super::Cluster`].
//!
//! Sources produce these values, in the order in which things happened, and nothing else.

use std::fmt;

use super::api;
use super::printable::Printable;
use super::reject::Reject;

/// One step from one state of the cluster to the next.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The whole truth about one kind: what is absent here is gone. Sent for the first list and for every
    /// later one (after a 410, say).
    Listed(Kind, Vec<Object>),
    /// The object exists and looks like this.
    Applied(Object),
    /// The object is gone.
    Deleted(ObjectRef),
    /// Something could not be read. It changes nothing: what was known before stays in force.
    Unreadable(Reject),
    /// Whether all there is could be read. While not, objects may exist that no list mentions.
    Whole(bool),
}

/// An object as a source saw it.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// A Service.
    Service(Box<api::Service>),
    /// An EndpointSlice.
    EndpointSlice(Box<api::EndpointSlice>),
    /// A Node.
    Node(Box<api::Node>),
    /// A Pod.
    Pod(Box<api::Pod>),
    /// A ServiceCIDR.
    ServiceCidr(Box<api::ServiceCidr>),
    /// An object that exists but could not be decoded. In a list it keeps its last good version from being
    /// taken for deleted.
    Unreadable(Box<Reject>),
}

impl Object {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Service(_) => Kind::Service,
            Self::EndpointSlice(_) => Kind::EndpointSlice,
            Self::Node(_) => Kind::Node,
            Self::Pod(_) => Kind::Pod,
            Self::ServiceCidr(_) => Kind::ServiceCidr,
            Self::Unreadable(reject) => reject.object.kind,
        }
    }

    /// Which object this is.
    #[must_use]
    pub fn reference(&self) -> ObjectRef {
        let (namespace, name) = match self {
            Self::Service(service) => (&service.metadata.namespace, &service.metadata.name),
            Self::EndpointSlice(slice) => (&slice.metadata.namespace, &slice.metadata.name),
            Self::Node(node) => (&node.metadata.namespace, &node.metadata.name),
            Self::Pod(pod) => (&pod.metadata.namespace, &pod.metadata.name),
            Self::ServiceCidr(cidr) => (&cidr.metadata.namespace, &cidr.metadata.name),
            Self::Unreadable(reject) => return reject.object.clone(),
        };
        ObjectRef::new(self.kind(), namespace, name)
    }
}

/// The kinds of objects we know of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `v1/Service`
    Service,
    /// `discovery.k8s.io/v1/EndpointSlice`
    EndpointSlice,
    /// `v1/Node`
    Node,
    /// `v1/Pod`
    Pod,
    /// `networking.k8s.io/v1/ServiceCIDR`
    ServiceCidr,
    /// A manifest file, or a document in one, of which no object is known. Only ever rejected.
    Manifest,
}

impl Kind {
    /// Whether it is neither a Service nor what stands behind one.
    #[must_use]
    pub fn is_surrounding(self) -> bool {
        matches!(self, Self::Node | Self::Pod | Self::ServiceCidr)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Node => "Node",
            Self::Pod => "Pod",
            Self::ServiceCidr => "ServiceCIDR",
            Self::Manifest => "manifest",
        })
    }
}

/// Names one object. Displayed like `Service default/web`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectRef {
    /// Kind.
    pub kind: Kind,
    /// Namespace, empty where the kind has none.
    pub namespace: Box<str>,
    /// Name.
    pub name: Box<str>,
}

impl ObjectRef {
    /// Names an object.
    #[must_use]
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        Self { kind, namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (namespace, name) = (Printable(&self.namespace), Printable(&self.name));
        if self.namespace.is_empty() {
            write!(f, "{} {name}", self.kind)
        } else {
            write!(f, "{} {namespace}/{name}", self.kind)
        }
    }
}
