//! One request over several buffers: a header and its records lie apart in memory and next to each
//! other on the medium. And a part of a range: the record that is wanted, without those around it.
use std::error::Error;
use underpin::{Controller, ControllerOptions, DmaSpace, Lba, QueueOptions, Vectored};

fn main() -> Result<(), Box<dyn Error>> {
    let space = DmaSpace::new();
    let controller = Controller::open("emu:size=16m", &space, ControllerOptions::default())?;
    let namespace = controller.namespace(None)?;
    let mut queue = controller.queue_pair::<Vectored>(QueueOptions::default())?;

    // 40 bytes of header and four records of 246 bytes: 1024 bytes, two blocks, from five buffers
    // that begin anywhere. PRPs could not name that; the driver sends a scatter gather list.
    let mut parts = Vectored::new(&space);
    parts.push(space.alloc(40, 8)?)?;
    for _ in 0..4 {
        parts.push_part(space.alloc(512, 8)?, 13, 246)?;
    }
    parts.copy_from(0, b"header")?;
    for record in 0..4 {
        let text = format!("this is record {record}");
        parts.copy_from(40 + record * 246, text.as_bytes())?;
    }
    queue.run(namespace.write(Lba(8), 2)?, parts)?;
    println!("SGLs sent: {}", queue.stats().sgls);

    // The third record alone: the device drops what is skipped.
    let mut wanted = Vectored::new(&space);
    wanted.skip(40 + 2 * 246);
    wanted.push(space.alloc(246, 8)?)?;
    wanted.skip(246);
    let wanted = queue.run(namespace.read(Lba(8), 2)?, wanted)?;
    let mut text = [0; 16];
    wanted.copy_to(0, &mut text)?;
    println!("{}", String::from_utf8_lossy(&text));
    if &text != b"this is record 2" {
        return Err("another record was read".into());
    }
    Ok(())
}
