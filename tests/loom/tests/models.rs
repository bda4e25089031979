//! The state table of `docs/PINS.md` under every interleaving of two or three threads. Each model
//! names the rule it guards; `World::settle` asks the same of all of them at the end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use loom::sync::Arc;
use loom::thread::{JoinHandle, spawn};
use underpin_loom::frame::{Beginning, Blocked, Decision, Intent, Pin, PinError, State};
use underpin_loom::{World, explore};

use Decision::{CopyClean, CopyKeep, Direct, Skip};
use Intent::{Background, Expired, Integrity};

fn thread<T: 'static>(
    world: &Arc<World>,
    work: impl FnOnce(&World) -> T + 'static,
) -> JoinHandle<T> {
    let world = Arc::clone(world);
    spawn(move || work(&world))
}

/// R4, R15, R18: a fast pin and an integrity writeback of a dirty page.
#[test]
fn pin_meets_writeback_of_a_dirty_page() {
    explore("pin, integrity writeback, dirty", || {
        let world = World::new(Beginning::Uptodate);
        world.dirty(1);
        let device = thread(&world, |world| world.device_write(0, 2));
        let decided = world.writeback(0, Integrity, false, true);
        assert!(matches!(decided, Ok(Direct | CopyKeep)), "{decided:?}");
        let wrote = device.join().unwrap();
        assert!(matches!(
            wrote,
            Ok(()) | Err(PinError::Blocked(Blocked::WritebackDirect))
        ));
        world.settle(0);
    });
}

/// The same when the page is clean: nothing is written that was not reserved.
#[test]
fn pin_meets_writeback_of_a_clean_page() {
    explore("pin, integrity writeback, clean", || {
        let world = World::new(Beginning::Uptodate);
        let device = thread(&world, |world| world.device_write(0, 2));
        let decided = world.writeback(0, Integrity, false, true);
        assert!(
            matches!(decided, Ok(Direct | CopyKeep) | Err(Blocked::Clean)),
            "{decided:?}"
        );
        let _ = device.join().unwrap();
        world.settle(0);
    });
}

/// R16: background writeback leaves pinned pages alone.
#[test]
fn two_pins_and_background() {
    explore("two pins, background writeback", || {
        let world = World::new(Beginning::Uptodate);
        world.dirty(1);
        let first = thread(&world, |world| world.device_write(0, 2));
        let second = thread(&world, |world| world.device_write(0, 3));
        let decided = world.writeback(0, Background, false, true);
        assert!(matches!(decided, Ok(Direct | Skip)), "{decided:?}");
        let _ = (first.join().unwrap(), second.join().unwrap());
        world.settle(0);
    });
}

/// R20: two writebacks and a pin: never two writes of a page at once.
#[test]
fn two_writebacks_and_a_pin() {
    explore("two writebacks, a pin", || {
        let world = World::new(Beginning::Uptodate);
        world.dirty(1);
        let other = thread(&world, |world| world.writeback(0, Expired, false, true));
        let device = thread(&world, |world| world.device_write(0, 2));
        let _ = world.writeback(0, Integrity, false, true);
        let _ = (other.join().unwrap(), device.join().unwrap());
        world.settle(0);
    });
}

/// R19: a pin during a copy that began without pins proceeds, and the page stays dirty.
#[test]
fn pin_during_a_clean_copy() {
    explore("pin, CopyClean", || {
        let world = World::new(Beginning::Uptodate);
        world.dirty(1);
        let device = thread(&world, |world| world.device_write(0, 2));
        let decided = world.writeback(0, Integrity, true, true);
        assert!(matches!(decided, Ok(CopyClean | CopyKeep)), "{decided:?}");
        device.join().unwrap().unwrap();
        world.settle(0);
    });
}

/// R26: a failed writeback dirties the page again and keeps its reservation, whoever pins meanwhile.
#[test]
fn failed_writeback_meets_a_pin() {
    for copy in [false, true] {
        explore("failed writeback, pin", move || {
            let world = World::new(Beginning::Uptodate);
            world.dirty(1);
            let device = thread(&world, |world| world.device_write(0, 2));
            world.writeback(0, Integrity, copy, false).unwrap();
            let _ = device.join().unwrap();
            assert!(world.words[0].load().has(State::DIRTY), "R26");
            world.settle(0);
        });
    }
}

/// R28: truncate in the middle of a writeback, good or failed; the frame is freed once.
#[test]
fn truncate_meets_a_writeback() {
    for (copy, good) in [(false, true), (false, false), (true, true), (true, false)] {
        explore("truncate, writeback", move || {
            let world = World::new(Beginning::Uptodate);
            world.dirty(1);
            let cut = thread(&world, |world| world.truncate(0));
            let _ = world.writeback(0, Integrity, copy, good);
            assert!(cut.join().unwrap());
            assert_eq!(world.words[0].load(), State::free(1));
            assert_eq!(world.freed[0].load(loom::sync::atomic::Ordering::SeqCst), 1);
            world.settle(0);
        });
    }
}

/// R28: truncate and a pin: the DMA goes to memory that is nobody else's yet.
#[test]
fn truncate_meets_a_pin() {
    explore("truncate, pin", || {
        let world = World::new(Beginning::Uptodate);
        world.dirty(1);
        let device = thread(&world, |world| world.device_write(0, 2));
        assert!(world.truncate(0));
        let wrote = device.join().unwrap();
        assert!(matches!(wrote, Ok(()) | Err(PinError::Moved)), "{wrote:?}");
        assert_eq!(world.words[0].load(), State::free(1));
        world.settle(0);
    });
}

/// The same with a slow pin, whose reservation is under way.
#[test]
fn truncate_meets_a_slow_pin() {
    explore("truncate, slow pin", || {
        let world = World::new(Beginning::Uptodate);
        let device = thread(&world, |world| world.device_write(0, 2));
        assert!(world.truncate(0));
        let _ = device.join().unwrap();
        assert_eq!(world.words[0].load(), State::free(1));
        world.settle(0);
    });
}

/// All three.
#[test]
fn truncate_meets_a_pin_and_a_writeback() {
    explore("truncate, pin, writeback", || {
        let world = World::new(Beginning::Uptodate);
        world.dirty(1);
        let device = thread(&world, |world| world.device_write(0, 2));
        let writeback = thread(&world, |world| world.writeback(0, Integrity, false, true));
        assert!(world.truncate(0));
        let _ = (device.join().unwrap(), writeback.join().unwrap());
        assert_eq!(world.words[0].load(), State::free(1));
        world.settle(0);
    });
}

/// R12, R30: eviction and a pin; a pinner that was looked up before it never has the new owner's
/// frame.
#[test]
fn evict_meets_a_pin() {
    explore("evict, pin", || {
        let world = World::new(Beginning::Uptodate);
        let device = thread(&world, |world| world.device_write(0, 2));
        let evicted = world.evict_and_reuse(0, 9);
        let wrote = device.join().unwrap();
        if evicted {
            assert_eq!(wrote, Err(PinError::Moved));
            assert_ne!(world.bytes[0].load(loom::sync::atomic::Ordering::SeqCst), 2);
        }
        world.settle(0);
    });
}

/// R30: a read pin keeps the frame.
#[test]
fn evict_meets_a_read_pin() {
    explore("evict, read pin", || {
        let world = World::new(Beginning::Uptodate);
        let reader = thread(&world, |world| {
            world.place(0).pin_read(0).map(|()| {
                let seen = world.bytes[0].load(loom::sync::atomic::Ordering::Relaxed);
                assert_eq!(seen, 0, "another page's bytes (R36)");
                world.place(0).undo(Pin::Read);
            })
        });
        let evicted = world.evict_and_reuse(0, 9);
        let read = reader.join().unwrap();
        assert!(evicted || read.is_ok());
        world.settle(0);
    });
}

/// R1, R28: a read pin holds a dying frame, and its end frees it.
#[test]
fn truncate_meets_a_read_pin() {
    explore("truncate, read pin", || {
        let world = World::new(Beginning::Uptodate);
        let reader = thread(&world, |world| {
            world.place(0).pin_read(0).map(|()| {
                assert_eq!(world.words[0].load().generation(), 0, "freed under a pin");
                world.place(0).undo(Pin::Read);
            })
        });
        assert!(world.truncate(0));
        let _ = reader.join().unwrap();
        assert_eq!(world.words[0].load(), State::free(1));
        assert_eq!(world.freed[0].load(loom::sync::atomic::Ordering::SeqCst), 1);
    });
}

/// R1: a page that is only read by a device is written back directly, and is clean then.
#[test]
fn read_pin_does_not_keep_a_page_dirty() {
    explore("read pin, writeback", || {
        let world = World::new(Beginning::Uptodate);
        world.dirty(1);
        let reader = thread(&world, |world| {
            world.place(0).pin_read(0).unwrap();
            world.place(0).undo(Pin::Read);
        });
        assert_eq!(world.writeback(0, Background, false, true), Ok(Direct));
        reader.join().unwrap();
        assert!(!world.words[0].load().has(State::DIRTY));
        world.settle(0);
    });
}

/// A fill and a fast pin: nobody writes into a page that is being read in, nor reads it before.
#[test]
fn fill_meets_pins() {
    explore("fill, write pin, read pin", || {
        let world = World::new(Beginning::Unknown);
        world
            .disk
            .bytes
            .store(5, loom::sync::atomic::Ordering::SeqCst);
        let device = thread(&world, |world| world.device_write(0, 2));
        let reader = thread(&world, |world| {
            if world.place(0).pin_read(0).is_ok() {
                let seen = world.bytes[0].load(loom::sync::atomic::Ordering::Relaxed);
                assert!(seen == 5 || seen == 2, "the frame's former bytes: {seen}");
                world.place(0).undo(Pin::Read);
            }
        });
        let _ = world.fill(0, 5, true);
        let _ = (device.join().unwrap(), reader.join().unwrap());
        world.settle(0);
    });
}

/// Two that want to fill: one does.
#[test]
fn two_fills() {
    explore("two fills", || {
        let world = World::new(Beginning::Unknown);
        world
            .disk
            .bytes
            .store(5, loom::sync::atomic::Ordering::SeqCst);
        let other = thread(&world, |world| world.fill(0, 5, true));
        let ours = world.fill(0, 5, true);
        assert!(ours ^ other.join().unwrap());
        world.settle(0);
    });
}

/// I6: a fill that ends after truncate leaves no page behind.
#[test]
fn truncate_meets_a_fill() {
    for good in [true, false] {
        explore("truncate, fill", move || {
            let world = World::new(Beginning::Fill);
            world.place(0).hold(0).unwrap();
            let filler = thread(&world, move |world| world.finish_fill(5, good));
            assert!(world.truncate(0));
            filler.join().unwrap();
            assert_eq!(world.words[0].load().broken_invariant(), None);
            world.place(0).undo(Pin::Read);
            assert_eq!(world.words[0].load(), State::free(1));
            assert_eq!(world.freed[0].load(loom::sync::atomic::Ordering::SeqCst), 1);
        });
    }
}

/// R6: a full-cover DMA that fails leaves nothing behind: not dirty, not up to date, no
/// reservation; whoever pins or syncs meanwhile.
#[test]
fn failed_cover_meets_a_second_pin_and_fsync() {
    explore("cancel, second pin, fsync", || {
        let world = World::new(Beginning::Unknown);
        let failing = thread(&world, |world| {
            if world.place(0).pin_write(0, true).is_ok() {
                world.place(0).undo(Pin::Write);
            }
        });
        let good = thread(&world, |world| {
            world.place(0).pin_write(0, true).unwrap();
            world.dma(0, 4);
            let due = world.words[0].set_uptodate().unwrap();
            world.place(0).settle(due, None);
            world.place(0).undo(Pin::Write);
        });
        if world.fsync(0) {
            let durable = world.disk.bytes.load(loom::sync::atomic::Ordering::SeqCst);
            assert!(durable == 0 || durable == 4);
        }
        failing.join().unwrap();
        good.join().unwrap();
        let state = world.words[0].load();
        assert!(state.has(State::UPTODATE), "{state:?}");
        world.settle(0);
    });
}

/// R6: alone, it is as if nothing had been.
#[test]
fn failed_covers_cancel() {
    explore("two failed covers", || {
        let world = World::new(Beginning::Unknown);
        let fail = |world: &World| {
            world.place(0).pin_write(0, true).unwrap();
            world.place(0).undo(Pin::Write);
        };
        let other = thread(&world, fail);
        fail(&world);
        other.join().unwrap();
        assert!(!world.words[0].load().has(State::DIRTY | State::WRITABLE));
        world.settle(0);
    });
}

/// R6: an fsync never writes the former bytes of a frame whose cover has not succeeded.
#[test]
fn fsync_does_not_write_what_never_came() {
    explore("cover, fsync", || {
        let world = World::new(Beginning::Unknown);
        world.bytes[0].store(66, loom::sync::atomic::Ordering::SeqCst);
        let failing = thread(&world, |world| {
            world.place(0).pin_write(0, true).unwrap();
            world.place(0).undo(Pin::Write);
        });
        let _ = world.fsync(0);
        failing.join().unwrap();
        assert_eq!(
            world.disk.bytes.load(loom::sync::atomic::Ordering::SeqCst),
            0
        );
        world.settle(0);
    });
}

/// I9: what was written and unpinned before an fsync began is durable when it has ended.
#[test]
fn fsync_finds_what_was_written_before() {
    explore("pin with reserve, fsync scan", || {
        let world = World::new(Beginning::Uptodate);
        let device = thread(&world, |world| {
            world.device_write(0, 3).map(|()| {
                world.fsync(0);
                assert_eq!(
                    world.disk.bytes.load(loom::sync::atomic::Ordering::Relaxed),
                    3
                );
            })
        });
        let _ = world.fsync(0);
        let _ = device.join().unwrap();
        world.settle(0);
    });
}

/// R3, R5: the store is full for one of two: it fails, and leaves nothing.
#[test]
fn a_full_store_refuses_a_pin() {
    explore("two slow pins, room for one", || {
        let world = World::with_limit(Beginning::Uptodate, 1);
        let other = thread(&world, |world| world.device_write(0, 2));
        let ours = world.device_write(0, 3);
        let other = other.join().unwrap();
        assert!(ours.is_ok() || other.is_ok());
        for refused in [ours, other].into_iter().filter_map(Result::err) {
            assert!(matches!(refused, PinError::Reserve(_)));
        }
        world.settle(0);
    });
}

/// I7: of two first pins of a page one reservation stays.
#[test]
fn two_first_pins() {
    explore("two slow pins", || {
        let world = World::new(Beginning::Uptodate);
        let other = thread(&world, |world| world.device_write(0, 2));
        world.device_write(0, 3).unwrap();
        other.join().unwrap().unwrap();
        world.settle(0);
    });
}

/// WAIT: whoever parks until the end of a fill is woken, whatever else happens.
#[test]
fn waiting_for_a_fill() {
    explore("parked, fill", || {
        let world = World::new(Beginning::Fill);
        let filler = thread(&world, |world| world.finish_fill(0, true));
        world.wait_while(|state| state.has(State::FILL));
        assert!(world.words[0].load().has(State::UPTODATE));
        filler.join().unwrap();
        world.settle(0);
    });
}

/// WAIT: until the end of a direct writeback (R7).
#[test]
fn waiting_for_a_writeback() {
    explore("parked, direct writeback", || {
        let world = World::new(Beginning::Uptodate);
        world.dirty(1);
        assert_eq!(
            world.words[0].begin_writeback(0, Integrity, false),
            Ok(Direct)
        );
        let flusher = thread(&world, |world| world.write_out(Direct, true));
        while world.device_write(0, 2).is_err() {
            world.wait_while(|state| state.has(State::WB_DIRECT));
        }
        flusher.join().unwrap();
        world.settle(0);
    });
}

/// WAIT: until the last unpin, to fill (R6), with another pin in between.
#[test]
fn waiting_for_the_last_unpin() {
    explore("parked, two failing covers", || {
        let world = World::new(Beginning::Unknown);
        world.place(0).pin_write(0, true).unwrap();
        let first = thread(&world, |world| world.place(0).undo(Pin::Write));
        let second = thread(&world, |world| {
            if world.place(0).pin_write(0, true).is_ok() {
                world.place(0).undo(Pin::Write);
            }
        });
        while !world.fill(0, 0, true) {
            world.wait_while(|state| {
                matches!(state.may_fill(0), Err(Blocked::Pinned | Blocked::Dirty))
            });
        }
        first.join().unwrap();
        second.join().unwrap();
        world.settle(0);
    });
}

/// WAIT: until a read pin ends.
#[test]
fn waiting_for_a_reader() {
    explore("parked, read pin", || {
        let world = World::new(Beginning::Uptodate);
        world.place(0).pin_read(0).unwrap();
        let reader = thread(&world, |world| world.place(0).undo(Pin::Read));
        world.wait_while(|state| state.pins(Pin::Read) > 0);
        assert!(world.words[0].evict(0).is_ok());
        reader.join().unwrap();
    });
}

/// WAIT: a waiter of a full-cover pin is woken when the bytes are there, before the pin ends.
#[test]
fn waiting_for_the_bytes() {
    explore("parked, full cover", || {
        let world = World::new(Beginning::Unknown);
        world.place(0).pin_write(0, true).unwrap();
        let device = thread(&world, |world| {
            world.dma(0, 4);
            let due = world.words[0].set_uptodate().unwrap();
            world.place(0).settle(due, None);
        });
        world.wait_while(|state| !state.has(State::UPTODATE));
        world.place(0).pin_read(0).unwrap();
        assert_eq!(
            world.bytes[0].load(loom::sync::atomic::Ordering::Relaxed),
            4
        );
        world.place(0).undo(Pin::Read);
        device.join().unwrap();
        world.place(0).undo(Pin::Write);
        world.settle(0);
    });
}

/// WAIT: a truncate frees the frame, and those parked on it learn so.
#[test]
fn waiting_for_a_page_that_dies() {
    explore("parked, truncate of a held page", || {
        let world = World::new(Beginning::Uptodate);
        world.place(0).pin_read(0).unwrap();
        let cut = thread(&world, |world| world.truncate(0));
        let reader = thread(&world, |world| world.place(0).undo(Pin::Read));
        world.wait_while(|state| state.generation() == 0);
        cut.join().unwrap();
        reader.join().unwrap();
    });
}

/// R12: a pinner that looked the page up, and then stood still while the frame changed hands,
/// neither gets the new owner's page nor keeps it dirty or reserved.
#[test]
fn a_stalled_pinner_gets_nobody_elses_page() {
    explore("stalled pinner, evict, a new owner's pin", || {
        let world = World::new(Beginning::Uptodate);
        let stalled = thread(&world, |world| world.device_write(0, 66));
        let reader = thread(&world, |world| {
            if world.place(0).pin_read(0).is_ok() {
                world.place(0).undo(Pin::Read);
            }
        });
        let evicted = world.evict_and_reuse(0, 9);
        let wrote = stalled.join().unwrap();
        reader.join().unwrap();
        assert!(!(evicted && wrote.is_ok()));
        world.settle(0);
    });
}

/// R12: the slot says another frame, although the word has the generation that was looked up: the
/// page moved while the pinner was on its way, and the frame has not been freed yet.
#[test]
fn the_slot_is_read_again_before_anything_is_reserved() {
    explore("slow pin, page detached", || {
        let world = World::new(Beginning::Uptodate);
        world.detach();
        assert_eq!(world.device_write(0, 66), Err(PinError::Moved));
        assert!(!world.words[0].load().has(State::DIRTY));
        world.settle(1);
    });
}

/// R30, R7: eviction leaves alone what is being written back, and what failed to be.
#[test]
fn evict_meets_a_writeback() {
    for good in [true, false] {
        explore("evict, writeback", move || {
            let world = World::new(Beginning::Uptodate);
            world.dirty(1);
            let flusher = thread(&world, move |world| {
                world.writeback(0, Background, false, good)
            });
            let evicted = world.evict_and_reuse(0, 1);
            assert_eq!(flusher.join().unwrap(), Ok(Direct));
            assert!(good || !evicted, "the only copy of the bytes is gone");
            if evicted {
                assert_eq!(
                    world.disk.bytes.load(loom::sync::atomic::Ordering::SeqCst),
                    1
                );
            }
            world.settle(0);
        });
    }
}

/// R4: the dirty bit is there from the pin on: a writeback that ends before the DMA does leaves
/// the page dirty for the next (R19).
#[test]
fn a_copy_with_pins_keeps_the_page_dirty() {
    explore("pinned page, integrity writeback, DMA", || {
        let world = World::new(Beginning::Uptodate);
        world.place(0).pin_write(0, false).unwrap();
        let device = thread(&world, |world| {
            world.dma(0, 2);
            world.place(0).undo(Pin::Write);
        });
        let decided = world.writeback(0, Integrity, false, true);
        assert!(matches!(decided, Ok(Direct | CopyKeep)), "{decided:?}");
        device.join().unwrap();
        world.settle(0);
    });
}

/// R20: an fsync that meets an older writeback takes a new snapshot after it.
#[test]
fn fsync_waits_for_an_older_writeback() {
    explore("older writeback, write, fsync", || {
        let world = World::new(Beginning::Uptodate);
        world.dirty(1);
        let flusher = thread(&world, |world| world.writeback(0, Background, true, true));
        world.device_write(0, 2).unwrap();
        // Nothing to do is fine, too, if the flusher came after the write.
        let _ = world.fsync(0);
        let durable = world.disk.bytes.load(loom::sync::atomic::Ordering::Relaxed);
        assert_eq!(durable, 2, "written before the fsync began");
        let _ = flusher.join().unwrap();
        world.settle(0);
    });
}

/// A partial DMA is never granted on a page that does not have its bytes, although another pin
/// that covers it whole made it writable (R6).
#[test]
fn a_part_is_not_written_into_a_page_that_has_no_bytes() {
    explore("failing cover, partial pin", || {
        let world = World::new(Beginning::Unknown);
        let failing = thread(&world, |world| {
            world.place(0).pin_write(0, true).unwrap();
            world.place(0).undo(Pin::Write);
        });
        let refused = world.place(0).pin_write(0, false);
        assert_eq!(refused, Err(PinError::Blocked(Blocked::NotUptodate)));
        failing.join().unwrap();
        world.settle(0);
    });
}

/// I9: at no moment is a page dirty, with its pin returned or not, and missing from the index.
#[test]
fn what_is_dirty_is_in_the_index() {
    explore("slow pin, index", || {
        let world = World::new(Beginning::Uptodate);
        let device = thread(&world, |world| world.device_write(0, 2));
        if world.words[0].load().has(State::DIRTY) {
            assert!(world.is_in_dirty_index(), "I9");
        }
        device.join().unwrap().unwrap();
        world.settle(0);
    });
}

/// Each step is refused to whoever looked the frame up under another owner.
#[test]
fn guards_compare_the_generation() {
    explore("another generation", || {
        let world = World::new(Beginning::Unknown);
        let word = &world.words[0];
        assert_eq!(word.begin_fill(1), Err(Blocked::Generation));
        assert_eq!(word.grant_write(1, true).unwrap_err(), Blocked::Generation);
        let due = word.set_uptodate().unwrap();
        world.place(0).settle(due, None);
        assert_eq!(word.evict(1), Err(Blocked::Generation));
        world.dirty(1);
        assert_eq!(
            word.begin_writeback(1, Integrity, false),
            Err(Blocked::Generation)
        );
        assert_eq!(word.truncate(1), Err(Blocked::Generation));
        assert_eq!(world.device_write(1, 66), Err(PinError::Moved));
        assert_eq!(world.place(0).pin_read(1), Err(PinError::Moved));
        world.settle(0);
    });
}

/// R28: the frame is free only when no slot names it: who finds it there has a frame of its own.
#[test]
fn a_slot_never_names_a_freed_frame() {
    explore("truncate, lookup", || {
        let world = World::new(Beginning::Uptodate);
        let cut = thread(&world, |world| world.truncate(0));
        // SeqCst on the slot: this is the owner's own rule, and its own order.
        if world.is_attached() {
            assert!(world.is_attached_to_a_living_frame());
        }
        assert!(cut.join().unwrap());
    });
}

/// R18: whoever decides on a writeback sees all that was written under the pins that it no longer
/// finds. The bytes are a plain cell here: two that touch it without an order are an error.
#[test]
fn writeback_sees_what_was_written_under_the_pin() {
    explore("unpin, writeback, ordered", || {
        let world = World::new(Beginning::Uptodate);
        world.dirty(1);
        let device = thread(&world, |world| {
            if world.place(0).pin_write(0, false).is_ok() {
                world.write_cell();
                world.place(0).undo(Pin::Write);
            }
        });
        if world.words[0].begin_writeback(0, Integrity, false) == Ok(Direct) {
            world.read_cell();
            world.end_writeback(Direct, true);
        }
        device.join().unwrap();
    });
}

/// A pin sees what the fill before it brought, and comes after the reading of a direct writeback.
#[test]
fn a_pin_sees_what_a_fill_brought() {
    explore("fill, fast read pin, ordered", || {
        let world = World::new(Beginning::Fill);
        let filler = thread(&world, |world| {
            world.write_cell();
            world.finish_fill(0, true);
        });
        if world.place(0).pin_read(0).is_ok() {
            world.read_cell();
            world.place(0).undo(Pin::Read);
        }
        filler.join().unwrap();
    });
}
