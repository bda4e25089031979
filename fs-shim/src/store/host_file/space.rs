//! How long a host file is, and which of its space is reserved: two things that one `ftruncate`
//! changes, so one lock guards both.
use super::options::{NotFirm, Reservation};
use crate::store::{PAGE_BYTES, StoreError};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use underpin_dma::frame::ReserveError;
use underpin_dma::rt::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use underpin_dma::rt::sync::{Arc, Mutex, RwLock};

/// When a whole step could not be had, so many reservations are made page by page before the next
/// one is tried.
const SMALL_STEPS: u32 = 256;

/// A file's length and space.
#[derive(Debug)]
pub(super) struct Space {
    file: Arc<File>,
    path: PathBuf,
    max_len_bytes: u64,
    step_pages: u64,
    /// As `set_len` said last. Changed under `changing`.
    len_bytes: AtomicU64,
    /// The file was never written from here on, and is zero there.
    data_end: AtomicU64,
    /// A write has lengthened the file past its length.
    overhangs: AtomicBool,
    /// How often the length, or the space, was changed; and how often it was by the time of the
    /// last flush that made it durable.
    changes: AtomicU64,
    durable: AtomicU64,
    /// What the file system promises, apart from what it refuses.
    promise: Reservation,
    /// Its blocks are smaller than a page: the last page may lose some of its own.
    has_small_blocks: bool,
    no_preallocation: AtomicBool,
    /// Looked at for every page that becomes dirty; changed only under `changing`.
    reserved: RwLock<Reserved>,
    changing: Mutex<Changing>,
}

#[derive(Debug, Default)]
struct Reserved {
    /// Whole steps, by number.
    steps: BTreeSet<u64>,
    /// Pages, where no whole step could be had.
    pages: BTreeSet<u64>,
}

#[derive(Debug, Default)]
struct Changing {
    /// So many reservations go page by page.
    small: u32,
}

impl Space {
    /// Of a file that is as long as that.
    pub(super) fn new(
        file: Arc<File>,
        path: &Path,
        len_bytes: u64,
        max_len_bytes: u64,
        reserve_bytes: u64,
    ) -> Self {
        let (promise, block_bytes) = promise(&file);
        Self {
            file,
            path: path.to_owned(),
            max_len_bytes,
            step_pages: reserve_bytes.div_ceil(PAGE_BYTES).max(1),
            len_bytes: AtomicU64::new(len_bytes),
            data_end: AtomicU64::new(len_bytes),
            overhangs: AtomicBool::new(false),
            changes: AtomicU64::new(0),
            durable: AtomicU64::new(0),
            promise,
            has_small_blocks: block_bytes < PAGE_BYTES,
            no_preallocation: AtomicBool::new(false),
            reserved: RwLock::default(),
            changing: Mutex::default(),
        }
    }

    pub(super) fn len_bytes(&self) -> u64 {
        self.len_bytes.load(Ordering::Acquire)
    }

    pub(super) const fn max_len_bytes(&self) -> u64 {
        self.max_len_bytes
    }

    pub(super) fn reservation(&self) -> Reservation {
        match self.no_preallocation.load(Ordering::Relaxed) {
            true => Reservation::BestEffort(NotFirm::NoPreallocation),
            false => self.promise,
        }
    }

    /// The page lies wholly where the file was never written.
    pub(super) fn is_hole(&self, page: u64) -> bool {
        page.saturating_mul(PAGE_BYTES) >= self.data_end.load(Ordering::Acquire)
    }

    /// A write begins that ends at byte `end`. True when it is the furthest so far.
    pub(super) fn begin_write(&self, end: u64) -> bool {
        self.data_end.fetch_max(end, Ordering::AcqRel) < end
    }

    /// It has ended, well or not.
    pub(super) fn end_write(&self, end: u64, grows: bool) {
        if grows {
            self.changes.fetch_add(1, Ordering::AcqRel);
        }
        if end > self.len_bytes() {
            self.overhangs.store(true, Ordering::Release);
        }
    }

    /// Before a flush: the file gets its length. How often it has changed by now, and whether that
    /// is more than what was made durable last.
    pub(super) fn before_flush(&self) -> Result<(u64, bool), StoreError> {
        if self.overhangs.swap(false, Ordering::AcqRel)
            && let Err(error) = self.trim()
        {
            self.overhangs.store(true, Ordering::Release);
            return Err(error);
        }
        let changes = self.changes.load(Ordering::Acquire);
        Ok((changes, changes != self.durable.load(Ordering::Acquire)))
    }

    /// A flush that made metadata durable has ended well.
    pub(super) fn flushed(&self, changes: u64) {
        self.durable.fetch_max(changes, Ordering::AcqRel);
    }

    /// Cuts off what writes, and reservations, have left past the end.
    fn trim(&self) -> Result<(), StoreError> {
        let changing = self.changing.lock();
        let trimmed = self.truncate(self.len_bytes());
        drop(changing);
        trimmed
    }

    /// The file is closed: what is past its end goes. Whatever that says, nobody hears it.
    pub(super) fn close(&self) {
        let reserved = self.reserved.read();
        let past_end = !(reserved.steps.is_empty() && reserved.pages.is_empty());
        drop(reserved);
        if (past_end || self.overhangs.load(Ordering::Acquire))
            && let Err(error) = self.trim()
        {
            tracing::warn!(%error, "a file that is closed is longer than it should be");
        }
    }

    pub(super) fn set_len(&self, len_bytes: u64) -> Result<(), StoreError> {
        if len_bytes > self.max_len_bytes {
            return Err(StoreError::TooLong {
                len_bytes,
                max_len_bytes: self.max_len_bytes,
            });
        }
        let changing = self.changing.lock();
        self.truncate(len_bytes)?;
        self.len_bytes.store(len_bytes, Ordering::Release);
        self.data_end.fetch_min(len_bytes, Ordering::AcqRel);
        drop(changing);
        Ok(())
    }

    /// Under the lock: `ftruncate`. It frees what was preallocated past the new end, too, even when
    /// the length stays: what was reserved there is not any more. A reservation that was made
    /// beside it could be believed in vain.
    fn truncate(&self, len_bytes: u64) -> Result<(), StoreError> {
        let pages = len_bytes.div_ceil(PAGE_BYTES);
        let last = len_bytes / PAGE_BYTES;
        let loses_blocks = self.has_small_blocks && last < pages && self.has(last);
        self.forget(if loses_blocks { last } else { pages }..u64::MAX);
        let cut = self.file.set_len(len_bytes);
        self.changes.fetch_add(1, Ordering::AcqRel);
        if loses_blocks {
            // It may be dirty already. Where it was full, a journal may not have the blocks back
            // yet: then the next pin is told.
            if self.preallocate(last..pages).is_ok() {
                self.reserved.write().pages.insert(last);
            }
        }
        cut.map_err(|error| self.failed("setting the length of", &error))
    }

    /// Frees whole pages, which are zero from now on.
    pub(super) fn free(&self, pages: Range<u64>) -> Result<(), StoreError> {
        let end = pages.end.min(self.max_len_bytes.div_ceil(PAGE_BYTES));
        let pages = pages.start..end;
        if pages.is_empty() {
            return Ok(());
        }
        let (start, end) = (pages.start * PAGE_BYTES, pages.end * PAGE_BYTES);
        let changing = self.changing.lock();
        self.forget(pages);
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let punched = retried(|| rustix::fs::fallocate(&*self.file, mode, start, end - start));
        match punched {
            Ok(()) => {}
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.write_zeroes(start..end)?,
            Err(error) => return Err(self.failed("punching a hole into", &error.into())),
        }
        self.changes.fetch_add(1, Ordering::AcqRel);
        // Up to the file's end, what is zero now counts as never written.
        let _ = self
            .data_end
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |data_end| {
                (start < data_end && data_end <= end).then_some(start)
            });
        drop(changing);
        Ok(())
    }

    /// Where holes cannot be punched.
    fn write_zeroes(&self, bytes: Range<u64>) -> Result<(), StoreError> {
        const PIECE: usize = 64 << 10;
        const PAGE: usize = PAGE_BYTES as usize;
        // Direct I/O wants its memory on a page's boundary.
        let memory = vec![0; PIECE + PAGE];
        let first = memory.as_ptr().align_offset(PAGE);
        let zeroes = memory.get(first..first + PIECE).unwrap_or(&[]);
        let until = self.data_end.load(Ordering::Acquire);
        let end = bytes.end.min(until.next_multiple_of(PAGE_BYTES));
        let mut at = bytes.start;
        while at < end {
            let len = usize::try_from(end - at).map_or(PIECE, |left| left.min(PIECE));
            let piece = zeroes.get(..len).unwrap_or(zeroes);
            let written = self.file.write_all_at(piece, at);
            written.map_err(|error| self.failed("writing zeroes to", &error))?;
            at += len as u64;
        }
        if end > self.len_bytes() {
            self.overhangs.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// What is reserved of these pages counts no more.
    fn forget(&self, pages: Range<u64>) {
        let mut reserved = self.reserved.write();
        let steps = pages.start / self.step_pages..pages.end.div_ceil(self.step_pages);
        cut(&mut reserved.steps, steps);
        cut(&mut reserved.pages, pages);
    }

    /// Reserves a page: its step, or itself alone.
    pub(super) fn reserve(&self, page: u64) -> Result<(), ReserveError> {
        if page >= self.max_len_bytes.div_ceil(PAGE_BYTES) {
            return Err(ReserveError::Full);
        }
        if self.has(page) || self.no_preallocation.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut changing = self.changing.lock();
        if self.has(page) {
            return Ok(());
        }
        if let Some(left) = changing.small.checked_sub(1) {
            changing.small = left;
        } else {
            let step = page / self.step_pages;
            let first = step * self.step_pages;
            match self.preallocate(first..first.saturating_add(self.step_pages)) {
                Ok(()) => {
                    self.reserved.write().steps.insert(step);
                    return Ok(());
                }
                Err(error) if self.is_unknown(error) => return Ok(()),
                Err(_) => changing.small = SMALL_STEPS,
            }
        }
        match self.preallocate(page..page + 1) {
            Ok(()) => {
                self.reserved.write().pages.insert(page);
                Ok(())
            }
            Err(error) if self.is_unknown(error) => Ok(()),
            Err(Errno::NOSPC) => Err(ReserveError::Full),
            Err(Errno::DQUOT) => Err(ReserveError::Quota),
            Err(error) => Err(ReserveError::Os(error.raw_os_error())),
        }
    }

    fn has(&self, page: u64) -> bool {
        let reserved = self.reserved.read();
        reserved.steps.contains(&(page / self.step_pages)) || reserved.pages.contains(&page)
    }

    /// Space for pages, as far as the file may get.
    fn preallocate(&self, pages: Range<u64>) -> Result<(), Errno> {
        let start = pages.start * PAGE_BYTES;
        let most = self.max_len_bytes.next_multiple_of(PAGE_BYTES);
        let end = pages.end.saturating_mul(PAGE_BYTES).min(most);
        let mode = FallocateFlags::KEEP_SIZE;
        retried(|| rustix::fs::fallocate(&*self.file, mode, start, end - start))
    }

    /// The file system knows no such call; that is remembered.
    fn is_unknown(&self, error: Errno) -> bool {
        let unknown = matches!(error, Errno::OPNOTSUPP | Errno::NOSYS);
        if unknown && !self.no_preallocation.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                path = %self.path.display(),
                "the file system cannot preallocate space: a full one is noticed at writeback only"
            );
        }
        unknown
    }

    pub(super) fn failed(&self, what: &str, error: &std::io::Error) -> StoreError {
        StoreError::Os {
            what: format!("{what} {}", self.path.display()),
            errno: error.raw_os_error().unwrap_or(libc::EIO),
        }
    }
}

/// Takes a range out of a set.
fn cut(set: &mut BTreeSet<u64>, range: Range<u64>) {
    let mut rest = set.split_off(&range.start);
    set.append(&mut rest.split_off(&range.end));
}

fn retried(mut call: impl FnMut() -> rustix::io::Result<()>) -> rustix::io::Result<()> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}

/// What the file system says about overwriting preallocated space (magics: linux/magic.h, and for
/// those outside of the kernel their own headers); and how long its blocks are.
fn promise(file: &File) -> (Reservation, u64) {
    const EXT4: u64 = 0xef53;
    const TMPFS: u64 = 0x0102_1994;
    const XFS: u64 = 0x5846_5342;
    const BTRFS: u64 = 0x9123_683e;
    const BCACHEFS: u64 = 0xca45_1a4e;
    const ZFS: u64 = 0x2fc1_2fc1;
    let Ok(stat) = rustix::fs::fstatfs(file) else {
        return (Reservation::BestEffort(NotFirm::Unknown(0)), 1);
    };
    // Signed on some targets; the magics are 32 bits.
    let block_bytes = stat.f_bsize as u64;
    let promise = match stat.f_type as u64 & 0xffff_ffff {
        EXT4 | TMPFS if block_bytes < PAGE_BYTES => Reservation::BestEffort(NotFirm::SmallBlocks),
        EXT4 | TMPFS => Reservation::Firm,
        // A snapshot takes it away until the next write of each block: so it says in the docs.
        BTRFS if is_nocow(file) => Reservation::Firm,
        BTRFS | BCACHEFS | ZFS => Reservation::BestEffort(NotFirm::CopyOnWrite),
        XFS => Reservation::BestEffort(NotFirm::MayShareBlocks),
        other => Reservation::BestEffort(NotFirm::Unknown(other)),
    };
    (promise, block_bytes)
}

fn is_nocow(file: &File) -> bool {
    rustix::fs::ioctl_getflags(file).is_ok_and(|flags| flags.contains(rustix::fs::IFlags::NOCOW))
}
