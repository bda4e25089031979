//! A command for a store, and who is told of its end. Its pages end with it, whoever drops it.
use super::{PAGE_BYTES, StoreError};
use std::fmt;
use std::sync::Arc;
use underpin_dma::PageRun;

/// Who is told how a command ended.
pub trait Done: Send + Sync + fmt::Debug {
    /// The command for `pages` pages from `first_page` on has ended; its pages' states say so
    /// already.
    fn done(&self, first_page: u64, pages: u64, result: Result<(), StoreError>);
}

/// One command: neighbouring pages, or none for a flush.
#[derive(Debug)]
#[must_use = "work that is dropped has failed"]
pub struct Work {
    run: PageRun,
    ticket: Ticket,
}

/// The half of a [`Work`] that is not memory; the store keeps it beside the run while a device has
/// that. Dropped with its run, the command has failed as [`StoreError::Closed`].
#[derive(Debug)]
#[must_use = "a ticket that is dropped has failed"]
pub struct Ticket {
    first_page: u64,
    pages: u64,
    /// The store's own, told before the pages' states change.
    store: Option<Arc<dyn Done>>,
    done: Option<Arc<dyn Done>>,
}

impl Work {
    /// A command for the pages of `run`, which are the file's from `first_page` on.
    pub fn new(first_page: u64, run: PageRun, done: Arc<dyn Done>) -> Self {
        let pages = run.len() as u64;
        Self {
            run,
            ticket: Ticket {
                first_page,
                pages,
                store: None,
                done: Some(done),
            },
        }
    }

    /// A command without pages.
    pub fn flush(done: Arc<dyn Done>) -> Self {
        Self::new(0, PageRun::default(), done)
    }

    /// The number of its first page in the file.
    pub const fn first_page(&self) -> u64 {
        self.ticket.first_page
    }

    /// How many pages it has.
    pub const fn pages(&self) -> u64 {
        self.ticket.pages
    }

    /// How long it is.
    pub const fn len_bytes(&self) -> u64 {
        self.ticket.pages * PAGE_BYTES
    }

    /// Its memory.
    pub const fn run(&self) -> &PageRun {
        &self.run
    }

    /// Has the store itself told of the end, too, and before the pages' states say so: what it
    /// keeps of its pages must be right by the time that one of them may be evicted. It is not told
    /// of work that is dropped.
    pub fn tell_store(mut self, store: Arc<dyn Done>) -> Self {
        self.ticket.store = Some(store);
        self
    }

    /// The memory, which a device may own, and what belongs with it.
    pub fn into_parts(self) -> (PageRun, Ticket) {
        (self.run, self.ticket)
    }

    /// The work again that [`into_parts`](Self::into_parts) took apart.
    pub const fn from_parts(run: PageRun, ticket: Ticket) -> Self {
        Self { run, ticket }
    }

    /// The command has ended: so have its pages, and then whoever waits for it is told.
    pub fn end(self, result: Result<(), StoreError>) {
        self.ticket.end(self.run, result);
    }
}

impl Ticket {
    /// The number of the command's first page in the file.
    pub const fn first_page(&self) -> u64 {
        self.first_page
    }

    /// How many pages it has.
    pub const fn pages(&self) -> u64 {
        self.pages
    }

    /// The command has ended: so have the pages of its run, and then whoever waits for it is told.
    pub fn end(mut self, run: PageRun, result: Result<(), StoreError>) {
        if let Some(store) = self.store.take() {
            store.done(self.first_page, self.pages, result.clone());
        }
        run.end(result.is_ok());
        if let Some(done) = self.done.take() {
            done.done(self.first_page, self.pages, result);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(done) = self.done.take() {
            done.done(self.first_page, self.pages, Err(StoreError::Closed));
        }
    }
}
