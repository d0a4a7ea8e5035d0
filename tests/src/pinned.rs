//! A pinned map, through nothing but system calls: a second opinion on what the product says of its maps.
//!
//! Invariant: keys and values are the bytes that the kernel has. No type of the product is needed to read them.

use std::collections::BTreeMap;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_map_info};

use crate::inspect::{attribute, bpf, info, open_pin};

/// A map that somebody has pinned.
#[derive(Debug)]
pub struct PinnedMap {
    map: OwnedFd,
    id: u32,
    key: usize,
    value: usize,
    capacity: u32,
}

impl PinnedMap {
    /// Opens the pin.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(path: &Path) -> Result<Self> {
        let map = open_pin(path)?;
        // SAFETY: a structure of integers, for which zero is a value.
        let mut about: bpf_map_info = unsafe { mem::zeroed() };
        info(&map, &mut about)?;
        let (key, value) = (about.key_size as usize, about.value_size as usize);
        Ok(Self { map, id: about.id, key, value, capacity: about.max_entries })
    }

    /// No other map has the same.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// How many entries fit.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// The value of a key.
    ///
    /// # Errors
    /// When the key has not the map's size, or the kernel refuses.
    pub fn lookup(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let mut value = vec![0; self.value];
        let mut attr = self.element(key)?;
        attr.__bindgen_anon_2.__bindgen_anon_1.value = value.as_mut_ptr() as u64;
        // SAFETY: key and value have the sizes that the map was made with, and live until the call returns.
        match unsafe { bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr) } {
            Ok(_) => Ok(Some(value)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context("BPF_MAP_LOOKUP_ELEM"),
        }
    }

    /// The element of an array.
    ///
    /// # Errors
    /// When there is none.
    pub fn element_at(&self, index: u32) -> Result<Vec<u8>> {
        self.lookup(&index.to_ne_bytes())?.with_context(|| format!("no element {index}"))
    }

    /// Stores a value.
    ///
    /// # Errors
    /// When a size is wrong, or the kernel refuses.
    pub fn update(&self, key: &[u8], value: &[u8]) -> Result<()> {
        ensure!(value.len() == self.value, "a value of {} bytes, not {}", value.len(), self.value);
        let mut attr = self.element(key)?;
        attr.__bindgen_anon_2.__bindgen_anon_1.value = value.as_ptr() as u64;
        // SAFETY: key and value have the sizes that the map was made with, and live until the call returns.
        unsafe { bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr) }.context("BPF_MAP_UPDATE_ELEM")?;
        Ok(())
    }

    /// Removes an entry; one that is not there is fine.
    ///
    /// # Errors
    /// When the key has not the map's size, or the kernel refuses.
    pub fn remove(&self, key: &[u8]) -> Result<()> {
        let mut attr = self.element(key)?;
        // SAFETY: the key has the size that the map was made with, and lives until the call returns.
        match unsafe { bpf(bpf_cmd::BPF_MAP_DELETE_ELEM, &mut attr) } {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).context("BPF_MAP_DELETE_ELEM")
            }
            _ => Ok(()),
        }
    }

    /// Everything that it holds. Nobody may be writing.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn entries(&self) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
        let keys = self.keys()?.into_iter();
        keys.map(|key| Ok((self.lookup(&key)?.context("nobody removes it")?, key)))
            .map(|entry| entry.map(|(value, key)| (key, value)))
            .collect()
    }

    /// Every key, in the kernel's order. Nobody may be writing.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn keys(&self) -> Result<Vec<Vec<u8>>> {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        loop {
            let mut next = vec![0; self.key];
            let mut attr = attribute();
            attr.__bindgen_anon_2.map_fd = self.map.as_raw_fd().cast_unsigned();
            attr.__bindgen_anon_2.key = keys.last().map_or(0, |key| key.as_ptr() as u64);
            attr.__bindgen_anon_2.__bindgen_anon_1.next_key = next.as_mut_ptr() as u64;
            // SAFETY: both keys have the size that the map was made with; no key asks for the first.
            match unsafe { bpf(bpf_cmd::BPF_MAP_GET_NEXT_KEY, &mut attr) } {
                Ok(_) => keys.push(next),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(keys),
                Err(error) => return Err(error).context("BPF_MAP_GET_NEXT_KEY"),
            }
        }
    }

    fn element(&self, key: &[u8]) -> Result<bpf_attr> {
        ensure!(key.len() == self.key, "a key of {} bytes, not {}", key.len(), self.key);
        let mut attr = attribute();
        attr.__bindgen_anon_2.map_fd = self.map.as_raw_fd().cast_unsigned();
        attr.__bindgen_anon_2.key = key.as_ptr() as u64;
        Ok(attr)
    }
}
