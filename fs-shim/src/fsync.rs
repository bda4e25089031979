//! Everything that was written to a file, made durable: each page once, then a flush (R21). Pinned
//! pages are copied; nobody's pin is waited for.
use crate::FileError;
use crate::book::{Counts, FileState, Told};
use crate::cache::Inner;
use crate::errseq::Seen;
use crate::page::{Stop, failure};
use crate::store::{Done, StoreError, Work};
use crate::writeback::{Gather, Offered};
use std::collections::VecDeque;
use underpin_dma::frame::Intent;
use underpin_dma::rt::sync::atomic::{AtomicU64, Ordering};
use underpin_dma::rt::sync::{Arc, Mutex};

/// One call under way.
#[derive(Debug)]
struct Fsync {
    /// Pages that have not been begun.
    pages: VecDeque<u64>,
    commands: Arc<Commands>,
    flush: Option<Arc<Flush>>,
}

/// The writeback commands of one call.
#[derive(Debug)]
struct Commands {
    told: Arc<Told>,
    in_flight: AtomicU64,
}

impl Done for Commands {
    fn done(&self, first_page: u64, pages: u64, result: Result<(), StoreError>) {
        self.told.done(first_page, pages, result);
        // Release: whoever finds none in flight finds the file's errors, too.
        self.in_flight.fetch_sub(1, Ordering::Release);
    }
}

#[derive(Debug, Default)]
struct Flush(Mutex<Option<Result<(), StoreError>>>);

impl Done for Flush {
    fn done(&self, _first_page: u64, _pages: u64, result: Result<(), StoreError>) {
        *self.0.lock() = Some(result);
    }
}

/// Does it all, and tells the handle of errors that it has not been told of.
pub(crate) fn run(cache: &Inner, file: &Arc<FileState>, seen: &Seen) -> Result<(), FileError> {
    let mut fsync = Fsync {
        pages: file.dirty.all().into(),
        commands: Arc::new(Commands {
            told: Arc::clone(&file.told),
            in_flight: AtomicU64::new(0),
        }),
        flush: None,
    };
    let synced = cache.wait(file, |_now| fsync.step(cache, file));
    // The error of a page is the handle's to be told once, whoever wrote the page back.
    synced?;
    Ok(file.errors.tell(seen)?)
}

impl Fsync {
    fn step(&mut self, cache: &Inner, file: &Arc<FileState>) -> Result<(), Stop> {
        if let Some(flush) = &self.flush {
            return match &*flush.0.lock() {
                None => Err(Stop::Wait),
                Some(Ok(())) => Ok(()),
                Some(Err(error)) => {
                    file.errors.report(error.clone());
                    Ok(())
                }
            };
        }
        self.write(cache, file);
        let in_flight = self.commands.in_flight.load(Ordering::Acquire);
        if !self.pages.is_empty() || in_flight > 0 {
            failure(&*file.store)?;
            return Err(Stop::Wait);
        }
        // All data completions have been seen; only now does a flush cover them.
        let flush = Arc::new(Flush::default());
        Counts::add(&cache.book.counts.flushes, 1);
        file.store.flush(Work::flush(Arc::clone(&flush) as _));
        self.flush = Some(flush);
        Err(Stop::Wait)
    }

    /// Begins as many pages as there is room for. One that an older writeback has is waited for:
    /// its snapshot may be too old (R20).
    fn write(&mut self, cache: &Inner, file: &Arc<FileState>) {
        let counted: Arc<dyn Done> = Arc::clone(&self.commands) as _;
        let count = &self.commands.in_flight;
        let mut gather = Gather::new(cache, file, counted, Some(count));
        let mut in_flight = Vec::new();
        while let Some(page) = self.pages.pop_front() {
            match gather.offer(page, Intent::Integrity) {
                Offered::Taken | Offered::Skipped | Offered::Nothing => {}
                Offered::InFlight => in_flight.push(page),
                Offered::Full => {
                    self.pages.push_front(page);
                    break;
                }
            }
        }
        gather.send();
        self.pages.extend(in_flight);
    }
}
