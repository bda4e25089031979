//! System calls without a face in the standard library: thread CPU time and
//! resource usage, dropping the page cache, preallocation, civil local time.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};

/// What the kernel has charged to one thread.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) user_us: u64,
    pub(crate) system_us: u64,
    pub(crate) context_switches: u64,
    pub(crate) minor_faults: u64,
    pub(crate) major_faults: u64,
    /// CPU time of the thread at nanosecond resolution.
    pub(crate) cpu_ns: u64,
}

impl Usage {
    /// What was used between `earlier` and `self`.
    pub(crate) fn since(&self, earlier: &Usage) -> Usage {
        Usage {
            user_us: self.user_us.saturating_sub(earlier.user_us),
            system_us: self.system_us.saturating_sub(earlier.system_us),
            context_switches: self
                .context_switches
                .saturating_sub(earlier.context_switches),
            minor_faults: self.minor_faults.saturating_sub(earlier.minor_faults),
            major_faults: self.major_faults.saturating_sub(earlier.major_faults),
            cpu_ns: self.cpu_ns.saturating_sub(earlier.cpu_ns),
        }
    }

    /// Adds what another thread used.
    pub(crate) fn add(&mut self, other: &Usage) {
        self.user_us += other.user_us;
        self.system_us += other.system_us;
        self.context_switches += other.context_switches;
        self.minor_faults += other.minor_faults;
        self.major_faults += other.major_faults;
        self.cpu_ns += other.cpu_ns;
    }
}

/// Usage of the calling thread so far.
pub(crate) fn thread_usage() -> Usage {
    let mut raw = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: `raw` is a valid place for one rusage; all-zero is a valid
    // rusage, so it may be read whether or not the call succeeds.
    let raw = unsafe {
        libc::getrusage(libc::RUSAGE_THREAD, raw.as_mut_ptr());
        raw.assume_init()
    };
    let mut cpu = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: as above, for one timespec.
    let cpu = unsafe {
        libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, cpu.as_mut_ptr());
        cpu.assume_init()
    };
    let whole = |value: i64| u64::try_from(value).unwrap_or(0);
    let micros = |time: libc::timeval| whole(time.tv_sec) * 1_000_000 + whole(time.tv_usec);
    Usage {
        user_us: micros(raw.ru_utime),
        system_us: micros(raw.ru_stime),
        context_switches: whole(raw.ru_nvcsw) + whole(raw.ru_nivcsw),
        minor_faults: whole(raw.ru_minflt),
        major_faults: whole(raw.ru_majflt),
        cpu_ns: whole(cpu.tv_sec) * 1_000_000_000 + whole(cpu.tv_nsec),
    }
}

/// Asks the kernel to forget the cached pages of `[offset, offset + len)`.
pub(crate) fn drop_cached_pages(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let (Ok(offset), Ok(len)) = (i64::try_from(offset), i64::try_from(len)) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    // SAFETY: plain integers and a descriptor that `file` keeps open.
    let code =
        unsafe { libc::posix_fadvise(file.as_raw_fd(), offset, len, libc::POSIX_FADV_DONTNEED) };
    if code == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(code))
    }
}

/// Reserves blocks so that the file is `len_bytes` long; false where the
/// filesystem cannot.
pub(crate) fn preallocate(file: &File, len_bytes: u64) -> io::Result<bool> {
    let Ok(len) = i64::try_from(len_bytes) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    // SAFETY: plain integers and a descriptor that `file` keeps open.
    let code = unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, len) };
    if code == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL) => Ok(false),
        _ => Err(error),
    }
}

/// Local time in the shape of `ctime`: `Sun Nov 22 16:00:46 2026`.
pub(crate) fn local_time_text(seconds: u64) -> String {
    let Ok(time) = libc::time_t::try_from(seconds) else {
        return String::new();
    };
    let mut parts = MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both pointers are to live values of the right type; an all-zero
    // tm is valid to read if the call fails.
    let parts = unsafe {
        libc::localtime_r(&raw const time, parts.as_mut_ptr());
        parts.assume_init()
    };
    const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let name = |table: &[&'static str], index: libc::c_int| {
        usize::try_from(index)
            .ok()
            .and_then(|index| table.get(index).copied())
            .unwrap_or("???")
    };
    format!(
        "{} {} {:2} {:02}:{:02}:{:02} {}",
        name(&DAYS, parts.tm_wday),
        name(&MONTHS, parts.tm_mon),
        parts.tm_mday,
        parts.tm_hour,
        parts.tm_min,
        parts.tm_sec,
        parts.tm_year + 1900,
    )
}

/// Set before `main` when the program was started with descriptor 1 closed.
static OUTPUT_WAS_CLOSED: AtomicBool = AtomicBool::new(false);

/// Looks at descriptor 1 before the runtime does: that opens /dev/null in the place of a closed
/// one, and all that is written later goes there without an error.
extern "C" fn look_at_output() {
    // SAFETY: plain integers; nothing is changed.
    let closed = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) } == -1;
    OUTPUT_WAS_CLOSED.store(closed, Ordering::Relaxed);
}

// SAFETY: the section is a list of functions of this type, which the C library calls before
// `main`; this one uses nothing that has to be set up first.
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK_AT_OUTPUT: extern "C" fn() = look_at_output;

/// Whether the program was started without a standard output (`>&-`).
pub(crate) fn output_was_closed() -> bool {
    OUTPUT_WAS_CLOSED.load(Ordering::Relaxed)
}

/// The bounded seam for `O_DIRECT`, whose value differs between architectures.
pub(crate) const DIRECT_IO: i32 = libc::O_DIRECT;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The report divides by CPU time, so it has to move when a thread works.
    #[test]
    fn cpu_time_of_a_working_thread_grows() {
        let before = thread_usage();
        let mut sum = 0u64;
        while thread_usage().since(&before).cpu_ns < 1_000_000 {
            sum = sum.wrapping_mul(31).wrapping_add(7);
        }
        std::hint::black_box(sum);
        assert!(thread_usage().since(&before).cpu_ns >= 1_000_000);
    }

    /// Tools split the time text at spaces and expect five fields.
    #[test]
    fn local_time_has_the_shape_of_ctime() {
        let text = local_time_text(1_000_000_000);
        assert_eq!(text.split_whitespace().count(), 5, "{text}");
        assert!(text.ends_with("2001"), "{text}");
    }

    /// Laying out a file has to give it the length that the job will use.
    #[test]
    fn preallocation_sets_the_length_or_says_it_cannot() {
        let file = tempfile::tempfile().unwrap();
        if preallocate(&file, 65_536).unwrap() {
            assert_eq!(file.metadata().unwrap().len(), 65_536);
        }
        drop_cached_pages(&file, 0, 65_536).unwrap();
    }
}
