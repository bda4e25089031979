//! A file system that is full: who is told of it, and when. It takes a small one of its own, so
//! `fs-shim/tests/full_disk.sh` makes some, and runs this with their names; `cargo test` does not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::path::{Path, PathBuf};
use std::sync::Arc;
use underpin_dma::DmaSpace;
use underpin_dma::frame::ReserveError;
use underpin_dma::pin::Cover;
use underpin_fs::store::{
    Direct, EngineChoice, HostFile, HostFileOptions, NotFirm, Reservation, Store,
};
use underpin_fs::{Cache, CacheOptions, FileError};

const PAGE: u64 = 4096;

/// The last page has one block of 1 KiB, and a part of another.
const LEN_BYTES: u64 = (1 << 30) - 2000;

/// A folder on the file system, whose size is some tens of megabytes.
fn folder() -> PathBuf {
    let folder = std::env::var_os("UNDERPIN_FULL_DISK");
    folder.expect("run fs-shim/tests/full_disk.sh").into()
}

/// What the file system is: ext4, ext4-1k, tmpfs, btrfs, btrfs-nocow.
fn kind() -> String {
    std::env::var("UNDERPIN_FULL_DISK_KIND").expect("run fs-shim/tests/full_disk.sh")
}

fn free_bytes(folder: &Path) -> u64 {
    let stat = rustix::fs::statvfs(folder).unwrap();
    stat.f_bavail * stat.f_frsize
}

fn open(path: &Path, engine: EngineChoice, direct: Direct) -> Arc<HostFile> {
    let options = HostFileOptions {
        create: true,
        len_bytes: Some(LEN_BYTES),
        max_len_bytes: 1 << 30,
        engine,
        direct,
        ..HostFileOptions::default()
    };
    Arc::new(HostFile::open(path, &options).unwrap())
}

fn each_way(test: impl Fn(EngineChoice, Direct)) {
    for engine in [EngineChoice::IoUring, EngineChoice::Calls] {
        for direct in [Direct::IfPossible, Direct::Never] {
            println!("{engine:?}, {direct:?}");
            test(engine, direct);
        }
    }
}

fn cache() -> Cache {
    let options = CacheOptions {
        frames: 32 << 10,
        flusher: false,
        // Nothing is written before fsync: the disk is full of promises only.
        throttle_percent: 100,
        background_percent: 100,
        ..CacheOptions::default()
    };
    Cache::new(&DmaSpace::new(), options).unwrap()
}

/// R2, R3: the first pin without space says so; every page that was pinned before can be written,
/// and written again, however full the disk has become.
fn a_full_disk_is_the_pins_error() {
    let folder = folder();
    each_way(|engine, direct| {
        let cache = cache();
        let store = open(&folder.join("pins"), engine, direct);
        let expected = match kind().as_str() {
            "ext4-1k" => Reservation::BestEffort(NotFirm::SmallBlocks),
            _ => Reservation::Firm,
        };
        assert_eq!(store.reservation(), expected);
        let file = cache.open(Arc::clone(&store) as Arc<dyn Store>).unwrap();
        let free = free_bytes(&folder);
        // The last page loses what it has past the file's end with each flush.
        let last = LEN_BYTES / PAGE;
        file.write_at(last * PAGE, &[9; 2000]).unwrap();
        file.fsync().unwrap();
        // One page in sixteen: steps of reservations are larger, so the last are made one by one.
        let mut dirty = Vec::new();
        let refused = loop {
            let page = dirty.len() as u64 * 16;
            match file.pin_write(page, Cover::Part) {
                Ok(_) => dirty.push(page),
                Err(refused) => break refused,
            };
        };
        assert!(
            matches!(refused, FileError::Reserve(ReserveError::Full)),
            "{refused}"
        );
        assert_eq!(refused.errno(), libc::ENOSPC);
        // Whatever is left is somebody else's now.
        let rest = folder.join("rest");
        let mut filled = 0_u64;
        let mut other = std::fs::File::create(&rest).unwrap();
        while std::io::Write::write_all(&mut other, &[7; PAGE as usize]).is_ok() {
            filled += PAGE;
        }
        other.sync_all().ok();
        for round in 1..=2_u8 {
            for page in &dirty {
                file.write_at(page * PAGE, &[round; PAGE as usize]).unwrap();
            }
            let tail = file.write_at(last * PAGE, &[round; 2000]);
            match (&tail, expected) {
                (Ok(_), _) => {}
                // It has lost its blocks; then the pin says so, and not the writeback.
                (Err(error), Reservation::BestEffort(_)) => assert_eq!(error.errno(), libc::ENOSPC),
                (Err(error), Reservation::Firm) => panic!("{error}"),
            }
            file.fsync().unwrap();
            assert_eq!(file.dirty_pages(), 0);
        }
        println!(
            "{} pages of {free} free bytes were pinned, then {filled} bytes written by others; \
             all pages were written twice",
            dirty.len()
        );
        assert!(
            dirty.len() as u64 * 16 * PAGE > free / 2,
            "refused too early"
        );
        // What is freed can be pinned again.
        assert!(
            file.pin_write(dirty.len() as u64 * 16, Cover::Part)
                .is_err()
        );
        file.punch(0, 8 << 20).unwrap();
        // Not every file system has the space back before that.
        rustix::fs::sync();
        drop(
            file.pin_write(dirty.len() as u64 * 16, Cover::Part)
                .unwrap(),
        );
        drop(file);
        drop(cache);
        drop(store);
        std::fs::remove_file(rest).unwrap();
        std::fs::remove_file(folder.join("pins")).unwrap();
    });
}

/// Where a reservation is no promise, the store says so, and a write that fails is told at fsync:
/// the pages are dirty still, and are written when there is room.
fn best_effort_is_said_and_told() {
    let folder = folder();
    let store = open(&folder.join("file"), EngineChoice::Auto, Direct::IfPossible);
    let reservation = store.reservation();
    assert_eq!(
        reservation,
        Reservation::BestEffort(NotFirm::CopyOnWrite),
        "{}",
        kind()
    );
    let cache = cache();
    let file = cache.open(Arc::clone(&store) as Arc<dyn Store>).unwrap();
    let pages = free_bytes(&folder) * 5 / 8 / PAGE;
    let mut written = 0;
    for page in 0..pages {
        match file.write_at(page * PAGE, &page.to_le_bytes()) {
            Ok(_) => written += 1,
            Err(error) => {
                assert_eq!(error.errno(), libc::ENOSPC, "{error}");
                break;
            }
        }
    }
    file.fsync().unwrap();
    // All of it anew, beside somebody who has taken the rest.
    let rest = folder.join("rest");
    let mut other = std::fs::File::create(&rest).unwrap();
    while std::io::Write::write_all(&mut other, &[7; 1 << 16]).is_ok() {}
    other.sync_all().ok();
    let mut errors = 0;
    for page in 0..written {
        match file.write_at(page * PAGE, &(page + 1).to_le_bytes()) {
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.errno(), libc::ENOSPC, "{error}");
                errors += 1;
            }
        }
    }
    let synced = file.fsync();
    println!("{written} pages; pins refused: {errors}; fsync said {synced:?}");
    if let Err(error) = synced {
        assert_eq!(error.errno(), libc::ENOSPC, "{error}");
        assert!(file.dirty_pages() > 0);
    }
    std::fs::remove_file(&rest).unwrap();
    drop(other);
    rustix::fs::sync();
    for page in 0..written {
        file.write_at(page * PAGE, &(page + 2).to_le_bytes())
            .unwrap();
    }
    file.fsync().unwrap();
    assert_eq!(file.dirty_pages(), 0);
    for page in [0, written / 2, written - 1] {
        let mut bytes = [0; 8];
        let host = std::fs::File::open(store.path()).unwrap();
        std::os::unix::fs::FileExt::read_exact_at(&host, &mut bytes, page * PAGE).unwrap();
        assert_eq!(bytes, (page + 2).to_le_bytes());
    }
}

#[test]
fn full_disk() {
    match kind().as_str() {
        "btrfs" => best_effort_is_said_and_told(),
        _ => a_full_disk_is_the_pins_error(),
    }
}
