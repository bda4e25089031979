//! What the kernel takes to pin pages for I/O: io_uring's registration of a buffer, and the end of
//! it. Its pins are of the same kind (`FOLL_PIN`), only that nothing asks them at writeback.
#![allow(unsafe_code)]
use io_uring::IoUring;
use std::error::Error;
use std::io;
use underpin::dma::rt::Instant;

const TURNS: usize = 2000;
const LEN_BYTES: usize = 2 << 20;

/// A ring, and memory to be registered.
pub(crate) struct Registration {
    ring: IoUring,
    memory: Mapping,
}

impl Registration {
    pub(crate) fn new() -> Result<Self, Box<dyn Error>> {
        Ok(Self {
            ring: IoUring::new(4)?,
            memory: Mapping::new(0)?,
        })
    }

    /// One page of 4 KiB.
    pub(crate) fn one_page(&self) -> Result<f64, Box<dyn Error>> {
        Ok(register(&self.ring, &self.memory, 4096, TURNS)?)
    }

    /// Of 512 pages at once, one page's part.
    pub(crate) fn per_page_of_512(&self) -> Result<f64, Box<dyn Error>> {
        Ok(register(&self.ring, &self.memory, LEN_BYTES, TURNS / 10)? / 512.0)
    }

    /// Of a huge page, 4 KiB's part.
    pub(crate) fn per_page_of_huge(&self) -> Result<f64, Box<dyn Error>> {
        let huge = Mapping::new(libc::MAP_HUGETLB)?;
        Ok(register(&self.ring, &huge, LEN_BYTES, TURNS)? / 512.0)
    }
}

/// Nanoseconds of one registration and its end.
fn register(ring: &IoUring, memory: &Mapping, len_bytes: usize, turns: usize) -> io::Result<f64> {
    let vector = libc::iovec {
        iov_base: memory.0,
        iov_len: len_bytes,
    };
    let began = Instant::now();
    for _ in 0..turns {
        // SAFETY: the memory stays mapped for longer than it is registered, and no I/O is done.
        unsafe { ring.submitter().register_buffers(&[vector]) }?;
        ring.submitter().unregister_buffers()?;
    }
    Ok(Instant::now().since(began).as_secs_f64() * 1e9 / turns as f64)
}

/// Anonymous memory, all of it there.
struct Mapping(*mut libc::c_void);

impl Mapping {
    fn new(flags: libc::c_int) -> io::Result<Self> {
        // SAFETY: a new private mapping, at an address of the kernel's choice.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                LEN_BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE | flags,
                -1,
                0,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(at))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours alone, and nothing refers to it any more.
        unsafe { libc::munmap(self.0, LEN_BYTES) };
    }
}
