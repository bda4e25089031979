//! The one copy from or to memory that a device may be writing (R23).
//! x86-64: `rep movsb`, opaque to the compiler and as fast as memcpy; elsewhere atomic words.
#![allow(unsafe_code)]

/// Copies `len` bytes. Bytes that a device writes meanwhile arrive old, new or mixed, never as
/// undefined behaviour: the compiler sees neither access.
///
/// # Safety
/// `src` is readable and `dst` writable for `len` bytes. Either may be memory that a device or
/// another process changes during the call; neither is borrowed by a Rust reference that the copy
/// would contradict. Where the two overlap, `dst` gets unspecified bytes of theirs.
#[inline]
pub(crate) unsafe fn copy(dst: *mut u8, src: *const u8, len: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller's ranges are valid; the direction flag is clear by the ABI.
    unsafe {
        std::arch::asm!(
            "rep movsb",
            inout("rcx") len => _,
            inout("rdi") dst => _,
            inout("rsi") src => _,
            options(nostack, preserves_flags)
        );
    }
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: the caller's ranges are valid for the same length.
    unsafe {
        copy_words(dst, src, len);
    }
}

/// Sets `len` bytes to `byte`.
///
/// # Safety
/// `dst` is writable for `len` bytes; a device may change it during the call.
#[inline]
pub(crate) unsafe fn fill(dst: *mut u8, byte: u8, len: usize) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the caller's range is valid; the direction flag is clear by the ABI.
    unsafe {
        std::arch::asm!(
            "rep stosb",
            inout("rcx") len => _,
            inout("rdi") dst => _,
            in("al") byte,
            options(nostack, preserves_flags)
        );
    }
    #[cfg(not(target_arch = "x86_64"))]
    for at in 0..len {
        use std::sync::atomic::{AtomicU8, Ordering};
        // SAFETY: the caller's range is valid; a byte is always aligned.
        unsafe { AtomicU8::from_ptr(dst.add(at)) }.store(byte, Ordering::Relaxed);
    }
}

/// The portable copy: relaxed atomic words where both sides allow it, bytes elsewhere. Built
/// on x86-64 too, so that it is tested there.
///
/// # Safety
/// As for [`copy`].
#[cfg(any(test, not(target_arch = "x86_64")))]
unsafe fn copy_words(dst: *mut u8, src: *const u8, len: usize) {
    use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
    const WORD: usize = size_of::<usize>();
    let mut at = 0;
    while at < len {
        // SAFETY: `at` stays below `len`, within both ranges; a word is taken only where both
        // pointers are aligned for it and `WORD` bytes are left.
        unsafe {
            let (to, from) = (dst.add(at), src.add(at).cast_mut());
            if (to.addr() | from.addr()).is_multiple_of(WORD) && len - at >= WORD {
                let word = AtomicUsize::from_ptr(from.cast()).load(Ordering::Relaxed);
                AtomicUsize::from_ptr(to.cast()).store(word, Ordering::Relaxed);
                at += WORD;
            } else {
                let byte = AtomicU8::from_ptr(from).load(Ordering::Relaxed);
                AtomicU8::from_ptr(to).store(byte, Ordering::Relaxed);
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    /// Both copies move exactly the bytes asked for, at every alignment, and touch no others.
    #[test]
    fn copies_are_exact_at_every_alignment() {
        let src: Vec<u8> = (0..200_u8).collect();
        for copy in [super::copy as unsafe fn(_, _, _), super::copy_words] {
            for from in 0..17 {
                for to in 0..17 {
                    for len in [0, 1, 7, 8, 9, 63, 64, 150] {
                        let mut dst = vec![0xee; 200];
                        // SAFETY: both vectors hold 200 bytes, and 16 + 150 < 200.
                        unsafe { copy(dst.as_mut_ptr().add(to), src.as_ptr().add(from), len) };
                        assert_eq!(dst[to..to + len], src[from..from + len]);
                        assert!(dst[..to].iter().all(|&byte| byte == 0xee));
                        assert!(dst[to + len..].iter().all(|&byte| byte == 0xee));
                    }
                }
            }
        }
    }

    #[test]
    fn fill_is_exact() {
        let mut dst = vec![1; 100];
        // SAFETY: 10 + 50 < 100.
        unsafe { super::fill(dst.as_mut_ptr().add(10), 9, 50) };
        assert!(dst[10..60].iter().all(|&byte| byte == 9));
        assert!(dst[..10].iter().chain(&dst[60..]).all(|&byte| byte == 1));
    }
}
