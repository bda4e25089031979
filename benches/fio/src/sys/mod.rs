//! The only place with `unsafe`: DMA-able host memory, pinned pages as a payload, the io_uring
//! queues, and the few system calls the standard library does not offer.

#[cfg(test)]
pub(crate) mod counting;
pub(crate) mod memory;
pub(crate) mod os;
pub(crate) mod pinned;
pub(crate) mod ring;
