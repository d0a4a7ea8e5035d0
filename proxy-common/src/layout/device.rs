//! A network device of the node.

use super::map_type;
use crate::address::Address;

map_type! {
    /// Under which addresses the node sends through a device when it masquerades: an address of the device
    /// itself where it has one, else the node's. All zero for a family in which the node has none.
    pub struct Device [32] {
        /// IPv4, v4-mapped.
        v4: Address,
        /// IPv6.
        v6: Address,
    }
}
