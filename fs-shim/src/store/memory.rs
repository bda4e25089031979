//! A store in memory: for files that need not outlive the process, for examples, and for tests.
use super::{PAGE_BYTES, Store, StoreError, Work};
use std::collections::BTreeMap;
use std::ops::Range;
use underpin_dma::SpaceId;
use underpin_dma::frame::ReserveError;
use underpin_dma::rt::sync::Mutex;

/// Pages in memory. What was never written is zero.
///
/// ```
/// use underpin_fs::store::{Memory, Store};
///
/// let store = Memory::new(10_000);
/// assert_eq!((store.len_bytes(), store.max_len_bytes()), (10_000, 12_288));
/// assert!(store.is_hole(0));
/// ```
#[derive(Debug)]
pub struct Memory {
    max_pages: u64,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    len_bytes: u64,
    pages: BTreeMap<u64, Box<[u8]>>,
}

impl Memory {
    /// A file of so many bytes, which cannot get longer than its last page.
    pub fn new(len_bytes: u64) -> Self {
        Self {
            max_pages: len_bytes.div_ceil(PAGE_BYTES),
            inner: Mutex::new(Inner {
                len_bytes,
                pages: BTreeMap::new(),
            }),
        }
    }

    fn do_read(&self, work: Work) {
        let (mut run, ticket) = work.into_parts();
        let inner = self.inner.lock();
        let zeroes = [0; PAGE_BYTES as usize];
        let mut result = Ok(());
        for index in 0..run.len() {
            let page = inner.pages.get(&(ticket.first_page() + index as u64));
            let bytes = page.map_or(&zeroes[..], |page| page);
            result = result.and(run.copy_from(index, 0, bytes));
        }
        drop(inner);
        ticket.end(
            run,
            result.map_err(|error| StoreError::Device(error.to_string())),
        );
    }

    fn do_write(&self, work: Work) {
        let mut result = Ok(());
        let mut written = Vec::with_capacity(work.run().len());
        for index in 0..work.run().len() {
            let mut bytes = vec![0; PAGE_BYTES as usize].into_boxed_slice();
            result = result.and(work.run().copy_to(index, 0, &mut bytes));
            written.push(bytes);
        }
        if result.is_ok() {
            let pages = (work.first_page()..).zip(written);
            self.inner.lock().pages.extend(pages);
        }
        work.end(result.map_err(|error| StoreError::Device(error.to_string())));
    }
}

impl Store for Memory {
    fn space_id(&self) -> Option<SpaceId> {
        None
    }
    fn len_bytes(&self) -> u64 {
        self.inner.lock().len_bytes
    }
    fn max_len_bytes(&self) -> u64 {
        self.max_pages * PAGE_BYTES
    }
    fn reserve(&self, page: u64) -> Result<(), ReserveError> {
        match page < self.max_pages {
            true => Ok(()),
            false => Err(ReserveError::Full),
        }
    }
    fn give_back(&self, _page: u64) {}
    fn is_hole(&self, page: u64) -> bool {
        !self.inner.lock().pages.contains_key(&page)
    }
    fn read(&self, work: Work) {
        self.do_read(work);
    }
    fn write(&self, work: Work) {
        self.do_write(work);
    }
    fn flush(&self, work: Work) {
        work.end(Ok(()));
    }
    fn poll(&self) -> usize {
        0
    }
    fn failure(&self) -> Option<StoreError> {
        None
    }
    fn set_len(&self, len_bytes: u64) -> Result<(), StoreError> {
        let max_len_bytes = self.max_len_bytes();
        if len_bytes > max_len_bytes {
            return Err(StoreError::TooLong {
                len_bytes,
                max_len_bytes,
            });
        }
        let mut inner = self.inner.lock();
        inner.len_bytes = len_bytes;
        inner.pages.split_off(&len_bytes.div_ceil(PAGE_BYTES));
        Ok(())
    }
    fn free(&self, pages: Range<u64>) -> Result<(), StoreError> {
        self.inner
            .lock()
            .pages
            .retain(|page, _| !pages.contains(page));
        Ok(())
    }
}
