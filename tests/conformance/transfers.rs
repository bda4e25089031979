//! Reads, writes and flushes: every size and place, and what lies beside them.
use crate::harness::Verdict::Done;
use crate::harness::{Device, Open, Test, Verdict, contents, pattern};
use underpin::dma::rt::Rng;
use underpin::nvme::Passthrough;
use underpin::nvme::spec::Status;
use underpin::{CommandError, DmaBuf, Error, Lba, QueueOptions};

pub(crate) const TESTS: &[Test] = &[
    ("transfers::first_and_last_block", first_and_last_block),
    ("transfers::every_namespace", every_namespace),
    ("transfers::namespaces_are_apart", namespaces_are_apart),
    ("transfers::odd_sizes", odd_sizes),
    (
        "transfers::around_the_longest_command",
        around_the_longest_command,
    ),
    (
        "transfers::much_longer_than_a_command",
        much_longer_than_a_command,
    ),
    ("transfers::neighbours_stay", neighbours_stay),
    (
        "transfers::random_writes_against_a_model",
        random_writes_against_a_model,
    ),
    ("transfers::forced_unit_access", forced_unit_access),
    ("transfers::flush", flush),
    (
        "transfers::data_outlive_the_controller",
        data_outlive_the_controller,
    ),
    (
        "transfers::beyond_the_end_is_refused",
        beyond_the_end_is_refused,
    ),
    (
        "transfers::the_device_refuses_it_too",
        the_device_refuses_it_too,
    ),
    (
        "transfers::a_longer_buffer_keeps_its_rest",
        a_longer_buffer_keeps_its_rest,
    ),
];

fn first_and_last_block(device: &Device) -> Verdict {
    let mut open: Open = Open::new(device);
    let last = open.namespace.len_bytes() / open.lba_bytes() as u64 - 1;
    open.write(0, 1, 10);
    open.write(last, 1, 11);
    open.expect(0, 1, 10);
    open.expect(last, 1, 11);
    Done
}

fn every_namespace(device: &Device) -> Verdict {
    let mut open: Open = Open::new(device);
    for (tag, namespace) in (20..).zip(open.controller.namespaces().to_vec()) {
        open.namespace = namespace;
        for blocks in [1, 2, 5, 16] {
            open.write(7, blocks, tag);
            open.expect(7, blocks, tag);
        }
        open.queue.flush(&open.namespace).unwrap();
    }
    Done
}

/// What is written to one namespace is not found in another.
fn namespaces_are_apart(device: &Device) -> Verdict {
    let mut open: Open = Open::new(device);
    let namespaces = open.controller.namespaces().to_vec();
    for (tag, namespace) in (30..).zip(&namespaces) {
        open.namespace = namespace.clone();
        open.write(64, 3, tag);
    }
    for (tag, namespace) in (30..).zip(namespaces) {
        open.namespace = namespace;
        open.expect(64, 3, tag);
    }
    Done
}

fn odd_sizes(device: &Device) -> Verdict {
    let mut open: Open = Open::new(device);
    for (tag, blocks) in (40..).zip([1, 2, 3, 5, 7, 8, 9, 11, 13, 15, 16, 17, 31, 33, 63, 65, 127])
    {
        open.write(tag, blocks, tag);
        open.expect(tag, blocks, tag);
    }
    Done
}

fn around_the_longest_command(device: &Device) -> Verdict {
    let mut open: Open = Open::new(device);
    let most = open.controller.max_transfer_bytes() as usize / open.lba_bytes();
    for (tag, blocks) in (70..).zip([
        most - 1,
        most,
        most + 1,
        2 * most - 1,
        2 * most,
        2 * most + 3,
    ]) {
        if blocks == 0 {
            continue;
        }
        let before = open.queue.stats().commands;
        open.write(1, blocks, tag);
        let commands = open.queue.stats().commands - before;
        assert_eq!(
            commands as usize,
            blocks.div_ceil(most),
            "{blocks} of at most {most} blocks"
        );
        open.expect(1, blocks, tag);
    }
    Done
}

/// A request may take many commands; one that takes more than the queue has is refused.
fn much_longer_than_a_command(device: &Device) -> Verdict {
    let mut open: Open = Open::with(
        device,
        underpin::ControllerOptions {
            max_transfer_bytes: 4096,
            ..Default::default()
        },
        QueueOptions {
            depth: 32,
            ..QueueOptions::default()
        },
    );
    let most = open.controller.max_transfer_bytes() as usize;
    let depth = open.queue.depth();
    let blocks = depth * most / open.lba_bytes();
    open.write(2, blocks, 80);
    open.expect(2, blocks, 80);
    let buffer = open.blocks(blocks + most / open.lba_bytes());
    let io = open
        .namespace
        .read(Lba(2), (buffer.len_bytes() / open.lba_bytes()) as u64);
    let refused = open.queue.submit(io.unwrap(), buffer).unwrap_err();
    assert!(
        matches!(refused.error, Error::TooLong { .. }),
        "{}",
        refused.error
    );
    Done
}

fn neighbours_stay(device: &Device) -> Verdict {
    let mut open: Open = Open::new(device);
    for blocks in [1, 3, 8, 40] {
        open.write(100, 60, 90);
        open.write(110, blocks, 91);
        let (lba, all) = (open.lba_bytes(), open.read(100, 60));
        let mut expected = pattern(60 * lba, 90);
        expected[10 * lba..(10 + blocks) * lba].copy_from_slice(&pattern(blocks * lba, 91));
        assert!(all == expected, "{blocks} blocks");
    }
    Done
}

fn random_writes_against_a_model(device: &Device) -> Verdict {
    let mut open: Open = Open::new(device);
    let lba = open.lba_bytes();
    let window = (512 << 10) / lba;
    open.write(200, window, 0);
    let mut model = pattern(window * lba, 0);
    let mut rng = Rng::seeded(5);
    for tag in 1..300 {
        let blocks = 1 + rng.below(window as u64 / 4) as usize;
        let at = rng.below((window - blocks) as u64 + 1) as usize;
        let range = at * lba..(at + blocks) * lba;
        if rng.chance(1, 2) {
            open.write(200 + at as u64, blocks, tag);
            model[range].copy_from_slice(&pattern(blocks * lba, tag));
        } else {
            let read = open.read(200 + at as u64, blocks);
            assert!(
                read == model[range],
                "step {tag}: {blocks} blocks from {at} on"
            );
        }
    }
    assert!(open.read(200, window) == model);
    Done
}

fn forced_unit_access(device: &Device) -> Verdict {
    let mut open: Open = Open::new(device);
    let mut buffer = open.blocks(9);
    buffer
        .copy_from(0, &pattern(buffer.len_bytes(), 100))
        .unwrap();
    let io = open.namespace.write(Lba(5), 9).unwrap().force_unit_access();
    let mut buffer = open.queue.run(io, buffer).unwrap();
    buffer.fill(0);
    let io = open.namespace.read(Lba(5), 9).unwrap().force_unit_access();
    let buffer = open.queue.run(io, buffer).unwrap();
    assert!(contents(&buffer) == pattern(buffer.len_bytes(), 100));
    Done
}

fn flush(device: &Device) -> Verdict {
    let mut open: Open = Open::new(device);
    open.queue.flush(&open.namespace).unwrap();
    open.write(0, 4, 110);
    for namespace in open.controller.namespaces().to_vec() {
        open.queue.flush(&namespace).unwrap();
    }
    // A flush may carry something, and gives it back.
    let buffer: DmaBuf = open.blocks(1);
    let iova = buffer.iova();
    assert_eq!(
        open.queue
            .run(open.namespace.flush(), buffer)
            .unwrap()
            .iova(),
        iova
    );
    open.expect(0, 4, 110);
    Done
}

fn data_outlive_the_controller(device: &Device) -> Verdict {
    let mut open: Open = Open::new(device);
    open.write(300, 17, 120);
    open.queue.flush(&open.namespace).unwrap();
    let Open {
        queue,
        namespace,
        controller,
        space,
    } = open;
    drop((queue, namespace));
    controller.close().unwrap();
    drop(space);
    let mut open: Open = Open::new(device);
    match device.forgets() {
        true => assert!(open.read(300, 17).iter().all(|&byte| byte == 0)),
        false => open.expect(300, 17, 120),
    }
    Done
}

fn beyond_the_end_is_refused(device: &Device) -> Verdict {
    let open: Open = Open::new(device);
    let end = open.namespace.len_bytes() / open.lba_bytes() as u64;
    for (lba, blocks) in [
        (end, 1),
        (end - 1, 2),
        (0, end + 1),
        (u64::MAX, 1),
        (1, u64::MAX),
        (0, 0),
    ] {
        let error = open.namespace.read(Lba(lba), blocks).unwrap_err();
        assert!(
            matches!(error, Error::OutOfRange { .. }),
            "{lba}, {blocks}: {error}"
        );
        assert!(open.namespace.write(Lba(lba), blocks).is_err());
    }
    Done
}

/// The same commands as a driver that does not look would send them.
fn the_device_refuses_it_too(device: &Device) -> Verdict {
    let mut open: Open = Open::new(device);
    let end = open.namespace.len_bytes() / open.lba_bytes() as u64;
    for (lba, opcode) in [(end, 2), (end, 1), (u64::MAX, 2), (1 << 60, 1)] {
        let command = Passthrough {
            opcode,
            cdw10: lba as u32,
            cdw11: (lba >> 32) as u32,
            ..Passthrough::default()
        };
        let buffer = open.blocks(1);
        let raw = open
            .namespace
            .passthrough(&command, buffer.len_bytes() as u64)
            .unwrap();
        let token = open.queue.submit_raw(raw, buffer).unwrap();
        let ended = open.queue.wait_for(token);
        assert!(ended.buffer.is_some());
        let Err(CommandError::Status { status, .. }) = ended.result else {
            panic!("{lba}, opcode {opcode}: {:?}", ended.result);
        };
        assert_eq!(
            status.code(),
            Status::LBA_OUT_OF_RANGE.code(),
            "{lba}: {status}"
        );
    }
    open.write(0, 1, 130);
    open.expect(0, 1, 130);
    Done
}

fn a_longer_buffer_keeps_its_rest(device: &Device) -> Verdict {
    let mut open: Open = Open::new(device);
    open.write(8, 3, 140);
    let (mut buffer, lba) = (open.blocks(8), open.lba_bytes());
    buffer.fill(0x5a);
    let io = open.namespace.read(Lba(8), 3).unwrap();
    let read = contents(&open.queue.run(io, buffer).unwrap());
    assert!(read[..3 * lba] == pattern(3 * lba, 140));
    assert!(read[3 * lba..].iter().all(|&byte| byte == 0x5a));
    Done
}
