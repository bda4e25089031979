//! BAR0 as host and controller share it: registers and doorbells as atomics, and the wake-up.
//! A host's write only stores and wakes; what it means is decided by the controller's step.
use crate::doorbells::DoorbellPage;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use underpin_dma::rt::Waker;
use underpin_dma::rt::sync::{Mutex, OnceLock};
use underpin_nvme_spec::registers::{Aqa, Cap, Cc, Crto, Csts, Vs, offset};

/// One doorbell: the value last written, and whether its queue exists.
#[derive(Debug, Default)]
struct Doorbell {
    value: AtomicU32,
    live: AtomicBool,
}

/// The registers of one controller.
#[derive(Debug)]
pub(crate) struct Bar {
    cap: Cap,
    vs: Vs,
    crto: Crto,
    cc: AtomicU32,
    csts: AtomicU32,
    intms: AtomicU32,
    aqa: AtomicU32,
    asq: AtomicU64,
    acq: AtomicU64,
    /// How often CC.EN went from 1 to 0: a reset is not missed when EN is set again at once.
    resets: AtomicU32,
    /// Moves with every write of CC, and whatever else the controller is to look at, afterwards.
    control: AtomicU32,
    /// The `control` that the controller has followed.
    followed: AtomicU32,
    /// Doorbells that a peer writes without a message; each queue looks for them when it is new.
    page: Mutex<Option<Arc<DoorbellPage>>>,
    /// Somebody may write the page: it is to be looked at from time to time.
    watched: AtomicBool,
    doorbells: Vec<Doorbell>,
    stride_bytes: usize,
    /// Shadow doorbells are in use.
    pub(crate) shadowed: AtomicBool,
    /// The device is gone: reads answer all ones, writes go nowhere.
    removed: AtomicBool,
    /// A removed device reads as zero, not as ones.
    reads_zero: AtomicBool,
    /// It is gone because the power failed.
    powered_off: AtomicBool,
    waker: OnceLock<Waker>,
    pub(crate) doorbell_writes: AtomicU64,
    pub(crate) kicks: AtomicU64,
    pub(crate) invalid_doorbells: AtomicU64,
}

impl Bar {
    /// `queues` counts queue pairs, the admin one included.
    pub(crate) fn new(cap: Cap, vs: Vs, crto: Crto, queues: usize) -> Self {
        Self {
            cap,
            vs,
            crto,
            cc: AtomicU32::new(0),
            csts: AtomicU32::new(0),
            intms: AtomicU32::new(0),
            aqa: AtomicU32::new(0),
            asq: AtomicU64::new(0),
            acq: AtomicU64::new(0),
            resets: AtomicU32::new(0),
            control: AtomicU32::new(0),
            followed: AtomicU32::new(0),
            page: Mutex::new(None),
            watched: AtomicBool::new(false),
            doorbells: (0..2 * queues).map(|_| Doorbell::default()).collect(),
            stride_bytes: cap.doorbell_stride_bytes(),
            shadowed: AtomicBool::new(false),
            removed: AtomicBool::new(false),
            reads_zero: AtomicBool::new(false),
            powered_off: AtomicBool::new(false),
            waker: OnceLock::new(),
            doorbell_writes: AtomicU64::new(0),
            kicks: AtomicU64::new(0),
            invalid_doorbells: AtomicU64::new(0),
        }
    }

    pub(crate) fn set_waker(&self, waker: Waker) {
        let _ = self.waker.set(waker);
    }

    pub(crate) fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake();
        }
    }

    // The host's side.

    pub(crate) fn read32(&self, at: usize) -> u32 {
        let low = |value: u64| value as u32;
        let high = |value: u64| (value >> 32) as u32;
        if self.is_removed() && self.reads_zero.load(Ordering::Relaxed) {
            return 0;
        }
        if self.is_removed() || !at.is_multiple_of(4) {
            return u32::MAX;
        }
        const CAP_HIGH: usize = offset::CAP + 4;
        const ASQ_HIGH: usize = offset::ASQ + 4;
        const ACQ_HIGH: usize = offset::ACQ + 4;
        match at {
            offset::CAP => low(self.cap.0),
            CAP_HIGH => high(self.cap.0),
            offset::VS => self.vs.0,
            offset::INTMS | offset::INTMC => self.intms.load(Ordering::Relaxed),
            offset::CC => self.cc.load(Ordering::Relaxed),
            offset::CSTS => self.csts.load(Ordering::Acquire),
            offset::AQA => self.aqa.load(Ordering::Relaxed),
            offset::ASQ => low(self.asq.load(Ordering::Relaxed)),
            ASQ_HIGH => high(self.asq.load(Ordering::Relaxed)),
            offset::ACQ => low(self.acq.load(Ordering::Relaxed)),
            ACQ_HIGH => high(self.acq.load(Ordering::Relaxed)),
            offset::CRTO => self.crto.0,
            // Reserved and unsupported registers, and doorbells: reads of these have no meaning.
            _ => 0,
        }
    }

    pub(crate) fn read64(&self, at: usize) -> u64 {
        let low = u64::from(self.read32(at));
        low | u64::from(self.read32(at.wrapping_add(4))) << 32
    }

    pub(crate) fn write32(&self, at: usize, value: u32) {
        if self.is_removed() || !at.is_multiple_of(4) {
            return;
        }
        const ASQ_HIGH: usize = offset::ASQ + 4;
        const ACQ_HIGH: usize = offset::ACQ + 4;
        match at {
            offset::CC => self.write_cc(value),
            offset::INTMS => {
                self.intms.fetch_or(value, Ordering::Relaxed);
            }
            offset::INTMC => {
                self.intms.fetch_and(!value, Ordering::Relaxed);
            }
            offset::AQA => self.aqa.store(value, Ordering::Relaxed),
            offset::ASQ => set_half(&self.asq, value, 0),
            ASQ_HIGH => set_half(&self.asq, value, 32),
            offset::ACQ => set_half(&self.acq, value, 0),
            ACQ_HIGH => set_half(&self.acq, value, 32),
            _ => {
                if let Some(at) = at.checked_sub(offset::DOORBELLS) {
                    self.write_doorbell(at, value);
                }
            }
        }
    }

    pub(crate) fn write64(&self, at: usize, value: u64) {
        self.write32(at, value as u32);
        self.write32(at.wrapping_add(4), (value >> 32) as u32);
    }

    fn write_cc(&self, value: u32) {
        // AQA, ASQ and ACQ, written before, are seen by whoever sees the new `control`.
        let before = Cc(self.cc.swap(value, Ordering::AcqRel));
        if before.en() && !Cc(value).en() {
            self.resets.fetch_add(1, Ordering::Release);
        }
        self.control.fetch_add(1, Ordering::Release);
        self.wake();
    }

    fn write_doorbell(&self, at: usize, value: u32) {
        self.doorbell_writes.fetch_add(1, Ordering::Relaxed);
        let index = at / self.stride_bytes;
        let bell = self.doorbells.get(index);
        let bell = bell.filter(|bell| {
            at.is_multiple_of(self.stride_bytes) && bell.live.load(Ordering::Acquire)
        });
        let Some(bell) = bell else {
            // Base 2.0, 3.3.1.4: an Invalid Doorbell Register error event; counted here.
            self.invalid_doorbells.fetch_add(1, Ordering::Relaxed);
            return;
        };
        bell.value.store(value, Ordering::Release);
        if let Some(page) = &*self.page.lock() {
            page.store(index, value);
        }
        if index >= 2 && self.shadowed.load(Ordering::Relaxed) {
            self.kicks.fetch_add(1, Ordering::Relaxed);
        }
        self.wake();
    }

    // The controller's side.

    #[inline(always)]
    pub(crate) fn control(&self) -> u32 {
        self.control.load(Ordering::Acquire)
    }

    /// The controller has done what `control` asked for.
    pub(crate) fn set_followed(&self, control: u32) {
        self.followed.store(control, Ordering::Release);
    }

    /// True when nothing that was written to CC is still to be followed.
    pub(crate) fn is_followed(&self) -> bool {
        self.followed.load(Ordering::Acquire) == self.control()
    }

    /// How many doorbells there are.
    pub(crate) const fn doorbell_count(&self) -> usize {
        self.doorbells.len()
    }

    pub(crate) const fn stride_bytes(&self) -> usize {
        self.stride_bytes
    }

    /// The page that queues made from now on look at, in place of the registers.
    pub(crate) fn set_page(&self, page: Option<Arc<DoorbellPage>>) {
        self.watched.store(false, Ordering::Relaxed);
        *self.page.lock() = page;
    }

    pub(crate) fn page(&self) -> Option<Arc<DoorbellPage>> {
        self.page.lock().clone()
    }

    /// A peer has the page and writes it whenever it likes.
    pub(crate) fn watch_page(&self) {
        self.watched.store(true, Ordering::Relaxed);
        self.wake();
    }

    #[inline]
    pub(crate) fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Relaxed)
    }

    pub(crate) fn resets(&self) -> u32 {
        self.resets.load(Ordering::Acquire)
    }

    pub(crate) fn cc(&self) -> Cc {
        Cc(self.cc.load(Ordering::Acquire))
    }

    pub(crate) fn csts(&self) -> Csts {
        Csts(self.csts.load(Ordering::Relaxed))
    }

    /// All that the controller did before is seen by a host that reads the new status.
    pub(crate) fn set_csts(&self, csts: Csts) {
        self.csts.store(csts.0, Ordering::Release);
    }

    pub(crate) fn aqa(&self) -> Aqa {
        Aqa(self.aqa.load(Ordering::Relaxed))
    }

    pub(crate) fn asq(&self) -> u64 {
        self.asq.load(Ordering::Relaxed)
    }

    pub(crate) fn acq(&self) -> u64 {
        self.acq.load(Ordering::Relaxed)
    }

    pub(crate) const fn cap(&self) -> Cap {
        self.cap
    }

    /// Doorbell `index`: of submission queue y 2y, of completion queue y 2y + 1.
    #[inline(always)]
    pub(crate) fn doorbell(&self, index: usize) -> u32 {
        match self.doorbells.get(index) {
            Some(bell) => bell.value.load(Ordering::Acquire),
            None => 0,
        }
    }

    /// The doorbell's queue exists from now on, or no longer; its value is 0 either way.
    pub(crate) fn set_live(&self, index: usize, live: bool) {
        if let Some(bell) = self.doorbells.get(index) {
            bell.value.store(0, Ordering::Relaxed);
            if let Some(page) = &*self.page.lock() {
                page.store(index, 0);
            }
            bell.live.store(live, Ordering::Release);
        }
    }

    pub(crate) fn kill_doorbells(&self) {
        (0..self.doorbells.len()).for_each(|index| self.set_live(index, false));
        self.shadowed.store(false, Ordering::Relaxed);
    }

    /// The controller has something to look at that is no register.
    pub(crate) fn knock(&self) {
        self.control.fetch_add(1, Ordering::Release);
        self.wake();
    }

    pub(crate) fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Relaxed)
    }

    pub(crate) fn remove(&self) {
        self.removed.store(true, Ordering::Relaxed);
        // The controller has to be told, too.
        self.control.fetch_add(1, Ordering::Release);
    }

    /// When it is removed, registers read as zero.
    pub(crate) fn read_as_zero(&self) {
        self.reads_zero.store(true, Ordering::Relaxed);
    }

    /// It is gone for want of power: all that it did before is seen by who turns it on again.
    pub(crate) fn power_off(&self) {
        self.powered_off.store(true, Ordering::Release);
    }

    /// It cannot be turned on again.
    pub(crate) fn unplug(&self) {
        self.powered_off.store(false, Ordering::Relaxed);
    }

    /// Turns a device on whose power had failed: its registers are as after a reset. False when
    /// that was not what ailed it.
    pub(crate) fn power_on(&self) -> bool {
        if !self.powered_off.swap(false, Ordering::Acquire) {
            return false;
        }
        self.kill_doorbells();
        for register in [&self.cc, &self.csts, &self.intms, &self.aqa] {
            register.store(0, Ordering::Relaxed);
        }
        self.asq.store(0, Ordering::Relaxed);
        self.acq.store(0, Ordering::Relaxed);
        self.removed.store(false, Ordering::Relaxed);
        self.control.fetch_add(1, Ordering::Release);
        self.wake();
        true
    }
}

fn set_half(register: &AtomicU64, value: u32, shift: u32) {
    let merge = |old: u64| Some(old & !(u64::from(u32::MAX) << shift) | u64::from(value) << shift);
    // Always `Some`, so it always succeeds.
    let _ = register.fetch_update(Ordering::Relaxed, Ordering::Relaxed, merge);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar() -> Bar {
        let cap = Cap(0).with_mqes(63).with_dstrd(1);
        Bar::new(cap, Vs::new(2, 0, 0), Crto(0), 3)
    }

    #[test]
    fn halves_make_a_whole_and_masks_set_and_clear() {
        let bar = bar();
        bar.write64(offset::ASQ, 0x1122_3344_5566_7000);
        bar.write32(offset::ACQ + 4, 0x99);
        assert_eq!(bar.read64(offset::ASQ), 0x1122_3344_5566_7000);
        assert_eq!(bar.acq(), 0x99 << 32);
        bar.write32(offset::INTMS, 0b111);
        bar.write32(offset::INTMC, 0b010);
        assert_eq!(bar.read32(offset::INTMS), 0b101);
        assert_eq!(bar.read64(offset::CAP), bar.cap.0);
    }

    /// A reset between two looks of the controller is not lost though EN is 1 at both.
    #[test]
    fn a_short_reset_is_seen() {
        let bar = bar();
        let cc = Cc(0).with_en(true);
        bar.write32(offset::CC, cc.0);
        let (control, resets) = (bar.control(), bar.resets());
        bar.write32(offset::CC, 0);
        bar.write32(offset::CC, cc.0);
        assert!(bar.cc().en() && bar.control() != control && bar.resets() == resets + 1);
    }

    /// A doorbell counts only while its queue exists and at its stride.
    #[test]
    fn doorbells_without_a_queue_are_counted_and_dropped() {
        let bar = bar();
        bar.write32(0x1000, 5);
        assert_eq!(bar.doorbell(0), 0);
        bar.set_live(0, true);
        bar.write32(0x1000, 5);
        assert_eq!(bar.doorbell(0), 5);
        bar.write32(0x1004, 6);
        bar.write32(0x1000 + 6 * 8, 6);
        bar.write32(usize::MAX - 3, 6);
        assert_eq!(bar.invalid_doorbells.load(Ordering::Relaxed), 4);
        bar.remove();
        assert_eq!(bar.read64(offset::CAP), u64::MAX);
    }
}
