//! Dirty pages on their way to the store: decided on one by one, gathered into commands of
//! neighbouring pages, sent. Never waits, and never waits for a pin.
use crate::book::{Counts, FileState, Policy};
use crate::cache::Inner;
use crate::store::{Done, Work};
use underpin_dma::frame::{Blocked, Decision, FRAME_BYTES, Intent};
use underpin_dma::rt::Instant;
use underpin_dma::rt::sync::Arc;
use underpin_dma::rt::sync::atomic::{AtomicU64, Ordering};
use underpin_dma::{DmaBuf, PageRun};

/// What became of a page that was offered for writeback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offered {
    /// It is in a command.
    Taken,
    /// It is pinned, and can wait.
    Skipped,
    /// There is nothing to write: it is clean, cut off, or its only bytes are a device's that has
    /// not told of its end.
    Nothing,
    /// An older writeback of it is in flight (R20).
    InFlight,
    /// There is no room: all commands are in flight, or all pages for copies.
    Full,
}

/// Pages of one file that go to its store in one pass.
pub(crate) struct Gather<'a> {
    cache: &'a Inner,
    file: &'a Arc<FileState>,
    done: Arc<dyn Done>,
    /// One more for each command, before it can end.
    in_flight: Option<&'a AtomicU64>,
    run: PageRun,
    first_page: u64,
    /// A page to copy into, at hand before the decision is made: afterwards it may be too late to
    /// wait for one.
    spare: Option<DmaBuf>,
    commands: u64,
}

impl<'a> Gather<'a> {
    /// `done` is told of the commands' ends, and tells the file; `in_flight` counts them.
    pub(crate) fn new(
        cache: &'a Inner,
        file: &'a Arc<FileState>,
        done: Arc<dyn Done>,
        in_flight: Option<&'a AtomicU64>,
    ) -> Self {
        Self {
            cache,
            file,
            done,
            in_flight,
            run: PageRun::default(),
            first_page: 0,
            spare: None,
            commands: 0,
        }
    }

    /// How many commands it has sent.
    pub(crate) const fn commands(&self) -> u64 {
        self.commands
    }

    /// Decides on a page, by one atomic step and before there is a command or a checksum (R15), and
    /// takes it along. Pages are best offered in order.
    pub(crate) fn offer(&mut self, page: u64, intent: Intent) -> Offered {
        let next = self.first_page + self.run.len() as u64;
        if !self.run.is_empty()
            && (page != next || self.run.len() >= self.cache.options.writeback_pages)
        {
            self.send();
        }
        if self.run.is_empty() && !self.has_room() {
            return Offered::Full;
        }
        let Some(slot) = self.file.index.get(page) else {
            return self.nothing(page);
        };
        // The last page's tail is not the file's, and a device may have written it: zeroes go out
        // in its place (R24), so a copy does.
        let tail = self.file.valid_bytes(page) < FRAME_BYTES;
        let always_copy = tail || self.file.policy == Policy::AlwaysCopy;
        if (always_copy || intent != Intent::Background) && !self.find_spare() {
            return Offered::Full;
        }
        let frame = self.cache.frames.frame(slot.frame, slot.generation);
        let writeback = match frame.begin_writeback(intent, always_copy) {
            Ok(Some(writeback)) => writeback,
            Ok(None) => {
                Counts::add(&self.cache.book.counts.skips, 1);
                return Offered::Skipped;
            }
            Err(Blocked::Writeback) => return Offered::InFlight,
            Err(_) => return self.nothing(page),
        };
        if self.run.is_empty() {
            self.first_page = page;
        }
        let counts = &self.cache.book.counts;
        let decision = writeback.decision();
        let pushed = match (decision, self.spare.take()) {
            (Decision::Direct, spare) => {
                self.spare = spare;
                self.run.push_direct(writeback).is_ok()
            }
            (_, Some(copy)) => {
                // Read again: the page may have been the last one until now.
                let valid_bytes = self.file.valid_bytes(page);
                let copied = self
                    .run
                    .push_copy(&self.cache.frames, writeback, copy, valid_bytes);
                copied.is_ok()
            }
            // Not to be: a copy is decided on only with a spare at hand. The page is dirty again.
            (_, None) => false,
        };
        Counts::add(
            match decision {
                Decision::Direct => &counts.direct,
                Decision::CopyClean => &counts.copies_clean,
                Decision::CopyKeep | Decision::Skip => &counts.copies_kept,
            },
            1,
        );
        match pushed {
            true => Offered::Taken,
            false => Offered::Full,
        }
    }

    /// An entry that nobody took out: of a pin that was cancelled (R6), of a page that is no more.
    fn nothing(&self, page: u64) -> Offered {
        let is_clean = || self.file.is_clean(&self.cache.frames, page);
        self.file.dirty.leave(page, is_clean);
        Offered::Nothing
    }

    fn has_room(&self) -> bool {
        let writing = self.file.writing.load(Ordering::Relaxed);
        writing < self.cache.options.writeback_commands
    }

    /// A page to copy into. What this pass has gathered goes out before anybody waits for one:
    /// it may hold the last (R25).
    fn find_spare(&mut self) -> bool {
        if self.spare.is_none() {
            self.spare = self.cache.bounces.try_alloc();
        }
        if self.spare.is_none() {
            self.send();
            Counts::add(&self.cache.book.counts.bounce_waits, 1);
        }
        self.spare.is_some()
    }

    /// Sends what is gathered.
    pub(crate) fn send(&mut self) {
        if self.run.is_empty() {
            return;
        }
        let run = std::mem::take(&mut self.run);
        self.file.writing.fetch_add(1, Ordering::Relaxed);
        self.commands += 1;
        if let Some(in_flight) = self.in_flight {
            in_flight.fetch_add(1, Ordering::Relaxed);
        }
        let work = Work::new(self.first_page, run, Arc::clone(&self.done));
        self.file.store.write(work);
    }
}

impl Drop for Gather<'_> {
    fn drop(&mut self) {
        self.send();
    }
}

/// What a pass in the background looks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pass {
    /// Pages that have been dirty since before this are written.
    pub(crate) older_than: Instant,
    /// Pages that have been dirty since before this are copied if they are pinned (R17).
    pub(crate) expired_before: Instant,
}

/// Pages of one lock of the dirty index.
const PAGES_A_LOOK: usize = 512;

/// Writes back what is old enough in one file, from the page behind `after` on. Where it stopped,
/// if for want of room.
pub(crate) fn pass(
    cache: &Inner,
    file: &Arc<FileState>,
    what: Pass,
    after: &mut Option<u64>,
) -> u64 {
    let done: Arc<dyn Done> = Arc::clone(&file.told) as _;
    let mut gather = Gather::new(cache, file, done, None);
    loop {
        let pages = file.dirty.after(*after, PAGES_A_LOOK);
        let Some((last, _)) = pages.last().copied() else {
            *after = None;
            break;
        };
        for (page, since) in pages {
            if since <= what.older_than {
                let intent = match since <= what.expired_before {
                    true => Intent::Expired,
                    false => Intent::Background,
                };
                if gather.offer(page, intent) == Offered::Full {
                    gather.send();
                    return gather.commands();
                }
            }
            *after = Some(page);
        }
        *after = Some(last);
    }
    gather.send();
    gather.commands()
}

/// Writes back whatever can be, whatever its age, as much as there is room for; how many commands.
pub(crate) fn relieve(cache: &Inner) -> u64 {
    let everything = Pass {
        older_than: Instant::NEVER,
        expired_before: Instant::START,
    };
    let mut sent = 0;
    for file in &*cache.book.files() {
        if file.store.failure().is_none() {
            sent += pass(cache, file, everything, &mut None);
        }
    }
    sent
}
