//! What a command fetched against what it was announced with: the CRC of a page when it was
//! decided to write it, and of the bytes that the device got (R15).
use super::Command;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use underpin_dma::rt::sync::Mutex;
use underpin_dma::{Iova, View};

const PAGE: u64 = 4096;

/// Announced pages, by IOVA, until each has been fetched.
#[derive(Default)]
pub(super) struct Contents {
    announced: Mutex<BTreeMap<u64, Announced>>,
    /// How many there are: nobody takes the lock while there are none.
    count: AtomicUsize,
    fetched: AtomicU64,
}

struct Announced {
    crc32c: u32,
    /// Who is fetching it, how far each is, and the CRC so far. The first that has all of it is
    /// judged: it is the one that was announced, or one that reads beside it, while nobody may
    /// write. Whoever goes on when that has ended may well find other bytes.
    under_way: Vec<(Command, u64, u32)>,
}

impl Contents {
    pub(super) fn fetched(&self) -> u64 {
        self.fetched.load(Ordering::Relaxed)
    }

    pub(super) fn announce(&self, iova: Iova, crc32c: u32) {
        let page = Announced {
            crc32c,
            under_way: Vec::new(),
        };
        let mut announced = self.announced.lock();
        announced.insert(iova.get(), page);
        self.count.store(announced.len(), Ordering::Release);
    }

    /// What those commands have fetched is not judged; another may fetch it.
    pub(super) fn forget(&self, is_it: impl Fn(Command) -> bool) {
        for page in self.announced.lock().values_mut() {
            page.under_way.retain(|&(by, ..)| !is_it(by));
        }
    }

    /// Takes note of bytes on their way to a device. True when an announced page has now come
    /// wholly, with other bytes.
    ///
    /// They are read once more here: bytes that could change between two looks would be wrong
    /// already, as nobody may write what is announced.
    pub(super) fn differs(&self, iova: Iova, bytes: View<'_>, command: Command) -> bool {
        if self.count.load(Ordering::Acquire) == 0 {
            return false;
        }
        let (first, end) = (iova.get(), iova.get() + bytes.len_bytes() as u64);
        let mut announced = self.announced.lock();
        let mut differs = false;
        let mut whole: Vec<u64> = Vec::new();
        let from = first.saturating_sub(PAGE - 1);
        for (&at, page) in announced.range_mut(from..end) {
            let (begin, stop) = (first.max(at), end.min(at + PAGE));
            let mine = page.under_way.iter().position(|&(by, ..)| by == command);
            let mine = mine.map(|mine| page.under_way.swap_remove(mine));
            let (so_far, crc) = match mine {
                Some((_, so_far, crc)) if at + so_far == begin => (so_far, crc),
                // One that begins in the middle is no fetch of the page.
                _ if begin == at => (0, 0),
                _ => continue,
            };
            let mut part = vec![0; (stop - begin) as usize];
            if bytes.copy_to((begin - first) as usize, &mut part).is_err() {
                continue;
            }
            let crc = crc32c::crc32c_append(crc, &part);
            let so_far = so_far + part.len() as u64;
            page.under_way.push((command, so_far, crc));
            if so_far == PAGE {
                whole.push(at);
                differs |= crc != page.crc32c;
            }
        }
        for at in whole {
            announced.remove(&at);
            self.fetched.fetch_add(1, Ordering::Relaxed);
        }
        self.count.store(announced.len(), Ordering::Release);
        differs
    }
}
