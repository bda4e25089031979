//! Plain threads for applications and tests that need a second caller, not a task.
//! A simulated build has none: there one thread plays every part.

/// A thread that can be joined for its result.
///
/// ```
/// use underpin_rt::thread;
///
/// let other = thread::spawn("adder", || 2 + 2)?;
/// while !other.is_finished() {
///     thread::yield_now();
/// }
/// assert_eq!(other.join().expect("no panic"), 4);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct JoinHandle<T>(std::thread::JoinHandle<T>);

impl<T> JoinHandle<T> {
    /// Waits for the thread's end and gives its result, or what it panicked with.
    ///
    /// # Errors
    /// The panic's payload, as from [`std::thread::JoinHandle::join`].
    pub fn join(self) -> std::thread::Result<T> {
        self.0.join()
    }

    /// True when the thread has ended, so that [`join`](Self::join) would not wait.
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

/// Starts a thread called `name`.
///
/// # Errors
/// What the operating system says when it grants no further thread.
///
/// ```
/// use underpin_rt::thread;
///
/// let failed = thread::spawn("careless", || panic!("oh"))?;
/// assert!(failed.join().is_err());
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn spawn<T, F>(name: &str, body: F) -> std::io::Result<JoinHandle<T>>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map(JoinHandle)
}

/// Sleeps for at least `duration`; in a simulated build, lets virtual time pass.
///
/// ```
/// use std::time::Duration;
/// use underpin_rt::{Instant, thread};
///
/// let began = Instant::now();
/// thread::sleep(Duration::from_millis(1));
/// assert!(Instant::now().since(began) >= Duration::from_millis(1));
/// ```
pub fn sleep(duration: std::time::Duration) {
    #[cfg(not(underpin_sim))]
    std::thread::sleep(duration);
    #[cfg(underpin_sim)]
    {
        let until = crate::Instant::now() + duration;
        let _ = crate::wait(None, |now| (now >= until).then_some(()));
    }
}

/// Lets another thread of this processor run, if one wants to.
pub fn yield_now() {
    std::thread::yield_now();
}
