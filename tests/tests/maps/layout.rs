//! Keys and values as bytes, by hand: what a reader of the documentation would expect in the kernel.

use proxy_common::address::Address;
use proxy_common::layout::{Backend, Frontend, FrontendKey, Service};

pub(crate) fn address(address: Address) -> Vec<u8> {
    address.octets().to_vec()
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
