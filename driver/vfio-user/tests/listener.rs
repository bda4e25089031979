//! Servers that start at the same path at the same time.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use underpin_dma::rt::thread;
use underpin_vfio_user::{Error, Listener};

/// One of them has the socket, whatever an ended server left there, and the other is told so: it
/// does not take the first one's socket for a stale one.
#[test]
fn of_two_that_start_together_one_listens() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    for round in 0..500 {
        drop(UnixListener::bind(&path).unwrap());
        let ready = Arc::new(AtomicUsize::new(0));
        let starting = || {
            let (path, ready) = (path.clone(), Arc::clone(&ready));
            let start = move || {
                ready.fetch_add(1, Ordering::Relaxed);
                while ready.load(Ordering::Relaxed) < 2 {
                    thread::yield_now();
                }
                Listener::bind(&path)
            };
            thread::spawn("server", start).unwrap()
        };
        let started = [(); 2]
            .map(|()| starting())
            .map(|server| server.join().unwrap());
        let listening = started.iter().filter(|bound| bound.is_ok()).count();
        let told = |error: &Error| matches!(error, Error::InUse { .. });
        let mut refused = started.iter().filter_map(|bound| bound.as_ref().err());
        assert!(refused.all(told), "round {round}: {started:?}");
        assert_eq!(listening, 1, "round {round}: {started:?}");
        UnixStream::connect(&path).expect("the one that listens is the one that is found");
        drop(started);
        assert!(!path.exists(), "round {round}");
    }
}
