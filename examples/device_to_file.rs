//! A device reads its blocks right into pages of a file on the host's file system, while fsync after
//! fsync writes them back: pages that the device has pinned at that moment are copied, the others go
//! out as they are. Nobody waits for a pin, and no byte is lost.
//!
//! ```text
//! cargo run --release --example device_to_file [-- BYTES MEDIUM FILE]
//! sha256sum MEDIUM FILE
//! ```
use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use underpin::dma::pin::{Cover, WritePins};
use underpin::dma::rt::{Instant, thread};
use underpin::fs::store::{HostFile, HostFileOptions};
use underpin::fs::{Cache, CacheOptions, File};
use underpin::{Controller, ControllerOptions, DmaSpace, Lba, QueueOptions, QueuePair};

/// Pages of one command: 128 KiB.
const PAGES: u64 = 32;
/// Commands in flight.
const DEPTH: usize = 16;

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let len_bytes = match words.next() {
        Some(text) => size(&text).ok_or("the size is to be a multiple of 128k, such as 1g")?,
        None => 32 << 20,
    };
    let folder = std::env::temp_dir();
    let mut path = |name: &str| {
        words
            .next()
            .map_or_else(|| folder.join(name), PathBuf::from)
    };
    let (medium, target) = (path("underpin-medium.img"), path("underpin-target.img"));
    write_medium(&medium, len_bytes)?;

    let space = DmaSpace::new();
    let url = format!("emu:file={},lba=4096", medium.display());
    let device = Controller::open(&url, &space, ControllerOptions::default())?;
    let blocks = device.namespace(None)?;

    let cache = Cache::new(&space, CacheOptions::default())?;
    let options = HostFileOptions {
        create: true,
        len_bytes: Some(len_bytes),
        ..HostFileOptions::default()
    };
    let file = Arc::new(cache.open(Arc::new(HostFile::open(&target, &options)?))?);

    // Somebody else wants it durable, again and again.
    let over = Arc::new(AtomicBool::new(false));
    let (syncing, stop) = (Arc::clone(&file), Arc::clone(&over));
    let syncer = thread::spawn("syncer", move || {
        let mut count = 0;
        while !stop.load(Ordering::Relaxed) {
            syncing.fsync()?;
            count += 1;
        }
        Ok::<_, underpin::fs::FileError>(count)
    })?;

    let began = Instant::now();
    let mut queue: QueuePair<WritePins> = device.queue_pair(QueueOptions::default())?;
    let mut next = 0;
    while next < len_bytes / 4096 || queue.in_flight() > 0 {
        while next < len_bytes / 4096 && queue.in_flight() < DEPTH {
            // Reserved and dirty from now on. A page that is written over whole is not read first,
            // and an fsync has nothing of it to keep until the device has ended; of one that may be
            // written in part it keeps a copy meanwhile.
            let cover = match next / PAGES % 4 {
                0 => Cover::Part,
                _ => Cover::Whole,
            };
            let pins = file.pin_write_pages(next..next + PAGES, cover)?;
            queue.submit(blocks.read(Lba(next), PAGES)?, pins)?;
            next += PAGES;
        }
        queue.wait(None);
        let mut failed = None;
        queue.poll(DEPTH, |completion| match completion.result {
            // The bytes are there; the pins drop.
            Ok(()) => completion.buffer.iter().for_each(WritePins::set_uptodate),
            Err(error) => failed = Some(error),
        });
        if let Some(error) = failed {
            return Err(error.into());
        }
    }
    over.store(true, Ordering::Relaxed);
    let fsyncs = syncer.join().map_err(|_| "the syncer panicked")??;
    report(&cache, &file, began, fsyncs)?;
    Arc::into_inner(file)
        .ok_or("the file is still in use")?
        .close()?;
    Ok(())
}

fn report(cache: &Cache, file: &File, began: Instant, fsyncs: u64) -> Result<(), Box<dyn Error>> {
    file.fsync()?;
    let seconds = Instant::now().since(began).as_secs_f64();
    let stats = cache.stats();
    let copies = stats.copies_kept + stats.copies_clean;
    println!(
        "bytes read by DMA into pages of the file: {}",
        file.len_bytes()
    );
    println!(
        "fsyncs that ended meanwhile: {fsyncs}; pages written from themselves: {}, from copies: {copies}",
        stats.direct
    );
    println!(
        "bytes copied by the processor: {} (each of them into a page for copies)",
        copies * 4096
    );
    println!("{:.0} MB/s", file.len_bytes() as f64 / 1e6 / seconds);
    Ok(())
}

/// A device's blocks: no two alike.
fn write_medium(path: &PathBuf, len_bytes: u64) -> std::io::Result<()> {
    let mut out = std::io::BufWriter::with_capacity(1 << 20, std::fs::File::create(path)?);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..len_bytes / 8 {
        // Any generator does (xorshift).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.write_all(&state.to_le_bytes())?;
    }
    out.flush()
}

fn size(text: &str) -> Option<u64> {
    let text = text.to_lowercase();
    let (digits, shift) = match text.strip_suffix(['k', 'm', 'g']) {
        Some(digits) if text.ends_with('k') => (digits, 10),
        Some(digits) if text.ends_with('m') => (digits, 20),
        Some(digits) => (digits, 30),
        None => (text.as_str(), 0),
    };
    let bytes = digits.parse::<u64>().ok()?.checked_mul(1 << shift)?;
    (bytes > 0 && bytes.is_multiple_of(PAGES * 4096)).then_some(bytes)
}
