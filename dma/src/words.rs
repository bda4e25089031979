//! Words and records of rings, read and written millions of times a second without a copy of
//! their bounds checks: queue entries as arrays of `u64`, doorbells and EventIdx as `u32`.
//! One of the few modules with `unsafe`: atomic access through pointers checked once.
#![allow(unsafe_code)]
use crate::{Memory, OutOfBounds, View};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A part of a memory, which it keeps mapped.
///
/// ```
/// use underpin_dma::{MemSlice, Memory, PageSize};
///
/// let memory = Memory::new("rings", 4096, PageSize::Small)?;
/// let slice = MemSlice::new(&memory, 1024, 512)?;
/// drop(memory); // The slice keeps it mapped.
/// slice.view().copy_from(0, b"entry")?;
/// assert_eq!(slice.len_bytes(), 512);
/// # Ok::<(), underpin_dma::Error>(())
/// ```
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
///
/// ```
/// use underpin_dma::{DmaSpace, Records};
///
/// let memory = DmaSpace::new().alloc(4096, 4096)?;
/// let queue = Records::<2>::new(memory.slice()?, 4)?;
/// assert_eq!((queue.count(), queue.slice().len_bytes()), (4, 4096));
///
/// queue.expect_write(0);
/// queue.write(0, [1, 2]);
/// queue.write_around(1, &[[3, 4], [5, 6]]);
/// queue.write_word(2, 1, 7);
/// queue.expect_reads(0, 3);
/// assert_eq!((queue.read(0), queue.read(1), queue.read_word(2, 1)), ([1, 2], [3, 4], 7));
///
/// let record = queue.record(3);
/// record.store(0, 8);
/// assert_eq!((record.load(0), queue.read(3)), (8, [8, 0]));
/// # Ok::<(), underpin_dma::Error>(())
/// ```
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
///
/// ```
/// use underpin_dma::{DmaSpace, Records};
///
/// let queue = Records::<8>::new(DmaSpace::new().alloc(4096, 4096)?.slice()?, 64)?;
/// let entry = queue.record(5);
/// entry.write([9; 8]);
/// entry.store(7, 0);
/// assert_eq!((entry.load(6), entry.load(7)), (9, 0));
/// # Ok::<(), underpin_dma::Error>(())
/// ```
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

    /// Writes all of its words.
    #[inline(always)]
    pub fn write(self, words: [u64; WORDS]) {
        // Two words a store: while a record's cache line comes from the other side's processor,
        // the stores behind it wait in a queue, which is soon full.
        #[cfg(target_arch = "x86_64")]
        if WORDS == 8 {
            use std::arch::x86_64::_mm_set_epi64x;
            // SAFETY: every x86-64 has SSE2.
            let pair = |at: usize| unsafe {
                _mm_set_epi64x(words[at + 1].cast_signed(), words[at].cast_signed())
            };
            // SAFETY: the record is 64 writable bytes of mapped memory, which others may read at
            // the same time: as with atomic stores of its words, they see each 8 bytes whole.
            unsafe {
                std::arch::asm!(
                    "movups [{to}], {a}",
                    "movups [{to} + 16], {b}",
                    "movups [{to} + 32], {c}",
                    "movups [{to} + 48], {d}",
                    to = in(reg) self.0.as_ptr(),
                    a = in(xmm_reg) pair(0),
                    b = in(xmm_reg) pair(2),
                    c = in(xmm_reg) pair(4),
                    d = in(xmm_reg) pair(6),
                    options(nostack, preserves_flags),
                );
            }
            return;
        }
        for (at, value) in words.into_iter().enumerate() {
            self.store(at, value);
        }
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
    #[cfg_attr(
        target_arch = "x86_64",
        expect(
            clippy::pointers_in_nomem_asm_block,
            reason = "a prefetch neither reads nor writes as the language sees it"
        )
    )]
    pub fn expect_write(&self, index: usize) {
        if index < self.count {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a prefetch never faults and changes nothing but caches; the address lies in
            // the mapping all the same.
            unsafe {
                let place = self.first.add(index * WORDS).as_ptr();
                std::arch::asm!("prefetchw [{}]", in(reg) place, options(nostack, preserves_flags, nomem));
            }
        }
    }

    /// Says that `count` records from `index` on are going to be read soon.
    #[inline(always)]
    #[cfg_attr(
        target_arch = "x86_64",
        expect(
            clippy::pointers_in_nomem_asm_block,
            reason = "a prefetch neither reads nor writes as the language sees it"
        )
    )]
    pub fn expect_reads(&self, index: usize, count: usize) {
        let room = self.count.checked_sub(index);
        if room.is_some_and(|room| count <= room) {
            #[cfg(target_arch = "x86_64")]
            for at in index..index + count {
                // SAFETY: as for expect_write; the run was checked to lie among the records.
                unsafe {
                    let place = self.first.add(at * WORDS).as_ptr();
                    std::arch::asm!("prefetcht0 [{}]", in(reg) place, options(nostack, preserves_flags, nomem));
                }
            }
        }
    }

    /// Writes a whole record.
    ///
    /// # Panics
    /// When `index` is not below [`count`](Self::count).
    #[inline(always)]
    pub fn write(&self, index: usize, record: [u64; WORDS]) {
        self.record(index).write(record);
    }

    /// Writes `records` one after another, the first at `index` and after the last place at the first
    /// again. Returns where the next would lie; that may be [`count`](Self::count).
    ///
    /// # Panics
    /// When `index` is beyond [`count`](Self::count), or there are more of them than that.
    #[inline(always)]
    pub fn write_around(&self, index: usize, records: &[[u64; WORDS]]) -> usize {
        let room = self.count.checked_sub(index);
        let Some((lap, rest)) = records.split_at_checked(room.unwrap_or_else(|| outside())) else {
            // SAFETY: they are fewer than there are places from `index` on.
            unsafe { self.copy(index, records) };
            return index + records.len();
        };
        if rest.len() > self.count {
            outside();
        }
        // SAFETY: as many as there are places from `index` on, and no more than there are at all.
        unsafe {
            self.copy(index, lap);
            self.copy(0, rest);
        }
        rest.len()
    }

    /// # Safety
    /// There are as many places from `index` on as records.
    #[inline(always)]
    unsafe fn copy(&self, index: usize, records: &[[u64; WORDS]]) {
        #[cfg(target_arch = "x86_64")]
        if WORDS == 8 {
            if records.is_empty() {
                return;
            }
            // The two runs side by side, and one count for both: a pointer each is two
            // instructions more a record.
            let len_bytes = records.len() * WORDS * 8;
            // SAFETY: `new` checked that count * WORDS aligned words lie in the mapping that
            // `slice` keeps; the caller keeps the whole run among them. Others may read it at the
            // same time: as with atomic stores of its words, they see each 8 bytes whole. `records`
            // is as long as said; the loop ends when its count from minus that length comes to 0.
            unsafe {
                std::arch::asm!(
                    "2:",
                    "movups {a}, [{from} + {at}]",
                    "movups {b}, [{from} + {at} + 16]",
                    "movups {c}, [{from} + {at} + 32]",
                    "movups {d}, [{from} + {at} + 48]",
                    "movups [{to} + {at}], {a}",
                    "movups [{to} + {at} + 16], {b}",
                    "movups [{to} + {at} + 32], {c}",
                    "movups [{to} + {at} + 48], {d}",
                    "add {at}, 64",
                    "jnz 2b",
                    from = in(reg) records.as_ptr().cast::<u8>().add(len_bytes),
                    to = in(reg) self.first.add(index * WORDS).cast::<u8>().as_ptr().add(len_bytes),
                    at = inout(reg) len_bytes.wrapping_neg() => _,
                    a = out(xmm_reg) _,
                    b = out(xmm_reg) _,
                    c = out(xmm_reg) _,
                    d = out(xmm_reg) _,
                    options(nostack),
                );
            }
            return;
        }
        for (at, record) in (index..).zip(records) {
            self.record(at).write(*record);
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
///
/// ```
/// use std::sync::atomic::Ordering::{Acquire, Release, SeqCst};
/// use underpin_dma::{DmaSpace, Word32};
///
/// let page = DmaSpace::new().alloc(4096, 4096)?.slice()?;
/// let doorbell = Word32::new(&page, 8)?;
/// doorbell.store(3, Release);
/// assert_eq!(doorbell.swap(4, SeqCst), 3);
/// assert_eq!(doorbell.load(Acquire), 4);
/// assert!(Word32::new(&page, 4094).is_err());
/// # Ok::<(), underpin_dma::Error>(())
/// ```
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

#[cold]
#[inline(never)]
fn outside() -> ! {
    panic!("a run of records left its ring")
}
