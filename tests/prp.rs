//! PRP geometry: what the driver writes into rings and lists, read back out of raw memory, names
//! exactly the bytes of the caller's buffer, for every dword offset in a page.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod prp_walker;
mod support;

use std::sync::Arc;
use support::overheard::{Overheard, Seen, dword};
use support::{Rig, finish};
use underpin::dma::{PoolOptions, Region, SpaceId, Span};
use underpin::nvme::Refused;
use underpin::{
    Controller, ControllerOptions, DmaBuf, Error, Io, Lba, Namespace, Payload, QueueOptions,
    QueuePair,
};

/// Any runs of memory that a test owns.
#[derive(Debug)]
struct Runs {
    buffers: Vec<DmaBuf>,
    spans: Vec<Span>,
}

// SAFETY: every span lies within one of `buffers` (the constructors below cut them from there),
// which own mapped memory until they are dropped with this value; a move does not move memory.
unsafe impl Payload for Runs {
    fn space_id(&self) -> SpaceId {
        self.buffers[0].space_id()
    }
    fn span_count(&self) -> usize {
        self.spans.len()
    }
    fn span(&self, index: usize) -> Span {
        self.spans[index]
    }
}

impl Runs {
    /// `parts` are (buffer, offset, length), each within its buffer.
    fn of(buffers: Vec<DmaBuf>, parts: &[(usize, usize, usize)]) -> Self {
        let cut = |&(buffer, offset, len_bytes): &(usize, usize, usize)| {
            let buffer: &DmaBuf = &buffers[buffer];
            assert!(offset + len_bytes <= buffer.len_bytes());
            Span {
                iova: buffer.iova().wrapping_add(offset as u64),
                len_bytes,
            }
        };
        let spans = parts.iter().map(cut).collect();
        Self { buffers, spans }
    }

    /// The first `len` bytes as runs of (IOVA, length), neighbours joined.
    fn first(&self, len: u64) -> Vec<(u64, u64)> {
        let mut left = len;
        let mut runs = Vec::new();
        for span in &self.spans {
            let take = left.min(span.len_bytes as u64);
            push(&mut runs, (span.iova.get(), take));
            left -= take;
        }
        runs
    }
}

/// Appends a run, joined to the last where it continues it.
fn push(runs: &mut Vec<(u64, u64)>, (begin, len): (u64, u64)) {
    match runs.last_mut() {
        _ if len == 0 => {}
        Some(last) if last.0 + last.1 == begin => last.1 += len,
        _ => runs.push((begin, len)),
    }
}

/// A command as its 64 bytes say it (NVMe Base 2.0, 3.3.3.1; NVM Command Set 1.0, 3.2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Command {
    opcode: u8,
    nsid: u32,
    slba: u64,
    blocks: u64,
}

/// A command and the bytes that it names.
type Named = (Command, Vec<(u64, u64)>);

fn command(entry: &[u8; 64]) -> Command {
    Command {
        opcode: entry[0],
        nsid: dword(entry, 1),
        slba: u64::from(dword(entry, 10)) | u64::from(dword(entry, 11)) << 32,
        blocks: u64::from(dword(entry, 12) & 0xffff) + 1,
    }
}

/// A controller whose every word to the device is overheard, and one of its queues.
struct Bench {
    rig: Rig,
    seen: Arc<Seen>,
    namespace: Namespace,
    queue: QueuePair<Runs>,
    region: Arc<Region>,
    page: u64,
    lba: u64,
    max_transfer: u64,
    /// The I/O submission ring: where it lies, and how many entries it has.
    ring: (u64, usize),
    /// Entries that were looked at.
    walked: usize,
}

impl Bench {
    fn new(lba: u64, mpsmin: u32, max_transfer: u64) -> Self {
        let page = 4096_u64 << mpsmin;
        let mdts = (max_transfer / page).ilog2();
        let rig = Rig::new(&format!(
            "media=null,sgl=off,size=1g,lba={lba},mpsmin={mpsmin},mpsmax={mpsmin},mdts={mdts},queues=2"
        ));
        let region = rig.space.region("payload", 4 * max_transfer).unwrap();
        let (transport, seen) = Overheard::new(&rig.transport);
        let options = ControllerOptions {
            max_transfer_bytes: max_transfer,
            ..ControllerOptions::default()
        };
        let controller = Controller::with_transport(transport, &rig.space, options).unwrap();
        assert_eq!(controller.max_transfer_bytes(), max_transfer);
        let queue = controller
            .queue_pair(QueueOptions {
                depth: 7,
                ..QueueOptions::default()
            })
            .unwrap();
        let ring = seen.io_ring(queue.qid().0);
        Self {
            namespace: controller.namespace(None).unwrap(),
            rig,
            seen,
            queue,
            region,
            page,
            lba,
            max_transfer,
            ring,
            walked: 0,
        }
    }

    /// Runs a request and gives its commands with the bytes that each names, and the memory back.
    fn commands_of(&mut self, io: Io, runs: Runs) -> (Vec<Named>, Runs) {
        let before = self.queue.stats().commands;
        let token = self.queue.submit(io, runs).map_err(Error::from).unwrap();
        let ended = finish(&mut self.queue, token);
        ended.result.unwrap();
        let after = self.queue.stats().commands;
        let mut commands = Vec::new();
        for nth in before..after {
            let index = usize::try_from(nth).unwrap() % self.ring.1;
            let entry = self.seen.entry(self.ring.0, index);
            let command = command(&entry);
            let named = self.bytes_of(&entry, command.blocks * self.lba);
            commands.push((command, named));
            self.walked += 1;
        }
        (commands, ended.buffer.unwrap())
    }

    /// The bytes that an entry names, neighbours joined.
    #[track_caller]
    fn bytes_of(&self, entry: &[u8; 64], len: u64) -> Vec<(u64, u64)> {
        let read_u64 = |iova| {
            let mut word = [0; 8];
            let is_mapped = self.seen.read(iova, &mut word);
            is_mapped.then(|| u64::from_le_bytes(word))
        };
        match prp_walker::walk(entry, self.page, len, read_u64) {
            Ok(runs) => runs,
            Err(error) => panic!("the entry {entry:02x?} of {len} bytes: {error}"),
        }
    }

    /// The lengths of the acceptance list, for memory that begins at `offset` in a page.
    fn lengths(&self, offset: u64) -> Vec<u64> {
        let (page, lba) = (self.page, self.lba);
        // A list page holds page/8 entries, and PRP1 names one page more: this is the longest
        // transfer that one page of list can name.
        let list_full = ((page / 8 + 1) * page - offset) / lba * lba;
        let mut lengths = vec![
            lba,
            2 * lba,
            page.saturating_sub(lba),
            page,
            page + lba,
            2 * page - lba,
            2 * page,
            2 * page + lba,
            list_full,
            list_full + lba,
            self.max_transfer,
        ];
        lengths.sort_unstable();
        lengths.dedup();
        lengths.retain(|&len| len > 0 && len % lba == 0);
        lengths
    }

    fn end(self) -> usize {
        let Self { rig, queue, .. } = self;
        drop(queue);
        rig.end();
        self.walked
    }
}

/// Every offset of `offsets` with every length: the entry names the buffer's bytes, all of them,
/// in order, and no others.
fn sweep(lba: u64, mpsmin: u32, max_transfer: u64, offset_step: usize) -> usize {
    let mut bench = Bench::new(lba, mpsmin, max_transfer);
    let region_len = usize::try_from(bench.region.len_bytes()).unwrap();
    let mut buffers = vec![bench.region.buf(0, region_len).unwrap()];
    let (mut requests, mut at) = (0, 0);
    for offset in (0..bench.page).step_by(offset_step) {
        for len in bench.lengths(offset) {
            let offset = usize::try_from(offset).unwrap();
            let part = (0, offset, usize::try_from(len).unwrap());
            let runs = Runs::of(std::mem::take(&mut buffers), &[part]);
            let expected = runs.first(len);
            let blocks = len / lba;
            let io = match requests % 2 {
                0 => bench.namespace.read(Lba(at), blocks).unwrap(),
                _ => bench.namespace.write(Lba(at), blocks).unwrap(),
            };
            let (commands, runs) = bench.commands_of(io, runs);
            buffers = runs.buffers;
            let [(command, named)] = &commands[..] else {
                panic!("{} commands for {len} bytes", commands.len());
            };
            assert_eq!(named, &expected, "{len} bytes at offset {offset}");
            let wanted = Command {
                opcode: if requests % 2 == 0 { 0x02 } else { 0x01 },
                nsid: 1,
                slba: at,
                blocks,
            };
            assert_eq!(command, &wanted);
            requests += 1;
            at = (at + 977) % 65_536;
        }
    }
    drop(buffers);
    let walked = bench.end();
    assert_eq!(walked, requests);
    println!(
        "{walked} SQEs walked: {lba}-byte blocks, pages of {} bytes",
        4096 << mpsmin
    );
    walked
}

/// Entries are made in memory that is used again: what one command had there, such as a second PRP,
/// is not sent with the next that has none.
#[test]
fn plain_commands_after_others_are_plain() {
    let mut bench = Bench::new(512, 0, 128 << 10);
    let mut buffers = vec![bench.region.buf(0, 5 * 4096).unwrap()];
    for round in 0..20 {
        // Two pages, a list, then one page.
        for pages in [2, 5, 1] {
            let runs = Runs::of(std::mem::take(&mut buffers), &[(0, 0, pages * 4096)]);
            let prp1 = runs.spans[0].iova.get();
            let io = bench.namespace.write(Lba(round), 8 * pages as u64).unwrap();
            let entry_index = bench.queue.stats().commands as usize % bench.ring.1;
            let (_, runs) = bench.commands_of(io, runs);
            buffers = runs.buffers;
            if pages == 1 {
                let entry = bench.seen.entry(bench.ring.0, entry_index);
                let dwords = std::array::from_fn(|at| match at {
                    0 => dword(&entry, 0) & 0xffff,
                    _ => dword(&entry, at),
                });
                let (low, high) = (prp1 as u32, (prp1 >> 32) as u32);
                let lba = round as u32;
                let plain = [1, 1, 0, 0, 0, 0, low, high, 0, 0, lba, 0, 7, 0, 0, 0];
                assert_eq!(dwords, plain, "round {round}");
            }
        }
    }
    drop(buffers);
    bench.end();
}

#[test]
fn every_dword_offset_and_length_with_512_byte_blocks() {
    assert!(sweep(512, 0, 4 << 20, 4) >= 1024 * 10);
}

#[test]
fn every_dword_offset_and_length_with_4096_byte_blocks() {
    assert!(sweep(4096, 0, 4 << 20, 4) >= 1024 * 6);
}

/// The same where the device's smallest page has 8 KiB (CAP.MPSMIN 1): a list page names 8 MiB.
#[test]
fn offsets_and_lengths_with_pages_of_8_kib() {
    assert!(sweep(512, 1, 16 << 20, 44) >= 186 * 10);
}

/// A request longer than MDTS becomes several commands: together they name the buffer once, in
/// order, their blocks follow each other, and none is longer than MDTS.
#[test]
fn a_long_request_is_split_without_gap_or_overlap() {
    for lba in [512_u64, 4096] {
        let max = 128 << 10;
        let mut bench = Bench::new(lba, 0, max);
        let mut buffer = bench.region.buf(0, (4 * max) as usize).unwrap();
        for offset in [0_usize, 4, 512, 2048, 4092] {
            for len in [max + lba, 2 * max - lba, 2 * max, 2 * max + lba, 3 * max] {
                let runs = Runs::of(vec![buffer], &[(0, offset, len as usize)]);
                let expected = runs.first(len);
                let io = bench.namespace.write(Lba(7), len / lba).unwrap();
                let (commands, runs) = bench.commands_of(io, runs);
                buffer = runs.buffers.into_iter().next().unwrap();
                assert_eq!(commands.len() as u64, len.div_ceil(max), "{len} bytes");
                check_split(&commands, 7, len / lba, max / lba, &expected);
            }
        }
        drop(buffer);
        println!("{} SQEs walked: split, {lba}-byte blocks", bench.end());
    }
}

fn check_split(
    commands: &[Named],
    first_lba: u64,
    blocks: u64,
    max_blocks: u64,
    expected: &[(u64, u64)],
) {
    let mut next = first_lba;
    let mut named = Vec::new();
    for (command, runs) in commands {
        assert_eq!((command.opcode, command.nsid, command.slba), (1, 1, next));
        assert!(command.blocks <= max_blocks, "{command:?} exceeds MDTS");
        next += command.blocks;
        runs.iter().for_each(|&run| push(&mut named, run));
    }
    assert_eq!(next, first_lba + blocks);
    assert_eq!(named, expected);
}

/// Memory in several runs, each from a buffer of its own and none next to another: named in
/// transfer order, in one command and, when it is longer than MDTS, in several.
#[test]
fn scattered_memory_is_named_in_transfer_order() {
    let max = 128_u64 << 10;
    let mut bench = Bench::new(512, 0, max);
    let options = PoolOptions {
        buf_bytes: 16 << 10,
        count: 64,
    };
    let pool = bench.rig.space.pool("scattered", options).unwrap();
    let mut rng = underpin::dma::rt::Rng::seeded(5);
    for round in 0..200 {
        // Every second buffer of the pool in random order: no two are neighbours.
        let all: Vec<DmaBuf> = (0..options.count).map(|_| pool.alloc().unwrap()).collect();
        let mut buffers: Vec<DmaBuf> = all.into_iter().step_by(2).collect();
        for index in (1..buffers.len()).rev() {
            buffers.swap(index, rng.below(index as u64 + 1) as usize);
        }
        // The first run may begin anywhere in a page, the last may end anywhere.
        let count = 2 + rng.below(20) as usize;
        let begin = 4 * rng.below(4096) as usize;
        let mut parts = vec![(0, begin, options.buf_bytes - begin)];
        for buffer in 1..count {
            let pages = if buffer + 1 == count {
                4
            } else {
                1 + rng.below(4) as usize
            };
            parts.push((buffer, 0, pages * 4096));
        }
        let runs = Runs::of(buffers, &parts);
        let total: u64 = runs.spans.iter().map(|span| span.len_bytes as u64).sum();
        let len = (total - rng.below(16_000)) / 512 * 512;
        let expected = runs.first(len);
        let io = bench.namespace.write(Lba(round), len / 512).unwrap();
        let (commands, _) = bench.commands_of(io, runs);
        assert_eq!(commands.len() as u64, len.div_ceil(max));
        check_split(&commands, round, len / 512, max / 512, &expected);
    }
    println!("{} SQEs walked: scattered memory", bench.end());
}

/// What no PRP can name is refused in words, and the memory comes back with nothing submitted.
#[test]
fn memory_that_no_prp_can_name_is_refused() {
    let mut bench = Bench::new(512, 0, 128 << 10);
    let space = bench.rig.space.clone();
    let page = || space.alloc(4096, 4096).unwrap();
    let refused = |bench: &mut Bench, blocks: u64, runs: Runs| {
        let spans = runs.spans.clone();
        let io = bench.namespace.read(Lba(0), blocks).unwrap();
        let Refused { error, buffer } = bench.queue.submit(io, runs).unwrap_err();
        assert!(matches!(error, Error::Buffer(_)), "{error:?}");
        assert_eq!(buffer.spans, spans);
        assert_eq!(
            (bench.queue.in_flight(), bench.queue.stats().commands),
            (0, 0)
        );
        error.to_string()
    };
    let odd = Runs::of(vec![page()], &[(0, 2, 512)]);
    assert!(refused(&mut bench, 1, odd).contains("multiple of 4"));
    let gap = Runs::of(vec![page(), page()], &[(0, 0, 512), (1, 0, 512)]);
    assert!(refused(&mut bench, 2, gap).contains("pages of 4096"));
    let inside = Runs::of(vec![page(), page()], &[(0, 0, 4096), (1, 512, 512)]);
    assert!(refused(&mut bench, 9, inside).contains("pages of 4096"));
    let short = Runs::of(vec![page()], &[(0, 512, 3584)]);
    assert!(refused(&mut bench, 8, short).contains("3584"));
    // The gap lies in the second command's part: the first must not be left in the ring.
    let big = space.alloc(256 << 10, 4096).unwrap();
    let late = Runs::of(
        vec![big, page()],
        &[(0, 0, (256 << 10) - 512), (1, 0, 1024)],
    );
    assert!(refused(&mut bench, 513, late).contains("pages of 4096"));
    // No slot was lost to a refusal.
    let tokens: Vec<_> = (0..bench.queue.depth())
        .map(|_| {
            let io = bench.namespace.read(Lba(0), 1).unwrap();
            let runs = Runs::of(vec![page()], &[(0, 0, 512)]);
            bench.queue.submit(io, runs).map_err(Error::from).unwrap()
        })
        .collect();
    for token in tokens {
        let ended = bench.queue.wait_for(token);
        ended.result.unwrap();
    }
    bench.end();
}
