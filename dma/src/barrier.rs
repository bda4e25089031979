//! The one place that orders ring and register accesses against a device, for weak memory too.
//! Coherent DMA is assumed, as on every machine where VFIO works.
#![allow(unsafe_code)]

/// Writes before it reach the device's view of memory before writes after it: entries before
/// the doorbell. The counterpart of Linux's `dma_wmb` and, before a mapped doorbell, `wmb`.
///
/// ```
/// use std::sync::atomic::Ordering::Relaxed;
/// use underpin_dma::{DmaSpace, barrier};
///
/// # let memory = DmaSpace::new().alloc(4096, 4096)?;
/// let (entry, doorbell) = (memory.view().part(0, 64)?, memory.view().part(64, 4)?);
/// entry.copy_from(0, &[1; 64])?;
/// barrier::write();
/// doorbell.store_u32(0, 1, Relaxed)?; // Who sees this sees the entry.
/// # assert_eq!(doorbell.load_u32(0, Relaxed)?, 1);
/// # Ok::<(), underpin_dma::Error>(())
/// ```
#[inline(always)]
pub fn write() {
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a barrier touches no memory.
    unsafe {
        std::arch::asm!("dsb st", options(nostack, preserves_flags));
    }
    #[cfg(target_arch = "riscv64")]
    // SAFETY: a barrier touches no memory.
    unsafe {
        std::arch::asm!("fence w, ow", options(nostack, preserves_flags));
    }
    // x86-64 keeps stores in order, also from write-back memory to uncached registers; only the
    // compiler must be held back. Others get the strongest fence the language has.
    #[cfg(target_arch = "x86_64")]
    std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::Release);
    #[cfg(not(any(
        target_arch = "x86_64",
        target_arch = "aarch64",
        target_arch = "riscv64"
    )))]
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
}

/// Reads before it are done before reads after it: the phase before the rest of a completion,
/// a completion before the data it announces. Linux's `dma_rmb`.
///
/// ```
/// use std::sync::atomic::Ordering::Relaxed;
/// use underpin_dma::{DmaSpace, barrier};
///
/// # let memory = DmaSpace::new().alloc(16, 64)?;
/// # memory.view().store_u32(12, 1 << 16, Relaxed)?;
/// let completion = memory.view();
/// let has_new_phase = completion.load_u32(12, Relaxed)? & 1 << 16 != 0;
/// barrier::read();
/// // Not before the phase, whatever the processor would like to do early.
/// let dword0 = completion.load_u32(0, Relaxed)?;
/// # assert!(has_new_phase && dword0 == 0);
/// # Ok::<(), underpin_dma::Error>(())
/// ```
#[inline(always)]
pub fn read() {
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a barrier touches no memory.
    unsafe {
        std::arch::asm!("dmb oshld", options(nostack, preserves_flags));
    }
    #[cfg(target_arch = "riscv64")]
    // SAFETY: a barrier touches no memory.
    unsafe {
        std::arch::asm!("fence r, r", options(nostack, preserves_flags));
    }
    #[cfg(target_arch = "x86_64")]
    std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::Acquire);
    #[cfg(not(any(
        target_arch = "x86_64",
        target_arch = "aarch64",
        target_arch = "riscv64"
    )))]
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
}

/// Everything before it is seen by all before anything after it: a shadow doorbell is visible
/// before its EventIdx is read, on both sides of the sleep protocol (NVMe Base 2.0, 5.8 and
/// Annex B.5). Costs a locked instruction on x86-64, so it is used once per batch.
///
/// ```
/// use std::sync::atomic::Ordering::Relaxed;
/// use underpin_dma::{DmaSpace, Word32, barrier};
///
/// # let memory = DmaSpace::new().alloc(64, 64)?;
/// let shadow = Word32::new(&memory.slice()?, 0)?;
/// let event_idx = Word32::new(&memory.slice()?, 4)?;
/// shadow.store(5, Relaxed);
/// barrier::full();
/// let is_asleep = event_idx.load(Relaxed) == 4; // The device said that it sleeps from 4 on.
/// # assert!(!is_asleep);
/// # Ok::<(), underpin_dma::Error>(())
/// ```
#[inline(always)]
pub fn full() {
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    #[cfg(target_arch = "aarch64")]
    // SAFETY: a barrier touches no memory. `dmb osh` also orders against devices.
    unsafe {
        std::arch::asm!("dmb osh", options(nostack, preserves_flags));
    }
}

/// Fetches the line of `value` to be written soon. Only a hint; nothing is changed by it.
#[inline(always)]
pub(crate) fn prefetch_to_write<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch of any address has no effect but on caches, and this one is valid.
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) value, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}
