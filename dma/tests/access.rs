//! Views, records and words: the right bytes, none outside, misaligned or outside is refused.
#![allow(clippy::unwrap_used, clippy::expect_used)]
use std::sync::atomic::Ordering::Relaxed;
use underpin_dma::rt::Rng;
use underpin_dma::{
    DmaBuf, DmaSpace, MemSlice, Memory, OutOfBounds, PageSize, Records, View, Word32,
};

const LEN: usize = 4096;

fn bytes(view: View<'_>) -> Vec<u8> {
    let mut bytes = vec![0; view.len_bytes()];
    view.copy_to(0, &mut bytes).unwrap();
    bytes
}

/// Lengths and offsets around every edge, and some that overflow when added.
fn number(rng: &mut Rng) -> usize {
    let edges = [
        0,
        1,
        7,
        8,
        LEN - 8,
        LEN - 1,
        LEN,
        LEN + 1,
        usize::MAX - 1,
        usize::MAX,
    ];
    if rng.chance(1, 2) {
        *rng.pick(&edges).unwrap()
    } else {
        usize::try_from(rng.below(LEN as u64 + 16)).unwrap()
    }
}

/// Every operation on a view does to the memory what it does to a vector, or is refused and does
/// nothing, exactly when the range does not lie within.
#[test]
fn views_behave_like_vectors_or_refuse() {
    let memory = Memory::new("view", 4 * LEN as u64, PageSize::Small).unwrap();
    let mut model = vec![0_u8; 4 * LEN];
    let mut rng = Rng::seeded(5);
    let (mut done, mut refused) = (0, 0);
    for round in 0..20_000_u64 {
        // A window that begins and ends inside of the memory: what is around must not change.
        let start = LEN + usize::try_from(rng.below(64)).unwrap();
        let view = memory.part(start, LEN).unwrap();
        let (offset, len) = (number(&mut rng), number(&mut rng));
        let within = offset.checked_add(len).is_some_and(|end| end <= LEN);
        let byte = (round % 251) as u8;
        let small = len.min(2 * LEN);
        let within_small = offset.checked_add(small).is_some_and(|end| end <= LEN);
        let at = start.saturating_add(offset);
        let outcome: Result<bool, OutOfBounds> = match rng.below(7) {
            0 => view.part(offset, len).map(|part| {
                assert_eq!(part.len_bytes(), len);
                assert_eq!(part.is_empty(), len == 0);
                within
            }),
            1 => view.fill(offset, len, byte).map(|()| {
                model[at..at + len].fill(byte);
                within
            }),
            2 => {
                let source = vec![byte; small];
                view.copy_from(offset, &source).map(|()| {
                    model[at..at + small].copy_from_slice(&source);
                    within_small
                })
            }
            3 => {
                let mut target = vec![!byte; small];
                let outcome = view.copy_to(offset, &mut target);
                match outcome {
                    Ok(()) => assert_eq!(target, model[at..at + small]),
                    Err(_) => assert!(target.iter().all(|&found| found == !byte)),
                }
                outcome.map(|()| within_small)
            }
            4 => {
                let source = memory.part(0, small.min(LEN)).unwrap();
                let fits = offset
                    .checked_add(source.len_bytes())
                    .is_some_and(|end| end <= LEN);
                assert_eq!(view.copy_from_view(offset, source).is_ok(), fits);
                if fits {
                    let copied = model[..source.len_bytes()].to_vec();
                    model[at..at + copied.len()].copy_from_slice(&copied);
                }
                continue;
            }
            5 => {
                let fits =
                    at.is_multiple_of(8) && offset.checked_add(8).is_some_and(|end| end <= LEN);
                assert_eq!(view.store_u64(offset, round, Relaxed).is_ok(), fits);
                if fits {
                    model[at..at + 8].copy_from_slice(&round.to_le_bytes());
                    assert_eq!(view.load_u64(offset, Relaxed), Ok(round));
                }
                assert_eq!(view.load_u64(offset, Relaxed).is_ok(), fits);
                continue;
            }
            _ => {
                let fits =
                    at.is_multiple_of(4) && offset.checked_add(4).is_some_and(|end| end <= LEN);
                let value = round as u32;
                assert_eq!(view.store_u32(offset, value, Relaxed).is_ok(), fits);
                if fits {
                    model[at..at + 4].copy_from_slice(&value.to_le_bytes());
                    assert_eq!(view.load_u32(offset, Relaxed), Ok(value));
                }
                assert_eq!(view.load_u32(offset, Relaxed).is_ok(), fits);
                continue;
            }
        };
        match outcome {
            Ok(allowed) => {
                assert!(allowed, "{offset} {len}");
                done += 1;
            }
            Err(error) => {
                assert!(!within || !within_small, "{offset} {len}: {error}");
                assert_eq!((error.offset, error.available_bytes), (offset, LEN));
                refused += 1;
            }
        }
    }
    assert_eq!(bytes(memory.view()), model);
    assert!(done > 1000 && refused > 1000, "{done} {refused}");
}

fn heap(len: usize) -> (DmaSpace, DmaBuf) {
    let space = DmaSpace::new();
    let buf = space.alloc(len, 64).unwrap();
    (space, buf)
}

/// Records are little-endian, in order, each its own; what does not fit or is misaligned is
/// refused when it is made, not when it is used.
#[test]
fn records_lie_where_a_device_looks() {
    let (_space, buf) = heap(1024);
    let ring = Records::<8>::new(buf.slice().unwrap(), 16).unwrap();
    assert_eq!(ring.count(), 16);
    for index in 0..16 {
        ring.write(index, std::array::from_fn(|word| (index * 8 + word) as u64));
    }
    ring.write_word(3, 7, 0x0102_0304_0506_0708);
    assert_eq!(ring.read_word(3, 7), 0x0102_0304_0506_0708);
    assert_eq!(
        ring.read(15),
        std::array::from_fn(|word| (120 + word) as u64)
    );
    let bytes = bytes(buf.view());
    assert_eq!(bytes[3 * 64 + 56..4 * 64], [8, 7, 6, 5, 4, 3, 2, 1]);
    assert_eq!(bytes[16..24], [2, 0, 0, 0, 0, 0, 0, 0]);

    let slice = || buf.slice().unwrap();
    Records::<8>::new(slice(), 17).unwrap_err();
    Records::<8>::new(slice(), usize::MAX).unwrap_err();
    Records::<2>::new(slice(), usize::MAX / 16 + 2).unwrap_err();
    assert_eq!(Records::<2>::new(slice(), 64).unwrap().count(), 64);
    let memory = Memory::new("m", 4096, PageSize::Small).unwrap();
    for offset in 1..8 {
        let odd = MemSlice::new(&memory, offset, 1024).unwrap();
        Records::<2>::new(odd, 4).unwrap_err();
    }
    let part = MemSlice::new(&memory, 4096 - 64, 64).unwrap();
    assert_eq!(part.len_bytes(), 64);
    Records::<2>::new(part.clone(), 4).unwrap();
    Records::<2>::new(part, 5).unwrap_err();
    MemSlice::new(&memory, 4096 - 64, 65).unwrap_err();
    MemSlice::new(&memory, usize::MAX, 2).unwrap_err();
}

/// An index past the ring is our own bug and stops there: it never reaches other memory.
#[test]
fn an_index_past_the_ring_panics() {
    let (_space, buf) = heap(1024);
    let ring = Records::<2>::new(buf.slice().unwrap(), 4).unwrap();
    let panics = |act: &dyn Fn()| {
        let act = std::panic::AssertUnwindSafe(act);
        std::panic::catch_unwind(act).is_err()
    };
    assert!(panics(&|| ring.write(4, [0, 0])));
    assert!(panics(&|| assert_eq!(ring.read(usize::MAX), [0, 0])));
    assert!(panics(&|| assert_eq!(ring.read_word(3, 2), 0)));
    assert!(panics(&|| ring.write_word(0, 2, 0)));
    assert!(!panics(&|| ring.write(3, [0, 0])));
}

/// Doorbell words: aligned and within, or refused; they keep their memory mapped.
#[test]
fn words_are_aligned_and_keep_their_memory() {
    let (space, buf) = heap(128);
    let slice = buf.slice().unwrap();
    for offset in [1, 2, 3, 125, 126, 127, 128, usize::MAX - 3, usize::MAX] {
        Word32::new(&slice, offset).unwrap_err();
    }
    let last = Word32::new(&slice, 124).unwrap();
    last.store(0x0102_0304, Relaxed);
    assert_eq!(last.swap(5, Relaxed), 0x0102_0304);
    assert_eq!(bytes(buf.view())[124..], [5, 0, 0, 0]);
    drop((slice, buf, space));
    assert_eq!(last.load(Relaxed), 5);
}
