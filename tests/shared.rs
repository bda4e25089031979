//! A queue that threads share: whoever polls, polls for all; nobody waits for a lane.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use underpin::dma::rt::{thread, wait};
use underpin::nvme::{CommandError, SharedQueue};
use underpin::{Controller, ControllerOptions, DmaBuf, DmaSpace, Error, Io, Lba, QueueOptions};

struct Rig {
    space: DmaSpace,
    controller: Controller,
}

impl Rig {
    fn new(url: &str) -> Self {
        let space = DmaSpace::new();
        let controller = Controller::open(url, &space, ControllerOptions::default()).unwrap();
        Self { space, controller }
    }
    fn queue(&self, lanes: usize, depth: u16) -> SharedQueue<DmaBuf> {
        let options = QueueOptions {
            depth,
            ..QueueOptions::default()
        };
        SharedQueue::new(&self.controller, lanes, options).unwrap()
    }
    fn read(&self, page: u64) -> Io {
        self.controller
            .namespace(None)
            .unwrap()
            .read(Lba(page * 8), 8)
            .unwrap()
    }
    fn buffer(&self) -> DmaBuf {
        self.space.alloc(4096, 4096).unwrap()
    }
}

/// R8: one thread submits and never looks again; another sees the ends.
#[test]
fn another_thread_sees_the_ends() {
    let rig = Arc::new(Rig::new("emu:size=1m"));
    let queue = Arc::new(rig.queue(2, 32));
    let (submitting, from) = (Arc::clone(&queue), Arc::clone(&rig));
    let submitter = thread::spawn("submitter", move || {
        for page in 0..16 {
            submitting.submit(from.read(page), from.buffer()).unwrap();
        }
    });
    submitter.unwrap().join().unwrap();
    let mut ended = 0;
    let all = wait(None, |_now| {
        ended += queue.poll(|completion| {
            completion.result.unwrap();
            assert_eq!(completion.buffer.unwrap().len_bytes(), 4096);
        });
        (ended == 16).then_some(())
    });
    all.unwrap();
    assert_eq!(queue.in_flight(), 0);
}

/// A device that grants one queue gives one lane, and one that has none left says so.
#[test]
fn as_many_lanes_as_are_granted() {
    let rig = Rig::new("emu:size=1m,queues=1");
    let queue = rig.queue(4, 32);
    assert_eq!(queue.lanes(), 1);
    let options = QueueOptions::default();
    let refused = SharedQueue::<DmaBuf>::new(&rig.controller, 4, options).unwrap_err();
    assert!(matches!(refused, Error::NoQueue { .. }), "{refused}");
}

/// A full lane falls over to another; when all are full the buffer comes back; and the handler of a
/// completion may submit.
#[test]
fn full_lanes_fall_over_and_then_refuse() {
    let rig = Rig::new("emu:size=1m,fault=hold@op=read+count=all");
    let queue = rig.queue(2, 4);
    let mut taken = 0;
    let refused = loop {
        match queue.submit(rig.read(0), rig.buffer()) {
            Ok(()) => taken += 1,
            Err(refused) => break refused,
        }
        assert!(taken < 100, "it is full some time");
    };
    assert!(
        matches!(refused.error, Error::QueueFull { .. }),
        "{}",
        refused.error
    );
    assert_eq!(refused.buffer.len_bytes(), 4096);
    let depths: Vec<_> = queue.stats().iter().map(|lane| lane.reads).collect();
    assert!(
        depths.len() == 2 && depths.iter().all(|reads| *reads > 0),
        "{depths:?}"
    );

    let rig = Rig::new("emu:size=1m");
    let queue = rig.queue(1, 4);
    queue.submit(rig.read(0), rig.buffer()).unwrap();
    let (mut more, mut ended) = (9, 0);
    while queue.in_flight() > 0 {
        ended += queue.poll(|completion| {
            if more > 0 {
                more -= 1;
                queue
                    .submit(rig.read(1), completion.buffer.unwrap())
                    .unwrap();
            }
        });
    }
    assert_eq!(ended, 10);
}

/// When the controller fails every request ends without its buffer, and the queue says why.
#[test]
fn a_failure_ends_them_all() {
    let rig = Rig::new("emu:size=1m,fault=removed@op=read");
    let queue = rig.queue(2, 32);
    for page in 0..4 {
        queue.submit(rig.read(page), rig.buffer()).unwrap();
    }
    let mut lost = 0;
    let all = wait(None, |_now| {
        queue.poll(|completion| {
            assert!(matches!(completion.result, Err(CommandError::Lost(_))));
            assert!(completion.buffer.is_none());
            lost += 1;
        });
        (lost == 4).then_some(())
    });
    all.unwrap();
    assert!(queue.failure().is_some());
    // So that a loop that polls while there is something to come ends.
    assert_eq!(queue.in_flight(), 0);
}

/// Threads that submit and poll as they like: every request ends once, with its own buffer.
#[test]
fn many_threads_share_few_lanes() {
    let rig = Arc::new(Rig::new("emu:size=4m"));
    let options = QueueOptions::default();
    let queue = SharedQueue::<(DmaBuf, usize)>::new(&rig.controller, 2, options).unwrap();
    let queue = Arc::new(queue);
    let ended: Arc<[AtomicUsize]> = (0..800).map(|_| AtomicUsize::new(0)).collect();
    let poll = |queue: &SharedQueue<(DmaBuf, usize)>, ended: &[AtomicUsize]| {
        queue.poll(|completion| {
            completion.result.unwrap();
            ended[completion.buffer.unwrap().1].fetch_add(1, Ordering::Relaxed);
        });
    };
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let (rig, queue, ended) = (Arc::clone(&rig), Arc::clone(&queue), Arc::clone(&ended));
            let body = move || {
                for number in thread * 200..(thread + 1) * 200 {
                    let mut work = (rig.buffer(), number);
                    while let Err(refused) = queue.submit(rig.read(number as u64), work) {
                        work = refused.buffer;
                        poll(&queue, &ended);
                    }
                    poll(&queue, &ended);
                }
            };
            thread::spawn("worker", body).unwrap()
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    while queue.in_flight() > 0 {
        poll(&queue, &ended);
    }
    assert!(ended.iter().all(|count| count.load(Ordering::Relaxed) == 1));
}
