//! A range of a namespace's blocks as the store of one file: pages are where their number says.
//! It has no metadata: length and holes are known while it is open.
use super::{Done, PAGE_BYTES, Store, StoreError, Ticket, Work};
use crossbeam::queue::SegQueue;
use std::fmt;
use std::ops::Range;
use underpin_dma::frame::ReserveError;
use underpin_dma::rt::sync::Arc;
use underpin_dma::rt::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use underpin_dma::{PageRun, SpaceId};
use underpin_nvme::{
    CommandError, Completion, Error, Io, Lba, Namespace, Refused, SharedQueue, WriteCache,
};

/// The queue of one or several [`Extent`]s of a device: what each command carries is all that there
/// is to do at its end.
pub type ExtentQueue = SharedQueue<(PageRun, Ticket)>;

/// Why a range of blocks cannot be a file.
#[derive(Debug, thiserror::Error)]
pub enum ExtentError {
    /// Pages do not consist of whole blocks.
    #[error(
        "the blocks of {namespace} are longer than a page of {PAGE_BYTES} bytes; use a namespace with blocks of 512 to 4096 bytes"
    )]
    Blocks {
        /// Which.
        namespace: String,
    },
    /// The range does not consist of whole pages, or does not lie within the namespace.
    #[error(
        "{len_bytes} bytes from {lba:?} on are not whole pages of {PAGE_BYTES} bytes within {namespace}"
    )]
    Range {
        /// Which.
        namespace: String,
        /// The first block.
        lba: Lba,
        /// The length.
        len_bytes: u64,
    },
    /// The namespace cannot be used.
    #[error("{0}")]
    Unusable(String),
}

/// A file that is a range of blocks.
///
/// ```
/// use std::sync::Arc;
/// use underpin_dma::DmaSpace;
/// use underpin_fs::{Cache, CacheOptions};
/// use underpin_fs::store::{Extent, ExtentQueue};
/// use underpin_nvme::{Controller, ControllerOptions, Lba, QueueOptions};
///
/// let space = DmaSpace::new();
/// let device = Controller::open("emu:size=16m", &space, ControllerOptions::default())?;
/// let queue = Arc::new(ExtentQueue::new(&device, 1, QueueOptions::default())?);
/// let disk = device.namespace(None)?;
///
/// let cache = Cache::new(&space, CacheOptions::default())?;
/// let file = cache.open(Arc::new(Extent::blank(&queue, &disk, Lba(0), 8 << 20)?))?;
/// file.write_at(0, b"on blocks")?;
/// file.fsync()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Extent {
    queue: Arc<ExtentQueue>,
    namespace: Namespace,
    space: SpaceId,
    first: Lba,
    blocks_a_page: u64,
    pages: u64,
    len_bytes: AtomicU64,
    written: Arc<Written>,
    /// Commands that the queue has no room for, in order; and how many, to be looked at cheaply.
    kept: SegQueue<Work>,
    kept_count: AtomicUsize,
}

/// A bit for each page that has been written, or was there already: the others are zero.
#[derive(Debug)]
struct Written(Box<[AtomicU64]>);

impl Written {
    fn bit(&self, page: u64) -> Option<(&AtomicU64, u64)> {
        let word = usize::try_from(page / 64).ok()?;
        Some((self.0.get(word)?, 1 << (page % 64)))
    }
}

impl Done for Written {
    /// Only what is on the device is read from it: of a write that failed, nobody knows what is.
    fn done(&self, first_page: u64, pages: u64, result: Result<(), StoreError>) {
        if result.is_err() {
            return;
        }
        for page in first_page..first_page + pages {
            if let Some((word, bit)) = self.bit(page) {
                word.fetch_or(bit, Ordering::AcqRel);
            }
        }
    }
}

impl Extent {
    /// A file of `len_bytes` bytes with what is on the blocks from `first` on.
    ///
    /// # Errors
    /// [`ExtentError`].
    pub fn existing(
        queue: &Arc<ExtentQueue>,
        namespace: &Namespace,
        first: Lba,
        len_bytes: u64,
    ) -> Result<Self, ExtentError> {
        Self::new(queue, namespace, first, len_bytes, u64::MAX)
    }

    /// The same, of zeroes: what is on the blocks is never read before it was written.
    ///
    /// # Errors
    /// [`ExtentError`].
    pub fn blank(
        queue: &Arc<ExtentQueue>,
        namespace: &Namespace,
        first: Lba,
        len_bytes: u64,
    ) -> Result<Self, ExtentError> {
        Self::new(queue, namespace, first, len_bytes, 0)
    }

    fn new(
        queue: &Arc<ExtentQueue>,
        namespace: &Namespace,
        first: Lba,
        len_bytes: u64,
        written: u64,
    ) -> Result<Self, ExtentError> {
        if let Some(why) = namespace.unusable() {
            return Err(ExtentError::Unusable(why.to_owned()));
        }
        let lba_bytes = u64::from(namespace.lba_bytes());
        if !PAGE_BYTES.is_multiple_of(lba_bytes) {
            return Err(ExtentError::Blocks {
                namespace: namespace.to_string(),
            });
        }
        let blocks = len_bytes / lba_bytes;
        let fits = (first.0.checked_add(blocks)).is_some_and(|end| end <= namespace.blocks());
        let pages = len_bytes / PAGE_BYTES;
        if pages == 0 || !len_bytes.is_multiple_of(PAGE_BYTES) || !fits {
            return Err(ExtentError::Range {
                namespace: namespace.to_string(),
                lba: first,
                len_bytes,
            });
        }
        Ok(Self {
            space: queue.controller().space().id(),
            queue: Arc::clone(queue),
            namespace: namespace.clone(),
            first,
            blocks_a_page: PAGE_BYTES / lba_bytes,
            pages,
            len_bytes: AtomicU64::new(len_bytes),
            written: {
                let words = (0..pages.div_ceil(64)).map(|_| AtomicU64::new(written));
                Arc::new(Written(words.collect()))
            },
            kept: SegQueue::new(),
            kept_count: AtomicUsize::new(0),
        })
    }

    /// The work again, unless it does not lie within the extent: other blocks are others'.
    fn inside(&self, work: Work) -> Option<Work> {
        let end = work.first_page().checked_add(work.pages());
        if end.is_some_and(|end| end <= self.pages) {
            return Some(work);
        }
        work.end(Err(StoreError::TooLong {
            len_bytes: end.unwrap_or(u64::MAX).saturating_mul(PAGE_BYTES),
            max_len_bytes: self.max_len_bytes(),
        }));
        None
    }

    fn set_holes(&self, pages: Range<u64>) {
        for page in pages.start..pages.end.min(self.pages) {
            if let Some((word, bit)) = self.written.bit(page) {
                word.fetch_and(!bit, Ordering::AcqRel);
            }
        }
    }

    /// The request for a command; a flush has no pages.
    fn io(&self, work: &Work, what: What) -> Result<Io, Error> {
        let lba = Lba(self.first.0 + work.first_page() * self.blocks_a_page);
        let blocks = work.pages() * self.blocks_a_page;
        match what {
            What::Read => self.namespace.read(lba, blocks),
            What::Write => self.namespace.write(lba, blocks),
            What::Flush => Ok(self.namespace.flush()),
        }
    }

    /// Sends a command, or keeps it while there is no room.
    fn begin(&self, work: Work) {
        // In order: what is kept goes first.
        if self.kept_count.load(Ordering::Acquire) == 0 {
            match self.send(work) {
                Ok(()) => return,
                Err(work) => self.keep(work),
            }
        } else {
            self.keep(work);
        }
        self.poll();
    }

    fn keep(&self, work: Work) {
        self.kept_count.fetch_add(1, Ordering::AcqRel);
        self.kept.push(work);
    }

    /// Gives the work back when there is no room now.
    fn send(&self, work: Work) -> Result<(), Work> {
        let what = What::of(&work);
        let io = match self.io(&work, what) {
            Ok(io) => io,
            Err(error) => {
                work.end(Err(StoreError::Device(error.to_string())));
                return Ok(());
            }
        };
        let (run, ticket) = work.into_parts();
        match self.queue.submit(io, (run, ticket)) {
            Ok(()) => Ok(()),
            Err(Refused {
                error: Error::QueueFull { .. },
                buffer: (run, ticket),
            }) => Err(Work::from_parts(run, ticket)),
            Err(Refused {
                error,
                buffer: (run, ticket),
            }) => {
                ticket.end(run, Err(StoreError::Device(error.to_string())));
                Ok(())
            }
        }
    }
}

/// What a command does; its run knows.
#[derive(Clone, Copy)]
enum What {
    Read,
    Write,
    Flush,
}

impl What {
    fn of(work: &Work) -> Self {
        match (work.pages(), work.run().is_read()) {
            (0, _) => Self::Flush,
            (_, true) => Self::Read,
            (_, false) => Self::Write,
        }
    }
}

/// A command has ended. What stays in quarantine takes its ticket along.
fn ended(completion: Completion<(PageRun, Ticket)>) {
    let Some((run, ticket)) = completion.buffer else {
        return;
    };
    let result = completion.result;
    ticket.end(
        run,
        result.map_err(|error| StoreError::Device(error.to_string())),
    );
}

impl Store for Extent {
    fn space_id(&self) -> Option<SpaceId> {
        Some(self.space)
    }

    fn len_bytes(&self) -> u64 {
        self.len_bytes.load(Ordering::Acquire)
    }

    fn max_len_bytes(&self) -> u64 {
        self.pages * PAGE_BYTES
    }

    /// All space is there already.
    fn reserve(&self, page: u64) -> Result<(), ReserveError> {
        match page < self.pages {
            true => Ok(()),
            false => Err(ReserveError::Full),
        }
    }

    fn give_back(&self, _page: u64) {}

    fn is_hole(&self, page: u64) -> bool {
        self.written
            .bit(page)
            .is_none_or(|(word, bit)| word.load(Ordering::Acquire) & bit == 0)
    }

    fn read(&self, work: Work) {
        let Some(work) = self.inside(work) else {
            return;
        };
        let pages = work.first_page()..work.first_page() + work.pages();
        if !pages.clone().any(|page| self.is_hole(page)) {
            return self.begin(work);
        }
        // A hole that is read all the same, after a device failed to cover it: zeroes. The cache
        // asks for pages one by one then.
        if pages.clone().all(|page| self.is_hole(page)) {
            let (mut run, ticket) = work.into_parts();
            let mut result = Ok(());
            for index in 0..run.len() {
                result = result.and(run.copy_from(index, 0, &[0; PAGE_BYTES as usize]));
            }
            ticket.end(
                run,
                result.map_err(|error| StoreError::Device(error.to_string())),
            );
            return;
        }
        work.end(Err(StoreError::Device(format!(
            "pages {pages:?} are holes in part, and were read as one"
        ))));
    }

    fn write(&self, work: Work) {
        if let Some(work) = self.inside(work) {
            self.begin(work.tell_store(Arc::clone(&self.written) as _));
        }
    }

    fn flush(&self, work: Work) {
        // Base 2.0, 7.1: without a volatile write cache a flush does nothing.
        match self.queue.controller().write_cache() {
            WriteCache::Absent | WriteCache::Disabled => work.end(Ok(())),
            WriteCache::Enabled => self.begin(work),
        }
    }

    fn poll(&self) -> usize {
        let mut count = self.queue.poll(ended);
        while self.kept_count.load(Ordering::Acquire) > 0 {
            let Some(work) = self.kept.pop() else {
                break;
            };
            match self.send(work) {
                Ok(()) => {
                    self.kept_count.fetch_sub(1, Ordering::AcqRel);
                    count += 1;
                }
                Err(work) => {
                    // Behind others that are kept: no two of them are for the same page.
                    self.kept.push(work);
                    break;
                }
            }
        }
        count
    }

    fn failure(&self) -> Option<StoreError> {
        let failure = self.queue.failure()?;
        Some(StoreError::Device(CommandError::Lost(failure).to_string()))
    }

    fn set_len(&self, len_bytes: u64) -> Result<(), StoreError> {
        let max_len_bytes = self.max_len_bytes();
        if len_bytes > max_len_bytes {
            return Err(StoreError::TooLong {
                len_bytes,
                max_len_bytes,
            });
        }
        self.len_bytes.store(len_bytes, Ordering::Release);
        self.set_holes(len_bytes.div_ceil(PAGE_BYTES)..self.pages);
        Ok(())
    }

    fn free(&self, pages: Range<u64>) -> Result<(), StoreError> {
        self.set_holes(pages);
        Ok(())
    }
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} pages from {:?} on of {}",
            self.pages, self.first, self.namespace
        )
    }
}
