//! A store whose commands end when the test says so, and a log of what it was asked.
#![allow(unreachable_pub, dead_code)]
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use underpin_dma::SpaceId;
use underpin_dma::frame::ReserveError;
use underpin_dma::rt::sync::Mutex;
use underpin_dma::rt::{Instant, thread, wait};
use underpin_fs::store::{PAGE_BYTES, Store, StoreError, Work};

/// What a command was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Read,
    Write,
    Flush,
}

#[derive(Debug)]
pub struct Held {
    pub kind: Kind,
    pub work: Work,
}

#[derive(Debug, Default)]
pub struct State {
    pub len_bytes: u64,
    pub pages: BTreeMap<u64, Vec<u8>>,
    /// What was durable at the last flush that ended well.
    pub durable: BTreeMap<u64, Vec<u8>>,
    pub held: VecDeque<Held>,
    /// Commands are kept until the test ends them.
    pub hold: bool,
    /// Those that are kept end, one at a time, by whoever polls.
    pub polled: bool,
    /// Pages of which every command fails.
    pub bad: BTreeSet<u64>,
    /// Reservations that may still be made, and those that are out.
    pub room: i64,
    pub reserved: BTreeMap<u64, i64>,
    pub log: Vec<(Kind, u64, u64)>,
    pub freed: Vec<Range<u64>>,
}

/// Waits for something that comes, or fails.
pub fn until(mut come: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    let came = wait(Some(deadline), |_now| come().then_some(()));
    assert!(came.is_ok(), "waited 20 s for what did not come");
}

/// Does `work` on a thread of its own, and fails when it hangs.
pub fn within<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let worker = thread::spawn("worker", work).unwrap();
    until(|| worker.is_finished());
    worker.join().unwrap()
}

/// A store for tests.
#[derive(Debug)]
pub struct Manual {
    max_len_bytes: u64,
    pub state: Mutex<State>,
}

impl Manual {
    pub fn new(len_bytes: u64, max_len_bytes: u64) -> Arc<Self> {
        let state = State {
            len_bytes,
            room: i64::MAX / 2,
            ..State::default()
        };
        Arc::new(Self {
            max_len_bytes,
            state: Mutex::new(state),
        })
    }

    /// Holds commands from now on, or lets all go.
    pub fn hold(&self, hold: bool) {
        self.state.lock().hold = hold;
        if !hold {
            while self.end_one() {}
        }
    }

    /// Ends the oldest command that is held.
    pub fn end_one(&self) -> bool {
        let held = self.state.lock().held.pop_front();
        let any = held.is_some();
        if let Some(held) = held {
            self.carry_out(held);
        }
        any
    }

    pub fn held(&self) -> usize {
        self.state.lock().held.len()
    }

    /// The commands of a kind so far: first page and how many.
    pub fn seen(&self, kind: Kind) -> Vec<(u64, u64)> {
        let log = &self.state.lock().log;
        let seen = log.iter().filter(|entry| entry.0 == kind);
        seen.map(|entry| (entry.1, entry.2)).collect()
    }

    pub fn byte(&self, offset: u64) -> u8 {
        let state = self.state.lock();
        let page = state.pages.get(&(offset / PAGE_BYTES));
        page.map_or(0, |page| page[(offset % PAGE_BYTES) as usize])
    }

    fn begin(&self, kind: Kind, work: Work) {
        let mut state = self.state.lock();
        state.log.push((kind, work.first_page(), work.pages()));
        let held = Held { kind, work };
        if state.hold {
            state.held.push_back(held);
            return;
        }
        drop(state);
        self.carry_out(held);
    }

    fn carry_out(&self, Held { kind, work }: Held) {
        let first = work.first_page();
        let pages = first..first + work.pages();
        let bad = pages
            .clone()
            .any(|page| self.state.lock().bad.contains(&page));
        let result = match bad {
            true => Err(StoreError::Device(format!("page {first} is bad"))),
            false => Ok(()),
        };
        match kind {
            Kind::Read => {
                let (mut run, ticket) = work.into_parts();
                for (index, page) in pages.enumerate() {
                    let bytes = self.state.lock().pages.get(&page).cloned();
                    let bytes = bytes.unwrap_or_else(|| vec![0; PAGE_BYTES as usize]);
                    run.copy_from(index, 0, &bytes).unwrap();
                }
                ticket.end(run, result);
            }
            Kind::Write => {
                for (index, page) in pages.enumerate().filter(|_| !bad) {
                    let mut bytes = vec![0; PAGE_BYTES as usize];
                    work.run().copy_to(index, 0, &mut bytes).unwrap();
                    self.state.lock().pages.insert(page, bytes);
                }
                work.end(result);
            }
            Kind::Flush => {
                let mut state = self.state.lock();
                state.durable = state.pages.clone();
                drop(state);
                work.end(result);
            }
        }
    }
}

impl Store for Manual {
    fn space_id(&self) -> Option<SpaceId> {
        None
    }
    fn len_bytes(&self) -> u64 {
        self.state.lock().len_bytes
    }
    fn max_len_bytes(&self) -> u64 {
        self.max_len_bytes
    }
    fn reserve(&self, page: u64) -> Result<(), ReserveError> {
        let mut state = self.state.lock();
        if state.room <= 0 {
            return Err(ReserveError::Full);
        }
        state.room -= 1;
        *state.reserved.entry(page).or_default() += 1;
        Ok(())
    }
    fn give_back(&self, page: u64) {
        let mut state = self.state.lock();
        state.room += 1;
        *state.reserved.entry(page).or_default() -= 1;
    }
    fn is_hole(&self, page: u64) -> bool {
        let state = self.state.lock();
        !state.pages.contains_key(&page) && !state.bad.contains(&page)
    }
    fn read(&self, work: Work) {
        self.begin(Kind::Read, work);
    }
    fn write(&self, work: Work) {
        self.begin(Kind::Write, work);
    }
    fn flush(&self, work: Work) {
        self.begin(Kind::Flush, work);
    }
    fn poll(&self) -> usize {
        let polled = self.state.lock().polled;
        usize::from(polled && self.end_one())
    }
    fn failure(&self) -> Option<StoreError> {
        None
    }
    fn set_len(&self, len_bytes: u64) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        state.len_bytes = len_bytes;
        state.pages.split_off(&len_bytes.div_ceil(PAGE_BYTES));
        Ok(())
    }
    fn free(&self, pages: Range<u64>) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        state.freed.push(pages.clone());
        state.pages.retain(|page, _| !pages.contains(page));
        Ok(())
    }
}
