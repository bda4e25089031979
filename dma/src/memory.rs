//! Memory that a device may reach: sealed memfds, mapped shared, kept out of children.
//! One of the few modules with `unsafe`: the mapping itself.
#![allow(unsafe_code)]
use crate::rt::sync::Mutex;
use crate::{Error, OutOfBounds, View, pinnable, sys};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use vm_memory::mmap::{MmapRegion, MmapRegionBuilder, MmapRegionError};
use vm_memory::{FileOffset, VolatileMemory};

/// Which pages back a memory.
///
/// ```
/// use underpin_dma::{DmaSpace, PageSize, SpaceOptions};
///
/// assert_eq!((PageSize::Small.bytes(), PageSize::Huge2M.bytes()), (4096, 2 << 20));
/// let options = SpaceOptions { pages: PageSize::Small, ..SpaceOptions::default() };
/// assert_eq!(DmaSpace::with_options(options).page_bytes(), 4096);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PageSize {
    /// Ordinary 4 KiB pages, which the kernel may merge into transparent huge pages.
    #[default]
    Small,
    /// 2 MiB pages from the system's hugetlb pool. Optional: nothing in Underpin needs them.
    Huge2M,
}

impl PageSize {
    /// The size of one page.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Small => 4096,
            Self::Huge2M => 2 << 20,
        }
    }
}

/// One mapping of this process that devices may be given. Unmapped on drop.
///
/// No reference to its bytes can be had: a device may write them at any time.
///
/// ```
/// use underpin_dma::{Memory, PageSize};
///
/// let memory = Memory::new("shared", 1 << 20, PageSize::Small)?;
/// memory.view().copy_from(0, b"for both of us")?;
///
/// // Another process is given the descriptor and maps the same pages.
/// let (fd, offset) = memory.fd().expect("it has one");
/// let fd = fd.try_clone_to_owned().unwrap();
/// let theirs = Memory::received("received", fd, offset, 1 << 20, false)?;
/// assert_eq!(theirs.len_bytes(), memory.len_bytes());
/// assert_ne!(theirs.host_address(), memory.host_address());
/// let mut text = [0; 3];
/// theirs.part(0, 16)?.copy_to(0, &mut text)?;
/// assert_eq!(&text, b"for");
/// # Ok::<(), underpin_dma::Error>(())
/// ```
#[derive(Debug)]
pub struct Memory {
    map: MmapRegion,
    /// What the caller wants kept alive as long as the mapping, for memory of the caller's own.
    _owner: Option<Owner>,
}

/// Whatever keeps a caller's memory mapped.
struct Owner(#[expect(dead_code, reason = "held for its drop")] Box<dyn Send + Sync>);

impl std::fmt::Debug for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Owner")
    }
}

impl Memory {
    /// Makes `len_bytes` of zeroed memory behind a memfd that can neither shrink nor grow.
    ///
    /// # Errors
    /// [`Error::BadRequest`] when the length is zero or no multiple of the page size;
    /// [`Error::Memory`] when the system refuses, with what to do.
    pub fn new(name: &str, len_bytes: u64, pages: PageSize) -> Result<Arc<Self>, Error> {
        if len_bytes == 0 || !len_bytes.is_multiple_of(pages.bytes()) {
            return Err(Error::BadRequest {
                name: name.to_owned(),
                what: format!(
                    "{len_bytes} bytes is not a positive multiple of {}",
                    pages.bytes()
                ),
            });
        }
        let fail = |step, hint| {
            move |source| Error::Memory {
                name: name.to_owned(),
                step,
                len_bytes,
                hint,
                source,
            }
        };
        let hint = match pages {
            PageSize::Small => "; is there enough free memory, and is RLIMIT_AS high enough?",
            PageSize::Huge2M => {
                "; reserve huge pages (sysctl vm.nr_hugepages=N) or use PageSize::Small"
            }
        };
        let made = match pages {
            PageSize::Small => "; are too many files open (RLIMIT_NOFILE)?",
            PageSize::Huge2M => "; use PageSize::Small where the kernel has no 2 MiB pages",
        };
        let file = sys::memfd(name, pages).map_err(fail("memfd_create", made))?;
        file.set_len(len_bytes).map_err(fail("resizing", ""))?;
        // Sealed, so that a peer that holds the fd cannot truncate it under us (SIGBUS).
        let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
        sys::seal(&file, seals).map_err(fail("sealing", ""))?;
        let memory = Self::map(name, file, 0, len_bytes, hint)?;
        if pages == PageSize::Small {
            // A wish, not a need: refused where transparent huge pages are off for memfds.
            let _ = memory.advise(libc::MADV_HUGEPAGE);
        }
        Ok(Arc::new(memory))
    }

    /// Maps a part of a caller's file, shared. What the file may be is the caller's to check.
    pub(crate) fn of_file(
        name: &str,
        file: File,
        offset: u64,
        len_bytes: u64,
    ) -> Result<Arc<Self>, Error> {
        let hint = "; the file must be open for reading and writing";
        Self::map(name, file, offset, len_bytes, hint).map(Arc::new)
    }

    /// Maps memory that another process has given us by descriptor: `len_bytes` of it from
    /// `offset` on. The file must live in memory and be as long as that says; and unless
    /// `unsealed` allows it, it must be sealed against shrinking, or be such that we can seal it:
    /// whoever could shrink it would end this process with SIGBUS.
    ///
    /// # Errors
    /// [`Error::BadRequest`] for a file that is not fit, with the reason; [`Error::Memory`] when
    /// the system refuses, as for a descriptor open only for reading.
    pub fn received(
        name: &str,
        file: OwnedFd,
        offset: u64,
        len_bytes: u64,
        unsealed: bool,
    ) -> Result<Arc<Self>, Error> {
        let bad = |what: String| Error::BadRequest {
            name: name.to_owned(),
            what,
        };
        let file = File::from(file);
        let page = pinnable::file(&file).map_err(|refusal| match refusal {
            pinnable::Refusal::Why(why) => bad(why),
            pinnable::Refusal::Unknown(step, source) => Error::Memory {
                name: name.to_owned(),
                step,
                len_bytes,
                hint: "",
                source,
            },
        })?;
        if len_bytes == 0 || !len_bytes.is_multiple_of(page) || !offset.is_multiple_of(page) {
            return Err(bad(format!(
                "{len_bytes} bytes at {offset:#x} are not whole pages of {page} bytes"
            )));
        }
        // Refused by files that are no memfd, and by memfds whose owner decided.
        let _ = sys::seal(&file, libc::F_SEAL_SHRINK);
        let sealed = sys::seals(&file).is_ok_and(|seals| seals & libc::F_SEAL_SHRINK != 0);
        if !sealed && !unsealed {
            return Err(bad(
                "its file is not sealed against shrinking (F_SEAL_SHRINK), so its owner could end \
                 this process with SIGBUS; give a sealed memfd, or allow unsealed files"
                    .to_owned(),
            ));
        }
        // Looked at after the seal: shorter it can no longer become.
        let metadata = file.metadata().map_err(|source| Error::Memory {
            name: name.to_owned(),
            step: "fstat",
            len_bytes,
            hint: "",
            source,
        })?;
        if offset
            .checked_add(len_bytes)
            .is_none_or(|end| end > metadata.len())
        {
            return Err(bad(format!(
                "{len_bytes} bytes from {offset:#x} end past the file's {} bytes",
                metadata.len()
            )));
        }
        Self::of_file(name, file, offset, len_bytes)
    }

    /// Maps `len_bytes` of `file` from `offset` on, shared, and keeps it out of children.
    fn map(
        name: &str,
        file: File,
        offset: u64,
        len_bytes: u64,
        hint: &'static str,
    ) -> Result<Self, Error> {
        let fail = |step, hint| {
            move |source| Error::Memory {
                name: name.to_owned(),
                step,
                len_bytes,
                hint,
                source,
            }
        };
        let len = usize::try_from(len_bytes)
            .map_err(|error| fail("mapping", hint)(io::Error::other(error)))?;
        let map = MmapRegion::build(
            Some(FileOffset::new(file, offset)),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
        )
        .map_err(|error| {
            fail("mapping", hint)(match error {
                MmapRegionError::Mmap(source) => source,
                other => io::Error::other(other),
            })
        })?;
        let memory = Self { map, _owner: None };
        // R33: a child must not share pages with our devices.
        memory
            .advise(libc::MADV_DONTFORK)
            .map_err(fail("madvise(DONTFORK)", ""))?;
        Ok(memory)
    }

    /// Brings in every page now, as a pin for a device would.
    pub(crate) fn populate(&self) -> io::Result<()> {
        // SAFETY: the range is our own live mapping, to which a device may write at any time.
        unsafe { sys::populate(self.map.as_ptr(), self.map.size()) }
    }

    /// Wishes that its pages, none of which was touched yet, be taken from a NUMA node.
    pub(crate) fn prefer_node(&self, node: u32) -> io::Result<()> {
        // SAFETY: the range is our own live mapping.
        unsafe { sys::prefer_node(self.map.as_ptr(), self.map.size(), node) }
    }

    /// Adopts a mapping of the caller's own. It is kept out of children from now on
    /// (`MADV_DONTFORK`), and stays so: nobody else can tell when the last device has let go.
    ///
    /// # Errors
    /// [`Error::BadRequest`] when the address or length is not page-aligned;
    /// [`Error::Memory`] when the system refuses the advice.
    ///
    /// # Safety
    /// `address..address + len_bytes` is mapped readable and writable, stays so until `owner` is
    /// dropped, and nobody holds or makes a Rust reference into it while a device or this crate
    /// may touch it.
    pub unsafe fn adopt(
        name: &str,
        address: *mut u8,
        len_bytes: u64,
        owner: impl Send + Sync + 'static,
    ) -> Result<Arc<Self>, Error> {
        let page = PageSize::Small.bytes();
        let len = usize::try_from(len_bytes).unwrap_or(0);
        if len == 0 || !len_bytes.is_multiple_of(page) || !(address as u64).is_multiple_of(page) {
            return Err(Error::BadRequest {
                name: name.to_owned(),
                what: format!(
                    "{len_bytes} bytes at {address:p} are not whole pages of {page} bytes"
                ),
            });
        }
        // SAFETY: the caller promises that the range is mapped and stays mapped.
        let builder = unsafe { MmapRegionBuilder::new(len).with_raw_mmap_pointer(address) };
        let map = builder
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(libc::MAP_SHARED)
            .build()
            .map_err(|error| Error::Memory {
                name: name.to_owned(),
                step: "adopting",
                len_bytes,
                hint: "",
                source: io::Error::other(error),
            })?;
        let memory = Self {
            map,
            _owner: Some(Owner(Box::new(owner))),
        };
        memory
            .advise(libc::MADV_DONTFORK)
            .map_err(|source| Error::Memory {
                name: name.to_owned(),
                step: "madvise(DONTFORK)",
                len_bytes,
                hint: "",
                source,
            })?;
        Ok(Arc::new(memory))
    }

    /// Keeps memory that a device may write at any later time, to the end of the process: it
    /// must never become somebody else's.
    pub(crate) fn keep_for_ever(memory: Arc<Self>) {
        // Listed, not forgotten, so that leak checkers tell it from a leak.
        static KEPT: Mutex<Vec<Arc<Memory>>> = Mutex::new(Vec::new());
        KEPT.lock().push(memory);
    }

    /// How long the memory is.
    pub fn len_bytes(&self) -> usize {
        self.map.size()
    }

    /// The memfd behind it and the offset of its first byte; `None` for adopted memory.
    pub fn fd(&self) -> Option<(BorrowedFd<'_>, u64)> {
        self.map
            .file_offset()
            .map(|file| (file.file().as_fd(), file.start()))
    }

    /// Where it is mapped in this process, as a number: for the kernel's mapping calls.
    pub fn host_address(&self) -> u64 {
        self.map.as_ptr() as u64
    }

    /// The whole memory.
    pub fn view(&self) -> View<'_> {
        View::new(self.map.as_volatile_slice())
    }

    /// A part of it.
    ///
    /// # Errors
    /// [`OutOfBounds`] when it does not lie within.
    pub fn part(&self, offset: usize, len_bytes: usize) -> Result<View<'_>, OutOfBounds> {
        self.view().part(offset, len_bytes)
    }

    fn advise(&self, advice: libc::c_int) -> io::Result<()> {
        // SAFETY: the range is our own live mapping, and neither DONTFORK nor HUGEPAGE changes
        // its contents or protection.
        unsafe { sys::advise(self.map.as_ptr(), self.map.size(), advice) }
    }
}
