//! Several requests in flight on one connection, from several threads.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use support::Bytes;
use underpin_dma::rt;
use underpin_vfio_user::{Client, ClientOptions, DmaMap, Error, Listener, ServerOptions};

/// Requests of several threads on one connection: each gets its own reply.
#[test]
fn many_requests_are_in_flight_and_none_gets_anothers_reply() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let (stop, stopped) = UnixStream::pair().unwrap();
    let listener = Listener::bind(&path).unwrap();
    let server = rt::thread::spawn("server", move || {
        let mut device = Bytes::new();
        device.bytes = (0..4096_u32)
            .flat_map(|at| [at as u8, (at >> 8) as u8])
            .collect();
        listener
            .serve(&mut device, ServerOptions::default(), stopped.as_fd())
            .unwrap();
        device.maps.len()
    })
    .unwrap();
    let client = Client::connect(&path, ClientOptions::default()).unwrap();
    let client = std::sync::Arc::new(client);
    let workers: Vec<_> = (0..4_u64)
        .map(|worker| {
            let client = std::sync::Arc::clone(&client);
            rt::thread::spawn("client", move || {
                let null = std::fs::File::open("/dev/null").unwrap();
                for round in 0..200_u64 {
                    let at = (worker * 1000 + round) % 4096;
                    let mut bytes = [0; 2];
                    client.region_read(0, 2 * at, &mut bytes).unwrap();
                    assert_eq!(u64::from(u16::from_le_bytes(bytes)), at);
                    let map = DmaMap {
                        address: (worker << 32) + (round << 12),
                        size: 0x1000,
                        ..DmaMap::default()
                    };
                    client.dma_map(&map, null.as_fd()).unwrap();
                    client.dma_unmap(map.address, map.size).unwrap();
                }
            })
            .unwrap()
        })
        .collect();
    workers
        .into_iter()
        .for_each(|worker| worker.join().unwrap());
    (&stop).write_all(&[1]).unwrap();
    assert_eq!(server.join().unwrap(), 0, "everything was given back");
    // Its server has gone: an error of the right kind, also for what was never answered.
    let error = client.region_read(0, 0, &mut [0; 4]).unwrap_err();
    assert_eq!(error, Error::Closed);
    assert!(client.has_ended());
    client.end().unwrap();
}
