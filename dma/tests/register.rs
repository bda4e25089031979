//! A caller's own memory: our verdict is the kernel's, refusals say why, parts are buffers.
//! The kernel is asked by registering the same mapping as an io_uring fixed buffer, which takes
//! the same long-term pins as VFIO does.
#![allow(clippy::unwrap_used, clippy::expect_used)]
mod support;

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};
use std::path::{Path, PathBuf};
use support::{MockMapper, WatchLog};
use underpin_dma::{DmaSpace, Error, SpaceOptions};

const LEN: usize = 64 << 10;
const RW: libc::c_int = libc::PROT_READ | libc::PROT_WRITE;

/// A mapping of the test's own; unmapped on drop.
#[derive(Debug)]
struct Mapping {
    address: *mut u8,
    len: usize,
}

// SAFETY: it is an address and a length; nobody makes references from it.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `map`, and whoever uses it owns this value.
        unsafe { libc::munmap(self.address.cast(), self.len) };
    }
}

fn map(file: Option<&File>, prot: libc::c_int, flags: libc::c_int) -> Mapping {
    map_at(std::ptr::null_mut(), LEN, file, prot, flags)
}

fn map_at(
    at: *mut u8,
    len: usize,
    file: Option<&File>,
    prot: libc::c_int,
    flags: libc::c_int,
) -> Mapping {
    let (fd, anonymous) = file.map_or((-1, libc::MAP_ANONYMOUS), |file| (file.as_raw_fd(), 0));
    // SAFETY: a fresh mapping, or one placed over part of a mapping that the test made for that.
    let address = unsafe { libc::mmap(at.cast(), len, prot, flags | anonymous, fd, 0) };
    assert_ne!(
        address,
        libc::MAP_FAILED,
        "{}",
        std::io::Error::last_os_error()
    );
    Mapping {
        address: address.cast(),
        len,
    }
}

fn memfd() -> File {
    let name = CString::new("test").unwrap();
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: the name is NUL-terminated and outlives the call.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), flags) };
    assert!(fd >= 0);
    // SAFETY: the descriptor was just made and is nobody else's.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(LEN as u64).unwrap();
    file
}

fn file_in(folder: &Path) -> File {
    let file = tempfile::tempfile_in(folder).unwrap();
    file.set_len(LEN as u64).unwrap();
    file
}

/// A folder on a filesystem with writeback of its own. Without one the test could not tell a
/// verdict that always says yes from a right one.
fn on_disk() -> PathBuf {
    let candidates = [env!("CARGO_TARGET_TMPDIR"), "/var/tmp", "/tmp", "/"];
    for folder in candidates.map(PathBuf::from) {
        let stat = std::process::Command::new("stat")
            .args(["-f", "-c", "%T"])
            .arg(&folder)
            .output()
            .unwrap();
        let kind = String::from_utf8(stat.stdout).unwrap();
        if ["ext2/ext3", "xfs", "btrfs"].contains(&kind.trim()) {
            return folder;
        }
    }
    panic!("none of {candidates:?} is on ext4, XFS or btrfs: this test needs such a folder");
}

/// The kernel's verdict: does it pin the range for long?
fn kernel_pins(address: *mut u8, len: usize) -> Result<(), std::io::Error> {
    let ring = io_uring::IoUring::new(1).expect("io_uring is needed to ask the kernel");
    let buffer = libc::iovec {
        iov_base: address.cast(),
        iov_len: len,
    };
    // SAFETY: the kernel writes nothing: no request is ever submitted; the ring is closed, and
    // the pins given back, before the caller unmaps the range.
    unsafe { ring.submitter().register_buffers(&[buffer]) }?;
    ring.submitter().unregister_buffers()
}

fn we_pin(address: *mut u8, len: usize) -> Result<(), Error> {
    let space = DmaSpace::new();
    // SAFETY: the test's mapping outlives the region, which is dropped here.
    unsafe { space.register_memory("case", address, len as u64, ()) }.map(drop)
}

/// For every kind of mapping that we could think of: the kernel would pin it, or we refuse it,
/// and never both or neither.
#[test]
fn our_verdict_is_the_kernels() {
    let disk = on_disk();
    let (shared, private) = (libc::MAP_SHARED, libc::MAP_PRIVATE);
    // Named to fool whoever goes by names: `/memfd:NAME (deleted)` is what memfds look like.
    let named = tempfile::Builder::new()
        .prefix("memfd:")
        .tempfile_in(&disk)
        .unwrap();
    named.as_file().set_len(LEN as u64).unwrap();
    let with_a_name = map(Some(named.as_file()), RW, shared);
    let read_only = |prot| map(Some(&file_in(Path::new("/dev/shm"))), prot, shared);
    let short = {
        let file = file_in(Path::new("/dev/shm"));
        file.set_len(4096).unwrap();
        map(Some(&file), RW, shared)
    };
    let holed = map(None, RW, private);
    // SAFETY: one page in the middle of the test's own mapping, which nobody uses.
    unsafe { libc::munmap(holed.address.add(LEN / 2).cast(), 4096) };
    let mixed = |file: &File| {
        let whole = map(None, RW, private);
        // SAFETY: half of the test's own mapping is replaced; dropping `whole` unmaps all of it.
        let half = unsafe { whole.address.add(LEN / 2) };
        let part = map_at(half, LEN / 2, Some(file), RW, shared | libc::MAP_FIXED);
        std::mem::forget(part);
        whole
    };
    let zero = File::options()
        .read(true)
        .write(true)
        .open("/dev/zero")
        .unwrap();
    let opened_read_only = {
        let named = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
        named.as_file().set_len(LEN as u64).unwrap();
        let file = File::open(named.path()).unwrap();
        (
            map(Some(&file), libc::PROT_READ, shared),
            map(Some(&file), RW, private),
        )
    };
    // Memory that the kernel itself cannot read, where it is built in and allowed.
    // SAFETY: makes a descriptor, or fails.
    let secret = unsafe { libc::syscall(libc::SYS_memfd_secret, 0) };
    let secret = (secret >= 0).then(|| {
        // SAFETY: the descriptor was just made and is nobody else's.
        let file = unsafe { File::from_raw_fd(i32::try_from(secret).unwrap()) };
        file.set_len(LEN as u64).unwrap();
        ("memfd_secret", map(Some(&file), RW, shared), false)
    });
    // Huge pages, where some are reserved.
    let huge = |what, flags| {
        let flags = flags | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB | libc::MAP_HUGE_2MB;
        let len = 2 << 20;
        // SAFETY: a fresh mapping.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), len, RW, flags, -1, 0) };
        let mapping = (address != libc::MAP_FAILED).then(|| Mapping {
            address: address.cast(),
            len,
        });
        mapping.map(|mapping| (what, mapping, true))
    };
    let huge = [
        huge("huge pages, shared", shared),
        huge("huge pages, private", private),
    ];
    // (what, mapping, expected): the last column is what is documented, checked too so that the
    // kernel and we cannot be wrong together without notice.
    let cases = [
        ("memfd, shared", map(Some(&memfd()), RW, shared), true),
        ("memfd, private", map(Some(&memfd()), RW, private), true),
        ("anonymous, private", map(None, RW, private), true),
        ("anonymous, shared", map(None, RW, shared), true),
        (
            "tmpfs file, shared",
            map(Some(&file_in(Path::new("/dev/shm"))), RW, shared),
            true,
        ),
        ("/dev/zero, shared", map(Some(&zero), RW, shared), true),
        ("/dev/zero, private", map(Some(&zero), RW, private), true),
        (
            "disk file, shared",
            map(Some(&file_in(&disk)), RW, shared),
            false,
        ),
        ("disk file with a name, shared", with_a_name, false),
        (
            "disk file, private",
            map(Some(&file_in(&disk)), RW, private),
            true,
        ),
        (
            "disk file, private, read-only",
            map(Some(&file_in(&disk)), libc::PROT_READ, private),
            false,
        ),
        (
            "tmpfs, shared, read-only",
            read_only(libc::PROT_READ),
            false,
        ),
        ("tmpfs, no access", read_only(libc::PROT_NONE), false),
        ("tmpfs, opened read-only", opened_read_only.0, false),
        ("tmpfs, opened read-only, private", opened_read_only.1, true),
        ("tmpfs, shorter than its mapping", short, false),
        ("a hole in the middle", holed, false),
        ("anonymous and memfd", mixed(&memfd()), true),
        ("anonymous and disk file", mixed(&file_in(&disk)), false),
    ];
    let (mut pinned, mut refused) = (0, 0);
    let absent_here = huge.into_iter().flatten().chain(secret);
    for (what, mapping, expected) in cases.into_iter().chain(absent_here) {
        let kernel = kernel_pins(mapping.address, mapping.len);
        let ours = we_pin(mapping.address, mapping.len);
        println!("{what}: kernel {kernel:?}, ours {ours:?}");
        assert_eq!(kernel.is_ok(), ours.is_ok(), "{what}");
        assert_eq!(ours.is_ok(), expected, "{what}");
        if let Err(error) = ours {
            assert!(
                matches!(error, Error::NotPinnable { .. }),
                "{what}: {error}"
            );
            let says = error.to_string().contains("PROT_WRITE");
            let concerns = what.ends_with("read-only") || what.ends_with("no access");
            assert_eq!(says, concerns, "{what}: {error}");
            refused += 1;
        } else {
            pinned += 1;
        }
    }
    assert!(
        pinned >= 10 && refused >= 9,
        "{pinned} pinned, {refused} refused"
    );
}

/// A file is judged by what it is, not by a mapping; the refusal names filesystem and way out.
#[test]
fn files_are_judged_by_their_filesystem() {
    let space = DmaSpace::new();
    let register = |file: File| space.register_file("file", file, 0, LEN as u64).map(drop);
    register(memfd()).unwrap();
    register(file_in(Path::new("/dev/shm"))).unwrap();
    let text = register(file_in(&on_disk())).unwrap_err().to_string();
    for word in ["writeback", "EFAULT", "6.5", "memfd", "tmpfs"] {
        assert!(text.contains(word), "{word} is not in: {text}");
    }
    assert!(
        ["ext4", "XFS", "btrfs"]
            .iter()
            .any(|name| text.contains(name)),
        "{text}"
    );
    for other in ["/dev/zero", "/dev", "/proc/self/maps"] {
        let error = register(File::open(other).unwrap()).unwrap_err();
        assert!(
            matches!(error, Error::NotPinnable { .. }),
            "{other}: {error}"
        );
    }
    assert_eq!(space.stats().regions, 0);
}

/// Ranges that are no whole pages, or not within the file, and files that cannot be written.
#[test]
fn bad_ranges_of_files_are_refused() {
    let space = DmaSpace::new();
    let len = LEN as u64;
    for (offset, len_bytes) in [
        (0, 0),
        (0, 100),
        (100, 4096),
        (0, len + 4096),
        (len, 4096),
        (u64::MAX - 4095, 4096),
        (0, u64::MAX - 4095),
    ] {
        let error = space.register_file("range", memfd(), offset, len_bytes);
        let error = error.map(drop).unwrap_err();
        assert!(
            matches!(error, Error::BadRequest { .. }),
            "{offset}+{len_bytes}: {error}"
        );
    }
    let named = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
    named.as_file().set_len(len).unwrap();
    let read_only = File::open(named.path()).unwrap();
    let error = space.register_file("ro", read_only, 0, len).unwrap_err();
    assert!(
        error.to_string().contains("for reading and writing"),
        "{error}"
    );
    for (address, len_bytes) in [(0x1000 as *mut u8, 100), (0x1001 as *mut u8, 4096)] {
        // SAFETY: refused for its alignment before anything looks there.
        let error = unsafe { space.register_memory("odd", address, len_bytes, ()) };
        assert!(matches!(error.unwrap_err(), Error::BadRequest { .. }));
    }
    assert_eq!(space.stats().regions, 0);
}

/// An isolated space takes none of the caller's memory, and lets the owner go at once.
#[test]
fn an_isolated_space_refuses_both() {
    let space = DmaSpace::isolated();
    let error = space.register_file("f", memfd(), 0, LEN as u64);
    assert!(matches!(error.unwrap_err(), Error::Isolated { .. }));
    let mapping = map(None, RW, libc::MAP_PRIVATE);
    let owner = std::sync::Arc::new(());
    let address = mapping.address;
    // SAFETY: the mapping lives to the end of the test.
    let error = unsafe { space.register_memory("m", address, LEN as u64, owner.clone()) };
    assert!(matches!(error.unwrap_err(), Error::Isolated { .. }));
    assert_eq!(std::sync::Arc::strong_count(&owner), 1);
}

/// What goes through a buffer is in the file, at the file's offset, and the other way round; the
/// memory has a fd for contexts that need one; the memfd cannot be shortened any more.
#[test]
fn a_registered_file_is_shared_with_its_buffers() {
    use std::os::unix::fs::FileExt;
    let space = DmaSpace::new();
    let file = memfd();
    let region = space
        .register_file("file", file.try_clone().unwrap(), 8192, 16384)
        .unwrap();
    let mut buf = region.buf(4096, 512).unwrap();
    buf.copy_from(0, b"written by a device").unwrap();
    let mut seen = [0; 19];
    file.read_exact_at(&mut seen, 8192 + 4096).unwrap();
    assert_eq!(&seen, b"written by a device");
    file.write_all_at(b"by the file", 8192 + 4096).unwrap();
    let mut seen = [0; 11];
    buf.copy_to(0, &mut seen).unwrap();
    assert_eq!(&seen, b"by the file");
    assert_eq!(buf.iova(), region.iova().wrapping_add(4096));
    assert_eq!(region.memory().fd().unwrap().1, 8192);
    assert!(file.set_len(4096).is_err(), "sealed against shrinking");
    file.set_len(2 * LEN as u64).expect("it may still grow");
}

/// The owner lives as long as the region or any of its buffers, and not longer.
#[test]
fn the_owner_lives_as_long_as_its_buffers() {
    let space = DmaSpace::new();
    let mapper = MockMapper::new("dev");
    let attachment = space.attach(mapper.clone()).unwrap();
    let mapping = std::sync::Arc::new(map(None, RW, libc::MAP_PRIVATE));
    let (address, len) = (mapping.address, LEN as u64);
    // SAFETY: the owner given along unmaps the range when it is dropped.
    let region = unsafe { space.register_memory("mine", address, len, mapping.clone()) };
    let region = region.unwrap();
    assert_eq!(mapper.mapped(), [(region.iova(), len)]);
    let buf = region.buf(0, 4096).unwrap();
    drop(region);
    assert_eq!(std::sync::Arc::strong_count(&mapping), 2);
    assert_eq!(mapper.mapped().len(), 1, "a buffer keeps its region mapped");
    drop(buf);
    assert_eq!(mapper.mapped(), []);
    assert_eq!(std::sync::Arc::strong_count(&mapping), 1);
    drop(attachment);
}

/// R32 for memory that is not ours: while a device may still reach it, its owner is not let go,
/// because what lies there would become somebody else's. However the proof was missed, and
/// whoever else is gone since.
#[test]
fn the_owner_is_never_let_go_without_proof() {
    for region_first in [false, true] {
        let space = DmaSpace::new();
        let mapper = MockMapper::new("dev");
        let attachment = space.attach(mapper.clone()).unwrap();
        let mapping = std::sync::Arc::new(map(None, RW, libc::MAP_PRIVATE));
        let (address, len) = (mapping.address, LEN as u64);
        // SAFETY: the owner given along unmaps the range when it is dropped.
        let region = unsafe { space.register_memory("mine", address, len, mapping.clone()) };
        let region = region.unwrap();
        mapper.refuse_unmap(true);
        if region_first {
            drop(region);
            attachment.detach().unwrap();
        } else {
            attachment.detach().unwrap_err();
            drop(space);
            drop(region);
        }
        mapper.assert_sound();
        drop(mapper);
        assert_eq!(std::sync::Arc::strong_count(&mapping), 2);
    }
}

/// A part is in one buffer at a time; the referee is told of the region as a whole.
#[test]
fn parts_do_not_overlap_and_the_watcher_is_told_once() {
    let watch = WatchLog::new();
    let space = DmaSpace::with_options(SpaceOptions {
        watch: Some(watch.clone()),
        ..SpaceOptions::default()
    });
    let region = space.register_file("file", memfd(), 0, LEN as u64).unwrap();
    let first = region.buf(0, 4096).unwrap();
    let second = region.buf(4096, LEN - 4096).unwrap();
    for (offset, len) in [(0, 4096), (4095, 2), (LEN - 1, 1), (0, LEN)] {
        let error = region.buf(offset, len).unwrap_err().to_string();
        assert!(error.contains("another buffer"), "{error}");
    }
    for (offset, len) in [(0, 0), (LEN, 1), (usize::MAX, 2), (1, LEN)] {
        let error = region.buf(offset, len).unwrap_err().to_string();
        assert!(error.contains("do not lie within"), "{error}");
    }
    drop((first, second));
    drop(region.buf(0, LEN).unwrap());
    let all = [(region.iova(), LEN as u64)];
    assert_eq!(watch.lent_now(), all);
    drop(region);
    assert_eq!(watch.lent_now(), []);
    watch.assert_sound();

    let pool = space.pool(
        "pool",
        underpin_dma::PoolOptions {
            buf_bytes: 4096,
            count: 2,
        },
    );
    let error = pool.unwrap().region().buf(0, 4096).unwrap_err();
    assert!(error.to_string().contains("pool"), "{error}");
}
