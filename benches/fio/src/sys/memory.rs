//! Page-aligned memory for host I/O: O_DIRECT and registered buffers need the
//! alignment, and a kernel that owns a buffer in flight needs a stable address.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::io;
use std::ptr::NonNull;

/// Alignment of every buffer, enough for O_DIRECT on 4 KiB-sector devices.
const ALIGN_BYTES: usize = 4096;

/// A heap buffer aligned to a page, zeroed when made.
#[derive(Debug)]
pub(crate) struct AlignedBuffer {
    start: NonNull<u8>,
    layout: Layout,
    len_bytes: usize,
    /// Place in the ring's table of registered buffers, if it is in one.
    pub(crate) registered_index: u16,
}

// SAFETY: the buffer is uniquely owned memory without interior sharing; moving
// it to another thread moves the ownership of the allocation.
unsafe impl Send for AlignedBuffer {}

impl AlignedBuffer {
    /// Allocates `len_bytes` (at least one page is reserved).
    pub(crate) fn new(len_bytes: usize) -> io::Result<Self> {
        let layout = Layout::from_size_align(len_bytes.max(ALIGN_BYTES), ALIGN_BYTES)
            .map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        // SAFETY: the layout has a non-zero size (at least one page).
        let start = unsafe { alloc_zeroed(layout) };
        let start =
            NonNull::new(start).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok(Self {
            start,
            layout,
            len_bytes,
            registered_index: 0,
        })
    }

    /// Length asked for, in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len_bytes
    }

    /// The bytes. Only reachable while the buffer is not in flight, because
    /// the ring takes it by value.
    pub(crate) fn as_slice(&self) -> &[u8] {
        // SAFETY: `start` points to at least `len_bytes` initialised bytes
        // (zeroed at allocation) that this value owns alone.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len_bytes) }
    }

    /// The bytes, for writing.
    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`, and `&mut self` makes the access unique.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len_bytes) }
    }

    /// Address for the kernel.
    pub(super) fn as_mut_ptr(&mut self) -> *mut u8 {
        self.start.as_ptr()
    }
}

impl Drop for AlignedBuffer {
    fn drop(&mut self) {
        // SAFETY: `start` came from `alloc_zeroed` with this very layout and
        // is freed once, here.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// O_DIRECT refuses memory that is not aligned.
    #[test]
    fn buffers_are_page_aligned_zeroed_and_writable() {
        for len in [1usize, 512, 4096, 131_072] {
            let mut buffer = AlignedBuffer::new(len).unwrap();
            assert_eq!(buffer.as_mut_ptr() as usize % ALIGN_BYTES, 0);
            assert_eq!(buffer.len(), len);
            assert!(buffer.as_slice().iter().all(|byte| *byte == 0));
            buffer.as_mut_slice().fill(7);
            assert!(buffer.as_slice().iter().all(|byte| *byte == 7));
        }
    }
}
