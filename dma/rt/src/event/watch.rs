//! Lets go who signals an event whose descriptor a stranger holds, too, and is kept there.
//! One thread for the process, while there are such events; it looks once a second.
use super::{Event, Inner};
use crate::sync::Mutex;
use crate::{Instant, thread};
use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;

const LOOK: Duration = Duration::from_secs(1);
/// How long one event is tried at a look. The stranger would have to fill the counter again each
/// time before the signaller's thread has woken up.
const LET_GO: Duration = Duration::from_millis(500);

#[derive(Debug)]
struct Watch {
    events: Vec<Weak<Inner>>,
    /// There is a thread.
    runs: bool,
}

static WATCH: Mutex<Watch> = Mutex::new(Watch {
    events: Vec::new(),
    runs: false,
});

/// Watches an event until its last clone is dropped.
pub(super) fn begin(event: &Event) -> io::Result<()> {
    let mut watch = WATCH.lock();
    if !watch.runs {
        thread::spawn("event-watch", run)?;
        watch.runs = true;
    }
    watch.events.push(Arc::downgrade(&event.0));
    Ok(())
}

fn run() {
    loop {
        thread::sleep(LOOK);
        let events: Vec<Event> = {
            let mut watch = WATCH.lock();
            watch.events.retain(|event| event.strong_count() > 0);
            if watch.events.is_empty() {
                watch.runs = false;
                watch.events = Vec::new();
                return;
            }
            let there = watch.events.iter().filter_map(Weak::upgrade);
            there.map(Event).collect()
        };
        for event in &events {
            // Signals alone fill no counter in the life of a machine.
            if event.is_signalling() && event.is_full() {
                let deadline = Some(Instant::now() + LET_GO);
                let _ = crate::wait(deadline, |_now| {
                    // Whoever waits for room in the counter has it then, and what it adds stays.
                    if event.is_full() {
                        event.clear();
                    }
                    (!event.is_signalling()).then_some(())
                });
            }
        }
    }
}
