//! Each thing that the referee says of a page is provoked, and what comes closest to it is not.
#![allow(clippy::unwrap_used, clippy::expect_used)]
use crate::bus::Who;
use crate::iommu::Direction::{self, FromHost, ToHost};
use crate::referee::{Referee, ViolationKind};
use std::sync::Arc;
use underpin_dma::frame::{
    Beginning, Decision, Frame, Frames, Intent, Owner, PageKey, ReserveError,
};
use underpin_dma::pin::Cover;
use underpin_dma::{DmaSpace, Iova, SpaceOptions};

struct Cache;

impl Owner for Cache {
    fn page(&self, frame: u32) -> PageKey {
        PageKey(frame.into())
    }
    fn still_holds(&self, _: u32, _: u16) -> bool {
        true
    }
    fn reserve(&self, _: PageKey) -> Result<(), ReserveError> {
        Ok(())
    }
    fn give_back(&self, _: PageKey) {}
    fn enter_dirty(&self, _: u32, _: PageKey) {}
    fn freed(&self, _: u32) {}
}

struct Court {
    referee: Arc<Referee>,
    space: DmaSpace,
    frames: Frames,
    first: Iova,
}

const PAGES: u32 = 8;

impl Court {
    fn new() -> Self {
        let referee = Referee::new();
        let space = DmaSpace::with_options(SpaceOptions {
            watch: Some(referee.clone()),
            ..SpaceOptions::default()
        });
        let memory = space.alloc(PAGES as usize * 4096, 4096).unwrap();
        let first = memory.iova();
        let frames = Frames::new(memory, Arc::new(Cache)).unwrap();
        Self {
            referee,
            space,
            frames,
            first,
        }
    }

    fn page(&self, frame: u32, beginning: Beginning) -> Frame<'_> {
        let generation = self.frames.alloc(frame, beginning).unwrap();
        self.frames.frame(frame, generation)
    }

    fn dirty(&self, frame: u32) -> Frame<'_> {
        let page = self.page(frame, Beginning::Uptodate);
        drop(page.pin_write(Cover::Part).unwrap());
        page
    }

    /// Command `cid` of device 1 moves a block of the page. What is said of it.
    fn moves(&self, cid: u16, page: Frame<'_>, direction: Direction) -> Option<ViolationKind> {
        let at = u64::from(page.number()) * 4096 + 512;
        self.moves_at(cid, at, 512, direction).first().map(|v| v.0)
    }

    fn moves_at(
        &self,
        cid: u16,
        offset: u64,
        len_bytes: u64,
        direction: Direction,
    ) -> Vec<(ViolationKind, u64, u64)> {
        let before = self.referee.violations().len();
        let who = Who {
            qid: 1,
            cid: Some(cid),
            told: false,
        };
        let iova = self.first.wrapping_add(offset);
        self.referee.dma(iova, len_bytes, direction, 1, who);
        let seen = self.referee.violations();
        let said = seen[before..].iter();
        said.map(|v| (v.kind, v.iova.get() - self.first.get(), v.len_bytes))
            .collect()
    }
}

/// The rule of the project: nothing writes a page between the begin and the end of its direct
/// writeback, whatever else holds of it. Reading it is what that is for.
#[test]
fn a_page_is_not_written_during_its_direct_writeback() {
    let court = Court::new();
    let page = court.dirty(1);
    let writeback = page
        .begin_writeback(Intent::Background, false)
        .unwrap()
        .unwrap();
    assert_eq!(writeback.decision(), Decision::Direct);
    assert_eq!(court.moves(1, page, FromHost), None);
    assert_eq!(
        court.moves(2, page, ToHost),
        Some(ViolationKind::DuringWriteback)
    );
    page.truncate(|| ()).unwrap();
    assert_eq!(
        court.moves(1, page, FromHost),
        None,
        "it goes on when the page dies"
    );
    assert_eq!(
        court.moves(2, page, ToHost),
        Some(ViolationKind::DuringWriteback)
    );
    writeback.end(true);
    assert_eq!(
        court.moves(1, page, FromHost),
        Some(ViolationKind::FreeFrame)
    );
}

/// With the pin check off a pinned page is written back from itself: seen during it, and after it,
/// when the pin has lost its permission (R2). With the check on neither happens.
#[test]
fn the_pin_check_is_what_keeps_a_pinned_page_from_it() {
    for off in [false, true] {
        for intent in [Intent::Background, Intent::Integrity] {
            let court = Court::new();
            court.frames.ignore_pins(off);
            let page = court.page(2, Beginning::Uptodate);
            let pin = page.pin_write(Cover::Part).unwrap();
            let writeback = page.begin_writeback(intent, false).unwrap();
            let decision = writeback.as_ref().map(|writeback| writeback.decision());
            let during = court.moves(1, page, ToHost);
            if let Some(writeback) = writeback {
                writeback.end(true);
            }
            let after = court.moves(1, page, ToHost);
            drop(pin);
            match (off, intent) {
                (true, _) => {
                    assert_eq!(decision, Some(Decision::Direct));
                    assert_eq!(during, Some(ViolationKind::DuringWriteback));
                    assert_eq!(after, Some(ViolationKind::NotReserved));
                }
                (false, Intent::Background) => {
                    assert_eq!((decision, during, after), (None, None, None))
                }
                (false, _) => {
                    assert_eq!(decision, Some(Decision::CopyKeep));
                    assert_eq!((during, after), (None, None));
                }
            }
        }
    }
}

/// A page is one command's to fill: the first that writes it. One that failed lets another have it,
/// and so does a failed fill; the end of the fill ends it.
#[test]
fn a_page_is_filled_by_one_command() {
    let court = Court::new();
    let page = court.page(3, Beginning::Fill);
    let by_another = Some(ViolationKind::FilledByAnother);
    assert_eq!(
        court.moves(1, page, FromHost),
        by_another,
        "there is nothing in it"
    );
    assert_eq!(court.moves(1, page, ToHost), None);
    assert_eq!(court.moves(2, page, ToHost), by_another);
    assert_eq!(court.moves(1, page, ToHost), None);
    court.referee.ended(1, Some(1), Some(2));
    assert_eq!(
        court.moves(2, page, ToHost),
        by_another,
        "the other one failed"
    );
    court.referee.ended(2, None, None);
    assert_eq!(
        court.moves(2, page, ToHost),
        by_another,
        "another device was reset"
    );
    court.referee.ended(1, Some(1), Some(1));
    assert_eq!(court.moves(2, page, ToHost), None);
    page.begun_fill().unwrap().end(false);
    assert_eq!(court.moves(2, page, ToHost), Some(ViolationKind::Unpinned));
    let fill = page.begin_fill().unwrap();
    assert_eq!(court.moves(3, page, ToHost), None, "another fill");
    page.truncate(|| ()).unwrap();
    assert_eq!(
        court.moves(3, page, ToHost),
        None,
        "that of a page that is no more"
    );
    fill.end(true);
    assert_eq!(court.moves(3, page, ToHost), Some(ViolationKind::FreeFrame));
}

/// A page is a device's while it is pinned for that, and the dead are as well.
#[test]
fn a_page_is_pinned_while_it_is_used() {
    let court = Court::new();
    let page = court.page(4, Beginning::Uptodate);
    let unpinned = Some(ViolationKind::Unpinned);
    assert_eq!(court.moves(1, page, ToHost), unpinned);
    assert_eq!(court.moves(1, page, FromHost), unpinned);
    let read = page.pin_read().unwrap();
    assert_eq!(court.moves(1, page, FromHost), None);
    assert_eq!(
        court.moves(1, page, ToHost),
        unpinned,
        "it is pinned for reading (R1)"
    );
    let write = page.pin_write(Cover::Part).unwrap();
    assert_eq!(court.moves(1, page, ToHost), None);
    drop(read);
    assert_eq!(
        court.moves(1, page, FromHost),
        None,
        "who writes may read, too"
    );
    page.truncate(|| ()).unwrap();
    assert_eq!(
        court.moves(1, page, ToHost),
        None,
        "DMA goes to memory, not to blocks (R28)"
    );
    drop(write);
    assert_eq!(court.moves(1, page, ToHost), Some(ViolationKind::FreeFrame));
}

/// What is written back from a copy is not read by a device, unless somebody pinned it for that.
#[test]
fn a_copy_is_what_goes_out() {
    let court = Court::new();
    let page = court.dirty(5);
    let writeback = page
        .begin_writeback(Intent::Background, true)
        .unwrap()
        .unwrap();
    assert_eq!(writeback.decision(), Decision::CopyClean);
    assert_eq!(
        court.moves(1, page, FromHost),
        Some(ViolationKind::CopyBypassed)
    );
    let pin = page.pin_read().unwrap();
    assert_eq!(court.moves(1, page, FromHost), None);
    drop((pin, writeback));
}

/// Two devices on one page under pins of their own: legal (R9), and counted.
#[test]
fn overlaps_are_counted() {
    let court = Court::new();
    let page = court.page(6, Beginning::Uptodate);
    let first = page.pin_write(Cover::Part).unwrap();
    let second = page.pin_read().unwrap();
    for (cid, direction, overlaps) in [
        (1, ToHost, 0),
        (1, ToHost, 0),
        (2, FromHost, 1),
        (3, FromHost, 1),
        (1, ToHost, 2),
    ] {
        assert_eq!(court.moves(cid, page, direction), None);
        assert_eq!(court.referee.overlaps(), overlaps, "command {cid}");
    }
    drop((first, second));
}

/// One access over many pages: only those are named that are not fit for it, with the bytes in
/// them; and memory beside the frames is none of this.
#[test]
fn each_page_of_an_access_is_judged() {
    let court = Court::new();
    let pages: Vec<_> = (0..PAGES)
        .map(|at| court.page(at, Beginning::Uptodate))
        .collect();
    let fit = [1, 2, 4, 5, 6];
    let pins: Vec<_> = fit
        .iter()
        .map(|&at| pages[at].pin_write(Cover::Part).unwrap())
        .collect();
    let said = court.moves_at(1, 512, 7 * 4096 + 100, ToHost);
    let unpinned = ViolationKind::Unpinned;
    assert_eq!(
        said,
        [
            (unpinned, 512, 3584),
            (unpinned, 3 * 4096, 4096),
            (unpinned, 7 * 4096, 612)
        ]
    );
    assert_eq!(court.referee.frame_checks(), 8);
    let beside = court.space.alloc(4096, 4096).unwrap();
    let offset = beside.iova().get() - court.first.get();
    assert_eq!(court.moves_at(1, offset, 4096, ToHost), []);
    assert_eq!(court.referee.frame_checks(), 8);
    drop(pins);
}

/// A cache that is closed has no pages any more: its memory is judged as any other. What pins keep
/// of it is judged to the last.
#[test]
fn a_closed_cache_is_forgotten() {
    let court = Court::new();
    let page = court.page(0, Beginning::Uptodate);
    let pin = page.pin_write(Cover::Part).unwrap();
    let Court {
        referee,
        space,
        frames,
        first,
    } = court;
    drop(frames);
    let who = Who {
        qid: 1,
        cid: Some(9),
        told: false,
    };
    referee.dma(first, 512, ToHost, 1, who);
    assert_eq!((referee.violation_count(), referee.frame_checks()), (0, 1));
    drop(pin);
    referee.dma(first, 512, ToHost, 1, who);
    assert_eq!(referee.violations()[0].kind, ViolationKind::GivenBack);
    assert_eq!(referee.frame_checks(), 1);
    drop(space);
}

/// What moves memory and is no emulator is judged by the same rules.
#[test]
fn other_movers_are_judged() {
    let court = Court::new();
    let page = court.dirty(7);
    let watch = court.space.watch().unwrap();
    let iova = court.first.wrapping_add(7 * 4096);
    let writeback = page
        .begin_writeback(Intent::Integrity, false)
        .unwrap()
        .unwrap();
    watch.dma(iova, 4096, FromHost);
    assert_eq!(court.referee.violations(), []);
    watch.dma(iova, 4096, ToHost);
    let violation = court.referee.violations()[0];
    assert_eq!(violation.kind, ViolationKind::DuringWriteback);
    assert_eq!((violation.device, violation.cid), (0, None));
    drop(writeback);
}
