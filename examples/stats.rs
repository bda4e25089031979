//! What was counted: on a queue, on its controller, in the space and in a pool; as structs to read
//! in the program, and as JSON for whatever collects figures.
use underpin::{
    Controller, ControllerOptions, DmaBuf, DmaSpace, Lba, PoolOptions, QueueOptions, QueuePair,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let space = DmaSpace::new();
    // The third read of this device fails.
    let url = "emu:size=64m,fault=status:0x281@op=read+nth=3";
    let controller = Controller::open(url, &space, ControllerOptions::default())?;
    let namespace = controller.namespace(None)?;
    let mut queue: QueuePair<DmaBuf> = controller.queue_pair(QueueOptions::default())?;
    let pool = space.pool(
        "pages",
        PoolOptions {
            buf_bytes: 4096,
            count: 8,
        },
    )?;

    for at in 0..8 {
        queue.submit(namespace.write(Lba(8 * at), 8)?, pool.alloc()?)?;
    }
    assert!(pool.try_alloc().is_none(), "all eight are on their way");
    while queue.in_flight() > 0 {
        queue.poll(8, |completion| drop(completion.buffer));
    }
    let mut failed = 0;
    for at in 0..8 {
        let read = queue.run(namespace.read(Lba(8 * at), 8)?, pool.alloc()?);
        failed += u64::from(read.is_err());
    }

    let stats = queue.stats();
    println!(
        "queue {}: {} writes and {} reads, {} failed, {} rings for {} commands",
        queue.qid(),
        stats.writes,
        stats.reads,
        stats.errors,
        stats.rings,
        stats.commands,
    );
    assert_eq!((stats.writes, stats.reads, stats.errors), (8, 8, failed));
    assert_eq!(stats.written_bytes, 8 * 4096);

    let device = controller.stats();
    for error in &device.errors {
        println!("{}: {} times", error.status, error.count);
    }
    println!("{}", device.to_json());
    println!("{}", space.stats().to_json());
    println!("{}", pool.stats().to_json());
    Ok(())
}
