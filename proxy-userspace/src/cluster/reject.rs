//! What was not taken over from an object, and why.
//!
//! A reject never stops anything else of the same object, or of another one, from being served. Each says what
//! happened, where, and what follows from it, in words for the person who wrote the object.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::change::ObjectRef;
use super::model::Family;
use super::printable::Printable;

/// One thing that was not taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    /// The object.
    pub object: ObjectRef,
    /// The field, as in `spec.ports[1].port`; empty when it is about the whole object.
    pub field: String,
    /// What is wrong with it.
    pub problem: Problem,
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.object)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", Printable(&self.field))?;
        }
        write!(f, "{}", self.problem)
    }
}

impl std::error::Error for Reject {}

/// The ways in which a field or an object can be unusable.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// Not an IP address at all.
    InvalidAddress(String),
    /// An address that can be neither a frontend nor a backend.
    UnusableAddress(IpAddr),
    /// Of another family than the field next to it says.
    WrongFamily {
        /// The address.
        address: IpAddr,
        /// The family it should have.
        expected: Family,
    },
    /// A second cluster IP of the same family.
    SecondClusterIp(IpAddr),
    /// A frontend address of a family in which the Service has no cluster IP.
    NoClusterIpOfFamily(IpAddr),
    /// A Service with cluster IPs none of which is usable.
    NoUsableClusterIp,
    /// A port number outside 1..=65535; `None` when there is no number.
    InvalidPort(Option<i64>),
    /// A node port outside 1..=65535.
    InvalidNodePort(i64),
    /// Load balancers cannot ask at this port.
    InvalidHealthCheckPort(i64),
    /// Not TCP, UDP or SCTP.
    UnknownProtocol(String),
    /// Another port of the Service has the same name and protocol.
    DuplicatePortName,
    /// Another port of the Service has the same number and protocol.
    DuplicatePort(u16),
    /// Another port of the Service has the same node port and protocol.
    DuplicateNodePort(u16),
    /// A value that is not one of the few allowed.
    UnknownValue {
        /// What it says.
        value: String,
        /// What is used instead.
        used: &'static str,
    },
    /// Not a range of addresses.
    InvalidRange(String),
    /// A range of all addresses of a family, where cluster IPs should be.
    EverythingIsAService(IpNet),
    /// An affinity timeout outside 1..=86400.
    InvalidAffinityTimeout(i64),
    /// The creation time is not an RFC 3339 time.
    InvalidTime(String),
    /// A slice that does not say whose it is.
    NoServiceLabel,
    /// A slice of host names, or of something else that is not an IP address.
    UnsupportedAddressType(String),
    /// An endpoint without an address.
    NoAddress,
    /// The object has no name.
    NoName,
    /// The object could not be decoded.
    Undecodable(String),
    /// A manifest could not be read or parsed.
    Manifest(String),
    /// The same object is already defined elsewhere.
    DefinedTwice {
        /// Where the definition in force is.
        first: String,
        /// Where the rejected one is.
        second: String,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidAddress(text) => write!(f, "{text:?} is not an IP address; it is left out"),
            Self::UnusableAddress(address) => {
                write!(f, "{address} is not the address of one host; it is left out")
            }
            Self::WrongFamily { address, expected } => {
                write!(f, "{address} is not an {expected} address; it is left out")
            }
            Self::SecondClusterIp(address) => {
                write!(f, "{address} is the second cluster IP of its family; only the first is served")
            }
            Self::NoClusterIpOfFamily(address) => write!(
                f,
                "{address} is not served because the Service has no {} cluster IP; give it one (ipFamilyPolicy)",
                Family::of(*address)
            ),
            Self::NoUsableClusterIp => {
                f.write_str("no cluster IP is usable; the last good version of the Service, if any, stays")
            }
            Self::InvalidPort(Some(number)) => {
                write!(f, "{number} is not a port number (1 to 65535); the port is left out")
            }
            Self::InvalidPort(None) => f.write_str("has no number; the port is left out"),
            Self::InvalidNodePort(number) => {
                write!(
                    f,
                    "{number} is not a port number (1 to 65535); the port is served without a node port"
                )
            }
            Self::InvalidHealthCheckPort(number) => {
                write!(
                    f,
                    "{number} is not a port number (1 to 65535); load balancers that ask for health get no answer"
                )
            }
            Self::UnknownProtocol(text) => {
                write!(f, "{text:?} is not TCP, UDP or SCTP; the port is left out")
            }
            Self::DuplicatePortName => {
                f.write_str("an earlier port has the same name and protocol; this one is left out")
            }
            Self::DuplicatePort(number) => {
                write!(f, "an earlier port is also {number} with the same protocol; this one is left out")
            }
            Self::DuplicateNodePort(number) => {
                write!(
                    f,
                    "an earlier port also has node port {number}; this one is served without a node port"
                )
            }
            Self::UnknownValue { value, used } => write!(f, "{value:?} is not known; {used} is used"),
            Self::InvalidRange(text) => {
                write!(f, "{text:?} is not a range of addresses, as in 192.0.2.0/24; it is left out")
            }
            Self::EverythingIsAService(net) => {
                write!(f, "{net} holds every address there is; it is left out")
            }
            Self::InvalidAffinityTimeout(seconds) => {
                write!(f, "{seconds} is not between 1 and 86400 seconds; 10800 is used")
            }
            Self::InvalidTime(text) => write!(f, "{text:?} is not an RFC 3339 time; it counts as unknown"),
            Self::NoServiceLabel => f.write_str(
                "the label kubernetes.io/service-name is missing or empty; the slice belongs to no Service",
            ),
            Self::UnsupportedAddressType(text) => {
                write!(f, "{text:?} is not IPv4 or IPv6; the slice is left out")
            }
            Self::NoAddress => f.write_str("there is no address; the endpoint is left out"),
            Self::NoName => f.write_str("the object has no name; it is left out"),
            Self::Undecodable(message) => {
                write!(f, "{}; the last good version of the object, if any, stays", Printable(message))
            }
            Self::Manifest(message) => write!(f, "{}", Printable(message)),
            Self::DefinedTwice { first, second } => {
                let (first, second) = (Printable(first), Printable(second));
                write!(
                    f,
                    "defined in {first} and again in {second}; the one in {first} counts, remove the other"
                )
            }
        }
    }
}
