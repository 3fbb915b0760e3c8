//! eventfds that KVM waits for and signals by itself.
#![allow(unsafe_code, reason = "kvm-ioctls wants a descriptor in a type of its own")]

use std::os::fd::{BorrowedFd, FromRawFd, IntoRawFd};

use kvm_ioctls::{IoEventAddress, NoDatamatch};
use viv_engine::{Doorbell, EngineError, MessageRoute, Msi, Shortcuts};
use vmm_sys_util::eventfd::EventFd;

use crate::error;
use crate::vm::KvmVm;

impl Shortcuts for KvmVm {
    fn attach_doorbell(&self, doorbell: Doorbell, event: BorrowedFd<'_>) -> Result<(), EngineError> {
        self.fd
            .register_ioevent(&eventfd(event)?, &address(doorbell), NoDatamatch)
            .map_err(error::host("have KVM signal a doorbell"))
    }

    fn detach_doorbell(&self, doorbell: Doorbell, event: BorrowedFd<'_>) -> Result<(), EngineError> {
        self.fd
            .unregister_ioevent(&eventfd(event)?, &address(doorbell), NoDatamatch)
            .map_err(error::host("take a doorbell from KVM"))
    }

    fn attach_message(&self, event: BorrowedFd<'_>, message: Msi) -> Result<MessageRoute, EngineError> {
        let event = eventfd(event)?;
        let mut routes = self.routes();
        let number = routes.add(&self.fd, message)?;
        if let Err(error) = self.fd.register_irqfd(&event, number) {
            routes.remove(&self.fd, number)?;
            return Err(error::host("have KVM send an event's message")(error));
        }
        Ok(MessageRoute(number))
    }

    fn change_message(&self, route: MessageRoute, message: Msi) -> Result<(), EngineError> {
        self.routes().change(&self.fd, route.0, message)
    }

    fn detach_message(&self, route: MessageRoute, event: BorrowedFd<'_>) -> Result<(), EngineError> {
        self.fd
            .unregister_irqfd(&eventfd(event)?, route.0)
            .map_err(error::host("take an event's message from KVM"))?;
        self.routes().remove(&self.fd, route.0)
    }
}

fn address(doorbell: Doorbell) -> IoEventAddress {
    match doorbell {
        Doorbell::Port(port) => IoEventAddress::Pio(port.into()),
        Doorbell::Memory(address) => IoEventAddress::Mmio(address),
    }
}

/// A handle to the same event in the type that `kvm-ioctls` takes.
fn eventfd(event: BorrowedFd<'_>) -> Result<EventFd, EngineError> {
    let copy = event
        .try_clone_to_owned()
        .map_err(|source| EngineError::Host { action: "duplicate an eventfd", source })?;
    // SAFETY: the descriptor is open, and nobody else's.
    Ok(unsafe { EventFd::from_raw_fd(copy.into_raw_fd()) })
}
