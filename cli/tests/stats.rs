//! The libraries' figures as JSON are JSON, with the names of the structs' fields.
#![allow(clippy::unwrap_used, clippy::expect_used)]
use serde_json::Value;
use underpin::{Controller, ControllerOptions, DmaBuf, DmaSpace, Lba, PoolOptions, QueueOptions};

#[test]
fn figures_are_json() {
    let space = DmaSpace::new();
    // A name with all that JSON has to escape.
    let folder = tempfile::tempdir().unwrap();
    let url = format!(
        "emu:size=1m,fault=removed@op=read,file={}/a\"b\\c",
        folder.path().display()
    );
    let controller = Controller::open(&url, &space, ControllerOptions::default()).unwrap();
    let namespace = controller.namespace(None).unwrap();
    let mut queue = controller
        .queue_pair::<DmaBuf>(QueueOptions::default())
        .unwrap();
    let page = space.alloc(4096, 4096).unwrap();
    let page = queue
        .run(namespace.write(Lba(0), 8).unwrap(), page)
        .unwrap();
    queue
        .run(namespace.read(Lba(0), 8).unwrap(), page)
        .unwrap_err();
    let parse = |text: String| serde_json::from_str::<Value>(&text).unwrap();
    let found = parse(controller.stats().to_json());
    assert_eq!(found["device"], url);
    assert!(found["failure"].is_string());
    assert_eq!(
        (&found["io"]["writes"], &found["io"]["errors"]),
        (&1.into(), &1.into())
    );
    assert_eq!(found["queues"][0]["qid"], queue.qid().0);
    let own = parse(queue.stats().to_json());
    let names: Vec<_> = own
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert!(queue.stats().fields().map(|(name, _)| name).eq(names));
    assert!(
        parse(space.stats().to_json())["region_bytes"]
            .as_u64()
            .unwrap()
            > 0
    );
    let options = PoolOptions {
        buf_bytes: 512,
        count: 2,
    };
    let pool = space.pool("pool", options).unwrap();
    assert_eq!(parse(pool.stats().to_json())["count"], 2);
}
