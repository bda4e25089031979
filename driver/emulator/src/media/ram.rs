//! A medium in memory: a sealed memfd, made of zero pages until they are written.
//! Data moves by one copy between it and host memory, as it would by DMA.
use super::MediumError;
use crate::EmulatorError;
use rustix::fs::{FallocateFlags, fallocate};
use std::sync::Arc;
use underpin_dma::{Memory, PageSize, View};

/// Blocks in memory.
#[derive(Debug)]
pub(crate) struct RamMedium(Arc<Memory>);

impl RamMedium {
    pub(crate) fn new(name: &str, size_bytes: u64) -> Result<Self, EmulatorError> {
        let page = PageSize::Small.bytes();
        // What cannot be rounded up cannot be had either; the refusal names a number near it.
        let whole_pages = size_bytes.checked_next_multiple_of(page);
        let whole_pages = whole_pages.unwrap_or(size_bytes - size_bytes % page);
        Memory::new(name, whole_pages, PageSize::Small)
            .map(Self)
            .map_err(EmulatorError::Memory)
    }

    #[inline]
    fn part(&self, at: u64, len_bytes: usize) -> Result<View<'_>, MediumError> {
        let at = usize::try_from(at).map_err(|_| MediumError)?;
        self.0.part(at, len_bytes).map_err(|_| MediumError)
    }

    #[inline]
    pub(crate) fn read(&self, at: u64, to: View<'_>) -> Result<(), MediumError> {
        let from = self.part(at, to.len_bytes())?;
        to.copy_from_view(0, from).map_err(|_| MediumError)
    }

    #[inline]
    pub(crate) fn write(&self, at: u64, from: View<'_>) -> Result<(), MediumError> {
        let to = self.part(at, from.len_bytes())?;
        to.copy_from_view(0, from).map_err(|_| MediumError)
    }

    pub(crate) fn read_bytes(&self, at: u64, to: &mut [u8]) -> Result<(), MediumError> {
        let from = self.part(at, to.len())?;
        from.copy_to(0, to).map_err(|_| MediumError)
    }

    pub(crate) fn write_bytes(&self, at: u64, from: &[u8]) -> Result<(), MediumError> {
        let to = self.part(at, from.len())?;
        to.copy_from(0, from).map_err(|_| MediumError)
    }

    /// Makes bytes read as zeroes; `deallocate`: the pages that lie wholly in them are given back.
    pub(crate) fn clear(
        &self,
        at: u64,
        len_bytes: u64,
        deallocate: bool,
    ) -> Result<(), MediumError> {
        let page = PageSize::Small.bytes();
        let end = at + len_bytes;
        let (first, last) = (at.next_multiple_of(page), end / page * page);
        if deallocate
            && first < last
            && let Some((file, base)) = self.0.fd()
        {
            let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            if fallocate(file, how, base + first, last - first).is_ok() {
                self.fill(at, first - at)?;
                return self.fill(last, end - last);
            }
        }
        self.fill(at, len_bytes)
    }

    fn fill(&self, at: u64, len_bytes: u64) -> Result<(), MediumError> {
        let len = usize::try_from(len_bytes).map_err(|_| MediumError)?;
        let part = self.part(at, len)?;
        part.fill(0, len, 0).map_err(|_| MediumError)
    }
}
