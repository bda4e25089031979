//! BAR0 as memory: registers by volatile 32-bit access, doorbells as words that queues hold.
//! One of the two modules here with `unsafe`: the mapping, and access to registers.
#![allow(unsafe_code)]
use rustix::mm::{MapFlags, ProtFlags};
use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use underpin_dma::{MemSlice, Memory, Word32};

/// The most of an area that is mapped: registers, and the doorbells of every queue there can be
/// up to a stride of 16 bytes. What lies behind is reached through the file.
const MOST_BYTES: u64 = 0x1000 + 2 * 65536 * 16;
const PAGE_BYTES: u64 = 4096;

/// The mapped parts of BAR0.
#[derive(Debug, Default)]
pub(super) struct Bar {
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    /// Where in the BAR it begins.
    offset: u64,
    mapping: Arc<Mapping>,
}

/// A mapping of device memory, until it is retired; memory of nobody's after that.
#[derive(Debug)]
struct Mapping {
    first: NonNull<c_void>,
    len: usize,
}

// SAFETY: a mapping belongs to the process; all access through it is volatile or atomic.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Bar {
    /// Maps what can be mapped of the region that begins at `region` in a device's file; areas
    /// that are no whole pages are left to the file.
    pub(super) fn map(file: &File, region: u64, areas: &[(u64, u64)]) -> io::Result<Self> {
        let mut parts = Vec::new();
        for &(offset, size) in areas {
            let len = size.min(MOST_BYTES) / PAGE_BYTES * PAGE_BYTES;
            let aligned = offset.is_multiple_of(PAGE_BYTES);
            let (Some(at), true) = (region.checked_add(offset), aligned && len > 0) else {
                continue;
            };
            let mapping =
                Mapping::of_file(file, at, usize::try_from(len).map_err(io::Error::other)?)?;
            let mapping = Arc::new(mapping);
            parts.push(Part { offset, mapping });
        }
        Ok(Self { parts })
    }

    /// A pointer to the register at `offset`, if it is mapped.
    fn register(&self, offset: usize) -> Option<*mut u32> {
        self.parts.iter().find_map(|part| {
            let at = usize::try_from((offset as u64).checked_sub(part.offset)?).ok()?;
            let fits = at.checked_add(4)? <= part.mapping.len && at.is_multiple_of(4);
            // SAFETY: four bytes at `at` lie in the mapping, as was just checked.
            fits.then(|| unsafe { part.mapping.first.byte_add(at).cast::<u32>().as_ptr() })
        })
    }

    /// Reads a register; `None` when it is not mapped.
    pub(super) fn read32(&self, offset: usize) -> Option<u32> {
        let register = self.register(offset)?;
        // SAFETY: it is aligned and lies in a live mapping; a device's registers have no owner
        // that a volatile read could disturb.
        Some(u32::from_le(unsafe { register.read_volatile() }))
    }

    /// Writes a register. False when it is not mapped.
    pub(super) fn write32(&self, offset: usize, value: u32) -> bool {
        let Some(register) = self.register(offset) else {
            return false;
        };
        // SAFETY: as for reading.
        unsafe { register.write_volatile(value.to_le()) };
        true
    }

    /// The register at `offset` as a word of memory, which keeps the mapping.
    pub(super) fn word(&self, offset: usize) -> Option<Word32> {
        let holds = |part: &&Part| {
            let at = (offset as u64).checked_sub(part.offset);
            at.is_some_and(|at| at < part.mapping.len as u64)
        };
        let part = self.parts.iter().find(holds)?;
        let (first, len) = (part.mapping.first, part.mapping.len);
        let owner = Arc::clone(&part.mapping);
        // SAFETY: the range is mapped readable and writable until `owner` is dropped, whether it
        // is the device's or has been retired; nobody has a reference into it.
        let memory = unsafe { Memory::adopt("BAR0", first.as_ptr().cast(), len as u64, owner) };
        let memory = memory.ok()?;
        let slice = MemSlice::new(&memory, 0, len).ok()?;
        let at = usize::try_from(offset as u64 - part.offset).ok()?;
        Word32::new(&slice, at).ok()
    }

    /// Lets go of the device: a mapping keeps its file open, and the kernel waits for that when it
    /// wants the device back, whoever still has a queue. Zeroed memory takes its place, so that
    /// words which queues hold stay valid; what they write goes nowhere.
    pub(super) fn retire(&self) -> io::Result<()> {
        let retire = |part: &Part| part.mapping.retire();
        // All of them, whatever one says.
        let results: Vec<_> = self.parts.iter().map(retire).collect();
        results.into_iter().collect()
    }
}

impl Mapping {
    fn of_file(file: &File, offset: u64, len: usize) -> io::Result<Self> {
        let (rights, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: the kernel chooses a place where nothing else is.
        let first =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, rights, flags, file, offset) }?;
        let first = NonNull::new(first).ok_or_else(|| io::Error::other("mapped at address 0"))?;
        let mapping = Self { first, len };
        let advice = rustix::mm::Advice::LinuxDontFork;
        // R33: a child that had it would keep the device from the kernel.
        // SAFETY: the range is this mapping's own; the advice changes neither contents nor rights.
        unsafe { rustix::mm::madvise(first.as_ptr(), len, advice) }?;
        Ok(mapping)
    }

    fn retire(&self) -> io::Result<()> {
        let rights = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::FIXED;
        // SAFETY: the range is this mapping's own, and becomes ordinary memory in one step: who
        // reads or writes at the same time finds the one or the other. All access is volatile or
        // atomic, so nobody relies on what it holds.
        unsafe { rustix::mm::mmap_anonymous(self.first.as_ptr(), self.len, rights, flags) }?;
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is this mapping's own, and its last user has gone.
        let _ = unsafe { rustix::mm::munmap(self.first.as_ptr(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::FileExt;
    use std::sync::atomic::Ordering;

    /// A file stands for the device: registers are where the areas say, in 32-bit words, and what
    /// is in no area is not reached.
    #[test]
    fn registers_are_found_in_their_areas() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(0x8000).unwrap();
        let areas = [
            (0, 0x1000),
            (0x2000, 0x1000),
            (0x1800, 0x800),
            (0x3000, 0x10),
        ];
        let bar = Bar::map(&file, 0x4000, &areas).unwrap();
        assert!(bar.write32(0x14, 0x0046_0001) && bar.write32(0x2004, 7));
        assert_eq!(bar.read32(0x14), Some(0x0046_0001));
        let mut bytes = [0; 4];
        file.read_exact_at(&mut bytes, 0x4014).unwrap();
        assert_eq!(u32::from_le_bytes(bytes), 0x0046_0001);
        file.read_exact_at(&mut bytes, 0x6004).unwrap();
        assert_eq!(u32::from_le_bytes(bytes), 7);
        for outside in [0x1000, 0x1800, 0x3000, 0x2ffe, 2, usize::MAX] {
            assert_eq!(bar.read32(outside), None, "{outside:#x}");
            assert!(!bar.write32(outside, 1));
            assert!(bar.word(outside).is_none(), "{outside:#x}");
        }
    }

    /// R33's other side: a word that a queue still holds can be written when the device has been
    /// let go, and no longer reaches it.
    #[test]
    fn a_word_outlives_the_device() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(0x2000).unwrap();
        let bar = Bar::map(&file, 0, &[(0, 0x2000)]).unwrap();
        let word = bar.word(0x1008).unwrap();
        word.store(5, Ordering::Release);
        bar.retire().unwrap();
        assert_eq!(bar.read32(0x1008), Some(0));
        word.store(9, Ordering::Release);
        let mut bytes = [0; 4];
        file.read_exact_at(&mut bytes, 0x1008).unwrap();
        assert_eq!(u32::from_le_bytes(bytes), 5);
        drop(bar);
        word.store(11, Ordering::Release);
        assert_eq!(word.load(Ordering::Acquire), 11);
    }
}
