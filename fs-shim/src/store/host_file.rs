//! A store over a file of the host's file system: direct I/O by io_uring, or by system calls where
//! there is none.
mod job;
mod options;
mod ring;
mod space;

pub use options::{
    Direct, Engine, EngineChoice, HostFileError, HostFileOptions, NotFirm, Reservation,
};

use super::{PAGE_BYTES, Store, StoreError, Work};
use job::{Job, Moved, Op};
use ring::Ring;
use rustix::fs::{FlockOperation, OFlags, StatxFlags};
use rustix::io::Errno;
use space::Space;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use underpin_dma::SpaceId;
use underpin_dma::frame::ReserveError;
use underpin_dma::rt::sync::Arc;

/// One file of the host's file system, whole, which nobody else has open as a store (`flock`).
///
/// **Length.** Only whole pages are written, so after the write of its last page the host's file
/// may be up to 4,095 bytes too long, of zeroes. [`set_len`](Store::set_len),
/// [`flush`](Store::flush) and the drop of the store put that right: after a flush the host's file
/// is as long as the file is, unless its last page was being written meanwhile. A process that ends
/// between the two leaves it too long.
///
/// **Space.** A page is reserved by `fallocate`, in steps of some megabytes, before it is dirty; a
/// full file system is told of then, and not at writeback. What is reserved past the end is given
/// back when the store is dropped. On file systems that copy on write (btrfs, bcachefs, ZFS) that
/// is no promise for an overwrite, nor is it on btrfs without copy on write, or XFS, once somebody
/// snapshots or clones the file: [`reservation`](Self::reservation) tells which it is.
///
/// **Durability.** What a flush that ended well covers is on the medium, as far as the host's
/// `fsync` is to be believed.
///
/// ```
/// use underpin_fs::store::{HostFile, HostFileOptions, Store};
///
/// let folder = tempfile::tempdir()?;
/// let path = folder.path().join("table");
/// let options = HostFileOptions {
///     create: true,
///     len_bytes: Some(10_000),
///     ..HostFileOptions::default()
/// };
/// let file = HostFile::open(&path, &options)?;
/// assert_eq!(file.len_bytes(), 10_000);
/// println!("{:?}, direct: {}, {:?}", file.engine(), file.is_direct(), file.reservation());
///
/// // It has one owner.
/// let error = HostFile::open(&path, &options).unwrap_err();
/// assert!(error.to_string().contains("has the file open"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct HostFile {
    path: PathBuf,
    file: Arc<File>,
    is_direct: bool,
    space: Space,
    /// None: system calls.
    ring: Option<Ring>,
}

impl HostFile {
    /// Opens a file, or makes it.
    ///
    /// # Errors
    /// [`HostFileError`].
    pub fn open(path: impl AsRef<Path>, options: &HostFileOptions) -> Result<Self, HostFileError> {
        let path = path.as_ref();
        check(options)?;
        let fail = |step| {
            let path = path.to_owned();
            move |source| HostFileError::Os { path, step, source }
        };
        let file = open(path, options.create).map_err(fail("opening"))?;
        let metadata = file.metadata().map_err(fail("fstat"))?;
        if !metadata.is_file() {
            return Err(HostFileError::NotAFile {
                path: path.to_owned(),
            });
        }
        // Before anything in it is changed.
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|error| {
            match error {
                Errno::WOULDBLOCK => HostFileError::InUse {
                    path: path.to_owned(),
                },
                error => fail("locking (flock)")(error.into()),
            }
        })?;
        let is_direct = match options.direct {
            Direct::Never => false,
            Direct::IfPossible | Direct::Always => make_direct(&file),
        };
        if options.direct == Direct::Always && !is_direct {
            return Err(HostFileError::NotDirect {
                path: path.to_owned(),
            });
        }
        // Asked for again: it may have been somebody's until the lock was taken.
        let mut len_bytes = file.metadata().map_err(fail("fstat"))?.len();
        if let Some(wanted) = options.len_bytes
            && wanted != len_bytes
        {
            file.set_len(wanted).map_err(fail("setting its length"))?;
            len_bytes = wanted;
        }
        if len_bytes > options.max_len_bytes {
            return Err(HostFileError::Option(format!(
                "{}: {len_bytes} bytes, and max_len_bytes is {}",
                path.display(),
                options.max_len_bytes
            )));
        }
        let file = Arc::new(file);
        let ring = make_ring(&file, options)?;
        let space = Space::new(
            Arc::clone(&file),
            path,
            len_bytes,
            options.max_len_bytes,
            options.reserve_bytes,
        );
        let opened = Self {
            path: path.to_owned(),
            file,
            is_direct,
            space,
            ring,
        };
        tracing::info!(
            path = %path.display(),
            engine = ?opened.engine(),
            direct = is_direct,
            reservation = ?opened.reservation(),
            "opened a host file"
        );
        Ok(opened)
    }

    /// Its name in the file system.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Who moves its bytes.
    pub const fn engine(&self) -> Engine {
        match self.ring {
            Some(_) => Engine::IoUring,
            None => Engine::Calls,
        }
    }

    /// True when the host's page cache is bypassed (`O_DIRECT`).
    pub const fn is_direct(&self) -> bool {
        self.is_direct
    }

    /// What a reservation of a page is worth on its file system. It may turn out to be less when
    /// the first page is reserved.
    pub fn reservation(&self) -> Reservation {
        self.space.reservation()
    }

    fn begin(&self, op: Op, work: Work) {
        let job = Job::new(op, work);
        let Some(ring) = &self.ring else {
            return self.do_now(job);
        };
        if let Some(error) = ring.failure() {
            return job.ticket.end(job.run, Err(error.clone()));
        }
        ring.keep(job);
        ring.send();
    }

    /// Without io_uring: all of it, on the caller's thread.
    fn do_now(&self, job: Job) {
        let mut left = Some(job);
        while let Some(job) = left {
            let result = ring::call(&self.file, &job);
            left = self.take_in(job, result);
        }
    }

    /// A request has ended: so has its job, or there is more to do.
    fn take_in(&self, mut job: Job, result: i32) -> Option<Job> {
        let result = match job.take_in(result) {
            Moved::All => Ok(()),
            Moved::Nothing => return Some(job),
            Moved::Failed(errno) => Err(self.refused(&job, errno)),
            Moved::Until(end) => match self.is_end_of_file(&job, end) {
                Ok(true) => job
                    .zero_from(end)
                    .map_err(|error| StoreError::Device(error.to_string())),
                Ok(false) if job.go_on_from(end) => return Some(job),
                Ok(false) => Err(StoreError::Short {
                    what: self.what(&job),
                    moved_bytes: end as u64,
                    len_bytes: job.len_bytes() as u64,
                }),
                Err(error) => Err(self.space.failed("fstat of", &error)),
            },
        };
        match job.op {
            Op::Read => {}
            Op::Write { grows } => {
                let end = job.start() + job.len_bytes() as u64;
                self.space.end_write(end, grows);
            }
            Op::Flush { metadata, changes } => {
                if metadata && result.is_ok() {
                    self.space.flushed(changes);
                }
            }
        }
        job.ticket.end(job.run, result);
        None
    }

    /// A read that stopped at byte `end` of its job stopped at the end of the host's file.
    fn is_end_of_file(&self, job: &Job, end: usize) -> io::Result<bool> {
        match job.op {
            Op::Read => Ok(job.start() + end as u64 >= self.file.metadata()?.len()),
            _ => Ok(false),
        }
    }

    fn refused(&self, job: &Job, errno: i32) -> StoreError {
        StoreError::Os {
            what: self.what(job),
            errno,
        }
    }

    fn what(&self, job: &Job) -> String {
        let path = self.path.display();
        let (len, start) = (job.len_bytes(), job.start());
        match job.op {
            Op::Read => format!("reading {len} bytes at {start} of {path}"),
            Op::Write { .. } => format!("writing {len} bytes at {start} of {path}"),
            Op::Flush { .. } => format!("fsync of {path}"),
        }
    }

    /// The work, if it lies where the file may be and has pages at all.
    fn checked(&self, work: Work) -> Option<(Work, u64)> {
        let end = work
            .first_page()
            .checked_add(work.pages())
            .and_then(|end| end.checked_mul(PAGE_BYTES));
        let max_len_bytes = self.space.max_len_bytes();
        match end {
            _ if work.pages() == 0 => work.end(Ok(())),
            Some(end) if end <= max_len_bytes.next_multiple_of(PAGE_BYTES) => {
                return Some((work, end));
            }
            _ => work.end(Err(StoreError::TooLong {
                len_bytes: end.unwrap_or(u64::MAX),
                max_len_bytes,
            })),
        }
        None
    }
}

impl Store for HostFile {
    fn space_id(&self) -> Option<SpaceId> {
        None
    }

    fn len_bytes(&self) -> u64 {
        self.space.len_bytes()
    }

    fn max_len_bytes(&self) -> u64 {
        self.space.max_len_bytes()
    }

    fn reserve(&self, page: u64) -> Result<(), ReserveError> {
        self.space.reserve(page)
    }

    /// Nothing: what is preallocated stays so, and serves the next one.
    fn give_back(&self, _page: u64) {}

    fn is_hole(&self, page: u64) -> bool {
        self.space.is_hole(page)
    }

    fn read(&self, work: Work) {
        if let Some((work, _)) = self.checked(work) {
            self.begin(Op::Read, work);
        }
    }

    fn write(&self, work: Work) {
        if let Some((work, end)) = self.checked(work) {
            let grows = self.space.begin_write(end);
            self.begin(Op::Write { grows }, work);
        }
    }

    /// `fdatasync`, or `fsync` after the file's length or space has changed. The length is put
    /// right first; that waits for no more than the direct writes that the kernel has in flight.
    fn flush(&self, work: Work) {
        match self.space.before_flush() {
            Ok((changes, metadata)) => self.begin(Op::Flush { metadata, changes }, work),
            Err(error) => work.end(Err(error)),
        }
    }

    fn poll(&self) -> usize {
        let Some(ring) = &self.ring else {
            return 0;
        };
        if ring.busy() == 0 {
            return 0;
        }
        let mut count = 0;
        let mut again = false;
        for (job, result) in ring.poll() {
            match self.take_in(job, result) {
                None => count += 1,
                Some(job) => {
                    ring.keep(job);
                    again = true;
                }
            }
        }
        if again {
            ring.send();
        }
        if let Some(error) = ring.failure() {
            while let Some(job) = ring.take_back() {
                job.ticket.end(job.run, Err(error.clone()));
                count += 1;
            }
        }
        count
    }

    fn failure(&self) -> Option<StoreError> {
        self.ring.as_ref()?.failure().cloned()
    }

    fn set_len(&self, len_bytes: u64) -> Result<(), StoreError> {
        self.space.set_len(len_bytes)
    }

    fn free(&self, pages: Range<u64>) -> Result<(), StoreError> {
        self.space.free(pages)
    }
}

impl Drop for HostFile {
    fn drop(&mut self) {
        if let Some(ring) = &self.ring {
            ring.close(|(job, result)| {
                if let Some(job) = self.take_in(job, result) {
                    ring.keep(job);
                }
            });
        }
        self.space.close();
    }
}

fn check(options: &HostFileOptions) -> Result<(), HostFileError> {
    let bad = |what| Err(HostFileError::Option(what));
    let HostFileOptions {
        queue_depth,
        max_len_bytes,
        len_bytes,
        ..
    } = options;
    if !(1..=4096).contains(queue_depth) {
        return bad(format!(
            "queue_depth is {queue_depth}; 1 to 4096 are possible"
        ));
    }
    if i64::try_from(*max_len_bytes).is_err() {
        return bad(format!(
            "max_len_bytes is {max_len_bytes}: no file gets so long"
        ));
    }
    match len_bytes {
        Some(len_bytes) if len_bytes > max_len_bytes => bad(format!(
            "len_bytes is {len_bytes}, and max_len_bytes {max_len_bytes}"
        )),
        _ => Ok(()),
    }
}

/// Opens the file, without `O_DIRECT`: some file systems make it first and refuse the flag then.
fn open(path: &Path, create: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    if create {
        match options.clone().create_new(true).open(path) {
            Ok(file) => {
                // Its name is durable, too, and not only what flushes put into it.
                let folder = path
                    .parent()
                    .filter(|folder| !folder.as_os_str().is_empty());
                File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
                return Ok(file);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    options.open(path)
}

/// Sets `O_DIRECT`, where pages of 4 KiB are something that it takes (statx(2), from 6.1 on).
fn make_direct(file: &File) -> bool {
    let asked = rustix::fs::statx(
        file,
        "",
        rustix::fs::AtFlags::EMPTY_PATH,
        StatxFlags::DIOALIGN,
    );
    if let Ok(stat) = asked
        && stat.stx_mask & StatxFlags::DIOALIGN.bits() != 0
    {
        let aligns = [stat.stx_dio_mem_align, stat.stx_dio_offset_align];
        if !aligns
            .iter()
            .all(|align| (1..=PAGE_BYTES).contains(&u64::from(*align)))
        {
            return false;
        }
    }
    let flags = rustix::fs::fcntl_getfl(file);
    let set = flags.and_then(|flags| rustix::fs::fcntl_setfl(file, flags | OFlags::DIRECT));
    set.is_ok()
}

fn make_ring(file: &Arc<File>, options: &HostFileOptions) -> Result<Option<Ring>, HostFileError> {
    match options.engine {
        EngineChoice::Calls => return Ok(None),
        EngineChoice::Auto if cfg!(underpin_sim) => return Ok(None),
        EngineChoice::Auto | EngineChoice::IoUring => {}
    }
    match Ring::new(options.queue_depth, Arc::clone(file)) {
        Ok(ring) => Ok(Some(ring)),
        Err(error) if options.engine == EngineChoice::IoUring => {
            Err(HostFileError::NoIoUring(error))
        }
        Err(error) => {
            tracing::warn!(%error, "no io_uring: host files are read and written by system calls");
            Ok(None)
        }
    }
}
