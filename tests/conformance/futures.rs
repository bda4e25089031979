//! Requests as futures: on the queue's own thread, from another one, and dropped half way.
use crate::harness::Verdict::Done;
use crate::harness::{Device, Test, Verdict, contents, pattern};
use underpin::dma::rt::thread;
use underpin::nvme::futures::block_on;
use underpin::nvme::{AsyncQueue, Waiting};
use underpin::{Controller, DmaBuf, Lba, Namespace, QueueOptions};

pub(crate) const TESTS: &[Test] = &[
    ("futures::one_after_the_other", one_after_the_other),
    ("futures::many_at_once", many_at_once),
    ("futures::every_tenth_is_dropped", every_tenth_is_dropped),
    ("futures::from_another_thread", from_another_thread),
];

struct Bench {
    queue: AsyncQueue<DmaBuf>,
    namespace: Namespace,
    controller: Controller,
    lba: usize,
}

impl Bench {
    fn new(device: &Device) -> Self {
        let controller = device.open();
        let namespace = controller.namespace(None).unwrap();
        let options = QueueOptions {
            depth: 32,
            waiting: Waiting::ADAPTIVE,
        };
        Self {
            queue: controller.async_queue(options).unwrap(),
            lba: namespace.lba_bytes() as usize,
            namespace,
            controller,
        }
    }

    fn filled(&self, blocks: usize, tag: u64) -> DmaBuf {
        let len = blocks * self.lba;
        let mut buffer = self.controller.space().alloc(len, 4096).unwrap();
        buffer.copy_from(0, &pattern(len, tag)).unwrap();
        buffer
    }
}

fn one_after_the_other(device: &Device) -> Verdict {
    let bench = Bench::new(device);
    bench.queue.block_on(async {
        for tag in 0..50 {
            let write = bench.namespace.write(Lba(tag), 3).unwrap();
            let mut buffer = bench.queue.run(write, bench.filled(3, tag)).await.unwrap();
            buffer.fill(0);
            let read = bench.namespace.read(Lba(tag), 3).unwrap();
            let buffer = bench.queue.run(read, buffer).await.unwrap();
            assert!(contents(&buffer) == pattern(3 * bench.lba, tag));
        }
        bench.queue.run_bare(bench.namespace.flush()).await.unwrap();
    });
    Done
}

/// More than the queue is deep: the rest wait for their turn.
fn many_at_once(device: &Device) -> Verdict {
    let bench = Bench::new(device);
    bench.queue.block_on(async {
        let writes: Vec<_> = (0..100)
            .map(|tag| {
                let io = bench.namespace.write(Lba(2 * tag), 2).unwrap();
                bench.queue.run(io, bench.filled(2, tag))
            })
            .collect();
        for write in writes {
            write.await.unwrap();
        }
        for tag in 0..100 {
            let io = bench.namespace.read(Lba(2 * tag), 2).unwrap();
            let buffer = bench.queue.run(io, bench.filled(2, 0)).await.unwrap();
            assert!(contents(&buffer) == pattern(2 * bench.lba, tag));
        }
    });
    assert_eq!(bench.queue.in_flight(), 0);
    Done
}

/// Its request ends all the same, and its buffer is freed after that.
fn every_tenth_is_dropped(device: &Device) -> Verdict {
    let bench = Bench::new(device);
    bench.queue.block_on(async {
        for round in 0..10 {
            let reads: Vec<_> = (0..32)
                .map(|nth| {
                    let io = bench.namespace.read(Lba(nth), 1).unwrap();
                    bench.queue.run(io, bench.filled(1, round))
                })
                .collect();
            for (nth, read) in reads.into_iter().enumerate() {
                match nth % 10 {
                    9 => drop(read),
                    _ => drop(read.await.unwrap()),
                }
            }
        }
        let io = bench.namespace.write(Lba(0), 1).unwrap();
        bench.queue.run(io, bench.filled(1, 5)).await.unwrap();
    });
    Done
}

fn from_another_thread(device: &Device) -> Verdict {
    let bench = Bench::new(device);
    let (handle, namespace, lba) = (bench.queue.handle(), bench.namespace.clone(), bench.lba);
    let space = bench.controller.space().clone();
    let host = thread::spawn("host", move || {
        block_on(async {
            for tag in 0..30 {
                let mut buffer = space.alloc(2 * lba, 4096).unwrap();
                buffer.copy_from(0, &pattern(2 * lba, tag)).unwrap();
                let write = namespace.write(Lba(tag), 2).unwrap();
                let buffer = handle.run(write, buffer).await.unwrap();
                let read = namespace.read(Lba(tag), 2).unwrap();
                let buffer = handle.run(read, buffer).await.unwrap();
                assert!(contents(&buffer) == pattern(2 * lba, tag));
            }
            drop(handle);
        });
    });
    let host = host.unwrap();
    bench.queue.block_on(async {
        while !host.is_finished() {
            let io = bench.namespace.read(Lba(900), 1).unwrap();
            bench.queue.run(io, bench.filled(1, 0)).await.unwrap();
        }
    });
    host.join().unwrap();
    Done
}
