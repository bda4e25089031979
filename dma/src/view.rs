//! A bounds-checked window on memory that a device may be writing.
//! It copies in and out and loads and stores words; it never gives a reference to the bytes.
#![allow(unsafe_code)]
use crate::{OutOfBounds, copy};
use std::sync::atomic::Ordering;
use vm_memory::{Bytes, VolatileSlice};

/// A window on DMA memory. Cheap to copy; lives no longer than what it looks into.
///
/// ```
/// use std::sync::atomic::Ordering::{Acquire, Release};
/// use underpin_dma::DmaSpace;
///
/// let page = DmaSpace::new().alloc(4096, 4096)?;
/// let (head, rest) = (page.view().part(0, 64)?, page.view().part(64, 4032)?);
/// assert_eq!((head.len_bytes(), rest.is_empty()), (64, false));
///
/// head.copy_from(0, b"0123456789")?;
/// rest.copy_from_view(100, head.part(2, 4)?)?;
/// let mut text = [0; 4];
/// page.view().copy_to(164, &mut text)?;
/// assert_eq!(&text, b"2345");
///
/// // Words are one access each, whatever a device does meanwhile.
/// head.store_u32(16, 0xdead_beef, Release)?;
/// head.store_u64(24, u64::MAX, Release)?;
/// assert_eq!((head.load_u32(16, Acquire)?, head.load_u64(24, Acquire)?), (0xdead_beef, u64::MAX));
/// head.fill(0, 64, 0)?;
/// assert_eq!(head.load_u64(24, Acquire)?, 0);
/// assert!(head.load_u32(2, Acquire).is_err(), "not aligned");
/// # Ok::<(), underpin_dma::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct View<'a>(VolatileSlice<'a>);

impl<'a> View<'a> {
    pub(crate) const fn new(slice: VolatileSlice<'a>) -> Self {
        Self(slice)
    }

    /// The same window as vm-memory's type, for code that speaks it. Its copies over 8 bytes are
    /// plain ones: do not use them while a device may write.
    pub const fn volatile(self) -> VolatileSlice<'a> {
        self.0
    }

    /// Where this process has it, as long as it is mapped.
    pub(crate) fn host_pointer(self) -> *mut u8 {
        self.0.ptr_guard_mut().as_ptr()
    }

    /// How long it is.
    pub fn len_bytes(&self) -> usize {
        self.0.len()
    }

    /// True when it is empty.
    pub fn is_empty(&self) -> bool {
        self.0.len() == 0
    }

    /// A part of it.
    ///
    /// # Errors
    /// [`OutOfBounds`] when the part does not lie within.
    pub fn part(self, offset: usize, len_bytes: usize) -> Result<Self, OutOfBounds> {
        self.check(offset, len_bytes)?;
        self.0
            .subslice(offset, len_bytes)
            .map(Self)
            .map_err(|_| self.out_of_bounds(offset, len_bytes))
    }

    /// Copies `dst.len()` bytes out, from `offset` on.
    ///
    /// # Errors
    /// [`OutOfBounds`] when they do not lie within; nothing is copied then.
    pub fn copy_to(self, offset: usize, dst: &mut [u8]) -> Result<(), OutOfBounds> {
        let from = self.part(offset, dst.len())?.0.ptr_guard();
        // SAFETY: the part lies within the mapping for dst.len() bytes; dst is a Rust slice, so
        // it cannot overlap memory of which no references exist.
        unsafe { copy::copy(dst.as_mut_ptr(), from.as_ptr(), dst.len()) };
        Ok(())
    }

    /// Copies `src` in, from `offset` on.
    ///
    /// # Errors
    /// [`OutOfBounds`] when it does not fit; nothing is copied then.
    pub fn copy_from(self, offset: usize, src: &[u8]) -> Result<(), OutOfBounds> {
        let to = self.part(offset, src.len())?.0.ptr_guard_mut();
        // SAFETY: as for copy_to, with the directions exchanged.
        unsafe { copy::copy(to.as_ptr(), src.as_ptr(), src.len()) };
        Ok(())
    }

    /// Copies all of `src` in, from `offset` on. Where the two overlap the result is unspecified
    /// bytes of the two, as with two devices at work.
    ///
    /// # Errors
    /// [`OutOfBounds`] when it does not fit; nothing is copied then.
    pub fn copy_from_view(self, offset: usize, src: View<'_>) -> Result<(), OutOfBounds> {
        let to = self.part(offset, src.len_bytes())?.0.ptr_guard_mut();
        let from = src.0.ptr_guard();
        // SAFETY: both ranges are live mappings of this length. An overlap is harmless: the copy
        // is asm or atomic words, and no references to the bytes exist.
        unsafe { copy::copy(to.as_ptr(), from.as_ptr(), src.len_bytes()) };
        Ok(())
    }

    /// Sets `len_bytes` bytes from `offset` on to `byte`.
    ///
    /// # Errors
    /// [`OutOfBounds`] when they do not lie within.
    pub fn fill(self, offset: usize, len_bytes: usize, byte: u8) -> Result<(), OutOfBounds> {
        let to = self.part(offset, len_bytes)?.0.ptr_guard_mut();
        // SAFETY: the part lies within the mapping for len_bytes.
        unsafe { copy::fill(to.as_ptr(), byte, len_bytes) };
        Ok(())
    }

    /// Loads the aligned little-endian `u32` at `offset` as one access.
    ///
    /// # Errors
    /// [`OutOfBounds`] when it does not lie within or is not aligned.
    pub fn load_u32(self, offset: usize, order: Ordering) -> Result<u32, OutOfBounds> {
        let word = self.0.load::<u32>(offset, order);
        word.map(u32::from_le)
            .map_err(|_| self.out_of_bounds(offset, 4))
    }

    /// Stores the aligned little-endian `u32` at `offset` as one access.
    ///
    /// # Errors
    /// [`OutOfBounds`] when it does not lie within or is not aligned.
    pub fn store_u32(self, offset: usize, value: u32, order: Ordering) -> Result<(), OutOfBounds> {
        let done = self.0.store(value.to_le(), offset, order);
        done.map_err(|_| self.out_of_bounds(offset, 4))
    }

    /// Loads the aligned little-endian `u64` at `offset` as one access.
    ///
    /// # Errors
    /// [`OutOfBounds`] when it does not lie within or is not aligned.
    pub fn load_u64(self, offset: usize, order: Ordering) -> Result<u64, OutOfBounds> {
        let word = self.0.load::<u64>(offset, order);
        word.map(u64::from_le)
            .map_err(|_| self.out_of_bounds(offset, 8))
    }

    /// Stores the aligned little-endian `u64` at `offset` as one access.
    ///
    /// # Errors
    /// [`OutOfBounds`] when it does not lie within or is not aligned.
    pub fn store_u64(self, offset: usize, value: u64, order: Ordering) -> Result<(), OutOfBounds> {
        let done = self.0.store(value.to_le(), offset, order);
        done.map_err(|_| self.out_of_bounds(offset, 8))
    }

    fn check(&self, offset: usize, len_bytes: usize) -> Result<(), OutOfBounds> {
        match offset.checked_add(len_bytes) {
            Some(end) if end <= self.0.len() => Ok(()),
            _ => Err(self.out_of_bounds(offset, len_bytes)),
        }
    }

    fn out_of_bounds(&self, offset: usize, len_bytes: usize) -> OutOfBounds {
        OutOfBounds {
            offset,
            len_bytes,
            available_bytes: self.0.len(),
        }
    }
}
