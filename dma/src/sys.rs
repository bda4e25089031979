//! The system calls behind DMA memory, each with its result as `io::Result`.
//! One of the few modules with `unsafe`: nothing else in it is clever.
#![allow(unsafe_code)]
use crate::PageSize;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};

/// The longest name a memfd may have is 249 bytes; whoever reads /proc/self/maps needs fewer.
const NAME_BYTES: usize = 200;

/// A new memfd of length 0 that can be sealed.
pub(crate) fn memfd(name: &str, pages: PageSize) -> io::Result<File> {
    let mut flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    if pages == PageSize::Huge2M {
        flags |= libc::MFD_HUGETLB | libc::MFD_HUGE_2MB;
    }
    let mut end = name.len().min(NAME_BYTES);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    let name = name[..end].replace('\0', "_");
    let name = std::ffi::CString::new(name).map_err(io::Error::other)?;
    // SAFETY: the name is a NUL-terminated string that outlives the call.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Adds `seals` (`F_SEAL_*`) to a memfd.
pub(crate) fn seal(file: &File, seals: libc::c_int) -> io::Result<()> {
    // SAFETY: fcntl with an integer argument touches no memory of ours.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) })
}

/// The seals (`F_SEAL_*`) that a file has.
pub(crate) fn seals(file: &File) -> io::Result<libc::c_int> {
    // SAFETY: fcntl without a pointer touches no memory of ours.
    let seals = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) };
    if seals < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(seals)
}

/// The kind of file system a file lies on (`*_MAGIC` of linux/magic.h) and its block size, which
/// is the page size on hugetlbfs.
pub(crate) fn file_system(file: &File) -> io::Result<(u64, u64)> {
    let mut stat = std::mem::MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the kernel writes one statfs, for which there is room.
    check(unsafe { libc::fstatfs(file.as_raw_fd(), stat.as_mut_ptr()) })?;
    // SAFETY: all of it was zeroed, and every bit pattern is a valid statfs.
    let stat = unsafe { stat.assume_init() };
    // Signed words of differing width on some targets; the magics are 32 bits.
    Ok((stat.f_type as u64 & 0xffff_ffff, stat.f_bsize as u64))
}

/// Brings in every page of the range, writable, as a pin for a device would: what cannot be had
/// is an error now instead of a signal later. Kernels before 5.14 cannot do it: then nothing is
/// done.
///
/// # Safety
/// `address..address + len` is a mapping that the caller may have written to at any time.
pub(crate) unsafe fn populate(address: *mut u8, len: usize) -> io::Result<()> {
    // SAFETY: an empty range changes nothing; it only tells whether the advice is known.
    let known = unsafe { libc::madvise(address.cast(), 0, libc::MADV_POPULATE_WRITE) } == 0;
    if !known {
        return Ok(());
    }
    // SAFETY: populating keeps the contents; the caller allows the write faults.
    check(unsafe { libc::madvise(address.cast(), len, libc::MADV_POPULATE_WRITE) })
}

/// Gives the kernel advice about the mapping `address..address + len`.
///
/// # Safety
/// The advice is one that changes neither contents nor protection, and the mapping is the caller's.
pub(crate) unsafe fn advise(address: *mut u8, len: usize, advice: libc::c_int) -> io::Result<()> {
    // SAFETY: by the caller's promise.
    check(unsafe { libc::madvise(address.cast(), len, advice) })
}

/// Wishes that the memory behind the mapping `address..address + len` be taken from NUMA node
/// `node` while it has some.
///
/// # Safety
/// The mapping is the caller's.
pub(crate) unsafe fn prefer_node(address: *mut u8, len: usize, node: u32) -> io::Result<()> {
    const WORD_BITS: u32 = libc::c_ulong::BITS;
    // As many nodes as any kernel is built for.
    let mut nodes = [0 as libc::c_ulong; 1024 / WORD_BITS as usize];
    let word = nodes.get_mut((node / WORD_BITS) as usize);
    *word.ok_or(io::ErrorKind::InvalidInput)? |= 1 << (node % WORD_BITS);
    let bits = size_of_val(&nodes) * 8;
    // SAFETY: the policy of the caller's own mapping; the kernel reads the mask's bits, less one.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_mbind,
            address,
            len,
            libc::MPOL_PREFERRED,
            nodes.as_ptr(),
            bits,
            0,
        )
    };
    check(rc as libc::c_int)
}

fn check(rc: libc::c_int) -> io::Result<()> {
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
