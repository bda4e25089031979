//! What a device says of itself, and what the driver made of it. Takes a device URL.
//!
//! Everything here comes from the device: text is escaped when it is displayed, and numbers were
//! checked where the driver relies on them. `underpin identify` shows every field.
use underpin::{Controller, ControllerOptions, DmaSpace};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1);
    let url = url.as_deref().unwrap_or("emu:ns=2,size=64m,ns2.lba=4096");
    let controller = Controller::open(url, &DmaSpace::isolated(), ControllerOptions::default())?;

    let page = controller.identify();
    println!(
        "{}: {}, serial {}, NVMe {}",
        controller.name(),
        page.mn(),
        page.sn(),
        controller.version()
    );
    println!(
        "{} I/O queue pairs, transfers to {} bytes, write cache {:?}, shadow doorbells {}",
        controller.granted_queues(),
        controller.max_transfer_bytes(),
        controller.write_cache(),
        controller.has_shadow_doorbells(),
    );
    for namespace in controller.namespaces() {
        if let Some(why) = namespace.unusable() {
            println!("namespace {}: unusable: {why}", namespace.nsid());
            continue;
        }
        let atomic = namespace.atomic_writes();
        println!(
            "{namespace}; writes of {} blocks are atomic, {} at power failure",
            atomic.normal_blocks, atomic.power_fail_blocks
        );
    }
    Ok(())
}
