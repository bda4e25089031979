//! The SGL walker, which judges the driver, judged itself: each rule of NVMe Base 2.0, 4.1.2 by an
//! example written by hand.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod sgl_walker;

use sgl_walker::{List, Part, Terms, WalkError, walk};
use std::collections::BTreeMap;

const READ: Terms = Terms {
    granularity: 1,
    bit_bucket: true,
    is_read: true,
    len_bytes: 512,
};

/// A descriptor by its bytes: address, length, identifier.
fn descriptor(address: u64, len: u32, identifier: u8) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&address.to_le_bytes());
    bytes[8..12].copy_from_slice(&len.to_le_bytes());
    bytes[15] = identifier;
    bytes
}

/// A Read with this SGL1, byte by byte.
fn sqe(sgl1: [u8; 16]) -> [u8; 64] {
    let mut bytes = [0xee; 64];
    bytes[0] = 0x02;
    bytes[1] = 0x40;
    bytes[16..24].fill(0);
    bytes[24..40].copy_from_slice(&sgl1);
    bytes
}

/// What the walker says of these segments, each of which must be read as a whole, once.
fn with(terms: Terms, sgl1: [u8; 16], segments: &[(u64, &[[u8; 16]])]) -> Result<List, WalkError> {
    let mut memory = BTreeMap::new();
    for &(at, segment) in segments {
        for (nth, bytes) in (0..).zip(segment.as_flattened().chunks(8)) {
            let word = u64::from_le_bytes(bytes.try_into().unwrap());
            memory.insert(at + 8 * nth, word);
        }
    }
    let mut unread = memory.clone();
    let list = walk(&sqe(sgl1), terms, |at| {
        unread.remove(&at);
        memory.get(&at).copied()
    });
    if list.is_ok() {
        assert!(unread.is_empty(), "never read: {unread:x?}");
    }
    list
}

fn data(address: u64, len: u32) -> [u8; 16] {
    descriptor(address, len, 0x00)
}

fn segment(address: u64, descriptors: u32) -> [u8; 16] {
    descriptor(address, 16 * descriptors, 0x20)
}

fn last(address: u64, descriptors: u32) -> [u8; 16] {
    descriptor(address, 16 * descriptors, 0x30)
}

#[test]
fn one_block_lies_in_the_command() {
    let list = with(READ, data(0x1001, 512), &[]).unwrap();
    assert_eq!(list.parts, [Part::Memory(0x1001, 512)]);
    assert_eq!((list.segments, list.descriptors), (0, 1));
}

#[test]
fn segments_follow_each_other_to_the_last() {
    let list = with(
        READ,
        segment(0xa000, 3),
        &[
            (
                0xa000,
                &[data(0x1000, 100), data(0x2000, 50), segment(0xb008, 2)],
            ),
            (0xb008, &[data(0x2032, 50), last(0xc000, 2)]),
            (0xc000, &[descriptor(0, 300, 0x10), data(0x3000, 12)]),
        ],
    )
    .unwrap();
    let parts = [
        Part::Memory(0x1000, 100),
        Part::Memory(0x2000, 100),
        Part::Skipped(300),
        Part::Memory(0x3000, 12),
    ];
    assert_eq!(list.parts, parts);
    assert_eq!((list.segments, list.descriptors), (3, 5));
}

#[test]
fn lengths_must_agree() {
    assert_eq!(
        with(READ, data(0, 511), &[]),
        Err(WalkError::TooShort { by: 1 })
    );
    assert_eq!(
        with(READ, data(0, 513), &[]),
        Err(WalkError::TooLong { by: 1 })
    );
    let two: &[[u8; 16]] = &[data(0x1000, 512), data(0x3000, 0)];
    assert_eq!(
        with(READ, last(0xa000, 2), &[(0xa000, two)]),
        Err(WalkError::Nothing)
    );
}

#[test]
fn dwords_are_wanted_of_blocks_and_not_of_buckets() {
    let dword = Terms {
        granularity: 4,
        ..READ
    };
    assert!(with(dword, data(0x1004, 512), &[]).is_ok());
    let error = with(dword, data(0x1002, 512), &[]).unwrap_err();
    assert!(matches!(error, WalkError::Granularity { .. }));
    let odd: &[[u8; 16]] = &[data(0x1000, 510), data(0x2000, 2)];
    let error = with(dword, last(0xa000, 2), &[(0xa000, odd)]).unwrap_err();
    assert!(matches!(error, WalkError::Granularity { len: 510, .. }));
    let bucket: &[[u8; 16]] = &[descriptor(0, 508, 0x10), data(0x2000, 4)];
    assert!(with(dword, last(0xa000, 2), &[(0xa000, bucket)]).is_ok());
}

#[test]
fn buckets_are_for_reads_of_those_who_have_them() {
    let bucket = descriptor(0, 512, 0x10);
    assert_eq!(with(READ, bucket, &[]).unwrap().parts, [Part::Skipped(512)]);
    for terms in [
        Terms {
            is_read: false,
            ..READ
        },
        Terms {
            bit_bucket: false,
            ..READ
        },
    ] {
        assert_eq!(with(terms, bucket, &[]), Err(WalkError::BitBucket));
    }
    let error = with(READ, descriptor(8, 512, 0x10), &[]).unwrap_err();
    assert!(matches!(error, WalkError::Reserved { .. }));
}

#[test]
fn segments_that_cannot_be() {
    let half: [[u8; 16]; 2] = [data(0x1000, 256), data(0x2000, 256)];
    let lists: &[(u64, &[[u8; 16]])] = &[(0xa000, &half)];
    assert!(with(READ, last(0xa000, 2), lists).is_ok());
    assert_eq!(
        with(READ, segment(0xa000, 2), lists),
        Err(WalkError::LeadsNowhere { at: 0xa010 })
    );
    assert_eq!(
        with(READ, last(0xa000, 0), lists),
        Err(WalkError::SegmentLength { len: 0 })
    );
    let error = with(READ, descriptor(0xa000, 24, 0x30), lists);
    assert_eq!(error, Err(WalkError::SegmentLength { len: 24 }));
    let error = with(READ, last(0xa004, 2), lists);
    assert_eq!(error, Err(WalkError::SegmentUnaligned { address: 0xa004 }));
    assert_eq!(
        with(READ, last(0xd000, 1), lists),
        Err(WalkError::Unreadable { at: 0xd000 })
    );
    let early: &[[u8; 16]] = &[last(0xb000, 1), data(0x1000, 256)];
    let error = with(READ, segment(0xa000, 2), &[(0xa000, early)]);
    assert_eq!(error, Err(WalkError::LeadsOnEarly { at: 0xa000 }));
    let on: &[[u8; 16]] = &[data(0x1000, 256), last(0xb000, 1)];
    let error = with(READ, last(0xa000, 2), &[(0xa000, on)]);
    assert_eq!(error, Err(WalkError::LastLeadsOn { at: 0xa010 }));
    // Round in circles.
    let circle: &[[u8; 16]] = &[segment(0xa000, 1)];
    let error = with(READ, segment(0xa000, 1), &[(0xa000, circle)]);
    assert_eq!(error, Err(WalkError::NoData { at: 0xa000 }));
}

#[test]
fn fields_that_have_no_use_are_zero() {
    for byte in 12..15 {
        let mut block = data(0x1000, 512);
        block[byte] = 1;
        let error = with(READ, block, &[]).unwrap_err();
        assert!(matches!(error, WalkError::Reserved { .. }), "byte {byte}");
    }
    for identifier in [0x01, 0x0a, 0x40, 0x50, 0xf0, 0x11, 0x21, 0x31] {
        let error = with(READ, descriptor(0x1000, 512, identifier), &[]);
        assert_eq!(error, Err(WalkError::Type { identifier }));
    }
    let none = |_| None;
    for psdt in [0, 2, 3] {
        let mut entry = sqe(data(0x1000, 512));
        entry[1] = psdt << 6;
        assert_eq!(walk(&entry, READ, none), Err(WalkError::NotSgl { psdt }));
    }
    let mut entry = sqe(data(0x1000, 512));
    entry[16] = 8;
    assert_eq!(walk(&entry, READ, none), Err(WalkError::Mptr { mptr: 8 }));
}
