//! Keys and values as bytes, by hand: what a reader of the documentation would expect in the kernel.

use proxy_common::address::Address;
use proxy_common::layout::{Backend, Frontend, FrontendKey, Service};
use proxy_userspace::plan::SourceRange;

pub(crate) fn address(address: Address) -> Vec<u8> {
    address.octets().to_vec()
}

/// With the number of bits that count in front; the address is a v4-mapped one if it is IPv4.
pub(crate) fn source(range: &SourceRange) -> Vec<u8> {
    let length = u32::from(range.length);
    let bits = 32 + if range.address.is_v4() { 96 + length } else { length };
    let mut bytes = bits.to_ne_bytes().to_vec();
    bytes.extend(range.service.to_ne_bytes());
    bytes.extend(address(range.address));
    bytes
}

pub(crate) fn frontend_key(key: &FrontendKey) -> Vec<u8> {
    let mut bytes = address(key.address);
    bytes.extend(key.port.number().to_be_bytes());
    bytes.extend([key.protocol, key.scope]);
    bytes
}

pub(crate) fn frontend(value: &Frontend) -> Vec<u8> {
    [value.service, value.kind, value.seal].into_iter().flat_map(u32::to_ne_bytes).collect()
}

pub(crate) fn service(value: &Service) -> Vec<u8> {
    [value.sets, value.traits].into_iter().flat_map(u64::to_ne_bytes).collect()
}

pub(crate) fn backend(value: &Backend) -> Vec<u8> {
    let mut bytes = address(value.address);
    bytes.extend(value.port.number().to_be_bytes());
    bytes.extend(value.flags.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes
}
