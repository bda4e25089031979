//! Pools: no buffer has two owners, whoever takes and gives back, and none is ever lost.
#![allow(clippy::unwrap_used, clippy::expect_used)]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use support::WatchLog;
use underpin_dma::rt::{Rng, thread};
use underpin_dma::{DmaBuf, DmaSpace, Error, Pool, PoolOptions, SpaceOptions};

const BUF_BYTES: usize = 4096;

fn pool(space: &DmaSpace, count: usize) -> Pool {
    let buf_bytes = BUF_BYTES;
    space
        .pool("pool", PoolOptions { buf_bytes, count })
        .unwrap()
}

/// Which thread has which buffer, kept outside of the pool.
struct Owners {
    pool: Pool,
    table: Vec<AtomicU32>,
}

impl Owners {
    fn place(&self, buf: &DmaBuf) -> &AtomicU32 {
        let at = buf.iova().get() - self.pool.region().iova().get();
        assert_eq!(at % BUF_BYTES as u64, 0);
        &self.table[usize::try_from(at).unwrap() / BUF_BYTES]
    }

    fn take(&self, me: u32) -> Option<DmaBuf> {
        let buf = self.pool.try_alloc()?;
        let before = self.place(&buf).swap(me, Ordering::AcqRel);
        assert_eq!(before, 0, "the buffer has an owner");
        for at in [0, BUF_BYTES - 8] {
            let stamp = buf.iova().get() ^ u64::from(me);
            buf.view().store_u64(at, stamp, Ordering::Relaxed).unwrap();
        }
        Some(buf)
    }

    fn give_back(&self, me: u32, buf: DmaBuf) {
        for at in [0, BUF_BYTES - 8] {
            let stamp = buf.view().load_u64(at, Ordering::Relaxed).unwrap();
            assert_eq!(
                stamp,
                buf.iova().get() ^ u64::from(me),
                "somebody wrote here"
            );
        }
        assert_eq!(self.place(&buf).swap(0, Ordering::AcqRel), me);
        drop(buf);
    }
}

/// Four threads take, stamp, pass on and give back: no buffer is given twice, none is lost.
#[test]
fn no_buffer_has_two_owners() {
    const COUNT: usize = 24;
    let owners = Arc::new(Owners {
        pool: pool(&DmaSpace::new(), COUNT),
        table: (0..COUNT).map(|_| AtomicU32::new(0)).collect(),
    });
    // A buffer taken by one thread is often given back by another, as completions do.
    let post: Arc<crossbeam::queue::ArrayQueue<(u32, DmaBuf)>> =
        Arc::new(crossbeam::queue::ArrayQueue::new(8));
    let threads: Vec<_> = (1..=4)
        .map(|me| {
            let (owners, post) = (Arc::clone(&owners), Arc::clone(&post));
            thread::spawn("owner", move || {
                let mut rng = Rng::seeded(u64::from(me));
                let (mut mine, mut taken, mut empty) = (Vec::new(), 0_u32, 0_u32);
                for _ in 0..20_000 {
                    match rng.below(4) {
                        0 | 1 if mine.len() < 10 => match owners.take(me) {
                            Some(buf) => {
                                mine.push(buf);
                                taken += 1;
                            }
                            None => empty += 1,
                        },
                        2 => {
                            if let Some(buf) = mine.pop()
                                && let Err((me, buf)) = post.push((me, buf))
                            {
                                owners.give_back(me, buf);
                            }
                        }
                        3 => {
                            if let Some((owner, buf)) = post.pop() {
                                owners.give_back(owner, buf);
                            }
                        }
                        _ => {
                            if let Some(buf) = mine.pop() {
                                owners.give_back(me, buf);
                            }
                        }
                    }
                }
                mine.into_iter().for_each(|buf| owners.give_back(me, buf));
                (taken, empty)
            })
            .unwrap()
        })
        .collect();
    let (mut taken, mut empty) = (0, 0);
    for thread in threads {
        let (took, found_empty) = thread.join().unwrap();
        taken += took;
        empty += found_empty;
    }
    while let Some((owner, buf)) = post.pop() {
        owners.give_back(owner, buf);
    }
    assert!(taken > 10_000, "{taken} taken, {empty} times empty");
    assert_eq!(owners.pool.free_count(), COUNT);
    let all: Vec<_> = (0..COUNT).map(|_| owners.take(1).unwrap()).collect();
    assert!(owners.pool.try_alloc().is_none());
    all.into_iter().for_each(|buf| owners.give_back(1, buf));
}

/// An empty pool is a typed error; the watcher sees each loan; buffers outlive pool and space.
#[test]
fn exhaustion_loans_and_lifetimes() {
    let watch = WatchLog::new();
    let space = DmaSpace::with_options(SpaceOptions {
        watch: Some(watch.clone()),
        ..SpaceOptions::default()
    });
    let pool = pool(&space, 3);
    assert_eq!(watch.lent_now(), [], "nothing is lent before it is taken");
    let mut bufs: Vec<_> = (0..3).map(|_| pool.alloc().unwrap()).collect();
    let error = pool.alloc().unwrap_err();
    assert!(
        matches!(error, Error::PoolExhausted { count: 3, .. }),
        "{error}"
    );
    assert_eq!(watch.lent_now().len(), 3);
    let last = bufs.pop().unwrap();
    bufs.clear();
    assert_eq!(watch.lent_now(), [(last.iova(), BUF_BYTES as u64)]);
    drop((pool, space));
    last.view().fill(0, BUF_BYTES, 1).unwrap();
    drop(last);
    assert_eq!(watch.lent_now(), []);
    watch.assert_sound();
}
