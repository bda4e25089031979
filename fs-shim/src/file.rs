//! A file as its user has it: read, written, pinned for devices, made durable. Each call is a thin
//! loop over steps that never wait.
use crate::book::{FileState, Policy};
use crate::cache::Cache;
use crate::errseq::Seen;
use crate::page::{At, Attempt};
use crate::store::StoreError;
use crate::{FileError, fsync, resize};
use std::ops::Range;
use underpin_dma::frame::{FRAME_BYTES, Frames};
use underpin_dma::pin::{Cover, LongPin, LongPinError, ReadPin, WritePin, WritePins};
use underpin_dma::rt::sync::Arc;
use underpin_dma::rt::sync::atomic::Ordering;
use underpin_dma::{OutOfBounds, View};

const PAGE: u64 = FRAME_BYTES as u64;

/// A handle to a file of a [`Cache`]. Handles may be used by several threads at once; each is told
/// once of every error of writeback that happened while it was open.
///
/// A pin is DMA memory of a page of the file: a queue's `submit` takes it. The page was reserved
/// and is dirty before the pin is had, and no writeback reads it from itself while it is held.
///
/// ```
/// use std::sync::Arc;
/// use underpin_dma::pin::Cover;
/// use underpin_dma::{DmaBuf, DmaSpace};
/// use underpin_fs::{Cache, CacheOptions, store::Memory};
/// use underpin_nvme::{Controller, ControllerOptions, Lba, QueueOptions};
///
/// let space = DmaSpace::new();
/// let cache = Cache::new(&space, CacheOptions::default())?;
/// let file = cache.open(Arc::new(Memory::new(1 << 20)))?;
///
/// let device = Controller::open("emu:size=1m", &space, ControllerOptions::default())?;
/// let disk = device.namespace(None)?;
/// let mut queue = device.queue_pair(QueueOptions::default())?;
///
/// // The device reads eight of its blocks right into page 3 of the file.
/// let pin = file.pin_write(3, Cover::Whole)?;
/// let pin = queue.run(disk.read(Lba(0), 8)?, pin)?;
/// pin.set_uptodate();
/// drop(pin);
/// file.fsync()?;
/// assert_eq!(cache.stats().direct, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct File {
    cache: Cache,
    state: Arc<FileState>,
    seen: Seen,
}

impl File {
    pub(crate) fn new(cache: Cache, state: Arc<FileState>) -> Self {
        state.handles.fetch_add(1, Ordering::Relaxed);
        let seen = state.errors.seen();
        Self { cache, state, seen }
    }

    /// Another handle, which is told of errors by itself.
    #[must_use]
    pub fn reopen(&self) -> Self {
        self.state.holders.fetch_add(1, Ordering::Relaxed);
        Self::new(self.cache.clone(), Arc::clone(&self.state))
    }

    /// How long it is.
    pub fn len_bytes(&self) -> u64 {
        self.state.len_bytes()
    }

    /// How its pages are written back while they are not pinned.
    pub fn policy(&self) -> Policy {
        self.state.policy
    }

    /// Pages of it that are dirty, or on their way out; a hint while others are at work.
    pub fn dirty_pages(&self) -> u64 {
        self.state.dirty.count()
    }

    fn at(&self, page: u64, end: u64) -> At<'_> {
        At {
            cache: self.cache.inner(),
            file: &self.state,
            page,
            end,
        }
    }

    /// Pins a page for a device that writes it, or for whoever does in its place.
    ///
    /// With [`Cover::Whole`] a page that is not in memory is not read first; then
    /// [`set_uptodate`](WritePin::set_uptodate) when the DMA has succeeded. What lies past the end
    /// of the file in its last page is never written to the store.
    ///
    /// # Errors
    /// [`FileError::Range`] past the end; [`FileError::Reserve`] when the store has no room (this
    /// is where it says so); [`FileError::Store`] when the page could not be read in;
    /// [`FileError::Busy`], [`FileError::NoFrames`].
    #[inline]
    pub fn pin_write(&self, page: u64, cover: Cover) -> Result<WritePin, FileError> {
        if let Some(slot) = self.state.index.get(page) {
            let frame = self.cache.inner().frames.frame(slot.frame, slot.generation);
            if let Ok(pin) = frame.pin_write(cover) {
                return Ok(pin);
            }
        }
        self.pin_write_slowly(page, page + 1, cover)
    }

    #[cold]
    #[inline(never)]
    fn pin_write_slowly(&self, page: u64, end: u64, cover: Cover) -> Result<WritePin, FileError> {
        let mut attempt = Attempt::default();
        let at = self.at(page, end);
        self.cache
            .inner()
            .wait(&self.state, |now| at.pin_write(cover, &mut attempt, || now))
    }

    /// Pins a page for a device that reads it.
    ///
    /// # Errors
    /// As [`pin_write`](Self::pin_write), but for reservations.
    #[inline]
    pub fn pin_read(&self, page: u64) -> Result<ReadPin, FileError> {
        if let Some(slot) = self.state.index.get(page) {
            let frame = self.cache.inner().frames.frame(slot.frame, slot.generation);
            if let Ok(pin) = frame.pin_read() {
                return Ok(pin);
            }
        }
        self.pin_read_slowly(page, page + 1)
    }

    #[cold]
    #[inline(never)]
    fn pin_read_slowly(&self, page: u64, end: u64) -> Result<ReadPin, FileError> {
        let mut attempt = Attempt::default();
        let at = self.at(page, end);
        self.cache
            .inner()
            .wait(&self.state, |now| at.pin_read(&mut attempt, || now))
    }

    /// Pins several pages for one transfer of a device that writes them: all or none (R5).
    ///
    /// # Errors
    /// As [`pin_write`](Self::pin_write).
    pub fn pin_write_pages(&self, pages: Range<u64>, cover: Cover) -> Result<WritePins, FileError> {
        let count = pages.end.saturating_sub(pages.start);
        self.check(
            pages.start.saturating_mul(PAGE),
            count.saturating_mul(PAGE),
            PAGE - 1,
        )?;
        let mut pins = WritePins::with_capacity(count as usize);
        for page in pages.clone() {
            let fast = self.state.index.get(page).and_then(|slot| {
                let frame = self.cache.inner().frames.frame(slot.frame, slot.generation);
                frame.pin_write(cover).ok()
            });
            let pin = match fast {
                Some(pin) => pin,
                None => self.pin_write_slowly(page, pages.end, cover)?,
            };
            // All are frames of one cache.
            drop(pins.push(pin));
        }
        Ok(pins)
    }

    /// Pins a page for as long as one likes: a bounded number of them (R13).
    ///
    /// # Errors
    /// As [`pin_write`](Self::pin_write), and [`FileError::LongTerm`].
    pub fn pin_write_long(&self, page: u64) -> Result<LongPin, FileError> {
        // Read in by a short pin, which it then is beside.
        let short = self.pin_write(page, Cover::Part)?;
        let slot = self
            .state
            .index
            .get(page)
            .filter(|slot| slot.frame == short.frame());
        let Some(slot) = slot else {
            return self.pin_write_long(page);
        };
        let frame = self.cache.inner().frames.frame(slot.frame, slot.generation);
        match frame.pin_write_long() {
            Ok(pin) => Ok(pin),
            Err(LongPinError::Limit(limit)) => Err(limit.into()),
            Err(LongPinError::Pin(_)) => Err(FileError::Busy {
                page,
                waited: std::time::Duration::ZERO,
            }),
        }
    }

    /// Begins to read pages in that are not in memory, without waiting; as many as there are frames
    /// for. Returns how many pages were seen to, from the first one on.
    pub fn read_ahead(&self, pages: Range<u64>) -> u64 {
        let end = pages.end.min(self.state.pages());
        let mut page = pages.start;
        while page < end {
            page += match self.state.index.get(page) {
                Some(_) => 1,
                None => match self.at(page, end).begin_reading() {
                    Ok(seen) => seen,
                    Err(_) => break,
                },
            };
        }
        page.saturating_sub(pages.start)
    }

    /// Pages for the processor to write in place, for as long as one likes: each a long-term pin
    /// that was reserved now, so that a full store is an error of this call and of nothing later
    /// (R37).
    ///
    /// # Errors
    /// As [`pin_write_long`](Self::pin_write_long).
    pub fn map_write(&self, pages: Range<u64>) -> Result<MappedPages, FileError> {
        let pins: Result<Vec<_>, _> = pages.map(|page| self.pin_write_long(page)).collect();
        Ok(MappedPages {
            pins: pins?,
            frames: Arc::clone(&self.cache.inner().frames),
        })
    }

    /// Reads up to `bytes.len()` bytes from `offset` on; fewer at the end of the file.
    ///
    /// # Errors
    /// [`FileError::Store`] when a page could not be read in; [`FileError::NoFrames`].
    pub fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<usize, FileError> {
        let len_bytes = self.len_bytes().saturating_sub(offset);
        let wanted = usize::try_from(len_bytes).map_or(bytes.len(), |len| len.min(bytes.len()));
        let end = (offset + wanted as u64).div_ceil(PAGE);
        let mut done = 0;
        while done < wanted {
            let at = offset + done as u64;
            let (page, within) = (at / PAGE, (at % PAGE) as usize);
            let len = (wanted - done).min(FRAME_BYTES - within);
            let pin = match self.fast_read(page) {
                Some(pin) => pin,
                None => match self.pin_read_slowly(page, end) {
                    Ok(pin) => pin,
                    // The file became shorter meanwhile.
                    Err(FileError::Range { .. }) => break,
                    Err(error) => return Err(error),
                },
            };
            let part = bytes.get_mut(done..done + len).unwrap_or(&mut []);
            let view = self.cache.inner().frames.view(pin.frame());
            view.and_then(|view| view.copy_to(within, part))
                .map_err(internal)?;
            done += len;
        }
        Ok(done)
    }

    fn fast_read(&self, page: u64) -> Option<ReadPin> {
        let slot = self.state.index.get(page)?;
        let frame = self.cache.inner().frames.frame(slot.frame, slot.generation);
        frame.pin_read().ok()
    }

    /// Writes `bytes` from `offset` on; the file gets longer if need be. They are durable after
    /// [`fsync`](Self::fsync).
    ///
    /// # Errors
    /// [`FileError::Reserve`] when the store has no room: some of the bytes may have been written
    /// by then, from the front on. Otherwise as [`pin_write`](Self::pin_write).
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), FileError> {
        let Some(end) = offset.checked_add(bytes.len() as u64) else {
            return Err(self.out_of_range(offset, u64::MAX));
        };
        if !bytes.is_empty() && end > self.len_bytes() {
            resize::extend(self.cache.inner(), &self.state, end)?;
        }
        let mut done = 0;
        while done < bytes.len() {
            self.cache.inner().throttle(&self.state)?;
            let at = offset + done as u64;
            let (page, within) = (at / PAGE, (at % PAGE) as usize);
            let len = (bytes.len() - done).min(FRAME_BYTES - within);
            let cover = match len == FRAME_BYTES {
                true => Cover::Whole,
                false => Cover::Part,
            };
            // R38: a copy into a page is the CPU's DMA.
            let pin = self.pin_write(page, cover)?;
            let part = bytes.get(done..done + len).unwrap_or(&[]);
            let view = self.cache.inner().frames.view(pin.frame());
            view.and_then(|view| view.copy_from(within, part))
                .map_err(internal)?;
            if cover == Cover::Whole {
                pin.set_uptodate();
            }
            done += len;
        }
        Ok(())
    }

    /// Makes durable what was written before the call: by [`write_at`](Self::write_at), and by
    /// devices whose completion was seen and whose pins were dropped. Pages that are pinned are
    /// copied, and nobody's pin is waited for: of bytes that a device is writing, the old, the new
    /// or a mixture are kept (R22).
    ///
    /// # Errors
    /// [`FileError::Store`]: the last error of writeback that this handle was not told of, whoever
    /// wrote the page back. The page stays dirty, and reads give its newest bytes.
    pub fn fsync(&self) -> Result<(), FileError> {
        fsync::run(self.cache.inner(), &self.state, &self.seen)
    }

    /// Makes the file longer, if it is shorter than that. What is new is zero.
    ///
    /// # Errors
    /// [`FileError::Store`] when the store cannot be as long.
    pub fn extend(&self, len_bytes: u64) -> Result<(), FileError> {
        resize::extend(self.cache.inner(), &self.state, len_bytes)
    }

    /// Makes the file as long as that. Pages that are cut off may be pinned: the pins' memory lives
    /// on, and belongs to no file.
    ///
    /// # Errors
    /// [`FileError::Busy`] when the file would end within a page that is pinned for long, or stays
    /// pinned (R29); otherwise as [`extend`](Self::extend).
    pub fn truncate(&self, len_bytes: u64) -> Result<(), FileError> {
        resize::set_len(self.cache.inner(), &self.state, len_bytes)
    }

    /// Makes bytes zero, and gives the store back the pages that lie wholly within.
    ///
    /// # Errors
    /// [`FileError::Store`].
    pub fn punch(&self, offset: u64, len_bytes: u64) -> Result<(), FileError> {
        let end = offset.saturating_add(len_bytes);
        resize::punch(self.cache.inner(), &self.state, offset..end)
    }

    /// Makes everything durable and gives the handle back. The last one gives the store back, too,
    /// as soon as no page of it is pinned.
    ///
    /// # Errors
    /// As [`fsync`](Self::fsync); the handle is gone all the same.
    pub fn close(self) -> Result<(), FileError> {
        let synced = self.fsync();
        if synced.is_ok() && self.state.handles.load(Ordering::Acquire) == 1 {
            let pages = self.state.pages();
            resize::detach(self.cache.inner(), &self.state, 0..pages)?;
        }
        synced
    }

    /// True when `len_bytes` bytes from `offset` on lie within the file; the last of them may lie
    /// up to `slack` past its end.
    fn check(&self, offset: u64, len_bytes: u64, slack: u64) -> Result<(), FileError> {
        let end = offset.checked_add(len_bytes);
        let most = self.len_bytes().saturating_add(slack);
        match end {
            Some(end) if end <= most => Ok(()),
            end => Err(self.out_of_range(offset, end.unwrap_or(u64::MAX))),
        }
    }

    fn out_of_range(&self, offset: u64, end: u64) -> FileError {
        FileError::Range {
            offset,
            end,
            len_bytes: self.len_bytes(),
        }
    }
}

/// Pages of a file that the processor writes in place; [`File::map_write`].
#[derive(Debug)]
pub struct MappedPages {
    pins: Vec<LongPin>,
    frames: Arc<Frames>,
}

impl MappedPages {
    /// How many.
    pub const fn len(&self) -> usize {
        self.pins.len()
    }

    /// True when there are none.
    pub const fn is_empty(&self) -> bool {
        self.pins.is_empty()
    }

    /// The bytes of one, counted from the first; `None` when there is none.
    pub fn view(&self, index: usize) -> Option<View<'_>> {
        let pin = self.pins.get(index)?;
        self.frames.view(pin.pin().frame()).ok()
    }
}

/// A frame's bytes are where its number says.
#[cold]
fn internal(error: OutOfBounds) -> FileError {
    StoreError::Device(error.to_string()).into()
}

impl Drop for File {
    fn drop(&mut self) {
        self.state.handles.fetch_sub(1, Ordering::AcqRel);
        self.cache.inner().book.let_go(&self.state);
    }
}
