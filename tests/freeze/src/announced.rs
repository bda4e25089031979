//! A store that knows what it was given to write: the CRC of each page as its command was made. What
//! is found on the medium later is one of those, or somebody wrote the page meanwhile (R15).
use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use underpin::dma::frame::ReserveError;
use underpin::dma::rt::sync::{Arc, Mutex};
use underpin::dma::{PageRun, SpaceId};
use underpin::fs::store::{Done, Store, StoreError, Ticket, Work};

const PAGE: usize = 4096;

/// What may be on the medium of one page.
#[derive(Debug, Default)]
struct Page {
    /// Of the last write that ended well; none before the first.
    last: Option<u32>,
    in_flight: Option<u32>,
    /// Since the mark: what was there then, and all that began since.
    since: Vec<Option<u32>>,
}

#[derive(Debug, Default)]
struct Log {
    pages: HashMap<u64, Page>,
    marked: bool,
}

/// The log of one store.
#[derive(Clone, Debug, Default)]
pub(crate) struct Announcements(Arc<Mutex<Log>>);

impl Announcements {
    /// From now on all that may be found is remembered, until the next judgement.
    pub(crate) fn mark(&self) {
        let mut log = self.0.lock();
        log.marked = true;
        for page in log.pages.values_mut() {
            page.since = vec![page.last];
            page.since.extend(page.in_flight.map(Some));
        }
    }

    /// Whether what was found of a page is what somebody gave the store. A page that was never
    /// written may be anything.
    pub(crate) fn is_known(&self, page: u64, found: &[u8]) -> bool {
        let log = self.0.lock();
        let Some(page) = log.pages.get(&page) else {
            return true;
        };
        let crc = Some(crc32c::crc32c(found));
        page.since.iter().any(|may| may.is_none() || *may == crc)
    }

    /// The mark is taken off.
    pub(crate) fn unmark(&self) {
        let mut log = self.0.lock();
        log.marked = false;
        log.pages.values_mut().for_each(|page| page.since.clear());
    }

    fn begin(&self, first_page: u64, run: &PageRun) -> Result<(), StoreError> {
        let mut bytes = [0; PAGE];
        for index in 0..run.len() {
            let copied = run.copy_to(index, 0, &mut bytes);
            copied.map_err(|error| StoreError::Device(error.to_string()))?;
            let crc = crc32c::crc32c(&bytes);
            let mut log = self.0.lock();
            let marked = log.marked;
            let page = log.pages.entry(first_page + index as u64).or_default();
            page.in_flight = Some(crc);
            if marked {
                if page.since.is_empty() {
                    page.since.push(page.last);
                }
                page.since.push(Some(crc));
            }
        }
        Ok(())
    }

    fn end(&self, first_page: u64, pages: u64, good: bool) {
        let mut log = self.0.lock();
        for number in first_page..first_page + pages {
            if let Some(page) = log.pages.get_mut(&number)
                && let (Some(crc), true) = (page.in_flight.take(), good)
            {
                page.last = Some(crc);
            }
        }
    }
}

/// The end of a write: first for the log, then for whoever waits.
struct Ended {
    log: Announcements,
    ticket: Mutex<Option<Ticket>>,
}

impl Done for Ended {
    fn done(&self, first_page: u64, pages: u64, result: Result<(), StoreError>) {
        self.log.end(first_page, pages, result.is_ok());
        let ticket = self.ticket.lock().take();
        if let Some(ticket) = ticket {
            // The pages themselves have ended with the run.
            ticket.end(PageRun::default(), result);
        }
    }
}

impl fmt::Debug for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ended")
    }
}

/// A store whose writes are announced.
#[derive(Debug)]
pub(crate) struct Announced<S> {
    pub(crate) store: S,
    pub(crate) log: Announcements,
}

impl<S: Store> Store for Announced<S> {
    fn space_id(&self) -> Option<SpaceId> {
        self.store.space_id()
    }
    fn len_bytes(&self) -> u64 {
        self.store.len_bytes()
    }
    fn max_len_bytes(&self) -> u64 {
        self.store.max_len_bytes()
    }
    fn reserve(&self, page: u64) -> Result<(), ReserveError> {
        self.store.reserve(page)
    }
    fn give_back(&self, page: u64) {
        self.store.give_back(page);
    }
    fn is_hole(&self, page: u64) -> bool {
        self.store.is_hole(page)
    }
    fn read(&self, work: Work) {
        self.store.read(work);
    }
    fn write(&self, work: Work) {
        let first_page = work.first_page();
        let announced = self.log.begin(first_page, work.run());
        let (run, ticket) = work.into_parts();
        if let Err(error) = announced {
            ticket.end(run, Err(error));
            return;
        }
        let ended = Ended {
            log: self.log.clone(),
            ticket: Mutex::new(Some(ticket)),
        };
        self.store
            .write(Work::new(first_page, run, Arc::new(ended)));
    }
    fn flush(&self, work: Work) {
        self.store.flush(work);
    }
    fn poll(&self) -> usize {
        self.store.poll()
    }
    fn failure(&self) -> Option<StoreError> {
        self.store.failure()
    }
    fn set_len(&self, len_bytes: u64) -> Result<(), StoreError> {
        self.store.set_len(len_bytes)
    }
    fn free(&self, pages: Range<u64>) -> Result<(), StoreError> {
        self.store.free(pages)
    }
}
