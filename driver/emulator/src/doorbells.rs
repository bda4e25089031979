//! Doorbells in memory that a peer has mapped: it writes them without a message, and nobody is
//! woken by that. Whatever it writes is checked where a doorbell's value is used.
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use underpin_dma::{Error, MemSlice, Memory, PageSize, Word32};
use underpin_nvme_spec::registers::offset;

/// The doorbell page of one peer. A new one for each, as nobody can take a mapping back.
#[derive(Debug)]
pub(crate) struct DoorbellPage {
    memory: Arc<Memory>,
    words: Vec<Word32>,
}

impl DoorbellPage {
    /// `count` doorbells that lie `stride_bytes` apart, all zero.
    pub(crate) fn new(count: usize, stride_bytes: usize) -> Result<Arc<Self>, Error> {
        // The file lies as BAR0 does, so that one offset means the same place in both.
        let len_bytes = offset::DOORBELLS + bytes(count, stride_bytes);
        let memory = Memory::new("doorbells", len_bytes as u64, PageSize::Small)?;
        let slice = MemSlice::new(&memory, 0, len_bytes)?;
        let words = (0..count)
            .map(|index| Word32::new(&slice, offset::DOORBELLS + index * stride_bytes))
            .collect::<Result<_, _>>()?;
        Ok(Arc::new(Self { memory, words }))
    }

    /// The file to give away.
    pub(crate) fn file(&self) -> Option<BorrowedFd<'_>> {
        self.memory.fd().map(|(file, _)| file)
    }

    pub(crate) fn load(&self, index: usize) -> u32 {
        match self.words.get(index) {
            Some(word) => word.load(Ordering::Acquire),
            None => 0,
        }
    }

    pub(crate) fn store(&self, index: usize, value: u32) {
        if let Some(word) = self.words.get(index) {
            word.store(value, Ordering::Release);
        }
    }
}

/// Bytes of whole pages that hold the doorbells.
pub(crate) const fn bytes(count: usize, stride_bytes: usize) -> usize {
    (count * stride_bytes).next_multiple_of(4096)
}
