//! Scatter gather lists as the controller takes them: data where the list says, in its order, and
//! the right status for every list that cannot be (NVMe Base 2.0, 4.1.2), with nothing moved.
#![allow(clippy::unwrap_used, clippy::expect_used)]
mod common;

use common::*;
use underpin_dma::DmaBuf;
use underpin_dma::rt::Rng;
use underpin_nvme_spec::admin::Cns;
use underpin_nvme_spec::identify::IdentifyController;
use underpin_nvme_spec::{NvmOpcode, SglDescriptor, SglType, Sgls, Sqe, Status};

const DATA: SglType = SglType::DATA_BLOCK;
const BUCKET: SglType = SglType::BIT_BUCKET;
const SEGMENT: SglType = SglType::SEGMENT;
const LAST: SglType = SglType::LAST_SEGMENT;

fn descriptor(kind: SglType, address: u64, len_bytes: u32) -> SglDescriptor {
    SglDescriptor::new(kind, address, len_bytes)
}

/// A host with one queue, memory for data and memory for lists.
struct Bench {
    host: Host,
    pair: Pair,
    data: DmaBuf,
    lists: DmaBuf,
}

impl Bench {
    fn new(text: &str) -> Self {
        let mut host = Host::up(config(text), Mode::Inline);
        let pair = host.create(1, 16);
        let page = 4096;
        Self {
            data: host.space.alloc(16 * page, page).unwrap(),
            lists: host.space.alloc(4 * page, page).unwrap(),
            host,
            pair,
        }
    }

    /// Where byte `at` of the data lies.
    fn data(&self, at: u64) -> u64 {
        self.data.iova().get() + at
    }

    /// Where descriptor `index` of the lists lies.
    fn list(&self, index: u64) -> u64 {
        self.lists.iova().get() + 16 * index
    }

    fn put(&mut self, index: usize, descriptors: &[SglDescriptor]) {
        for (nth, descriptor) in descriptors.iter().enumerate() {
            let bytes = descriptor.as_u64s().map(u64::to_le_bytes).concat();
            self.lists.copy_from(16 * (index + nth), &bytes).unwrap();
        }
    }

    fn io(&mut self, sqe: Sqe, sgl1: SglDescriptor) -> Status {
        let sqe = sqe.with_psdt(Sqe::PSDT_SGL).with_sgl1(sgl1);
        self.host.io(&mut self.pair, sqe).status()
    }

    fn bytes(&self, at: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.data.copy_to(at, &mut bytes).unwrap();
        bytes
    }
}

/// Identify says what `sgl=` chose.
#[test]
fn identify_tells_what_is_taken() {
    for (text, sgls) in [
        ("sgl=off", Sgls(0)),
        ("sgl=dword", Sgls::DWORD.with_bit_bucket()),
        ("sgl=byte", Sgls::BYTE.with_bit_bucket()),
        ("size=1m", Sgls::BYTE.with_bit_bucket()),
    ] {
        let mut host = Host::up(config(text), Mode::Inline);
        let page = host.identify(Cns::CONTROLLER, 0).unwrap();
        assert_eq!(
            IdentifyController::from_bytes(&page).sgls(),
            sgls.0,
            "{text}"
        );
    }
}

/// Any cutting of a write's data into descriptors over any segments writes the same, and any
/// cutting of a read, with bit buckets between, reads it back; at once and in small steps.
#[test]
fn data_goes_where_the_list_says() {
    for text in ["size=1m", "size=1m,step=on", "size=1m,step=on,awun=7"] {
        let mut bench = Bench::new(text);
        let mut rng = Rng::seeded(3);
        for round in 0..40_u64 {
            let blocks = 1 + rng.below(8) as u32;
            let len = 512 * u64::from(blocks);
            for is_read in [false, true] {
                let content = pattern(round, len as usize);
                bench.data.fill(0xee);
                // The data, cut anywhere, at odd places of memory, some of a read dropped.
                let (mut cuts, mut at, mut place) = (Vec::new(), 0, rng.below(8));
                let mut pieces = Vec::new();
                while at < len {
                    let piece = (1 + rng.below(700)).min(len - at);
                    let dropped = is_read && rng.chance(1, 4);
                    if dropped {
                        cuts.push(descriptor(BUCKET, rng.next_u64(), piece as u32));
                    } else {
                        cuts.push(descriptor(DATA, bench.data(place), piece as u32));
                        pieces.push((at as usize, place as usize, piece as usize));
                        place += piece + rng.below(90);
                    }
                    if rng.chance(1, 8) {
                        // Nothing, in both directions.
                        cuts.push(descriptor(DATA, bench.data(0), 0));
                    }
                    if !is_read && rng.chance(1, 8) {
                        cuts.push(descriptor(BUCKET, 0, 1 << 20));
                    }
                    at += piece;
                }
                let sgl1 = lay(&mut bench, &mut rng, &cuts);
                if is_read {
                    let status = bench.io(read(1, 16, blocks), sgl1);
                    assert_eq!(status, Status::SUCCESS, "{cuts:x?}");
                    let mut expected = vec![0xee; 16 * 4096];
                    for (at, place, piece) in pieces {
                        expected[place..place + piece].copy_from_slice(&content[at..at + piece]);
                    }
                    assert!(bench.bytes(0, 16 * 4096) == expected, "round {round}");
                } else {
                    for (at, place, piece) in pieces {
                        bench
                            .data
                            .copy_from(place, &content[at..at + piece])
                            .unwrap();
                    }
                    let status = bench.io(write(1, 16, blocks), sgl1);
                    assert_eq!(status, Status::SUCCESS, "{cuts:x?}");
                }
            }
        }
        assert_eq!(bench.host.emu.iommu_faults(), []);
    }
}

/// Lays a list over segments of random lengths and gives what leads to it.
fn lay(bench: &mut Bench, rng: &mut Rng, cuts: &[SglDescriptor]) -> SglDescriptor {
    if let [one] = cuts {
        return *one;
    }
    // Segments of the list, each with how many data descriptors it has.
    let mut segments: Vec<&[SglDescriptor]> = Vec::new();
    let mut rest = cuts;
    while !rest.is_empty() {
        let count = (1 + rng.below(6) as usize).min(rest.len());
        segments.push(&rest[..count]);
        rest = &rest[count..];
    }
    let place = |nth: usize| 8 * nth;
    for (nth, segment) in segments.iter().enumerate() {
        bench.put(place(nth), segment);
        if let Some(next) = segments.get(nth + 1) {
            let is_last = nth + 2 == segments.len();
            let link = lead(
                bench,
                place(nth + 1),
                next.len() + usize::from(!is_last),
                is_last,
            );
            bench.put(place(nth) + segment.len(), &[link]);
        }
    }
    let is_last = segments.len() == 1;
    lead(bench, 0, segments[0].len() + usize::from(!is_last), is_last)
}

fn lead(bench: &Bench, place: usize, count: usize, is_last: bool) -> SglDescriptor {
    let kind = if is_last { LAST } else { SEGMENT };
    descriptor(kind, bench.list(place as u64), 16 * count as u32)
}

/// Every list that cannot be, with the status that says why; no data moves in either direction.
#[test]
fn what_a_list_must_not_be() {
    let mut bench = Bench::new("size=1m");
    let block = |bench: &Bench| descriptor(DATA, bench.data(0), 512);
    let half = |bench: &Bench| descriptor(DATA, bench.data(0), 256);
    let (one, half) = (block(&bench), half(&bench));
    let here = bench.list(0);
    let last = |count: u32| descriptor(LAST, here, 16 * count);
    let on = |count: u32| descriptor(SEGMENT, here, 16 * count);
    let there = bench.list(8);
    let unmapped = 0x50_0000_0000;
    // What SGL1 is, what lies in the list, what comes of it, and why.
    type Case<'a> = (SglDescriptor, &'a [SglDescriptor], Status, &'a str);
    let cases: &[Case<'_>] = &[
        (last(2), &[half, half], Status::SUCCESS, "a good one"),
        (
            one.with_subtype(1),
            &[],
            Status::SGL_DESCRIPTOR_TYPE_INVALID,
            "an offset",
        ),
        (
            last(2),
            &[half, half.with_subtype(0xa)],
            Status::SGL_DESCRIPTOR_TYPE_INVALID,
            "a subtype",
        ),
        (
            descriptor(SglType(4), 0, 512),
            &[],
            Status::SGL_DESCRIPTOR_TYPE_INVALID,
            "a keyed block",
        ),
        (
            descriptor(SglType(5), 0, 512),
            &[],
            Status::SGL_DESCRIPTOR_TYPE_INVALID,
            "a transport block",
        ),
        (
            last(2),
            &[half, descriptor(SglType(0xf), 0, 256)],
            Status::SGL_DESCRIPTOR_TYPE_INVALID,
            "a vendor's",
        ),
        (half, &[], Status::DATA_SGL_LENGTH_INVALID, "half of it"),
        (
            descriptor(DATA, one.address(), 513),
            &[],
            Status::DATA_SGL_LENGTH_INVALID,
            "a byte too much",
        ),
        (
            descriptor(DATA, one.address(), u32::MAX),
            &[],
            Status::DATA_SGL_LENGTH_INVALID,
            "4 GiB",
        ),
        (
            last(3),
            &[half, half, half],
            Status::DATA_SGL_LENGTH_INVALID,
            "a block too many",
        ),
        (
            last(1),
            &[half],
            Status::DATA_SGL_LENGTH_INVALID,
            "a block too few",
        ),
        (
            last(0),
            &[],
            Status::INVALID_SGL_SEGMENT_DESCRIPTOR,
            "a segment of nothing",
        ),
        (
            descriptor(LAST, here, 24),
            &[half, half],
            Status::INVALID_SGL_SEGMENT_DESCRIPTOR,
            "half a descriptor",
        ),
        (
            descriptor(LAST, here + 4, 16),
            &[one],
            Status::INVALID_SGL_SEGMENT_DESCRIPTOR,
            "not a qword",
        ),
        (
            last(2),
            &[half, descriptor(LAST, there, 16)],
            Status::INVALID_SGL_SEGMENT_DESCRIPTOR,
            "the last leads on",
        ),
        (
            on(2),
            &[half, half],
            Status::INVALID_SGL_SEGMENT_DESCRIPTOR,
            "not the last, and leads nowhere",
        ),
        (
            on(2),
            &[descriptor(LAST, there, 16), one],
            Status::INVALID_SGL_DESCRIPTOR_COUNT,
            "leads on too early",
        ),
        (
            on(1),
            &[on(1)],
            Status::INVALID_SGL_DESCRIPTOR_COUNT,
            "round in circles",
        ),
        (
            descriptor(SEGMENT, here, 0xffff_fff0),
            &[],
            Status::INVALID_SGL_DESCRIPTOR_COUNT,
            "a long way",
        ),
        (
            descriptor(LAST, unmapped, 16),
            &[],
            Status::DATA_TRANSFER_ERROR,
            "a list that is not there",
        ),
        (
            descriptor(LAST, u64::MAX - 15, 32),
            &[],
            Status::DATA_TRANSFER_ERROR,
            "a list beyond all",
        ),
    ];
    let content = pattern(1, 512);
    bench.data.copy_from(0, &content).unwrap();
    assert_eq!(bench.io(write(1, 0, 1), one), Status::SUCCESS);
    for (sgl1, list, status, why) in cases {
        bench.lists.fill(0);
        bench.put(0, list);
        bench.put(8, &[one]);
        bench.data.fill(0x55);
        let ended = bench.io(read(1, 0, 1), *sgl1);
        assert_eq!(ended.code(), status.code(), "{why}: read: {ended}");
        if *status == Status::SUCCESS {
            continue;
        }
        assert_eq!(bench.bytes(0, 1024), [0x55; 1024], "{why}: moved");
        let ended = bench.io(write(1, 0, 1), *sgl1);
        assert_eq!(ended.code(), status.code(), "{why}: write: {ended}");
        assert_eq!(bench.io(read(1, 0, 1), one), Status::SUCCESS);
        assert_eq!(bench.bytes(0, 512), content, "{why}: written");
    }
    // Data that is not mapped is the IOMMU's to stop.
    let before = bench.host.emu.iommu_faults().len();
    let ended = bench.io(read(1, 0, 1), descriptor(DATA, unmapped, 512));
    assert_eq!(ended.code(), Status::DATA_TRANSFER_ERROR.code());
    let ended = bench.io(read(1, 0, 1), descriptor(DATA, u64::MAX - 3, 512));
    assert_eq!(ended.code(), Status::DATA_TRANSFER_ERROR.code());
    assert_eq!(bench.host.emu.iommu_faults().len(), before + 2);
}

/// With `sgl=dword` data blocks are whole dwords; a bit bucket has no address to be aligned.
#[test]
fn dwords_are_held_to() {
    let mut bench = Bench::new("size=1m,sgl=dword");
    let at = bench.data(0);
    let list = descriptor(LAST, bench.list(0), 32);
    for (first, second, status) in [
        ((at, 256), (at + 512, 256), Status::SUCCESS),
        ((at + 4, 4), (at + 512, 508), Status::SUCCESS),
        (
            (at + 2, 256),
            (at + 512, 256),
            Status::SGL_DATA_BLOCK_GRANULARITY_INVALID,
        ),
        (
            (at, 256),
            (at + 513, 256),
            Status::SGL_DATA_BLOCK_GRANULARITY_INVALID,
        ),
        (
            (at, 254),
            (at + 512, 258),
            Status::SGL_DATA_BLOCK_GRANULARITY_INVALID,
        ),
    ] {
        let block = |(address, len)| descriptor(DATA, address, len);
        bench.put(0, &[block(first), block(second)]);
        assert_eq!(bench.io(write(1, 0, 1), list).code(), status.code());
    }
    bench.put(0, &[descriptor(BUCKET, 3, 256), descriptor(DATA, at, 256)]);
    assert_eq!(bench.io(read(1, 0, 1), list), Status::SUCCESS);
}

/// Where there are none, a command with one is refused; MPTR as an SGL always is.
#[test]
fn what_is_not_supported_is_refused() {
    for (text, psdt) in [("size=1m,sgl=off", 1), ("size=1m", 2), ("size=1m", 3)] {
        let mut bench = Bench::new(text);
        let sgl1 = descriptor(DATA, bench.data(0), 512);
        let sqe = read(1, 0, 1).with_sgl1(sgl1).with_psdt(psdt);
        let status = bench.host.io(&mut bench.pair, sqe).status();
        assert_eq!(
            status.code(),
            Status::INVALID_FIELD.code(),
            "{text}, PSDT {psdt}"
        );
    }
}

/// Commands that look at all of their data first take them by SGLs as well.
#[test]
fn compare_has_lists_too() {
    let mut bench = Bench::new("size=1m");
    let content = pattern(1, 512);
    bench.data.copy_from(0, &content).unwrap();
    let one = descriptor(DATA, bench.data(0), 512);
    assert_eq!(bench.io(write(1, 0, 1), one), Status::SUCCESS);
    bench.data.copy_from(1001, &content[200..]).unwrap();
    let halves = [
        descriptor(DATA, bench.data(0), 200),
        descriptor(BUCKET, 0, 77),
        descriptor(DATA, bench.data(1001), 312),
    ];
    bench.put(0, &halves);
    let list = descriptor(LAST, bench.list(0), 48);
    let compare = || rw(NvmOpcode::COMPARE, 1, 0, 1);
    assert_eq!(bench.io(compare(), list), Status::SUCCESS);
    bench.data.copy_from(1312, &[content[511] ^ 1]).unwrap();
    let status = bench.io(compare(), list);
    assert_eq!(status.code(), Status::COMPARE_FAILURE.code());
    let short = descriptor(LAST, bench.list(0), 16);
    let status = bench.io(compare(), short);
    assert_eq!(status.code(), Status::DATA_SGL_LENGTH_INVALID.code());
}
