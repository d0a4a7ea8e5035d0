//! Maps of any shape: keys and values are bytes.
//!
//! For what concerns all maps alike, whatever they hold; who knows what they hold uses aya's types.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    maps::{MapData, MapType},
    util::nr_cpus,
};
use aya_obj::generated::bpf_cmd;

use super::kernel::{NOT_OVER_ANOTHER, attribute, bpf};

/// Entries read at a time, if no bucket of the hash has more.
const BATCH: u32 = 512;

/// What has to be the same for two maps to take each other's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// `enum bpf_map_type`.
    pub(super) kind: u32,
    /// In bytes.
    pub(super) key: u32,
    /// In bytes; per CPU, where each has its own.
    pub(super) value: u32,
    pub(super) entries: u32,
    pub(super) flags: u32,
}

/// A map.
#[derive(Debug)]
pub(super) struct RawMap {
    data: MapData,
    id: u32,
    kind: MapType,
    shape: Shape,
}

/// What [`RawMap::copy_to`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Copied {
    /// Entries that are there now and were not before.
    pub(super) entries: usize,
    /// Entries for which there was no room.
    pub(super) left_out: usize,
}

impl RawMap {
    /// The map pinned there.
    pub(super) fn open(pin: &Path) -> Result<Self> {
        let data = MapData::from_pin(pin).with_context(|| format!("cannot open {}", pin.display()))?;
        let info = data.info().with_context(|| format!("asking about {}", pin.display()))?;
        let kind =
            info.map_type().with_context(|| format!("{} is of a kind that is not known", pin.display()))?;
        let shape = Shape {
            kind: kind as u32,
            key: info.key_size(),
            value: info.value_size(),
            entries: info.max_entries(),
            flags: info.map_flags(),
        };
        Ok(Self { id: info.id(), data, kind, shape })
    }

    /// No other map has the same.
    pub(super) fn id(&self) -> u32 {
        self.id
    }

    pub(super) fn shape(&self) -> Shape {
        self.shape
    }

    /// Pins it once more.
    pub(super) fn pin(&self, path: &Path) -> Result<()> {
        self.data.pin(path).with_context(|| format!("cannot pin {}", path.display()))
    }

    /// Copies what is not there yet. Keys and values that are longer there get zeros at their end, and longer ones are
    /// cut. Others may be writing to both: what they write meanwhile is copied or not.
    ///
    /// # Errors
    /// When the two are of different kinds, or the kernel refuses.
    pub(super) fn copy_to(&self, to: &Self) -> Result<Copied> {
        ensure!(self.kind == to.kind, "the one is a {:?}, the other a {:?}", self.kind, to.kind);
        let mut copied = Copied::default();
        let (parts, bytes) = (self.parts()?, to.value_bytes()?);
        let is_array = is_array(self.kind);
        self.for_each(|key, value| {
            if is_array && value.iter().all(|byte| *byte == 0) {
                return Ok(());
            }
            let mut key = key.to_vec();
            key.resize(to.shape.key as usize, 0);
            let value = fit(value, bytes, parts);
            let is_there =
                is_array && to.lookup(&key)?.is_none_or(|there| there.iter().any(|byte| *byte != 0));
            let result = if is_there {
                Err(io::ErrorKind::AlreadyExists.into())
            } else {
                to.update(&key, &value, if is_array { 0 } else { NOT_OVER_ANOTHER })
            };
            match result {
                Ok(()) => copied.entries += 1,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) if is_full(&error) => copied.left_out += 1,
                Err(error) => return Err(error),
            }
            Ok(())
        })
        .context("the kernel says")?;
        Ok(copied)
    }

    fn number(&self) -> u32 {
        self.data.fd().as_fd().as_raw_fd().cast_unsigned()
    }

    /// Of how many a value consists.
    fn parts(&self) -> io::Result<usize> {
        if self.kind == MapType::PerCpuArray { nr_cpus().map_err(|(_, error)| error) } else { Ok(1) }
    }

    /// How long a value is when it is read, with those of all CPUs.
    fn value_bytes(&self) -> io::Result<usize> {
        let bytes = self.shape.value as usize;
        if self.kind == MapType::PerCpuArray {
            Ok(bytes.next_multiple_of(8) * self.parts()?)
        } else {
            Ok(bytes)
        }
    }

    fn for_each(&self, mut visit: impl FnMut(&[u8], &[u8]) -> io::Result<()>) -> io::Result<()> {
        match self.kind {
            MapType::Hash | MapType::LruHash => self.for_each_of_hash(visit),
            MapType::Array | MapType::PerCpuArray => {
                for index in 0..self.shape.entries {
                    let key = index.to_ne_bytes();
                    if let Some(value) = self.lookup(&key)? {
                        visit(&key, &value)?;
                    }
                }
                Ok(())
            }
            MapType::LpmTrie => {
                let mut last = None;
                while let Some(key) = self.next_key(last.as_deref())? {
                    if let Some(value) = self.lookup(&key)? {
                        visit(&key, &value)?;
                    }
                    last = Some(key);
                }
                Ok(())
            }
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// From bucket to bucket, as in [`super::kernel::read_hash`].
    fn for_each_of_hash(&self, mut visit: impl FnMut(&[u8], &[u8]) -> io::Result<()>) -> io::Result<()> {
        let (key_bytes, value_bytes) = (self.shape.key as usize, self.shape.value as usize);
        let (mut most, mut cursor) = (BATCH, None::<u32>);
        loop {
            let mut keys = vec![0; key_bytes * most as usize];
            let mut values = vec![0; value_bytes * most as usize];
            let mut next = 0u32;
            let mut attr = attribute();
            attr.batch.in_batch = cursor.as_ref().map_or(0, |bucket| std::ptr::from_ref(bucket) as u64);
            attr.batch.out_batch = (&raw mut next) as u64;
            attr.batch.keys = keys.as_mut_ptr() as u64;
            attr.batch.values = values.as_mut_ptr() as u64;
            attr.batch.count = most;
            attr.batch.map_fd = self.number();
            // SAFETY: the cursors are 4 bytes, as hashes have them; keys and values have room for `count` each, of the
            // sizes that the kernel has told; all live until the call returns.
            let more = match unsafe { bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr) } {
                Ok(_) => true,
                Err(error) if error.kind() == io::ErrorKind::NotFound => false,
                // Whoever has the bucket has it for less than a microsecond (before 6.15).
                Err(error) if super::flows::is_busy(&error) => continue,
                // A bucket with more.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) && most < self.shape.entries => {
                    most = most.saturating_mul(2);
                    continue;
                }
                Err(error) => return Err(error),
            };
            // SAFETY: the kernel has replaced the count, a plain number.
            let count = unsafe { attr.batch.count } as usize;
            for (key, value) in keys.chunks(key_bytes).zip(values.chunks(value_bytes)).take(count) {
                visit(key, value)?;
            }
            if !more {
                return Ok(());
            }
            cursor = Some(next);
        }
    }

    fn next_key(&self, after: Option<&[u8]>) -> io::Result<Option<Vec<u8>>> {
        let mut next = vec![0; self.shape.key as usize];
        let mut attr = attribute();
        attr.__bindgen_anon_2.map_fd = self.number();
        attr.__bindgen_anon_2.key = after.map_or(0, |key| key.as_ptr() as u64);
        attr.__bindgen_anon_2.__bindgen_anon_1.next_key = next.as_mut_ptr() as u64;
        // SAFETY: both keys are as long as the kernel has told, and live until the call returns.
        found(unsafe { bpf(bpf_cmd::BPF_MAP_GET_NEXT_KEY, &mut attr) }).map(|is| is.then_some(next))
    }

    fn lookup(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let mut value = vec![0; self.value_bytes()?];
        let mut attr = attribute();
        attr.__bindgen_anon_2.map_fd = self.number();
        attr.__bindgen_anon_2.key = key.as_ptr() as u64;
        attr.__bindgen_anon_2.__bindgen_anon_1.value = value.as_mut_ptr() as u64;
        // SAFETY: key and value are as long as the kernel has told, and live until the call returns.
        found(unsafe { bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr) }).map(|is| is.then_some(value))
    }

    fn update(&self, key: &[u8], value: &[u8], flags: u64) -> io::Result<()> {
        let mut attr = attribute();
        attr.__bindgen_anon_2.map_fd = self.number();
        attr.__bindgen_anon_2.key = key.as_ptr() as u64;
        attr.__bindgen_anon_2.__bindgen_anon_1.value = value.as_ptr() as u64;
        attr.__bindgen_anon_2.flags = flags;
        // SAFETY: key and value are as long as the kernel has told, and live until the call returns.
        unsafe { bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr) }.map(drop)
    }
}

/// What is not there is no failure.
fn found(result: io::Result<i64>) -> io::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_array(kind: MapType) -> bool {
    matches!(kind, MapType::Array | MapType::PerCpuArray)
}

/// Whether the other map has no room: a hash says E2BIG, a trie ENOSPC, and so does an array of an index that it lacks.
fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC))
}

/// A value of so many parts, one for each CPU, each as long as it is elsewhere.
fn fit(value: &[u8], bytes: usize, parts: usize) -> Vec<u8> {
    let (is, shall_be) = (value.len() / parts, bytes / parts);
    value
        .chunks(is)
        .flat_map(|part| {
            let mut part = part.to_vec();
            part.resize(shall_be, 0);
            part
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::fit;

    #[test]
    fn values_grow_and_shrink_at_their_ends() {
        assert_eq!(fit(&[1, 2, 3], 5, 1), [1, 2, 3, 0, 0]);
        assert_eq!(fit(&[1, 2, 3], 2, 1), [1, 2]);
        assert_eq!(fit(&[1, 2, 3, 4], 6, 2), [1, 2, 0, 3, 4, 0]);
        assert_eq!(fit(&[1, 2, 0, 3, 4, 0], 4, 2), [1, 2, 3, 4]);
    }
}
