//! The protocol of FUSE, as virtio-fs carries it (include/uapi/linux/fuse.h; VIRTIO 1.3, section 5.11.6.1).

pub(crate) mod abi;
mod reply;
mod request;

pub(crate) use reply::Reply;
pub(crate) use request::{Body, Request};
