//! A caller's own memory in a space: files that live in memory, and mappings it already has.
//! Refused where Linux would refuse the pin, with the reason; refused in an isolated space.
#![allow(unsafe_code)]
use crate::pinnable::{self, Refusal};
use crate::{DmaSpace, Error, Memory, PageSize, Region, sys};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

impl DmaSpace {
    /// Maps `len_bytes` of `file` from `offset` on, shared, and makes them a region: what a device
    /// writes there is in the file at once, for every process that has it.
    ///
    /// The file must live in memory: a memfd, or a file on tmpfs or hugetlbfs. All its pages in
    /// the range are brought in now, so a full filesystem is an error here, not a signal later.
    /// A memfd that can still be sealed is sealed against shrinking. Any other file must not be
    /// made shorter, nor holes be punched into it, while it is registered: a device would go on
    /// with the old pages, and this process would get `SIGBUS` past the end.
    ///
    /// The region is dropped like any other; the file keeps what was written.
    ///
    /// ```
    /// use underpin_dma::{DmaSpace, Error};
    ///
    /// let space = DmaSpace::new();
    /// let file = tempfile::tempfile_in("/dev/shm").unwrap();
    /// file.set_len(1 << 20).unwrap();
    /// let region = space.register_file("table", file, 0, 1 << 20)?;
    /// let mut buf = region.buf(0, 4096)?;
    /// buf.copy_from(0, b"a device may read this")?;
    ///
    /// // A file that does not live in memory is refused, with the reason.
    /// let other = std::fs::File::open("/proc/version").unwrap();
    /// let error = space.register_file("other", other, 0, 4096).unwrap_err();
    /// assert!(matches!(error, Error::NotPinnable { .. }));
    /// # Ok::<(), Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Isolated`]; [`Error::NotPinnable`] with the reason and what to use instead;
    /// [`Error::BadRequest`] when the range is no whole pages or ends past the file;
    /// [`Error::Memory`] when the system refuses, as for a file open only for reading; and those
    /// of [`region`](Self::region).
    pub fn register_file(
        &self,
        name: &str,
        file: impl Into<OwnedFd>,
        offset: u64,
        len_bytes: u64,
    ) -> Result<Arc<Region>, Error> {
        self.check_shared(name, len_bytes)?;
        let file = File::from(file.into());
        let refused = |refusal| refused(name, offset, len_bytes, refusal);
        let page = pinnable::file(&file).map_err(refused)?;
        check_pages(name, offset, len_bytes, page)?;
        let file_bytes = file
            .metadata()
            .map_err(|error| refused(Refusal::Unknown("fstat", error)))?
            .len();
        if offset
            .checked_add(len_bytes)
            .is_none_or(|end| end > file_bytes)
        {
            return Err(Error::BadRequest {
                name: name.to_owned(),
                what: format!(
                    "{len_bytes} bytes from {offset} end past the file's {file_bytes} bytes; \
                     make it longer first"
                ),
            });
        }
        // Refused by files that are no memfd, and by memfds whose owner decided: no need of ours.
        let _ = sys::seal(&file, libc::F_SEAL_SHRINK);
        let memory = Memory::of_file(name, file, offset, len_bytes)?;
        memory
            .populate()
            .map_err(|error| unpopulated(name, offset, len_bytes, error))?;
        self.add(name, memory, self.whole(len_bytes))
    }

    /// Makes `len_bytes` of memory that this process has mapped at `address` a region.
    ///
    /// It must be mapped readable and writable, and be anonymous memory, a memfd, a file on tmpfs
    /// or hugetlbfs, or a *private* mapping of any file: there devices see the process's copies of
    /// the pages, which are made now, and the file never changes. All pages are brought in now.
    /// From then on children made by `fork` do not have this memory (`MADV_DONTFORK`), also after
    /// the region has ended.
    ///
    /// `owner` is whatever keeps the memory mapped: it is dropped when no device can reach the
    /// memory any more, at once if this fails, and never when a context cannot prove that.
    ///
    /// vfio-user connections need a file to share memory with their server: give them
    /// [`register_file`](Self::register_file).
    ///
    /// # Errors
    /// [`Error::Isolated`]; [`Error::NotPinnable`] with the mapping that is in the way, the reason
    /// and what to use instead; [`Error::BadRequest`] when the range is no whole pages;
    /// [`Error::Memory`], and those of [`region`](Self::region).
    ///
    /// # Safety
    /// From this call until `owner` is dropped, nobody unmaps, remaps or protects any part of
    /// `address..address + len_bytes`, and nobody holds a Rust reference into it: devices and this
    /// crate may write it at any time. Make references only between transfers, while no command
    /// that could touch them is in flight.
    pub unsafe fn register_memory(
        &self,
        name: &str,
        address: *mut u8,
        len_bytes: u64,
        owner: impl Send + Sync + 'static,
    ) -> Result<Arc<Region>, Error> {
        self.check_shared(name, len_bytes)?;
        let at = address as u64;
        check_pages(name, at, len_bytes, PageSize::Small.bytes())?;
        let len = usize::try_from(len_bytes).ok();
        let len = len.filter(|_| at.checked_add(len_bytes).is_some());
        let len = len.ok_or_else(|| Error::BadRequest {
            name: name.to_owned(),
            what: format!("{len_bytes} bytes at {at:#x} end past the address space"),
        })?;
        pinnable::range(at, len_bytes).map_err(|refusal| refused(name, at, len_bytes, refusal))?;
        // SAFETY: the range was just seen to be mapped, and the caller keeps it so; devices may
        // write it from now on, so write faults are expected.
        unsafe { sys::populate(address, len) }
            .map_err(|error| unpopulated(name, at, len_bytes, error))?;
        // SAFETY: mapped readable and writable, as was just seen; the rest is the caller's promise.
        let memory = unsafe { Memory::adopt(name, address, len_bytes, owner) }?;
        self.add(name, memory, self.whole(len_bytes))
    }

    /// What is refused before anything is looked at.
    fn check_shared(&self, name: &str, len_bytes: u64) -> Result<(), Error> {
        if self.is_isolated() {
            return Err(Error::Isolated {
                name: name.to_owned(),
            });
        }
        self.check_limit(name, len_bytes)
    }
}

fn check_pages(name: &str, first: u64, len_bytes: u64, page: u64) -> Result<(), Error> {
    let whole = |number: u64| number.checked_rem(page) == Some(0);
    if len_bytes > 0 && whole(first) && whole(len_bytes) {
        return Ok(());
    }
    Err(Error::BadRequest {
        name: name.to_owned(),
        what: format!("{len_bytes} bytes at {first:#x} are not whole pages of {page} bytes"),
    })
}

fn refused(name: &str, address: u64, len_bytes: u64, refusal: Refusal) -> Error {
    match refusal {
        Refusal::Why(why) => Error::NotPinnable {
            name: name.to_owned(),
            address,
            len_bytes,
            why,
        },
        Refusal::Unknown(step, source) => Error::Memory {
            name: name.to_owned(),
            step,
            len_bytes,
            hint: if step.contains("/proc") {
                "; without it nothing says whether the memory can be pinned: mount /proc"
            } else {
                ""
            },
            source,
        },
    }
}

/// The kernel's own word, where it could not bring the pages in as a pin would.
fn unpopulated(name: &str, address: u64, len_bytes: u64, source: io::Error) -> Error {
    let why = match source.raw_os_error() {
        Some(libc::EFAULT) => {
            "a page cannot be had (EFAULT): the file ends before the range, or its filesystem or \
             the pool of huge pages is full; lengthen the file or make room"
        }
        Some(libc::EINVAL) => {
            "part of it is no ordinary memory (EINVAL), such as a device's registers; use a \
             memfd or anonymous memory"
        }
        _ => {
            return Error::Memory {
                name: name.to_owned(),
                step: "populating",
                len_bytes,
                hint: "; is there enough free memory?",
                source,
            };
        }
    };
    Error::NotPinnable {
        name: name.to_owned(),
        address,
        len_bytes,
        why: why.to_owned(),
    }
}
