//! A device that misbehaves on request, to test what is built above it: a read that fails, and a
//! write whose completion never comes. Every outcome is a typed error; nothing hangs or panics.
use std::time::Duration;
use underpin::nvme::CommandError;
use underpin::{Controller, ControllerOptions, DmaSpace, Error, Lba, QueueOptions};

/// The third read ends with Unrecovered Read Error; the second write is carried out and lost.
const DEVICE: &str = "emu:size=1m,fault=status:0x281@op=read+nth=3,fault=drop@op=write+nth=2";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = ControllerOptions {
        command_timeout: Duration::from_millis(200),
        ..ControllerOptions::default()
    };
    let space = DmaSpace::new();
    let controller = Controller::open(DEVICE, &space, options)?;
    let namespace = controller.namespace(None)?;
    let mut queue = controller.queue_pair(QueueOptions::default())?;

    for attempt in 1..=4 {
        let page = space.alloc(4096, 4096)?;
        match queue.run(namespace.read(Lba(0), 8)?, page) {
            Ok(_) => println!("read {attempt}: fine"),
            Err(Error::Command(CommandError::Status { status, lba, .. })) => {
                println!("read {attempt}: {status} at {lba}; the next may go well");
            }
            Err(error) => return Err(error.into()),
        }
    }
    for attempt in 1..=2 {
        let page = space.alloc(4096, 4096)?;
        match queue.run(namespace.write(Lba(0), 8)?, page) {
            Ok(_) => println!("write {attempt}: fine"),
            // Whether it was carried out is not known, and the device may still read the page:
            // it stays in quarantine until the controller is closed.
            Err(Error::Command(CommandError::Lost(why))) => println!("write {attempt}: {why}"),
            Err(error) => return Err(error.into()),
        }
    }
    assert!(
        controller.failure().is_some(),
        "a late command fails the controller"
    );
    Ok(())
}
