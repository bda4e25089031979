//! One command on its way to a host file, and what its end means: whether it is done, has failed,
//! or what is left of it goes again.
use crate::store::{PAGE_BYTES, Ticket, Work};
use underpin_dma::{Direction, OutOfBounds, PageRun};

/// What is asked of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Read,
    /// `grows`: it reaches past all that the file has held so far.
    Write {
        grows: bool,
    },
    /// `metadata`: the file's length or space has changed since the last one that did it all;
    /// `changes` is how often, ever.
    Flush {
        metadata: bool,
        changes: u64,
    },
}

/// A command, with all that the kernel may touch for it except the iovecs.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) op: Op,
    pub(super) run: PageRun,
    pub(super) ticket: Ticket,
    /// Whole pages that need not go again.
    done_bytes: usize,
    /// How often it went without getting anywhere.
    idle_tries: u32,
}

/// A request that the kernel interrupts or moves no byte of so many times has failed.
const MOST_IDLE_TRIES: u32 = 64;

/// What a request's result means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moved {
    /// All of it.
    All,
    /// It ended at this byte of the command.
    Until(usize),
    /// Nothing, for now: it goes again.
    Nothing,
    /// It failed.
    Failed(i32),
}

impl Job {
    pub(super) fn new(op: Op, work: Work) -> Self {
        let (run, ticket) = work.into_parts();
        Self {
            op,
            run,
            ticket,
            done_bytes: 0,
            idle_tries: 0,
        }
    }

    pub(super) fn len_bytes(&self) -> usize {
        self.run.len() * PAGE_BYTES as usize
    }

    /// Where the command begins in the file.
    pub(super) fn start(&self) -> u64 {
        self.ticket.first_page() * PAGE_BYTES
    }

    /// Where what is left of it begins.
    pub(super) fn offset(&self) -> u64 {
        self.start() + self.done_bytes as u64
    }

    /// Pages that need not go again.
    pub(super) const fn done_pages(&self) -> usize {
        self.done_bytes / PAGE_BYTES as usize
    }

    /// Which way its bytes go, seen from memory.
    pub(super) const fn direction(&self) -> Direction {
        match self.op {
            Op::Read => Direction::ToHost,
            Op::Write { .. } | Op::Flush { .. } => Direction::FromHost,
        }
    }

    /// Takes a request's result in: a count of bytes, or an errno below zero.
    pub(super) fn take_in(&mut self, result: i32) -> Moved {
        let Ok(moved) = usize::try_from(result) else {
            let errno = result.saturating_neg();
            // ECANCELED: the thread that sent the request has ended before a worker of the kernel
            // took it up.
            let passing = matches!(errno, libc::EINTR | libc::EAGAIN | libc::ECANCELED);
            return match passing && self.may_try_again() {
                true => Moved::Nothing,
                false => Moved::Failed(errno),
            };
        };
        if matches!(self.op, Op::Flush { .. }) {
            return Moved::All;
        }
        match self.done_bytes.saturating_add(moved) {
            end if end >= self.len_bytes() => Moved::All,
            end => Moved::Until(end),
        }
    }

    /// Only `end` bytes of it were moved. What is left goes again, from a page's beginning, since
    /// direct I/O begins nowhere else. False: it has got nowhere for too long.
    pub(super) fn go_on_from(&mut self, end: usize) -> bool {
        let pages = end / PAGE_BYTES as usize * PAGE_BYTES as usize;
        if pages > self.done_bytes {
            self.done_bytes = pages;
            self.idle_tries = 0;
            return true;
        }
        self.may_try_again()
    }

    const fn may_try_again(&mut self) -> bool {
        self.idle_tries += 1;
        self.idle_tries < MOST_IDLE_TRIES
    }

    /// The file ends at byte `end` of what is read: the rest is zero.
    pub(super) fn zero_from(&mut self, end: usize) -> Result<(), OutOfBounds> {
        const PAGE: usize = PAGE_BYTES as usize;
        let zeroes = [0; PAGE];
        for page in end / PAGE..self.run.len() {
            let offset = end.saturating_sub(page * PAGE);
            let zeroes = zeroes.get(offset..).unwrap_or(&[]);
            self.run.copy_from(page, offset, zeroes)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::store::{Done, StoreError};
    use std::sync::Arc;
    use underpin_dma::DmaSpace;

    #[derive(Debug)]
    struct Nobody;

    impl Done for Nobody {
        fn done(&self, _first_page: u64, _pages: u64, _result: Result<(), StoreError>) {}
    }

    fn job(op: Op, pages: usize) -> Job {
        let space = DmaSpace::new();
        let mut run = PageRun::with_capacity(pages);
        for _ in 0..pages {
            run.push_plain(space.alloc(4096, 4096).unwrap()).unwrap();
        }
        Job::new(op, Work::new(10, run, Arc::new(Nobody)))
    }

    /// What the kernel has moved in part goes on from the last whole page, in the file and in
    /// memory alike, and its count goes on, too.
    #[test]
    fn a_short_transfer_goes_on_from_a_page() {
        let mut job = job(Op::Write { grows: false }, 4);
        assert_eq!(job.offset(), 40960);
        assert_eq!(job.take_in(5000), Moved::Until(5000));
        assert!(job.go_on_from(5000));
        assert_eq!((job.offset(), job.done_pages()), (45056, 1));
        assert_eq!(job.take_in(8192), Moved::Until(12288));
        assert!(job.go_on_from(12288));
        assert_eq!((job.offset(), job.done_pages()), (53248, 3));
        assert_eq!(job.take_in(4096), Moved::All);
    }

    /// One that gets nowhere, and one that is interrupted for ever, fail in the end.
    #[test]
    fn getting_nowhere_ends() {
        let mut nowhere = job(Op::Read, 1);
        let tries = (0..1000).take_while(|_| nowhere.go_on_from(100)).count();
        assert_eq!(tries, MOST_IDLE_TRIES as usize - 1);
        for errno in [libc::EINTR, libc::EAGAIN, libc::ECANCELED] {
            let mut interrupted = job(Op::Read, 1);
            let tries = (0..1000).take_while(|_| interrupted.take_in(-errno) == Moved::Nothing);
            assert_eq!(tries.count(), MOST_IDLE_TRIES as usize - 1);
            assert_eq!(interrupted.take_in(-errno), Moved::Failed(errno));
        }
        let failed = job(Op::Read, 1).take_in(-libc::EIO);
        assert_eq!(failed, Moved::Failed(libc::EIO));
        assert_eq!(job(Op::Read, 1).take_in(i32::MIN), Moved::Failed(i32::MAX));
    }
}
