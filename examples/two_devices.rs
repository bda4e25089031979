//! One space, two devices: a buffer that one device has filled is written by the other from the
//! same memory, at the same IOVA. Nothing is copied, mapped or translated in between.
use underpin::{Controller, ControllerOptions, DmaSpace, Lba, QueueOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let space = DmaSpace::new();
    let source = Controller::open("emu:size=64m", &space, ControllerOptions::default())?;
    let mut from = source.queue_pair(QueueOptions::default())?;
    let mut page = space.alloc(4096, 4096)?;
    page.copy_from(0, b"passed on")?;
    let page = from.run(source.namespace(None)?.write(Lba(0), 8)?, page)?;

    // Devices may join late: what is mapped in the space by then is mapped for them too.
    let target = Controller::open(
        "emu:size=64m,lba=4096",
        &space,
        ControllerOptions::default(),
    )?;
    let mut to = target.queue_pair(QueueOptions::default())?;

    let page = from.run(source.namespace(None)?.read(Lba(0), 8)?, page)?;
    let iova = page.iova();
    let page = to.run(target.namespace(None)?.write(Lba(0), 1)?, page)?;
    assert_eq!(page.iova(), iova);

    // They may leave as well; the other goes on.
    drop((from, source));
    let page = to.run(target.namespace(None)?.read(Lba(0), 1)?, page)?;
    let mut text = [0; 9];
    page.copy_to(0, &mut text)?;
    println!("{:?}, through {iova}", str::from_utf8(&text)?);
    Ok(())
}
