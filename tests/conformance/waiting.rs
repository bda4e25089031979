//! Waiting for completions: by polling, by interrupt, and by both in turn.
use crate::harness::Verdict::Done;
use crate::harness::{Device, Open, Test, Verdict};
use std::time::Duration;
use underpin::dma::rt::Instant;
use underpin::nvme::{Armed, Waiting};
use underpin::{ControllerOptions, Lba, QueueOptions};

pub(crate) const TESTS: &[Test] = &[
    ("waiting::by_polling", by_polling),
    ("waiting::by_interrupt", by_interrupt),
    ("waiting::adaptively", adaptively),
    (
        "waiting::without_anything_in_flight",
        without_anything_in_flight,
    ),
    ("waiting::an_event_tells", an_event_tells),
    (
        "waiting::queues_of_every_kind_together",
        queues_of_every_kind_together,
    ),
];

fn open(device: &Device, waiting: Waiting) -> Open {
    let options = QueueOptions { depth: 32, waiting };
    Open::with(device, ControllerOptions::default(), options)
}

/// Bursts of all lengths, each waited for to its end.
fn bursts(open: &mut Open) {
    for burst in (1..=32).chain([1, 1, 32, 1]) {
        for nth in 0..burst {
            let io = open.namespace.read(Lba(nth), 1).unwrap();
            let buffer = open.blocks(1);
            open.queue.submit(io, buffer).unwrap();
        }
        let mut ended = 0;
        while open.queue.wait(None) {
            ended += open.queue.poll(5, |completion| completion.result.unwrap());
        }
        assert_eq!((ended as u64, open.queue.in_flight()), (burst, 0));
    }
    open.write(3, 9, 77);
    open.expect(3, 9, 77);
}

fn by_polling(device: &Device) -> Verdict {
    let mut open = open(device, Waiting::Poll);
    bursts(&mut open);
    assert!(open.queue.event().is_none());
    Done
}

fn by_interrupt(device: &Device) -> Verdict {
    let mut open = open(device, Waiting::Interrupt);
    bursts(&mut open);
    assert_eq!(open.queue.stats().missed_interrupts, 0);
    Done
}

fn adaptively(device: &Device) -> Verdict {
    for spin in [
        Duration::ZERO,
        Duration::from_micros(50),
        Duration::from_millis(5),
    ] {
        let mut open = open(device, Waiting::Adaptive { spin });
        bursts(&mut open);
        assert_eq!(open.queue.stats().missed_interrupts, 0);
    }
    Done
}

/// Nothing can come, so nobody waits; a deadline that has passed ends a wait, too.
fn without_anything_in_flight(device: &Device) -> Verdict {
    for waiting in [Waiting::Poll, Waiting::Interrupt, Waiting::ADAPTIVE] {
        let mut open = open(device, waiting);
        assert!(!open.queue.wait(None));
        assert!(!open.queue.wait(Some(Instant::now())));
        open.write(0, 1, 1);
        assert!(!open.queue.wait(None));
    }
    Done
}

/// Armed, the event becomes readable with the completion.
fn an_event_tells(device: &Device) -> Verdict {
    let mut open = open(device, Waiting::Interrupt);
    for round in 0..50 {
        let io = open.namespace.read(Lba(round), 1).unwrap();
        let buffer = open.blocks(1);
        open.queue.submit(io, buffer).unwrap();
        let mut ended = 0;
        while ended == 0 {
            if let Armed::Sleep { until } = open.queue.arm() {
                assert!(until.is_some(), "a command in flight has a deadline");
                open.queue.event().unwrap().wait(until);
            }
            ended = open.queue.poll(9, |completion| completion.result.unwrap());
        }
    }
    Done
}

fn queues_of_every_kind_together(device: &Device) -> Verdict {
    let mut first = open(device, Waiting::Interrupt);
    let kinds = [Waiting::Poll, Waiting::ADAPTIVE];
    let more = usize::from(first.controller.granted_queues()).saturating_sub(1);
    let mut others: Vec<_> = kinds
        .into_iter()
        .take(more)
        .map(|waiting| {
            first
                .controller
                .queue_pair(QueueOptions { depth: 4, waiting })
                .unwrap()
        })
        .collect();
    for tag in 0..30 {
        first.write(0, 2, tag);
        for queue in &mut others {
            std::mem::swap(queue, &mut first.queue);
            first.expect(0, 2, tag);
            std::mem::swap(queue, &mut first.queue);
        }
    }
    Done
}
