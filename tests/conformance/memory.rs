//! Where data lie in memory: offsets, lists, several buffers, what is skipped, what is refused.
use crate::harness::Verdict::Done;
use crate::harness::{Device, Open, Test, Verdict, contents, lacks, pattern};
use underpin::dma::rt::Rng;
use underpin::nvme::spec::Sgls;
use underpin::nvme::{DataPointers, Refused};
use underpin::{ControllerOptions, DmaSpace, Error, Lba, PoolOptions, QueueOptions, Vectored};

pub(crate) const TESTS: &[Test] = &[
    ("memory::every_dword_offset", every_dword_offset),
    ("memory::lists_of_prps", lists_of_prps),
    ("memory::pools_regions_and_heap", pools_regions_and_heap),
    ("memory::scattered_pages", scattered_pages),
    ("memory::byte_spans", byte_spans),
    ("memory::dword_spans", dword_spans),
    ("memory::bytes_are_skipped", bytes_are_skipped),
    (
        "memory::sgl_and_prp_name_the_same",
        sgl_and_prp_name_the_same,
    ),
    ("memory::a_write_skips_nothing", a_write_skips_nothing),
    (
        "memory::unsuitable_buffers_are_refused",
        unsuitable_buffers_are_refused,
    ),
];

/// One block at every dword of a page; across its end the data have two parts.
fn every_dword_offset(device: &Device) -> Verdict {
    let mut open: Open = Open::new(device);
    open.write(0, 1, 1);
    let (lba, region) = (
        open.lba_bytes(),
        open.space.region("offsets", 64 << 10).unwrap(),
    );
    for offset in (0..4096).step_by(4) {
        let mut buffer = region.buf(offset, lba).unwrap();
        buffer.fill(0);
        let io = open.namespace.read(Lba(0), 1).unwrap();
        let buffer = open.queue.run(io, buffer).unwrap();
        assert!(contents(&buffer) == pattern(lba, 1), "offset {offset}");
    }
    Done
}

/// PRPs alone, from one page to the longest command and beyond, at several offsets.
fn lists_of_prps(device: &Device) -> Verdict {
    let options = ControllerOptions {
        data_pointers: DataPointers::Prp,
        ..ControllerOptions::default()
    };
    let mut open: Open = Open::with(device, options, QueueOptions::default());
    let most = (open.controller.max_transfer_bytes() as usize).min(1 << 20);
    let region = open.space.region("lists", 4 << 20).unwrap();
    let lba = open.lba_bytes();
    for (tag, pages) in (10..).zip([1, 2, 3, 5, most / 4096, most / 4096 + 1]) {
        for offset in [0, 4, 512, 2052, 4092] {
            let len = (pages * 4096).next_multiple_of(lba);
            let mut buffer = region.buf(offset, len).unwrap();
            buffer.copy_from(0, &pattern(len, tag)).unwrap();
            let io = open.namespace.write(Lba(3), (len / lba) as u64).unwrap();
            let mut buffer = open.queue.run(io, buffer).unwrap();
            buffer.fill(0);
            let io = open.namespace.read(Lba(3), (len / lba) as u64).unwrap();
            let buffer = open.queue.run(io, buffer).unwrap();
            assert!(
                contents(&buffer) == pattern(len, tag),
                "{pages} pages at {offset}"
            );
        }
    }
    assert_eq!(open.queue.stats().sgls, 0);
    Done
}

fn pools_regions_and_heap(device: &Device) -> Verdict {
    let mut open: Open = Open::new(device);
    let lba = open.lba_bytes();
    let options = PoolOptions {
        buf_bytes: lba.max(4096),
        count: 3,
    };
    let pool = open.space.pool("small", options).unwrap();
    let region = open.space.region("large", 2 << 20).unwrap();
    for round in 0..4 {
        for buffer in [
            pool.alloc().unwrap(),
            region.buf(round * 8192, options.buf_bytes).unwrap(),
            open.space.alloc(options.buf_bytes, lba).unwrap(),
        ] {
            let (mut buffer, len) = (buffer, options.buf_bytes);
            buffer.copy_from(0, &pattern(len, round as u64)).unwrap();
            let io = open.namespace.write(Lba(9), (len / lba) as u64).unwrap();
            let mut buffer = open.queue.run(io, buffer).unwrap();
            buffer.fill(1);
            let io = open.namespace.read(Lba(9), (len / lba) as u64).unwrap();
            let buffer = open.queue.run(io, buffer).unwrap();
            assert!(contents(&buffer) == pattern(len, round as u64));
        }
    }
    Done
}

/// Whole pages in any order: every device can, by PRPs at least.
fn scattered_pages(device: &Device) -> Verdict {
    let mut open: Open<Vectored> = Open::new(device);
    let region = open.space.region("pages", 4 << 20).unwrap();
    let mut rng = Rng::seeded(3);
    for round in 0..30_u64 {
        let count = 1 + rng.below(90) as usize;
        let mut memory = Vectored::new(&open.space);
        // Every second page, backwards: none is next to the one before it.
        for page in (0..count).rev() {
            memory.push(region.buf(page * 8192, 4096).unwrap()).unwrap();
        }
        round_trip(&mut open, memory, round);
    }
    Done
}

/// Writes a pattern from all of the memory, clears it and reads it back.
fn round_trip(open: &mut Open<Vectored>, mut memory: Vectored, tag: u64) {
    let len = memory.memory_bytes();
    let blocks = (len / open.lba_bytes()) as u64;
    memory.copy_from(0, &pattern(len, tag)).unwrap();
    let io = open.namespace.write(Lba(30), blocks).unwrap();
    let mut memory = open.queue.run(io, memory).unwrap();
    memory.copy_from(0, &vec![0; len]).unwrap();
    let io = open.namespace.read(Lba(30), blocks).unwrap();
    let memory = open.queue.run(io, memory).unwrap();
    let mut read = vec![0; len];
    memory.copy_to(0, &mut read).unwrap();
    assert!(
        read == pattern(len, tag),
        "{} parts, {len} bytes",
        memory.buffers().count()
    );
}

fn granularity(open: &Open<Vectored>) -> Option<u64> {
    Sgls(open.controller.identify().sgls()).granularity_bytes()
}

fn byte_spans(device: &Device) -> Verdict {
    let mut open = with_many_runs(device);
    if granularity(&open) != Some(1) {
        return lacks("SGLs of any alignment (SGLS bits 1:0)");
    }
    spans(&mut open, 1);
    Done
}

fn dword_spans(device: &Device) -> Verdict {
    let mut open = with_many_runs(device);
    if granularity(&open).is_none() {
        return lacks("SGLs (SGLS bits 1:0)");
    }
    spans(&mut open, 4);
    Done
}

/// So many parts that a device which takes long transfers needs more than one list page.
fn with_many_runs(device: &Device) -> Open<Vectored> {
    let options = ControllerOptions {
        max_runs: 1024,
        ..ControllerOptions::default()
    };
    Open::with(device, options, QueueOptions::default())
}

/// Memory cut anywhere, from a few parts to more than a list page holds.
fn spans(open: &mut Open<Vectored>, unit: usize) {
    let region = open.space.region("spans", 8 << 20).unwrap();
    let (lba, mut rng) = (open.lba_bytes(), Rng::seeded(unit as u64));
    for round in 0..40_u64 {
        let len = lba * (1 + rng.below((400 << 10) / lba as u64) as usize);
        let longest = 1 + rng.below(20_000).max(1500) as usize / unit;
        let (mut memory, mut at, mut total) = (Vectored::new(&open.space), 0, 0);
        while total < len {
            let piece = (unit * (1 + rng.below(longest as u64) as usize)).min(len - total);
            memory.push(region.buf(at, piece).unwrap()).unwrap();
            at += piece + unit * rng.below(3) as usize;
            total += piece;
        }
        round_trip(open, memory, round);
    }
    assert!(open.queue.stats().sgls > 0);
}

/// A part of a range is read; what is skipped goes nowhere.
fn bytes_are_skipped(device: &Device) -> Verdict {
    let mut open: Open<Vectored> = Open::new(device);
    let sgls = Sgls(open.controller.identify().sgls());
    if sgls.granularity_bytes().is_none() || !sgls.has_bit_bucket() {
        return lacks("bit buckets (SGLS bit 16)");
    }
    let lba = open.lba_bytes();
    let len = (64 << 10) / lba * lba;
    let mut whole = Vectored::from(open.space.alloc(len, 4096).unwrap());
    whole.copy_from(0, &pattern(len, 5)).unwrap();
    let io = open.namespace.write(Lba(40), (len / lba) as u64).unwrap();
    open.queue.run(io, whole).unwrap();
    let mut rng = Rng::seeded(9);
    for _ in 0..40 {
        let at = 4 * rng.below(len as u64 / 4) as usize;
        let wanted = 4 * (1 + rng.below((len - at) as u64 / 4) as usize).min((len - at) / 4);
        let mut part = Vectored::new(&open.space);
        part.skip(at);
        let mut buffer = open.space.alloc(wanted + 128, 64).unwrap();
        buffer.fill(0xa5);
        part.push_part(buffer, 64, wanted).unwrap();
        part.skip(len - at - wanted);
        let io = open.namespace.read(Lba(40), (len / lba) as u64).unwrap();
        let mut part = open.queue.run(io, part).unwrap();
        let buffer = contents(&part.clear().next().unwrap());
        assert!(buffer[64..64 + wanted] == pattern(len, 5)[at..at + wanted]);
        let beside = buffer[..64].iter().chain(&buffer[64 + wanted..]);
        assert!(
            beside.copied().all(|byte| byte == 0xa5),
            "written beside it"
        );
    }
    Done
}

/// What is written by SGLs alone is read by PRPs alone, and the other way round.
fn sgl_and_prp_name_the_same(device: &Device) -> Verdict {
    let with = |data_pointers| ControllerOptions {
        data_pointers,
        ..ControllerOptions::default()
    };
    // One controller at a time: not every device takes two hosts. What one leaves in memory alone
    // the other cannot find, so it is in one controller that both are compared where need be.
    let mut sgl: Open = Open::with(device, with(DataPointers::Sgl), QueueOptions::default());
    if Sgls(sgl.controller.identify().sgls())
        .granularity_bytes()
        .is_none()
    {
        return lacks("SGLs (SGLS bits 1:0)");
    }
    for (tag, blocks) in (0..).zip([1, 2, 9, 33, 100]) {
        sgl.write(50, blocks, tag);
        sgl.expect(50, blocks, tag);
    }
    assert!(sgl.queue.stats().sgls >= 10, "{:?}", sgl.queue.stats());
    // By rule, a short transfer has PRPs and a long run an SGL: each reads what the other wrote.
    drop(sgl);
    let mut rule: Open = Open::new(device);
    let (lba, long) = (rule.lba_bytes(), (96 << 10) / rule.lba_bytes());
    rule.write(50, long, 7);
    assert!(rule.queue.stats().sgls > 0);
    let before = rule.queue.stats().sgls;
    for block in 0..long {
        let read = rule.read(50 + block as u64, 1);
        assert!(read == pattern(long * lba, 7)[block * lba..(block + 1) * lba]);
    }
    assert_eq!(rule.queue.stats().sgls, before);
    for block in 0..long {
        rule.write(50 + block as u64, 1, 100 + block as u64);
    }
    let read = rule.read(50, long);
    for (block, bytes) in read.chunks(lba).enumerate() {
        assert!(bytes == pattern(lba, 100 + block as u64));
    }
    Done
}

fn a_write_skips_nothing(device: &Device) -> Verdict {
    let mut open: Open<Vectored> = Open::new(device);
    let lba = open.lba_bytes();
    let mut memory = Vectored::new(&open.space);
    memory.push(open.space.alloc(lba, 4096).unwrap()).unwrap();
    memory.skip(lba);
    let io = open.namespace.write(Lba(0), 2).unwrap();
    let Refused { error, .. } = open.queue.submit(io, memory).unwrap_err();
    assert!(matches!(error, Error::Buffer(_)), "{error}");
    Done
}

fn unsuitable_buffers_are_refused(device: &Device) -> Verdict {
    let mut open: Open = Open::new(device);
    let short = open.blocks(1);
    let elsewhere = DmaSpace::new().alloc(8 * open.lba_bytes(), 4096).unwrap();
    for buffer in [short, elsewhere] {
        let iova = buffer.iova();
        let io = open.namespace.read(Lba(0), 2).unwrap();
        let Refused { error, buffer } = open.queue.submit(io, buffer).unwrap_err();
        assert!(matches!(error, Error::Buffer(_)), "{error}");
        assert_eq!((buffer.iova(), open.queue.in_flight()), (iova, 0));
    }
    open.write(0, 2, 1);
    open.expect(0, 2, 1);
    Done
}
