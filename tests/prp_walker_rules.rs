//! The PRP walker, which judges driver and emulator, judged itself: each rule of NVMe Base 2.0,
//! 4.1.1 by an example written by hand.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod prp_walker;

use prp_walker::{WalkError, walk};
use std::collections::BTreeMap;

const PAGE: u64 = 4096;

/// A Read with these PRP entries, byte by byte.
fn sqe(prp1: u64, prp2: u64) -> [u8; 64] {
    let mut bytes = [0xee; 64];
    bytes[0] = 0x02;
    bytes[1] = 0;
    bytes[24..32].copy_from_slice(&prp1.to_le_bytes());
    bytes[32..40].copy_from_slice(&prp2.to_le_bytes());
    bytes
}

/// Memory that holds these list entries from each address on, and nothing else.
fn memory(lists: &[(u64, &[u64])]) -> BTreeMap<u64, u64> {
    let entries = lists
        .iter()
        .flat_map(|&(at, list)| (0..).zip(list).map(move |(i, &entry)| (at + 8 * i, entry)));
    entries.collect()
}

/// What the walker says, where no list is to be read.
fn without_list(prp1: u64, prp2: u64, len: u64) -> Result<Vec<(u64, u64)>, WalkError> {
    walk(&sqe(prp1, prp2), PAGE, len, |at| {
        panic!("there is no list, but {at:#x} was read")
    })
}

/// What the walker says, where these lists are in memory. All of them must be read, once.
fn with_list(
    (prp1, prp2): (u64, u64),
    len: u64,
    lists: &[(u64, &[u64])],
) -> Result<Vec<(u64, u64)>, WalkError> {
    let memory = memory(lists);
    let mut unread = memory.clone();
    let runs = walk(&sqe(prp1, prp2), PAGE, len, |at| {
        unread.remove(&at);
        memory.get(&at).copied()
    });
    if runs.is_ok() {
        assert!(unread.is_empty(), "never read: {unread:x?}");
    }
    runs
}

// --- What is named ---

#[test]
fn data_within_one_page_is_prp1_alone() {
    assert_eq!(without_list(0x1_0000, 0, 4096).unwrap(), [(0x1_0000, 4096)]);
    assert_eq!(without_list(0x1_0000, 0, 512).unwrap(), [(0x1_0000, 512)]);
}

#[test]
fn prp1_may_have_an_offset_and_reaches_to_the_end_of_its_page() {
    assert_eq!(without_list(0x1_0e00, 0, 512).unwrap(), [(0x1_0e00, 512)]);
    assert_eq!(without_list(0x1_0004, 0, 4092).unwrap(), [(0x1_0004, 4092)]);
    assert_eq!(without_list(0x1_0ffc, 0, 4).unwrap(), [(0x1_0ffc, 4)]);
}

#[test]
fn data_that_crosses_one_boundary_ends_in_the_page_of_prp2() {
    let runs = without_list(0x1_0000, 0x5_0000, 4097);
    assert_eq!(runs.unwrap(), [(0x1_0000, 4096), (0x5_0000, 1)]);
    let runs = without_list(0x1_0e00, 0x5_0000, 1024);
    assert_eq!(runs.unwrap(), [(0x1_0e00, 512), (0x5_0000, 512)]);
}

/// One boundary is one, however full the second page gets: still not a list.
#[test]
fn the_second_page_may_be_filled() {
    let runs = without_list(0x1_0800, 0x5_0000, 2048 + 4096);
    assert_eq!(runs.unwrap(), [(0x1_0800, 2048), (0x5_0000, 4096)]);
    let runs = without_list(0x1_0000, 0x5_0000, 8192);
    assert_eq!(runs.unwrap(), [(0x1_0000, 4096), (0x5_0000, 4096)]);
}

/// Two boundaries make a list, even of data that would fit into two pages.
#[test]
fn data_that_crosses_two_boundaries_has_a_list() {
    let runs = with_list(
        (0x1_0800, 0x9_0000),
        8192,
        &[(0x9_0000, &[0x3_0000, 0x7_0000])],
    );
    assert_eq!(
        runs.unwrap(),
        [(0x1_0800, 2048), (0x3_0000, 4096), (0x7_0000, 2048)]
    );
    // 4 + 4096 + 1 bytes.
    let runs = with_list(
        (0x1_0ffc, 0x9_0000),
        4101,
        &[(0x9_0000, &[0x3_0000, 0x7_0000])],
    );
    assert_eq!(
        runs.unwrap(),
        [(0x1_0ffc, 4), (0x3_0000, 4096), (0x7_0000, 1)]
    );
}

#[test]
fn adjacent_runs_are_one() {
    assert_eq!(
        without_list(0x1_0200, 0x1_1000, 4096).unwrap(),
        [(0x1_0200, 4096)]
    );
    let list: &[u64] = &[0x1_1000, 0x1_2000, 0x1_4000];
    let runs = with_list((0x1_0000, 0x9_0000), 4 * PAGE, &[(0x9_0000, list)]);
    assert_eq!(runs.unwrap(), [(0x1_0000, 3 * PAGE), (0x1_4000, PAGE)]);
}

/// Pages that lie the other way round, or that are named twice, are not one run.
#[test]
fn runs_keep_the_order_of_the_data() {
    let runs = without_list(0x1_1000, 0x1_0000, 8192);
    assert_eq!(runs.unwrap(), [(0x1_1000, 4096), (0x1_0000, 4096)]);
    let runs = without_list(0x1_1000, 0x1_1000, 8192);
    assert_eq!(runs.unwrap(), [(0x1_1000, 4096), (0x1_1000, 4096)]);
}

#[test]
fn the_list_may_begin_within_its_page() {
    let runs = with_list(
        (0x1_0000, 0x9_0008),
        3 * PAGE,
        &[(0x9_0008, &[0x3_0000, 0x7_0000])],
    );
    assert_eq!(
        runs.unwrap(),
        [(0x1_0000, PAGE), (0x3_0000, PAGE), (0x7_0000, PAGE)]
    );
    // Two entries and room for exactly two: neither is a pointer.
    let runs = with_list(
        (0x1_0000, 0x9_0ff0),
        3 * PAGE,
        &[(0x9_0ff0, &[0x3_0000, 0x7_0000])],
    );
    assert_eq!(
        runs.unwrap(),
        [(0x1_0000, PAGE), (0x3_0000, PAGE), (0x7_0000, PAGE)]
    );
}

/// Every other page from `first` on, so that no two are adjacent.
fn scattered(first: u64, count: u64) -> Vec<u64> {
    (0..count).map(|i| first + i * 2 * PAGE).collect()
}

fn whole_pages(pages: &[u64]) -> Vec<(u64, u64)> {
    pages.iter().map(|&page| (page, PAGE)).collect()
}

/// A page holds 512 entries. If that is all there are, the last one is data.
#[test]
fn a_list_that_fills_its_page_is_not_chained() {
    let pages = scattered(0x100_0000, 512);
    let runs = with_list((0x1_0000, 0x9_0000), 513 * PAGE, &[(0x9_0000, &pages)]).unwrap();
    assert_eq!(runs[0], (0x1_0000, PAGE));
    assert_eq!(runs[1..], whole_pages(&pages));
}

/// With one entry more, the last position points to the next page, where the last two are.
#[test]
fn a_list_of_513_entries_is_chained() {
    let pages = scattered(0x100_0000, 513);
    let mut first = pages[..511].to_vec();
    first.push(0xb_0000);
    let lists: [(u64, &[u64]); 2] = [(0x9_0000, &first), (0xb_0000, &pages[511..])];
    let runs = with_list((0x1_0000, 0x9_0000), 514 * PAGE, &lists).unwrap();
    assert_eq!(runs[1..], whole_pages(&pages));
    // The same by bytes: one byte beyond 512 entries needs the 513th.
    let runs = with_list((0x1_0000, 0x9_0000), 513 * PAGE + 1, &lists).unwrap();
    assert_eq!(runs.len(), 514);
    assert_eq!(runs[513], (pages[512], 1));
}

/// 511 entries in every page that has a successor, and up to 512 in the last one.
#[test]
fn chains_go_on_page_after_page() {
    let pages = scattered(0x100_0000, 511 + 511 + 512);
    let mut first = pages[..511].to_vec();
    first.push(0xb_0000);
    let mut second = pages[511..1022].to_vec();
    second.push(0xa_0000);
    let lists: [(u64, &[u64]); 3] = [
        (0x9_0000, &first),
        (0xb_0000, &second),
        (0xa_0000, &pages[1022..]),
    ];
    let runs = with_list((0x1_0000, 0x9_0000), 1535 * PAGE, &lists).unwrap();
    assert_eq!(runs[1..], whole_pages(&pages));
}

/// A list that begins at the last position of its page consists of the pointer to the next one.
#[test]
fn a_list_may_begin_with_the_pointer_to_its_next_page() {
    let lists: [(u64, &[u64]); 2] = [(0x9_0ff8, &[0xb_0000]), (0xb_0000, &[0x3_0000, 0x7_0000])];
    let runs = with_list((0x1_0000, 0x9_0ff8), 3 * PAGE, &lists);
    assert_eq!(
        runs.unwrap(),
        [(0x1_0000, PAGE), (0x3_0000, PAGE), (0x7_0000, PAGE)]
    );
}

#[test]
fn pages_are_as_large_as_cc_mps_says() {
    // The same entries: one page of 8 KiB, or a boundary crossed.
    let runs = walk(&sqe(0x1_0800, 0), 8192, 4096, |_| None);
    assert_eq!(runs.unwrap(), [(0x1_0800, 4096)]);
    assert_eq!(without_list(0x1_0800, 0, 4096), Err(WalkError::Prp2Zero));
    // Aligned to 4 KiB is an offset in 64 KiB.
    let prp2 = 0x5_1000;
    let runs = walk(&sqe(0x1_0000, prp2), 0x1_0000, 0x1_0200, |_| None);
    assert_eq!(runs, Err(WalkError::Prp2Offset { prp2 }));
    // A list page of 8 KiB holds 1024 entries: position 511 is data.
    let pages: Vec<u64> = (0..1024).map(|i| 0x1000_0000 + i * 0x4000).collect();
    let memory = memory(&[(0x8000, &pages)]);
    let runs = walk(&sqe(0x1_0000, 0x8000), 8192, 1025 * 8192, |at| {
        memory.get(&at).copied()
    });
    assert_eq!(runs.unwrap()[512], (pages[511], 8192));
}

#[test]
fn no_data_is_no_runs() {
    assert_eq!(without_list(0, 0, 0).unwrap(), []);
}

/// The last page of the address space is a page like any other.
#[test]
fn the_end_of_the_address_space_is_reached() {
    let top = 0xffff_ffff_ffff_f000;
    let runs = without_list(top, 0x1_0000, 8192);
    assert_eq!(runs.unwrap(), [(top, 4096), (0x1_0000, 4096)]);
    let lists: [(u64, &[u64]); 1] = [(top + 0xff0, &[0x3_0000, 0x7_0000])];
    let runs = with_list((0x1_0000, top + 0xff0), 3 * PAGE, &lists);
    assert_eq!(runs.unwrap()[2], (0x7_0000, PAGE));
}

// --- What is refused ---

#[test]
fn other_data_pointers_than_prp_are_refused() {
    for psdt in 1..=3 {
        let mut sqe = sqe(0x1_0000, 0);
        sqe[1] = psdt << 6;
        assert_eq!(
            walk(&sqe, PAGE, 512, |_| None),
            Err(WalkError::NotPrp { psdt })
        );
    }
    // FUSE is in the same byte, and none of PSDT's business.
    let mut fused = sqe(0x1_0000, 0);
    fused[1] = 0b11;
    assert_eq!(
        walk(&fused, PAGE, 512, |_| None).unwrap(),
        [(0x1_0000, 512)]
    );
}

#[test]
fn prp1_is_dword_aligned() {
    for prp1 in [0x1_0001, 0x1_0002, 0x1_0003] {
        assert_eq!(
            without_list(prp1, 0, 512),
            Err(WalkError::Prp1Unaligned { prp1 })
        );
    }
}

#[test]
fn entries_not_in_use_are_zero() {
    let prp2 = 0x5_0000;
    assert_eq!(
        without_list(0x1_0000, prp2, 4096),
        Err(WalkError::Prp2Unused { prp2 })
    );
    assert_eq!(
        without_list(0, prp2, 0),
        Err(WalkError::Prp2Unused { prp2 })
    );
    let prp1 = 0x1_0000;
    assert_eq!(
        without_list(prp1, 0, 0),
        Err(WalkError::Prp1Unused { prp1 })
    );
}

#[test]
fn entries_in_use_are_not_zero() {
    assert_eq!(without_list(0, 0, 512), Err(WalkError::Prp1Zero));
    assert_eq!(without_list(0x1_0000, 0, 4097), Err(WalkError::Prp2Zero));
    assert_eq!(
        without_list(0x1_0000, 0, 3 * PAGE),
        Err(WalkError::Prp2Zero)
    );
    let runs = with_list(
        (0x1_0000, 0x9_0000),
        3 * PAGE,
        &[(0x9_0000, &[0x3_0000, 0])],
    );
    assert_eq!(runs, Err(WalkError::EntryZero { at: 0x9_0008 }));
}

#[test]
fn the_second_entry_has_no_offset() {
    for prp2 in [0x5_0001, 0x5_0004, 0x5_0008, 0x5_0800] {
        assert_eq!(
            without_list(0x1_0000, prp2, 8192),
            Err(WalkError::Prp2Offset { prp2 })
        );
    }
}

#[test]
fn the_list_pointer_is_qword_aligned() {
    for prp2 in [0x9_0001, 0x9_0004, 0x9_0ffc] {
        let runs = without_list(0x1_0000, prp2, 3 * PAGE);
        assert_eq!(runs, Err(WalkError::ListUnaligned { prp2 }));
    }
}

#[test]
fn list_entries_have_no_offset() {
    for entry in [0x7_0001, 0x7_0004, 0x7_0200] {
        let runs = with_list(
            (0x1_0000, 0x9_0000),
            3 * PAGE,
            &[(0x9_0000, &[0x3_0000, entry])],
        );
        assert_eq!(
            runs,
            Err(WalkError::EntryOffset {
                at: 0x9_0008,
                entry
            })
        );
    }
}

/// PRP2 may point into the midst of a list page, a pointer within the list may not.
#[test]
fn the_next_list_page_is_page_aligned() {
    for pointer in [0xb_0004, 0xb_0008] {
        let lists: [(u64, &[u64]); 2] = [(0x9_0ff8, &[pointer]), (0xb_0008, &[0x3_0000, 0x7_0000])];
        let runs = with_list((0x1_0000, 0x9_0ff8), 3 * PAGE, &lists);
        assert_eq!(
            runs,
            Err(WalkError::ChainOffset {
                at: 0x9_0ff8,
                pointer
            })
        );
    }
    let runs = with_list((0x1_0000, 0x9_0ff8), 3 * PAGE, &[(0x9_0ff8, &[0])]);
    assert_eq!(runs, Err(WalkError::ChainZero { at: 0x9_0ff8 }));
}

/// A host that forgets to chain runs on into memory beyond the page: its data entry at the last
/// position is taken for a pointer, and no list is found there.
#[test]
fn a_list_does_not_run_across_pages() {
    let pages = scattered(0x100_0000, 513);
    let runs = with_list((0x1_0000, 0x9_0000), 514 * PAGE, &[(0x9_0000, &pages)]);
    assert_eq!(runs, Err(WalkError::ListUnreadable { at: pages[511] }));
}

#[test]
fn a_list_that_cannot_be_read_is_refused() {
    let runs = with_list((0x1_0000, 0x9_0000), 3 * PAGE, &[(0x9_0000, &[0x3_0000])]);
    assert_eq!(runs, Err(WalkError::ListUnreadable { at: 0x9_0008 }));
}

#[test]
fn sizes_that_cc_mps_cannot_say_are_refused() {
    for page_size in [0, 512, 2048, 4097, 12_288, 1 << 28] {
        let runs = walk(&sqe(0x1_0000, 0), page_size, 512, |_| None);
        assert_eq!(runs, Err(WalkError::PageSize { page_size }));
    }
    assert!(walk(&sqe(0x1_0000, 0), 1 << 27, 512, |_| None).is_ok());
}

/// A failed acceptance run shows the address at fault.
#[test]
fn errors_tell_the_address() {
    let error = WalkError::EntryOffset {
        at: 0x9_0008,
        entry: 0x7_0200,
    };
    assert_eq!(
        error.to_string(),
        "the list entry at 0x90008, 0x70200, has an offset into its page"
    );
}
