//! The memory behind regions: it cannot shrink or grow, is not in children, and what the system
//! refuses is a typed error that says what to do.
#![allow(clippy::unwrap_used, clippy::expect_used)]
use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use underpin_dma::{DmaSpace, Error, Memory, PageSize, PoolOptions, SpaceOptions};

/// A peer that holds the fd can neither shrink nor grow the memory under us, nor unseal it.
#[test]
fn the_fd_is_sealed() {
    let memory = Memory::new("sealed", 1 << 20, PageSize::Small).unwrap();
    let (fd, offset) = memory.fd().unwrap();
    assert_eq!(offset, 0);
    let peer = File::from(fd.try_clone_to_owned().unwrap());
    for len in [0, 4096, 2 << 20] {
        let error = peer.set_len(len).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{len}");
    }
    assert_eq!(peer.metadata().unwrap().len(), 1 << 20);
}

/// True when the page at `address` is not mapped in this process. Safe to call after `fork`.
fn absent(address: u64) -> bool {
    let mut resident = 0_u8;
    // SAFETY: mincore only looks at the mapping; one byte of answer for one page.
    let rc = unsafe { libc::mincore(address as *mut libc::c_void, 4096, &raw mut resident) };
    // SAFETY: errno of this thread.
    rc == -1 && unsafe { *libc::__errno_location() } == libc::ENOMEM
}

/// What a forked child answers, which must neither allocate nor lock. It comes by pipe: a checker
/// that runs the test may have a say in the exit status.
fn in_child(child: impl FnOnce() -> bool) -> bool {
    let (mut read, write) = std::io::pipe().unwrap();
    // SAFETY: the child makes system calls only and leaves by _exit.
    match unsafe { libc::fork() } {
        0 => {
            let answer = u8::from(child());
            // SAFETY: one byte that lives; ends the child without running anything of the parent's.
            unsafe {
                libc::write(write.as_raw_fd(), (&raw const answer).cast(), 1);
                libc::_exit(0)
            }
        }
        pid => {
            assert!(pid > 0);
            drop(write);
            let mut answer = [9];
            read.read_exact(&mut answer).expect("the child answers");
            // SAFETY: waits for the child just made.
            assert_eq!(unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) }, pid);
            answer == [1]
        }
    }
}

/// R33: a child shares no page with our devices: regions, pools, heap and registered memory.
#[test]
fn a_child_has_none_of_it() {
    let space = DmaSpace::new();
    let region = space.region("region", 1 << 20).unwrap();
    let options = PoolOptions {
        buf_bytes: 4096,
        count: 4,
    };
    let pool = space.pool("pool", options).unwrap();
    let heap = space.alloc(64, 64).unwrap();
    let ordinary = Memory::new("source", 4096, PageSize::Small).unwrap();
    let file = File::from(ordinary.fd().unwrap().0.try_clone_to_owned().unwrap());
    let registered = space.register_file("file", file, 0, 4096).unwrap();
    let stack = 0_u64;
    let control = (&raw const stack as u64) & !4095;
    let heap_memory = heap.slice().unwrap();
    let heap_at = heap_memory.view().volatile().ptr_guard().as_ptr() as u64 & !4095;
    let addresses = [
        region.memory().host_address(),
        region.memory().host_address() + (1 << 20) - 4096,
        pool.region().memory().host_address(),
        heap_at,
        registered.memory().host_address(),
    ];
    assert!(!addresses.into_iter().any(absent), "they are here");
    assert!(in_child(|| addresses.into_iter().all(absent)));
    assert!(
        !in_child(|| absent(control)),
        "the child does have its stack: the check can tell"
    );
}

/// Huge pages are a wish: without them the error says how to get them or do without, and with
/// them all is as with small pages.
#[test]
fn huge_pages_work_or_say_what_to_do() {
    let says = |error: Error| {
        let text = error.to_string();
        assert!(matches!(error, Error::Memory { .. }), "{text}");
        assert!(text.contains("PageSize::Small"), "{text}");
    };
    // More than any machine has reserved.
    says(Memory::new("too huge", 1 << 45, PageSize::Huge2M).unwrap_err());
    let space = DmaSpace::with_options(SpaceOptions {
        pages: PageSize::Huge2M,
        ..SpaceOptions::default()
    });
    assert_eq!(space.page_bytes(), 2 << 20);
    assert!(matches!(
        space.region("odd", 4096).unwrap_err(),
        Error::BadRequest { .. }
    ));
    match space.region("huge", 2 << 20) {
        Ok(region) => {
            println!("huge pages are there");
            region.memory().view().fill(0, 2 << 20, 1).unwrap();
            assert_eq!(region.memory().host_address() % (2 << 20), 0);
            drop(region);
            let options = PoolOptions {
                buf_bytes: 4096,
                count: 3,
            };
            let pool = space.pool("pool", options).unwrap();
            assert_eq!(pool.region().len_bytes(), 2 << 20, "whole huge pages");
            let file = pool.region().memory().fd().unwrap().0;
            let file = || File::from(file.try_clone_to_owned().unwrap());
            space.register_file("again", file(), 0, 2 << 20).unwrap();
            let error = space.register_file("part", file(), 0, 4096).unwrap_err();
            assert!(matches!(error, Error::BadRequest { .. }), "{error}");
            drop(pool.alloc().unwrap());
        }
        Err(error) => {
            println!("no huge pages: {error}");
            says(error);
        }
    }
    assert_eq!(space.stats().iova_lost_bytes, 0);
}

/// What no system can give is a typed error, not a panic or an abort; a long name is no obstacle.
#[test]
fn impossible_wishes_are_typed_errors() {
    for len in [1 << 62, u64::MAX - 4095] {
        let error = Memory::new("endless", len, PageSize::Small).unwrap_err();
        assert!(matches!(error, Error::Memory { .. }), "{len}: {error}");
    }
    for len in [0, 1, 4095, u64::MAX] {
        let error = Memory::new("odd", len, PageSize::Small).unwrap_err();
        assert!(matches!(error, Error::BadRequest { .. }), "{len}: {error}");
    }
    let long = "é\0".repeat(400);
    let memory = Memory::new(&long, 4096, PageSize::Small).unwrap();
    assert_eq!(memory.len_bytes(), 4096);
    let space = DmaSpace::new();
    for (len, align) in [(0, 1), (1, 0), (1, 3), (1, 4 << 20)] {
        let error = space.alloc(len, align).unwrap_err();
        assert!(matches!(error, Error::BadRequest { .. }), "{error}");
    }
    for len in [usize::MAX, usize::MAX - 64, 1 << 62] {
        space.alloc(len, 64).unwrap_err();
    }
    for (buf_bytes, count) in [(0, 1), (100, 1), (512, 0), (1 << 62, 8), (512, 1 << 33)] {
        let error = space.pool("p", PoolOptions { buf_bytes, count });
        assert!(matches!(error.unwrap_err(), Error::BadRequest { .. }));
    }
    assert_eq!(space.stats(), underpin_dma::SpaceStats::default());
}
