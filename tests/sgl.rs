//! SGL geometry: what the driver writes into rings and segments, read back out of raw memory by a
//! walker of its own, names exactly the bytes of the caller's buffers; and the data get there.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod sgl_walker;
mod support;

use sgl_walker::{List, Part, Terms, push};
use std::sync::Arc;
use support::overheard::{Overheard, Seen, dword};
use support::{Rig, bytes, finish, stamped};
use underpin::dma::rt::Rng;
use underpin::dma::{NotAdded, Region};
use underpin::nvme::{DataPointers, Refused};
use underpin::{
    Controller, ControllerOptions, Error, Io, Lba, Namespace, Payload, QueueOptions, QueuePair,
    Vectored,
};

const PAGE: u64 = 4096;

/// A controller whose every word to the device is overheard, and one of its queues.
struct Bench {
    rig: Rig,
    seen: Arc<Seen>,
    namespace: Namespace,
    queue: QueuePair<Vectored>,
    region: Arc<Region>,
    granularity: u64,
    lba: u64,
    max_transfer: u64,
    /// The I/O submission ring: where it lies, and how many entries it has.
    ring: (u64, usize),
    /// Entries that were looked at.
    walked: usize,
}

/// What a command named, and by what.
struct Named {
    slba: u64,
    blocks: u64,
    list: List,
}

impl Bench {
    fn new(granularity: u64, lba: u64, max_transfer: u64, options: ControllerOptions) -> Self {
        let sgl = if granularity == 1 { "byte" } else { "dword" };
        let mdts = (max_transfer / PAGE).ilog2();
        let rig = Rig::new(&format!(
            "media=null,size=1g,lba={lba},mdts={mdts},queues=2,sgl={sgl}"
        ));
        let region = rig.space.region("payload", 8 * max_transfer).unwrap();
        let (transport, seen) = Overheard::new(&rig.transport);
        let options = ControllerOptions {
            max_transfer_bytes: max_transfer,
            ..options
        };
        let controller = Controller::with_transport(transport, &rig.space, options).unwrap();
        assert_eq!(controller.max_transfer_bytes(), max_transfer);
        let options = QueueOptions {
            depth: 7,
            ..QueueOptions::default()
        };
        let queue = controller.queue_pair(options).unwrap();
        Self {
            namespace: controller.namespace(None).unwrap(),
            ring: seen.io_ring(queue.qid().0),
            rig,
            seen,
            queue,
            region,
            granularity,
            lba,
            max_transfer,
            walked: 0,
        }
    }

    /// With an SGL in every command.
    fn always(granularity: u64, lba: u64, max_transfer: u64) -> Self {
        let options = ControllerOptions {
            data_pointers: DataPointers::Sgl,
            max_runs: 600,
            ..ControllerOptions::default()
        };
        Self::new(granularity, lba, max_transfer, options)
    }

    /// Memory of these places (offset in the region, length); places of `None` are skipped.
    fn memory(&self, places: &[(Option<u64>, u64)]) -> Vectored {
        let mut memory = Vectored::new(&self.rig.space);
        for &(offset, len) in places {
            let len = usize::try_from(len).unwrap();
            match offset {
                None => memory.skip(len),
                Some(offset) => {
                    let buffer = self.region.buf(usize::try_from(offset).unwrap(), len);
                    memory.push(buffer.unwrap()).unwrap();
                }
            }
        }
        memory
    }

    fn io(&self, is_read: bool, lba: u64, len: u64) -> Io {
        let blocks = len / self.lba;
        match is_read {
            true => self.namespace.read(Lba(lba), blocks).unwrap(),
            false => self.namespace.write(Lba(lba), blocks).unwrap(),
        }
    }

    /// Runs a request and gives what each of its commands names.
    fn commands_of(&mut self, is_read: bool, lba: u64, len: u64, memory: Vectored) -> Vec<Named> {
        let io = self.io(is_read, lba, len);
        let before = self.queue.stats().commands;
        let token = self.queue.submit(io, memory).map_err(Error::from).unwrap();
        finish(&mut self.queue, token).result.unwrap();
        let after = self.queue.stats().commands;
        let mut commands = Vec::new();
        for nth in before..after {
            let entry = self.entry(nth);
            let slba = u64::from(dword(&entry, 10)) | u64::from(dword(&entry, 11)) << 32;
            let blocks = u64::from(dword(&entry, 12) & 0xffff) + 1;
            assert_eq!(
                (entry[0], dword(&entry, 1)),
                (if is_read { 2 } else { 1 }, 1)
            );
            let terms = Terms {
                granularity: self.granularity,
                bit_bucket: true,
                is_read,
                len_bytes: blocks * self.lba,
            };
            let list = sgl_walker::walk(&entry, terms, |at| {
                let mut word = [0; 8];
                let is_mapped = self.seen.read(at, &mut word);
                is_mapped.then(|| u64::from_le_bytes(word))
            });
            let list = list.unwrap_or_else(|error| panic!("{entry:02x?}: {error}"));
            commands.push(Named { slba, blocks, list });
            self.walked += 1;
        }
        commands
    }

    fn entry(&self, nth: u64) -> [u8; 64] {
        let index = usize::try_from(nth).unwrap() % self.ring.1;
        self.seen.entry(self.ring.0, index)
    }

    /// PSDT of the command that such a request of one command has.
    fn psdt(&mut self, places: &[(Option<u64>, u64)]) -> u8 {
        let len = places.iter().map(|&(_, len)| len).sum();
        let memory = self.memory(places);
        let io = self.io(true, 0, len);
        let nth = self.queue.stats().commands;
        let token = self.queue.submit(io, memory).map_err(Error::from).unwrap();
        finish(&mut self.queue, token).result.unwrap();
        assert_eq!(self.queue.stats().commands, nth + 1);
        self.entry(nth)[1] >> 6
    }

    fn end(self) -> usize {
        let Self { rig, queue, .. } = self;
        drop(queue);
        rig.end();
        self.walked
    }
}

/// The first `len` bytes of some memory as parts, neighbours joined.
fn first(memory: &Vectored, len: u64) -> Vec<Part> {
    let (mut parts, mut left) = (Vec::new(), len);
    for index in 0..memory.span_count() {
        let span = memory.span(index);
        let take = left.min(span.len_bytes as u64);
        push(
            &mut parts,
            match span.is_discarded() {
                true => Part::Skipped(take),
                false => Part::Memory(span.iova.get(), take),
            },
        );
        left -= take;
    }
    assert_eq!(left, 0, "the memory is too short for the test");
    parts
}

/// The commands of a request name its memory once and in order, its blocks follow each other, and
/// none is longer than MDTS.
fn check(commands: &[Named], lba: u64, len: u64, bench: &Bench, expected: &[Part]) {
    let (mut next, mut named) = (lba, Vec::new());
    for command in commands {
        assert_eq!(command.slba, next);
        assert!(command.blocks * bench.lba <= bench.max_transfer);
        next += command.blocks;
        for &part in &command.list.parts {
            push(&mut named, part);
        }
    }
    assert_eq!(next, lba + len / bench.lba);
    assert_eq!(named, expected);
}

/// Every offset in a page that the granularity allows, with lengths around page boundaries up to
/// MDTS, in one run: one descriptor, in the command itself.
fn sweep_offsets(granularity: u64, lba: u64, step: usize) -> usize {
    let max = 128 << 10;
    let mut bench = Bench::always(granularity, lba, max);
    let mut requests = 0;
    for offset in (0..PAGE).step_by(step) {
        let mut lengths = [
            lba,
            PAGE,
            PAGE + lba,
            2 * PAGE - lba,
            2 * PAGE + lba,
            9 * PAGE,
            max,
        ];
        lengths.sort_unstable();
        for (nth, &len) in lengths.iter().enumerate() {
            if len == 0 || (nth > 0 && lengths[nth - 1] == len) {
                continue;
            }
            let memory = bench.memory(&[(Some(offset), len)]);
            let expected = first(&memory, len);
            let at = requests % 1000;
            let commands = bench.commands_of(requests % 2 == 0, at, len, memory);
            check(&commands, at, len, &bench, &expected);
            assert_eq!((commands.len(), commands[0].list.segments), (1, 0));
            requests += 1;
        }
    }
    let walked = bench.end();
    println!("{walked} SQEs walked: one run, {granularity}-byte granularity, {lba}-byte blocks");
    walked
}

#[test]
fn every_dword_offset_with_512_byte_blocks() {
    assert!(sweep_offsets(4, 512, 4) >= 1024 * 7);
}

#[test]
fn every_dword_offset_with_4096_byte_blocks() {
    assert!(sweep_offsets(4, 4096, 4) >= 1024 * 4);
}

#[test]
fn every_byte_offset_with_512_byte_blocks() {
    assert!(sweep_offsets(1, 512, 1) >= 4096 * 7);
}

#[test]
fn every_byte_offset_with_4096_byte_blocks() {
    assert!(sweep_offsets(1, 4096, 3) >= 1365 * 4);
}

/// Numbers of runs up to what a slot's three list pages hold: 255 descriptors and a link in each
/// page but the last. Around each boundary all of them, and many between.
#[test]
fn numbers_of_runs_up_to_the_lists_end() {
    const MOST: u64 = 255 + 255 + 256;
    for (granularity, lba) in [(4, 512), (1, 512), (4, 4096), (1, 4096)] {
        let mut bench = Bench::always(granularity, lba, 1 << 20);
        let mut rng = Rng::seeded(lba + granularity);
        // Short runs, the last of them as long as the blocks want it.
        let mut places_of = |runs: u64| {
            let (mut places, mut at, mut total) = (Vec::new(), 0, 0);
            for _ in 1..runs {
                let len = granularity * (1 + rng.below(512 / granularity));
                places.push((Some(at), len));
                at += len + granularity * (1 + rng.below(64));
                total += len;
            }
            let len = (total + 1).next_multiple_of(lba);
            places.push((Some(at), len - total));
            (places, len)
        };
        let mut segments_seen = [0; 4];
        let is_edge = |runs: u64| {
            [1, 256, 511, MOST]
                .iter()
                .any(|edge| edge.abs_diff(runs) < 4)
        };
        for runs in (1..=MOST).filter(|&runs| is_edge(runs) || runs % 5 == 0) {
            let (places, len) = places_of(runs);
            let memory = bench.memory(&places);
            let expected = first(&memory, len);
            assert_eq!(expected.len() as u64, runs);
            let commands = bench.commands_of(runs % 2 == 0, runs, len, memory);
            check(&commands, runs, len, &bench, &expected);
            let list = &commands[0].list;
            let segments = match runs {
                1 => 0,
                2..=256 => 1,
                257..=511 => 2,
                _ => 3,
            };
            assert_eq!((list.segments, list.descriptors as u64), (segments, runs));
            segments_seen[segments] += 1;
        }
        assert!(
            segments_seen.iter().skip(1).all(|&seen| seen > 40),
            "{segments_seen:?}"
        );
        // One more is refused, and nothing is left of it.
        let (places, len) = places_of(MOST + 1);
        let (io, memory) = (bench.io(true, 0, len), bench.memory(&places));
        let before = bench.queue.stats().commands;
        let Refused { error, buffer } = bench.queue.submit(io, memory).unwrap_err();
        let why = error.to_string();
        assert!(
            why.contains("767 runs") && why.contains("max_runs"),
            "{why}"
        );
        assert_eq!(buffer.span_count() as u64, MOST + 1);
        assert_eq!(
            (bench.queue.in_flight(), bench.queue.stats().commands),
            (0, before)
        );
        drop(buffer);
        println!(
            "{} SQEs walked: 1 to {MOST} runs, {granularity}-byte granularity, {lba}-byte blocks",
            bench.end()
        );
    }
}

/// Requests longer than MDTS, of runs of any lengths that the granularity allows, with bytes
/// skipped in reads: together the commands name everything once and in order.
#[test]
fn long_requests_are_split_wherever_the_runs_end() {
    for (granularity, lba) in [(4, 512), (1, 512), (4, 4096), (1, 4096)] {
        let max = 64 << 10;
        let mut bench = Bench::always(granularity, lba, max);
        let mut rng = Rng::seeded(11 * lba + granularity);
        let mut longest = 0;
        for round in 0..300_u64 {
            let is_read = round % 2 == 0;
            let len = lba * (1 + rng.below(5 * max / lba));
            let (mut places, mut at, mut total) = (Vec::new(), granularity * rng.below(64), 0);
            while total < len {
                let piece = granularity * (1 + rng.below(6000 / granularity));
                // The last may be longer than is transferred.
                if is_read && rng.chance(1, 5) {
                    places.push((None, piece));
                } else {
                    places.push((Some(at), piece));
                    at += piece + granularity * rng.below(3);
                }
                total += piece;
            }
            let memory = bench.memory(&places);
            let expected = first(&memory, len);
            let commands = bench.commands_of(is_read, round, len, memory);
            assert_eq!(commands.len() as u64, len.div_ceil(max));
            longest = longest.max(commands.len());
            check(&commands, round, len, &bench, &expected);
        }
        assert!(longest == 5, "{longest}");
        println!(
            "{} SQEs walked: split, {granularity}-byte granularity, {lba}-byte blocks",
            bench.end()
        );
    }
}

/// Commands have SGLs by the rule that `DataPointers` states, and by the caller's wish.
#[test]
fn the_rule_chooses() {
    let by = |data_pointers| {
        let options = ControllerOptions {
            data_pointers,
            ..ControllerOptions::default()
        };
        Bench::new(1, 512, 128 << 10, options)
    };
    let scattered: Vec<_> = (0..8).map(|nth| (Some(nth * 2 * PAGE), PAGE)).collect();
    let mut bench = by(DataPointers::ByRule);
    assert_eq!(bench.psdt(&[(Some(0), 512)]), 0);
    assert_eq!(bench.psdt(&[(Some(4), 2 * PAGE - 512)]), 0);
    assert_eq!(bench.psdt(&[(Some(0), 2 * PAGE)]), 0);
    assert_eq!(bench.psdt(&[(Some(0), PAGE), (Some(2 * PAGE), PAGE)]), 0);
    assert_eq!(bench.psdt(&scattered), 0);
    assert_eq!(bench.psdt(&[(Some(0), 2 * PAGE + 512)]), 1);
    assert_eq!(bench.psdt(&[(Some(1), 512)]), 1);
    assert_eq!(bench.psdt(&[(Some(0), 100), (Some(200), 412)]), 1);
    assert_eq!(bench.psdt(&[(None, 100), (Some(0), 412)]), 1);
    assert_eq!(bench.queue.stats().sgls, 4);
    bench.end();
    let mut bench = by(DataPointers::Prp);
    assert_eq!(bench.psdt(&[(Some(0), 32 * PAGE)]), 0);
    assert_eq!(bench.psdt(&scattered), 0);
    assert_eq!(bench.queue.stats().sgls, 0);
    bench.end();
    let mut bench = by(DataPointers::Sgl);
    assert_eq!(bench.psdt(&[(Some(0), 512)]), 1);
    assert_eq!(bench.psdt(&scattered), 1);
    bench.end();
}

/// Parts of buffers as the caller sees them: what is written from several is read into others cut
/// elsewhere, with bytes skipped; the device and every copy agree.
#[test]
fn data_of_several_buffers_arrive() {
    for config in ["size=8m", "size=8m,sgl=dword,lba=4096", "size=8m,sgl=off"] {
        let unit = if config.contains("dword") { 4 } else { 1 };
        let rig = Rig::new(config);
        let controller = rig.controller();
        let namespace = controller.namespace(None).unwrap();
        let mut queue = controller
            .queue_pair::<Vectored>(QueueOptions::default())
            .unwrap();
        let mut rng = Rng::seeded(7);
        let lba = u64::from(namespace.lba_bytes());
        for round in 0..40_u64 {
            let blocks = 1 + rng.below(100);
            let len = usize::try_from(blocks * lba).unwrap();
            let content = stamped(len, round);
            let mut memory = Vectored::new(&rig.space);
            let mut cut = |memory: &mut Vectored, may_skip: bool| {
                let mut at = 0;
                let mut kept = Vec::new();
                while at < len {
                    // Without SGLs whole pages, as PRPs want them.
                    let piece = match config.contains("off") {
                        true => 4096 * (1 + rng.below(3) as usize),
                        false => unit * (1 + rng.below(9000 / unit as u64) as usize),
                    };
                    let piece = piece.min(len - at);
                    if may_skip && rng.chance(1, 3) {
                        memory.skip(piece);
                    } else {
                        let offset = if config.contains("off") { 0 } else { 12 };
                        let buffer = rig.space.alloc(piece + offset, 4096).unwrap();
                        let pushed: Result<(), NotAdded> = memory.push_part(buffer, offset, piece);
                        pushed.unwrap();
                        kept.extend_from_slice(&content[at..at + piece]);
                    }
                    at += piece;
                }
                kept
            };
            let all = cut(&mut memory, false);
            assert_eq!(all, content);
            memory.copy_from(0, &content).unwrap();
            let io = namespace.write(Lba(round * 13), blocks).unwrap();
            let mut memory = queue.run(io, memory).unwrap();
            memory.clear().for_each(drop);
            let kept = cut(&mut memory, !config.contains("off"));
            let io = namespace.read(Lba(round * 13), blocks).unwrap();
            let memory = queue.run(io, memory).unwrap();
            let mut read = vec![0; kept.len()];
            memory.copy_to(0, &mut read).unwrap();
            assert!(read == kept, "{config}, round {round}");
        }
        drop(queue);
        drop(controller);
        rig.end();
    }
}

/// A part of a range of blocks is read and the rest goes nowhere: not into memory beside it.
#[test]
fn a_part_of_a_range_is_read() {
    let rig = Rig::new("size=1m");
    let controller = rig.controller();
    let namespace = controller.namespace(None).unwrap();
    let mut queue = controller
        .queue_pair::<Vectored>(QueueOptions::default())
        .unwrap();
    let content = stamped(8192, 1);
    let mut whole = Vectored::from(rig.space.alloc(8192, 4096).unwrap());
    whole.copy_from(0, &content).unwrap();
    queue
        .run(namespace.write(Lba(0), 16).unwrap(), whole)
        .unwrap();
    let mut buffer = rig.space.alloc(4096, 4096).unwrap();
    buffer.fill(0x77);
    let mut part = Vectored::new(&rig.space);
    part.skip(1000);
    part.push_part(buffer, 100, 300).unwrap();
    part.skip(8192 - 1300);
    let mut part = queue
        .run(namespace.read(Lba(0), 16).unwrap(), part)
        .unwrap();
    let buffer = part.clear().next().unwrap();
    let mut expected = vec![0x77; 4096];
    expected[100..400].copy_from_slice(&content[1000..1300]);
    assert!(bytes(&buffer) == expected);
    drop((queue, controller, buffer));
    rig.end();
}

/// What neither PRPs nor an SGL can name is refused with both reasons, the memory given back, and
/// no command left in the ring.
#[test]
fn what_cannot_be_named_is_refused() {
    for (config, skips, write, hint) in [
        ("size=1m,sgl=off", false, false, "takes none"),
        ("size=1m,sgl=off", true, false, "takes none"),
        ("size=1m,sgl=dword", false, false, "multiples of 4"),
        ("size=1m", true, true, "only a read"),
    ] {
        let rig = Rig::new(config);
        let controller = rig.controller();
        let namespace = controller.namespace(None).unwrap();
        let mut queue = controller
            .queue_pair::<Vectored>(QueueOptions::default())
            .unwrap();
        let mut memory = Vectored::new(&rig.space);
        memory.push(rig.space.alloc(510, 4096).unwrap()).unwrap();
        match skips {
            true => memory.skip(514),
            false => memory.push(rig.space.alloc(514, 4096).unwrap()).unwrap(),
        }
        let io = match write {
            true => namespace.write(Lba(0), 2).unwrap(),
            false => namespace.read(Lba(0), 2).unwrap(),
        };
        let Refused { error, buffer } = queue.submit(io, memory).unwrap_err();
        assert!(matches!(error, Error::Buffer(_)), "{error:?}");
        let why = error.to_string();
        assert!(
            why.contains("PRPs") && why.contains(hint),
            "{config}: {why}"
        );
        assert_eq!(
            (
                buffer.span_count(),
                queue.in_flight(),
                queue.stats().commands
            ),
            (2, 0, 0)
        );
        drop((queue, controller, buffer));
        rig.emulator.stop().unwrap();
    }
}
