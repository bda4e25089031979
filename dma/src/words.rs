//! Words and records of rings, read and written millions of times a second without a copy of
//! their bounds checks: queue entries as arrays of `u64`, doorbells and EventIdx as `u32`.
//! One of the few modules with `unsafe`: atomic access through pointers checked once.
#![allow(unsafe_code)]
use crate::{Memory, OutOfBounds, View};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A part of a memory, which it keeps mapped.
#[derive(Clone, Debug)]
pub struct MemSlice {
    memory: Arc<Memory>,
    offset: usize,
    len_bytes: usize,
}

impl MemSlice {
    /// The part of `memory` from `offset` on.
    ///
    /// # Errors
    /// [`OutOfBounds`] when it does not lie within.
    pub fn new(memory: &Arc<Memory>, offset: usize, len_bytes: usize) -> Result<Self, OutOfBounds> {
        memory.part(offset, len_bytes)?;
        Ok(Self {
            memory: Arc::clone(memory),
            offset,
            len_bytes,
        })
    }

    /// How long it is.
    pub const fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// The window on it.
    pub fn view(&self) -> View<'_> {
        let part = self.memory.part(self.offset, self.len_bytes);
        // Checked by `new`; an empty window is what a broken invariant would deserve.
        part.unwrap_or_else(|_| View::new(vm_memory::VolatileSlice::from(&mut [][..])))
    }

    /// A pointer to `len_bytes` bytes at `offset`, aligned to `align`.
    fn pointer(
        &self,
        offset: usize,
        len_bytes: usize,
        align: usize,
    ) -> Result<NonNull<u8>, OutOfBounds> {
        let refused = OutOfBounds {
            offset,
            len_bytes,
            available_bytes: self.len_bytes,
        };
        if offset
            .checked_add(len_bytes)
            .is_none_or(|end| end > self.len_bytes)
        {
            return Err(refused);
        }
        let part = self.memory.part(self.offset + offset, len_bytes)?;
        let pointer = part.volatile().ptr_guard_mut().as_ptr();
        if !pointer.addr().is_multiple_of(align) {
            return Err(refused);
        }
        NonNull::new(pointer).ok_or(refused)
    }
}

/// An array of records of `WORDS` little-endian `u64`s each in DMA memory: a submission queue
/// (`Records<8>`) or a completion queue (`Records<2>`).
///
/// Words are relaxed atomics; order between them comes from [`barrier`](crate::barrier).
#[derive(Debug)]
pub struct Records<const WORDS: usize> {
    first: NonNull<AtomicU64>,
    count: usize,
    /// Keeps the pointer valid.
    slice: MemSlice,
}

// SAFETY: the pointer leads into `slice`'s mapping, which is shared memory by nature; all access
// through it is atomic.
unsafe impl<const WORDS: usize> Send for Records<WORDS> {}
// SAFETY: as above.
unsafe impl<const WORDS: usize> Sync for Records<WORDS> {}

/// One record of [`Records`]: its place is checked once, for all its words.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a, const WORDS: usize>(&'a [AtomicU64; WORDS]);

impl<const WORDS: usize> Record<'_, WORDS> {
    /// Reads one word.
    ///
    /// # Panics
    /// When `word` is not below `WORDS`.
    #[inline(always)]
    pub fn load(self, word: usize) -> u64 {
        u64::from_le(self.0[word].load(Ordering::Relaxed))
    }

    /// Writes one word.
    ///
    /// # Panics
    /// When `word` is not below `WORDS`.
    #[inline(always)]
    pub fn store(self, word: usize, value: u64) {
        self.0[word].store(value.to_le(), Ordering::Relaxed);
    }
}

impl<const WORDS: usize> Records<WORDS> {
    /// The first `count` records of `slice`.
    ///
    /// # Errors
    /// [`OutOfBounds`] when they do not fit or are not aligned to 8 bytes.
    pub fn new(slice: MemSlice, count: usize) -> Result<Self, OutOfBounds> {
        let len_bytes = count.saturating_mul(WORDS * 8);
        let first = slice.pointer(0, len_bytes, align_of::<AtomicU64>())?.cast();
        Ok(Self {
            first,
            count,
            slice,
        })
    }

    /// How many records there are.
    pub const fn count(&self) -> usize {
        self.count
    }

    /// The memory that the records lie in.
    pub const fn slice(&self) -> &MemSlice {
        &self.slice
    }

    /// One record.
    ///
    /// # Panics
    /// When `index` is not below [`count`](Self::count).
    #[inline(always)]
    pub fn record(&self, index: usize) -> Record<'_, WORDS> {
        assert!(index < self.count, "a ring index left its ring");
        // SAFETY: `new` checked that count * WORDS aligned words lie in the mapping that `slice`
        // keeps; the assertion above keeps the record among them.
        Record(unsafe { self.first.add(index * WORDS).cast().as_ref() })
    }

    /// Says that a record is going to be written soon: a hint to the processor, which can fetch
    /// its cache line from where the other side has it while other work is done.
    #[inline(always)]
    pub fn expect_write(&self, index: usize) {
        if index < self.count {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a prefetch never faults and changes nothing but caches; the address lies in
            // the mapping all the same.
            unsafe {
                let place = self.first.add(index * WORDS).as_ptr();
                std::arch::asm!("prefetchw [{}]", in(reg) place, options(nostack, preserves_flags, readonly));
            }
        }
    }

    /// Says that a record is going to be read soon.
    #[inline(always)]
    pub fn expect_read(&self, index: usize) {
        if index < self.count {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as for expect_write.
            unsafe {
                let place = self.first.add(index * WORDS).as_ptr();
                std::arch::asm!("prefetcht0 [{}]", in(reg) place, options(nostack, preserves_flags, readonly));
            }
        }
    }

    /// Writes a whole record.
    ///
    /// # Panics
    /// When `index` is not below [`count`](Self::count).
    #[inline(always)]
    pub fn write(&self, index: usize, record: [u64; WORDS]) {
        let place = self.record(index);
        for (at, value) in record.into_iter().enumerate() {
            place.store(at, value);
        }
    }

    /// Reads a whole record.
    ///
    /// # Panics
    /// When `index` is not below [`count`](Self::count).
    #[inline(always)]
    pub fn read(&self, index: usize) -> [u64; WORDS] {
        let place = self.record(index);
        std::array::from_fn(|at| place.load(at))
    }

    /// Reads one word of a record.
    ///
    /// # Panics
    /// When `index` or `word` is out of range.
    #[inline(always)]
    pub fn read_word(&self, index: usize, word: usize) -> u64 {
        self.record(index).load(word)
    }

    /// Writes one word of a record.
    ///
    /// # Panics
    /// When `index` or `word` is out of range.
    #[inline(always)]
    pub fn write_word(&self, index: usize, word: usize, value: u64) {
        self.record(index).store(word, value);
    }
}

/// One little-endian `u32` in DMA memory: a shadow doorbell or an EventIdx.
#[derive(Debug)]
pub struct Word32 {
    word: NonNull<AtomicU32>,
    /// Keeps the pointer valid.
    _slice: MemSlice,
}

// SAFETY: the pointer leads into `_slice`'s mapping; all access through it is atomic.
unsafe impl Send for Word32 {}
// SAFETY: as above.
unsafe impl Sync for Word32 {}

impl Word32 {
    /// The word at `offset` in `slice`.
    ///
    /// # Errors
    /// [`OutOfBounds`] when it does not lie within or is not aligned.
    pub fn new(slice: &MemSlice, offset: usize) -> Result<Self, OutOfBounds> {
        let word = slice.pointer(offset, 4, align_of::<AtomicU32>())?.cast();
        Ok(Self {
            word,
            _slice: slice.clone(),
        })
    }

    #[inline(always)]
    fn atomic(&self) -> &AtomicU32 {
        // SAFETY: `new` checked that the aligned word lies in the mapping that `_slice` keeps.
        unsafe { self.word.as_ref() }
    }

    /// Loads the word.
    #[inline(always)]
    pub fn load(&self, order: Ordering) -> u32 {
        u32::from_le(self.atomic().load(order))
    }

    /// Stores the word.
    #[inline(always)]
    pub fn store(&self, value: u32, order: Ordering) {
        self.atomic().store(value.to_le(), order);
    }

    /// Exchanges the word: a store and a full fence in one instruction on x86-64.
    #[inline(always)]
    pub fn swap(&self, value: u32, order: Ordering) -> u32 {
        u32::from_le(self.atomic().swap(value.to_le(), order))
    }
}
