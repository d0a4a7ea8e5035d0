//! A BPF array in this process' memory (`BPF_F_MMAPABLE`, 5.5): a store to it is a store to the map.
//!
//! 100,000 backends are written in a millisecond this way; one system call each would take 60.
//!
//! Concurrency: programs read while we write. [`MappedArray::write`] is for elements that no program reads
//! (the plan's promise); [`MappedArray::store`] is one atomic 64-bit store, for words that programs do read.

use std::{
    marker::PhantomData,
    num::NonZeroUsize,
    ptr::NonNull,
    sync::atomic::{AtomicU8, AtomicU64, Ordering, fence},
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, Pod,
    maps::{Map, MapData},
};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// The elements of an array map.
#[derive(Debug)]
pub struct MappedArray<T> {
    base: NonNull<u8>,
    bytes: NonZeroUsize,
    capacity: u32,
    name: String,
    _elements: PhantomData<T>,
}

// SAFETY: the mapping belongs to this value alone and is not tied to a thread; `&self` only reads.
unsafe impl<T: Send> Send for MappedArray<T> {}

impl<T: Pod> MappedArray<T> {
    /// The array map `name` of a loaded object.
    ///
    /// # Errors
    /// When there is no such map, it is not of this type, or the kernel does not map it.
    pub fn of(ebpf: &mut Ebpf, name: &str) -> Result<Self> {
        let map = ebpf.take_map(name).with_context(|| format!("the object has no map {name}"))?;
        let Map::Array(data) = map else { anyhow::bail!("the map {name} is not an array") };
        Self::new(&data, name)
    }

    /// Maps `map`.
    ///
    /// # Errors
    /// When it is not of this type, or the kernel does not map it.
    pub fn new(map: &MapData, name: &str) -> Result<Self> {
        let info = map.info().with_context(|| format!("asking about the map {name}"))?;
        let stride = size_of::<T>();
        // The kernel rounds elements up to 8 bytes; ours have to be so already, or indices would drift.
        ensure!(
            info.value_size() as usize == stride && stride.is_multiple_of(8) && align_of::<T>() <= 8,
            "the map {name} has elements of {} bytes where {stride} are expected",
            info.value_size()
        );
        let capacity = info.max_entries();
        let bytes = NonZeroUsize::new((capacity as usize * stride).next_multiple_of(page_size()?))
            .with_context(|| format!("the map {name} is empty"))?;
        // SAFETY: a new shared mapping of a whole map at an address of the kernel's choice; nothing else in
        // this process refers to it.
        let base = unsafe {
            mmap(None, bytes, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, map.fd(), 0)
        }
        .with_context(|| format!("mapping the map {name} into memory"))?;
        Ok(Self { base: base.cast(), bytes, capacity, name: name.to_owned(), _elements: PhantomData })
    }

    /// How many elements there are.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// All elements, of a map that programs never write to; and we do not while this is borrowed.
    #[must_use]
    pub fn as_slice(&self) -> &[T] {
        // SAFETY: the mapping holds `capacity` elements of `size_of::<T>()` bytes, page-aligned, of a type for
        // which any bytes are a value (Pod); writes need `&mut self`.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().cast(), self.capacity as usize) }
    }

    /// One 64-bit word of element `index`, at `offset` bytes into it, read in one access; for words that programs write.
    #[must_use]
    pub fn load(&self, index: u32, offset: usize) -> Option<u64> {
        if index >= self.capacity || !offset.is_multiple_of(8) || offset + 8 > size_of::<T>() {
            return None;
        }
        let at = index as usize * size_of::<T>() + offset;
        // SAFETY: within the mapping and 8-byte aligned, as in `store`.
        let cell = unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(at).cast()) };
        Some(cell.load(Ordering::Relaxed))
    }

    /// Stores elements from `start` on, which no program may be reading.
    ///
    /// # Errors
    /// When they do not fit.
    pub fn write(&mut self, start: u32, elements: &[T]) -> Result<()> {
        let end = start as usize + elements.len();
        ensure!(end <= self.capacity as usize, "{}: {end} is beyond {} elements", self.name, self.capacity);
        // SAFETY: the mapping holds `capacity` elements and is ours to write; the bounds were just checked.
        let target = unsafe {
            std::slice::from_raw_parts_mut(self.base.as_ptr().cast::<T>().add(start as usize), elements.len())
        };
        target.copy_from_slice(elements);
        // What is published later must not become visible before this.
        fence(Ordering::Release);
        Ok(())
    }

    /// Stores one 64-bit word of element `index`, at `offset` bytes into it, in one access.
    ///
    /// # Errors
    /// When there is no such word.
    pub fn store(&mut self, index: u32, offset: usize, word: u64) -> Result<()> {
        ensure!(
            index < self.capacity && offset.is_multiple_of(8) && offset + 8 <= size_of::<T>(),
            "{}: no word at {index}+{offset}, there are {} elements",
            self.name,
            self.capacity
        );
        let at = index as usize * size_of::<T>() + offset;
        // SAFETY: within the mapping, as just checked; the page and the element are 8-byte aligned; all
        // accesses by this process to words that programs read go through here or need `&self` only.
        let cell = unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(at).cast()) };
        cell.store(word, Ordering::Release);
        Ok(())
    }

    /// Stores one byte of element `index`, at `offset` bytes into it.
    ///
    /// # Errors
    /// When there is no such byte.
    pub fn store_byte(&mut self, index: u32, offset: usize, byte: u8) -> Result<()> {
        ensure!(
            index < self.capacity && offset < size_of::<T>(),
            "{}: no byte at {index}+{offset}, there are {} elements",
            self.name,
            self.capacity
        );
        let at = index as usize * size_of::<T>() + offset;
        // SAFETY: within the mapping, as just checked; programs only read the byte, and this process has `&mut self`.
        let cell = unsafe { AtomicU8::from_ptr(self.base.as_ptr().add(at)) };
        cell.store(byte, Ordering::Release);
        Ok(())
    }
}

impl<T> Drop for MappedArray<T> {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this length; no reference outlives `self`. The map itself lives on.
        let _ = unsafe { munmap(self.base.cast(), self.bytes.get()) };
    }
}

fn page_size() -> Result<usize> {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?.context("no page size")?;
    Ok(usize::try_from(size)?)
}
