//! A Unix socket as the host's end of a guest's connection.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use viv_devices::virtio::{Gone, Input, VsockStream};

/// A socket that somebody on the host has the other end of.
pub(super) struct SocketStream {
    socket: Arc<OwnedFd>,
}

impl SocketStream {
    pub(super) fn new(socket: Arc<OwnedFd>) -> Self {
        Self { socket }
    }
}

impl VsockStream for SocketStream {
    fn accepted(&mut self, host_port: u32) {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        // Nothing was sent before, so there is room; a peer that has gone is noticed by what comes next.
        let _ = send(&self.socket, format!("OK {host_port}\n").as_bytes(), flags);
    }

    fn write(&mut self, data: &[u8]) -> Result<usize, Gone> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match rustix::io::retry_on_intr(|| send(&self.socket, data, flags)) {
            Ok(count) => Ok(count),
            Err(Errno::AGAIN) => Ok(0),
            Err(_) => Err(Gone),
        }
    }

    fn read(&mut self, data: &mut [u8]) -> Input {
        match rustix::io::retry_on_intr(|| recv(&self.socket, &mut *data, RecvFlags::DONTWAIT)) {
            Ok((count @ 1.., _)) => Input::Bytes(count),
            Err(Errno::AGAIN) => Input::Nothing,
            // An error is of a peer that has gone.
            Ok(_) | Err(_) => Input::End,
        }
    }

    fn is_gone(&self) -> bool {
        let mut fds = [PollFd::new(&*self.socket, PollFlags::empty())];
        let polled = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        let [fd] = &fds;
        polled.is_ok() && fd.revents().intersects(PollFlags::HUP | PollFlags::ERR)
    }

    // Either fails only on a socket whose peer has gone, who needs not be told.
    fn end_output(&mut self) {
        let _ = shutdown(&self.socket, Shutdown::Write);
    }

    fn end_input(&mut self) {
        let _ = shutdown(&self.socket, Shutdown::Read);
    }
}
