//! The smallest program: writes a block and reads it back. No device is needed; the README shows
//! the same lines, and `tests/quickstart` holds the two together.
use underpin::{Controller, ControllerOptions, DmaSpace, Lba, QueueOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let space = DmaSpace::new();
    let controller = Controller::open("emu:size=64m", &space, ControllerOptions::default())?;
    let namespace = controller.namespace(None)?;
    let mut queue = controller.queue_pair(QueueOptions::default())?;
    let mut page = space.alloc(4096, 4096)?;
    page.copy_from(0, b"hello, device")?;
    let page = queue.run(namespace.write(Lba(8), 8)?, page)?;
    let page = queue.run(namespace.read(Lba(8), 8)?, page)?;
    let mut text = [0; 13];
    page.copy_to(0, &mut text)?;
    println!("block 8 begins with {:?}", str::from_utf8(&text)?);
    Ok(())
}
