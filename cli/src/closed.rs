//! Whether the program was started without a standard output (`>&-`), which can only be seen
//! before the language's runtime starts: it puts /dev/null there, where every write succeeds.
use rustix::io::fcntl_getfd;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};

static OUTPUT_WAS_CLOSED: AtomicBool = AtomicBool::new(false);

extern "C" fn look_at_output() {
    // SAFETY: the descriptor is asked whether it is open and not used otherwise; nobody can close
    // it meanwhile, as there is one thread, and it is here.
    let stdout = unsafe { BorrowedFd::borrow_raw(1) };
    OUTPUT_WAS_CLOSED.store(fcntl_getfd(stdout).is_err(), Ordering::Relaxed);
}

// SAFETY: the section is a list of functions of this type, which the C library calls before
// `main`; this one makes a system call and needs nothing that has to be set up first.
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK_AT_OUTPUT: extern "C" fn() = look_at_output;

/// True when descriptor 1 was closed when the program began.
pub(crate) fn output_was_closed() -> bool {
    OUTPUT_WAS_CLOSED.load(Ordering::Relaxed)
}
